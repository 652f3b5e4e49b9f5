"""Instructions that the source already parsed (`jsonParsed`, BigQuery) in the form this project's decoders give.

Belongs here: making the two agree to the letter. Does not belong here: decoding raw data (`blyan.solana.programs`).

Rules, each so that every node and every source gives the same row: a token amount keeps `amount` and `decimals` only
(nodes differ in the float beside them); `create` of an associated token account drops `rentSysvar` (nodes before 2022
named it); parameters are in the order of their names; values are canonical JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Raw

from blyan.errors import BadRecordError
from blyan.solana.programs import to_json, token_amount


class _Parsed(msgspec.Struct, gc=False):
    type: str
    info: dict[str, Raw] | None = None


_decode_all = msgspec.json.Decoder(list[_Parsed | str]).decode
_decode_any = msgspec.json.Decoder().decode


@dataclass(slots=True)
class Group:
    """Parsed instructions of one type with the same parameters.

    Attributes:
        text: a memo's text; such a group has no type, no parameters and one member.
        members: positions among the instructions given.
        columns: canonical JSON of each parameter, one list per name, one value per member.
    """

    program: str
    type: str | None
    text: str | None
    names: list[str]
    members: list[int] = field(default_factory=list)
    columns: list[list[bytes]] = field(default_factory=list)


def read_parsed(instructions: Sequence[tuple[str, Raw]]) -> list[Group]:
    """Group the `parsed` fields of some instructions, given with the names of their programs.

    Raises:
        BadRecordError: a field is neither an object of `type` and `info`, nor a memo's string.
    """
    try:
        parsed = _decode_all(b"[" + b",".join([raw for _, raw in instructions]) + b"]")
    except msgspec.DecodeError as error:
        raise BadRecordError(f"a parsed instruction cannot be read: {error}", reason="malformed_instruction") from error
    groups: dict[tuple[object, ...], tuple[Group, list[dict[str, Raw]]]] = {}
    for at, ((program, _), item) in enumerate(zip(instructions, parsed, strict=True)):
        if isinstance(item, str):
            groups[at,] = (Group(program, None, item, [], [at]), [])
            continue
        info = item.info or {}
        key = (program, item.type, *info)
        entry = groups.get(key)
        if entry is None:
            old_rent = program == "spl-associated-token-account" and item.type == "create"
            names = sorted(name for name in info if not (old_rent and name == "rentSysvar"))
            entry = groups[key] = (Group(program, item.type, None, names), [])
        entry[0].members.append(at)
        entry[1].append(info)
    canonical: dict[bytes, bytes] = {}
    for group, infos in groups.values():
        group.columns = [_canonical([bytes(info[name]) for info in infos], canonical) for name in group.names]
    return [group for group, _ in groups.values()]


def _canonical(column: list[bytes], known: dict[bytes, bytes]) -> list[bytes]:
    """Values as canonical JSON. Plain strings without escapes and numbers are so already."""
    if all(value[0] == 34 and b"\\" not in value for value in column):
        return column
    return [value if value[0] not in b'{["' else known.get(value) or known.setdefault(value, _canonical_value(value)) for value in column]


def _canonical_value(text: bytes) -> bytes:
    value = _decode_any(text)
    if isinstance(value, dict) and isinstance(value.get("amount"), str) and "decimals" in value:
        return token_amount(int(value["amount"]), value["decimals"]).encode()
    return to_json(value).encode()

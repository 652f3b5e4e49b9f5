"""Instructions that the source already parsed (`jsonParsed`, BigQuery) in the form this project's decoders give.

Belongs here: making the two agree to the letter. Does not belong here: decoding raw data (`blyan.solana.programs`).

Rules, each so that every node and every source gives the same row: a token amount keeps `amount` and `decimals` only
(nodes differ in the float beside them); `create` of an associated token account drops `rentSysvar` (nodes before 2022
named it); parameters are in the order of their names; nested values are canonical JSON.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from blyan.errors import BadRecordError
from blyan.solana.programs import Decoded, Value, to_json, token_amount


class _Parsed(msgspec.Struct, gc=False):
    type: str
    info: dict[str, Raw] | None = None


_decode_parsed = msgspec.json.Decoder(_Parsed | str).decode
_decode_any = msgspec.json.Decoder().decode


def read_parsed(program: str, program_id: str, raw: Raw, key_of: Mapping[str, int], canonical: dict[bytes, str]) -> Decoded:
    """The instruction in a `parsed` field.

    Args:
        program: its name, as the source gives it.
        program_id: its account.
        raw: the JSON of the field: an object of `type` and `info`, or a memo's string.
        key_of: an account's JSON text to the number that stands for it.
        canonical: cache of nested values already put in canonical form.

    Raises:
        BadRecordError: the field is neither.
    """
    try:
        parsed = _decode_parsed(raw)
    except msgspec.DecodeError as error:
        raise BadRecordError(f"a parsed instruction of {program_id} cannot be read: {error}", reason="malformed_instruction") from error
    if isinstance(parsed, str):
        return Decoded(program, None, [], text=parsed)
    return Decoded(program, parsed.type, read_params(program, parsed.type, parsed.info or {}, key_of, canonical))


def read_params(
    program: str, type_: str, info: Mapping[str, Raw], key_of: Mapping[str, int], canonical: dict[bytes, str]
) -> list[tuple[str, Value]]:
    """Parameters in the order of their names: an account as its number, anything else as canonical JSON."""
    params: list[tuple[str, Value]] = []
    for name in sorted(info):
        if name == "rentSysvar" and type_ == "create" and program == "spl-associated-token-account":
            continue
        content = bytes(info[name])
        text = content.decode()
        key = key_of.get(text)
        if key is not None:
            params.append((name, key))
            continue
        first = content[:1]
        if first in b'{["' and (first != b'"' or b"\\" in content or not content.isascii()):
            cached = canonical.get(content)
            if cached is None:
                value = _decode_any(content)
                exact = isinstance(value, dict) and isinstance(value.get("amount"), str) and "decimals" in value
                cached = canonical[content] = token_amount(int(value["amount"]), value["decimals"]) if exact else to_json(value)
            text = cached
        params.append((name, text))
    return params

"""Chains as a file: lines of JSON, for those who have no lake.

Belongs here: writing and reading the file. Does not belong here: what is believed of it, which is nothing (`Chains.fitting`).

The first line says what it is, `{"chain":…,"first":…,"format":"blyan chain 1","network":…}`; then there is one line a block, by height,
`{"header":{…},"payload":"…","signature":"…"}`. Lines are canonical JSON. The payload is base64, and null where it left the store. One is
held in memory at a time when it is written, and those of a batch when it is read.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Raw, Struct

from blyan.chain.block import Block, InvalidBlockError, read_header
from blyan.chain.canonical import encode
from blyan.chain.store import Chains, Offered
from blyan.errors import MissingObjectError, PermanentError

FORMAT = "blyan chain 1"

BATCH = 256
"""Blocks that are appended together."""


class Title(Struct, frozen=True, forbid_unknown_fields=True):
    """The first line."""

    chain: str
    first: int
    format: str
    network: str


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a block; `header` is canonical already, and stays the bytes that it is."""

    header: Raw
    payload: str | None
    signature: str


def export(chains: Chains, chain: str, first: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The lines of some blocks, `end` left out; each ends with a line feed."""
    yield encode(Title(chain, first, FORMAT, chains.network)) + b"\n"
    for row in chains.rows(chain, first, end):
        try:
            payload = base64.b64encode(chains.payloads.get(read_header(row.header).payload_sha256)).decode()
        except MissingObjectError:
            payload = None
        yield encode(Line(Raw(row.header), payload, row.signature)) + b"\n"


def import_lines(chains: Chains, lines: Iterable[bytes], *, network: str | None = None) -> tuple[str, int]:
    """Verify and append the blocks of a file; the chain, and how many were new. What is here already is left out.

    Args:
        chains: where they go.
        lines: of the file.
        network: id of the network that it must be; by default ours, and where there is none here, that of the file.

    Raises:
        InvalidBlockError: a block breaks a rule, or has no payload that is needed. What came before it is kept: it is right.
        CommitConflictError: the chain has another block at one of the heights.
        PermanentError: the file is none, or of another network.
    """
    source = enumerate(lines, start=1)
    try:
        title = msgspec.json.decode(next(source)[1], type=Title)
    except (StopIteration, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PermanentError("it is no exported chain", where="line 1", remedy="`blyan chain export` writes one") from error
    expected = network or (chains.network if chains.size("A") else title.network)
    if title.format != FORMAT or title.network != expected:
        what = f"{title.format} of network {title.network[:12]}, and {FORMAT} of {expected[:12]} is wanted"
        raise PermanentError(what, where="line 1", remedy="import a file of this network")
    appended = 0
    while batch := list(itertools.islice(source, BATCH)):
        offered, unreadable = _offered(batch)
        good, misfit = chains.fitting(title.chain, offered, network=expected)
        appended += chains.commit(title.chain, [item.row for item in good])
        if (wrong := misfit or unreadable) is not None:
            raise wrong
    return title.chain, appended


def _offered(lines: Iterable[tuple[int, bytes]]) -> tuple[list[Offered], InvalidBlockError | None]:
    """The blocks of lines up to the first that is none, and why it is none."""
    offered: list[Offered] = []
    for number, line in lines:
        try:
            offered.append(_read_line(line))
        except InvalidBlockError as error:
            return offered, InvalidBlockError(error.reason, field=error.field, where=f"line {number}")
    return offered, None


def _read_line(line: bytes) -> Offered:
    try:
        found = msgspec.json.decode(line, type=Line)
        payload = None if found.payload is None else base64.b64decode(found.payload, validate=True)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # base64 raises a plain ValueError for what is not ASCII
        raise InvalidBlockError(f"it is no line of an exported chain: {error}", field="header") from error
    raw = bytes(found.header)
    return Offered(Block(raw, found.signature, read_header(raw)), payload)

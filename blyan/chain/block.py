"""A block: its header, hash and signature.

Belongs here: the fields of a header, the rules that one block keeps by itself, making and reading blocks. Does not belong here: how a
block fits to those before it (`blyan.chain.verify`), where it is kept (`blyan.chain.store`), what its payload holds.

A header is canonical JSON, and the hash of the block is the SHA-256 of exactly those bytes. The producer signs the hash. A payload is
named by its SHA-256 and size and lies elsewhere, so headers stay when payloads leave. docs/chain.md has every rule, with test vectors.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
from msgspec import Struct

from blyan.chain.canonical import MAX_INTEGER, Json, NotCanonicalError, check, encode
from blyan.ed25519 import SigningKey, verify_ed25519
from blyan.errors import PermanentError

VERSION = 1

CHAINS = ("A", "B", "D")
"""Meta, parameters of models, datasets."""

MAX_HEADER_BYTES = 64 << 10

MAX_DEPENDENCIES = 256

MAX_TIME_NS = 2**63 - 1
"""Nanoseconds since 1970 as a signed 64-bit integer: until the year 2262."""

SIGNED_AS = b"blyan block 1\n"
"""Stands before the hash in what is signed."""

GENESIS = "genesis"
"""Kind of the first block of a chain, and of no other."""

_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TIME = re.compile(r"0|[1-9][0-9]{0,18}")
_SEMVER = re.compile(  # semver.org, 2.0.0
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?"
)
_PLACE = re.compile(r"at `\$\.([a-z_0-9]+)")
_ABSENT = re.compile(r"(?:required|unknown) field `(\w+)`$")
"""Which field an error of msgspec is about."""


class InvalidBlockError(PermanentError):
    """A block breaks a rule of the format; `field` is the first field that does."""

    def __init__(self, what: str, *, field: str, where: str = "", remedy: str = "") -> None:
        super().__init__(f"{field}: {what}", where=where, remedy=remedy or "docs/chain.md says what a block is; refuse it")
        self.field = field
        self.reason = what

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.reason, self.field, self.where, self.remedy))


def _rebuild(what: str, field: str, where: str, remedy: str) -> InvalidBlockError:
    return InvalidBlockError(what, field=field, where=where, remedy=remedy)


class Ref(Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """A block by its place and hash. The hash is what counts; the place is where it must be found."""

    chain: str
    height: int
    hash: str

    def __str__(self) -> str:
        return f"{self.chain}:{self.height}:{self.hash[:12]}"


class Header(Struct, frozen=True, forbid_unknown_fields=True):
    """What a block says, in the order in which it is looked at.

    Attributes:
        version: of the format, 1.
        network: SHA-256 of the payload of the genesis block of A, hex: the same in every block of a network.
        chain: `A`, `B` or `D`.
        height: blocks of the chain before this one.
        previous: hash of the block before; None at height 0.
        depends_on: earlier blocks of any chain, by chain and height, each once.
        kind: what the payload is, such as `dataset`.
        payload_sha256: of the payload, hex.
        payload_size: of the payload, bytes.
        producer: Ed25519 public key, hex.
        time_ns: when it was made, nanoseconds since 1970, in decimal: it would not fit a JSON number.
        semver: version of what the payload is, where it has one.
        metadata: what the kind says besides.
    """

    version: int
    network: str
    chain: str
    height: int
    previous: str | None
    depends_on: tuple[Ref, ...]
    kind: str
    payload_sha256: str
    payload_size: int
    producer: str
    time_ns: str
    semver: str | None
    metadata: dict[str, Any]

    def encoded(self) -> bytes:
        """The canonical bytes."""
        return encode(self)


_DECODER = msgspec.json.Decoder(Header)


@dataclass(frozen=True)
class Block:
    """A header as its canonical bytes, and the producer's signature, hex. `header` is what they say."""

    raw: bytes
    signature: str
    header: Header

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the header, hex."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def ref(self) -> Ref:
        """The block as others name it."""
        return Ref(self.header.chain, self.header.height, self.hash)

    def check_signature(self) -> None:
        """Refuse a block that its producer did not sign.

        Raises:
            InvalidBlockError: of the field `signature`.
        """
        if not signature_holds(self.header.producer, self.hash, self.signature):
            raise InvalidBlockError("it is not the producer's", field="signature", where=str(self.ref))


def signature_holds(producer: str, block_hash: str, signature: str) -> bool:
    """Whether the producer signed a block; all in hex."""
    if _SIGNATURE.fullmatch(signature) is None or _HASH.fullmatch(producer) is None:
        return False
    return verify_ed25519(bytes.fromhex(producer), SIGNED_AS + bytes.fromhex(block_hash), bytes.fromhex(signature))


def make_block(
    key: SigningKey,
    *,
    network: str,
    chain: str,
    height: int,
    previous: str | None,
    kind: str,
    payload_sha256: str,
    payload_size: int,
    time_ns: int,
    depends_on: Iterable[Ref] = (),
    semver: str | None = None,
    metadata: dict[str, Json] | None = None,
) -> Block:
    """Write and sign a block; dependencies come in any order.

    Raises:
        InvalidBlockError: a field breaks the format.
    """
    header = Header(
        version=VERSION,
        network=network,
        chain=chain,
        height=height,
        previous=previous,
        depends_on=tuple(sorted(depends_on)),
        kind=kind,
        payload_sha256=payload_sha256,
        payload_size=payload_size,
        producer=key.public.hex(),
        time_ns=str(time_ns),
        semver=semver,
        metadata=metadata or {},
    )
    check_header(header)
    raw = header.encoded()
    _check_size(raw)
    return Block(raw, key.sign(SIGNED_AS + hashlib.sha256(raw).digest()).hex(), header)


def read_header(raw: bytes) -> Header:
    """The header of which these are the canonical bytes, by every rule that it keeps by itself.

    Raises:
        InvalidBlockError: they are not; the field is `header` where it is not one field's.
    """
    _check_size(raw)
    try:
        header = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        found = _PLACE.search(str(error)) or _ABSENT.search(str(error))
        raise InvalidBlockError(str(error), field=found[1] if found else "header") from error
    check_header(header)
    if header.encoded() != raw:
        raise InvalidBlockError("it is not in canonical form (RFC 8785)", field="header")
    return header


def read_block(raw: bytes, signature: str) -> Block:
    """A block by its canonical bytes and signature, which is checked too.

    Raises:
        InvalidBlockError: it is none.
    """
    block = Block(raw, signature, read_header(raw))
    block.check_signature()
    return block


def check_header(header: Header) -> None:
    """Refuse a header that breaks a rule, whatever other blocks there are; fields in the order of `Header`.

    Raises:
        InvalidBlockError: it does.
    """
    problem = _problem_of_place(header) or _problem_of_dependencies(header) or _problem_of_content(header)
    if problem is not None:
        raise InvalidBlockError(problem[1], field=problem[0], where=f"{header.chain}:{header.height}")
    try:
        check(header.metadata, where="metadata")
    except NotCanonicalError as error:
        raise InvalidBlockError(error.what, field="metadata", where=f"{header.chain}:{header.height}") from error


def _problem_of_place(header: Header) -> tuple[str, str] | None:
    if header.version != VERSION:
        return "version", f"{header.version}, and this is version {VERSION}"
    if _HASH.fullmatch(header.network) is None:
        return "network", "not 64 hex digits in lower case"
    if header.chain not in CHAINS:
        return "chain", f"{header.chain!r} is none of {', '.join(CHAINS)}"
    if not 0 <= header.height <= MAX_INTEGER:
        return "height", f"{header.height} is not from 0 to 2^53 - 1"
    if header.height == 0:
        return None if header.previous is None else ("previous", "the first block has none before it")
    if header.previous is None or _HASH.fullmatch(header.previous) is None:
        return "previous", "not 64 hex digits in lower case"
    return None


def _problem_of_dependencies(header: Header) -> tuple[str, str] | None:
    depends_on = header.depends_on
    if not depends_on:
        if header.height == 0 and header.chain != "A":
            return "depends_on", "the first block of a chain depends on the genesis block of A"
        return None
    if len(depends_on) > MAX_DEPENDENCIES:
        return "depends_on", f"{len(depends_on)} blocks, and {MAX_DEPENDENCIES} are the most"
    before: tuple[str, int] = ("", -1)
    for ref in depends_on:
        if ref.chain not in CHAINS or not 0 <= ref.height <= MAX_INTEGER or _HASH.fullmatch(ref.hash) is None:
            return "depends_on", f"{ref} names no block"
        if (ref.chain, ref.height) <= before:
            return "depends_on", "not by chain and height, each block once"
        if ref.chain == header.chain and ref.height >= header.height:
            return "depends_on", f"{ref} is not earlier"
        before = (ref.chain, ref.height)
    if header.height == 0 and (header.chain == "A" or [(ref.chain, ref.height) for ref in depends_on] != [("A", 0)]):
        return "depends_on", "the first block of A has none, that of another chain has the genesis block of A alone"
    return None


def _problem_of_content(header: Header) -> tuple[str, str] | None:
    if _KIND.fullmatch(header.kind) is None:
        return "kind", "not a lower-case name of up to 32 letters, digits and _"
    if (header.kind == GENESIS) != (header.height == 0):
        return "kind", f"{GENESIS!r} is the kind of the first block, and of no other"
    if _HASH.fullmatch(header.payload_sha256) is None:
        return "payload_sha256", "not 64 hex digits in lower case"
    if header.chain == "A" and header.height == 0 and header.payload_sha256 != header.network:
        return "payload_sha256", "the payload of the genesis block of A names the network"
    if not 0 <= header.payload_size <= MAX_INTEGER:
        return "payload_size", f"{header.payload_size} is not from 0 to 2^53 - 1"
    if _HASH.fullmatch(header.producer) is None:
        return "producer", "not 64 hex digits in lower case"
    if _TIME.fullmatch(header.time_ns) is None or int(header.time_ns) > MAX_TIME_NS:
        return "time_ns", "not nanoseconds since 1970, in decimal, below 2^63"
    if header.semver is not None and (len(header.semver) > 128 or _SEMVER.fullmatch(header.semver) is None):
        return "semver", "not a version as semver.org has it"
    return None


def _check_size(raw: bytes) -> None:
    if len(raw) > MAX_HEADER_BYTES:
        raise InvalidBlockError(f"{len(raw)} bytes, and {MAX_HEADER_BYTES} are the most", field="header", remedy="put it into the payload")

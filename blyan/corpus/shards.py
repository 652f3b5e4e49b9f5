"""Token shards: the tokens of many documents in one file that is used where it lies.

Belongs here: the format, writing and reading one shard. Does not belong here: which documents are in it (`blyan.corpus.tokens`), or
in what order a trainer reads (`blyan.corpus.token_stream`). The format is specified in docs/token-shards.md.

A shard is an uncompressed Arrow IPC stream with one record batch. So `datasets` and pyarrow map it into memory as it is, and its
tokens are one run of little-endian 16-bit numbers at a known place, for which numpy needs neither.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from blyan.corpus.tokenizer import Offsets, Tokens
from blyan.errors import PermanentError
from blyan.solana.columns import Ints

FORMAT = "blyan token shard 1"

SHARD_TOKENS = 1 << 25
"""Most tokens of a shard, 64 MiB: few files, and three times that in memory while one is made. One document alone may have more."""

SCHEMA = pa.schema(
    [
        pa.field("tokens", pa.large_list(pa.field("item", pa.uint16(), nullable=False)), nullable=False),
        pa.field("block_slot", pa.int64(), nullable=False),
        pa.field("tx_index", pa.int64(), nullable=False),
        pa.field("structural_key", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Shard:
    """The documents of a shard.

    Attributes:
        tokens: uint16 [tokens], of all documents, each with the token that ends it.
        offsets: int64 [documents + 1]; document i is `tokens[offsets[i]:offsets[i + 1]]`.
        block_slot, tx_index: int64 [documents]; in their order.
        structural_key: string [documents].
    """

    tokens: Tokens
    offsets: Offsets
    block_slot: Ints
    tx_index: Ints
    structural_key: pa.StringArray

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class Written:
    """The bytes of a shard, and where in them its numbers begin.

    Attributes:
        data: the file.
        tokens_at: byte at which the tokens begin; `offsets_at` likewise.
    """

    data: pa.Buffer
    tokens_at: int
    offsets_at: int

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes, hex."""
        return hashlib.sha256(self.data).hexdigest()


def write_shard(shard: Shard, tokenizer_sha256: str) -> Written:
    """The bytes of a shard; the same shard gives the same bytes.

    Args:
        shard: one document at least.
        tokenizer_sha256: digest of the tokenizer, which the file names.
    """
    lists = pa.LargeListArray.from_arrays(pa.array(shard.offsets, pa.int64()), pa.array(shard.tokens, pa.uint16()), SCHEMA.field("tokens").type)
    columns = [lists, pa.array(shard.block_slot, pa.int64()), pa.array(shard.tx_index, pa.int64()), shard.structural_key]
    schema = SCHEMA.with_metadata({"blyan.format": FORMAT, "blyan.tokenizer": tokenizer_sha256})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    data = sink.getvalue()
    lists = _batch(data, "a new shard")["tokens"]
    return Written(data, lists.values.buffers()[1].address - data.address, lists.buffers()[1].address - data.address)


def read_shard(data: pa.Buffer, *, where: str, tokenizer_sha256: str | None = None) -> Shard:
    """The documents of a shard, without a copy: the arrays are views into the bytes.

    Args:
        data: the bytes of the file, which may be mapped into memory.
        where: what errors name.
        tokenizer_sha256: digest of the tokenizer that the file must name, if any must be.

    Raises:
        PermanentError: the bytes are not a shard, or are one of another tokenizer.
    """
    batch = _batch(data, where)
    named = (batch.schema.metadata or {}).get(b"blyan.tokenizer", b"").decode()
    if tokenizer_sha256 is not None and named != tokenizer_sha256:
        raise PermanentError(f"the shard is of the tokenizer {named}", where=where, remedy=f"use a shard of {tokenizer_sha256}, or that tokenizer")
    lists = batch["tokens"]
    offsets = np.asarray(lists.offsets)
    shard = Shard(np.asarray(lists.values), offsets, np.asarray(batch["block_slot"]), np.asarray(batch["tx_index"]), batch["structural_key"])
    if offsets[0] != 0 or offsets[-1] != len(shard.tokens) or (np.diff(offsets) < 1).any():
        raise _damaged(where, "its documents do not fill its tokens")
    return shard


def _batch(data: pa.Buffer, where: str) -> pa.RecordBatch:
    try:
        with pa.ipc.open_stream(pa.BufferReader(data)) as reader:
            batches = list(reader)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(where, str(error)) from error
    if len(batches) != 1 or not batches[0].schema.equals(SCHEMA) or (batches[0].schema.metadata or {}).get(b"blyan.format") != FORMAT.encode():
        raise _damaged(where, f"it is no `{FORMAT}`")
    return batches[0]


def _damaged(where: str, why: str) -> PermanentError:
    return PermanentError(f"the bytes are no token shard: {why}", where=where, remedy="make the tokens of its range again")


def view_of(path: Path, *, tokens_at: int, tokens: int, offsets_at: int, documents: int) -> tuple[Tokens, Offsets]:
    """Tokens and offsets of a shard in a file, mapped into memory by numpy alone.

    The arrays may be written to, so that `torch.from_numpy` takes them without a warning; the file never changes (copy on write).

    Raises:
        PermanentError: the file is shorter than that.
    """
    if path.stat().st_size < max(tokens_at + 2 * tokens, offsets_at + 8 * (documents + 1)):
        raise _damaged(str(path), "it is too short")
    mapped = np.memmap(path, "<u2", "c", tokens_at, (tokens,))
    offsets = np.memmap(path, "<i8", "c", offsets_at, (documents + 1,))
    return np.asarray(mapped), np.asarray(offsets)

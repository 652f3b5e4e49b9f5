"""The format of a token shard: as docs/token-shards.md says it, read without a copy by everything it was made for."""

from __future__ import annotations

import base64
import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from blyan.corpus.shards import FORMAT, SCHEMA, Shard, Written, read_shard, view_of, write_shard
from blyan.errors import PermanentError

SPECIFICATION = Path(__file__).parents[2] / "docs" / "token-shards.md"
TOKENIZER = "0f" * 32


def shard(documents: list[list[int]], first_slot: int = 7) -> Shard:
    sizes = np.cumsum([0, *map(len, documents)])
    count = len(documents)
    return Shard(
        np.array([token for document in documents for token in document], np.uint16),
        sizes.astype(np.int64),
        np.arange(first_slot, first_slot + count),
        np.arange(count) * 3,
        pa.array([f"{number:032x}" for number in range(count)]),
    )


SMALL = shard([[17, 65_535, 0], [258, 0], [0]])


@pytest.fixture
def written() -> Written:
    return write_shard(SMALL, TOKENIZER)


def vector() -> dict[str, object]:
    """The test vector of the specification."""
    text = SPECIFICATION.read_text(encoding="utf-8")
    found: dict[str, object] = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])
    return found


def test_the_test_vector_of_the_specification_is_read_and_is_what_is_written(written: Written) -> None:
    given = vector()
    data = base64.b64decode("".join(given["file"]))
    found = read_shard(pa.py_buffer(data), where="vector", tokenizer_sha256=given["tokenizer_sha256"])
    assert found.tokens.tolist() == given["tokens"] == SMALL.tokens.tolist()
    assert found.offsets.tolist() == given["offsets"]
    assert (found.block_slot.tolist(), found.tx_index.tolist()) == (given["block_slot"], given["tx_index"])
    assert found.structural_key.to_pylist() == given["structural_key"]
    assert (written.data.to_pybytes(), written.sha256, written.tokens_at, written.offsets_at) == (
        data,
        given["sha256"],
        given["tokens_at"],
        given["offsets_at"],
    )


def test_the_places_of_the_numbers_are_enough_to_read_them(written: Written) -> None:
    """With `struct` alone: no Arrow, no numpy."""
    data = written.data.to_pybytes()
    count = len(SMALL.tokens)
    assert list(struct.unpack_from(f"<{count}H", data, written.tokens_at)) == SMALL.tokens.tolist()
    assert list(struct.unpack_from(f"<{len(SMALL) + 1}q", data, written.offsets_at)) == SMALL.offsets.tolist()
    assert written.tokens_at % 8 == written.offsets_at % 8 == 0


def test_a_mapped_file_is_read_without_a_copy(written: Written, tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(written.data)
    with pa.memory_map(str(path)) as mapped:
        data = mapped.read_buffer()
        found = read_shard(data, where="x")
        assert found.tokens.ctypes.data == data.address + written.tokens_at
        assert found.offsets.ctypes.data == data.address + written.offsets_at
        again = read_shard(data, where="x")
        assert np.shares_memory(found.tokens, again.tokens)
        assert not np.shares_memory(found.tokens, found.tokens.copy())


def test_numpy_maps_it_and_writing_to_the_array_does_not_reach_the_file(written: Written, tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(written.data)
    places = {"tokens_at": written.tokens_at, "tokens": len(SMALL.tokens), "offsets_at": written.offsets_at, "documents": len(SMALL)}
    tokens, offsets = view_of(path, **places)
    assert (tokens.tolist(), offsets.tolist()) == (SMALL.tokens.tolist(), SMALL.offsets.tolist())
    assert (type(tokens), tokens.dtype, tokens.flags.owndata, tokens.flags.writeable) == (np.ndarray, np.uint16, False, True)
    tokens[0] = 99
    assert path.read_bytes() == written.data.to_pybytes()
    path.write_bytes(written.data.to_pybytes()[: written.tokens_at + 3])
    with pytest.raises(PermanentError, match="too short"):
        view_of(path, **places)


def test_datasets_maps_it(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="datasets comes with the dev extra")
    path = tmp_path / "shard"
    path.write_bytes(written.data)
    dataset = datasets.Dataset.from_file(str(path))
    assert len(dataset) == len(SMALL)
    assert dataset[0]["tokens"] == [17, 65_535, 0]
    assert dataset.with_format("numpy")[1]["tokens"].tolist() == [258, 0]
    assert dataset.column_names == SCHEMA.names
    column = dataset.data.table["tokens"].chunk(0).values
    assert pa.types.is_uint16(column.type)
    before = pa.total_allocated_bytes()
    datasets.Dataset.from_file(str(path))["tokens"]
    assert pa.total_allocated_bytes() == before, "mapped, not read"


def test_torch_takes_a_mapped_array_as_it_is(written: Written, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch comes with the ml extra")
    path = tmp_path / "shard"
    path.write_bytes(written.data)
    tokens, _ = view_of(path, tokens_at=written.tokens_at, tokens=len(SMALL.tokens), offsets_at=written.offsets_at, documents=len(SMALL))
    tensor = torch.from_numpy(tokens)
    assert tensor.data_ptr() == tokens.ctypes.data
    assert tensor.to(torch.int64).tolist() == SMALL.tokens.tolist()


def test_the_same_documents_give_the_same_bytes_however_they_are_held(written: Written) -> None:
    wide = shard([[1, 0], *([17, 65_535, 0], [258, 0], [0])], first_slot=6)
    cut = Shard(wide.tokens[2:], wide.offsets[1:] - 2, wide.block_slot[1:], wide.tx_index[1:] - 3, SMALL.structural_key)
    assert write_shard(cut, TOKENIZER).data.equals(written.data)
    keys = pa.concat_arrays([pa.array(["x"]), SMALL.structural_key]).slice(1)
    held = Shard(wide.tokens[2:], wide.offsets[1:] - 2, wide.block_slot[1:], wide.tx_index[1:] - 3, keys)
    assert write_shard(held, TOKENIZER).data.equals(written.data)
    assert not write_shard(SMALL, "1f" * 32).data.equals(written.data), "the file names its tokenizer"


def arrow(rows: list[pa.RecordBatch], schema: pa.Schema) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in rows:
            writer.write_batch(batch)
    return sink.getvalue()


def broken(written: Written) -> dict[str, pa.Buffer]:
    """Files that are no shard, by what is wrong."""
    data = written.data.to_pybytes()
    with pa.ipc.open_stream(pa.BufferReader(written.data)) as reader:
        schema, batch = reader.schema, reader.read_next_batch()
    short = bytearray(data)
    short[written.offsets_at + 8 * len(SMALL) : written.offsets_at + 8 * len(SMALL) + 8] = struct.pack("<q", 2)
    empty = bytearray(data)
    empty[written.offsets_at + 8 : written.offsets_at + 16] = struct.pack("<q", 0)
    return {
        "nothing": pa.py_buffer(b""),
        "no Arrow": pa.py_buffer(b"PAR1" * 40),
        "cut off": pa.py_buffer(data[: written.tokens_at + 2]),
        "two batches": arrow([batch, batch], schema),
        "no batch": arrow([], schema),
        "no name of the format": arrow([batch.replace_schema_metadata({})], SCHEMA),
        "another column": arrow([batch.select(["tokens"])], pa.schema([schema.field("tokens")], schema.metadata)),
        "documents that do not end where the tokens do": pa.py_buffer(bytes(short)),
        "a document without tokens": pa.py_buffer(bytes(empty)),
    }


def test_what_is_no_shard_is_refused_and_named(written: Written) -> None:
    for what, data in broken(written).items():
        with pytest.raises(PermanentError, match=what):
            read_shard(data, where=what)
    with pytest.raises(PermanentError, match="of the tokenizer 0f0f"):
        read_shard(written.data, where="x", tokenizer_sha256="1f" * 32)


def test_a_file_says_what_it_is(written: Written) -> None:
    with pa.ipc.open_stream(pa.BufferReader(written.data)) as reader:
        assert reader.schema.metadata == {b"blyan.format": FORMAT.encode(), b"blyan.tokenizer": TOKENIZER.encode()}
        assert reader.schema.equals(SCHEMA)
    assert sys.byteorder == "little"

"""Recorded responses in files: which slot they are of, which of several is kept, and what cannot be used."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from blyan.errors import SettingError
from blyan.settings import load_settings
from blyan.solana.slots import SlotRange
from blyan.solana.sources import BlockSource, Format, RawRecord, SlotState, open_source
from blyan.solana.sources.archive import ArchiveSource
from tests.restless_archive import Restless

PRESENT, SKIPPED, UNKNOWN, REJECTED = SlotState.PRESENT, SlotState.SKIPPED, SlotState.UNKNOWN, SlotState.REJECTED


def a_block(slot: int, parent: int | None = None, *, mark: str = "", parent_mark: str = "", **fields: Any) -> bytes:
    parent = max(slot - 1, 0) if parent is None else parent
    block = {"blockhash": f"hash{slot}{mark}", "parentSlot": parent, "previousBlockhash": f"hash{parent}{parent_mark}", "transactions": []}
    return json.dumps({**block, **fields}).encode()


def an_envelope(result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","result":' + result + b',"id":1}'


def an_error(code: int) -> bytes:
    return b'{"jsonrpc":"2.0","error":{"code":%d,"message":"as recorded"},"id":1}' % code


def a_line(slot: int, block: bytes) -> bytes:
    return b'{"slot":%d,"block":%s}' % (slot, block)


def a_transaction(slot: int | None, signature: str, **message: Any) -> bytes:
    told = {} if slot is None else {"slot": slot}
    wire = {"signatures": [signature], "message": message or {"header": {}, "accountKeys": [], "instructions": []}}
    return json.dumps({**told, "transaction": wire, "meta": None}).encode()


def an_archive(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def read(source: ArchiveSource | Path, first: int, last: int) -> list[RawRecord]:
    source = source if isinstance(source, ArchiveSource) else ArchiveSource(str(source))
    return list(source.read(SlotRange(first, last)))


def seen(records: list[RawRecord]) -> list[tuple[int | None, str, str]]:
    return [(record.slot, record.state.value, record.proof) for record in records]


# Settings


@pytest.mark.parametrize("archive", [None, "", "missing", "a-file.json", "empty", "no-recordings", "ftp://bucket/blocks"])
def test_a_wrong_archive_is_a_setting_error_that_names_the_setting(tmp_path: Path, archive: str | None) -> None:
    an_archive(tmp_path, {"a-file.json": a_block(1), "no-recordings/readme.txt": b"hello", "no-recordings/1.csv.gz": b""})
    (tmp_path / "empty").mkdir()
    location = archive if not archive or "://" in archive else str(tmp_path / archive)
    with pytest.raises(SettingError, match=r"BLYAN_ARCHIVE.*Remedy"):
        open_source(load_settings(source="archive", archive=location)).check()


def test_the_source_is_a_block_source_that_the_settings_choose(tmp_path: Path) -> None:
    an_archive(tmp_path, {"7.json": a_block(7)})
    source = open_source(load_settings(source="archive", archive=str(tmp_path), archive_max_bytes=9_999))
    assert isinstance(source, ArchiveSource)
    assert isinstance(source, BlockSource)
    assert source.max_bytes == 9_999
    assert source.genesis_hash() is None


def test_check_says_what_the_archive_has(tmp_path: Path) -> None:
    lines = a_line(5, a_block(5)) + b"\n<html>\n" + a_line(6, a_block(6))
    an_archive(tmp_path, {"9.json": a_block(9), "some.ndjson": lines, "notes.txt": b"", ".hidden.json": b"", "deep/er/11.json.gz": b""})
    report = ArchiveSource(str(tmp_path)).check()
    assert (report.first_slot, report.last_slot, report.genesis_hash) == (5, 11, None)
    assert report.detail == "3 files, 4 records of 4 slots, 1 rejected that tell no slot, 1 files of other kinds ignored"


# Which slot


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("5.json", a_block(5)),
        ("5.json", an_envelope(a_block(5))),
        ("000000000005.json", a_block(5)),
        ("5-json-of-somebody.json.gz", gzip.compress(a_block(5), mtime=0)),
        ("5_x.JSON.GZ", gzip.compress(an_envelope(a_block(5)), mtime=0)),
        ("5.json.zst", pa.compress(a_block(5), "zstd", asbytes=True)),
        ("5.json", b"[" + an_envelope(a_block(5)) + b"]"),
        ("5.ndjson", a_block(5) + b"\n"),
        ("0-99.ndjson", a_line(5, a_block(5))),
        ("0to19.jsonl.gz", gzip.compress(a_line(5, a_block(5)), mtime=0)),
        ("blocks.ndjson.zst", pa.compress(a_line(5, a_block(5)), "zstd", asbytes=True)),
        ("whatever.json", a_line(5, an_envelope(a_block(5)))),
        ("lines-in-disguise.json", a_line(5, a_block(5)) + b"\n" + a_line(6, a_block(6))),
        ("folder/in/folder/5.json", a_block(5)),
    ],
)
def test_the_slot_is_told_by_the_record_or_the_name(tmp_path: Path, name: str, data: bytes) -> None:
    records = read(an_archive(tmp_path, {name: data}), 4, 5)
    assert seen(records) == [(4, "unknown", "not recorded"), (5, "present", "recorded")]
    record = records[1]
    assert (record.payload, record.block_hash, record.parent_slot, record.format) == (a_block(5), "hash5", 4, Format.GET_BLOCK)
    assert name.rpartition("/")[2] in record.origin


def test_a_block_whose_slot_nothing_tells_is_rejected_with_the_remedy(tmp_path: Path) -> None:
    an_archive(tmp_path, {"5.json": a_block(5), "block.json": a_block(6), "2f.json": a_block(7)})
    records = read(tmp_path, 4, 9)
    assert seen(records)[:2] == [(None, "rejected", "no_slot")] * 2
    assert "name the file SLOT.json" in records[0].detail
    assert {records[0].payload, records[1].payload} == {a_block(6), a_block(7)}


def test_several_blocks_in_a_file_named_for_one_slot_are_rejected(tmp_path: Path) -> None:
    an_archive(tmp_path, {"5.json": b"[%s,%s]" % (a_block(5), a_block(6))})
    assert seen(read(tmp_path, 5, 5)) == [(5, "rejected", "no_slot")] * 2 + [(5, "unknown", "unreadable")]


@pytest.mark.parametrize("data", [a_line(6, a_block(6)), a_block(9, 5), a_block(9, 8), a_transaction(8, "sig")])
def test_a_response_for_another_slot_is_rejected(tmp_path: Path, data: bytes) -> None:
    an_archive(tmp_path, {"5-again.json": data, "5.json": a_block(5)})
    records = read(tmp_path, 5, 5)
    assert seen(records) == [(5, "rejected", "wrong_slot"), (5, "present", "recorded")]
    assert "another slot" in records[0].detail


def test_the_genesis_block_is_its_own_parent(tmp_path: Path) -> None:
    assert seen(read(an_archive(tmp_path, {"0.json": a_block(0, 0)}), 0, 0)) == [(0, "present", "recorded")]


def test_only_files_whose_slot_is_asked_for_are_opened(tmp_path: Path) -> None:
    an_archive(tmp_path, {"5.json": a_block(5), "6.json": a_block(6), "7.json": b"<html>"})
    opened: list[str] = []

    assert seen(read(Restless(tmp_path, lambda path: opened.append(Path(path).name)), 5, 6)) == [
        (5, "present", "recorded"),
        (6, "present", "recorded"),
    ]
    assert opened == ["5.json", "6.json"]


# What proves a slot empty


def test_a_slot_is_skipped_if_the_next_recorded_block_has_an_earlier_parent(tmp_path: Path) -> None:
    an_archive(tmp_path, {"10.json": a_block(10), "14.json": a_block(14, 11), "20.json": a_block(20, 14)})
    records = read(tmp_path, 10, 14)
    assert seen(records) == [
        (10, "present", "recorded"),
        (11, "unknown", "not recorded"),
        (12, "skipped", "parent link of 14"),
        (13, "skipped", "parent link of 14"),
        (14, "present", "recorded"),
    ]


def test_the_next_recorded_block_may_lie_beyond_the_range(tmp_path: Path) -> None:
    an_archive(tmp_path, {"10.json": a_block(10), "15.json": a_transaction(15, "sig"), "17.json": b"<html>", "20.json": a_block(20, 10)})
    assert seen(read(tmp_path, 11, 13)) == [(slot, "skipped", "parent link of 20") for slot in (11, 12, 13)]
    assert seen(read(tmp_path, 21, 22)) == [(21, "unknown", "not recorded"), (22, "unknown", "not recorded")]


@pytest.mark.parametrize(
    ("recorded", "state", "proof", "words"),
    [
        (an_error(-32007), "skipped", "rpc -32007", "as recorded"),
        (an_error(-32009), "skipped", "rpc -32009", "as recorded"),
        (an_error(-32001), "unknown", "rpc -32001", "pruned"),
        (an_error(-32004), "unknown", "rpc -32004", "yet"),
        (an_error(-32011), "unknown", "rpc -32011", "history"),
        (an_error(-32000), "unknown", "rpc -32000", "an error"),
        (an_envelope(b"null"), "unknown", "null result", "null"),
    ],
)
def test_a_recorded_answer_without_a_block_says_what_is_known(tmp_path: Path, recorded: bytes, state: str, proof: str, words: str) -> None:
    (record,) = read(an_archive(tmp_path, {"5.json": recorded}), 5, 5)
    assert (record.state.value, record.proof) == (state, proof)
    assert words in record.detail


def test_a_block_beside_a_recorded_error_wins(tmp_path: Path) -> None:
    an_archive(tmp_path, {"5-a.json": an_error(-32007), "5-b.json": a_block(5), "6.json": an_error(-32004), "6-again.json": an_error(-32007)})
    assert seen(read(tmp_path, 5, 6)) == [(5, "present", "recorded"), (6, "skipped", "rpc -32007")]


# Several records of one slot


def test_of_equal_blocks_the_richest_is_kept_and_then_the_first_by_name(tmp_path: Path) -> None:
    wire = {"signatures": ["s"], "message": {"header": {}}}
    full = {"transactions": [{"transaction": wire, "meta": None}]}
    binary = {"transactions": [{"transaction": ["AQ==", "base64"], "meta": None}]}
    poor = json.dumps({**{key: value for key, value in json.loads(a_block(5)).items() if key != "transactions"}, "signatures": ["s"]}).encode()
    an_archive(tmp_path, {"5-a.json": poor, "5-b.json": a_block(5, **binary), "5-c.json": a_block(5, **full), "5-d.json": a_block(5, **full)})
    (record,) = read(tmp_path, 5, 5)
    assert (record.state, record.payload, Path(record.origin).name) == (PRESENT, a_block(5, **full), "5-c.json")


def test_of_different_blocks_the_one_that_the_next_block_names_is_kept(tmp_path: Path) -> None:
    an_archive(tmp_path, {"5-a.json": a_block(5, mark="A"), "5-b.json": a_block(5, mark="B"), "7.json": a_block(7, 5, parent_mark="B")})
    records = read(tmp_path, 5, 6)
    assert seen(records) == [(5, "rejected", "conflicting_hash"), (5, "present", "recorded"), (6, "skipped", "parent link of 7")]
    assert (records[0].block_hash, records[1].block_hash) == ("hash5A", "hash5B")


def test_a_fork_of_several_slots_is_resolved_by_the_block_after_it(tmp_path: Path) -> None:
    files = {f"{slot}-{mark}.json": a_block(slot, mark=mark, parent_mark=mark) for slot in range(5, 15) for mark in "AB"}
    an_archive(tmp_path, {**files, "15.json": a_block(15, parent_mark="A")})
    records = read(tmp_path, 5, 14)
    assert [record.block_hash for record in records if record.state is PRESENT] == [f"hash{slot}A" for slot in range(5, 15)]
    assert [record.block_hash for record in records if record.state is REJECTED] == [f"hash{slot}B" for slot in range(5, 15)]


@pytest.mark.parametrize("following", [{}, {"6.json": a_block(6, 5, parent_mark="C")}, {"7.json": a_block(7, 6)}])
def test_different_blocks_that_nothing_decides_between_are_all_rejected(tmp_path: Path, following: dict[str, bytes]) -> None:
    an_archive(tmp_path, {"5-a.json": a_block(5, mark="A"), "5-b.json": a_block(5, mark="B"), **following})
    records = read(tmp_path, 5, 5)
    assert seen(records) == [(5, "rejected", "conflicting_hash")] * 2 + [(5, "unknown", "conflicting_hash")]
    assert {record.payload for record in records} == {a_block(5, mark="A"), a_block(5, mark="B"), b""}


def test_the_block_after_a_conflict_is_still_found(tmp_path: Path) -> None:
    an_archive(tmp_path, {"5-a.json": a_block(5, mark="A"), "5-b.json": a_block(5, mark="B"), "9.json": a_block(9, 6)})
    proofs = {record.slot: record.proof for record in read(tmp_path, 3, 9) if record.state is not REJECTED}
    assert proofs == {
        3: "not recorded",
        4: "not recorded",
        5: "conflicting_hash",
        6: "not recorded",
        7: "parent link of 9",
        8: "parent link of 9",
        9: "recorded",
    }


def test_two_whole_chains_in_one_folder_are_rejected_without_running_away(tmp_path: Path) -> None:
    an_archive(tmp_path, {f"{slot}-{mark}.json": a_block(slot, mark=mark, parent_mark=mark) for slot in range(100, 180) for mark in "AB"})
    records = read(tmp_path, 100, 179)
    assert Counter(record.state for record in records) == {REJECTED: 160, UNKNOWN: 80}


# Transactions without their block


def test_transactions_of_a_slot_become_one_record(tmp_path: Path) -> None:
    one, two, three = (a_transaction(5, name) for name in ("sig1", "sig2", "sig3"))
    an_archive(tmp_path, {"b.json": one, "a.json": b"[%s,%s]" % (an_envelope(two), three), "6.json": a_transaction(None, "sig6")})
    five, six = read(tmp_path, 5, 6)
    assert (five.state, five.proof, five.format) == (UNKNOWN, "transactions_only", Format.GET_TRANSACTION)
    assert five.payload == b"[%s,%s,%s]" % (two, three, one)
    assert "record the block" in five.detail
    assert six.payload == b"[%s]" % a_transaction(None, "sig6")


def test_a_transaction_recorded_twice_is_kept_once_in_its_best_encoding(tmp_path: Path) -> None:
    parsed, compiled = a_transaction(5, "sig", accountKeys=[], instructions=[]), a_transaction(5, "sig")
    an_archive(tmp_path, {"a.json": parsed, "b.json": compiled, "c.json": compiled})
    (record,) = read(tmp_path, 5, 5)
    assert record.payload == b"[%s]" % compiled


def test_a_recorded_block_wins_over_loose_transactions(tmp_path: Path) -> None:
    an_archive(tmp_path, {"a.json": a_transaction(5, "sig"), "5.json": a_block(5)})
    assert seen(read(tmp_path, 5, 5)) == [(5, "present", "recorded")]


def test_transactions_beside_conflicting_blocks_are_not_lost(tmp_path: Path) -> None:
    an_archive(tmp_path, {"a.json": a_transaction(5, "sig"), "5-a.json": a_block(5, mark="A"), "5-b.json": a_block(5, mark="B")})
    assert seen(read(tmp_path, 5, 5)) == [(5, "rejected", "conflicting_hash")] * 2 + [(5, "unknown", "transactions_only")]


# Damaged files


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("5.json", b"", "empty"),
        ("5.json.gz", b"", "empty"),
        ("5.json.gz", gzip.compress(b"", mtime=0), "empty"),
        ("5.json", a_block(5)[:-7], "truncated"),
        ("5.json", b"<html>502 Bad Gateway</html>", "not_json"),
        ("5.json", a_block(5).replace(b"hash5", b"hash\xff"), "invalid_utf8"),
        ("5.json", b'{"number":5}', "not_a_block"),
        ("5.json.gz", gzip.compress(a_block(5), mtime=0)[:-12], "truncated"),
        ("5.json.gz", gzip.compress(a_block(5), mtime=0)[:6], "truncated"),
        ("5.json.gz", gzip.compress(a_block(5), mtime=0)[:-8] + b"\0" * 8, "corrupt"),
        ("5.json.gz", a_block(5), "corrupt"),
        ("5.json.zst", pa.compress(a_block(5), "zstd", asbytes=True)[:-9], "truncated"),
        ("5.json.zst", a_block(5), "corrupt"),
    ],
)
def test_a_damaged_file_is_rejected_with_its_bytes_and_costs_no_other(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    an_archive(tmp_path, {"4.json": a_block(4), name: data, "6.json": a_block(6)})
    records = read(tmp_path, 4, 6)
    assert seen(records) == [(4, "present", "recorded"), (5, "rejected", reason), (5, "unknown", "unreadable"), (6, "present", "recorded")]
    rejected = records[1]
    assert rejected.payload == (data if reason != "empty" else b"")
    assert "Remedy: " in rejected.detail
    assert rejected.origin.endswith(name)


def test_a_good_record_of_the_same_slot_stands_beside_a_damaged_one(tmp_path: Path) -> None:
    an_archive(tmp_path, {"5-a.json": a_block(5)[:-7], "5-b.json": a_block(5)})
    assert seen(read(tmp_path, 5, 5)) == [(5, "rejected", "truncated"), (5, "present", "recorded")]


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: pa.compress(data, "zstd", asbytes=True)], ids=["gz", "zst"])
def test_a_bomb_is_rejected_without_being_unpacked(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    suffix = ".gz" if pack is gzip.compress else ".zst"
    bomb = pack(b'{"padding":"' + b" " * (200 << 20))
    an_archive(tmp_path, {f"5.json{suffix}": bomb, f"lines.ndjson{suffix}": bomb, "6.json": a_block(6)})
    del bomb
    source = ArchiveSource(str(tmp_path), max_bytes=1 << 20)
    tracemalloc.start()
    records = read(source, 5, 6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen(records) == [(5, "rejected", "gzip_bomb"), (5, "unknown", "unreadable"), (6, "present", "recorded")] or seen(records)[0][0] is None
    assert Counter(record.proof for record in records)["gzip_bomb"] == 2
    assert "BLYAN_ARCHIVE_MAX_BYTES" in next(record.detail for record in records if record.proof == "gzip_bomb")
    assert peak < 8 << 20


def test_an_uncompressed_file_or_line_over_the_bound_is_too_large(tmp_path: Path) -> None:
    wide = a_block(5, padding="x" * 5_000)
    an_archive(tmp_path, {"5.json": wide, "lines.ndjson": a_line(6, a_block(6)) + b"\n" + a_line(7, wide)})
    records = read(ArchiveSource(str(tmp_path), max_bytes=4_000), 5, 7)
    assert [record.proof for record in records] == ["too_large", "too_large", "unreadable", "recorded", "not recorded"]


def test_lines_before_the_damage_of_a_compressed_file_are_kept(tmp_path: Path) -> None:
    lines = b"\n".join(a_line(slot, a_block(slot, padding=os.urandom(100).hex())) for slot in range(5, 105))
    an_archive(tmp_path, {"lines.ndjson.gz": gzip.compress(lines)[:-2_000]})
    records = read(tmp_path, 5, 104)
    states = [record.state for record in records if record.slot is not None]
    assert (records[0].slot, records[0].proof) == (None, "truncated")
    whole = states.index(UNKNOWN)
    assert whole > 0
    assert set(states[:whole]) == {PRESENT}
    assert set(states[whole:]) == {UNKNOWN}


def test_a_bad_line_costs_no_line_around_it(tmp_path: Path) -> None:
    lines = [
        a_line(5, a_block(5)),
        b"<html>",
        a_line(6, a_block(6))[:-3],
        b"",
        a_line(7, a_block(7)),
        a_line(8, b'{"blockhash":"h"}'),
        a_line(9, a_block(9)),
    ]
    an_archive(tmp_path, {"lines.ndjson": b"\n".join(lines)})
    records = read(tmp_path, 5, 9)
    assert seen(records) == [
        (None, "rejected", "not_json"),
        (None, "rejected", "truncated"),
        (5, "present", "recorded"),
        (6, "unknown", "not recorded"),
        (7, "present", "recorded"),
        (8, "rejected", "not_a_block"),
        (8, "unknown", "unreadable"),
        (9, "present", "recorded"),
    ]
    assert [record.payload for record in records[:2]] == [b"<html>", a_line(6, a_block(6))[:-3]]
    assert [record.origin.rpartition(":")[2] for record in records if record.origin] == ["2", "3", "1", "5", "6", "6", "7"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_in_any_order_come_in_the_order_of_their_slots(tmp_path: Path, suffix: str) -> None:
    lines = b"\n".join(a_line(slot, a_block(slot)) for slot in (9, 5, 7, 6, 8))
    data = {"": lines, ".gz": gzip.compress(lines), ".zst": pa.compress(lines, "zstd", asbytes=True)}[suffix]
    records = read(an_archive(tmp_path, {f"lines.ndjson{suffix}": data}), 5, 9)
    assert [(record.slot, record.block_hash) for record in records] == [(slot, f"hash{slot}") for slot in range(5, 10)]


def test_more_line_files_than_are_held_open_are_read_side_by_side(tmp_path: Path) -> None:
    files = {f"part-{part}.ndjson.gz": gzip.compress(b"\n".join(a_line(slot, a_block(slot)) for slot in range(part, 60, 20))) for part in range(20)}
    records = read(an_archive(tmp_path, files), 0, 59)
    assert [(record.slot, record.block_hash) for record in records] == [(slot, f"hash{slot}") for slot in range(60)]


# Files that change


def test_a_file_that_changes_once_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    path = an_archive(tmp_path, {"5.json": a_block(5)[:-7]}) / "5.json"
    opened = []

    def finish_writing(_: str) -> None:
        opened.append(1)
        if len(opened) == 1:
            path.write_bytes(a_block(5))

    assert seen(read(Restless(tmp_path, finish_writing), 5, 5)) == [(5, "present", "recorded")]
    assert len(opened) == 2


@pytest.mark.parametrize("name", ["5.json", "lines.ndjson"])
def test_a_file_that_keeps_changing_is_rejected(tmp_path: Path, name: str) -> None:
    an_archive(tmp_path, {name: a_line(5, a_block(5)), "4.json": a_block(4)})
    sizes = itertools.count(1)

    def write_on(path: str) -> None:
        if path.endswith(name):
            Path(path).write_bytes(a_line(5, a_block(5)) + b"\n" * next(sizes))

    records = read(Restless(tmp_path, write_on), 4, 5)
    assert Counter(record.state for record in records) == {PRESENT: 1, REJECTED: 1, UNKNOWN: 1}
    (rejected,) = (record for record in records if record.state is REJECTED)
    assert rejected.proof == "changed_while_read"
    assert "nothing writes to the file" in rejected.detail
    assert next(sizes) == 4


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_line_that_is_another_one_since_the_archive_was_listed_is_rejected(tmp_path: Path, suffix: str) -> None:
    pack = gzip.compress if suffix else bytes
    path = an_archive(tmp_path, {f"lines.ndjson{suffix}": pack(a_line(5, a_block(5)) + b"\n" + a_line(6, a_block(6)))}) / f"lines.ndjson{suffix}"
    source = ArchiveSource(str(tmp_path))
    source.check()
    path.write_bytes(pack(b"# " + a_line(5, a_block(5))))
    changed = ["changed_while_read", "unreadable"]
    assert [record.proof for record in read(source, 5, 6)] == [*changed, *changed]
    path.unlink()
    assert [record.proof for record in read(source, 5, 5)] == changed


# Whole backfills


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [a_line(slot, a_block(slot, slot - 1 if slot % 7 else slot - 3)) for slot in range(40, 60) if slot % 7 not in (5, 6)]
    return an_archive(
        tmp_path_factory.mktemp("mixed"),
        {
            **{f"{slot}.json": a_block(slot, slot - 1 if slot % 5 else slot - 2) for slot in range(20, 35) if slot % 5 != 4},
            "lines.ndjson.gz": gzip.compress(b"\n".join([*lines, b"<html>", a_line(45, an_error(-32001))])),
            "35-a.json": a_block(35, mark="A"),
            "35-b.json": a_block(35, mark="B"),
            "36.json": b"",
            "loose.json": a_transaction(37, "sig"),
            "nowhere.json": a_block(99),
        },
    )


@given(cuts=st.sets(st.integers(min_value=1, max_value=69), max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_backfill_in_any_ranges_gives_what_one_range_gives_and_reports_each_file_once(mixed: Path, cuts: set[int]) -> None:
    source = ArchiveSource(str(mixed), first_slot=0)
    bounds = [0, *sorted(cuts), 70]
    pieces = [record for first, end in itertools.pairwise(bounds) for record in source.read(SlotRange(first, end - 1))]
    own, rejected = ([r for r in pieces if (r.state is REJECTED) is is_rejected] for is_rejected in (False, True))
    whole = read(mixed, 0, 69)
    assert own == [record for record in whole if record.state is not REJECTED]
    assert [record.slot for record in own] == list(range(70))
    assert Counter(rejected) == Counter(record for record in whole if record.state is REJECTED)
    assert sorted(record.proof for record in rejected) == ["conflicting_hash", "conflicting_hash", "empty", "no_slot", "not_json"]


def test_files_of_no_slot_are_reported_with_the_first_recorded_slot_of_the_grid(mixed: Path) -> None:
    source = ArchiveSource(str(mixed), first_slot=30)
    assert [r.slot for r in source.read(SlotRange(20, 29)) if r.slot is None] == []
    assert len([r for r in source.read(SlotRange(30, 39)) if r.slot is None]) == 2
    assert len([r for r in ArchiveSource(str(mixed), first_slot=1_000).read(SlotRange(1_000, 1_009)) if r.slot is None]) == 2


def test_states_agree_with_what_is_read(mixed: Path) -> None:
    assert ArchiveSource(str(mixed)).states(SlotRange(10, 69)) == [record.state for record in read(mixed, 10, 69) if record.state is not REJECTED]


# A bucket


def test_an_archive_in_a_bucket_reads_as_a_folder_does(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {"endpoint_override": f"{host}:{port}", "scheme": "http", "access_key": "test", "secret_key": "test", "region": "us-east-1"}
        store = fs.S3FileSystem(**options, allow_bucket_creation=True)
        store.create_dir("recordings")
        fs.copy_files(str(mixed), "recordings/solana", source_filesystem=fs.LocalFileSystem(), destination_filesystem=store)
        made = open_source(load_settings(source="archive", archive="s3://recordings/solana/", file_options=options))
        assert isinstance(made, ArchiveSource)
        assert seen(list(made.read(SlotRange(0, 69)))) == seen(read(mixed, 0, 69))
        missing = ArchiveSource("s3://recordings/nothing", options=options)
        with pytest.raises(SettingError, match="BLYAN_ARCHIVE"):
            missing.check()
    finally:
        server.stop()


# Recorded mainnet data


def everything(folder: Path) -> list[RawRecord]:
    """All records of an archive that say more than that a slot is not recorded."""
    source = ArchiveSource(str(folder))
    source.check()
    slots = {int(line["slot"]) for line in _manifest(folder.parent) if line["slot"].isdecimal()} | {*range(20)}
    records = [record for slot in sorted(slots) for record in source.read(SlotRange(slot, slot))]
    return [record for record in records if record.proof != "not recorded"]


def _manifest(folder: Path) -> list[dict[str, str]]:
    import csv

    with (folder / "MANIFEST.csv").open() as lines:
        return list(csv.DictReader(lines))


def test_every_recorded_block_file_is_present_or_rejected_with_a_reason(shared_data: Path) -> None:
    folder = shared_data / "solana" / "blocks"
    records = everything(folder)
    assert Counter((record.state.value, record.proof) for record in records) == {
        ("present", "recorded"): 37,
        ("rejected", "conflicting_hash"): 3,
        ("unknown", "conflicting_hash"): 1,
    }
    # 147078735 is recorded in three encodings and 110130000 in two: the one that decodes fastest is kept.
    kept = {record.slot: Path(record.origin).name for record in records if record.state is PRESENT}
    assert kept[147078735].startswith("147078735-json-")
    assert kept[110130000].startswith("110130000-json-")
    # 195545750 was edited by hand three times, once with another hash, and nothing recorded tells which is true.
    assert {record.slot for record in records if record.state is not PRESENT} == {195545750}
    named = {int(path.name.partition("-")[0]) for path in folder.iterdir() if path.name[0].isdigit() and not path.name.startswith("0to19")}
    assert {record.slot for record in records} == named | set(range(20))


def test_the_slots_before_an_epoch_boundary_block_are_proven_skipped(shared_data: Path) -> None:
    records = read(shared_data / "solana" / "blocks", 64799998, 64800004)
    assert seen(records) == [
        (64799998, "unknown", "not recorded"),
        (64799999, "unknown", "not recorded"),
        *[(slot, "skipped", "parent link of 64800004") for slot in range(64800000, 64800004)],
        (64800004, "present", "recorded"),
    ]


def test_every_recorded_transaction_file_is_used_or_rejected_with_a_reason(shared_data: Path) -> None:
    folder = shared_data / "solana" / "transactions"
    source = ArchiveSource(str(folder))
    report = source.check()
    files = [path for path in folder.iterdir() if path.is_file()]
    records = _all_of(source, folder)
    used = [record for record in records if record.proof == "transactions_only"]
    rejected = [record for record in records if record.state is REJECTED]
    assert report.detail.startswith(f"{len(files)} files, ")
    assert Counter(record.proof for record in rejected) == {"no_slot": 6, "not_a_block": 6}
    assert {record.slot for record in rejected if record.proof == "no_slot"} == {None}
    assert all("txupdate" in record.origin for record in rejected if record.proof == "not_a_block")
    transactions = sum(len(json.loads(record.payload)) for record in used)
    # One transaction is recorded in three encodings, and counts once.
    assert transactions == len(files) - len(rejected) - 2
    assert {len(json.loads(record.payload)) for record in used} == {1, 2}
    assert all(record.format is Format.GET_TRANSACTION for record in used)


def _all_of(source: ArchiveSource, folder: Path) -> list[RawRecord]:
    found = set()
    for path in folder.iterdir():
        value = json.loads(path.read_bytes())
        value = value[0] if isinstance(value, list) else value
        found.add(value.get("result", value).get("slot"))
    return [record for slot in sorted(found - {None}) for record in source.read(SlotRange(slot, slot))]

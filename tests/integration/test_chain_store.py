"""Chains in a real lake: appended to by many, killed, full; verified by every way, with every kind of damage."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from blyan.chain import marks, store
from blyan.chain.block import InvalidBlockError, Ref, make_block
from blyan.chain.dag import Graph
from blyan.chain.rules import MissingDependencyError
from blyan.chain.store import CHECKPOINTS, TABLES, Chains, Offered
from blyan.chain.verify import Report, verify_from, verify_full, verify_new, verify_sampled
from blyan.errors import CommitConflictError, MissingObjectError, PermanentError, StoreFullError
from blyan.lake import Lake
from tests import chain_writer
from tests.chains import KEY, KEYS, Clock, extended, founded, genesis, rewrite, row_of, signed_again
from tests.small_disk import small_disk

WAYS = multiprocessing.get_context("forkserver")
WAYS.set_forkserver_preload(["tests.chain_writer", "deltalake", "deltalake.transaction", "pyarrow.parquet", "pyarrow.fs"])


def faults(report: Report) -> list[tuple[int, str]]:
    return [(fault.height, fault.field) for fault in report.faults]


@pytest.fixture
def chains(tmp_path: Path) -> Chains:
    return founded(tmp_path / "lake")


# Appending


def test_a_network_is_founded_once_and_every_chain_descends_from_it(chains: Chains) -> None:
    again = chains.found(KEY, genesis())
    assert {chain: chains.size(chain) for chain in "ABD"} == {"A": 1, "B": 1, "D": 1}
    assert again["B"].header.depends_on == again["D"].header.depends_on == (again["A"].ref,)
    assert chains.network == hashlib.sha256(genesis()).hexdigest()
    with pytest.raises(PermanentError, match="is in this lake already"):
        chains.found(KEY, genesis("another"))
    assert all(verify_full(chains, chain).good for chain in "ABD")


def test_a_block_is_read_as_it_was_written(chains: Chains) -> None:
    base = chains.write(KEY, "D", "dataset", b"rows", semver="1.0.0", metadata={"rows": 4})
    model = chains.write(KEY, "B", "expert", b"", depends_on=[base.ref])
    assert chains.block("D", 1) == base
    assert chains.block("B", 1) == model
    assert chains.payloads.get(base.header.payload_sha256) == b"rows"
    with pytest.raises(MissingObjectError, match="has no block 2"):
        chains.block("D", 2)
    with pytest.raises(MissingObjectError, match="has no block -1"):
        chains.block("D", -1)
    with pytest.raises(PermanentError, match="no chain 'C'"):
        chains.size("C")
    with pytest.raises(MissingObjectError, match="no network here"):
        Chains(Lake(chains.lake.root + "-none")).network  # noqa: B018


def test_a_large_payload_may_be_a_file(chains: Chains, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(9 << 20))
    block = chains.write(KEY, "B", "expert", path)
    assert block.header.payload_size == 9 << 20
    assert verify_full(chains, "B").payload_bytes == 9 << 20


def test_appending_again_changes_nothing_and_another_block_is_a_conflict(chains: Chains) -> None:
    blocks = extended(chains, "D", 5)
    before = chains.lake.version(TABLES["D"])
    other = Chains(Lake(chains.lake.root), clock=chains.clock)
    for writer in (chains, other):
        assert writer.append("D", [Offered(block) for block in blocks[2:]]) == 0
    assert chains.lake.version(TABLES["D"]) == before
    with pytest.raises(CommitConflictError, match=r"another block 3.*make the block again"):
        other.append("D", [Offered(signed_again(blocks[2], time_ns=str(chains.clock())))])
    assert other.append("D", [Offered(blocks[4]), *(Offered(block) for block in _following(other, 2))]) == 2
    assert verify_full(chains, "D").good


def _following(chains: Chains, count: int) -> list[Any]:
    progress, blocks = chains.progress("D"), []
    for _ in range(count):
        block = make_block(
            KEY,
            network=chains.network,
            chain="D",
            height=progress.size,
            previous=progress.head,
            kind="dataset",
            payload_sha256=hashlib.sha256(b"").hexdigest(),
            payload_size=0,
            time_ns=chains.clock(),
        )
        progress.size, progress.head = progress.size + 1, block.hash
        blocks.append(block)
    return blocks


def test_two_who_saw_the_same_last_block_do_not_fork_the_chain(chains: Chains) -> None:
    other = Chains(Lake(chains.lake.root), clock=chains.clock)
    (mine,), (theirs,) = _following(chains, 1), _following(other, 1)
    assert mine.hash != theirs.hash
    chains.progress("D")
    other._seen["D"] = other.progress("D")
    chains.append("D", [Offered(mine)])
    with pytest.raises(CommitConflictError, match="another block 1"):
        other.append("D", [Offered(theirs)])
    with pytest.raises(CommitConflictError):
        other.append("D", [Offered(theirs)])
    again = other.write(KEY, "D", "dataset", b"made again")
    assert (again.header.height, again.header.previous) == (2, mine.hash)
    assert verify_full(chains, "D").blocks == 3


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"previous": "00" * 32}, "previous"),
        ({"height": 7}, "height"),
        ({"chain": "B"}, "chain"),
        ({"network": "00" * 32}, "network"),
        ({"time_ns": "5"}, "time_ns"),
        ({"time_ns": str(2**62)}, "time_ns"),
        ({"depends_on": (Ref("A", 0, "00" * 32),)}, "depends_on"),
        ({"depends_on": (Ref("B", 9, "00" * 32),)}, "depends_on"),
        ({"payload_size": 1}, "payload_size"),
        ({"payload_sha256": "00" * 32}, "payload_sha256"),
        ({"producer": KEYS[1].public.hex()}, "signature"),
    ],
)
def test_a_block_that_does_not_fit_is_not_appended(chains: Chains, changes: dict[str, Any], field: str) -> None:
    good, bad = _following(chains, 2)
    with pytest.raises(InvalidBlockError) as caught:
        chains.append("D", [Offered(good), Offered(signed_again(bad, **changes))])
    assert caught.value.field == field
    assert chains.size("D") == 1, "all or none"
    fit, error = chains.fitting("D", [Offered(good), Offered(signed_again(bad, **changes))])
    assert ([item.block for item in fit], error.field if error else None) == ([good], field)
    assert chains.append("D", [Offered(good), Offered(bad)]) == 2, "the negative control"


def test_a_payload_other_than_the_header_names_is_refused(chains: Chains) -> None:
    (block,) = _following(chains, 1)
    block = signed_again(block, payload_sha256=hashlib.sha256(b"right").hexdigest(), payload_size=5)
    for payload, field in [(b"wrong", "payload_sha256"), (b"longer", "payload_size"), (None, "payload_sha256")]:
        with pytest.raises(InvalidBlockError) as caught:
            chains.append("D", [Offered(block, payload)])
        assert caught.value.field == field
    assert chains.append("D", [Offered(block, b"right")]) == 1


def test_a_block_of_another_network_does_not_count_here(chains: Chains, tmp_path: Path) -> None:
    """A replay: the same keys, the same heights, another genesis."""
    other = founded(tmp_path / "other", "another")
    for block in extended(other, "D", 2):
        with pytest.raises(InvalidBlockError, match="network: of another network"):
            chains.append("D", [Offered(signed_again(block, previous=chains.progress("D").head))])
    replayed = other.block("A", 0)
    with pytest.raises(CommitConflictError, match="another block 0"):
        chains.append("A", [Offered(replayed, genesis("another"))])


def test_a_dependency_that_is_not_here_yet_is_told_apart(chains: Chains) -> None:
    (block,) = _following(chains, 1)
    late = signed_again(block, depends_on=(Ref("B", 1, "00" * 32),))
    with pytest.raises(MissingDependencyError, match="B:1:000000000000 is not here"):
        chains.append("D", [Offered(late)])
    (expert,) = extended(chains, "B", 1)
    assert expert.header.height == 1
    with pytest.raises(InvalidBlockError, match="is another block") as caught:
        chains.append("D", [Offered(late)])
    assert not isinstance(caught.value, MissingDependencyError)
    assert chains.append("D", [Offered(signed_again(block, depends_on=(expert.ref,), time_ns=str(chains.clock())))]) == 1


def test_an_older_block_may_depend_on_no_younger_one(chains: Chains) -> None:
    (block,) = _following(chains, 1)
    (expert,) = extended(chains, "B", 1)
    with pytest.raises(InvalidBlockError, match="ns younger"):
        chains.append("D", [Offered(signed_again(block, depends_on=(expert.ref,)))])


def test_a_block_is_no_older_than_what_it_depends_on_whatever_its_makers_clock_says(chains: Chains) -> None:
    data = chains.write(KEY, "D", "dataset", b"rows")
    slow = Chains(chains.lake, clock=lambda: int(data.header.time_ns) - 60 * 10**9)
    model = slow.write(KEY, "B", "expert", depends_on=[data.ref])
    assert model.header.time_ns == data.header.time_ns
    assert verify_full(chains, "B").good


def test_the_log_and_the_files_stay_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FOLDS", ((40, 4 << 20), (8, 256 << 10)))
    chains = founded(tmp_path / "lake")
    count = 3 * CHECKPOINTS
    sizes = []
    for _ in range(count):
        chains.write(KEY, "D", "dataset", b"same")
        sizes.append(len(chains.lake.files(TABLES["D"])))
    log = Path(chains.lake.root) / TABLES["D"].name / "_delta_log"
    checkpoints = sorted(log.glob("*.checkpoint.parquet"))
    assert len(checkpoints) >= 3
    import pyarrow.parquet as pq

    assert max(sizes) <= 9
    assert len(list(log.glob("*.json"))) < 3 * CHECKPOINTS + 20, "of the last minute; older ones go"
    actions = pq.read_table(checkpoints[-1])
    assert actions["remove"].null_count == actions.num_rows, "what was folded is forgotten"
    assert [row.height for row in chains.rows("D")] == list(range(count + 1))
    assert verify_full(chains, "D").good


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often tables are opened, files of the store read, headers read, and payloads read, while the real thing runs."""
    from blyan.chain import rules
    from blyan.chain.payloads import Payloads

    counts = {"tables": 0, "files": 0, "headers": 0, "payloads": 0}

    def count(owner: Any, name: str, what: str) -> None:
        real = getattr(owner, name)

        def counting(*arguments: Any, **more: Any) -> Any:
            counts[what] += 1
            return real(*arguments, **more)

        monkeypatch.setattr(owner, name, counting)

    count(Lake, "_find", "tables")
    count(Lake, "_read_file", "files")
    count(rules, "read_header", "headers")
    count(Payloads, "_digest", "payloads")
    return counts


def test_an_append_does_the_same_work_at_any_length(chains: Chains, counted: dict[str, int]) -> None:
    """The implementation that this replaces reads the whole chain for each."""
    work = []
    for length in (10, 2_000):
        extended(chains, "D", length, payload=b"")
        chains.write(KEY, "D", "dataset", b"warm %d" % length)
        counted.update(dict.fromkeys(counted, 0))
        for number in range(3):
            chains.write(KEY, "D", "dataset", b"%d at %d" % (number, length))
        work.append(dict(counted))
    assert work[0] == work[1]
    assert work[0] == {"tables": 3, "files": 0, "headers": 6, "payloads": 3}


def test_a_verification_reads_everything_once(chains: Chains, counted: dict[str, int]) -> None:
    """The implementation that this replaces reads the chain again for each of its blocks."""
    work = []
    for length in (50, 2_000):
        extended(chains, "D", length - chains.size("D"), payload=b"", depends_on=[chains.block("A", 0).ref])
        chains.network  # noqa: B018
        counted.update(dict.fromkeys(counted, 0))
        assert verify_full(chains, "D").good
        work.append((dict(counted), length))
    for counts, length in work:
        assert (counts["headers"], counts["payloads"]) == (length + 1, length), "each block, and the one of A that all depend on"
        assert counts["tables"] <= 6
        assert counts["files"] <= 4
    mark = verify_new(chains, "D")
    extended(chains, "D", 3)
    counted.update(dict.fromkeys(counted, 0))
    assert verify_new(chains, "D").blocks == 3
    assert (mark.blocks, counted["headers"], counted["payloads"]) == (2_000, 3, 3)


# Many at once, and killed


def test_writers_at_once_all_end_up_in_the_chain(tmp_path: Path) -> None:
    chains = founded(tmp_path / "lake")
    chains.clock = time.time_ns
    writers, count = 4, 6
    said = []
    processes = []
    for key in range(writers):
        ours, theirs = WAYS.Pipe(duplex=False)
        process = WAYS.Process(target=chain_writer.write, args=(chains.lake.root, key, count, theirs))
        process.start()
        theirs.close()
        processes.append(process)
        said.append(ours)
    hashes = [pipe.recv() for pipe in said for _ in range(count)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    rows = list(chains.rows("D"))
    assert sorted(row.hash for row in rows[1:]) == sorted(hashes)
    assert verify_full(chains, "D").good


def _acknowledged(process: Any, pipe: Connection) -> list[int]:
    heights = []
    while True:
        try:
            heights.append(pipe.recv())
        except EOFError:
            break
    process.join()
    return [height for height in heights if height >= 0]


def test_killed_at_every_step_of_an_append_a_block_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    chains = founded(tmp_path / "lake")
    chains.clock = time.time_ns
    grown = []
    for at in range(200):
        before = chains.size("D")
        ours, theirs = WAYS.Pipe(duplex=False)
        process = WAYS.Process(target=chain_writer.append_and_die, args=(chains.lake.root, at, theirs))
        process.start()
        theirs.close()
        said = _acknowledged(process, ours)
        grown.append(chains.size("D") - before)
        assert grown[-1] in (0, 1)
        assert verify_new(chains, "D").good
        if said:
            assert (process.exitcode, grown[-1]) == (0, 1)
            break
        assert process.exitcode == -signal.SIGKILL
    assert said, "it was not killed in the end"
    assert len(grown) > 10
    assert grown[0] == 0
    assert grown == sorted(grown), "once it is in, it is in"
    assert verify_full(chains, "D").good


def kill_at_random(folder: Path, times: int) -> None:
    chains = founded(folder)
    chains.clock = time.time_ns
    known = 0
    for turn in range(times):
        ours, theirs = WAYS.Pipe(duplex=False)
        process = WAYS.Process(target=chain_writer.append_until_killed, args=(chains.lake.root, turn, theirs))
        process.start()
        theirs.close()
        said = [ours.recv() for _ in range(1 + turn % 3)]  # that it began, and a few blocks
        time.sleep(0.001 * (turn * 37 % 60))
        os.kill(process.pid, signal.SIGKILL)
        said += _acknowledged(process, ours)
        size = chains.size("D")
        assert size > max(said, default=0), "what was said to be in is in"
        assert size >= known
        known = size
        assert verify_new(chains, "D").good
    report = verify_full(chains, "D")
    assert (report.good, report.blocks, report.payloads) == (True, known, known)
    assert known > sum(turn % 3 for turn in range(times))


def test_killed_at_any_moment_the_chain_holds(tmp_path: Path) -> None:
    kill_at_random(tmp_path / "lake", 8)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_killed_hundreds_of_times_the_chain_holds(tmp_path: Path) -> None:
    kill_at_random(tmp_path / "lake", 300)


def test_a_disk_that_fills_up_leaves_the_chain_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "700k") as folder:
        chains = founded(folder / "lake")
        payload = os.urandom(30_000)
        with pytest.raises(StoreFullError):
            [chains.write(KEY, "D", "dataset", payload[number:]) for number in range(1_000)]
        size = chains.size("D")
        assert size > 3
        assert verify_full(chains, "D").good
        for refused in range(3):
            with pytest.raises(StoreFullError):
                chains.write(KEY, "D", "dataset", os.urandom(60_000 + refused))
        assert chains.size("D") == size
        for height in range(1, 4):
            digest = chains.block("D", height).header.payload_sha256
            (Path(chains.lake.root) / "chain/payloads" / digest[:2] / digest[2:4] / digest).unlink()
        chains.write(KEY, "D", "dataset", b"there is space again")
        report = verify_full(chains, "D")
        assert (report.size, faults(report)) == (size + 1, [(height, "payload_sha256") for height in (1, 2, 3)])


# Verifying


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Chains:
    """Forty blocks of D, ten of B that depend on them."""
    chains = founded(tmp_path_factory.mktemp("long") / "lake")
    made = extended(chains, "D", 40)
    for number in range(10):
        extended(chains, "B", 1, depends_on=[made[number * 3].ref, made[number].ref] if number else [made[0].ref])
    return chains


@pytest.fixture
def copy(long: Chains, tmp_path: Path) -> Chains:
    """A copy that may be damaged."""
    import shutil

    shutil.copytree(long.lake.root, tmp_path / "copy")
    return Chains(Lake(str(tmp_path / "copy")), clock=long.clock)


def test_a_chain_that_nobody_touched_is_good_by_every_way(long: Chains) -> None:
    full = verify_full(long, "D")
    assert (full.good, full.blocks, full.signatures, full.payloads, full.absent) == (True, 41, 41, 41, 0)
    head = full.tree_head(long.network)
    from blyan.chain.log import SignedHead, Trust

    signed = SignedHead(replace_size(long, 25), {}).signed_by(KEY)
    found = verify_from(long, signed, Trust(frozenset({KEY.public.hex()}), 1))
    assert (found.good, found.trusted, found.blocks, found.root) == (True, 25, 16, head.root)
    sampled = verify_sampled(long, "D", 10, seed=1)
    assert (sampled.good, sampled.blocks) == (True, 10)
    assert verify_sampled(long, "D", 1_000).blocks == 41


def replace_size(chains: Chains, size: int) -> Any:
    """The head of D as it was at a size."""
    from blyan.chain.checkpoints import log_of
    from blyan.chain.log import TreeHead

    block = chains.block("D", size - 1)
    return TreeHead(chains.network, "D", size, log_of(chains, "D").root(size).hex(), block.hash, block.header.time_ns)


CHANGED: dict[str, Any] = {
    "version": 2,
    "network": "00" * 32,
    "chain": "B",
    "height": 21,
    "previous": "00" * 32,
    "depends_on": (Ref("A", 0, "00" * 32),),
    "kind": "Other",
    "payload_sha256": "00" * 32,
    "payload_size": 5,
    "producer": KEYS[1].public.hex(),
    "time_ns": "5",
    "semver": "1",
    "metadata": {"a": 0.5},
}


@pytest.mark.parametrize("resigned", [True, False], ids=["signed again", "signature kept"])
@pytest.mark.parametrize("field", CHANGED)
def test_a_changed_field_of_a_stored_header_is_found_at_its_height(copy: Chains, field: str, resigned: bool) -> None:
    """The implementation that this replaces lets edits of the previous hash, the time and the index pass."""
    block = copy.block("D", 20)
    bad = signed_again(block, **{field: CHANGED[field]})
    rewrite(copy, "D", {20: row_of(bad, height=20) if resigned else row_of(bad, height=20, signature=block.signature)})
    report = verify_full(copy, "D")
    assert faults(report)[0] == (20, "signature" if field == "producer" else field), report.faults
    if field != "producer" or not resigned:
        assert (21, "previous") in faults(report)
    assert all(height in (20, 21) for height, _ in faults(report)), "each block is judged by itself"


def test_a_valid_field_that_was_changed_and_signed_again_breaks_the_link_after_it(copy: Chains) -> None:
    block = copy.block("D", 20)
    rewrite(copy, "D", {20: row_of(signed_again(block, metadata={"rows": 1}))})
    assert faults(verify_full(copy, "D")) == [(21, "previous")]
    last = copy.block("D", 40)
    rewrite(copy, "D", {20: row_of(block), 40: row_of(signed_again(last, metadata={"rows": 1}))})
    assert verify_full(copy, "D").good, "a producer may change his mind about the last block: nothing but a witness or a checkpoint notices"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"signature": "00" * 64}, [(20, "signature")]),
        ({"signature": ""}, [(20, "signature")]),
        ({"hash": "00" * 32}, [(20, "block_hash")]),
        ({"header": b"{}"}, [(20, "version"), (21, "previous")]),
        ({"header": b"\xff not json"}, [(20, "header"), (21, "previous")]),
        ({"height": 19}, [(19, "height"), (20, "height"), (21, "previous")]),
        (None, [(20, "height"), (21, "previous")]),
    ],
)
def test_a_damaged_row_is_found(copy: Chains, change: dict[str, Any] | None, expected: list[tuple[int, str]]) -> None:
    rewrite(copy, "D", {20: None if change is None else row_of(copy.block("D", 20), **change)})
    assert faults(verify_full(copy, "D")) == expected


def test_a_chain_that_was_cut_short_or_swapped_about_is_found(copy: Chains) -> None:
    assert verify_new(copy, "D").good
    one, other = copy.block("D", 10), copy.block("D", 11)
    rewrite(copy, "D", {10: row_of(other, height=10), 11: row_of(one, height=11)})
    assert [height for height, _ in faults(verify_full(copy, "D"))] == [10, 11, 12]
    rewrite(copy, "D", {10: row_of(one), 11: row_of(other), 40: None})
    assert verify_full(copy, "D").good, "a shorter chain is a chain"
    assert faults(verify_new(copy, "D")) == [(40, "block_hash")], "but not for who saw the longer one"


@pytest.mark.parametrize(("damage", "field"), [(b"paYload 20 of D", "payload_sha256"), (b"short", "payload_size"), (None, "payload_sha256")])
def test_a_damaged_payload_is_found(copy: Chains, damage: bytes | None, field: str) -> None:
    digest = copy.block("D", 20).header.payload_sha256
    path = Path(copy.lake.root) / "chain/payloads" / digest[:2] / digest[2:4] / digest
    path.unlink() if damage is None else path.write_bytes(damage)
    report = verify_full(copy, "D")
    assert (faults(report), report.payloads) == ([(20, field)], 40)
    assert verify_full(copy, "D", payloads=False).good


def test_a_dependency_that_was_replaced_in_another_chain_is_found(copy: Chains) -> None:
    block = copy.block("D", 4)
    rewrite(copy, "D", {4: row_of(signed_again(block, metadata={"rows": 1}))})
    report = verify_full(copy, "B")
    assert {fault.field for fault in report.faults} == {"depends_on"}
    assert len(report.faults) == 2, "two blocks depend on it"


def test_what_is_new_is_verified_at_its_own_cost_and_remembered(long: Chains, copy: Chains) -> None:
    assert verify_new(copy, "D").blocks == 41
    assert (verify_new(copy, "D").blocks, verify_new(copy, "D").good) == (0, True)
    extended(copy, "D", 3)
    report = verify_new(copy, "D")
    assert (report.blocks, report.root) == (3, verify_full(copy, "D").root)
    block = copy.block("D", 43)
    extended(copy, "D", 2)
    rewrite(copy, "D", {44: row_of(signed_again(copy.block("D", 44), previous="00" * 32))})
    assert faults(verify_new(copy, "D"))[0] == (44, "previous")
    mark = marks.verified(copy.lake.store, "D")
    assert mark is not None
    assert (mark.size, mark.head) == (44, block.hash), "a chain that does not hold is not remembered as one that does"


def test_a_sample_finds_what_it_happens_to_look_at(copy: Chains) -> None:
    rewrite(copy, "D", {20: row_of(copy.block("D", 20), signature="00" * 64)})
    assert faults(verify_sampled(copy, "D", 41)) == [(20, "signature")]
    found = sum(not verify_sampled(copy, "D", 4, seed=seed).good for seed in range(12))
    assert 0 < found < 12


def test_what_was_remembered_and_then_damaged_is_not_relied_on(copy: Chains) -> None:
    assert verify_new(copy, "D").good
    for damaged in (b"", b"{}", b'{"below":1}'):
        copy.lake.store.put("chain/marks/verified-D.json", damaged)
        with pytest.raises(PermanentError, match=r"damaged.*verify in full"):
            verify_new(copy, "D")
    copy.lake.store.delete(["chain/marks/verified-D.json"])
    assert verify_new(copy, "D").blocks == 41


def test_a_report_counts_all_faults_and_names_the_first(copy: Chains) -> None:
    rewrite(copy, "D", {height: row_of(copy.block("D", height), signature="00" * 64) for height in range(41)})
    from blyan.chain import verify

    report = verify_full(copy, "D")
    assert (report.fault_count, len(report.faults)) == (41, 41)
    assert verify.MAX_FAULTS == 100
    assert report.root is None
    assert verify_full(copy, "D", signatures=False).good


# The graph


def test_diamonds_and_old_parents_are_ordinary(tmp_path: Path) -> None:
    """The implementation that this replaces takes a diamond for a cycle."""
    chains = founded(tmp_path / "lake")
    (one,) = extended(chains, "D", 1)
    (two,) = extended(chains, "D", 1, depends_on=[one.ref])
    (three,) = extended(chains, "D", 1, depends_on=[one.ref])
    (four,) = extended(chains, "D", 1, depends_on=[two.ref, three.ref, one.ref])
    (expert,) = extended(chains, "B", 1, depends_on=[four.ref])
    assert verify_full(chains, "D").good
    graph = Graph.read(chains)
    assert graph.ancestors(("D", 4)) == [one.ref, two.ref, three.ref]
    assert graph.descendants(("D", 1)) == [expert.ref, two.ref, three.ref, four.ref]
    assert graph.descendants(("D", 3)) == [expert.ref, four.ref]
    assert graph.ancestors(("B", 1), ("D", 1)) == [two.ref, three.ref, four.ref]
    assert graph.ancestors(("D", 2), previous=True)[0].chain == "A"
    with pytest.raises(MissingObjectError, match="no block 9"):
        graph.ancestors(("D", 9))


def test_no_block_can_depend_on_itself_or_a_later_one(chains: Chains) -> None:
    (block,) = _following(chains, 1)
    for ref in (Ref("D", 1, block.hash), Ref("D", 2, block.hash)):
        with pytest.raises(InvalidBlockError, match="is not earlier"):
            chains.append("D", [Offered(signed_again(block, depends_on=(ref,)))])


def test_a_graph_a_hundred_thousand_deep_is_walked_without_recursion() -> None:
    depth = 100_000
    assert sys.getrecursionlimit() < depth
    hashes = {("D", height): f"{height:064x}" for height in range(depth)}
    links = {("D", height): (("D", height - 1), ("D", height // 2)) for height in range(1, depth)}
    back: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for place, parents in links.items():
        for parent in parents:
            back.setdefault(parent, []).append(place)
    graph = Graph(hashes, links, {place: tuple(items) for place, items in back.items()})
    assert len(graph.ancestors(("D", depth - 1))) == depth - 1
    assert len(graph.descendants(("D", 0))) == depth - 1


def test_the_clock_is_not_asked_of_blocks_that_are_here(long: Chains) -> None:
    """A chain does not become wrong because a clock does: it is ahead of a clock that is behind, and that is said."""
    slow = Clock()
    slow.now_ns = 0
    report = verify_full(replace_clock(long, slow), "D")
    assert {fault.field for fault in report.faults} == {"time_ns"}
    assert "ahead of this clock" in report.faults[0].what


def replace_clock(chains: Chains, clock: Clock) -> Chains:
    return Chains(chains.lake, clock=clock)

"""More than one node: sync in full and fast, files, checkpoints, pruning, the witness over real chains, and the commands."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blyan.chain import marks
from blyan.chain.block import InvalidBlockError
from blyan.chain.checkpoints import log_of, newest, sign
from blyan.chain.commands import app
from blyan.chain.exchange import export, import_lines
from blyan.chain.log import ForkError, SignedHead, TreeHeadError, Trust
from blyan.chain.pruning import prune
from blyan.chain.rules import MissingDependencyError, Row
from blyan.chain.store import Chains
from blyan.chain.sync import SUBTREE, LakePeer, sync
from blyan.chain.verify import verify_from, verify_full
from blyan.chain.witness import Witness
from blyan.errors import CommitConflictError, MissingObjectError, PermanentError, TransientError
from blyan.lake import Lake
from blyan.store import Store
from tests.chains import KEY, KEYS, extended, founded, genesis, rewrite, row_of, signed_again
from tests.object_stores import s3_store

SIGNERS = KEYS[4:7]
LONG = 2 * SUBTREE + 100


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Chains:
    """A node with chains that depend on each other both ways, and checkpoints of B and D that two of three keys signed."""
    chains = founded(tmp_path_factory.mktemp("node") / "lake")
    data = extended(chains, "D", 3)
    model = extended(chains, "B", 1, depends_on=[data[2].ref])
    extended(chains, "A", 1, depends_on=[model[0].ref], kind="spec")
    extended(chains, "D", 2, depends_on=[chains.block("A", 1).ref, model[0].ref])
    for chain in "BD":
        for key in SIGNERS[:2]:
            sign(chains, chain, key)
    extended(chains, "D", 2)
    return chains


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Chains:
    """A node with so many blocks of D that its log has more than two subtrees, all without payloads, and a checkpoint."""
    chains = founded(tmp_path_factory.mktemp("long") / "lake")
    extended(chains, "D", LONG - 1, payload=b"")
    for chain in "BD":
        for key in SIGNERS[:2]:
            sign(chains, chain, key)
    extended(chains, "D", 5)
    return chains


@pytest.fixture
def mine(tmp_path: Path, node: Chains) -> Chains:
    """A node that has nothing yet."""
    return Chains(Lake(str(tmp_path / "mine")), clock=node.clock)


class Liar(LakePeer):
    """A peer that gives some other rows, and goes away after some payloads."""

    def __init__(self, chains: Chains, *, rows_instead: dict[tuple[str, int], Row] | None = None, payloads_left: int = 1_000_000) -> None:
        super().__init__(chains)
        self.rows_instead, self.payloads_left = rows_instead or {}, payloads_left
        self.asked: list[str] = []

    def rows(self, chain: str, first: int = 0, end: int | None = None) -> Iterator[Row]:
        for row in super().rows(chain, first, end):
            yield self.rows_instead.get((chain, row.height), row)

    def payload(self, digest: str) -> bytes:
        if len(self.asked) >= self.payloads_left:
            raise TransientError("the peer went away", where="test", remedy="again")
        self.asked.append(digest)
        return super().payload(digest)


def heads_of(chains: Chains) -> dict[str, str | None]:
    return {chain: verify_full(chains, chain).root for chain in "ABD"}


# Sync


def test_a_full_sync_brings_every_chain_whatever_depends_on_what(node: Chains, mine: Chains) -> None:
    done = sync(mine, LakePeer(node))
    assert {chain: (synced.size, synced.verified, synced.trusted) for chain, synced in done.items()} == {
        "A": (2, 2, 0),
        "B": (2, 2, 0),
        "D": (8, 8, 0),
    }
    assert heads_of(mine) == heads_of(node)
    assert None not in heads_of(mine).values()
    assert sum(synced.verified for synced in sync(mine, LakePeer(node)).values()) == 0


def test_a_sync_that_was_cut_off_goes_on(node: Chains, mine: Chains) -> None:
    asked: list[str] = []
    for left in range(1, 30):
        peer = Liar(node, payloads_left=left % 3)
        try:
            sync(mine, peer)
        except TransientError:
            asked += peer.asked
            assert all(verify_full(mine, chain).good for chain in "ABD" if mine.size(chain))
        else:
            break
    assert heads_of(mine) == heads_of(node)
    assert len(asked) == len(set(asked)), "no payload is fetched twice"


def test_a_longer_chain_that_is_wrong_is_refused_where_it_is_wrong(node: Chains, mine: Chains) -> None:
    peer = Liar(node, rows_instead={("D", 6): row_of(node.block("D", 6), signature="00" * 64)})
    with pytest.raises(InvalidBlockError, match=r"signature.*D:6"):
        sync(mine, peer)
    assert mine.size("D") == 6
    assert verify_full(mine, "D").good
    for bad, name in [
        (row_of(signed_again(node.block("D", 6), time_ns="5")), "time_ns"),
        (row_of(signed_again(node.block("D", 6), payload_size=3)), "payload_size"),
        (Row(6, "", b"{}", ""), "version"),
    ]:
        with pytest.raises(InvalidBlockError) as caught:
            sync(mine, Liar(node, rows_instead={("D", 6): bad}))
        assert (caught.value.field, mine.size("D")) == (name, 6)
    sync(mine, LakePeer(node))
    assert heads_of(mine) == heads_of(node)


def test_another_history_is_refused_whatever_its_length(node: Chains, mine: Chains) -> None:
    sync(mine, LakePeer(node))
    extended(mine, "D", 1, payload=b"mine")
    before = heads_of(mine)
    theirs = Chains(Lake(mine.lake.root + "-theirs"), clock=node.clock)
    sync(theirs, LakePeer(node))
    extended(theirs, "D", 5, payload=b"theirs")
    with pytest.raises(ForkError, match=r"block 8 of D.*nobody decides by length"):
        sync(mine, LakePeer(theirs))
    assert heads_of(mine) == before


def test_another_network_is_refused(node: Chains, mine: Chains, tmp_path: Path) -> None:
    other = founded(tmp_path / "other", "another")
    with pytest.raises(ForkError, match="network"):
        sync(mine, LakePeer(other), network=node.network)
    sync(mine, LakePeer(node), network=node.network)
    with pytest.raises(ForkError, match="network"):
        sync(mine, LakePeer(other))
    fresh = Chains(Lake(str(tmp_path / "fresh")), clock=node.clock)
    pretending = Liar(node, rows_instead={("A", 0): other.row("A", 0)})
    with pytest.raises(InvalidBlockError, match="of another network"):
        sync(fresh, pretending, network=node.network)
    assert fresh.size("A") == 0


def test_a_peer_that_lacks_a_dependency_is_found_out(node: Chains, mine: Chains, tmp_path: Path) -> None:
    class Half(LakePeer):
        def size(self, chain: str) -> int:
            return min(super().size(chain), 1) if chain == "B" else super().size(chain)

    with pytest.raises(MissingDependencyError, match="B:1"):
        sync(mine, Half(node))
    assert {chain: mine.size(chain) for chain in "ABD"} == {"A": 1, "B": 1, "D": 4}
    sync(mine, LakePeer(node))
    assert heads_of(mine) == heads_of(node)


def test_a_fast_sync_takes_headers_as_signed_and_verifies_the_rest(long: Chains, mine: Chains) -> None:
    peer = Liar(long)
    done = sync(mine, peer, fast=True)
    assert (done["D"].trusted, done["D"].verified, done["D"].size) == (LONG, 5, LONG + 5)
    assert len(peer.asked) == 6, "the rules, and the payloads of the five blocks above the checkpoint"
    assert [row.hash for row in mine.rows("D")] == [row.hash for row in long.rows("D")]
    assert verify_full(mine, "D").good, "what was not verified then holds when it is"
    mark = marks.verified(mine.lake.store, "D")
    assert mark is not None
    assert mark.frontier().top() == log_of(long, "D").root(LONG)
    assert sync(mine, peer, fast=True)["D"].trusted == 0


def test_a_fast_sync_finds_a_liar_at_the_first_wrong_batch_and_goes_on_with_another(long: Chains, mine: Chains) -> None:
    at = SUBTREE + 7
    block = long.block("D", at)
    for instead in (
        row_of(block, signature="00" * 64),
        row_of(signed_again(block, metadata={"a": 1})),
        row_of(block, height=3),
        row_of(block, hash="00" * 32),
        row_of(block, signature="x"),
        row_of(block, signature=block.signature.upper()),
    ):
        with pytest.raises(TreeHeadError, match=f"the peer's blocks {SUBTREE} to {2 * SUBTREE - 1} are not those that were signed"):
            sync(mine, Liar(long, rows_instead={("D", at): instead}), fast=True)
    assert mine.size("D") == SUBTREE, "the first batch was right"
    done = sync(mine, LakePeer(long), fast=True)
    assert (done["D"].trusted, done["D"].size) == (LONG - SUBTREE, LONG + 5)
    assert verify_full(mine, "D", payloads=False).good


def test_a_fast_sync_needs_a_checkpoint_that_counts(long: Chains, mine: Chains) -> None:
    strict = Trust(frozenset(key.public.hex() for key in SIGNERS), 3)
    with pytest.raises(TreeHeadError, match="3 of 3 keys signed"):
        sync(mine, LakePeer(long), fast=True, trust=strict)

    class Forged(LakePeer):
        def heads(self, chain: str) -> list[SignedHead]:
            signed = super().heads(chain)[0]
            other = SignedHead(type(signed.head)(*[*signed_fields(signed)[:3], "00" * 32, *signed_fields(signed)[4:]]), {})
            return [other.signed_by(SIGNERS[0]).signed_by(SIGNERS[1])]

    with pytest.raises(TreeHeadError, match="is not the one that was signed"):
        sync(mine, Forged(long), fast=True)
    assert mine.size("D") == 0


def test_signatures_that_no_trusted_key_made_are_not_kept(node: Chains, mine: Chains, tmp_path: Path) -> None:
    class Stuffed(LakePeer):
        def heads(self, chain: str) -> list[SignedHead]:
            more = {SIGNERS[2].public.hex(): "00" * 64, "ff" * 32: "00" * 64, "x/../../../../../evil": "owned"}
            return [SignedHead(signed.head, signed.signatures | more) for signed in super().heads(chain)]

    sync(mine, Stuffed(node), fast=True)
    (kept,) = marks.heads(mine.lake.store, "D")
    assert kept.signatures.keys() == {key.public.hex() for key in SIGNERS[:2]}
    assert not list(tmp_path.glob("evil*")), "a peer does not choose the names of files"


def test_a_peer_that_never_ends_is_cut_off(node: Chains, mine: Chains) -> None:
    class Endless(LakePeer):
        given = 0

        def rows(self, chain: str, first: int = 0, end: int | None = None) -> Iterator[Row]:
            for row in itertools.cycle(super().rows(chain, first, end)):
                self.given += 1
                assert self.given < 100, "more rows were taken than were asked for"
                yield row

    for fast in (False, True):
        with pytest.raises((InvalidBlockError, TreeHeadError)):
            sync(mine, Endless(node), fast=fast)


def test_a_lake_that_says_it_is_endless_has_the_subtrees_of_a_checkpoint(node: Chains, mine: Chains) -> None:
    sync(mine, LakePeer(node))
    rewrite(mine, "D", {7: mine.row("D", 7)._replace(height=2**62)})
    assert mine.size("D") == 2**62 + 1
    assert LakePeer(mine).subtrees("D", 6) == LakePeer(node).subtrees("D", 6)


@pytest.mark.parametrize("damaged", [b"", b"zeros"], ids=["cut short", "of the same length"])
def test_a_payload_that_a_loss_of_power_damaged_is_fetched_again(node: Chains, mine: Chains, damaged: bytes) -> None:
    header = node.block("D", 2).header
    mine.lake.store.put(payload_name(header.payload_sha256), bytes(header.payload_size) if damaged else b"")
    sync(mine, LakePeer(node))
    assert heads_of(mine) == heads_of(node)


def test_a_payload_that_was_not_asked_for_is_not_kept(node: Chains, mine: Chains) -> None:
    class Junk(LakePeer):
        def payload(self, digest: str) -> bytes:
            return b"junk"

    with pytest.raises(InvalidBlockError, match="payload_size"):
        sync(mine, Junk(node))
    assert mine.lake.store.walk("chain/payloads") == []


def payload_name(digest: str) -> str:
    return f"chain/payloads/{digest[:2]}/{digest[2:4]}/{digest}"


def signed_fields(signed: SignedHead) -> list[Any]:
    head = signed.head
    return [head.network, head.chain, head.size, head.root, head.head, head.time_ns]


# Checkpoints, pruning, the witness


def test_a_checkpoint_is_what_enough_keys_signed(node: Chains) -> None:
    trust = node.governance().trust()
    found = newest(marks.heads(node.lake.store, "D"), trust)
    assert found is not None
    assert (found.head.size, len(found.signatures)) == (6, 2)
    assert newest(marks.heads(node.lake.store, "D"), Trust(trust.keys, 3)) is None
    report = verify_from(node, found, trust)
    assert (report.good, report.trusted, report.blocks) == (True, 6, 2)
    with pytest.raises(TreeHeadError):
        verify_from(node, SignedHead(found.head, {}), trust)


def test_nobody_signs_a_chain_that_does_not_hold(node: Chains, mine: Chains) -> None:
    sync(mine, LakePeer(node))
    rewrite(mine, "D", {7: row_of(mine.block("D", 7), signature="00" * 64)})
    with pytest.raises(PermanentError, match=r"block 7 is wrong: signature.*sign nothing"):
        sign(mine, "D", KEY)
    assert marks.heads(mine.lake.store, "D") == []


def test_a_chain_that_is_not_the_one_that_was_signed_does_not_verify_from_there(node: Chains, mine: Chains) -> None:
    sync(mine, LakePeer(node))
    trust = node.governance().trust()
    signed = newest(marks.heads(node.lake.store, "D"), trust)
    assert signed is not None
    for height, change, name in [(2, {"signature": "00" * 64}, "root"), (2, {"hash": "00" * 32}, "block_hash"), (5, {"header": b"{}"}, "block_hash")]:
        good = mine.row("D", height)
        rewrite(mine, "D", {height: good._replace(**change)})
        report = verify_from(mine, signed, trust)
        assert (report.good, report.faults[0].field) == (False, name)
        rewrite(mine, "D", {height: good})
    assert verify_from(mine, signed, trust).good
    rewrite(mine, "D", {2: mine.row("D", 2)._replace(signature="zz" * 64)})
    assert [(fault.height, fault.field) for fault in verify_from(mine, signed, trust).faults] == [(2, "signature")]
    assert [fault.field for fault in verify_full(mine, "D", signatures=False).faults] == ["signature"]


def test_a_checkpoint_of_another_network_does_not_count_here(node: Chains, tmp_path: Path) -> None:
    other, mixed = founded(tmp_path / "other", "another"), tmp_path / "mixed"
    extended(other, "D", 2)
    for key in SIGNERS[:2]:
        signed = sign(other, "D", key)
    (signed,) = marks.heads(other.lake.store, "D")
    founded(mixed)
    shutil.rmtree(mixed / "chain/d")
    shutil.copytree(tmp_path / "other/chain/d", mixed / "chain/d")
    chains = Chains(Lake(str(mixed)), clock=node.clock)
    with pytest.raises(TreeHeadError, match="of network"):
        verify_from(chains, signed, chains.governance().trust())


def test_nothing_is_pruned_into_the_store_itself_or_over_other_bytes(node: Chains, mine: Chains, tmp_path: Path) -> None:
    sync(mine, LakePeer(node))
    trust = node.governance().trust()
    (signed,) = marks.heads(node.lake.store, "D")
    (tmp_path / "link").symlink_to(mine.lake.root)
    for name in (mine.lake.root, str(tmp_path / "link")):
        with pytest.raises(PermanentError, match="the store itself"):
            prune(mine, signed, trust, Store(name, {}))
    header, cold = node.block("D", 1).header, Store(str(tmp_path / "cold"), {})
    cold.put(payload_name(header.payload_sha256), bytes(header.payload_size))
    with pytest.raises(PermanentError, match="SHA-256"):
        prune(mine, signed, trust, cold)
    assert mine.payloads.get(header.payload_sha256) == node.payloads.get(header.payload_sha256)


def test_payloads_below_a_checkpoint_may_leave_and_everything_else_still_verifies(node: Chains, mine: Chains, tmp_path: Path) -> None:
    sync(mine, LakePeer(node))
    trust, cold = node.governance().trust(), Store(str(tmp_path / "cold"), {})
    for key in SIGNERS[:2]:
        signed = sign(mine, "D", key)
    shared = mine.write(KEY, "D", "dataset", mine.payloads.get(mine.block("D", 1).header.payload_sha256))
    signed = newest(marks.heads(mine.lake.store, "D"), trust)
    assert signed is not None
    with pytest.raises(TreeHeadError):
        prune(mine, SignedHead(signed.head, {}), trust, cold)
    done = prune(mine, signed, trust, cold)
    assert (done.below, done.payloads) == (8, 6), "seven payloads, and a block above the checkpoint has one of them"
    report = verify_full(mine, "D")
    assert (report.good, report.absent, report.signatures) == (True, 6, 9)
    assert prune(mine, signed, trust, cold).payloads == 0
    gone = mine.block("D", 2).header.payload_sha256
    with pytest.raises(MissingObjectError):
        mine.payloads.get(gone)
    assert Chains(mine.lake, cold=cold).payloads.get(gone) == node.payloads.get(gone)
    assert mine.payloads.has(shared.header.payload_sha256)
    kept = Path(mine.lake.root) / "chain/payloads" / shared.header.payload_sha256[:2] / shared.header.payload_sha256[2:4]
    (kept / shared.header.payload_sha256).unlink()
    assert not verify_full(mine, "D").good, "a payload above the checkpoint may not be absent"
    signed_a = sign(mine, "A", SIGNERS[0])
    with pytest.raises(PermanentError, match="rules of the network"):
        prune(mine, signed_a, trust, cold)


def test_a_witness_sees_a_real_chain_grow_and_refuses_another(node: Chains, mine: Chains, tmp_path: Path) -> None:
    sync(mine, LakePeer(node))
    fork = Chains(Lake(str(tmp_path / "fork")), clock=node.clock)
    sync(fork, LakePeer(node))
    witness = Witness(tmp_path / "witness", KEYS[3], network=node.network, logs=Trust(frozenset({KEY.public.hex()}), 1))
    witness.observe(sign(mine, "D", KEY), [])
    for _ in range(3):
        extended(mine, "D", 3)
        signed, known = sign(mine, "D", KEY), witness.known("D")
        assert known is not None
        witness.observe(signed, log_of(mine, "D").consistency(known.size, signed.head.size))
    extended(fork, "D", 12, payload=b"other")
    signed = sign(fork, "D", KEY)
    with pytest.raises(ForkError):
        witness.observe(signed, log_of(fork, "D").consistency(17, signed.head.size))
    assert witness.known("D") == sign(mine, "D", KEY).head


# Files


def test_a_chain_goes_through_a_file(node: Chains, mine: Chains) -> None:
    files = {chain: list(export(node, chain)) for chain in "ABD"}
    assert json.loads(files["D"][0]) == {"chain": "D", "first": 0, "format": "blyan chain 1", "network": node.network}
    assert len(files["D"]) == 9
    with pytest.raises(MissingObjectError, match="no network here"):
        import_lines(mine, files["B"])
    with pytest.raises(MissingDependencyError, match="B:1"):
        import_lines(mine, files["A"])
    with pytest.raises(MissingDependencyError):
        import_lines(mine, files["D"])
    assert import_lines(mine, files["B"]) == ("B", 2)
    assert import_lines(mine, files["A"]) == ("A", 1)
    assert import_lines(mine, files["D"]) == ("D", 4)
    assert import_lines(mine, files["D"]) == ("D", 0)
    assert heads_of(mine) == heads_of(node)
    assert list(export(mine, "D", 3))[1:] == files["D"][4:]


def test_a_file_that_was_damaged_is_refused_at_its_line(node: Chains, mine: Chains, tmp_path: Path) -> None:
    sync(mine, LakePeer(node))
    lines = list(export(node, "D"))
    fresh = Chains(Lake(str(tmp_path / "fresh")), clock=node.clock)
    import_lines(fresh, list(export(node, "A"))[:2])
    for line, why in [
        (b"{}\n", "header: it is no line"),
        (lines[3].replace(b'"kind":"dataset"', b'"kind":"dataseT"'), "kind: .*line 4"),
        (lines[3].replace(b'"height":2', b'"height":2,"height":2', 1), "header: it is not in canonical form"),
        (lines[3].replace(b'"payload":"', b'"payload":"AAAA'), "payload_size"),
        (lines[3].replace(b'"payload":"', b'"payload":"*'), "header: it is no line"),
        (lines[3].replace(b'"payload":"', '"payload":"é'.encode()), "header: it is no line"),
        (b'{"header":' + b"[" * 50_000 + b"]" * 50_000 + b',"payload":null,"signature":""}\n', "header: it is no line"),
        (lines[3].replace(b'"signature":"', b'"signature":"00'), "signature"),
    ]:
        with pytest.raises(InvalidBlockError, match=why):
            import_lines(fresh, [*lines[:3], line, *lines[4:]])
        assert fresh.size("D") == 2
    for title in (b"", b"{}", lines[0].replace(b"chain 1", b"chain 2"), lines[0].replace(node.network.encode(), b"00" * 32)):
        with pytest.raises(PermanentError, match="line 1"):
            import_lines(mine, [title, *lines[1:]])
    with pytest.raises(PermanentError, match="no exported chain"):
        import_lines(mine, [])
    other = founded(tmp_path / "other", "another")
    replayed = [lines[0], *list(export(other, "D"))[1:]]
    with pytest.raises(CommitConflictError, match="another block 0"):
        import_lines(mine, replayed)


def test_chains_in_a_bucket_are_the_same(mine: Chains) -> None:
    with s3_store() as store:
        bucket = Chains(store.lake(), clock=mine.clock)
        bucket.found(KEY, genesis())
        block = bucket.write(KEY, "D", "dataset", b"in a bucket")
        assert (verify_full(bucket, "D").good, verify_full(bucket, "D").payload_bytes) == (True, 11)
        assert sync(mine, LakePeer(bucket))["D"].size == 2
        digest = block.header.payload_sha256
        name = f"chain/payloads/{digest[:2]}/{digest[2:4]}/{digest}"
        bucket.lake.store.put(name, b"in a BUCKET")
        assert [fault.field for fault in verify_full(bucket, "D").faults] == ["payload_sha256"]
        bucket.lake.store.delete([name])
        assert [fault.what for fault in verify_full(bucket, "D").faults] == ["it is not in the store"]


# The commands


@pytest.fixture
def blyan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run `blyan chain …` in this process, on a lake of its own; the lines of its output."""
    monkeypatch.setenv("BLYAN_LAKE", str(tmp_path / "lake"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> list[str]:
        done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.output.splitlines()

    return run


def test_the_commands_from_a_key_to_a_node_that_follows(blyan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [blyan("key", f"{number}.pem")[0] for number in range(3)]
    (tmp_path / "pact.txt").write_text("We keep what we wrote.")
    (tmp_path / "rows").write_bytes(b"rows")
    options = [text for key in keys for text in ("--checkpoint", key)]
    lines = blyan(
        "found", "--name", "n", "--pact", "pact.txt", "--voter", keys[0], "--key", "0.pem", *options, "--threshold", "2", "--parameter", "fee=1"
    )
    network = lines[0].removeprefix("network ")
    assert [line[:3] for line in lines[1:]] == ["A:0", "B:0", "D:0"]
    blyan("append", "D", "--kind", "dataset", "--payload", "rows", "--key", "0.pem", "--semver", "1.0.0", "--metadata", '{"rows": 4}')
    (line,) = blyan("append", "B", "--kind", "expert", "--depends-on", "D:1", "--key", "1.pem")
    assert line.endswith("expert, 0 bytes on D:1")
    blyan("propose", "--change", "fee=2", "--effective-height", "9", "--key", "2.pem")
    blyan("vote", "1", "--key", "0.pem")
    blyan("vote", "1", "--key", "0.pem", "--against")
    assert json.loads("\n".join(blyan("parameters")))["fee"] == 1
    shown = json.loads("\n".join(blyan("show", "D", "1")))
    assert (shown["header"]["metadata"], shown["dependents"]) == ({"rows": 4}, ["B:1"])
    assert len(blyan("log", "A", "--count", "3")) == 3
    assert [line.partition(";")[0] for line in blyan("verify")] == ["A (full): good", "B (full): good", "D (full): good"]
    for number in (0, 1):
        for chain in "BD":
            blyan("checkpoint", chain, "--key", f"{number}.pem")
    blyan("append", "D", "--kind", "dataset", "--key", "0.pem")
    assert "2 by a checkpoint" in blyan("verify", "D", "--checkpoint")[0]
    assert json.loads("\n".join(blyan("verify", "D", "--sample", "2", "-o", "json")))[0]["blocks"] == 2
    blyan("verify", "D", "--new")
    assert blyan("prune", "D", "--cold", "cold") == ["1 payloads, 4 bytes, of blocks below 2 are in cold"]
    witnessed = blyan("witness", "D", "--memory", "memory", "--key", "2.pem", "--log-key", keys[0], "--network", network)
    assert set(json.loads(witnessed[0])["signatures"]) == set(keys)
    blyan("export", "A", "a.jsonl")
    assert len(blyan("export", "D", "-", "--cold", "cold")) == 4

    monkeypatch.setenv("BLYAN_LAKE", str(tmp_path / "second"))
    assert blyan("import", "a.jsonl", "--network", network) == ["4 blocks of A are new"]
    assert blyan("sync", str(tmp_path / "lake"), "--fast")[2] == "D: 3 blocks, 1 verified now, 2 by a checkpoint"
    monkeypatch.setenv("BLYAN_LAKE", str(tmp_path / "third"))
    assert blyan("sync", str(tmp_path / "lake"), "--cold", "cold")[2] == "D: 3 blocks, 3 verified now, 0 by a checkpoint"
    rewrite(Chains(Lake(str(tmp_path / "third"))), "D", {1: row_of(Chains(Lake(str(tmp_path / "third"))).block("D", 1), signature="")})
    assert blyan("verify", "D", code=1)[1] == "  D:1 signature: it is not the producer's"


def test_an_error_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BLYAN_")} | {"BLYAN_LAKE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "blyan.cli", "chain", "show", "D", "0"],
        env=environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "chain D has no block 0" in done.stderr

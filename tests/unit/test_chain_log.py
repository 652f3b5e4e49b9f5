"""Trees, logs and the witness, against a second verifier (`tests.chain_oracle`)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.chain.log import ForkError, Log, SignedHead, TreeHead, TreeHeadError, Trust, is_consistent, is_entry, joined, read_head
from blyan.chain.merkle import EMPTY, Frontier, Tree, is_included, leaf_hash
from blyan.chain.witness import Witness
from blyan.ed25519 import SigningKey
from blyan.errors import PermanentError
from tests import chain_oracle as oracle

SIZES = range(257)
ENTRIES = [bytes([number & 255, number >> 8]) * 48 for number in range(257)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
ROOTS = [oracle.mth(ENTRIES[:size]) for size in SIZES]
KEYS = [SigningKey(bytes([number]) * 32) for number in range(1, 6)]
NETWORK = "ab" * 32


@pytest.fixture(scope="module")
def log() -> Log:
    return Log(LEAVES)


def test_every_root_is_that_of_the_rfc_and_a_frontier_has_it_too(log: Log) -> None:
    frontier = Frontier(2)
    for size in SIZES:
        assert log.root(size) == ROOTS[size] == frontier.top()
        if size < 256:
            frontier.add(LEAVES[size])
    assert log.root() == oracle.mth(ENTRIES)
    assert Log([]).root() == EMPTY


def test_consistency_of_every_pair_of_sizes_holds_for_both_verifiers(log: Log) -> None:
    for new in SIZES:
        for old in range(new + 1):
            proof = log.consistency(old, new)
            assert is_consistent(old, new, ROOTS[old], ROOTS[new], proof), (old, new)
            assert oracle.consistent(old, new, ROOTS[old], ROOTS[new], proof), (old, new)


def test_inclusion_at_every_height_of_every_size_holds_for_both_verifiers(log: Log) -> None:
    for size in [*range(1, 70), 127, 128, 129, 255, 256]:
        for height in range(size):
            proof = log.inclusion(height, size)
            assert is_entry(LEAVES[height], height, size, proof, ROOTS[size])
            assert oracle.root_from_path(LEAVES[height], height, size, proof) == ROOTS[size]


def test_no_tampered_proof_holds_for_either_verifier(log: Log) -> None:
    tried = 0
    for old, new in [(1, 2), (3, 7), (4, 7), (6, 8), (64, 100), (65, 100), (100, 255), (128, 256), (129, 200), (200, 256), (255, 256)]:
        for proof in oracle.tampered(log.consistency(old, new)):
            tried += 1
            assert not is_consistent(old, new, ROOTS[old], ROOTS[new], proof)
            assert not oracle.consistent(old, new, ROOTS[old], ROOTS[new], proof)
    for height, size in [(0, 2), (2, 3), (6, 7), (31, 64), (99, 100), (64, 65), (200, 255), (0, 256), (255, 256)]:
        for proof in oracle.tampered(log.inclusion(height, size)):
            tried += 1
            assert not is_entry(LEAVES[height], height, size, proof, ROOTS[size])
            assert oracle.root_from_path(LEAVES[height], height, size, proof) != ROOTS[size]
        good = log.inclusion(height, size)
        for other in {height ^ 1, height - 1, size, -1} - {height}:
            tried += 1
            assert not is_entry(LEAVES[height], other, size, good, ROOTS[size])
        tried += 1
        assert not is_entry(LEAVES[height + 1], height, size, good, ROOTS[size])
    for old in range(1, 64):
        for new in range(old + 1, 64, 3):
            proof = log.consistency(old, new)
            tried += 3
            assert not is_consistent(old, new, ROOTS[old + 1], ROOTS[new], proof)
            assert not is_consistent(old, new, ROOTS[old], ROOTS[new - 1], proof)
            assert not is_consistent(old, new, ROOTS[new], ROOTS[old], proof)
    assert tried >= 1_000


def test_an_old_size_that_was_not_is_no_beginning(log: Log) -> None:
    assert not is_consistent(0, 5, ROOTS[1], ROOTS[5], [])
    assert not is_consistent(5, 4, ROOTS[5], ROOTS[4], [])
    assert not is_consistent(3, 5, ROOTS[3], ROOTS[5], [])
    for sizes in [(6, 5), (-1, 3), (3, 258)]:
        with pytest.raises(TreeHeadError):
            log.consistency(*sizes)


@settings(deadline=None)
@given(st.integers(1, 70), st.sampled_from([2, 8]), st.data())
def test_multiproofs_of_both_arities(size: int, arity: int, data: st.DataObject) -> None:
    tree = Tree(LEAVES[:size], arity)
    places = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    proof = tree.prove(places)
    shown = {place: LEAVES[place] for place in places}
    assert tree.root() == oracle.root(LEAVES[:size], arity)
    assert is_included(shown, size, arity, proof, tree.root())
    for bad in oracle.tampered(proof):
        assert not is_included(shown, size, arity, bad, tree.root())
    place = min(places)
    assert not is_included(shown | {place: LEAVES[place + 1]}, size, arity, proof, tree.root())
    assert not is_included(shown, size + 1, arity, proof, tree.root())
    assert not is_included(shown, size, 10 - arity, proof, tree.root())
    assert not is_included(shown, 2**64, arity, [LEAVES[0]] * (arity - 1) * 64, tree.root())


@settings(deadline=None)
@given(st.integers(0, 80), st.integers(0, 80), st.integers(2, 9))
def test_a_frontier_is_the_tree_wherever_it_is_taken_up_again(size: int, more: int, arity: int) -> None:
    frontier = Frontier(arity)
    for leaf in LEAVES[:size]:
        frontier.add(leaf)
    again = Frontier(arity, size=size, levels=frontier.levels)
    for leaf in LEAVES[size : size + more]:
        again.add(leaf)
    assert again.root() == Tree(LEAVES[: size + more], arity).root() == oracle.root(LEAVES[: size + more], arity)


def test_a_frontier_of_another_size_is_refused() -> None:
    with pytest.raises(PermanentError, match="not what waits after 3"):
        Frontier(2, size=3, levels=[[LEAVES[0]]])
    with pytest.raises(PermanentError, match="arity"):
        Frontier(1)


def test_leaves_and_nodes_cannot_take_each_others_place() -> None:
    """The second preimage of CVE-2012-2459 and of RFC 6962's reason for two prefixes; a length that was cut."""
    tree = Tree(LEAVES[:4], 2)
    children = tree.levels[1]
    assert Tree([leaf_hash(children[0] + children[1])], 2).root() != tree.root()
    assert Tree(children, 2).top() == tree.top()
    assert Tree(children, 2).root() != tree.root(), "the length is in the root"
    assert Tree(LEAVES[:3], 2).root() != Tree([*LEAVES[:3], LEAVES[2]], 2).root()
    assert not is_included({0: children[0]}, 4, 2, [children[1]], tree.root())
    with pytest.raises(PermanentError, match="places"):
        tree.prove([4])
    with pytest.raises(PermanentError, match="places"):
        tree.prove([])


def test_an_eight_ary_proof_is_the_larger_one() -> None:
    """What docs/chain.md says of 96 tiles."""
    sizes = {arity: max(len(Tree(LEAVES[:96], arity).prove([place])) for place in range(96)) for arity in (2, 8)}
    assert sizes == {2: 7, 8: 15}


# Tree heads and the witness


def head_of(log: Log, size: int, **changes: object) -> TreeHead:
    fields: dict[str, object] = {
        "network": NETWORK,
        "chain": "B",
        "size": size,
        "root": log.root(size).hex(),
        "head": "cd" * 32,
        "time_ns": str(size),
    }
    return TreeHead(**(fields | changes))  # type: ignore[arg-type]


def signed(head: TreeHead, *keys: SigningKey) -> SignedHead:
    found = SignedHead(head, {})
    for key in keys:
        found = found.signed_by(key)
    return found


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path, KEYS[4], network=NETWORK, logs=Trust(frozenset({KEYS[0].public.hex()}), 1))


def test_a_head_is_trusted_with_k_of_n_keys(log: Log) -> None:
    trust = Trust(frozenset(key.public.hex() for key in KEYS[:3]), 2)
    head = head_of(log, 5)
    trust.check(signed(head, *KEYS[:2]))
    trust.check(joined([signed(head, KEYS[0]), signed(head, KEYS[2])]))
    for few in (signed(head), signed(head, KEYS[0]), signed(head, KEYS[0], KEYS[3], KEYS[4])):
        with pytest.raises(TreeHeadError, match="must have signed"):
            trust.check(few)
    moved = SignedHead(head_of(log, 6), signed(head, *KEYS[:3]).signatures)
    with pytest.raises(TreeHeadError, match="0 signatures"):
        trust.check(moved)
    with pytest.raises(TreeHeadError, match="of one head"):
        joined([signed(head, KEYS[0]), signed(head_of(log, 6), KEYS[1])])
    for threshold in (0, 4):
        with pytest.raises(TreeHeadError, match="of 3 keys"):
            Trust(trust.keys, threshold)


def test_a_key_in_capitals_is_no_second_key(log: Log) -> None:
    head = signed(head_of(log, 5), KEYS[0])
    ((key, signature),) = head.signatures.items()
    twice = SignedHead(head.head, {key: signature, key.upper(): signature})
    with pytest.raises(TreeHeadError, match="must have signed"):
        Trust(frozenset({key, KEYS[1].public.hex()}), 2).check(twice)
    with pytest.raises(TreeHeadError, match="is no public key"):
        Trust(frozenset({key, key.upper()}), 2)


def test_a_head_is_read_as_it_is_written_and_nothing_else_is(log: Log) -> None:
    head = signed(head_of(log, 5), KEYS[0])
    assert read_head(head.encoded()) == head
    text = head.encoded()
    for bad in (
        text.replace(b'"size":5', b'"size":5,"size":5'),
        text.replace(b'"size":5', b'"size":0'),
        text.replace(b'"time_ns":"5"', b'"time_ns":"' + b"9" * 5_000 + b'"'),
        text.replace(b'"chain":"B"', b'"chain":"C"'),
        text.replace(b'"chain":"B",', b""),
        text.replace(b'"size":5', b'"size": 5'),
        text.replace(b"abab", b"ABAB", 1),
        SignedHead(head.head, {"x/../../../../elsewhere": "00" * 64}).encoded(),
        SignedHead(head.head, {KEYS[0].public.hex(): "no signature"}).encoded(),
        b"[]",
        b"",
    ):
        with pytest.raises(TreeHeadError):
            read_head(bad)


@settings(deadline=None)
@given(st.data())
def test_bytes_of_any_kind_are_a_head_or_an_error(data: st.DataObject) -> None:
    raw = bytearray(signed(TreeHead(NETWORK, "B", 5, "ab" * 32, "cd" * 32, "7"), KEYS[0]).encoded())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        found = read_head(bytes(raw))
    except TreeHeadError:
        return
    assert found.encoded() == bytes(raw)
    if found.head != TreeHead(NETWORK, "B", 5, "ab" * 32, "cd" * 32, "7"):
        assert not found.signers(found.signatures)


def test_a_witness_follows_a_log_and_refuses_forks_and_rollbacks(log: Log, witness: Witness, tmp_path: Path) -> None:
    first = witness.observe(signed(head_of(log, 5), KEYS[0]), [])
    assert first.signers(first.signatures) == {KEYS[0].public.hex(), KEYS[4].public.hex()}
    assert witness.observe(signed(head_of(log, 5), KEYS[0]), []).head.size == 5
    witness.observe(signed(head_of(log, 9), KEYS[0]), log.consistency(5, 9))
    again = Witness(tmp_path, KEYS[4], network=NETWORK, logs=Trust(frozenset({KEYS[0].public.hex()}), 1))
    assert again.known("B") == head_of(log, 9)
    other = Log([*LEAVES[:8], *LEAVES[9:]])
    for head, proof, why in [
        (head_of(log, 8), log.consistency(8, 9), "rollback"),
        (head_of(other, 9), [], "fork"),
        (head_of(other, 12), other.consistency(9, 12), "nothing proves"),
        (head_of(log, 12), [], "nothing proves"),
        (head_of(log, 12), log.consistency(5, 12), "nothing proves"),
        (head_of(log, 9, head="ef" * 32), [], "fork"),
    ]:
        with pytest.raises(ForkError, match=why):
            again.observe(signed(head, KEYS[0]), proof)
    assert again.known("B") == head_of(log, 9), "what it refused changed nothing"
    again.observe(signed(head_of(log, 256), KEYS[0]), log.consistency(9, 256))


def test_a_witness_looks_at_signed_heads_of_its_network_alone(log: Log, witness: Witness) -> None:
    with pytest.raises(TreeHeadError, match="must have signed"):
        witness.observe(signed(head_of(log, 5), KEYS[1]), [])
    with pytest.raises(TreeHeadError, match="network"):
        witness.observe(signed(head_of(log, 5, network="cd" * 32), KEYS[0]), [])
    assert witness.known("B") is None


def test_a_witness_that_forgot_signs_nothing(log: Log, witness: Witness, tmp_path: Path) -> None:
    witness.observe(signed(head_of(log, 5), KEYS[0]), [])
    (tmp_path / "witnessed-B.json").write_bytes(b'{"chain":"B"}')
    with pytest.raises(PermanentError, match="is damaged"):
        witness.observe(signed(head_of(log, 6), KEYS[0]), log.consistency(5, 6))

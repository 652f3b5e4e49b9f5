"""Parameters of a network: who changes them, when, and what is in force at a height. The clock is the blocks' own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.chain.block import Header, InvalidBlockError, Ref
from blyan.chain.canonical import canonical
from blyan.chain.governance import PROPOSAL, REVIEW_NS, VOTE, Governance, check_payload, genesis_payload, proposal_payload
from blyan.errors import PermanentError

KEYS = sorted(f"{number:064x}" for number in range(1, 9))
DAY_NS = 24 * 3600 * 10**9
START_NS = 10**18


class ChainA:
    """Headers of A, one after the other, as `Governance` wants them."""

    def __init__(self, voters: list[str]) -> None:
        self.governance = Governance()
        self.kinds: list[str] = []
        self.days = 0.0
        self.add("genesis", genesis_payload("test", "pact", {"voting_keys": list(voters), "fee": 1}))

    def add(self, kind: str, payload: bytes = b"", *, producer: str = KEYS[0], about: int | None = None, **metadata: Any) -> int:
        height = len(self.kinds)
        refs = () if about is None else (Ref("A", about, "00" * 32),)
        time_ns = str(START_NS + int(self.days * DAY_NS))
        header = Header(1, "", "A", height, None, refs, kind, "", len(payload), producer, time_ns, None, metadata)
        check_payload(header, payload, lambda at: self.kinds[at] if at < len(self.kinds) else None)
        self.kinds.append(kind)
        self.governance.apply(header, payload)
        return height

    def propose(self, effective: int, **changes: Any) -> int:
        return self.add(PROPOSAL, proposal_payload(changes, effective))

    def vote(self, proposal: int, *voters: str, approve: bool = True) -> None:
        for voter in voters:
            self.add(VOTE, producer=voter, about=proposal, approve=approve)

    def until(self, height: int) -> None:
        while len(self.kinds) < height:
            self.add("note")

    def fee(self, height: int) -> Any:
        return self.governance.at(height)["fee"]


def test_a_change_takes_effect_at_its_height_and_not_before() -> None:
    chain = ChainA(KEYS[:4])
    proposal = chain.propose(10, fee=2, note="new")
    chain.vote(proposal, *KEYS[:4])
    chain.days = 30
    chain.until(12)
    assert [chain.fee(height) for height in range(13)] == [1] * 10 + [2] * 3
    assert chain.governance.at(10)["note"] == "new"
    assert "note" not in chain.governance.at(9)
    assert chain.governance.at(12)["voting_keys"] == KEYS[:4]
    assert (chain.governance.name, chain.governance.pact) == ("test", "pact")


@pytest.mark.parametrize(
    ("voters", "approving", "adopted"), [(4, 3, False), (4, 4, True), (8, 6, False), (8, 7, True), (5, 4, True), (1, 1, True), (3, 2, False)]
)
def test_more_than_three_quarters_must_approve(voters: int, approving: int, adopted: bool) -> None:
    chain = ChainA(KEYS[:voters])
    chain.vote(chain.propose(20, fee=2), *KEYS[:approving])
    chain.days = 31
    chain.until(20)
    assert chain.fee(20) == (2 if adopted else 1)


@pytest.mark.parametrize(("days", "adopted"), [(30, True), (30 - 1e-9, False), (0, False), (300, True)])
def test_a_proposal_lies_open_for_thirty_days_of_block_time(days: float, adopted: bool) -> None:
    assert REVIEW_NS == 30 * DAY_NS
    chain = ChainA(KEYS[:1])
    chain.vote(chain.propose(10, fee=2), KEYS[0])
    chain.days = days
    chain.until(10)
    chain.days = 400
    chain.until(14)
    assert chain.fee(14) == (2 if adopted else 1), "the block before the height decides; what was too early lapses"


def test_the_last_vote_of_a_key_counts_and_others_do_not() -> None:
    chain = ChainA(KEYS[:4])
    proposal = chain.propose(20, fee=2)
    chain.vote(proposal, *KEYS[:4])
    chain.vote(proposal, KEYS[1], approve=False)
    chain.vote(proposal, *KEYS[4:])
    chain.vote(proposal, KEYS[0], KEYS[0], KEYS[0])
    chain.days = 31
    chain.until(20)
    assert chain.fee(20) == 1
    again = chain.propose(40, fee=3)
    chain.vote(again, KEYS[1], approve=False)
    chain.vote(again, *KEYS[:4])
    chain.days = 62
    chain.until(40)
    assert chain.fee(40) == 3


def test_votes_that_come_too_late_count_for_nothing() -> None:
    chain = ChainA(KEYS[:4])
    proposal = chain.propose(8, fee=2)
    chain.vote(proposal, *KEYS[:3])
    chain.days = 31
    chain.until(8)
    chain.vote(proposal, KEYS[3])
    chain.until(12)
    assert chain.fee(12) == 1


def test_the_voters_in_force_when_it_takes_effect_are_those_that_count() -> None:
    chain = ChainA(KEYS[:1])
    hand_over = chain.propose(10, voting_keys=KEYS[4:8])
    chain.vote(hand_over, KEYS[0])
    late = chain.propose(20, fee=2)
    chain.vote(late, KEYS[0])
    chain.days = 31
    chain.until(20)
    assert chain.governance.at(10)["voting_keys"] == KEYS[4:8]
    assert chain.fee(20) == 1, "who voted has no vote any more"
    good = chain.propose(40, fee=3)
    chain.vote(good, *KEYS[4:8])
    chain.days = 62
    chain.until(40)
    assert chain.fee(40) == 3


def test_changes_of_one_height_are_judged_by_the_same_voters() -> None:
    chain = ChainA(KEYS[:1])
    hand_over = chain.propose(10, voting_keys=KEYS[4:5], fee=2)
    chain.vote(hand_over, KEYS[0])
    by_the_next = chain.propose(10, fee=3)
    chain.vote(by_the_next, KEYS[4])
    chain.days = 31
    chain.until(12)
    assert chain.fee(10) == 2, "who votes from height 10 on had no vote on what takes effect there"
    later = [chain.propose(20, fee=4), chain.propose(20, fee=5)]
    for proposal in reversed(later):
        chain.vote(proposal, KEYS[4])
    chain.days = 62
    chain.until(20)
    assert chain.fee(20) == 5, "of two changes of one height, the one that was proposed later stands"


def test_nobody_knows_the_parameters_of_a_height_that_has_not_come() -> None:
    chain = ChainA(KEYS[:1])
    assert chain.fee(1) == 1
    for height in (2, -1):
        with pytest.raises(PermanentError, match="nobody knows the parameters"):
            chain.fee(height)
    with pytest.raises(PermanentError, match="nobody knows"):
        Governance().at(0)
    with pytest.raises(PermanentError, match="no keys for checkpoints"):
        chain.governance.trust()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=20), st.integers(1, 8), st.floats(0, 60))
def test_a_change_is_adopted_exactly_by_the_rule(votes: list[tuple[int, bool]], voters: int, days: float) -> None:
    chain = ChainA(KEYS[:voters])
    proposal = chain.propose(30, fee=2)
    for voter, approve in votes:
        chain.vote(proposal, KEYS[voter], approve=approve)
    chain.days = days
    chain.until(30)
    last = dict(votes)
    approving = sum(last.get(voter, False) for voter in range(voters))
    assert chain.fee(30) == (2 if approving / voters > 0.75 and int(days * DAY_NS) >= 30 * DAY_NS else 1)


@pytest.mark.parametrize(
    ("kind", "payload", "more", "field"),
    [
        (PROPOSAL, b"", {}, "payload_sha256"),
        (PROPOSAL, b'{"changes": {}}', {}, "payload_sha256"),
        (PROPOSAL, canonical({"changes": {}, "effective_height": 9}), {}, "payload_sha256"),
        (PROPOSAL, canonical({"changes": {"fee": 2}, "effective_height": 0}), {}, "payload_sha256"),
        (PROPOSAL, canonical({"changes": {"fee": 2}, "effective_height": 2}), {}, "payload_sha256"),
        (PROPOSAL, canonical({"changes": {"Fee": 2}, "effective_height": 9}), {}, "payload_sha256"),
        (PROPOSAL, canonical({"changes": {"voting_keys": []}, "effective_height": 9}), {}, "payload_sha256"),
        (PROPOSAL, canonical({"changes": {"voting_keys": list(reversed(KEYS))}, "effective_height": 9}), {}, "payload_sha256"),
        (PROPOSAL, canonical({"changes": {"voting_keys": [KEYS[0], KEYS[0]]}, "effective_height": 9}), {}, "payload_sha256"),
        (PROPOSAL, canonical({"changes": {"checkpoint": {"keys": list(KEYS), "threshold": 9}}, "effective_height": 9}), {}, "payload_sha256"),
        (PROPOSAL, canonical({"changes": {"checkpoint": [1]}, "effective_height": 9}), {}, "payload_sha256"),
        (PROPOSAL, canonical({"changes": {"fee": 2}, "effective_height": 9, "why": ""}), {}, "payload_sha256"),
        (VOTE, b"", {"about": 1}, "metadata"),
        (VOTE, b"", {"about": 1, "approve": 1}, "metadata"),
        (VOTE, b"", {"about": 1, "approve": True, "why": "x"}, "metadata"),
        (VOTE, b"", {"approve": True}, "depends_on"),
        (VOTE, b"", {"about": 0, "approve": True}, "depends_on"),
        (VOTE, b"", {"about": 7, "approve": True}, "depends_on"),
        (VOTE, b"x", {"about": 1, "approve": True}, "payload_size"),
    ],
)
def test_what_is_no_proposal_and_no_vote_is_refused(kind: str, payload: bytes, more: dict[str, Any], field: str) -> None:
    chain = ChainA(KEYS[:2])
    chain.propose(9, fee=5)
    with pytest.raises(InvalidBlockError) as caught:
        chain.add(kind, payload, **more)
    assert caught.value.field == field


def test_a_network_has_voters_a_name_and_a_pact() -> None:
    for arguments in (
        ("", "pact", {"voting_keys": KEYS}),
        ("x", "pact", {}),
        ("x", "pact", {"voting_keys": "all"}),
        ("x", "pact", {"voting_keys": ["zz"]}),
    ):
        with pytest.raises(InvalidBlockError):
            genesis_payload(*arguments)
    with pytest.raises(PermanentError, match="a float"):
        genesis_payload("x", "pact", {"voting_keys": list(KEYS), "share": 0.5})  # type: ignore[dict-item]

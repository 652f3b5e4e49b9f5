"""Parameters of a network, and how they change: blocks of chain A.

Belongs here: what the payloads of genesis, proposal and vote say, and which parameters are in force at a height of A. Does not belong here:
what a parameter means to those who read it.

A change needs no block that says it was adopted, which somebody could get wrong: it follows from the blocks before the height at which it
was proposed to take effect. It does where more than three quarters of the voting keys approve in blocks before that height, by each key's
last vote, and the block before that height is at least 30 days younger than the proposal. Else it lapses. The voting keys are those in force
just before that height. Votes of other keys count for nothing. Changes of one height are made in the order of their proposals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from blyan.chain.block import GENESIS, Header, InvalidBlockError
from blyan.chain.canonical import MAX_INTEGER, Json, NotCanonicalError, canonical, parse
from blyan.chain.log import Trust
from blyan.errors import PermanentError

PROPOSAL, VOTE = "proposal", "vote"

KINDS = (GENESIS, PROPOSAL, VOTE)
"""Kinds of A whose payloads are rules of the network."""

REVIEW_NS = 30 * 24 * 3600 * 10**9
"""How long a proposal lies open before it can take effect, by the times of blocks."""

NEEDED = (3, 4)
"""More than this share of the voting keys approves."""

VOTING_KEYS, CHECKPOINT = "voting_keys", "checkpoint"
"""The parameters that the chain itself reads: who votes; whose signatures make a checkpoint, as `{"keys": [...], "threshold": k}`."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_KEY = re.compile(r"[0-9a-f]{64}")

Parameters = Mapping[str, Json]


def genesis_payload(name: str, pact: str, parameters: Parameters) -> bytes:
    """The payload of the genesis block of A. Its SHA-256 is the id of the network.

    Raises:
        InvalidBlockError: a parameter is not as the chain needs it.
    """
    payload = canonical({"name": name, "pact": pact, "parameters": dict(parameters)})
    _read_genesis(payload)
    return payload


def proposal_payload(changes: Parameters, effective_height: int) -> bytes:
    """The payload of a proposal: parameters that get other values at a height of A."""
    payload = canonical({"changes": dict(changes), "effective_height": effective_height})
    _read_proposal(payload)
    return payload


def check_payload(header: Header, payload: bytes, kind_at: Callable[[int], str | None]) -> None:
    """Refuse a block of A whose payload, or what it is about, is not what its kind says.

    Args:
        header: of the block.
        payload: its bytes.
        kind_at: the kind of the block at a height of A.

    Raises:
        InvalidBlockError: it is not.
    """
    match header.kind:
        case "genesis":
            _read_genesis(payload)
        case "proposal":
            _, effective = _read_proposal(payload)
            if effective <= header.height:
                raise InvalidBlockError(f"it would take effect at {effective}, before anybody could vote", field="payload_sha256")
        case "vote":
            if header.metadata.keys() != {"approve"} or type(header.metadata["approve"]) is not bool:
                raise InvalidBlockError('a vote says {"approve": true} or false, and no more', field="metadata")
            if (height := _proposal_of(header)) is None or kind_at(height) != PROPOSAL:
                raise InvalidBlockError("a vote depends on the proposal that it is about, and on nothing else", field="depends_on")
            if header.payload_size:
                raise InvalidBlockError("a vote has no payload", field="payload_size")


@dataclass
class Governance:
    """The parameters at every height of A, as its blocks come.

    Attributes:
        name: of the network.
        pact: its text.
        size: blocks of A that were looked at.
    """

    name: str = ""
    pact: str = ""
    size: int = 0
    _history: list[tuple[int, Parameters]] = field(default_factory=list)
    _proposals: dict[int, _Proposal] = field(default_factory=dict)
    _due: dict[int, list[int]] = field(default_factory=dict)
    _time_ns: int = 0

    @classmethod
    def of(cls, blocks: Iterable[tuple[Header, bytes]]) -> Governance:
        """From the headers of A, with the payloads of those whose kind is in `KINDS` (others may have any)."""
        governance = cls()
        for header, payload in blocks:
            governance.apply(header, payload)
        return governance

    def apply(self, header: Header, payload: bytes) -> None:
        """Take the next block of A, which `check_payload` let pass."""
        if header.height != self.size:
            what = f"block {header.height} comes after {self.size} blocks"
            raise PermanentError(what, where="governance", remedy="give every block of A once, in order")
        if header.height == 0:
            self.name, self.pact, parameters = _read_genesis(payload)
            self._history.append((0, parameters))
        elif header.kind == PROPOSAL:
            changes, effective = _read_proposal(payload)
            self._proposals[header.height] = _Proposal(int(header.time_ns), changes)
            self._due.setdefault(effective, []).append(header.height)
        elif header.kind == VOTE:
            proposal = self._proposals.get(_proposal_of(header) or 0)
            if proposal is not None:
                proposal.votes[header.producer] = header.metadata["approve"]
        self.size, self._time_ns = header.height + 1, int(header.time_ns)
        if due := self._due.pop(self.size, []):
            voters = _read_keys(self.at(self.size)[VOTING_KEYS])  # before any of these changes them
            for height in due:
                self._decide(self._proposals.pop(height), voters)

    def at(self, height: int) -> Parameters:
        """The parameters in force at a height of A, the next block's included.

        Raises:
            PermanentError: the chain has not come that far, so it is not known yet.
        """
        if not 0 <= height <= self.size or not self._history:
            what = f"nobody knows the parameters at height {height} of A, which has {self.size} blocks"
            raise PermanentError(what, where="governance", remedy=f"ask for a height from 0 to {self.size}")
        return next(parameters for since, parameters in reversed(self._history) if since <= height)

    def trust(self, height: int | None = None) -> Trust:
        """Whose signatures make a checkpoint, by the parameters in force at a height of A, by default the newest.

        Raises:
            PermanentError: the network has no keys for checkpoints.
        """
        parameters = self.at(self.size if height is None else height)
        if CHECKPOINT not in parameters:
            raise PermanentError("the network has no keys for checkpoints", where="governance", remedy="name keys and a threshold yourself")
        return _read_trust(parameters[CHECKPOINT])

    def _decide(self, proposal: _Proposal, voters: list[str]) -> None:
        """Whether a proposal takes effect at the height that comes next."""
        approving = sum(proposal.votes.get(key, False) for key in voters)
        if approving * NEEDED[1] > len(voters) * NEEDED[0] and self._time_ns >= proposal.time_ns + REVIEW_NS:
            self._history.append((self.size, {**self.at(self.size), **proposal.changes}))


@dataclass
class _Proposal:
    time_ns: int
    changes: Parameters
    votes: dict[str, bool] = field(default_factory=dict)


def _proposal_of(header: Header) -> int | None:
    """The height of the proposal that a vote is about."""
    refs = header.depends_on
    return refs[0].height if len(refs) == 1 and refs[0].chain == "A" else None


def _read_genesis(payload: bytes) -> tuple[str, str, Parameters]:
    values = _read(payload, {"name", "pact", "parameters"})
    name, pact = values["name"], values["pact"]
    if type(name) is not str or type(pact) is not str or not name:
        raise InvalidBlockError("a network has a name and the text of its pact", field="payload_sha256")
    parameters = _read_parameters(values["parameters"])
    if VOTING_KEYS not in parameters:
        raise InvalidBlockError(f"a network has the parameter {VOTING_KEYS}", field="payload_sha256")
    return name, pact, parameters


def _read_proposal(payload: bytes) -> tuple[Parameters, int]:
    values = _read(payload, {"changes", "effective_height"})
    changes, effective = _read_parameters(values["changes"]), values["effective_height"]
    if not changes:
        raise InvalidBlockError("a proposal changes something", field="payload_sha256")
    if type(effective) is not int or not 0 < effective <= MAX_INTEGER:
        raise InvalidBlockError("effective_height is a height of A", field="payload_sha256")
    return changes, effective


def _read(payload: bytes, names: set[str]) -> dict[str, Json]:
    try:
        values = parse(payload, where="payload")
    except NotCanonicalError as error:
        raise InvalidBlockError(f"the payload: {error.what}", field="payload_sha256") from error
    if not isinstance(values, dict) or values.keys() != names:
        raise InvalidBlockError(f"the payload is an object with {', '.join(sorted(names))}", field="payload_sha256")
    return values


def _read_parameters(value: Json) -> Parameters:
    if not isinstance(value, dict) or not all(_NAME.fullmatch(name) for name in value):
        raise InvalidBlockError("parameters are an object, and their names are lower-case letters, digits and _", field="payload_sha256")
    if VOTING_KEYS in value:
        _read_keys(value[VOTING_KEYS])
    if CHECKPOINT in value:
        _read_trust(value[CHECKPOINT])
    return value


def _read_keys(value: Json) -> list[str]:
    keys = [key for key in value if type(key) is str and _KEY.fullmatch(key)] if isinstance(value, list) else []
    if not keys or keys != value or keys != sorted(set(keys)):
        raise InvalidBlockError("keys are 64 hex digits each, in order, each once, one at least", field="payload_sha256")
    return keys


def _read_trust(value: Json) -> Trust:
    if not isinstance(value, dict) or value.keys() != {"keys", "threshold"}:
        raise InvalidBlockError(f"{CHECKPOINT} has keys and a threshold", field="payload_sha256")
    keys, threshold = _read_keys(value["keys"]), value["threshold"]
    if type(threshold) is not int or not 1 <= threshold <= len(keys):
        raise InvalidBlockError(f"the threshold is from 1 to {len(keys)}", field="payload_sha256")
    return Trust(frozenset(keys), threshold)

"""What subscribers are told as the chain goes on.

Belongs here: subscriptions, their notifications, and the order these come in for one connection. Does not belong here:
WebSockets (`blyan.solana.localnet.server`).
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from typing import Any, ClassVar

import msgspec
from msgspec import Raw
from solders.account import Account
from solders.pubkey import Pubkey

from blyan.solana.commitment import Commitment
from blyan.solana.localnet import errors
from blyan.solana.localnet.encoding import View, encode_account, encode_block
from blyan.solana.localnet.errors import RpcError
from blyan.solana.localnet.faults import Faults
from blyan.solana.localnet.ledger import Block, Ledger, Progress
from blyan.solana.localnet.rpc import (
    Params,
    account_encoding_of,
    at_least_confirmed,
    commitment_of,
    options_of,
    pubkey_of,
    signature_of,
    with_context,
)
from blyan.solana.programs import VOTE


class _News:
    """What happened in a turn, each form of a block made once for all who want it."""

    def __init__(self, ledger: Ledger, progress: Progress) -> None:
        self.ledger, self.progress = ledger, progress
        self.entries = cache(Block.entries)
        self.encoded = cache(self._encoded)
        self.root = ledger.tip(Commitment.FINALIZED).slot

    def reached(self, commitment: Commitment) -> list[Block]:
        """The blocks that reached the commitment in this turn."""
        return (self.progress.processed, self.progress.confirmed, self.progress.finalized)[commitment]

    def _encoded(self, block: Block, view: View, mentioned: str | None) -> Raw:
        payload = block.payload
        if mentioned is not None:
            entries = self.entries(block)
            kept = [entries[position] for position in block.mentions[mentioned]]
            payload = msgspec.json.encode({**msgspec.json.decode(payload), "transactions": kept})
        return Raw(encode_block(payload, view))


class Subscription(ABC):
    """One subscription. Subclasses say what it is about.

    Attributes:
        kind: its name in methods and notifications.
        is_over: it has said all it ever will.
    """

    kind: ClassVar[str]
    is_over = False

    def __init__(self, params: Params) -> None:
        """Raises RpcError where the parameters do not fit."""
        del params

    @abstractmethod
    def told(self, news: _News) -> Iterator[Any]:
        """The notifications of a turn."""

    def at_once(self, ledger: Ledger) -> Iterator[Any]:
        """What is there to tell at the time of subscribing."""
        del ledger
        return iter(())


class SlotSubscription(Subscription):
    """Every block that the node has processed."""

    kind = "slot"

    def told(self, news: _News) -> Iterator[Any]:
        """A slot, its parent, and the newest finalized slot."""
        for block in news.progress.processed:
            yield {"slot": block.slot, "parent": block.parent, "root": news.root}


class SlotsUpdatesSubscription(Subscription):
    """What becomes of each slot, in steps."""

    kind = "slotsUpdates"

    def told(self, news: _News) -> Iterator[Any]:
        """Each step, with the time of telling."""
        now = int(time.time() * 1_000)
        for block in news.progress.died:
            yield {"type": "dead", "slot": block.slot, "timestamp": now, "err": "the fork lost"}
        for block in news.progress.processed:
            failed = sum(error is not None for error in block.errors)
            stats = {
                "numTransactionEntries": len(block.errors),
                "numSuccessfulTransactions": len(block.errors) - failed,
                "numFailedTransactions": failed,
                "maxTransactionsPerEntry": 1,
            }
            yield {"type": "createdBank", "slot": block.slot, "parent": block.parent, "timestamp": now}
            yield {"type": "frozen", "slot": block.slot, "timestamp": now, "stats": stats}
        for block in news.progress.confirmed:
            yield {"type": "optimisticConfirmation", "slot": block.slot, "timestamp": now}
        for block in news.progress.finalized:
            yield {"type": "root", "slot": block.slot, "timestamp": now}


class RootSubscription(Subscription):
    """Every block that is finalized."""

    kind = "root"

    def told(self, news: _News) -> Iterator[Any]:
        """Slots."""
        for block in news.progress.finalized:
            yield block.slot


class BlockSubscription(Subscription):
    """Whole blocks, or what of them mentions an account; a block without any is not told of."""

    kind = "block"

    def __init__(self, params: Params) -> None:
        match params[0]:
            case "all":
                self._mentioned = None
            case {"mentionsAccountOrProgram": key}:
                self._mentioned = str(pubkey_of(key))
            case other:
                raise errors.invalid_params(f"Invalid params: {other!r} is no filter of blocks.")
        options = options_of(params, 1)
        self._commitment = at_least_confirmed(options)
        self._view = View.of({**options, "encoding": options.get("encoding") or "base64"})

    def told(self, news: _News) -> Iterator[Any]:
        """Blocks with their context."""
        for block in news.reached(self._commitment):
            if self._mentioned is None or self._mentioned in block.mentions:
                yield with_context(block.slot, self._update(block, news))

    def _update(self, block: Block, news: _News) -> dict[str, Any]:
        try:
            return {"slot": block.slot, "err": None, "block": news.encoded(block, self._view, self._mentioned)}
        except RpcError:
            # The only one there is: the client does not read version 0.
            return {"slot": block.slot, "err": {"UnsupportedTransactionVersion": 0}, "block": None}


class LogsSubscription(Subscription):
    """The logs of transactions: of all, of all but votes, or of those that mention an account."""

    kind = "logs"

    def __init__(self, params: Params) -> None:
        self._mentioned, self._votes = None, True
        match params[0]:
            case "all":
                self._votes = False
            case "allWithVotes":
                pass
            case {"mentions": [key]}:
                self._mentioned = str(pubkey_of(key))
            case other:
                raise errors.invalid_params(f"Invalid Request: {other!r}; only 1 address supported")
        self._commitment = commitment_of(options_of(params, 1))

    def told(self, news: _News) -> Iterator[Any]:
        """Signature, error and log of each transaction."""
        for block in news.reached(self._commitment):
            positions = list(range(len(block.signatures))) if self._mentioned is None else block.mentions.get(self._mentioned, [])
            entries = news.entries(block) if positions else []
            for entry in (entries[position] for position in positions):
                if self._votes or not _is_vote(entry):
                    value = {"signature": entry["transaction"]["signatures"][0], "err": entry["meta"]["err"], "logs": entry["meta"]["logMessages"]}
                    yield with_context(block.slot, value)


def _is_vote(entry: dict[str, Any]) -> bool:
    message = entry["transaction"]["message"]
    programs = [message["accountKeys"][each["programIdIndex"]] for each in message["instructions"]]
    return programs == [VOTE]


class SignatureSubscription(Subscription):
    """A transaction that reaches a commitment, once."""

    kind = "signature"

    def __init__(self, params: Params) -> None:
        options = options_of(params, 1)
        self._signature, self._commitment = signature_of(params[0]), commitment_of(options)
        self._wants_receipt = bool(options.get("enableReceivedNotification"))

    def at_once(self, ledger: Ledger) -> Iterator[Any]:
        """What a transaction that is there already has reached."""
        landed = ledger.find(self._signature)
        if landed is None:
            return
        if self._wants_receipt:
            self._wants_receipt = False
            yield with_context(landed.block.slot, "receivedSignature")
        if landed.block.commitment >= self._commitment:
            self.is_over = True
            yield with_context(landed.block.slot, {"err": landed.error})

    def told(self, news: _News) -> Iterator[Any]:
        """Its error, once."""
        return self.at_once(news.ledger)


class AccountSubscription(Subscription):
    """An account, whenever it differs from what it was."""

    kind = "account"

    def __init__(self, params: Params) -> None:
        options = options_of(params, 1)
        self._key: Pubkey = pubkey_of(params[0])
        self._commitment, self._encoding = commitment_of(options), account_encoding_of(options)
        self._last: Account | None = None

    def at_once(self, ledger: Ledger) -> Iterator[Any]:
        """Nothing: only what differs from now on is told."""
        self._last = ledger.account(self._key, self._commitment)
        return iter(())

    def told(self, news: _News) -> Iterator[Any]:
        """The account as it is now."""
        account = news.ledger.account(self._key, self._commitment)
        if account != self._last:
            self._last = account
            shown = account or Account(0, b"", Pubkey.default())
            yield with_context(news.ledger.tip(self._commitment).slot, encode_account(shown, self._encoding))


_KINDS: dict[str, type[Subscription]] = {
    f"{kind.kind}Subscribe": kind
    for kind in (
        AccountSubscription,
        BlockSubscription,
        LogsSubscription,
        RootSubscription,
        SignatureSubscription,
        SlotSubscription,
        SlotsUpdatesSubscription,
    )
}
_UNSUBSCRIBE = {f"{kind.kind}Unsubscribe": kind for kind in _KINDS.values()}


class Connection:
    """One client's subscriptions, and what is on its way to it."""

    def __init__(self, number: int, hub: Hub, send: Callable[[bytes], None], later: Callable[[float, Callable[[], None]], object]) -> None:
        """The client has just connected.

        Args:
            number: of the connection; what is drawn for it depends on it.
            hub: where it belongs.
            send: sends a message, in the order of calls.
            later: calls a function after some seconds.
        """
        self._hub, self._send, self._later = hub, send, later
        self._random = random.Random(f"{hub.faults.seed} {number}")  # noqa: S311 - faults are to be repeatable
        self._subscriptions: dict[int, Subscription] = {}
        self._overtaken: list[bytes] = []
        self._unanswered: list[tuple[int, Subscription]] = []

    def call(self, method: str, params: Params) -> Any:
        """Subscribe or unsubscribe; None if the method is another one.

        Raises:
            RpcError: the parameters do not fit, or there is no such subscription.
        """
        if method in _KINDS:
            if self._hub.faults.refuse_blocks and _KINDS[method] is BlockSubscription:
                raise errors.method_not_found()
            try:
                subscription = _KINDS[method](params)
            except IndexError as error:
                raise errors.invalid_params("`params` should have at least 1 argument(s)") from error
            number = next(self._hub.numbers)
            self._unanswered.append((number, subscription))
            return number
        if method in _UNSUBSCRIBE:
            if not params or not isinstance(self._subscriptions.get(params[0]), _UNSUBSCRIBE[method]):
                raise errors.invalid_params("Invalid subscription id.")
            del self._subscriptions[params[0]]
            return True
        return None

    def answered(self) -> None:
        """The answer to a call is on its way: notifications of new subscriptions may follow it."""
        for number, subscription in self._unanswered:
            self._subscriptions[number] = subscription
            self._tell(number, subscription, subscription.at_once(self._hub.ledger))
        self._unanswered.clear()

    def notify(self, news: _News) -> None:
        """Tell the client of a turn."""
        for number, subscription in list(self._subscriptions.items()):
            self._tell(number, subscription, subscription.told(news))

    def _tell(self, number: int, subscription: Subscription, results: Iterator[Any]) -> None:
        for result in results:
            params = {"result": result, "subscription": number}
            message = msgspec.json.encode({"jsonrpc": "2.0", "method": f"{subscription.kind}Notification", "params": params})
            if isinstance(subscription, SlotSubscription):
                self._disturb(message)
            elif isinstance(subscription, BlockSubscription):
                self._disturb_block(message)
            else:
                self._send(message)
        if subscription.is_over:
            self._subscriptions.pop(number, None)

    def _disturb_block(self, message: bytes) -> None:
        faults = self._hub.faults
        if faults.drop_blocks and self._random.random() < faults.drop_blocks:
            return
        if faults.delay_blocks_ms > 0:
            self._later(faults.delay_blocks_ms / 1_000, lambda: self._send(message))
        else:
            self._send(message)

    def _disturb(self, message: bytes) -> None:
        """Send a slot notification as the faults have it."""
        faults, draw = self._hub.faults, self._random.random
        if draw() < faults.drop_slots:
            return
        if not self._overtaken and draw() < faults.reorder_slots:
            self._overtaken.append(message)
            return
        for each in (message, *self._overtaken) if draw() >= faults.duplicate_slots else (message, message, *self._overtaken):
            if faults.delay_slots_ms > 0:
                self._later(faults.delay_slots_ms / 1_000, lambda each=each: self._send(each))  # type: ignore[misc]
            else:
                self._send(each)
        self._overtaken.clear()


class Hub:
    """Everyone who is connected."""

    def __init__(self, ledger: Ledger, faults: Faults) -> None:
        self.ledger, self.faults = ledger, faults
        self.numbers = count(1)
        self._connections: set[Connection] = set()
        self._arrivals = count(1)

    def join(self, send: Callable[[bytes], None], later: Callable[[float, Callable[[], None]], object]) -> Connection:
        """A client has connected; see `Connection`."""
        connection = Connection(next(self._arrivals), self, send, later)
        self._connections.add(connection)
        return connection

    def leave(self, connection: Connection) -> None:
        """A client is gone."""
        self._connections.discard(connection)

    def notify(self, progress: Progress) -> None:
        """Tell everyone of a turn."""
        news = _News(self.ledger, progress)
        for connection in list(self._connections):
            connection.notify(news)

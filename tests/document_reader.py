"""Reading documents back, apart from the code that wrote them.

Belongs here: who moved what, and what the fee payer gained and lost, from a text and from rows. Does not belong here: assertions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from blyan.corpus.registry import Registry

Move = tuple[str, str | None, str | None, Decimal, str | None]
"""Verb, source, destination, amount in whole units (base units where decimals are unknown), mint."""

_VERBS = {"mintTo": "minted", "burn": "burned"}


class Reader:
    """Reads texts whose names are those of a registry."""

    def __init__(self, registry: Registry) -> None:
        self._named = {name: account for account, name in registry.names.items()}
        who = "|".join([r"@\d+", "An unknown account", *sorted(map(re.escape, self._named), key=len, reverse=True)])
        amount = r"\d+(?:\.\d+)?"
        self._move = re.compile(
            rf"(?:> )?(?P<subject>{who}) (?P<verb>sent|minted|burned) (?P<amount>{amount}) (?:base units )?(?:of )?(?P<mint>SOL|an unknown mint|{who})"
            rf"(?: (?:to|of) (?P<target>{who}))?(?: by (?P<by>{who}))?(?: less a fee of (?P<fee>{amount}))?"
        )
        self._net = re.compile(rf"(?P<payer>{who}) (?:gave (?P<gave>.+?))?(?: and )?(?:received (?P<got>.+))?\.")
        self._swap = re.compile(rf"(?P<payer>{who}) swapped (?P<gave>.+?) for (?P<got>.+?) at (?:{who}); (?:{who}) paid .*")
        self._asset = re.compile(rf"({amount}) (SOL|{who})")

    def account(self, word: str, accounts: list[str]) -> str | None:
        """Whom an alias or a name means."""
        return accounts[int(word[1:])] if word.startswith("@") else self._named.get(word)

    def moves(self, text: str, accounts: list[str]) -> list[Move]:
        """What its lines say was moved, in order."""
        found = []
        for line in text.split("\n"):
            match = self._move.fullmatch(line)
            if match:
                subject, target, mint = (match[part] and self.account(match[part], accounts) for part in ("subject", "target", "mint"))
                source, destination = (
                    (target, None) if match["verb"] == "burned" else (None, target) if match["verb"] == "minted" else (subject, target)
                )
                found.append((match["verb"], source, destination, Decimal(match["amount"]), mint))
        return found

    def net(self, text: str, accounts: list[str]) -> dict[str | None, Decimal]:
        """What its first line (of a swap) or its second says the fee payer gained and lost, by mint; None is SOL."""
        lines = text.split("\n")
        match = self._swap.fullmatch(lines[0]) or (self._net.fullmatch(lines[1]) if len(lines) > 1 else None)
        found = {}
        for part, sign in (("gave", -1), ("got", 1)):
            for amount, asset in self._asset.findall(match[part] or "") if match else []:
                found[None if asset == "SOL" else self.account(asset, accounts)] = sign * Decimal(amount)
        return found


def moves_of(transfers: Iterable[dict[str, Any]]) -> list[Move]:
    """What rows of `solana/token_transfers` say, in order."""
    return [
        (
            _VERBS.get(row["transfer_type"], "sent"),
            row["source"],
            row["destination"],
            row["value"].scaleb(-(9 if row["transfer_type"] == "transfer" else row["decimals"] or 0)),
            row["mint"],
        )
        for row in transfers
    ]


def net_of(transaction: dict[str, Any], changes: Iterable[dict[str, Any]]) -> dict[str | None, Decimal]:
    """What rows of `solana/balance_changes` say the fee payer of their transaction gained and lost besides the fee."""
    payer = transaction["accounts"][0]["pubkey"]
    sums: dict[str | None, Decimal] = {None: (transaction["fee"] or Decimal(0)).scaleb(-9)}
    for row in changes:
        if payer == (row["account"] if row["mint"] is None else row["owner"]):
            places = 9 if row["mint"] is None else row["decimals"]
            sums[row["mint"]] = sums.get(row["mint"], Decimal(0)) + row["change"].scaleb(-places)
    return {mint: change for mint, change in sums.items() if change}

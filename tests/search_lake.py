"""A lake with documents to search, made up, and the right answers: every document is looked at, without any index.

Belongs here: made-up rows of the tables of text, and search by brute force. Does not belong here: assertions.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from blyan.corpus.embeddings import embedded_as
from blyan.corpus.labels import bucket
from blyan.corpus.terms import is_counted, query_terms, terms_of
from blyan.lake import Lake
from blyan.query.search import COMMON_SHARE, DEPTH, FUSION, Filters
from blyan.schemas import DOCUMENTS, EMBEDDINGS, SUMMARIES
from blyan.solana import base58
from blyan.solana.slots import SlotRange

DIMENSION = 16
MODEL, OTHER_MODEL = "a" * 64, "b" * 64
WIDTH = 100
START = datetime(2026, 1, 1, tzinfo=UTC)


def account(number: int) -> str:
    return base58.encode(hashlib.sha256(str(number).encode()).digest())


PROGRAMS = [account(number) for number in range(5)]
PAYERS = [account(number) for number in range(100, 120)]
KINDS = ("swap", "transfer", "vote", "mint")
NOUNS = ("Raydium", "Orca", "System", "SPL Token", "Jupiter")
REASONS = ("InsufficientFunds", "SlippageExceeded", "AccountAlreadyInUse")


def embed(texts: Sequence[str], dimension: int = DIMENSION) -> np.ndarray:
    """Directions that depend on the words of a text: texts that share words are near."""
    made = np.array([np.sum([direction(word, dimension) for word in text.lower().split()], axis=0) for text in texts])
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@cache
def direction(word: str, dimension: int) -> np.ndarray:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(word.encode()).digest()[:8])).normal(size=dimension)


def slots_of(number: int) -> SlotRange:
    return SlotRange(number * WIDTH, number * WIDTH + WIDTH - 1)


def documents(number: int, seed: int, count: int) -> pa.Table:
    """Documents of a range; the seed decides all of them."""
    random = np.random.default_rng((number, seed))
    rows = []
    for index in range(count):
        slot, kind = int(number * WIDTH + index * WIDTH // max(count, 1)), KINDS[random.integers(len(KINDS))]
        program, failed = int(random.integers(len(PROGRAMS))), bool(random.random() < 0.3)
        reason = REASONS[random.integers(len(REASONS))] if failed else None
        who = [PAYERS[place] for place in random.choice(len(PAYERS), int(random.integers(1, 4)), replace=False)]
        amount = f"{random.integers(1, 10**6) / 1000:g}"
        what = f"{kind.capitalize()} on {NOUNS[program]} {'failed' if failed else 'succeeded'}"
        head = f"{what}; @0 paid 0.00000{random.integers(1, 9)} SOL in fees, {random.integers(100, 999)} compute units."
        text = head + (f" It failed: {reason}." if failed else "") + (f"\n@0 sent {amount} SOL to @1" if kind == "transfer" else "")
        masked = f"{what} {reason} {len(who)} {kind}"
        rows.append(
            {
                "block_slot": slot,
                "block_timestamp": START + timedelta(seconds=slot),
                "block_hash": "h",
                "tx_signature": base58.encode(hashlib.sha512(f"{number} {seed} {index}".encode()).digest()),
                "tx_index": index,
                "text": text,
                "accounts": who,
                "structural_key": hashlib.sha256(masked.encode()).hexdigest()[:32],
                "family_key": hashlib.sha256(masked.encode()).hexdigest()[:32],
                "kind": kind,
                "status": "Fail" if failed else "Success",
                "error_class": reason,
                "value_bucket": bucket(math.floor(math.log10(float(amount))), "SOL") if kind == "transfer" else None,
                "programs": [PROGRAMS[program]],
                "is_vote": kind == "vote",
                "is_sandwich": bool(random.random() < 0.05),
                "rules": [],
                "flags": ["instruction_like"] if random.random() < 0.05 else [],
            }
        )
    return pa.Table.from_pylist(rows, DOCUMENTS.arrow_schema())


def summaries(number: int, count: int) -> pa.Table:
    slots = slots_of(number)
    rows = [("range", "", f"Slots {slots.first} to {slots.last}: {count} transactions, SOL in fees.", count, 0)]
    rows += [("program", PROGRAMS[0], f"Program Raydium ({PROGRAMS[0]}) in slots {slots.first} to {slots.last}: called, failed.", 3, None)]
    rows += [("account", PAYERS[0], f"Account {PAYERS[0]} in slots {slots.first} to {slots.last}: paid for swaps.", 2, None)]
    names = ("scope", "subject", "text", "transactions", "votes_left_out")
    made = [{"first_slot": slots.first, "last_slot": slots.last, **dict(zip(names, row, strict=True))} for row in sorted(rows)]
    return pa.Table.from_pylist(made, SUMMARIES.arrow_schema())


def write(lake: Lake, number: int, seed: int = 0, count: int = 40, *, model: str = MODEL, dimension: int = DIMENSION) -> SlotRange:
    """Put a range of made-up documents, their summaries and embeddings into the lake."""
    slots, told = slots_of(number), documents(number, seed, count)
    summed = summaries(number, count)
    lake.write_partition(DOCUMENTS, slots.key, [told])
    lake.write_partition(SUMMARIES, slots.key, [summed])
    write_vectors(lake, slots, told, summed, model=model, dimension=dimension)
    return slots


def write_vectors(lake: Lake, slots: SlotRange, told: pa.Table, summed: pa.Table, *, model: str = MODEL, dimension: int = DIMENSION) -> None:
    texts = [
        text for table, rows in ((DOCUMENTS, told), (SUMMARIES, summed)) for text in embedded_as(table, rows["text"].combine_chunks()).to_pylist()
    ]
    distinct = sorted(set(texts))
    vectors = embed(distinct, dimension).tolist() if distinct else []
    rows = [
        {"first_slot": slots.first, "text_sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text, "documents": texts.count(text), "vector": vector, "model": model}
        for text, vector in zip(distinct, vectors, strict=True)
    ]  # fmt: skip
    rows.sort(key=lambda row: row["text_sha256"])
    lake.write_partition(EMBEDDINGS, slots.key, [pa.Table.from_pylist(rows, EMBEDDINGS.arrow_schema())])


@dataclass
class Found:
    """One document or summary as brute force sees it."""

    row: dict[str, Any]
    terms: list[str]
    vector: np.ndarray

    @property
    def order(self) -> tuple[Any, ...]:
        return (self.row["slot"], -1 if self.row["tx_index"] is None else self.row["tx_index"], self.row["scope"], self.row["subject"] or "")

    @property
    def name(self) -> tuple[Any, ...]:
        return (self.row["slot"], self.row["tx_index"], self.row["scope"], self.row["subject"], self.row["signature"])


class BruteForce:
    """Search by looking at everything that the lake's tables have of some ranges; `embed` makes the vector of a question."""

    def __init__(self, lake: Lake, keys: Sequence[str], embed: Callable[[Sequence[str]], np.ndarray] = embed) -> None:
        self._embed = embed
        self.all: list[Found] = []
        for key in keys:
            vectors = {row["text_sha256"]: np.array(row["vector"]) for batch in lake.read(EMBEDDINGS, key=key) for row in batch.to_pylist()}
            for table in (DOCUMENTS, SUMMARIES):
                for batch in lake.read(table, key=key):
                    gists, terms = embedded_as(table, batch["text"]).to_pylist(), terms_of(batch["text"]).to_pylist()
                    for row, gist, words in zip(batch.to_pylist(), gists, terms, strict=True):
                        vector = vectors[hashlib.sha256(gist.encode()).hexdigest()]
                        self.all.append(Found(_as_hit(row), words, vector))

    def search(self, text: str, mode: str, filters: Filters, *, limit: int = 10, per_template: int = 2) -> list[tuple[tuple[Any, ...], float, int]]:
        """For each hit its name, its score, and how many are alike."""
        passing = [found for found in self.all if passes(found.row, filters)]
        alike: dict[str, int] = defaultdict(int)
        for found in passing:
            alike[found.row["structural_key"]] += 1
        orders = []
        if mode in ("text", "hybrid"):
            scores = self._bm25(text)
            orders.append(_templates([(found, scores[id(found)]) for found in passing if id(found) in scores], per_template))
        if mode in ("vector", "hybrid"):
            direction = self._embed([text])[0].astype(np.float64)
            orders.append(
                _templates([(found, round(float(found.vector @ direction / np.linalg.norm(direction)), 6)) for found in passing], per_template)
            )
        places = [{key: place for place, (key, _) in enumerate(order, 1)} for order in orders]
        best = {key: rows[0][1] for order in orders for key, rows in order}
        if len(orders) > 1:
            best = {key: sum(1 / (FUSION + place[key]) for place in places if key in place) for key in best}
        last = max(map(len, orders)) + 1
        keys = sorted(best, key=lambda key: (-best[key], min(p.get(key, last) for p in places), [p.get(key, last) for p in places]))
        if len(orders) == 1:
            keys = [key for key, _ in orders[0]]
        hits = []
        for key in keys:
            lists = [dict(order).get(key, []) for order in orders]
            merged = [rows[place][0] for place in range(per_template) for rows in lists if place < len(rows)]
            distinct = list({found.name: found for found in merged}.values())[:per_template]
            hits += [(found.name, round(best[key], 6), alike[key]) for found in distinct]
        return hits[:limit]

    def _bm25(self, text: str) -> dict[int, float]:
        """Scores of the documents with a word that tells something, as the textbook has it."""
        count, mean = len(self.all), sum(len(found.terms) for found in self.all) / max(len(self.all), 1)
        counts = {term: sum(term in found.terms for found in self.all) for term in query_terms(text)}
        wanted = [term for term in counts if counts[term]]
        telling = [term for term in wanted if not is_counted(term) or counts[term] <= COMMON_SHARE * count] or wanted
        scores = {}
        for found in self.all:
            if not set(telling) & set(found.terms):
                continue
            score = 0.0
            for term in wanted:
                found_in = counts[term] if is_counted(term) else 1
                weight = math.log1p(max(count - found_in + 0.5, 0.5) / (found_in + 0.5))
                often = found.terms.count(term)
                score += weight * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * len(found.terms) / mean))
            scores[id(found)] = round(score, 6)
        return scores


def _templates(scored: list[tuple[Found, float]], per_template: int) -> list[tuple[str, list[tuple[Found, float]]]]:
    by_key: dict[str, list[tuple[Found, float]]] = defaultdict(list)
    for found, score in sorted(scored, key=lambda pair: (-pair[1], pair[0].order)):
        by_key[found.row["structural_key"]].append((found, score))
    return [(key, rows[:per_template]) for key, rows in by_key.items()][:DEPTH]


def _as_hit(row: dict[str, Any]) -> dict[str, Any]:
    if "tx_signature" in row:
        return row | {
            "scope": "transaction",
            "slot": row["block_slot"],
            "last_slot": row["block_slot"],
            "signature": row["tx_signature"],
            "subject": None,
        }
    own = {"programs": [row["subject"]] if row["scope"] == "program" else [], "accounts": [row["subject"]] if row["scope"] == "account" else []}
    empty = dict.fromkeys(("kind", "status", "error_class", "value_bucket", "is_vote", "is_sandwich", "block_timestamp", "signature", "tx_index"))
    return row | own | empty | {"flags": [], "slot": row["first_slot"], "structural_key": f"{row['scope']} {row['subject']}"}


def passes(row: dict[str, Any], filters: Filters) -> bool:
    """Whether a row passes, said once more in plain words."""
    at = row["block_timestamp"]
    tests = [
        filters.slots is None or (row["slot"] <= filters.slots.last and row["last_slot"] >= filters.slots.first),
        filters.since is None or (at is not None and at >= filters.since),
        filters.until is None or (at is not None and at < filters.until),
        not filters.programs or bool(set(filters.programs) & set(row["programs"])),
        set(filters.accounts) <= set(row["accounts"]),
        set(filters.flags) <= set(row["flags"]),
        not filters.kinds or row["kind"] in filters.kinds,
        not filters.statuses or row["status"] in filters.statuses,
        not filters.scopes or row["scope"] in filters.scopes,
        not filters.error_classes or row["error_class"] in filters.error_classes,
        not filters.value_buckets or row["value_bucket"] in filters.value_buckets,
        filters.is_vote is None or row["is_vote"] == filters.is_vote,
        filters.is_sandwich is None or row["is_sandwich"] == filters.is_sandwich,
        filters.signature is None or row["signature"] == filters.signature,
    ]
    return all(tests)

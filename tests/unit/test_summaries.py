"""Summaries count what the tables hold: every figure against Python's own count of the rows."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from blyan import schemas
from blyan.corpus.documents import documents_of
from blyan.corpus.registry import load_registry
from blyan.corpus.summaries import summaries_of, whole_units
from blyan.solana import base58
from blyan.solana.decode import decode
from blyan.solana.normalise import normalise
from blyan.solana.programs import COMPUTE_BUDGET
from blyan.solana.slots import SlotRange
from blyan.solana.sources import Format
from blyan.solana.sources.embedded import EmbeddedSource

SLOTS = SlotRange(0, 99)
REGISTRY = load_registry()


@pytest.fixture(scope="module")
def tables():
    source = EmbeddedSource(seed=6, transactions_per_slot=60, horizon_slot=100)
    records = [record for record in source.read(SlotRange(4, 16)) if record.payload]
    return normalise([decode(record.slot, record.payload, Format.GET_BLOCK) for record in records])


def summaries(tables, share=0.2, busiest=1000, change=lambda rows: rows):
    made = documents_of(tables, REGISTRY, vote_share=share)
    made = replace(made, rows=change(made.rows))
    with duckdb.connect() as connection:
        connection.register("transactions", tables[schemas.TRANSACTIONS.name])
        connection.register("token_transfers", tables[schemas.TOKEN_TRANSFERS.name])
        connection.register("documents", made.rows)
        return made, summaries_of(connection, SLOTS, REGISTRY, busiest=busiest)


@pytest.fixture(scope="module")
def made(tables):
    documents, rows = summaries(tables)
    return documents, rows, {(row["scope"], row["subject"]): row for row in rows.to_pylist()}


def test_documents_and_votes_left_out_are_all_transactions(tables, made):
    documents, _, by_subject = made
    whole = by_subject["range", ""]
    votes = Counter(tables[schemas.TRANSACTIONS.name]["is_vote"].to_pylist())[True]
    assert whole["transactions"] == tables[schemas.TRANSACTIONS.name].num_rows == documents.rows.num_rows + whole["votes_left_out"]
    assert whole["votes_left_out"] == votes - documents.votes_kept > 0
    assert f"{votes} votes, of which {documents.votes_kept} have a document" in whole["text"]


def test_rows_conform_and_are_in_key_order(made):
    rows = made[1]
    assert rows.schema == schemas.SUMMARIES.arrow_schema()
    keys = [tuple(row[name] for name in schemas.SUMMARIES.key) for row in rows.to_pylist()]
    assert keys == sorted(set(keys))
    assert Counter(scope for _, scope, _ in keys)["range"] == 1


def test_each_account_and_program_is_summed_up_exactly(tables, made):
    by_subject = made[2]
    paid, failed, fees, called = Counter(), Counter(), defaultdict(Decimal), Counter()
    documents = {(row["block_slot"], row["tx_index"]): row for row in made[0].rows.to_pylist()}
    for row in tables[schemas.TRANSACTIONS.name].to_pylist():
        if not row["is_vote"]:
            payer = row["accounts"][0]["pubkey"]
            paid[payer] += 1
            failed[payer] += row["status"] == "Fail"
            fees[payer] += row["fee"]
            called.update(documents[row["block_slot"], row["index"]]["programs"])
    del called[COMPUTE_BUDGET]
    assert {subject: row["transactions"] for (scope, subject), row in by_subject.items() if scope == "account"} == paid
    assert {subject: row["transactions"] for (scope, subject), row in by_subject.items() if scope == "program"} == called
    for payer in paid:
        found = re.search(r"paid for (\d+) transactions?, (\d+) failed, ([\d.]+) SOL in fees\.", by_subject["account", payer]["text"])
        assert (int(found[1]), int(found[2]), Decimal(found[3]).scaleb(9)) == (paid[payer], failed[payer], fees[payer])


def test_moved_amounts_are_exact_and_of_successful_transactions_alone(tables, made):
    moved, movements = defaultdict(Decimal), Counter()
    votes = {(row["block_slot"], row["index"]) for row in tables[schemas.TRANSACTIONS.name].to_pylist() if row["is_vote"]}
    rows = tables[schemas.TOKEN_TRANSFERS.name].to_pylist()
    for row in rows:
        if row["status"] == "Success" and row["value"] and row["transfer_type"] == "transfer" and (row["block_slot"], row["tx_index"]) not in votes:
            moved["SOL"] += row["value"]
            movements["SOL"] += 1
    assert any(row["status"] == "Fail" and row["transfer_type"] == "transfer" for row in rows)
    found = re.search(r"([\d.]+) SOL in (\d+) movements", made[2]["range", ""]["text"].split("Moved: ")[1])
    assert (Decimal(found[1]).scaleb(9), int(found[2])) == (moved["SOL"], movements["SOL"])


EXCHANGE = next(account for account, program in REGISTRY.programs.items() if program.category == "exchange")
USDC = next(account for account, mint in REGISTRY.mints.items() if mint.symbol == "USDC")
UNKNOWN = base58.encode(bytes([77]) * 32)


def with_swaps(rows):
    """The documents, as if some of their transactions had swapped at an exchange."""
    found = rows.to_pylist()
    wanted = [row for row in found if not row["is_vote"]][:40]
    for at, row in enumerate(wanted):
        sides = (
            [(UNKNOWN, Decimal(10**20 + at), 6), ("SOL", Decimal(3 * at + 1), 9)]
            if at % 3
            else [("SOL", Decimal(7), 9), (USDC, Decimal(10**6 * at + 5), 6)]
        )
        for side, (mint, amount, decimals) in zip(("sold", "bought"), sides, strict=True):
            row |= {side: mint, f"{side}_amount": amount, f"{side}_decimals": decimals}
        row["programs"] = [*row["programs"], EXCHANGE] if at % 2 else row["programs"]
    return pa.Table.from_pylist(found, schema=schemas.DOCUMENTS.arrow_schema())


def test_swaps_are_summed_up_exactly_by_pair(tables):
    made, rows = summaries(tables, change=with_swaps)
    payers = {(row["block_slot"], row["index"]): row["accounts"][0]["pubkey"] for row in tables[schemas.TRANSACTIONS.name].to_pylist()}
    sums = defaultdict(lambda: [Decimal(0), Decimal(0), 0])
    for row in made.rows.to_pylist():
        if row["sold"] is not None:
            subjects = [
                ("range", ""),
                ("account", payers[row["block_slot"], row["tx_index"]]),
                *([("program", EXCHANGE)] if EXCHANGE in row["programs"] else []),
            ]
            for subject in subjects:
                of = sums[(*subject, row["sold"], row["bought"])]
                of[0], of[1], of[2] = (
                    of[0] + row["sold_amount"].scaleb(-row["sold_decimals"]),
                    of[1] + row["bought_amount"].scaleb(-row["bought_decimals"]),
                    of[2] + 1,
                )
    told = {}
    for row in rows.to_pylist():
        for line in row["text"].split("\n"):
            for gave, sold, got, bought, swaps in re.findall(
                r"([\d.]+) (\w+) for ([\d.]+) (\w+) in (\d+) swaps?", line if line.startswith("Swapped: ") else ""
            ):
                mints = [USDC if name == "USDC" else name for name in (sold, bought)]
                told[(row["scope"], row["subject"], *mints)] = [Decimal(gave), Decimal(got), int(swaps)]
    assert told == dict(sums)
    assert {scope for scope, *_ in told} == {"range", "account", "program"}


def test_a_swap_that_is_lost_changes_the_sums(tables):
    """The test above can tell."""
    whole, less = (
        {(row["scope"], row["subject"]): row["text"] for row in summaries(tables, change=change)[1].to_pylist()}
        for change in (with_swaps, lambda rows: with_swaps(rows).filter(pc.fill_null(pc.not_equal(with_swaps(rows)["bought"], USDC), True)))
    )
    assert whole["range", ""] != less["range", ""]


def test_programs_that_the_registry_lacks_are_named_by_account(tables):
    def call(rows):
        found = rows.to_pylist()
        for row in found[:7]:
            row["programs"] = [*row["programs"], UNKNOWN]
        return pa.Table.from_pylist(found, schema=schemas.DOCUMENTS.arrow_schema())

    made, rows = summaries(tables, share=0.0, change=call)
    assert not any(made.rows["is_vote"].to_pylist())
    (whole,) = [row["text"] for row in rows.to_pylist() if row["scope"] == "range"]
    assert f"Programs without a name: {UNKNOWN} 7." in whole
    assert "without a name" not in summaries(tables)[1].to_pylist()[-1]["text"]


def test_only_the_busiest_have_a_summary(tables, made):
    few = [row for row in summaries(tables, busiest=2)[1].to_pylist() if row["scope"] == "account"]
    every = sorted((row["transactions"] for row in made[1].to_pylist() if row["scope"] == "account"), reverse=True)
    assert sorted((row["transactions"] for row in few), reverse=True) == every[:2]


def test_a_range_without_transactions_has_its_summary(tables):
    empty = {name: table.slice(0, 0) for name, table in tables.items()}
    _, rows = summaries(empty)
    (row,) = rows.to_pylist()
    assert (row["scope"], row["transactions"], row["votes_left_out"]) == ("range", 0, 0)
    assert row["text"].startswith("Slots 0 to 99: 0 transactions in 0 slots, 0 SOL in fees.")


@pytest.mark.parametrize(("value", "decimals", "text"), [("0", 9, "0"), ("5", 9, "0.000000005"), ("1" * 40, 3, "1" * 37 + ".111"), ("70", 0, "70")])
def test_sums_keep_every_digit(value, decimals, text):
    assert whole_units(value, decimals) == text

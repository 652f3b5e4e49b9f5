"""Reading a query: what is understood, what is left alone, and whether documents meet it."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.corpus.labels import bucket
from blyan.corpus.registry import load_registry
from blyan.errors import PermanentError
from blyan.query import understanding
from blyan.query.conditions import ORDER_WEIGHT, Amount, Check, Condition, Order, matches, told, weigh, where
from blyan.query.understanding import programs_named, understand
from blyan.solana import base58

REGISTRY = load_registry()
WHIRLPOOL = "whirLbMiicVdio4qvUfM5KAg6Ct8VwpYzGff3uctyCc"
USDC = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"

EXPLAINED = [
    ("failed swaps on Raydium", "status = Fail, kind = swap, program = Raydium (5 programs)"),
    ("Raydium CLMM", "program = Raydium CLMM"),
    ("votes that were not accepted", "kind = vote, status = Fail"),
    ("slippage on Jupiter v6", "error = slippage, program = Jupiter v6"),
    ("custom program error 0x1B", "error code = 0x1b, status = Fail"),
    ("error number 6001", "error code = 0x1771, status = Fail"),
    ("swapped SOL for USDC", "gave SOL, received USDC, kind = swap, token = USDC"),
    ("JUP token", "token = JUP"),
    ("swaps of pumpfun", "kind = swap, program = pump.fun"),
    ("which program was busiest", "summaries of programs, most transactions first"),
    ("account with the most failed transactions", "status = Fail, summaries of accounts, most failed first"),
    ("summary of slot 254170887", "slot = 254170887, summaries, of everything first"),
    ("transactions in block #12", "slot = 12"),
    ("faild swaps", "status = Fail, kind = swap, faild read as failed"),
    ('memo "gm frens"', "'gm frens' is told, has a memo"),
    (USDC, "token = USDC"),
    ("weather in Berlin tomorrow", ""),
    ("", ""),
]


@pytest.mark.parametrize(("query", "explained"), EXPLAINED)
def test_a_query_is_explained(query, explained):
    assert understand(query, REGISTRY).explain() == explained


AMOUNTS = [
    ("more than 1,000 SOL", Amount("SOL", Decimal(1000), None)),
    ("at least 1.5k USDC", Amount("USDC", Decimal(1500), None, strict=False)),
    ("USDT transfers over 1000", Amount("USDT", Decimal(1000), None)),
    ("swaps above $100", Amount("USD", Decimal(100), None)),
    ("less than ten dollars", Amount("USD", None, Decimal(10))),
    ("SOL payments between 1 and 5 SOL", Amount("SOL", Decimal(1), Decimal(5), strict=False)),
    ("over a million BONK", Amount("BONK", Decimal(10**6), None)),
    ("fees above 0.001 SOL", Amount("fee", Decimal("0.001"), None)),
    ("used more than 1m compute units", Amount("compute units", Decimal(10**6), None)),
    ("604.67 USDC", Amount("USDC", Decimal("604.67"), Decimal("604.67"), strict=False)),
]


@pytest.mark.parametrize(("query", "amount"), AMOUNTS)
def test_amounts_are_read_with_their_unit_and_bounds(query, amount):
    assert [condition.amount for condition in understand(query, REGISTRY).conditions if condition.amount] == [amount]


@pytest.mark.parametrize("query", ["a SOL transfer", "one swap", "Token-2022", "slot 1000", "instruction 3", "Raydium AMM v4", "1000"])
def test_a_number_without_a_unit_is_no_amount(query):
    assert not any(condition.amount for condition in understand(query, REGISTRY).conditions)


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64), st.sampled_from(["", "what did ", "(", "tx: "]))
def test_accounts_and_signatures_are_exact_wherever_they_stand(account, signature, before):
    for data, name in ((account, "account"), (signature, "signature")):
        text = base58.encode(data)
        understood = understand(f"{before}{text}? failed", REGISTRY)
        (exact,) = [condition for condition in understood.conditions if condition.exact]
        assert exact.checks[0] == Check(name, (text,))
        assert text not in understood.text
        assert "status = Fail" in understood.explain()


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_the_same_twice_and_keeps_its_words(text):
    once = understand(text, REGISTRY)
    assert once == understand(text, REGISTRY)
    if not once.read_as and not any(condition.exact for condition in once.conditions) and USDC not in text:
        assert once.text.split() == text.split()
        assert set(text.split()) <= set(once.words.split())


@pytest.mark.parametrize("account", [account for account, program in REGISTRY.programs.items() if program.category not in ("core", "token", "stake")])
def test_every_program_of_the_registry_is_understood_by_its_name(account):
    name = REGISTRY.programs[account].name
    tests = [test for condition in understand(f"calls of {name.lower()}", REGISTRY).conditions for test in condition.checks]
    assert any(test.field == "program" and account in test.values for test in tests), tests
    assert account in programs_named(name, REGISTRY)


@pytest.mark.parametrize("symbol", [mint.symbol for mint in REGISTRY.mints.values()])
def test_every_token_of_the_registry_is_understood_by_its_symbol(symbol):
    assert f"token = {symbol}" in understand(f"{symbol} token moved", REGISTRY).explain()


def test_a_name_means_its_programs_and_another_name_none():
    assert programs_named("raydium clmm", REGISTRY) == ("CAMMCzo5YL8w4VFF8KVHrK22GGUsp5VTaW7grrKgrWqK",)
    assert len(programs_named("Raydium", REGISTRY)) == 5
    assert programs_named("System", REGISTRY) == ("1" * 32,)
    assert programs_named(USDC, REGISTRY) == (USDC,)
    with pytest.raises(PermanentError, match="no program is named 'Raydum'"):
        programs_named("Raydum", REGISTRY)


def english():
    """The words of MiniLM's tokenizer: what people write when they do not err."""
    from blyan.corpus.minilm import _folder

    vocabulary = json.loads((_folder() / "tokenizer.json").read_bytes())["model"]["vocab"]
    return [word for word in vocabulary if re.fullmatch("[a-z]{4,}", word)]


def test_no_english_word_is_read_as_another(monkeypatch):
    words, vocabulary = english(), understanding._vocabulary(REGISTRY)
    assert len(words) > 18_000
    assert understanding._corrections(words, vocabulary) == {}
    monkeypatch.setattr(understanding, "_OTHER_WORDS", frozenset())
    assert {"mining", "filed"} <= understanding._corrections(words, vocabulary).keys()


@pytest.mark.parametrize("word", ["raydium", "jupiter", "slippage", "transfers", "sandwich", "oracle", "failed", "meteora"])
def test_one_slip_is_forgiven_and_two_are_not(word):
    vocabulary, rand = understanding._vocabulary(REGISTRY), random.Random(word)
    for at in range(1, len(word) - 1):
        slips = {word[:at] + word[at + 1 :], word[:at] + rand.choice("qxz") + word[at:], word[:at] + word[at + 1] + word[at] + word[at + 2 :]}
        for slip in slips - {word} - understanding._OTHER_WORDS:
            # `transfesr` may be meant for `transfer` as well.
            (meant,) = understanding._corrections([slip], vocabulary).values()
            assert meant.startswith(word[:-1]), slip
        other = word[:at] + "q" + word[at + 1 :]
        assert other not in understanding._corrections([other], vocabulary)
    assert understanding._corrections([f"q{word}q"], vocabulary) == {}


TEXTS = [
    "Swap at Orca Whirlpool failed; @0 paid 0.0001 SOL in fees, 90 compute units. Instruction 2 failed in Orca Whirlpool: StaleReport (0x1771).",
    "@0 swapped 1.5 SOL for 203.117642 USDC at Orca Whirlpool; @0 paid 0.5 SOL in fees, 5 compute units.\n> @1 sent 1.5 wSOL to @2 by @0",
    "Token transfer succeeded; @0 paid 0.000005 SOL in fees.\n@0 gave 604.67 USDC.\n@1 sent 604.67 USDC to @2 by @0\n@1 sent 20000 USDC to @3",
    'NFT operation succeeded.\n@0 minted 1 @1 to @2\nMemo "gm"',
]


def made_rows():
    """Every combination that a condition may tell apart."""
    rows = []
    for number in range(48):
        text = TEXTS[number % 4]
        rows.append(
            {
                "text": text,
                "status": ["Success", "Fail", None][number % 3],
                "kind": ["swap", "transfer", "nft", None][number % 4],
                "error_class": [None, "StaleReport", "Orca Whirlpool 0x1"][number % 3],
                "programs": [[WHIRLPOOL], [], [USDC, WHIRLPOOL]][number % 3],
                "accounts": [[], [USDC]][number % 2],
                "is_sandwich": number % 5 == 0,
                "scope": ["transaction", "program"][number % 2],
                "slot": number,
                "last_slot": number,
                "signature": str(number) if number % 2 else None,
                "value_bucket": [None, bucket(2, "USD"), bucket(4, "USD"), bucket(0, "SOL")][(0, 3, 2, 0)[number % 4]],
            }
        )
    lists = pa.list_(pa.string())
    schema = {"text": pa.string(), "status": pa.string(), "kind": pa.string(), "error_class": pa.string(), "programs": lists, "accounts": lists}
    schema |= {
        "is_sandwich": pa.bool_(),
        "scope": pa.string(),
        "slot": pa.int64(),
        "last_slot": pa.int64(),
        "signature": pa.string(),
        "value_bucket": pa.string(),
    }
    return pa.Table.from_pylist(rows, pa.schema(schema))


ROWS = made_rows()

CONDITIONS = [
    (Check("status", ("Fail",)), lambda row: row["status"] == "Fail"),
    (Check("kind", ("swap", "nft")), lambda row: row["kind"] in ("swap", "nft")),
    (Check("program", (WHIRLPOOL,)), lambda row: WHIRLPOOL in row["programs"]),
    (Check("account", (USDC,)), lambda row: USDC in row["accounts"]),
    (Check("error", ("tale", "Orca")), lambda row: row["error_class"] is not None),
    (Check("slot", ("3", "4")), lambda row: row["slot"] in (3, 4)),
    (Check("signature", ("5",)), lambda row: row["signature"] == "5"),
    (Check("sandwich"), lambda row: row["is_sandwich"]),
    (Check("scope", ("program",)), lambda row: row["scope"] == "program"),
    (Check("text", ('Memo "', " minted ")), lambda row: "minted" in row["text"]),
    (Check("gained", ("USDC",)), lambda row: "for 203.117642 USDC" in row["text"]),
    (Check("lost", ("SOL", "wSOL")), lambda row: "swapped 1.5 SOL" in row["text"]),
    (Check("error_words", ("oracle", "report", "stale")), lambda row: row["error_class"] == "StaleReport"),
]


@pytest.mark.parametrize(("test", "plainly"), CONDITIONS, ids=lambda value: value.field if isinstance(value, Check) else "")
def test_a_condition_holds_where_it_plainly_does_and_its_sql_lets_all_of_those_pass(test, plainly):
    condition = Condition("c", (test,))
    met = matches(condition, ROWS)
    assert met.tolist() == [bool(plainly(row)) for row in ROWS.to_pylist()]
    assert 0 < met.sum() < len(ROWS)
    sql = where(condition)
    if sql is not None:
        assert _passing(sql).tolist() == met.tolist()
    assert (sql is None) == (test.field in ("text", "gained", "lost", "error_words"))


def _passing(sql):
    with duckdb.connect() as connection:
        connection.register("made", ROWS)
        slots = [row[0] for row in connection.execute(f"select slot from made where {sql}").fetchall()]
    return np.isin(np.arange(len(ROWS)), slots)


@pytest.mark.parametrize(
    ("amount", "texts"),
    [
        (Amount("USDC", Decimal(10_000), None), {2}),
        (Amount("USD", Decimal(20_000), None), set()),
        (Amount("USD", Decimal(20_000), None, strict=False), {2}),
        (Amount("SOL", Decimal(1), Decimal(2)), {1}),
        (Amount("fee", Decimal("0.01"), None), {1}),
        (Amount("compute units", None, Decimal(80)), {1}),
        (Amount("USDC", Decimal("604.67"), Decimal("604.67"), strict=False), set()),
    ],
)
def test_an_amount_is_the_largest_that_a_text_tells_of(amount, texts):
    condition = Condition("c", amount=amount)
    met = matches(condition, ROWS)
    assert met.tolist() == [number % 4 in texts for number in range(len(ROWS))]
    sql = where(condition)
    if sql is not None:
        assert (_passing(sql) >= met).all()


def test_a_condition_is_sql_only_if_all_its_tests_are():
    both = Condition("c", (Check("status", ("Fail",)), Check("text", ("x",))))
    assert where(both) is None
    assert where(Condition("c", (Check("error", ("it's",)),))) == "(error_class like '%it''s%')"


def test_documents_are_weighed_by_what_they_meet_and_an_exact_condition_is_a_filter():
    conditions = (Condition("a", (Check("status", ("Fail",)),)), Condition("b", (Check("kind", ("swap",)),), weight=2))
    rows = ROWS.to_pylist()
    expected = [(row["status"] == "Fail") + 2 * (row["kind"] == "swap") for row in rows]
    assert weigh(conditions, None, ROWS).tolist() == expected
    exact = Condition("c", (Check("slot", ("7",)),), weight=4, exact=True)
    weights = weigh((*conditions, exact), None, ROWS)
    assert np.flatnonzero(np.isfinite(weights)).tolist() == [7]
    ordered = weigh((), Order("USDC"), ROWS)
    assert ordered.argmax() % 4 == 2
    assert 0 < ordered.max() < ORDER_WEIGHT
    fewest = weigh((), Order("fee", descending=False), ROWS)
    assert fewest.argmax() % 4 == 2
    assert np.isnan(told(ROWS["text"], "fee")[3])

"""Documents of recorded mainnet blocks: they say what the rows say, and no more of them are alike than they must be."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest
from document_reader import Reader, moves_of, net_of
from recorded_files import manifest

from blyan import schemas
from blyan.corpus.documents import documents_of, template_ranks
from blyan.corpus.labels import KIND_RULES
from blyan.corpus.registry import load_registry

pytestmark = pytest.mark.skipif(not manifest(), reason="the recorded mainnet data is not at ../shared/data")

BLOCKS = ["blocks/110130000-jsonParsed", "blocks/254170887", "blocks/285000037", "blocks/332254855"]


@pytest.fixture(scope="session")
def documents(recorded):
    known = {}

    def find(start):
        if start not in known:
            tables = {table.name: recorded(start).table(table) for table in schemas.NORMALISED}
            known[start] = documents_of(tables, load_registry(), vote_share=1.0).rows
        return known[start]

    return find


@pytest.mark.parametrize("start", BLOCKS)
def test_amounts_and_accounts_of_a_text_are_those_of_its_rows(recorded, documents, start):
    reader, transfers, changes = Reader(load_registry()), defaultdict(list), defaultdict(list)
    for row in recorded(start).rows(schemas.TOKEN_TRANSFERS):
        transfers[row["tx_index"]].append(row)
    for row in recorded(start).rows(schemas.BALANCE_CHANGES):
        changes[row["tx_index"]].append(row)
    transactions = recorded(start).rows(schemas.TRANSACTIONS)
    rows = documents(start).to_pylist()
    assert [row["tx_index"] for row in rows] == [row["index"] for row in transactions]
    for document, transaction in zip(rows, transactions, strict=True):
        text, accounts = document["text"], document["accounts"]
        assert reader.moves(text, accounts) == moves_of(transfers[document["tx_index"]]), text
        assert reader.net(text, accounts) == net_of(transaction, changes[document["tx_index"]]), text
        assert reader.account(re.search(r"; (@0|[A-Z][\w .]*) paid ", text)[1], accounts) == transaction["accounts"][0]["pubkey"]
        assert max([-1, *(int(alias) for alias in re.findall(r"@(\d+)", re.sub(r'"(?:[^"\\]|\\.)*"', "", text)))]) == len(accounts) - 1
        assert len(set(accounts)) == len(accounts)
    assert sum(map(len, transfers.values())) > 300


@pytest.mark.parametrize("file", [row["file"] for row in manifest() if row["file"].startswith("blocks/")])
def test_every_recorded_block_has_a_document_for_each_transaction(recorded, documents, file):
    """However little was recorded: signatures alone, no metadata, no logs."""
    reader, transfers = Reader(load_registry()), defaultdict(list)
    for row in recorded(file).rows(schemas.TOKEN_TRANSFERS):
        transfers[row["block_slot"], row["tx_index"]].append(row)
    rows = documents(file).to_pylist()
    assert len(rows) == recorded(file).table(schemas.TRANSACTIONS).num_rows
    for row in rows:
        assert reader.moves(row["text"], row["accounts"]) == moves_of(transfers[row["block_slot"], row["tx_index"]]), row["text"]


def test_a_wrong_amount_or_account_is_noticed(recorded, documents):
    """The readers of the test above can tell: a digit or an alias changed in the text, and they disagree."""
    reader = Reader(load_registry())
    document = next(row for row in documents(BLOCKS[1]).to_pylist() if row["kind"] == "swap" and " sent " in row["text"])
    text, accounts = document["text"], document["accounts"]
    moves = reader.moves(text, accounts)
    assert reader.moves(re.sub(r"sent (\d)", r"sent 7\1", text, count=1), accounts) != moves
    assert reader.moves(re.sub(r" to @(\d+)", r" to @0", text), accounts) != moves
    assert reader.moves(text, accounts[::-1]) != moves


@pytest.mark.parametrize("start", BLOCKS)
def test_every_label_names_its_rule(documents, start):
    kinds = defaultdict(set)
    for rule in KIND_RULES:
        kinds[rule.name].add(rule.kind)
    for row in documents(start).to_pylist():
        rules = {entry["label"]: entry["rule"] for entry in row["rules"]}
        assert row["kind"] in kinds[rules["kind"]]
        assert (row["error_class"] is not None) == (row["status"] == "Fail") == ("error_class" in rules)
        assert (row["value_bucket"] is not None) == ("value_bucket" in rules)
        assert row["is_sandwich"] == ("is_sandwich" in rules)
        assert row["is_vote"] == (row["kind"] == "vote")
        assert len(row["programs"]) == len(set(row["programs"])) > 0


def test_sandwiches_are_found_where_they_were_recorded_and_nowhere_in_a_block_of_votes(documents):
    found = {start: sum(documents(start)["is_sandwich"].to_pylist()) for start in BLOCKS}
    assert found[BLOCKS[2]] >= 3
    assert found[BLOCKS[0]] == 0


def test_documents_with_one_structural_key_differ_in_masked_values_alone(documents):
    by_key = defaultdict(set)
    for row in documents(BLOCKS[3]).to_pylist():
        # Anything that holds a digit is masked here, aliases included: coarser than the key, apart from the renderer's own masking.
        by_key[row["structural_key"]].add(re.sub(r'"(?:[^"\\]|\\.)*"|[^\s@]*\d\S*', "#", row["text"]))
    assert all(len(shapes) == 1 for shapes in by_key.values())
    assert len(by_key) > 100


def grams(text):
    words = re.sub(r"[\d.]+", "#", text).split()
    return frozenset(zip(*(words[at:] for at in range(5)), strict=False)) or frozenset([tuple(words)])


def alike(texts):
    """The share of texts that some other is 0.75 like, by Jaccard over five words with numbers masked."""
    sets = Counter(map(grams, texts))
    distinct = list(sets)
    near = sum(
        count
        for one, count in sets.items()
        if count > 1 or any(other is not one and 4 * len(one & other) >= 3 * len(one | other) for other in distinct)
    )
    return near / len(texts)


def test_a_cap_per_template_takes_the_near_duplicates_out(documents):
    """Near-duplicates by five words in a row: 93 % of these three blocks without votes, and 64 % with one document of each template."""
    every, capped = [], []
    for start in BLOCKS[1:]:
        rows = documents(start)
        ranks = template_ranks(rows["structural_key"]).to_pylist()
        other = [row for row in zip(rows["text"].to_pylist(), ranks, rows["is_vote"].to_pylist(), strict=True) if not row[2]]
        every += [text for text, _, _ in other]
        capped += [text for text, rank, _ in other if rank == 0]
    before, after = alike(every), alike(capped)
    assert before > 0.8
    assert len(capped) < 0.4 * len(every)
    assert after < before - 0.2, (before, after)


GOLDEN = [
    (
        "swap",
        "blocks/254170887",
        300,
        ("swap", "Success", None, "USD 10 to 100"),
        [
            "Swap at Orca Whirlpool succeeded; @0 paid 0.000006397 SOL in fees, 203981 compute units.",
            "@0 received 0.000017352 wSOL.",
            "@1 call with 27 accounts",
            "> Orca Whirlpool Swap with 11 accounts",
            "> @2 sent 0.095533561 wSOL to @3 by @0",
            "> @4 sent 6.639758 @5 to @6 by @7",
            "> Orca Whirlpool Swap with 11 accounts",
            "> @6 sent 6.639758 @5 to @8 by @0",
            "> @9 sent 15.830489 USDC to @10 by @11",
            "> Orca Whirlpool Swap with 11 accounts",
            "> @10 sent 15.830489 USDC to @12 by @0",
            "> @13 sent 0.095550913 wSOL to @2 by @14",
        ],
    ),
    (
        "token transfer",
        "blocks/254170887",
        31,
        ("token_transfer", "Success", None, "USD 100 to 1000"),
        [
            "Token transfer succeeded; @0 paid 0.000005 SOL in fees, 6199 compute units.",
            "@0 gave 604.67 USDC.",
            "@1 sent 604.67 USDC to @2 by @0",
        ],
    ),
    (
        "NFT",
        "blocks/110130000-jsonParsed",
        1677,
        ("nft", "Success", None, "SOL 0.01 to 0.1"),
        [
            "NFT operation succeeded; @0 paid 0.00001 SOL in fees.",
            "@0 gave 0.0119712 SOL.",
            "System createAccount lamports 0.0014616 SOL newAccount @1 owner SPL Token source @0 space 82",
            "SPL Token initializeMint decimals 0 freezeAuthority @0 mint @1 mintAuthority @0",
            "Associated Token create account @2 mint @1 source @0 wallet @0",
            "> @0 sent 0.00203928 SOL to @2",
            "> System allocate account @2 space 165",
            "> System assign account @2 owner SPL Token",
            "> SPL Token initializeAccount account @2 mint @1 owner @0",
            "@0 minted 1 @1 to @2",
            "@3 call with 14 accounts",
            "> @0 sent 0.05 SOL to @0",
            "> Metaplex Token Metadata call with 7 accounts",
            "> @0 sent 0.00561672 SOL to @4",
            "> System allocate account @4 space 679",
            "> System assign account @4 owner Metaplex Token Metadata",
            "> Metaplex Token Metadata call with 9 accounts",
            "> @0 sent 0.0028536 SOL to @5",
            "> System allocate account @5 space 282",
            "> System assign account @5 owner Metaplex Token Metadata",
            "> SPL Token setAuthority authorityType mintTokens mint @1 multisigAuthority @0 newAuthority @5 signers @0",
            "> SPL Token setAuthority authorityType freezeAccount mint @1 multisigAuthority @0 newAuthority @5 signers @0",
            "> Metaplex Token Metadata call with 2 accounts",
        ],
    ),
    (
        "compressed NFT",
        "blocks/254170887",
        67,
        ("nft", "Success", None, None),
        [
            "NFT operation succeeded; @0 paid 0.0000054 SOL in fees, 77937 compute units.",
            "Metaplex Bubblegum MintToCollectionV1 with 16 accounts",
            "> Metaplex Token Metadata call with 4 accounts",
            "> SPL Noop call with 0 accounts",
            "> Account Compression Append with 3 accounts",
            "> SPL Noop call with 0 accounts",
        ],
    ),
    (
        "vote",
        "blocks/332254855",
        683,
        ("vote", "Success", None, None),
        [
            "Vote succeeded; @0 paid 0.000005 SOL in fees, 2100 compute units.",
            "Vote towersync towerSync of 31 slots from 332254824 to 332254854 voteAccount @1 voteAuthority @0",
        ],
    ),
    (
        "failure",
        "blocks/254170887",
        27,
        ("swap", "Fail", "SlippageToleranceExceeded", "USD 1000 to 10000"),
        [
            "Swap at Jupiter v4 failed; @0 paid 0.000005001 SOL in fees, 167058 compute units. Instruction 2 failed in Jupiter v4: SlippageToleranceExceeded (custom program error: 0x1771).",
            'Memo "177331274.8664"',
            "Jupiter v4 Route with 27 accounts",
            "> Orca Whirlpool Swap with 11 accounts",
            "> @1 sent 1500 USDC to @2 by @0",
            "> @3 sent 9.05078636 wSOL to @4 by @5",
            "> Orca Whirlpool Swap with 11 accounts",
            "> @4 sent 9.05078636 wSOL to @6 by @0",
            "> @7 sent 1497.946575 USDC to @1 by @8",
        ],
    ),
    (
        "token account",
        "blocks/254170887",
        99,
        ("token_account", "Success", None, None),
        [
            "Token account operation succeeded; @0 paid 0.000145236 SOL in fees, 8520 compute units.",
            "@0 gave 0.00407856 SOL.",
            'System createAccountWithSeed base @0 lamports 0.00203928 SOL newAccount @1 owner SPL Token seed "2TTqPvUxoydpDEh1L1wH3Zs87n94EjTP" source @0 space 165',
            'System createAccountWithSeed base @0 lamports 0.00203928 SOL newAccount @2 owner SPL Token seed "m5Qs3xu5nxSrgCPwZgzyAirCKHeD9SgF" source @0 space 165',
            "SPL Token initializeAccount account @1 mint @3 owner @4",
            "SPL Token initializeAccount account @2 mint wSOL owner @4",
        ],
    ),
    (
        "swap with an account opened and closed",
        "blocks/285000037",
        12,
        ("swap", "Success", None, "SOL 0.01 to 0.1"),
        [
            "Swap at Raydium AMM v4 succeeded; @0 paid 0.000110169 SOL in fees, 39344 compute units.",
            "@0 gave 0.027143346 SOL and received 11321.844654 @1.",
            "System createAccount lamports 0.00203928 SOL newAccount @2 owner SPL Token source @0 space 165",
            "@0 sent 0.027143346 SOL to @2",
            "SPL Token initializeAccount account @2 mint wSOL owner @0",
            "Raydium AMM v4 swapBaseIn with 18 accounts",
            "> @2 sent 0.027143346 wSOL to @3 by @0",
            "> @4 sent 11321.844654 @1 to @5 by @6",
            "SPL Token closeAccount account @2 destination @0 owner @0",
        ],
    ),
    (
        "memo",
        "blocks/110130000-jsonParsed",
        3,
        ("token_transfer", "Success", None, None),
        [
            "Token transfer succeeded; @0 paid 0.00001 SOL in fees.",
            'Memo "QQABqASBkLSDM+nc3Az7ifdzyF5SYT+P4xBk1d0dQAI="',
            "@1 sent 10 @2 to @3 by @4",
        ],
    ),
    (
        "lookup",
        "blocks/332254855",
        1022,
        ("other", "Fail", "Computational budget exceeded", None),
        [
            "Transaction failed; @0 paid 0.000015 SOL in fees, 10000 compute units. Instruction 2 failed in Address Lookup Table: Computational budget exceeded.",
            "Address Lookup Table extendLookupTable lookupTableAccount @1 lookupTableAuthority @0 newAddresses @2 @3 wSOL @4 @5 @6 @7 @8 @9 wSOL @10 @11 @12 @13 @14 @15 wSOL @16 @17 @18 @19 payerAccount @0",
        ],
    ),
]
"""Block, transaction, labels, and the lines of the text."""


@pytest.mark.parametrize(("start", "index", "labels", "lines"), [row[1:] for row in GOLDEN], ids=[row[0] for row in GOLDEN])
def test_recorded_transactions_read_like_this(documents, start, index, labels, lines):
    row = next(row for row in documents(start).to_pylist() if row["tx_index"] == index)
    assert row["text"].split("\n") == lines
    assert (row["kind"], row["status"], row["error_class"], row["value_bucket"]) == labels

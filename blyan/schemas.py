"""Every table of the lake: columns, types, units, keys and prose.

Belongs here: what a table is. The write schema, the checks and the data dictionary all come from
this file. Does not belong here: how rows are made (`blyan.solana.normalise`) or stored (`blyan.lake`).

The laws of a column:

- A column that the public BigQuery dataset `crypto_solana_mainnet_us` has keeps its name and meaning there.
- Any other column carries its unit in its name.
- Lamports and token amounts are `decimal(20,0)`: exact for every u64, and for a negative reward.
- Slots, indexes, counts and compute units are `int64` (Delta has no unsigned type); a record whose
  value does not fit is quarantined, never wrapped.
- Absent is null, never zero.
- Every row can be ordered: `key` is a total order within a partition, and rows are written in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pyarrow as pa

RANGE_COLUMN = "slot_range"
"""The partition column of every table with a slot: the key of the range (`SlotRange.key`)."""

TEXT = pa.string()
COUNT = pa.int64()
LAMPORTS = pa.decimal128(20, 0)
WIDE = pa.decimal128(38, 0)
"""Sums of amounts, each of which may be as large as a u64."""
TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `bigquery` is its name in the public dataset, or None where that lacks it."""

    name: str
    type: pa.DataType
    prose: str
    nullable: bool = True
    bigquery: str | None = None
    in_digest: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its name in the lake, prose, columns and the columns that order its rows. `properties` are Delta's, beside those that every table has."""

    name: str
    prose: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition_by: tuple[str, ...] = (RANGE_COLUMN,)
    uncompressed: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()

    @property
    def group(self) -> str:
        """The first part of the name, such as `solana`."""
        return self.name.partition("/")[0]

    @property
    def short_name(self) -> str:
        """The last part of the name, such as `blocks`."""
        return self.name.rpartition("/")[2]

    @property
    def column_names(self) -> list[str]:
        """Names of the columns, without the partition columns."""
        return [column.name for column in self.columns]

    def arrow_schema(self) -> pa.Schema:
        """The schema of the rows, without the partition columns: what a Parquet file holds."""
        return _arrow_schema(self)

    def delta_schema(self) -> pa.Schema:
        """The schema of the Delta table: the rows, then the partition columns."""
        schema = self.arrow_schema()
        for name in self.partition_by:
            schema = schema.append(pa.field(name, TEXT, nullable=False))
        return schema


@cache
def _arrow_schema(table: Table) -> pa.Schema:
    return pa.schema([pa.field(column.name, column.type, column.nullable) for column in table.columns])


def _column(name: str, type_: pa.DataType, prose: str, *, nullable: bool = True) -> Column:
    return Column(name, type_, prose, nullable)


def _shared(name: str, type_: pa.DataType, prose: str, *, nullable: bool = True, of: str | None = None) -> Column:
    """A column the public dataset has under the same name (or under `of`)."""
    return Column(name, type_, prose, nullable, bigquery=of or name)


def _list_of(**fields: pa.DataType) -> pa.ListType:
    return pa.list_(pa.field("element", pa.struct([pa.field(name, type_) for name, type_ in fields.items()])))


TEXT_LIST = pa.list_(pa.field("element", TEXT))
COUNT_LIST = pa.list_(pa.field("element", COUNT))
VECTOR = pa.list_(pa.field("element", pa.float32()))

_SLOT = _shared("block_slot", COUNT, "The block's slot.", nullable=False)
_HASH = _shared("block_hash", TEXT, "The block's hash, base58. Null where a transaction was recorded without its block.")
_TIME = _shared("block_timestamp", TIMESTAMP, "The block's estimated production time, to the second. Null in early blocks.")
_TX_SIGNATURE = _shared("tx_signature", TEXT, "First signature of the transaction, base58.", nullable=False)
_TX_INDEX = _column("tx_index", COUNT, "Position of the transaction in its block, as `transactions.index`.", nullable=False)
_STATUS = _shared("status", TEXT, "`Success` or `Fail`; null where the metadata was not recorded.")

TOKEN_BALANCES = _list_of(account_index=COUNT, mint=TEXT, owner=TEXT, amount=LAMPORTS, decimals=COUNT)

BLOCKS = Table(
    "solana/blocks",
    "One row per block that landed.",
    (
        _shared("slot", COUNT, "The block's slot.", nullable=False),
        _shared("block_hash", TEXT, "The block's hash, base58.", nullable=False),
        _TIME,
        _shared("height", COUNT, "Number of blocks before this one. Null in early blocks."),
        _shared("previous_block_hash", TEXT, "Hash of the parent block."),
        _shared("transaction_count", COUNT, "Transactions in the block, as its source states it. Null where the source gave no transactions."),
        _shared("leader_reward", LAMPORTS, "Lamports of the leader's `Fee` reward. Null where the block has none."),
        _shared("leader", TEXT, "Account that received the leader's `Fee` reward."),
        _column("parent_slot", COUNT, "Slot of the parent block; the slots between were skipped."),
        _column(
            "transaction_detail", TEXT, "How much of each transaction the source gave: `full`, `accounts`, `signatures` or `none`.", nullable=False
        ),
    ),
    ("slot",),
)

TRANSACTIONS = Table(
    "solana/transactions",
    "One row per transaction.",
    (
        _SLOT,
        _HASH,
        _TIME,
        _shared("recent_block_hash", TEXT, "Hash of a recent block, or the durable nonce, that the transaction named."),
        _shared("signature", TEXT, "First signature, base58: the transaction's identity.", nullable=False),
        _shared("index", COUNT, "Position in the block, from 0.", nullable=False),
        _shared("fee", LAMPORTS, "Lamports charged: base fee plus priority fee."),
        _STATUS,
        _shared(
            "err",
            TEXT,
            "Why it failed, in the runtime's words, such as `Error processing Instruction 1: custom program error: 0x14`. Null on success.",
        ),
        _shared("compute_units_consumed", COUNT, "Compute units consumed. Null before the cluster recorded it."),
        _shared(
            "accounts",
            _list_of(pubkey=TEXT, signer=pa.bool_(), writable=pa.bool_()),
            "Every account, loaded addresses included, in the order that instructions index.",
        ),
        _shared("log_messages", TEXT_LIST, "Program logs, verbatim. Null where not recorded; the runtime truncates them at 10 kB."),
        _shared(
            "balance_changes",
            _list_of(account=TEXT, before=LAMPORTS, after=LAMPORTS),
            "Lamports before and after, for every account, changed or not, aligned with `accounts`.",
        ),
        _shared("pre_token_balances", TOKEN_BALANCES, "Token balances before, in base units."),
        _shared("post_token_balances", TOKEN_BALANCES, "Token balances after, in base units."),
        _column("version", TEXT, "`legacy` or `0`. Null where the source does not tell (BigQuery)."),
        _column("is_vote", pa.bool_(), "True when its one top-level instruction calls the vote program. Null without instructions."),
        _column("signatures", TEXT_LIST, "All signatures. Only the first where the source gives no more (BigQuery)."),
        _column("error_json", TEXT, "The error as RPC gives it, canonical JSON. Null on success, and through BigQuery."),
        _column("loaded_writable_addresses", TEXT_LIST, "Writable accounts loaded from address lookup tables. Null where not recorded."),
        _column("loaded_readonly_addresses", TEXT_LIST, "Read-only accounts loaded from address lookup tables. Null where not recorded."),
        _column(
            "address_table_lookups",
            _list_of(account_key=TEXT, writable_indexes=COUNT_LIST, readonly_indexes=COUNT_LIST),
            "The lookup tables named by the message. Null where the source does not tell.",
        ),
        _column("cost_units", COUNT, "Cost the scheduler charged to the block's limit. Null before 2025."),
        _column("compute_unit_limit", COUNT, "Limit set by a compute budget instruction. Null where none did."),
        _column("compute_unit_price_micro_lamports", LAMPORTS, "Price per compute unit set by a compute budget instruction. Null where none did."),
        _column(
            "priority_fee_lamports",
            LAMPORTS,
            "The fee above 5,000 lamports a signature, precompile signatures counted. Null without instructions or metadata.",
        ),
        _column("return_data_program_id", TEXT, "Program that returned data."),
        _column("return_data", TEXT, "The returned data, base64."),
    ),
    ("block_slot", "index"),
)

INSTRUCTIONS = Table(
    "solana/instructions",
    "One row per instruction, outer and inner, in execution order.",
    (
        _SLOT,
        _TIME,
        _HASH,
        _TX_SIGNATURE,
        _shared("index", COUNT, "Position among the outer instructions, or among the inner ones of its parent.", nullable=False),
        _shared("parent_index", COUNT, "`index` of the outer instruction that invoked it. Null for outer instructions."),
        _shared("accounts", TEXT_LIST, "Accounts passed. Null where `params` name them, because the program is one this project decodes."),
        _shared("data", TEXT, "Raw data, base58. Null where the instruction is decoded."),
        _shared("parsed", TEXT, "Decoded text of a memo. Null for every other program."),
        _shared("program", TEXT, "Name of the program, such as `system`, `spl-token`, `vote`. Null where not decoded."),
        _shared("program_id", TEXT, "Account of the program."),
        _shared("instruction_type", TEXT, "Name of the instruction, such as `transferChecked`. Null where not decoded."),
        _shared(
            "params",
            _list_of(key=TEXT, value=TEXT),
            "Decoded parameters by name, in the order of their names; each value is JSON. Null where not decoded.",
        ),
        _TX_INDEX,
        _column(
            "ordinal", COUNT, "Position in the transaction, in execution order: an outer instruction, then the inner ones it invoked.", nullable=False
        ),
        _column("stack_height", COUNT, "Depth of the call: 1 for an outer instruction. Null for an inner one in older data."),
    ),
    ("block_slot", "tx_index", "ordinal"),
)

TOKEN_TRANSFERS = Table(
    "solana/token_transfers",
    "One row per movement of SOL or tokens by an instruction, failed transactions included.",
    (
        _SLOT,
        _TIME,
        _HASH,
        _TX_SIGNATURE,
        _shared("source", TEXT, "Account that gave. Null for `mintTo`."),
        _shared("destination", TEXT, "Account that received. Null for `burn`."),
        _shared("authority", TEXT, "Account that authorised it: owner, delegate or multisig."),
        _shared("value", LAMPORTS, "Amount in base units of the mint, or lamports for `transfer`.", nullable=False),
        _shared("decimals", COUNT, "Decimals of the mint. Null for SOL, and where nothing in the transaction tells."),
        _shared("mint", TEXT, "Mint of the token. Null for SOL, and where nothing in the transaction tells."),
        _shared("mint_authority", TEXT, "Authority of a `mintTo`."),
        _shared("fee", LAMPORTS, "Transfer fee withheld, in base units (Token-2022)."),
        _shared("fee_decimals", COUNT, "Decimals of `fee`."),
        _shared("memo", TEXT, "Memo of the instruction just before it."),
        _shared("transfer_type", TEXT, "`spl-transfer`, `spl-transfer-with-fee`, `mintTo`, `burn`, or `transfer` for SOL.", nullable=False),
        _TX_INDEX,
        _column("ordinal", COUNT, "The instruction, as `instructions.ordinal`.", nullable=False),
        _column("status", TEXT, "Outcome of the transaction, as `transactions.status`: a failed one moved nothing."),
    ),
    ("block_slot", "tx_index", "ordinal"),
)

BALANCE_CHANGES = Table(
    "solana/balance_changes",
    "One row per account and asset whose balance a transaction changed. `transactions.balance_changes` has the unchanged ones too.",
    (
        _SLOT,
        _TIME,
        _HASH,
        _TX_SIGNATURE,
        _shared("account", TEXT, "The account: a wallet for SOL, a token account for a mint.", nullable=False, of="balance_changes.account"),
        _shared("before", LAMPORTS, "Balance before. Null where the account held no balance of the mint.", of="balance_changes.before"),
        _shared("after", LAMPORTS, "Balance after. Null where the account holds no balance of the mint any more.", of="balance_changes.after"),
        _column("change", LAMPORTS, "`after` less `before`, absent counted as nothing.", nullable=False),
        _shared("mint", TEXT, "Mint of a token balance. Null for SOL.", of="pre_token_balances.mint"),
        _shared("owner", TEXT, "Owner of the token account. Null for SOL and in older data.", of="pre_token_balances.owner"),
        _shared("decimals", COUNT, "Decimals of the mint. Null for SOL.", of="pre_token_balances.decimals"),
        _shared("account_index", COUNT, "Position of the account in `transactions.accounts`.", nullable=False, of="pre_token_balances.account_index"),
        _TX_INDEX,
    ),
    ("block_slot", "tx_index", "account_index", "mint"),
)

BLOCK_REWARDS = Table(
    "solana/block_rewards",
    "One row per reward that a block paid.",
    (
        _SLOT,
        _HASH,
        _TIME,
        _shared("commission", COUNT, "Commission of the vote account in per cent, for voting and staking rewards."),
        _shared("lamports", LAMPORTS, "Lamports paid. Negative where rent was taken."),
        _shared("post_balance", LAMPORTS, "Balance of the account after it."),
        _shared("pubkey", TEXT, "Account that was paid.", nullable=False),
        _shared("reward_type", TEXT, "`Fee`, `Rent`, `Voting` or `Staking`. Null in older data."),
        _column("index", COUNT, "Position among the block's rewards.", nullable=False),
    ),
    ("block_slot", "index"),
)

RAW_BLOCKS = Table(
    "solana/raw_blocks",
    "What the source gave, verbatim and compressed: one row per slot of the range, and one per rejected record.",
    (
        _column("block_slot", COUNT, "The slot. Null only for a rejected record whose slot cannot be told."),
        _column("record", COUNT, "0 for the slot's own row; from 1 for rejected records.", nullable=False),
        _column("state", TEXT, "`present`, `skipped`, `unknown` or `rejected`.", nullable=False),
        _column("proof", TEXT, "How the state is known, or why the record was rejected.", nullable=False),
        _column("detail", TEXT, "What was wrong, and the remedy, for unknown and rejected rows."),
        _column("block_hash", TEXT, "The block's hash, where the source told it."),
        _column("parent_slot", COUNT, "The parent's slot, where the source told it."),
        _column("source", TEXT, "Kind of source: `embedded`, `archive`, `rpc`, `bigquery`.", nullable=False),
        _column("format", TEXT, "Shape of the payload: `getBlock`, `getTransaction` or `bigquery`.", nullable=False),
        _column("payload_bytes", COUNT, "Size of the payload before compression.", nullable=False),
        _column("payload_sha256", TEXT, "SHA-256 of the payload before compression, hex. Null without a payload."),
        Column("payload", pa.binary(), "The payload, zstd.", in_digest=False),
        Column("origin", TEXT, "Where the record came from: path and line, or URL.", in_digest=False),
    ),
    ("block_slot", "record"),
    uncompressed=("payload",),
)

COMPLETENESS = Table(
    "solana/completeness",
    "The completeness statement: for every slot of the range, landed with its hash, skipped with its proof, or unknown with the reason.",
    (
        _column("slot", COUNT, "The slot.", nullable=False),
        _column("state", TEXT, "`landed`, `skipped` or `unknown`.", nullable=False),
        _column("block_hash", TEXT, "Hash of the block that landed."),
        _column("proof", TEXT, "How the state is known, or why it is not.", nullable=False),
        _column("transactions", COUNT, "Transactions that landed."),
        _column("transactions_stated", COUNT, "Transactions that the source says the block has."),
        _column("quarantined", COUNT, "Records of this slot in quarantine.", nullable=False),
    ),
    ("slot",),
)

QUARANTINE = Table(
    "solana/quarantine",
    "Records that could not be used, with the reason and the raw bytes. Nothing else is ever dropped.",
    (
        _column("block_slot", COUNT, "The slot, where it can be told."),
        _column("item", COUNT, "Position among the slot's quarantined records.", nullable=False),
        _column("tx_index", COUNT, "Position of the transaction in its block, where one transaction is concerned."),
        _column("reason", TEXT, "Short stable code of the cause.", nullable=False),
        _column("detail", TEXT, "What was wrong, where, and the remedy.", nullable=False),
        _column("raw", pa.binary(), "The record as it came."),
        Column("origin", TEXT, "Where the record came from.", in_digest=False),
    ),
    ("block_slot", "item"),
)

SLOT_STATUS = Table(
    "solana/slot_status",
    "What is known of each slot and how sure it is, up to the newest announced one. It is a view, made from the completeness statement and "
    "from what the follower last wrote of the tip; the lake does not store it. A slot that the chain may have passed over has no row until "
    "that is final.",
    (
        _column("slot", COUNT, "The slot.", nullable=False),
        _column(
            "state", TEXT, "`landed`, `skipped` or `unknown`, as `completeness.state`; `announced` where its block is still to come.", nullable=False
        ),
        _column("block_hash", TEXT, "Hash of the block that landed."),
        _column("commitment", TEXT, "`processed` (announced), `confirmed` or `finalized`. Null where the state is unknown."),
    ),
    ("slot",),
)

DOCUMENTS = Table(
    "corpus/documents",
    "One row per transaction as text, with labels. Votes are a sample; `corpus/summaries` counts those that are not here.",
    (
        _SLOT,
        _TIME,
        _HASH,
        _TX_SIGNATURE,
        _TX_INDEX,
        _column(
            "text", TEXT, "What happened, in words. Accounts without a name are `@0`, `@1`… in the order of their first mention.", nullable=False
        ),
        _column("accounts", TEXT_LIST, "The account of each alias of the text, that of `@0` first.", nullable=False),
        _column(
            "structural_key",
            TEXT,
            "Digest of the text with amounts and other values masked, 32 hex digits: documents that share it differ in nothing else.",
            nullable=False,
        ),
        _column(
            "family_key",
            TEXT,
            "Digest of the masked text's distinct lines without the first, with aliases and all numbers masked: near-duplicates share it.",
            nullable=False,
        ),
        _column(
            "kind",
            TEXT,
            "What the transaction is, such as `swap` or `token_transfer`. A failed one is of the kind that it tried to be.",
            nullable=False,
        ),
        _STATUS,
        _column("error_class", TEXT, "Why it failed: the program's name for its code where one is known. Null on success."),
        _column(
            "value_bucket",
            TEXT,
            "Decade of the largest single movement, in dollars where a dollar token moved, else in SOL. Null where neither moved.",
        ),
        _column(
            "sold", TEXT, "Mint of the one asset that the fee payer gave in a successful swap, `SOL` for SOL and wrapped SOL. Null for anything else."
        ),
        _column("sold_amount", WIDE, "How much of it, in base units."),
        _column("sold_decimals", COUNT, "Its decimals."),
        _column("bought", TEXT, "Mint of the one asset that the fee payer got for it, likewise."),
        _column("bought_amount", WIDE, "How much of it, in base units."),
        _column("bought_decimals", COUNT, "Its decimals."),
        _column("programs", TEXT_LIST, "Accounts of the programs it called, in the order of their first call.", nullable=False),
        _column("is_vote", pa.bool_(), "As `transactions.is_vote`."),
        _column(
            "is_sandwich",
            pa.bool_(),
            "Part of a sandwich's shape: one payer trades a pair and trades it back around others in one slot.",
            nullable=False,
        ),
        _column("rules", _list_of(label=TEXT, rule=TEXT), "The rule that set each label.", nullable=False),
        _column("flags", TEXT_LIST, "What is odd about its memos, such as `instruction_like`: text that anyone may write is data.", nullable=False),
    ),
    ("block_slot", "tx_index"),
)

SUMMARIES = Table(
    "corpus/summaries",
    "What a range of slots amounts to, as text: one row for the range, one for each of its busiest programs and accounts.",
    (
        _column("first_slot", COUNT, "First slot of the range.", nullable=False),
        _column("last_slot", COUNT, "Last slot of the range.", nullable=False),
        _column("scope", TEXT, "`range`, `program` or `account`.", nullable=False),
        _column("subject", TEXT, "The program or the account. Empty for the range.", nullable=False),
        _column("text", TEXT, "The summary. Every figure in it is counted from the tables.", nullable=False),
        _column("transactions", COUNT, "Transactions it sums up, votes included.", nullable=False),
        _column("votes_left_out", COUNT, "Of them, votes that `corpus/documents` has no row of. Null but for the range."),
    ),
    ("first_slot", "scope", "subject"),
)

EMBEDDINGS = Table(
    "corpus/embeddings",
    "One row per distinct text of a range that is embedded: the gist of its documents, which many share, and each of its summaries.",
    (
        _column(
            "first_slot",
            COUNT,
            "Slot of the first document of the range that has this gist. The range's first slot for a summary.",
            nullable=False,
        ),
        _column("text_sha256", TEXT, "SHA-256 of the text as UTF-8, hex.", nullable=False),
        _column("text", TEXT, "What the vector is of: a document's text without amounts and fees, or a whole summary.", nullable=False),
        _column("documents", COUNT, "Documents and summaries of the range that it stands for.", nullable=False),
        _column("vector", VECTOR, "The direction of the text, of length 1. As many components as the model gives.", nullable=False),
        _column("model", TEXT, "Digest of the embedder, hex. Vectors of two models are never compared.", nullable=False),
    ),
    ("first_slot", "text_sha256"),
    # Components have no pattern: zstd takes 7 % off them, and time.
    uncompressed=("vector",),
)

TOKENIZER = Table(
    "corpus/tokenizer",
    "One row per version of the tokenizer. It is a log: a version stays as it was.",
    (
        _column(
            "version",
            TEXT,
            "`MAJOR.MINOR`. MAJOR is raised where a text would have other tokens, MINOR where there are only more control tokens.",
            nullable=False,
        ),
        _column("major", COUNT, "Tokens of two MAJORs do not belong together.", nullable=False),
        _column("minor", COUNT, "From 0.", nullable=False),
        _column("tokenizer_sha256", TEXT, "SHA-256 of its `tokenizer.json`, which is a blob of the lake.", nullable=False),
        _column("vocabulary_size", COUNT, "Tokens it has.", nullable=False),
        _column("renderer", TEXT, "Version of the words of the documents that it was trained on.", nullable=False),
        _column("registry_sha256", TEXT, "Digest of the registry whose names have tokens of their own.", nullable=False),
        _column("split_rule", TEXT, "Fingerprint of the split key and the shares; only documents of the split `train` were read.", nullable=False),
        _column("template_cap", COUNT, "Most documents of one template and range that were read.", nullable=False),
        _column(
            "trained_on", _list_of(slot_range=TEXT, documents_sha256=TEXT), "The ranges, with the digest of the documents of each.", nullable=False
        ),
        _column("documents", COUNT, "Documents that were read.", nullable=False),
        _column("text_bytes", COUNT, "Bytes of their text, UTF-8.", nullable=False),
    ),
    ("major", "minor"),
    partition_by=(),
)

TOKENS = Table(
    "corpus/tokens",
    "One row per token shard: documents of one split of a range as tokens, in a file that is a blob of the lake. Format: docs/token-shards.md.",
    (
        _column("first_slot", COUNT, "First slot of the range.", nullable=False),
        _column("last_slot", COUNT, "Last slot of the range.", nullable=False),
        _column("tokenizer_major", COUNT, "MAJOR of the tokenizer; those of older ones stay beside the newest.", nullable=False),
        _column("tokenizer", TEXT, "Version of the tokenizer, as `tokenizer.version`.", nullable=False),
        _column("tokenizer_sha256", TEXT, "SHA-256 of its `tokenizer.json`.", nullable=False),
        _column("split", TEXT, "`train`, `validation` or `hidden`, by a keyed hash of the family key.", nullable=False),
        _column("split_rule", TEXT, "Fingerprint of the split key and the shares.", nullable=False),
        _column("part", COUNT, "Number of the shard in its split, from 0.", nullable=False),
        _column("shard_sha256", TEXT, "SHA-256 of the file.", nullable=False),
        _column("shard_bytes", COUNT, "Size of the file.", nullable=False),
        _column("tokens_at", COUNT, "Byte of the file at which the tokens begin, 16-bit and little-endian.", nullable=False),
        _column("tokens", COUNT, "How many there are, one that ends each document included.", nullable=False),
        _column(
            "offsets_at", COUNT, "Byte at which the documents' offsets begin: one more than documents, 64-bit and little-endian.", nullable=False
        ),
        _column("documents", COUNT, "Documents in the shard.", nullable=False),
        _column("votes", COUNT, "Votes among them.", nullable=False),
        _column("text_bytes", COUNT, "Bytes of their text, UTF-8.", nullable=False),
        _column(
            "templates",
            COUNT,
            "Templates of the split that first occur before the next shard begins, and not before this one does.",
            nullable=False,
        ),
        _column("capped_documents", COUNT, "Documents of the split that the cap left out, likewise.", nullable=False),
        _column("template_cap", COUNT, "Most documents of one template.", nullable=False),
        _column("documents_sha256", TEXT, "Digest of the range's documents that it was made from.", nullable=False),
    ),
    ("first_slot", "tokenizer_major", "split", "part"),
)

NORMALISED = (BLOCKS, TRANSACTIONS, INSTRUCTIONS, TOKEN_TRANSFERS, BALANCE_CHANGES, BLOCK_REWARDS)
"""The six tables that one pass over the raw blocks makes."""

SAMPLES = Table(
    "corpus/samples",
    "Instruction-tuning samples: one row per question about the tables, with the SQL that answers it, the answer, and what it rests on. "
    "The SQL gives the same answer whatever else the lake gets. Where the tables cannot tell, there is no SQL, and the answer says why.",
    (
        _column("first_slot", COUNT, "First slot that the question is about.", nullable=False),
        _column("last_slot", COUNT, "Last slot that the question is about.", nullable=False),
        _column("id", TEXT, "Digest of question, SQL and answer, 32 hex digits.", nullable=False),
        _column("family", TEXT, "Which question it is, by its name in `blyan/corpus/questions.toml`.", nullable=False),
        _column("scope", TEXT, "What it is about: `transaction`, `block`, `account`, `token`, `program` or `window`, several slots.", nullable=False),
        _column("difficulty", COUNT, "1 for columns of one table, 2 for aggregates, orders or joins, 3 for several steps.", nullable=False),
        _column("question", TEXT, "The question, in one of its phrasings. Text that anyone may write is quoted in it.", nullable=False),
        _column("sql", TEXT, "One SELECT in DuckDB's SQL, as `blyan sql` takes it. Null where the tables cannot tell."),
        _column("parameters", _list_of(key=TEXT, value=TEXT), "What was drawn from the rows for it.", nullable=False),
        _column(
            "answer",
            TEXT,
            "The result as JSON, `columns` and `rows`; decimals, and integers beyond 2^53, as text. Null where the tables cannot tell.",
        ),
        _column("answer_text", TEXT, "The answer in words, with every value of the result; or why the tables cannot tell.", nullable=False),
        _column(
            "citations",
            _list_of(block_slot=COUNT, tx_signature=TEXT),
            "The first five blocks or transactions that the answer rests on; the signature is null for a block.",
            nullable=False,
        ),
        _column("rests_on", COUNT, "How many blocks or transactions that is in all.", nullable=False),
        _column(
            "sources",
            _list_of(table=TEXT, content_sha256=TEXT),
            "The tables that the SQL reads, with the digest that their rows of the range had.",
            nullable=False,
        ),
        _column(
            "structural_key",
            TEXT,
            "Digest of the family and of its SQL with the parameters masked, 32 hex digits: samples that share it differ in values and "
            "phrasing alone.",
            nullable=False,
        ),
        _column(
            "split",
            TEXT,
            "`train`, `validation` or `hidden`, by a keyed hash of the structural key and, of a question about one transaction, of the family "
            "key of its document; whichever hides it more.",
            nullable=False,
        ),
        _column("split_rule", TEXT, "Fingerprint of the split key and the shares.", nullable=False),
        _column("flags", TEXT_LIST, "What is odd about texts in it that anyone may write, such as `instruction_like`.", nullable=False),
    ),
    ("first_slot", "last_slot", "family", "id"),
)

TABLES = {table.name: table for table in (RAW_BLOCKS, *NORMALISED, COMPLETENESS, QUARANTINE)}
"""Every table, by name."""

TEXTS = (DOCUMENTS, SUMMARIES)
"""The tables of text that are made from the normalised ones."""

CORPUS = (*TEXTS, EMBEDDINGS, SAMPLES, TOKENIZER, TOKENS)
"""The tables that are made from the normalised ones for models and search."""

VIEWS = {view.name: view for view in (SLOT_STATUS,)}
"""What `blyan sql` shows besides the tables, by name."""

"""Blocks of the public BigQuery dataset `crypto_solana_mainnet_us`.

Belongs here: the queries, what they may cost, and the grouping of rows into one record per slot.
Does not belong here: turning those rows into the lake's tables (`blyan.solana.normalise`).

A range is read in two steps, because only `Blocks` is small enough to be searched by slot: its
rows say which blocks exist and when they were made, and their times then prune the partitions of
`Transactions`, `Instructions` and `Block Rewards`. Every query is priced by a dry run first.
`Token Transfers` is not read: it is derived from `Instructions`, has no instruction index to order
or tell apart its rows, and would cost 44 TB over the whole history to learn nothing new.

A query reads whole days whatever slots it asks for, about 216,000 slots: ranges as wide as a day
cost four times less than the usual 54,000.

Tested with Google's client libraries against a stand-in (REST, Storage Read API, EXPORT DATA to a
local folder), not against Google itself unless the `cloud` test was run with credentials.
"""

from __future__ import annotations

import errno
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from blyan.errors import (
    BlyanError,
    PermanentError,
    RateLimitedError,
    SettingError,
    SourceUnreachableError,
    StoreFullError,
    TooCostlyError,
)
from blyan.settings import Settings
from blyan.solana.slots import SlotRange
from blyan.solana.sources import Format, RawRecord, SlotState, SourceReport

if TYPE_CHECKING:
    from google.cloud import bigquery, bigquery_storage
    from pyarrow.fs import FileSystem

MAINNET_GENESIS_HASH = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"
"""Genesis hash of mainnet-beta (Solana documentation, clusters)."""

DOLLARS_PER_TIB = 6.25
"""On-demand price of a scanned TiB in the US (BigQuery pricing page, 2026); the first TiB of a month is free."""

RETRY_DEADLINE_S = 120.0
"""Seconds in which the client retries 429, 5xx and broken connections before the read is given up."""

REQUEST_TIMEOUT_S = 60.0
"""Seconds before one request that starts a job is given up and retried."""

EDGE_SLOTS = 64
"""Slots read beyond each end of a range, so that a link can prove skips at its edges. Longer
runs of skipped slots occur only in outages; those stay unknown."""

TIMESTAMP_PADDING = timedelta(hours=1)
"""How far `block_timestamp` may differ between tables for one block. Users who join them by time allow 30 to 60 minutes."""

WINDOW_MARGIN = timedelta(days=60)
"""Added on both sides of an estimated time. The estimate is within days; the partitions are months."""

TIMELESS_UNTIL = datetime(2020, 12, 1, tzinfo=UTC)
"""Blocks made after this have a timestamp: the cluster records it since 2020-10."""

SLOT_TIMES = (
    (0, 1_584_368_940),
    (64_800_004, 1_612_972_004),
    (110_130_000, 1_638_693_800),
    (138_802_069, 1_656_057_273),
    (254_170_887, 1_710_441_678),
    (285_000_037, 1_724_267_459),
    (332_254_855, 1_744_174_462),
)
"""Slots and their Unix times: genesis, then `blockTime` of recorded blocks."""

FASTEST_SLOT_S, SLOWEST_SLOT_S = 0.2, 0.6
"""Bounds of the average time of a slot after the last known one: 0.39 to 0.57 s in every year so far,
and 0.2 s is the shortest that is planned."""

BUCKETS = 512
"""Parts into which an export is sorted: each is held in memory, and each is an open file."""

_TEXT = pa.string()
_INTEGER = pa.int64()
_EXACT = pa.string()
"""NUMERIC and BIGNUMERIC as digits: they hold values that no JSON reader keeps as a number."""
_TIME = pa.timestamp("us", tz="UTC")
_TOKEN_BALANCES = pa.list_(pa.struct({"account_index": _INTEGER, "mint": _TEXT, "owner": _TEXT, "amount": _EXACT, "decimals": _INTEGER}.items()))


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the dataset: its name, the key of its rows in a payload, and the columns asked for."""

    name: str
    key: str
    columns: pa.Schema
    slot: str = "block_slot"


BLOCKS = _Table(
    "Blocks",
    "block",
    pa.schema(
        {
            "slot": _INTEGER,
            "block_hash": _TEXT,
            "block_timestamp": _TIME,
            "height": _INTEGER,
            "previous_block_hash": _TEXT,
            "transaction_count": _INTEGER,
            "leader_reward": _EXACT,
            "leader": _TEXT,
        }.items()
    ),
    slot="slot",
)

TRANSACTIONS = _Table(
    "Transactions",
    "transactions",
    pa.schema(
        {
            "block_slot": _INTEGER,
            "block_hash": _TEXT,
            "block_timestamp": _TIME,
            "recent_block_hash": _TEXT,
            "signature": _TEXT,
            "index": _INTEGER,
            "fee": _EXACT,
            "status": _TEXT,
            "err": _TEXT,
            "compute_units_consumed": _EXACT,
            "accounts": pa.list_(pa.struct({"pubkey": _TEXT, "signer": pa.bool_(), "writable": pa.bool_()}.items())),
            "log_messages": pa.list_(_TEXT),
            "balance_changes": pa.list_(pa.struct({"account": _TEXT, "before": _EXACT, "after": _EXACT}.items())),
            "pre_token_balances": _TOKEN_BALANCES,
            "post_token_balances": _TOKEN_BALANCES,
        }.items()
    ),
)

INSTRUCTIONS = _Table(
    "Instructions",
    "instructions",
    pa.schema(
        {
            "block_slot": _INTEGER,
            "block_timestamp": _TIME,
            "block_hash": _TEXT,
            "tx_signature": _TEXT,
            "index": _INTEGER,
            "parent_index": _INTEGER,
            "accounts": pa.list_(_TEXT),
            "data": _TEXT,
            "parsed": _TEXT,
            "program": _TEXT,
            "program_id": _TEXT,
            "instruction_type": _TEXT,
            "params": pa.list_(pa.struct({"key": _TEXT, "value": _TEXT}.items())),
        }.items()
    ),
)

REWARDS = _Table(
    "Block Rewards",
    "rewards",
    pa.schema(
        {
            "block_slot": _INTEGER,
            "block_hash": _TEXT,
            "block_timestamp": _TIME,
            "commission": _EXACT,
            "lamports": _EXACT,
            "post_balance": _EXACT,
            "pubkey": _TEXT,
            "reward_type": _TEXT,
        }.items()
    ),
)

BODIES = (TRANSACTIONS, INSTRUCTIONS, REWARDS)
"""The tables that fill a block; each requires a filter on `block_timestamp`."""

Row = dict[str, Any]
"""One row: columns in the order of the table's schema, exact numbers as digits, times as datetimes."""


@dataclass(frozen=True, slots=True)
class _Window:
    """The block timestamps to look at; both ends None where every block lacks one."""

    earliest: datetime | None
    latest: datetime | None
    timeless: bool

    @classmethod
    def around(cls, times: Iterable[datetime | None]) -> _Window:
        known, timeless = [], False
        for time in times:
            if time is None:
                timeless = True
            else:
                known.append(time)
        if not known:
            return cls(None, None, timeless)
        return cls(min(known) - TIMESTAMP_PADDING, max(known) + TIMESTAMP_PADDING, timeless)

    @property
    def predicate(self) -> str:
        between = "block_timestamp BETWEEN @earliest AND @latest"
        if self.earliest is None:
            return "block_timestamp IS NULL"
        return f"({between} OR block_timestamp IS NULL)" if self.timeless else between


@dataclass(frozen=True, slots=True)
class _Query:
    """One statement with its named parameters: (name, BigQuery type, value)."""

    sql: str
    parameters: tuple[tuple[str, str, Any], ...] = ()

    def config(self, **options: Any) -> bigquery.QueryJobConfig:
        from google.cloud import bigquery

        return bigquery.QueryJobConfig(query_parameters=[bigquery.ScalarQueryParameter(*given) for given in self.parameters], **options)


def estimated_window(slots: SlotRange) -> _Window:
    """When the blocks of these slots were made, generously.

    Between known slots by interpolation; after the last one, between the fastest and the slowest
    chain that is plausible.
    """
    last_slot, last_time = SLOT_TIMES[-1]

    def time_of(slot: int, seconds_per_slot: float) -> datetime:
        for (slot_a, time_a), (slot_b, time_b) in itertools.pairwise(SLOT_TIMES):
            if slot_a <= slot < slot_b:
                return datetime.fromtimestamp(time_a + (slot - slot_a) * (time_b - time_a) / (slot_b - slot_a), UTC)
        return datetime.fromtimestamp(last_time + (slot - last_slot) * seconds_per_slot, UTC)

    earliest = time_of(slots.first, FASTEST_SLOT_S) - WINDOW_MARGIN
    latest = time_of(slots.last, SLOWEST_SLOT_S) + WINDOW_MARGIN
    return _Window(earliest, latest, timeless=earliest < TIMELESS_UNTIL)


class BigQuerySource:
    """Blocks of mainnet from the public BigQuery dataset (`BlockSource`).

    The payload of a present slot is one JSON object, `{"block": row, "transactions": [rows],
    "instructions": [rows], "rewards": [rows]}`, with the dataset's own column names: INTEGER as
    JSON integers, NUMERIC and BIGNUMERIC as strings of digits, TIMESTAMP as RFC 3339 in UTC.
    Transactions are in the order of `index`; instructions follow them, an outer one before those
    it invoked; rewards, whose order the dataset does not keep, by type and account. The same rows
    give the same bytes, whichever way they came.

    The dataset has no parent slots, and admits that blocks are missing from it (13,602) and that
    others have missing or duplicate transactions (18,879). So the absence of a row proves nothing:
    a slot is SKIPPED only between two rows of which the second names the first as its parent.
    """

    name = "bigquery"

    def __init__(
        self,
        *,
        project: str | None,
        dataset: str,
        maximum_bytes_billed: int,
        export_uri: str | None = None,
        endpoint: str | None = None,
        client: bigquery.Client | None = None,
        storage_client: bigquery_storage.BigQueryReadClient | None = None,
        export_filesystem: FileSystem | None = None,
        retry_deadline_s: float = RETRY_DEADLINE_S,
    ) -> None:
        """Describe the source; nothing is contacted yet.

        Args:
            project: Google Cloud project that is billed; may be None when `client` is given.
            dataset: `project.dataset` to read.
            maximum_bytes_billed: most bytes that reading one range may scan.
            export_uri: `gs://bucket/prefix` for large backfills, or None to stream results.
            endpoint: another REST endpoint, spoken to without credentials and without the Storage Read API.
            client: a client to use instead of making one.
            storage_client: a Storage Read API client to use instead of making one.
            export_filesystem: where `bucket/prefix` of `export_uri` is found, if not in Google Cloud Storage.
            retry_deadline_s: seconds in which failed requests are retried.

        Raises:
            SettingError: no project, or a dataset or URI that is not one.
        """
        if project is None and client is None:
            raise SettingError(
                "no Google Cloud project to bill the queries to",
                where="BLYAN_BIGQUERY_PROJECT",
                remedy="set it to a project of yours with the BigQuery API enabled, or choose another BLYAN_SOURCE",
            )
        # Both end up inside SQL text, where a parameter is not possible.
        if not re.fullmatch(r"[A-Za-z0-9:.-]+\.\w+", dataset, re.ASCII):
            raise SettingError(f"{dataset!r} is not a dataset", where="BLYAN_BIGQUERY_DATASET", remedy="write it as PROJECT.DATASET")
        if export_uri is not None and not re.fullmatch(r"gs://[a-z0-9][\w.-]+(/[\w.=-]+)*/?", export_uri, re.ASCII):
            raise SettingError(
                f"{export_uri!r} is not a folder of a bucket", where="BLYAN_BIGQUERY_EXPORT_URI", remedy="write it as gs://BUCKET/PREFIX"
            )
        self._project, self._dataset, self._limit = project, dataset, maximum_bytes_billed
        self._export_uri = export_uri.rstrip("/") if export_uri else None
        self._endpoint, self._export_filesystem = endpoint, export_filesystem
        self._given_client, self._given_storage = client, storage_client
        self._made_client: bigquery.Client | None = None
        self._made_storage: bigquery_storage.BigQueryReadClient | None = None
        self._columns: dict[str, frozenset[str]] = {}
        self._deadline_s = retry_deadline_s

    @classmethod
    def from_settings(cls, settings: Settings, *, client: bigquery.Client | None = None) -> BigQuerySource:
        """The source that the settings describe, through `client` where one is given."""
        return cls(
            project=settings.bigquery_project,
            dataset=settings.bigquery_dataset,
            maximum_bytes_billed=settings.bigquery_maximum_bytes_billed,
            export_uri=settings.bigquery_export_uri,
            endpoint=settings.bigquery_endpoint,
            client=client,
        )

    def close(self) -> None:
        """Close the connections this source opened; a client that was given stays open."""
        if self._made_client is not None:
            self._made_client.close()
            self._made_client = None
        if self._made_storage is not None:
            self._made_storage.transport.close()
            self._made_storage = None

    def genesis_hash(self) -> str | None:
        """Mainnet's, which the dataset's name promises; None for a dataset that does not say."""
        return MAINNET_GENESIS_HASH if "mainnet" in self._dataset else None

    def check(self) -> SourceReport:
        """Ask for the first and last slot: one column of `Blocks`, 3.3 GB or about 2 cents.

        Raises:
            SettingError: no credentials, no access, or no such dataset.
            TooCostlyError: even that exceeds the limit.
            RateLimitedError: the project's quota is used up.
            SourceUnreachableError: no answer.
        """
        with self._own_errors():
            query = _Query(f"SELECT MIN(slot) AS first_slot, MAX(slot) AS last_slot FROM {self._name_of(BLOCKS)}")  # noqa: S608 - as in _select
            scanned = self._afford("the check", [query])
            rows = [row for batch in self._answer(self._run(query)) for row in batch.to_pylist()]
        ends = rows[0] if rows else {"first_slot": None, "last_slot": None}
        return SourceReport(
            self.name, self._dataset, self.genesis_hash(), ends["first_slot"], ends["last_slot"], f"scanned {scanned:,} bytes of Blocks"
        )

    def states(self, slots: SlotRange) -> list[SlotState]:
        """PRESENT, SKIPPED or UNKNOWN for each slot of the range, from `Blocks` alone.

        Raises:
            PermanentError, TransientError: as `read`.
        """
        with self._own_errors():
            headers, _ = self._headers(slots)
        skips = _proven_skips(headers)
        return [SlotState.PRESENT if len(headers.get(slot, ())) == 1 else SlotState.SKIPPED if slot in skips else SlotState.UNKNOWN for slot in slots]

    def read(self, slots: SlotRange) -> Iterator[RawRecord]:
        """Stream the range, one record per slot in ascending order, holding one block at a time.

        Raises:
            SettingError: no credentials, no access, or no such dataset.
            TooCostlyError: the queries of the range would scan more than BLYAN_BIGQUERY_MAXIMUM_BYTES_BILLED.
            PermanentError: BigQuery refuses a query.
            RateLimitedError, SourceUnreachableError: it is over quota or does not answer.
            StoreFullError: an export does not fit the local disk.
        """
        with self._own_errors():
            headers, scanned = self._headers(slots)
            skips = _proven_skips(headers)
            times = [row["block_timestamp"] for slot in slots for row in headers.get(slot, ())]
            bodies = self._bodies(slots, _Window.around(times), scanned) if times else []
            for slot in slots:
                rows = {table.key: groups.take(slot) for table, groups in bodies}
                yield from self._records(slot, headers.get(slot, []), rows, skips.get(slot))

    # ---- queries

    def _headers(self, slots: SlotRange) -> tuple[dict[int, list[Row]], int]:
        """Distinct rows of `Blocks` by slot, those just outside the range included, and the bytes scanned."""
        wide = SlotRange(max(0, slots.first - EDGE_SLOTS), slots.last + EDGE_SLOTS)
        query = self._select(BLOCKS, wide, estimated_window(wide), ordered=True)
        scanned = self._afford(f"finding the blocks of slots {slots}", [query])
        headers: dict[int, list[Row]] = {}
        for row in _rows(BLOCKS, self._answer(self._run(query))):
            known = headers.setdefault(row["slot"], [])
            if row not in known:
                known.append(row)
        return headers, scanned

    def _bodies(self, slots: SlotRange, window: _Window, scanned: int) -> list[tuple[_Table, _BySlot]]:
        """The rows of the blocks, once their price is known to be within the limit."""
        exported = self._export_uri is not None
        queries = [self._select(table, slots, window, ordered=not exported) for table in BODIES]
        self._afford(f"reading slots {slots}", queries, scanned)
        if exported:
            streams = self._export(slots, queries)
        else:
            # All three run at once; their results wait on the server.
            jobs = [self._run(query) for query in queries]
            streams = [self._answer(job) for job in jobs]
        return [(table, _BySlot(table, stream)) for table, stream in zip(BODIES, streams, strict=True)]

    def _select(self, table: _Table, slots: SlotRange, window: _Window, *, ordered: bool) -> _Query:
        there = self._columns_of(table)
        columns = ", ".join(f"`{name}`" for name in table.columns.names if name in there)
        sql = f"SELECT {columns} FROM {self._name_of(table)} WHERE {table.slot} BETWEEN @first_slot AND @last_slot AND {window.predicate}"  # noqa: S608 - the dataset's name is validated, values are parameters
        if ordered:
            sql += f" ORDER BY {table.slot}"
        parameters: list[tuple[str, str, Any]] = [("first_slot", "INT64", slots.first), ("last_slot", "INT64", slots.last)]
        if window.earliest is not None:
            parameters += [("earliest", "TIMESTAMP", window.earliest), ("latest", "TIMESTAMP", window.latest)]
        return _Query(sql, tuple(parameters))

    def _columns_of(self, table: _Table) -> frozenset[str]:
        """Columns the table has: people disagree whether `Blocks` has `transaction_count`. Metadata, so free."""
        if table.name not in self._columns:
            from google.cloud.bigquery import DatasetReference, TableReference

            project, _, dataset = self._dataset.rpartition(".")
            reference = TableReference(DatasetReference(project, dataset), table.name)
            found = self._client.get_table(reference, retry=self._retry, timeout=REQUEST_TIMEOUT_S)
            self._columns[table.name] = frozenset(field.name for field in found.schema)
        missing = {table.slot, "block_hash", "block_timestamp"} - self._columns[table.name]
        if missing:
            raise SettingError(
                f"table {table.name!r} has no column {', '.join(sorted(missing))}",
                where=f"BLYAN_BIGQUERY_DATASET={self._dataset}",
                remedy="name a dataset with the schema of bigquery-public-data.crypto_solana_mainnet_us",
            )
        return self._columns[table.name]

    def _name_of(self, table: _Table) -> str:
        return f"`{self._dataset}.{table.name}`"

    def _afford(self, purpose: str, queries: list[_Query], scanned: int = 0) -> int:
        """The bytes these queries would scan, added to those already scanned for the range.

        Raises:
            TooCostlyError: they are more than the limit.
        """
        for query in queries:
            job = self._start(query, dry_run=True, use_query_cache=False)
            scanned += job.total_bytes_processed or 0
        if scanned > self._limit:
            dollars = scanned / (1 << 40) * DOLLARS_PER_TIB
            raise TooCostlyError(
                f"{purpose} would scan {scanned:,} bytes, about {dollars:,.2f} USD; the limit is {self._limit:,} bytes",
                where=f"BLYAN_BIGQUERY_MAXIMUM_BYTES_BILLED={self._limit}",
                remedy=f"set it to {scanned} or more if you accept the price; a query scans whole days, so ranges of 216000 slots cost least per block",
            )
        return scanned

    def _run(self, query: _Query) -> bigquery.QueryJob:
        return self._start(query, maximum_bytes_billed=self._limit)

    def _start(self, query: _Query, **options: Any) -> bigquery.QueryJob:
        # Requests are retried by the client, failed jobs by whoever asked for the range: the client's
        # own retry of jobs.insert cannot be told to take less than ten minutes, only not to happen.
        return self._client.query(query.sql, job_config=query.config(**options), retry=self._retry, job_retry=None, timeout=REQUEST_TIMEOUT_S)

    def _answer(self, job: bigquery.QueryJob) -> Iterator[pa.RecordBatch]:
        """The job's rows in the order it gives them: by the Storage Read API, or by REST pages at another endpoint."""
        result = job.result(retry=self._retry, job_retry=None)
        storage = self._storage
        return iter(result.to_arrow_iterable(bqstorage_client=storage) if storage else result.to_arrow_iterable())

    # ---- export

    def _export(self, slots: SlotRange, queries: list[_Query]) -> list[Iterator[pa.RecordBatch]]:
        """Write the results to Parquet in the bucket, all tables at once, and read them back by slot.

        A result of more than 10 GB compressed can be had in no other way. The statement does not
        sort: a global ORDER BY is the work of one machine and fails on such sizes, so the rows are
        sorted here. The files are removed once read; the folder is cleared first, since a former
        export may have left more of them.
        """
        from pyarrow.fs import FileSystem

        folder_uri = f"{self._export_uri}/{slots.key}-{slots.last}"
        filesystem, folder = self._export_filesystem, folder_uri.removeprefix("gs://")
        if filesystem is None:
            filesystem, folder = FileSystem.from_uri(folder_uri)
        with suppress(FileNotFoundError):
            filesystem.delete_dir(folder)
        jobs = []
        for table, query in zip(BODIES, queries, strict=True):
            options = f"uri='{folder_uri}/{table.key}-*.parquet', format='PARQUET', overwrite=true"
            jobs.append(self._run(_Query(f"EXPORT DATA OPTIONS({options}) AS {query.sql}", query.parameters)))
        for job in jobs:
            job.result(retry=self._retry, job_retry=None)
        return [_exported(table, filesystem, folder, slots) for table in BODIES]

    # ---- records

    def _records(self, slot: int, headers: list[Row], rows: dict[str, list[Row]], skip: str | None) -> Iterator[RawRecord]:
        """The slot's record, after the rejected ones that explain it."""
        origin = f"{self._dataset} slot {slot}"

        def rejected(proof: str, header: Row | None, given: dict[str, list[Row]], detail: str) -> RawRecord:
            payload, _ = _payload(header, given)
            block_hash = header["block_hash"] if header else None
            return RawRecord(slot, SlotState.REJECTED, proof, payload, Format.BIGQUERY, block_hash, detail=detail, origin=origin)

        hashes = {header["block_hash"] for header in headers}
        strange = {key: [row for row in given if row["block_hash"] not in hashes | {None}] for key, given in rows.items()}
        if not headers and any(rows.values()):
            yield rejected("no_block_row", None, rows, "rows of a block that Blocks does not have; read the slot from another source")
        elif any(strange.values()):
            yield rejected("conflicting_hash", None, strange, "rows of another block than the one in Blocks; a fork that was not removed")
        if len(headers) > 1:
            reason = "conflicting_hash" if len(hashes) > 1 else "conflicting_rows"
            for header in sorted(headers, key=msgspec.json.encode):
                own = {key: [row for row in given if row["block_hash"] == header["block_hash"]] for key, given in rows.items()}
                yield rejected(reason, header, own, f"Blocks has {len(headers)} different rows for the slot; read it from another source")
            yield RawRecord(slot, SlotState.UNKNOWN, "conflicting rows in Blocks", format=Format.BIGQUERY, origin=origin)
        elif headers:
            header = headers[0]
            own = {key: [row for row in given if row["block_hash"] in hashes | {None}] for key, given in rows.items()}
            payload, detail = _payload(header, own)
            yield RawRecord(slot, SlotState.PRESENT, "row in Blocks", payload, Format.BIGQUERY, header["block_hash"], detail=detail, origin=origin)
        elif skip is not None:
            yield RawRecord(slot, SlotState.SKIPPED, skip, format=Format.BIGQUERY, origin=origin)
        else:
            detail = "absent from the dataset, which misses some blocks; read the slot from another source"
            yield RawRecord(slot, SlotState.UNKNOWN, "no row in Blocks", format=Format.BIGQUERY, detail=detail, origin=origin)

    # ---- Google's side

    @property
    def _client(self) -> bigquery.Client:
        if self._given_client is not None:
            return self._given_client
        if self._made_client is None:
            from google.auth.credentials import AnonymousCredentials
            from google.cloud import bigquery

            if self._endpoint is not None:
                self._made_client = bigquery.Client(
                    self._project, credentials=AnonymousCredentials(), client_options={"api_endpoint": self._endpoint}
                )
            else:
                self._made_client = bigquery.Client(self._project)
        return self._made_client

    @property
    def _storage(self) -> bigquery_storage.BigQueryReadClient | None:
        """The Storage Read API's client; None at another endpoint, which speaks only REST."""
        if self._given_storage is not None or self._endpoint is not None:
            return self._given_storage
        if self._made_storage is None:
            from google.cloud import bigquery_storage

            self._made_storage = bigquery_storage.BigQueryReadClient()
        return self._made_storage

    @property
    def _retry(self) -> Any:
        from google.cloud.bigquery import DEFAULT_RETRY

        return DEFAULT_RETRY.with_timeout(self._deadline_s).with_delay(initial=min(1.0, self._deadline_s / 10))

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Turn what Google's libraries raise into this project's errors."""
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

        try:
            yield
        except (GoogleAPIError, GoogleAuthError, OSError) as error:
            raise self._own_error(error) from error

    def _own_error(self, error: Exception) -> BlyanError:
        from google.api_core import exceptions
        from google.auth.exceptions import DefaultCredentialsError, RefreshError

        while isinstance(error, exceptions.RetryError) and isinstance(error.cause, Exception):
            error = error.cause
        if isinstance(error, DefaultCredentialsError | RefreshError | exceptions.Unauthorized):
            return SettingError(
                f"no usable Google Cloud credentials: {error}",
                where="BLYAN_BIGQUERY_PROJECT, GOOGLE_APPLICATION_CREDENTIALS",
                remedy="run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file",
            )
        if isinstance(error, exceptions.GoogleAPICallError):
            return self._own_call_error(error)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return StoreFullError(
                "no space left while sorting an export", where="the folder for temporary files", remedy="free space, or point TMPDIR elsewhere"
            )
        return SourceUnreachableError(
            f"BigQuery does not answer: {error}", where=self._endpoint or self._dataset, remedy="try again; check the network"
        )

    def _own_call_error(self, error: Any) -> BlyanError:
        from google.api_core import exceptions

        reasons = {item.get("reason") for item in error.errors if isinstance(item, dict)}
        # What follows the first line names the job, which is of no use to whoever reads this.
        what, where = f"BigQuery: {str(error.message).partition(chr(10))[0]}", self._dataset
        if "bytesBilledLimitExceeded" in reasons:
            return TooCostlyError(
                what,
                where=f"BLYAN_BIGQUERY_MAXIMUM_BYTES_BILLED={self._limit}",
                remedy="raise it if you accept the price; BigQuery bills at least 10 MB for each table",
            )
        if reasons & {"responseTooLarge", "resourcesExceeded"}:
            return PermanentError(what, where=where, remedy="set BLYAN_BIGQUERY_EXPORT_URI, or read narrower ranges")
        if isinstance(error, exceptions.NotFound):
            return SettingError(
                what, where=f"BLYAN_BIGQUERY_DATASET={self._dataset}", remedy="correct the name; an export's bucket must be in the dataset's location"
            )
        if isinstance(error, exceptions.TooManyRequests) or reasons & {"quotaExceeded", "rateLimitExceeded"}:
            return RateLimitedError(what, where=where, remedy="wait, or raise the quota of the project in BLYAN_BIGQUERY_PROJECT")
        if isinstance(error, exceptions.Forbidden):
            return SettingError(
                what,
                where="BLYAN_BIGQUERY_PROJECT, GOOGLE_APPLICATION_CREDENTIALS",
                remedy="give the account the roles bigquery.jobUser and bigquery.readSessionUser on a project with billing enabled",
            )
        if isinstance(error, exceptions.ServerError):
            return SourceUnreachableError(what, where=where, remedy="try again later")
        return PermanentError(what, where=where, remedy="if the dataset's schema has changed, report it")


class _BySlot:
    """Rows of one table, slot by slot, out of batches in ascending order of slots."""

    def __init__(self, table: _Table, batches: Iterator[pa.RecordBatch]) -> None:
        self._table = table
        self._groups = itertools.groupby(_rows(table, batches), key=itemgetter(table.slot))
        self._next = next(self._groups, None)

    def take(self, slot: int) -> list[Row]:
        """The rows of this slot. Slots must be taken in ascending order, each one.

        Raises:
            PermanentError: the rows are not in order, so that some would be lost.
        """
        if self._next is None or self._next[0] > slot:
            return []
        found, group = self._next
        if found < slot:
            raise PermanentError(
                f"rows of slot {found} came after those of slot {slot - 1}",
                where=self._table.name,
                remedy="read the range again; if it recurs, report it",
            )
        rows = list(group)
        self._next = next(self._groups, None)
        return rows


def _rows(table: _Table, batches: Iterable[pa.RecordBatch]) -> Iterator[Row]:
    """Rows with exactly the table's columns, in their order; an absent array is an empty one, as BigQuery has it."""
    lists = [field.name for field in table.columns if pa.types.is_list(field.type)]
    for batch in batches:
        if not batch.num_rows:
            continue
        for row in _shaped(batch, table.columns).to_pylist():
            for name in lists:
                row[name] = row[name] or []
            yield row


def _shaped(batch: pa.RecordBatch, columns: pa.Schema) -> pa.RecordBatch:
    """The batch with these columns, numbers that must stay exact as digits.

    Decimals go by way of scale 0, because at their own scale Arrow writes `5.000000000` and `0E-9`.
    A fraction, which no column of this dataset should hold, keeps its digits for the decoder to refuse.
    """
    there = set(batch.schema.names)
    arrays = [batch.column(field.name) if field.name in there else pa.nulls(batch.num_rows, field.type) for field in columns]
    shaped = []
    for array, field in zip(arrays, columns, strict=True):
        with suppress(pa.ArrowInvalid):
            array = array.cast(_without_scale(array.type))
        shaped.append(array.cast(field.type))
    return pa.RecordBatch.from_arrays(shaped, schema=columns)


def _without_scale(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_decimal(type_):
        return pa.decimal128(38, 0)
    if pa.types.is_list(type_):
        return pa.list_(_without_scale(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(field.name, _without_scale(field.type)) for field in type_])
    return type_


def _exported(table: _Table, filesystem: FileSystem, folder: str, slots: SlotRange) -> Iterator[pa.RecordBatch]:
    """Exported rows in the order of slots: scattered to local files by slot, each then sorted in memory."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
    from pyarrow.fs import FileSelector

    # An empty result may be no file at all; one that is missing shows as missing transactions.
    files = [info for info in filesystem.get_file_info(FileSelector(folder)) if info.base_name.startswith(f"{table.key}-")]
    if not files:
        return
    exported = ds.dataset([info.path for info in files], filesystem=filesystem, format="parquet")
    width = -(-len(slots) // BUCKETS)
    schema = exported.schema.append(pa.field("bucket", _INTEGER))

    def scattered() -> Iterator[pa.RecordBatch]:
        for batch in exported.to_batches():
            bucket = pc.divide(pc.subtract(batch.column(table.slot), slots.first), width)
            yield pa.RecordBatch.from_arrays([*batch.columns, bucket.cast(_INTEGER)], schema=schema)

    with TemporaryDirectory(prefix="blyan-export-") as temporary:
        ds.write_dataset(
            ds.Scanner.from_batches(scattered(), schema=schema),
            temporary,
            format="parquet",
            partitioning=["bucket"],
            max_partitions=BUCKETS,
            max_open_files=BUCKETS,
        )
        for info in files:
            filesystem.delete_file(info.path)
        for part in sorted(Path(temporary).iterdir(), key=lambda path: int(path.name)):
            yield from ds.dataset(part, format="parquet").to_table().sort_by(table.slot).to_batches()


def _proven_skips(headers: dict[int, list[Row]]) -> dict[int, str]:
    """Slots proven to have no block, with the proof: they lie between a block and its parent.

    A slot with conflicting rows ends a link, and so does a height that contradicts the hash.
    """
    skips: dict[int, str] = {}
    for (slot, rows), (next_slot, next_rows) in itertools.pairwise(sorted(headers.items())):
        if len(rows) != 1 or len(next_rows) != 1 or next_rows[0]["previous_block_hash"] != rows[0]["block_hash"]:
            continue
        heights = rows[0]["height"], next_rows[0]["height"]
        if None not in heights and heights[0] + 1 != heights[1]:
            continue
        proof = f"{'hash' if None in heights else 'height'} link of {next_slot}"
        skips |= dict.fromkeys(range(slot + 1, next_slot), proof)
    return skips


def _payload(header: Row | None, rows: dict[str, list[Row]]) -> tuple[bytes, str]:
    """The block's bytes, and what was odd about its rows.

    Exact duplicates, which no table can hold by right, are dropped: two rows that agree in every
    column, position included, are one row ingested twice.
    """
    given = {table.key: rows.get(table.key, []) for table in BODIES}

    def placed(transaction: Row) -> tuple[Any, ...]:
        return transaction["index"] is None, transaction["index"] or 0

    places = {row["signature"]: place for place, row in enumerate(sorted(given["transactions"], key=placed))}

    def executed(row: Row) -> tuple[Any, ...]:
        outer = row["index"] if row["parent_index"] is None else row["parent_index"]
        # Those of a transaction that is missing come last, together.
        place = places.get(row["tx_signature"], len(given["transactions"]))
        return place, row["tx_signature"] or "", outer or 0, row["parent_index"] is not None, row["index"] or 0

    ordered = {
        "transactions": _in_order(given["transactions"], placed),
        "instructions": _in_order(given["instructions"], executed),
        "rewards": _in_order(given["rewards"], lambda row: (row["reward_type"] or "", row["pubkey"] or "")),
    }
    notes = [f"{len(given[key]) - len(kept)} duplicate rows of {key} dropped" for key, kept in ordered.items() if len(kept) < len(given[key])]
    stated = header["transaction_count"] if header else None
    if stated is not None and stated != len(ordered["transactions"]):
        notes.append(f"Blocks states {stated} transactions, the dataset has {len(ordered['transactions'])}")
    return msgspec.json.encode({"block": header, **ordered}), "; ".join(notes)


def _in_order(rows: list[Row], key: Any) -> list[msgspec.Raw]:
    """Distinct rows, encoded, by `key` and then by their own bytes, so that the order never depends on the server's."""
    encoded = sorted((key(row), msgspec.json.encode(row)) for row in rows)
    return [msgspec.Raw(text) for text in dict.fromkeys(text for _, text in encoded)]

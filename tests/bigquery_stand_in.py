"""A stand-in of BigQuery on loopback, for the real client libraries.

Belongs here: the part of the REST API and of the Storage Read API that reading a dataset uses, over
tables held in DuckDB, which really executes the SQL. Does not belong here: what the tables hold
(`bigquery_rows`).

The SQL must lie in the subset that both dialects share. What is rewritten: backticked names become
double-quoted ones without project and dataset, and `@name` parameters become `$name`. What is
imitated: the price of a dry run (rows of the partitions that the predicate leaves, times
`bytes_per_row`), the refusal of a query without a filter on the partition, `maximumBytesBilled`,
paging, EXPORT DATA (to a local folder in place of buckets), and the errors a test asks for.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bigquery_rows import FILTER_REQUIRED, PARTITIONS, SCHEMAS, Field, Tables

DATASET = "bigquery-public-data.crypto_solana_mainnet_us"

# Types as Google's Arrow and Parquet results have them ...
_SERVED = {
    "STRING": pa.string(),
    "INTEGER": pa.int64(),
    "BOOLEAN": pa.bool_(),
    "NUMERIC": pa.decimal128(38, 9),
    "BIGNUMERIC": pa.decimal256(76, 38),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
}
# ... and as DuckDB can hold them: 38 digits at most, and comparisons of times without a time zone.
_HELD = _SERVED | {"BIGNUMERIC": pa.decimal128(38, 0), "TIMESTAMP": pa.timestamp("us")}


class Refusal(Exception):
    """An error as the API reports it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    @property
    def detail(self) -> dict[str, str]:
        return {"reason": self.reason, "message": self.message, "location": "query"}


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: dict[str, Any] | None


@dataclass
class Job:
    """One job: what was asked, and its result."""

    number: int
    resource: dict[str, Any]
    sql: str
    dry_run: bool
    parameters: dict[str, Any]
    scanned: int = 0
    fields: tuple[Field, ...] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)
    refusal: Refusal | None = None

    @property
    def table(self) -> str:
        """The table that the job reads."""
        return re.search(r"FROM `[^`]*\.([^`.]+)`", self.sql)[1]


class BigQueryStandIn:
    """The servers; `start` them, give `endpoint` to the client, `stop` them.

    Attributes:
        bytes_per_row: price of a row in a partition that a query touches.
        page_rows: most rows in one page, whatever the client asks for.
        requests: every request, in order of arrival.
        jobs: every job, dry runs included, in order.
    """

    def __init__(self, tables: Tables, *, buckets: Path | None = None, bytes_per_row: int = 1_000, page_rows: int = 1_000) -> None:
        self.bytes_per_row, self.page_rows, self.buckets = bytes_per_row, page_rows, buckets
        self.schemas = dict(SCHEMAS)
        self.requests: list[Request] = []
        self.jobs: list[Job] = []
        self._faults: list[tuple[re.Pattern[str], Refusal]] = []
        self._numbers = itertools.count()
        self._database = duckdb.connect()
        for name, rows in tables.items():
            self._database.register("given", pa.Table.from_pylist(rows, schema=_arrow_schema(SCHEMAS[name], _HELD)))
            self._database.execute(f'CREATE TABLE "{name}" AS FROM given')
            self._database.unregister("given")
        self._http: ThreadingHTTPServer | None = None
        self._grpc: Any = None

    def __enter__(self) -> BigQueryStandIn:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on a free port of loopback."""
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("GET", None)

            def do_POST(self) -> None:
                self._answer("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, method: str, body: dict[str, Any] | None) -> None:
                url = urllib.parse.urlsplit(self.path)
                request = Request(method, urllib.parse.unquote(url.path), dict(urllib.parse.parse_qsl(url.query)), body)
                try:
                    status, answer = 200, stand_in._handle(request)
                except Refusal as refusal:
                    status, answer = refusal.status, {"error": {"code": refusal.status, "message": refusal.message, "errors": [refusal.detail]}}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Close the ports and the tables."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
        if self._grpc is not None:
            self._grpc.stop(None).wait()
        self._database.close()

    @property
    def endpoint(self) -> str:
        """The REST endpoint, for the client's `api_endpoint`."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def fail(self, status: int, reason: str, *, times: int = 1, path: str = "") -> None:
        """Answer the next requests whose `METHOD path` matches `path` (a regular expression) with an error."""
        self._faults += [(re.compile(path), Refusal(status, reason, f"injected: {reason}"))] * times

    @property
    def queries(self) -> list[Job]:
        """The jobs that were really run."""
        return [job for job in self.jobs if not job.dry_run]

    # ---- REST

    def _handle(self, request: Request) -> dict[str, Any]:
        self.requests.append(request)
        for fault in self._faults:
            if fault[0].search(f"{request.method} {request.path}"):
                self._faults.remove(fault)
                raise fault[1]
        match request.method, request.path.removeprefix("/bigquery/v2/").split("/"):
            case "POST", ["projects", project, "jobs"]:
                return self._insert(project, request.body)
            case "GET", ["projects", _, "jobs", job_id]:
                return self._resource(self._job(job_id))
            case "GET", ["projects", _, "queries", job_id]:
                return self._results(self._job(job_id), request.query)
            case "GET", ["projects", project, "datasets", dataset, "tables", table]:
                if f"{project}.{dataset}" != DATASET or table not in self.schemas:
                    raise Refusal(404, "notFound", f"Not found: Table {project}:{dataset}.{table}")
                reference = {"projectId": project, "datasetId": dataset, "tableId": table}
                return {"tableReference": reference, "schema": {"fields": [_rest_field(f) for f in self.schemas[table]]}}
        raise Refusal(404, "notFound", f"the stand-in has no {request.method} {request.path}")

    def _insert(self, project: str, body: dict[str, Any]) -> dict[str, Any]:
        configuration = body["configuration"]
        query = configuration["query"]
        number = next(self._numbers)
        reference = body.get("jobReference") or {}
        resource = {
            "kind": "bigquery#job",
            "jobReference": {"projectId": project, "jobId": reference.get("jobId", f"job_{number}"), "location": "US"},
            "configuration": configuration | {"jobType": "QUERY"},
        }
        parameters = {item["name"]: _parameter(item) for item in query.get("queryParameters", [])}
        job = Job(number, resource, query["query"], configuration.get("dryRun", False), parameters)
        self.jobs.append(job)
        try:
            self._execute(job, query.get("maximumBytesBilled"))
        except Refusal as refusal:
            if job.dry_run:
                raise
            job.refusal = refusal
        if not job.dry_run:
            query["destinationTable"] = {"projectId": project, "datasetId": "_results", "tableId": f"anon{number}"}
        return self._resource(job)

    def _execute(self, job: Job, maximum: str | None) -> None:
        select, export = job.sql, re.match(r"EXPORT DATA OPTIONS\((.*?)\) AS (.*)", job.sql, re.DOTALL)
        if export:
            select = export[2]
        if job.table not in self.schemas or f"`{DATASET}.{job.table}`" not in select:
            raise Refusal(404, "notFound", f"Not found: Table {job.table} was not found in location US")
        job.scanned = self._price(job, select)
        if job.dry_run:
            return
        if maximum is not None and job.scanned > int(maximum):
            raise Refusal(400, "bytesBilledLimitExceeded", f"Query exceeded limit for bytes billed: {maximum}. {job.scanned} or higher required.")
        result = self._run(select, job.parameters)
        known = {f.name: f for f in self.schemas[job.table]}
        job.fields = tuple(known.get(name, Field(name, "INTEGER")) for name in result.column_names)
        rows = result.to_pylist()
        if export:
            self._write(export[1], job, rows)
        else:
            job.rows = rows

    def _price(self, job: Job, select: str) -> int:
        between = re.search(r"block_timestamp BETWEEN (@\w+) AND (@\w+)", select)
        timeless = "block_timestamp IS NULL" in select
        if job.table in FILTER_REQUIRED and not between and not timeless:
            raise Refusal(
                400,
                "invalidQuery",
                f"Cannot query over table '{job.table}' without a filter over column(s) 'block_timestamp' that can be used for partition elimination",
            )
        span, touched = PARTITIONS[job.table], []
        if between:
            touched.append(f"date_trunc('{span}', block_timestamp) BETWEEN date_trunc('{span}', {between[1]}) AND date_trunc('{span}', {between[2]})")
        if timeless:
            touched.append("block_timestamp IS NULL")
        where = " OR ".join(touched) or "true"
        used = {name: value for name, value in job.parameters.items() if f"@{name}" in where}
        counted = self._run(f"SELECT count(*) AS n FROM `{DATASET}.{job.table}` WHERE {where}", used)
        return counted.column("n")[0].as_py() * self.bytes_per_row

    def _run(self, sql: str, parameters: dict[str, Any]) -> pa.Table:
        quoted = re.sub(r"`(?:[^`]*\.)?([^`.]+)`", r'"\1"', sql)
        statement = re.sub(r"@(\w+)", r"$\1", quoted)
        cursor = self._database.cursor()
        try:
            return cursor.sql(statement, params=parameters).to_arrow_table()
        except duckdb.Error as error:
            raise Refusal(400, "invalidQuery", str(error)) from error
        finally:
            cursor.close()

    def _write(self, options: str, job: Job, rows: list[dict[str, Any]]) -> None:
        """EXPORT DATA: two files, neither in the order of slots, as a real export would leave them."""
        uri = re.search(r"uri='gs://([^']*)'", options)[1]
        if "format='PARQUET'" not in options or uri.count("*") != 1:
            raise Refusal(400, "invalid", f"the stand-in exports only Parquet to one wildcard: {options}")
        schema = _arrow_schema(job.fields, _SERVED)
        for number in range(2):
            path = self.buckets / uri.replace("*", f"{number:012d}")
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(_table(rows[::-1][number::2], schema), path)

    def _job(self, job_id: str) -> Job:
        for job in self.jobs:
            if job.resource["jobReference"]["jobId"] == job_id:
                return job
        raise Refusal(404, "notFound", f"Not found: Job {job_id}")

    def _resource(self, job: Job) -> dict[str, Any]:
        status: dict[str, Any] = {"state": "DONE"}
        if job.refusal is not None:
            status |= {"errorResult": job.refusal.detail, "errors": [job.refusal.detail]}
        kind = "EXPORT_DATA" if job.sql.startswith("EXPORT") else "SELECT"
        statistics = {"totalBytesProcessed": str(job.scanned), "query": {"totalBytesProcessed": str(job.scanned), "statementType": kind}}
        return job.resource | {"status": status, "statistics": statistics}

    def _results(self, job: Job, query: dict[str, str]) -> dict[str, Any]:
        if job.refusal is not None:
            raise job.refusal
        first = int(query.get("pageToken") or query.get("startIndex") or 0)
        count = min(self.page_rows, int(query.get("maxResults") or self.page_rows))
        if query.get("maxResults") == "0":
            count = 0  # the client waits this way, and takes an answer without `rows` for no page at all
        whole = query.get("formatOptions.useInt64Timestamp", "").lower() == "true"
        page: dict[str, Any] = {"jobReference": job.resource["jobReference"], "jobComplete": True}
        if job.sql.startswith("EXPORT"):
            return page
        page |= {"totalRows": str(len(job.rows)), "schema": {"fields": [_rest_field(f) for f in job.fields]}}
        if rows := job.rows[first : first + count]:
            page["rows"] = [{"f": [{"v": _rest_value(f, row[f.name], whole)} for f in job.fields]} for row in rows]
        if count and first + count < len(job.rows):
            page["pageToken"] = str(first + count)
        return page

    # ---- Storage Read API

    @contextmanager
    def storage_client(self) -> Iterator[Any]:
        """The real Storage Read client, joined to the results of this stand-in's jobs."""
        import grpc
        from google.cloud.bigquery_storage_v1 import BigQueryReadClient
        from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

        service = "google.cloud.bigquery.storage.v1.BigQueryRead"
        methods = {
            "CreateReadSession": self._handler(self._create_session, "CreateReadSessionRequest", "ReadSession", stream=False),
            "ReadRows": self._handler(self._read_rows, "ReadRowsRequest", "ReadRowsResponse", stream=True),
        }
        self._grpc = grpc.server(ThreadPoolExecutor(4))
        self._grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))

    @staticmethod
    def _handler(method: Any, request: str, response: str, *, stream: bool) -> Any:
        import grpc
        from google.cloud.bigquery_storage_v1 import types

        make = grpc.unary_stream_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler
        return make(method, getattr(types, request).deserialize, getattr(types, response).serialize)

    def _create_session(self, request: Any, _: Any) -> Any:
        from google.cloud.bigquery_storage_v1 import types

        self.requests.append(Request("gRPC", "CreateReadSession", {"max_stream_count": str(request.max_stream_count)}, None))
        number = int(request.read_session.table.rpartition("/anon")[2])
        job = next(job for job in self.jobs if job.number == number)
        return types.ReadSession(
            name=f"sessions/{number}",
            table=request.read_session.table,
            data_format=types.DataFormat.ARROW,
            arrow_schema=types.ArrowSchema(serialized_schema=_arrow_schema(job.fields, _SERVED).serialize().to_pybytes()),
            streams=[types.ReadStream(name=f"sessions/{number}/streams/0")],
        )

    def _read_rows(self, request: Any, _: Any) -> Iterator[Any]:
        from google.cloud.bigquery_storage_v1 import types

        number = int(request.read_stream.split("/")[1])
        job = next(job for job in self.jobs if job.number == number)
        table = _table(job.rows, _arrow_schema(job.fields, _SERVED))
        schema = types.ArrowSchema(serialized_schema=table.schema.serialize().to_pybytes())
        for batch in table.to_batches(max_chunksize=self.page_rows):
            serialized = types.ArrowRecordBatch(serialized_record_batch=batch.serialize().to_pybytes())
            yield types.ReadRowsResponse(arrow_schema=schema, arrow_record_batch=serialized, row_count=batch.num_rows)


def _arrow_schema(fields: tuple[Field, ...], types: dict[str, pa.DataType]) -> pa.Schema:
    def type_of(item: Field) -> pa.DataType:
        type_ = pa.struct([(inner.name, type_of(inner)) for inner in item.fields]) if item.type == "RECORD" else types[item.type]
        return pa.list_(type_) if item.mode == "REPEATED" else type_

    return pa.schema([(item.name, type_of(item)) for item in fields])


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)


def _rest_field(item: Field) -> dict[str, Any]:
    found: dict[str, Any] = {"name": item.name, "type": item.type, "mode": item.mode}
    return found | {"fields": [_rest_field(inner) for inner in item.fields]} if item.fields else found


def _rest_value(item: Field, value: Any, whole: bool) -> Any:
    """A value as REST's JSON has it: text, `{"f": …}` for a RECORD, a list of `{"v": …}` if REPEATED."""
    if item.mode == "REPEATED":
        one = Field(item.name, item.type, fields=item.fields)
        return [{"v": _rest_value(one, element, whole)} for element in value or []]
    match value:
        case None:
            return None
        case dict():
            return {"f": [{"v": _rest_value(inner, value[inner.name], whole)} for inner in item.fields]}
        case bool():
            return "true" if value else "false"
        case datetime():
            seconds = value.replace(tzinfo=UTC).timestamp()
            return str(round(seconds * 1_000_000)) if whole else repr(seconds)
        case Decimal():
            return format(value, "f").rstrip("0").rstrip(".") if value % 1 or value.as_tuple().exponent else str(value)
        case _:
            return str(value)


def _parameter(item: dict[str, Any]) -> Any:
    value, type_ = item["parameterValue"]["value"], item["parameterType"]["type"]
    if type_ == "INT64":
        return int(value)
    if type_ == "TIMESTAMP":
        return datetime.fromisoformat(value).astimezone(UTC).replace(tzinfo=None)
    raise Refusal(400, "invalid", f"the stand-in has no parameters of type {type_}")

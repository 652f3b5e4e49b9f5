"""The process that runs strangers' statements, one at a time, and can reach nothing but the files of the one it runs.

Belongs here: what happens inside that process: confining itself, a fresh DuckDB for every statement, rows onto the socket. Does
not belong here: which statements run and on what (`blyan.query.sandbox`, which starts it and trusts nothing that it says).

It begins with no environment and one socket. It shuts itself in (`blyan.query.confine`) before it reads a request, so whatever a
statement makes DuckDB do, and whatever a defect of DuckDB lets it do, happens in there. Every statement gets a database in memory
that no other has seen, whose settings are locked, and which is thrown away.

Messages are a letter, a length in 4 bytes, and that many bytes. In: `Q` a request, `X` the number of one to interrupt. Out: `R`
ready, `C` columns, `B` some rows, `E` the end, `F` a failure.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import queue
import re
import resource
import shutil
import socket
import struct
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from blyan.query import confine
from blyan.query.functions import TABLE_FUNCTIONS, functions, words

HEADER = struct.Struct(">cI")

PART_BYTES = 1 << 20
"""Bytes of rows in one message, about: what a slow reader holds up is no more than a few of them."""

FETCH_ROWS = 2_048
"""Rows that DuckDB makes at a time, which is its vector."""

RETIRE_CPU_S = 1_800
"""CPU seconds after which a process asks to be replaced; the kernel ends it at twice as many."""

FILES, SPILL = "files", "spill"
"""Folders of a process: what it may read, and what it may write."""

KEPT = words(
    """
    BOOLEAN TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT FLOAT DOUBLE DECIMAL VARCHAR BLOB DATE TIME
    TIMESTAMP TIMESTAMP_S TIMESTAMP_MS TIMESTAMP_NS UUID JSON
    """
)
"""Types that Arrow has, by the words of their names."""


class View(Struct, frozen=True):
    """A table as a statement sees it.

    Attributes:
        schema, name: what it is called.
        sql: what it selects; or
        empty: an Arrow schema, of no rows; or
        paths: of files in the bucket, with the range of each.
    """

    schema: str
    name: str
    sql: str | None = None
    empty: bytes | None = None
    paths: list[tuple[str, str | None]] | None = None
    where: str = ""


class Request(Struct, frozen=True):
    """One statement to run.

    Attributes:
        number: that no other request to the process had.
        sql: the statement.
        prefix: `explain`, `explain analyze`, `describe`, or nothing.
        params: positions or names to values, as `packed` makes them.
        views: the tables it may read.
        files: paths that it may read, under the folder of the process.
        skip, rows, bytes: rows to leave out at the beginning, and what is sent at most.
        memory, spill: bytes that DuckDB takes at most, and writes beside them.
        threads: cores.
        tables: what DuckDB's own parser may find in it, None to let it through as it is.
    """

    number: int
    sql: str
    prefix: str
    params: list[Any] | dict[str, Any]
    views: list[View]
    files: list[str]
    skip: int
    rows: int
    bytes: int
    memory: int
    spill: int
    threads: int
    tables: list[str] | None


class Columns(Struct, frozen=True):
    """Names, DuckDB's types, and the Arrow schema, serialised."""

    names: list[str]
    types: list[str]
    schema: bytes


class End(Struct, frozen=True):
    """All rows were sent, or as many as may be; `more` if there are others. `retire`: the process wants to be replaced."""

    rows: int
    more: bool
    retire: bool


class Failure(Struct, frozen=True):
    """Why a statement failed.

    Attributes:
        kind: `wrong`, `memory`, `interrupted`, `missing` or `internal`.
        text: the same in words.
        at: the character of the statement that it is about, from 0; None where DuckDB does not say.
    """

    kind: str
    text: str
    at: int | None = None


class Ready(Struct, frozen=True):
    """The layers of confinement that are active."""

    active: list[str]
    refused: list[str]


class Start(Struct, frozen=True):
    """How a process is to begin.

    Attributes:
        folder: its own.
        data_bytes, file_bytes, files: limits of the kernel.
        bucket: scheme and options of a bucket that it reads from, None where all files are its folder's.
    """

    folder: str
    data_bytes: int
    file_bytes: int
    files: int
    bucket: tuple[str, dict[str, str]] | None = None


def main(handle: int, start: str) -> None:
    """Serve one socket until it closes."""
    connection = socket.socket(fileno=handle)
    try:
        worker = Worker(connection, msgspec.json.decode(start, type=Start))
    except Exception as error:  # noqa: BLE001 - whoever started it is told, whatever it is
        _send(connection, b"F", msgspec.msgpack.encode(Failure("internal", f"{type(error).__name__}: {error}")))
        sys.exit(1)
    worker.serve()


class Worker:
    """One confined process.

    Args:
        connection: to whoever started it.
        start: how to begin.
    """

    def __init__(self, connection: socket.socket, start: Start) -> None:
        self._socket = connection
        self._start = start
        self._waiting: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._current: tuple[int, Any] | None = None
        self._turn = threading.Lock()
        self._interrupted: set[int] = set()
        self._bucket: Any = None
        folder = Path(start.folder)
        os.chdir(folder)
        confine.limit(cpu_s=2 * RETIRE_CPU_S, file_bytes=start.file_bytes, files=start.files)
        network = start.bucket is not None
        active = confine.alone(readable=[*_libraries(network), folder / FILES], writable=[folder / SPILL], network=network)
        self._warm()
        confine.limit(data_bytes=start.data_bytes)
        active += confine.shut(None if network else folder, network=network)
        gc.freeze()  # a collection after each statement then takes a tenth of a millisecond, and took 7
        self._ready = Ready(active, [layer for layer in confine.LAYERS if layer not in active])
        self._next = self._fresh()

    def _warm(self) -> None:
        """Load all that a statement may make Python load: once shut in, nothing more can be."""
        import duckdb  # noqa: F401 - here and not above: it starts threads, which must come after the first layers
        import pyarrow as pa
        from pyarrow import compute, dataset  # noqa: F401

        functions(), _system_views()

        pa.set_cpu_count(1)
        pa.set_io_thread_count(1)
        if self._start.bucket is not None:
            from blyan.store import Store

            scheme, options = self._start.bucket
            self._bucket = Store(f"{scheme}://", options).files
        sent, self._socket = self._socket, _Nowhere()  # type: ignore[assignment]
        self._next = self._fresh()
        values = [1, 1 << 100, 1.5, "a", True, None, Decimal("1.5"), datetime(2024, 1, 1), date(2024, 1, 1), b"a", [1]]
        every = "select " + ", ".join(f"${number + 1} c{number}" for number in range(len(values))) + ", 1::uhugeint x, [1::bit] y, now() z"
        empty = View("solana", "nothing", empty=pa.schema([("a", pa.int64())]).serialize().to_pybytes())
        plain: dict[str, Any] = {
            "views": [empty],
            "files": [],
            "skip": 0,
            "rows": 10,
            "bytes": 1000,
            "memory": 1 << 26,
            "spill": 1 << 20,
            "threads": 1,
        }
        for number, (sql, prefix, given) in enumerate([
            (every, "", values), (every, "explain", values), ("select * from solana.nothing", "describe", []), ("selec", "", []), ("select x", "", []),
            ("select unknown(1)", "", []), ("select 1 from range(100000)", "", []), ("select error('a')", "", []), ("select 'a'::int", "", []),
        ]):  # fmt: skip
            packed_ = [packed(value) for value in given]
            self._answer(Request(-number, sql, prefix, packed_, tables=["solana.nothing"], **plain))
            self._next = self._fresh()
        self._socket = sent

    def serve(self) -> None:
        """Run requests in the order they come, until the socket closes."""
        threading.Thread(target=self._listen, daemon=True, name="listen").start()
        _send(self._socket, b"R", msgspec.msgpack.encode(self._ready))
        while True:
            request = self._waiting.get()
            self._answer(request)
            self._clean()
            self._next = self._fresh()

    def _listen(self) -> None:
        decode = msgspec.msgpack.Decoder(Request).decode
        try:
            while True:
                kind, length = HEADER.unpack(_receive(self._socket, HEADER.size))
                body = _receive(self._socket, length)
                if kind == b"Q":
                    self._waiting.put(decode(body))
                elif kind == b"X":
                    self._interrupt(int(body))
        except (EOFError, OSError):
            # Whoever started it is gone or wants it gone; the statement that runs is nobody's any more.
            os._exit(0)

    def _interrupt(self, number: int) -> None:
        with self._turn:
            self._interrupted.add(number)
            if self._current is not None and self._current[0] == number:
                self._current[1].interrupt()

    def _fresh(self) -> Any:
        """A database that nobody has used. It takes 11 ms, so it is made before there is a request for it."""
        import duckdb

        connection = duckdb.connect(
            ":memory:",
            config={
                "threads": "1",
                # The files are on this machine: eight threads that only read cost each database 2 ms, and each statement 1. With none, errors come late.
                "async_threads": "1",
                "temp_directory": SPILL,
                "secret_directory": SPILL,
                "extension_repository_directory": SPILL,
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "allow_community_extensions": "false",
                "allow_persistent_secrets": "false",
                "allow_unsigned_extensions": "false",
                "python_enable_replacements": "false",
                "python_scan_all_frames": "false",
                "preserve_insertion_order": "true",
                "errors_as_json": "true",  # which say where in the statement
            },
        )
        connection.execute("set timezone = 'UTC'")
        return connection

    def _answer(self, request: Request) -> None:
        connection = self._next
        with self._turn:
            self._current = (request.number, connection)
            self._interrupted = {number for number in self._interrupted if number >= request.number}
        try:
            self._send(b"E", self._run(connection, request))
        except _FAILURES as error:
            failure = _failure(error, interrupted=request.number in self._interrupted)
            self._send(b"F", Failure("wrong", failure.text, _place(connection, request, error)) if failure.kind == "wrong" else failure)
        finally:
            with self._turn:
                self._current = None
            connection.close()

    def _run(self, connection: Any, request: Request) -> End:
        memory, spill = f"{request.memory // 1000}KB", f"{request.spill // 1000}KB"
        connection.execute(f"set memory_limit = '{memory}'; set max_temp_directory_size = '{spill}'; set threads = {int(request.threads)}")
        self._show(connection, request.views)
        # What stands in a setting once it is locked is all that can be had; the order of these three is what counts.
        connection.execute("set allowed_paths = $1", [request.files])
        connection.execute("set enable_external_access = false")
        if request.tables is not None:
            _look_again(connection, request.sql, request.tables)
        connection.execute("set lock_configuration = true")
        if request.number in self._interrupted:
            raise InterruptedError
        params = _values(request.params)
        text = f"{request.prefix} {request.sql}" if request.prefix else request.sql
        rows = connection.sql(text, params=params) if params else connection.sql(text)
        if rows is None:
            return self._end(0, more=False)
        names, types = list(rows.columns), [str(each) for each in rows.types]
        rows = _as_arrow_has_it(rows, names, types)
        reader = rows.to_arrow_reader(FETCH_ROWS)
        self._send(b"C", Columns(names, types, reader.schema.serialize().to_pybytes()))
        sent, more = self._send_rows(reader, request, checked=any("HUGEINT" in kind for kind in types))
        return self._end(sent, more=more)

    def _show(self, connection: Any, views: Iterable[View]) -> None:
        import pyarrow as pa

        for view in views:
            connection.execute(f'create schema if not exists "{view.schema}"')
            selected = view.sql
            if selected is None:
                schema = pa.ipc.read_schema(pa.py_buffer(view.empty))
                held = f"rows_of_{view.schema}_{view.name}"
                connection.register(held, schema.empty_table() if view.paths is None else _of_bucket(self._bucket, schema, view.paths))
                selected = f"select * from {held}"  # noqa: S608 - names of our own
            connection.execute(f'create view "{view.schema}"."{view.name}" as {selected} {view.where}')

    def _send_rows(self, reader: Any, request: Request, *, checked: bool) -> tuple[int, bool]:
        """How many rows were sent, and whether there are more. Arrow's largest decimal has 38 digits, a HUGEINT may have 39: `checked`."""
        skip, rows, room = request.skip, request.rows, request.bytes
        sent = 0
        for batch in reader:
            if request.number in self._interrupted:
                raise InterruptedError
            if checked:
                batch.validate(full=True)
            passed = min(skip, batch.num_rows)
            skip -= passed
            rest = batch.slice(passed)
            if not rest.num_rows:
                continue
            for part in _parts(rest):
                kept = part.slice(0, min(rows - sent, part.num_rows))
                body = kept.serialize().to_pybytes() if kept.num_rows else b""
                if len(body) > room:
                    kept, body = _fitting(kept, room)
                if kept.num_rows:
                    _send(self._socket, b"B", body)
                    sent += kept.num_rows
                    room -= len(body)
                if kept.num_rows < part.num_rows:
                    if not sent:
                        raise MemoryError("its first row alone is larger than a result may be")
                    return sent, True
        return sent, False

    def _end(self, rows: int, *, more: bool) -> End:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return End(rows, more, used.ru_utime + used.ru_stime > RETIRE_CPU_S)

    def _send(self, kind: bytes, body: Struct) -> None:
        _send(self._socket, kind, msgspec.msgpack.encode(body))

    def _clean(self) -> None:
        """Leave nothing of a statement: neither its files nor its memory."""
        self._next = None
        for path in Path(SPILL).iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


class _Refused(Exception):  # noqa: N818 - of this process only
    """What the second look refuses."""


_FAILURES = (Exception, MemoryError)


class _Nowhere:
    """Where the answers to the first statements go."""

    def sendall(self, data: bytes) -> None:
        """Nothing."""


def packed(value: Any) -> Any:
    """A parameter as it is sent: plain where it is, else its type and text.

    Raises:
        TypeError: it has a type that no parameter may have.
    """
    match value:
        case float() if not math.isfinite(value):
            return ["float", repr(value)]  # JSON has none of these
        case None | bool() | float() | str():
            return value
        case bytes():
            return ["bytes", b64encode(value).decode()]
        case int():
            return value if -(1 << 63) <= value < 1 << 63 else ["int", str(value)]
        case Decimal():
            return ["decimal", str(value)]
        case datetime():
            return ["datetime", value.isoformat()]
        case date():
            return ["date", value.isoformat()]
        case list() | tuple():
            return ["list", [packed(each) for each in value]]
        case _:
            raise TypeError(f"a parameter cannot be a {type(value).__name__}")


def unpacked(value: Any) -> Any:
    """What `packed` was given."""
    if not isinstance(value, list):
        return value
    kind, inside = value
    if kind == "list":
        return [unpacked(each) for each in inside]
    made: dict[str, Callable[[str], Any]] = {
        "int": int,
        "float": float,
        "bytes": b64decode,
        "decimal": Decimal,
        "datetime": datetime.fromisoformat,
        "date": date.fromisoformat,
    }
    return made[kind](inside)


def _values(params: Any) -> Any:
    """The parameters of a request, by position or by name, as DuckDB takes them."""
    return {name: unpacked(value) for name, value in params.items()} if isinstance(params, dict) else [unpacked(value) for value in params]


def _look_again(connection: Any, sql: str, tables: Iterable[str]) -> None:
    """See that DuckDB's own parser finds in a statement what may be there: the gate asked another parser.

    Raises:
        _Refused: it is not one SELECT, or has a table or a function that it may not have.
    """
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or not str(statements[0].type).endswith("SELECT"):
        raise _Refused("it is not one statement that reads")
    ((text,),) = connection.execute("select json_serialize_sql($1)", [sql]).fetchall()
    tree = json.loads(text)
    if tree.get("error"):
        raise _Refused("it is not a plain SELECT" if tree.get("error_type") == "not implemented" else str(tree.get("error_message")))
    given, read = _found(tree)
    if hidden := given & _system_views():
        raise _Refused(f"a WITH cannot have the name {min(hidden)}")
    for catalog, schema, name in read:
        if catalog or (f"{schema}.{name}" not in tables if schema else name not in given):
            raise _Refused(f"it reads {schema}.{name}" if schema else f"it reads {name}")


@cache
def _system_views() -> frozenset[str]:
    """Names that DuckDB gives views of its own, which would be meant where a WITH of that name is not in reach."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        return frozenset(name for (name,) in connection.execute("select view_name from duckdb_views() where internal").fetchall())


def _found(tree: Any) -> tuple[set[str], list[tuple[str, str, str]]]:
    """The names that a WITH gives, and catalog, schema and name of each table that is read, in lower case.

    Raises:
        _Refused: it calls a function that it may not, or does not only read.
    """
    waiting: list[Any] = [tree]
    given: set[str] = set()
    read: list[tuple[str, str, str]] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        if not isinstance(node, dict):
            continue
        waiting += [each for each in node.values() if isinstance(each, dict | list)]
        kind = str(node.get("type"))
        given |= {str(entry.get("key", "")).lower() for entry in (node.get("cte_map") or {}).get("map", [])}
        if kind == "BASE_TABLE":
            catalog, schema, name = (str(node.get(part, "")).lower() for part in ("catalog_name", "schema_name", "table_name"))
            read.append((catalog, schema, name))
        elif kind == "TABLE_FUNCTION" and str(node.get("function", {}).get("function_name", "")).lower() not in TABLE_FUNCTIONS:
            raise _Refused(f"{node.get('function', {}).get('function_name', '')} cannot stand in FROM")
        elif node.get("class") == "FUNCTION":
            name = str(node.get("function_name", "")).lower()
            if not node.get("is_operator") and name not in functions() and name not in _GRAMMAR:
                raise _Refused(f"it calls {name}")
        elif kind in _OTHER_NODES:
            raise _Refused("it does not only read")
    return given, read


_OTHER_NODES = words("SHOW_REF INSERT_NODE UPDATE_NODE DELETE_NODE MERGE_INTO_NODE MERGE_NODE PIVOT")

_GRAMMAR = words(
    """
    count_star list_value struct_pack row array_extract array_slice list_extract struct_extract unpivot_list construct_array contains prefix
    suffix ~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape ilike_escape not_ilike_escape regexp_full_match + - * / // % ** ^ & | ~ << >> ||
    && <-> <=> <@ @> ^@ ! -> ->> not in trim ltrim rtrim position date_part date_trunc strpos substring overlay current_date
    current_timestamp current_time now get_current_time get_current_timestamp timezone map list_filter list_apply list_transform list_sort
    coalesce ifnull nullif if concat concat_ws multiply add subtract divide mod quantile_cont quantile_disc mode last first any_value
    arg_min arg_max to_days to_months to_years to_hours to_minutes to_seconds to_milliseconds to_microseconds to_weeks to_quarters
    to_decades to_centuries to_millennia unnest generate_series range columns localtimestamp current_localtimestamp localtime
    current_localtime replace_type union_extract list_contains array_value error json_extract json_extract_string collate_nocase __postfix
    factorial @ current_schema current_user grouping list_has_any list_has_all similar_to regexp_matches constant_or_null
    """
)
"""Functions that DuckDB's parser makes of the grammar: operators, brackets, special forms."""


def _as_arrow_has_it(rows: Any, names: list[str], types: list[str]) -> Any:
    """The same rows, with columns of types that Arrow has not, or not exactly, as DuckDB's own text."""
    odd = [not set(re.findall(r"\b(?!WITH\b|TIME ZONE\b)[A-Z][A-Z0-9_]*", _unquoted(kind))) <= KEPT_WORDS for kind in types]
    if not any(odd):
        return rows
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    return rows.project(", ".join(
        f"cast(#{place} as varchar) as {name}" if bad else f"#{place} as {name}" for place, (name, bad) in enumerate(zip(quoted, odd, strict=True), 1)
    ))  # fmt: skip


KEPT_WORDS = KEPT | {"STRUCT", "MAP", "ZONE", "NULL"}


def _unquoted(kind: str) -> str:
    """The name of a type without field names, of which those in capitals would be taken for types."""
    # TIME WITH TIME ZONE loses its zone in Arrow, TIMESTAMP WITH TIME ZONE does not.
    kind = re.sub(r'"(?:[^"]|"")*"', lambda found: "NULL" if found[0] == '"NULL"' else "f", kind)
    kind = kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMP").replace("TIME WITH TIME ZONE", "TIMETZ")
    return re.sub(r"(?<=[(, ])([A-Za-z_][A-Za-z0-9_]*) (?=[A-Z])", "", kind)


def _of_bucket(files: Any, schema: Any, paths: Iterable[tuple[str, str | None]]) -> Any:
    from pyarrow import dataset

    parquet = dataset.ParquetFileFormat()
    fragments = [
        parquet.make_fragment(path, files, partition_expression=None if key is None else dataset.field("slot_range") == key) for path, key in paths
    ]
    return dataset.FileSystemDataset(fragments, schema, parquet, files)


def _parts(batch: Any) -> Iterator[Any]:
    """A batch in slices of about `PART_BYTES`."""
    count = max(1, -(-batch.nbytes // PART_BYTES))
    step = max(1, -(-batch.num_rows // count))
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)


def _fitting(batch: Any, room: int) -> tuple[Any, bytes]:
    """As many rows from the beginning of a batch as have room."""
    low, high, body = 0, batch.num_rows, b""
    while low < high:
        middle = (low + high + 1) // 2
        tried = batch.slice(0, middle).serialize().to_pybytes()
        if len(tried) <= room:
            low, body = middle, tried
        else:
            high = middle - 1
    return batch.slice(0, low), body


def _failure(error: BaseException, *, interrupted: bool) -> Failure:
    import duckdb
    import pyarrow as pa

    text, _ = _said(error)
    if interrupted or isinstance(error, InterruptedError | duckdb.InterruptException):
        return Failure("interrupted", "it was interrupted")
    if isinstance(error, MemoryError | duckdb.OutOfMemoryException | pa.ArrowMemoryError) or "bad_alloc" in text or "std::length_error" in text:
        return Failure(
            "memory", _plain(text) if isinstance(error, MemoryError) and text else "it needs more memory, or room to spill, than it may have"
        )
    if isinstance(error, duckdb.InternalException | duckdb.FatalException):
        return Failure("internal", "DuckDB failed at it")
    if isinstance(error, duckdb.IOException) and "No such file" in text:
        return Failure("missing", _plain(text))
    if isinstance(error, pa.ArrowInvalid):
        return Failure("wrong", "a number has more than 38 digits: cast it to VARCHAR")
    if isinstance(error, duckdb.Error | _Refused):
        return Failure("wrong", _plain(text))
    if isinstance(error, RecursionError):
        return Failure("wrong", "it is nested too deep")
    return Failure("internal", type(error).__name__)


def _said(error: BaseException) -> tuple[str, int | None]:
    """The words of an error, and the byte of the text that they are about, where it says that."""
    text = str(error)
    kind, _, body = text.partition(": ")
    if not body.startswith("{"):
        return text, None
    try:
        known = json.loads(body)
        return f"{kind}: {known['exception_message']}", int(known["position"]) if "position" in known else None
    except (ValueError, KeyError):
        return text, None  # words that only begin as JSON does


def _place(connection: Any, request: Request, error: BaseException) -> int | None:
    """The character of the statement that an error is about."""
    import duckdb

    prefix, (_, at) = request.prefix, _said(error)
    if at is None and isinstance(error, duckdb.BinderException):
        # Python's relations are bound without their text. EXPLAIN binds the same again, with it, and runs nothing.
        prefix = "explain"
        try:
            connection.execute(f"{prefix} {request.sql}", _values(request.params))
        except duckdb.Error as again:
            _, at = _said(again)
    if at is None:
        return None
    begins = len(prefix) + 1 if prefix else 0
    text = f"{prefix} {request.sql}" if prefix else request.sql
    return max(0, len(text.encode()[:at].decode(errors="ignore")) - begins)


def _plain(text: str) -> str:
    """A message of DuckDB without the names of files."""
    text = re.sub(rf"[^\s\"'(\[]*{FILES}/\d+/([a-z0-9_.]+)/[^\s\"')\]]*", r"\1", text)
    return text.strip()[:2_000]


def _libraries(network: bool) -> list[Path]:
    """What Python, its packages and the C library are made of, and what says how many cores there are."""
    places = {*sys.path, sys.prefix, sys.base_prefix, "/lib", "/lib64", "/usr/lib", "/usr/local/lib", "/etc/ld.so.cache"}
    places |= {"/proc/self/cgroup", "/sys/fs/cgroup", "/sys/devices/system/cpu", "/usr/share/zoneinfo", "/etc/localtime"}
    if network:
        places |= {"/etc/ssl", "/etc/pki", "/usr/share/ca-certificates", "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf"}
    return [Path(place) for place in sorted(places) if place]


def _send(connection: Any, kind: bytes, body: bytes) -> None:
    connection.sendall(HEADER.pack(kind, len(body)) + body)


def _receive(connection: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(min(length - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)

"""The `blyan` command.

Belongs here: arguments, and what people read. Does not belong here: work; a command calls `blyan`, or `blyan_assets` where
Dagster has to know. Anything slow to import is imported by the command that needs it: `blyan --help` takes 0.2 s.

A `BlyanError` is one line on the error output and exit code 1, or 2 where trying again may help.
"""

from __future__ import annotations

import contextlib
import gc
import io
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from blyan.chain.commands import app as chain_app
from blyan.errors import BlyanError, TransientError

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from blyan.settings import Settings
    from blyan.solana.slots import SlotRange
    from blyan_assets.run import Outcome

FAILED, TRY_AGAIN = 1, 2
"""Exit codes."""

SLOT_MS = 400
"""Milliseconds that a slot of Solana is meant to take, by which a lag in slots is told as a time."""

EXACT_JSON = 2**53
"""Integers beyond it are strings in JSON: many readers keep numbers as doubles, which are exact only up to here."""

SHOWN_LINES, SHOWN_PROGRAMS = 4, 4
"""Lines of a text, and programs, that are shown of a hit; `-o json` has all of them."""

app = typer.Typer(
    help="Solana's history as exact, queryable tables, on one Dagster graph.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
source_app = typer.Typer(help="The block source that the settings choose.", no_args_is_help=True)
app.add_typer(source_app, name="source")
keys_app = typer.Typer(help="Keys of `blyan serve`.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(chain_app, name="chain")

Output = Literal["table", "json"]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Settings come from the environment (BLYAN_…) and from blyan.toml; `blyan doctor` lists them."""
    # Read by `main` from the arguments, since an error can come before any command runs.
    del debug


# A chain to read


@app.command()
def localnet(
    port: Annotated[int, typer.Option(min=0, max=65_534, help="Port of JSON-RPC; WebSocket is at the next one. 0: two free ones.")] = 8899,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    slot_ms: Annotated[float, typer.Option(min=0, help="Milliseconds of a slot. 0: as fast as it goes.")] = 400,
    transactions_per_slot: Annotated[int | None, typer.Option(min=0, help="The chain's own traffic. Unset: as the embedded source.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the chain. Unset: as the embedded source.")] = None,
    first_slot: Annotated[int, typer.Option(min=0, help="Slot at which the chain starts.")] = 0,
    horizon_slot: Annotated[int | None, typer.Option(min=1, help="Slot before which everything is finalized and the chain stops.")] = None,
    finality_depth: Annotated[int, typer.Option(min=1, help="Blocks from the tip down to the newest finalized one.")] = 31,
    ledger_mib: Annotated[int, typer.Option(min=1, help="MiB of compressed blocks to keep; older ones are pruned.")] = 256,
    skip_share: Annotated[float, typer.Option(min=0, max=1, help="Share of slots that are skipped, besides the 2 % of the chain.")] = 0,
    fork_share: Annotated[float, typer.Option(min=0, max=1, help="Share of slots at which a fork begins that later dies.")] = 0,
) -> None:
    """Serve the embedded chain as a Solana node: JSON-RPC over HTTP and WebSocket, until Ctrl-C."""
    import asyncio

    from blyan.settings import load_settings
    from blyan.solana.localnet.ledger import Plan
    from blyan.solana.localnet.server import Options, serve

    settings = load_settings()
    chosen = Options(
        port=port,
        host=host,
        slot_ms=slot_ms,
        transactions_per_slot=settings.embedded_transactions_per_slot if transactions_per_slot is None else transactions_per_slot,
        seed=settings.embedded_seed if seed is None else seed,
        first_slot=first_slot,
        horizon_slot=horizon_slot,
        finality_depth=finality_depth,
        ledger_bytes=ledger_mib << 20,
        plan=Plan(skip_share=skip_share, fork_share=fork_share),
    )
    asyncio.run(serve(chosen, lambda line: print(line, flush=True)))


# Making


@app.command()
def demo(
    force: Annotated[bool, typer.Option("--force", help="Make ranges again that the lake has.")] = False,
) -> None:
    """Make every range of the grid, then show what there is and what to try next."""
    from blyan.lake import Lake
    from blyan.settings import load_settings
    from blyan.solana.slots import SlotRange

    settings = load_settings()
    console = _console()
    grid = settings.grid
    console.print(f"Source [b]{settings.source}[/b], slots {grid.first_slot} to {grid.horizon_slot - 1}, lake [b]{settings.lake}[/b].")
    ranges = grid.covering(SlotRange(grid.first_slot, grid.horizon_slot - 1))
    outcomes = _make("ingest_range", _lacking(ranges, settings, force=force), settings)
    if all(outcome.good for outcome in outcomes):
        outcomes += _make("render_range", ranges, settings)
        outcomes.append(_build_marts(settings))
    _show_tables(console, Lake.from_settings(settings), outcomes)
    _exit_of(outcomes)
    _show_examples(console, Lake.from_settings(settings))


@app.command()
def ingest(
    slots: Annotated[str, typer.Option("--slots", metavar="A-B", help="Slots, both ends included; the ranges of the grid that hold them are made.")],
    force: Annotated[bool, typer.Option("--force", help="Make ranges again that the lake has.")] = False,
) -> None:
    """Make ranges through Dagster in this process: raw blocks, every table, every check."""
    from blyan.settings import load_settings
    from blyan.solana.slots import SlotRange

    settings = load_settings()
    ranges = settings.grid.covering(SlotRange.parse(slots))
    _exit_of(_make("ingest_range", _lacking(ranges, settings, force=force), settings))


@app.command()
def corpus(
    slots: Annotated[str, typer.Option("--slots", metavar="A-B", help="Slots, both ends included; the ranges of the grid that hold them are told.")],
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Then also what is made of texts: embeddings, the search index, questions with answers, tokens. A tokenizer is trained where there is none.",
        ),
    ] = False,
) -> None:
    """Tell ranges that the lake has as text: a document for each transaction, and summaries. The same rows give the same text."""
    from blyan.settings import load_settings
    from blyan.solana.slots import SlotRange

    settings = load_settings()
    ranges = settings.grid.covering(SlotRange.parse(slots))
    outcomes = _make("render_range", ranges, settings)
    if everything and all(outcome.good for outcome in outcomes):
        # After all texts: a tokenizer that is trained on the way learns from every range.
        outcomes += _make("build_corpus", ranges, settings)
    _exit_of(outcomes)


def _lacking(ranges: Sequence[SlotRange], settings: Settings, *, force: bool) -> Sequence[SlotRange]:
    """Those of the ranges that the lake lacks; all of them where they are to be made in any case."""
    from blyan.lake import Lake
    from blyan.solana.inventory import take_inventory

    if force:
        return ranges
    complete = take_inventory(Lake.from_settings(settings), settings.grid).complete()
    wanted = [each for each in ranges if each.key not in complete]
    if len(wanted) < len(ranges):
        _console(stderr=True).print(f"{len(ranges) - len(wanted)} of {len(ranges)} ranges are in the lake already; --force makes them again.")
    return wanted


def _make(job: str, wanted: Sequence[SlotRange], settings: Settings) -> list[Outcome]:
    """Make ranges, with a progress bar; says what came of each."""
    if not wanted:
        return []

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = _console(stderr=True)
    outcomes: list[Outcome] = []
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        of_ranges = bars.add_task("ranges", total=len(wanted))
        of_slots = bars.add_task("starting", total=len(wanted[0]))

        def show(what: str, done: int, total: int) -> None:
            bars.update(of_slots, description=what, completed=done, total=total)

        from blyan_assets.run import materialise

        for outcome in materialise(job, wanted, settings, show=show):
            bars.advance(of_ranges)
            outcomes.append(outcome)
            _show_outcome(bars.console, outcome)
    return outcomes


def _build_marts(settings: Settings) -> Outcome:
    """Build the marts, which takes dbt some seconds."""
    console = _console(stderr=True)
    # dbt reports every model and test on the standard output; what failed is in the outcome.
    with console.status("building the marts"), contextlib.redirect_stdout(io.StringIO()):
        from blyan_assets.run import build_marts

        outcome = build_marts(settings)
    _show_outcome(console, outcome)
    return outcome


WHAT = {"ingest_range": "{}", "render_range": "text of {}", "build_corpus": "corpus of {}", "build_marts": "marts"}
"""What a run of each job makes, of some slots."""

AGAIN = {
    "ingest_range": "blyan ingest --slots {} --force",
    "render_range": "blyan corpus --slots {}",
    "build_corpus": "blyan corpus --all --slots {}",
    "build_marts": "blyan demo",
}
"""The command that makes it again."""


def _show_outcome(console: Console, outcome: Outcome) -> None:
    from rich.markup import escape

    what = WHAT[outcome.job].format(outcome.slots)
    if outcome.error:
        console.print(f"[red]failed[/red] {what}: {escape(outcome.error)}", highlight=False, soft_wrap=True)
    elif outcome.good:
        changed = "" if any(made.changed for made in outcome.made.values()) else ", unchanged"
        rows = sum(made.rows for name, made in outcome.made.items() if name != "solana/raw_blocks")
        passed = outcome.checks - len(outcome.failed_checks)
        console.print(f"[green]made[/green] {what}: {rows:,} rows, {passed} of {outcome.checks} checks passed{changed}", highlight=False)
    for check in outcome.failed_checks:
        mark = "[red]failed check[/red]" if check.blocking else "[yellow]warning[/yellow]"
        console.print(f"{mark} {what} {check.table} {check.name}: {escape(check.description)}", highlight=False, soft_wrap=True)


def _exit_of(outcomes: Sequence[Outcome]) -> None:
    """End with an exit code where something failed."""
    bad = [outcome for outcome in outcomes if not outcome.good]
    if not bad:
        return
    console = _console(stderr=True)
    again = AGAIN[bad[0].job].format(bad[0].slots)
    console.print(f"{len(bad)} of {len(outcomes)} runs failed. Again: {again}", highlight=False, soft_wrap=True)
    raise typer.Exit(TRY_AGAIN if all(outcome.transient for outcome in bad) else FAILED)


def _show_tables(console: Console, lake: Any, outcomes: Sequence[Outcome]) -> None:
    from rich.table import Table as Grid

    from blyan.query.engine import all_tables

    failed = {(check.table, check.name) for outcome in outcomes for check in outcome.failed_checks}
    grid = Grid("table", "ranges", "rows", "bytes", "bytes a row", "checks", title="What there is")
    for column in grid.columns[1:]:
        column.justify = "right"
    for table in all_tables():
        partitions = lake.partitions(table).values()
        if not partitions:
            continue
        rows, size = sum(part.rows for part in partitions), sum(part.bytes for part in partitions)
        broken = sorted(name for where, name in failed if where == table.name)
        verdict = "failed: " + ", ".join(broken) if broken else "passed" if outcomes else ""
        each = f"{size / rows:,.0f}" if rows else ""
        grid.add_row(table.name.replace("/", "."), f"{len(partitions):,}", f"{rows:,}", f"{size:,}", each, verdict)
    console.print(grid)


EXAMPLES = (
    (
        "What do transactions call most?",
        "select coalesce(program, program_id) as program, count(distinct tx_signature) as transactions from solana.instructions"
        " where parent_index is null group by all order by transactions desc, program limit 5",
    ),
    (
        "Who paid most in fees?",
        "select accounts[1].pubkey as payer, count(*) as transactions, sum(fee) as lamports from solana.transactions"
        " group by all order by lamports desc, payer limit 5",
    ),
    (
        "What did blocks cost, a minute at a time?",
        "select bucket_slot, transactions, compute_units, base_fee_lamports, priority_fee_lamports from marts.fee_market"
        " where not is_vote order by bucket_slot limit 5",
    ),
    (
        "What happened, in words?",
        "select text from corpus.documents where kind = 'token_transfer' and status = 'Success' order by block_slot, tx_index limit 1",
    ),
)
"""Questions a reader of the demo may have, and the SQL that answers them."""


def _show_examples(console: Console, lake: Any) -> None:
    from blyan.query.engine import connect, query_errors

    with connect(lake) as connection:
        for question, sql in EXAMPLES:
            with query_errors(connection):
                cursor = connection.execute(sql)
                console.print()
                console.print(_grid(question, [column[0] for column in cursor.description], cursor.fetchall()))
    console.print("\nTry next:")
    for command, what in (
        ("blyan sql \"select * from solana.transactions where status = 'Fail' limit 5\"", "ask anything"),
        ("blyan ranges", "what is there, what is missing"),
        ("make dev", "a chain, its follower, and the graph that fills by itself, in a browser"),
        ("BLYAN_SOURCE=rpc BLYAN_RPC_URL=… blyan source check", "another source, the same tables"),
    ):
        console.print(f"  {command:76} {what}", highlight=False, soft_wrap=True)


@app.command()
def follow() -> None:
    """Follow the tip of the chain at BLYAN_RPC_URL: new slots can be queried within a second. Runs until Ctrl-C."""
    from blyan.settings import load_settings
    from blyan.solana.follower.serve import follow

    follow(load_settings(), _say)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of Dagster's UI.")] = 3000,
    chain_port: Annotated[int, typer.Option(help="Port of the embedded chain's RPC, where BLYAN_SOURCE is embedded.")] = 8899,
    serve_port: Annotated[int, typer.Option(help="Port of the HTTP service.")] = 8080,
    home: Annotated[
        str | None,
        typer.Option(help="Folder of Dagster's own records. Unset: .blyan/dagster, or where the chain is the embedded one .blyan/dagster-live."),
    ] = None,
) -> None:
    """Run everything: the chain if it is the embedded one, the follower, the HTTP service, its index, Dagster with its UI. Ends with Ctrl-C."""
    from pathlib import Path

    from blyan.settings import load_settings
    from blyan.up import Ports, live_home, up

    settings = load_settings()
    ports = Ports(chain=chain_port, serve=serve_port, dagster=port)
    up(settings, _say, ports=ports, home=Path(home or live_home(settings)).absolute())


def _say(line: str) -> None:
    """A line for people who watch a process, with the time."""
    from datetime import UTC, datetime

    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {line}\n")
    sys.stderr.flush()


# Serving


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen at. 0: a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that answer.")] = 1,
) -> None:
    """Serve the lake over HTTP: SQL, REST, live slots. Runs until Ctrl-C or SIGTERM, and finishes what it took."""
    from blyan.api.serve import serve
    from blyan.settings import load_settings

    serve(load_settings(), host=host, port=port, workers=workers, say=_say)


@app.command()
def mcp() -> None:
    """Serve the lake's tools to one agent over standard input and output, by the Model Context Protocol. Runs until it closes them."""
    import asyncio

    from blyan.api.agents import serve_pipe
    from blyan.settings import load_settings

    asyncio.run(serve_pipe(load_settings()))


@app.command()
def index(
    every: Annotated[float | None, typer.Option(min=1, metavar="SECONDS", help="Again and again, so many seconds apart, until Ctrl-C.")] = None,
) -> None:
    """Index the signatures, accounts, programs and mints of ranges that are new in the lake, so that looking one up opens few files."""
    import time

    from blyan.lake import Lake
    from blyan.query.lookup import update
    from blyan.settings import load_settings

    lake = Lake.from_settings(load_settings())
    while every is not None:
        try:
            done = [each for each in update(lake) if each.ranges]
        except TransientError as error:
            _say(f"trying again: {error}")
        else:
            if done:
                _say(", ".join(f"{each.dimension}: {each.ranges:,} ranges, {each.runs:,} files" for each in done))
        time.sleep(every)
    cells = [[each.dimension, f"{each.ranges:,}", f"{each.runs:,}", f"{each.rows:,}", f"{each.bytes:,}"] for each in update(lake)]
    _console().print(_grid("the index", ["of", "ranges indexed now", "files", "rows", "bytes"], cells))


@keys_app.command("create")
def keys_create(
    role: Annotated[Literal["reader", "analyst", "contributor", "operator"], typer.Option(help="What its holder may.")],
    expires: Annotated[str | None, typer.Option(metavar="30d", help="How long it counts: s, m, h, d. Unset: until it is revoked.")] = None,
    name: Annotated[str, typer.Option(help="What you call it, to know it again.")] = "",
    scope: Annotated[list[str] | None, typer.Option(help="Only these rights of the role; again for each.")] = None,
) -> None:
    """Make a key. It is shown once, as the last line."""
    from blyan.api.callers import Role, parse_scopes
    from blyan.api.keys import create, parse_duration
    from blyan.lake import Lake
    from blyan.settings import load_settings

    lasts_s = parse_duration(expires) if expires else None
    key = create(Lake.from_settings(load_settings()), Role(role), parse_scopes(scope, Role(role)), name=name, lasts_s=lasts_s)
    typer.echo("This is the only time that the key can be seen:", err=True)
    typer.echo(key)


@keys_app.command("list")
def keys_list() -> None:
    """Every key: its id, role, rights, and whether it counts."""
    import time
    from datetime import UTC, datetime

    from blyan.api.keys import listed
    from blyan.lake import Lake
    from blyan.settings import load_settings

    def day(moment: float | None) -> str:
        return "" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}"

    cells = [
        [key.id, key.name, key.role, " ".join(key.scopes), key.state(time.time()), day(key.created), day(key.expires)]
        for key in listed(Lake.from_settings(load_settings()))
    ]
    _console().print(_grid("", ["id", "name", "role", "scopes", "state", "created", "expires"], cells))


@keys_app.command("revoke")
def keys_revoke(identity: Annotated[str, typer.Argument(metavar="ID", help="Of the key, as `blyan keys list` has it.")]) -> None:
    """Make a key count no more, within seconds, and every token that was made from it."""
    from blyan.api.keys import revoke
    from blyan.lake import Lake
    from blyan.settings import load_settings

    key = revoke(Lake.from_settings(load_settings()), identity)
    typer.echo(f"the key {key.id} is revoked")


# Looking


@app.command()
def status(
    runs: Annotated[bool, typer.Option("--runs", help="Count Dagster's runs too, which takes two seconds more.")] = False,
    home: Annotated[str | None, typer.Option(help="Folder of Dagster's own records, for --runs. Unset: DAGSTER_HOME, or .blyan/dagster.")] = None,
) -> None:
    """How far the follower is behind its chain, what is final, which ranges are where, and how Dagster's runs fare."""
    import time

    from blyan.lake import Lake
    from blyan.settings import load_settings
    from blyan.solana.inventory import take_inventory
    from blyan.solana.landing import read_head
    from blyan.solana.liveness import judge

    settings = load_settings()
    lake = Lake.from_settings(settings)
    # The head before the tables' logs, as every reader: a range that leaves the one is in the other.
    head = read_head(lake)
    inventory = take_inventory(lake, settings.grid)
    rows: list[tuple[str, str]] = []
    if head is None:
        rows.append(("follower", f"{settings.lake}: nothing was ever followed; `blyan follow` begins"))
    else:
        newest = max((segment.last for landed in head.ranges for segment in landed.segments), default=head.checkpoint - 1)
        behind = max(0, head.processed - newest)
        rows += [
            ("tip", f"{head.processed:,}"),
            (
                "lag",
                f"{behind:,} slots, about {behind * SLOT_MS:,} ms; the head was written {max(0.0, time.time() - head.written_at) * 1e3:,.0f} ms ago",
            ),
            ("confirmed", f"{head.confirmed:,}"),
            ("final", f"{head.finalized:,}, {max(0, head.processed - head.finalized):,} behind the tip"),
            ("checkpoint", f"{head.checkpoint:,}, {max(0, head.finalized + 1 - head.checkpoint):,} behind what is final"),
            *(("check", f"{verdict.name}: {verdict.statement}") for verdict in judge(head, settings.grid, now=time.time()) if not verdict.passed),
        ]
    ranges = head.ranges if head else []
    sealed, held = sum(landed.sealed for landed in ranges), len(inventory.complete())
    rows.append(("ranges", f"{held:,} in the lake, {sealed:,} sealed and on their way there, {len(ranges) - sealed:,} open in the landing"))
    if runs:
        from blyan_assets.run import count_runs

        rows.append(("runs", count_runs(home)))
    console = _console()
    for name, value in rows:
        console.print(f"{name:11} {value}", highlight=False, soft_wrap=True)
    if ranges:
        cells = [
            [landed.key, "sealed" if landed.sealed else "open", f"{sum(part.count for part in landed.segments):,}", f"{len(landed.segments):,}",
             f"{sum(part.rows.get('solana/transactions', 0) for part in landed.segments):,}"]
            for landed in ranges
        ]  # fmt: skip
        console.print(_grid("read from the landing", ["range", "state", "slots", "segments", "transactions"], cells))


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="A query; tables are solana.blocks, solana.transactions, …, marts.…")],
    output: Annotated[Literal["table", "json", "csv"], typer.Option("-o", "--output", help="In JSON, integers beyond 2^53 are strings.")] = "table",
    slots: Annotated[
        str | None, typer.Option("--slots", metavar="A-B", help="Open only files that hold these slots; filter on them in the query too.")
    ] = None,
) -> None:
    """Query the lake with DuckDB."""
    from blyan.lake import Lake
    from blyan.query.engine import connect, mentioned, query_errors
    from blyan.settings import load_settings
    from blyan.solana.slots import SlotRange

    lake = Lake.from_settings(load_settings())
    bounds = SlotRange.parse(slots) if slots else None
    with connect(lake, tables=mentioned(query), slots=bounds) as connection, query_errors(connection):
        cursor = connection.execute(query)
        names = [column[0] for column in cursor.description or []]
        if output == "csv":
            _write_csv(names, cursor)
        elif output == "json":
            _write_json(names, cursor)
        else:
            _console().print(_grid("", names, cursor.fetchall()))


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="In English, such as: How many transactions failed in the last 100 slots?")],
    output: Annotated[
        Literal["table", "json"], typer.Option("-o", "--output", help="In JSON, integers beyond 2^53 and decimals are strings.")
    ] = "table",
) -> None:
    """Answer a question with SQL that a closed grammar makes of it, or say why not; no model is asked (docs/answers.md)."""
    from dataclasses import asdict
    from pathlib import Path

    from blyan.corpus.registry import load_registry
    from blyan.lake import Lake
    from blyan.query.engine import connect, expose, mentioned, query_errors
    from blyan.query.planner import TIP_SQL, Abstention, Tip, plan, say
    from blyan.schemas import BLOCKS
    from blyan.settings import load_settings

    settings = load_settings()
    lake, registry = Lake.from_settings(settings), load_registry(*([Path(settings.corpus_registry)] if settings.corpus_registry else []))
    with connect(lake, tables=[BLOCKS]) as connection, query_errors(connection):
        (tip,) = connection.execute(TIP_SQL).fetchall()
        planned = plan(question, registry, Tip.of(*tip))
        if isinstance(planned, Abstention):
            _show_abstention(planned, output)
            return
        besides = [statement for statement in (planned.proof, planned.lacking, planned.slots_here) if statement is not None]
        expose(connection, lake, tables=mentioned(" ".join([planned.sql, *(sql for sql, _ in besides)])))
        cursor = connection.execute(planned.sql, planned.params)
        names, rows = [column[0] for column in cursor.description or []], cursor.fetchall()
        proof = connection.execute(*planned.proof).fetchall() if planned.proof else []
        ((rests_on,),) = connection.execute(*planned.rests_on).fetchall() if planned.rests_on else [(0,)]
        ((lacking,),) = connection.execute(*planned.lacking).fetchall() if planned.lacking else [(0,)]
        ((here,),) = connection.execute(*planned.slots_here).fetchall() if planned.slots_here else [(None,)]
    said = say(planned, names, rows, proof, lacking=lacking, here=here, names=registry.names)
    if output == "json":
        facts = {"answer": said.text, "abstained": False, "intent": planned.intent, "slots": dict(planned.slots), "sql": planned.sql, "params": planned.params,
                 "columns": names, "rows": rows, "citations": [asdict(each) for each in said.citations], "by": "planner"}  # fmt: skip
        _write_facts(facts)
        return
    console = _console()
    more = (rests_on or len(rows)) - len(said.citations)
    cited = [f"  slot {each.slot:,}{f', {each.signature}' if each.signature else ''}" for each in said.citations]
    for line in (
        said.text,
        "",
        f"SQL: {planned.sql}",
        f"Parameters: {', '.join(map(repr, planned.params))}",
        f"From {planned.table}:{'' if cited else ' no row'}",
        *cited,
        *([f"  and {more:,} more"] if cited and more > 0 else []),
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _show_abstention(abstention: Any, output: str) -> None:
    from dataclasses import asdict

    if output == "json":
        _write_facts({"answer": None, "abstained": True, **asdict(abstention)})
        return
    console = _console()
    console.print(f"No answer: {abstention.why}", markup=False, highlight=False, soft_wrap=True)
    if abstention.instead:
        console.print("\n".join(["What can be asked:", *(f"- {each}" for each in abstention.instead)]), markup=False, highlight=False, soft_wrap=True)


def _write_facts(facts: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(_json_value(facts), indent=2, ensure_ascii=False))


@app.command()
def samples(
    slots: Annotated[str | None, typer.Option("--slots", metavar="A-B", help="Only questions that begin at these slots.")] = None,
    split: Annotated[
        Literal["train", "validation", "hidden"] | None,
        typer.Option(help="Only those of one split; `hidden` needs the split key. Unset: all but the hidden ones."),
    ] = None,
    flagged: Annotated[bool, typer.Option(help="Whether to print samples with odd text, such as memos that read like instructions.")] = True,
) -> None:
    """Print instruction-tuning samples as conversations, one JSON object a line."""
    from pathlib import Path

    from blyan.corpus.chat import chat_lines
    from blyan.corpus.registry import load_registry
    from blyan.corpus.splits import split_rule
    from blyan.lake import Lake
    from blyan.settings import load_settings
    from blyan.solana.slots import SlotRange

    settings = load_settings()
    rule = split_rule(settings, make=False) if split == "hidden" else None
    registry = load_registry(*([Path(settings.corpus_registry)] if settings.corpus_registry else []))
    bounds = SlotRange.parse(slots) if slots else None
    for line in chat_lines(Lake.from_settings(settings), registry, slots=bounds, split=split, flagged=flagged, rule=rule):
        sys.stdout.write(line + "\n")


@app.command()
def search(
    question: Annotated[
        str, typer.Argument(help="What to look for. Signatures, accounts and names of programs in it are exact; none: the newest.")
    ] = "",
    mode: Annotated[
        Literal["hybrid", "vector", "text"], typer.Option(help="By meaning and words, by meaning (vector), or by words (text).")
    ] = "hybrid",
    kind: Annotated[list[str] | None, typer.Option(help="Kind, such as swap; more than one: any of them.")] = None,
    status: Annotated[Literal["Success", "Fail"] | None, typer.Option(help="Outcome.")] = None,
    program: Annotated[list[str] | None, typer.Option(help="Program called, by name or account; more than one: any of them.")] = None,
    account: Annotated[list[str] | None, typer.Option(help="Account that takes part; more than one: all of them.")] = None,
    error: Annotated[list[str] | None, typer.Option(help="Error class, such as InsufficientFunds; more than one: any of them.")] = None,
    slots: Annotated[str | None, typer.Option("--slots", metavar="A-B", help="Slots, both ends included.")] = None,
    since: Annotated[str | None, typer.Option(help="Block time at or after, ISO 8601, UTC where it names no zone.")] = None,
    until: Annotated[str | None, typer.Option(help="Block time before.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most hits.")] = 10,
    alike: Annotated[int, typer.Option(min=1, help="Most hits that differ in nothing but amounts; the others are counted.")] = 2,
    output: Annotated[Output, typer.Option("-o", "--output")] = "table",
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make the index again from the tables alone, beside the one there is, and switch.")
    ] = False,
) -> None:
    """Find transactions and summaries by what they say: `blyan search "failed swaps on Raydium"`."""
    from blyan.corpus.search_index import open_index
    from blyan.lake import Lake
    from blyan.query.ask import ask
    from blyan.query.search import Filters
    from blyan.query.searcher import Searcher
    from blyan.query.understanding import programs_named
    from blyan.settings import load_settings
    from blyan.solana.slots import SlotRange

    settings = load_settings()
    lake = Lake.from_settings(settings)
    if rebuild:
        _rebuild_search(lake)
        if not question:
            return
    index = open_index(lake)
    searcher = Searcher(lake, settings)
    registry = searcher.registry
    given = Filters(
        slots=SlotRange.parse(slots) if slots else None,
        since=_parsed_time("--since", since),
        until=_parsed_time("--until", until),
        programs=tuple(found for name in program or () for found in programs_named(name, registry)),
        accounts=tuple(account or ()),
        kinds=tuple(kind or ()),
        statuses=(status,) if status else (),
        error_classes=tuple(error or ()),
    )
    # The model is opened when a vector is asked for: a signature alone needs none.
    asked = ask(
        index, question, registry, embed=searcher.embedder_of(index.generation.model), mode=mode, filters=given, limit=limit, per_template=alike
    )
    if output == "json":
        _write_answer(asked)
    else:
        _show_answer(asked, registry.names)


def _rebuild_search(lake: Any) -> None:
    from rich.progress import Progress

    from blyan.corpus.search_index import rebuild

    console = _console(stderr=True)
    with Progress(console=console, transient=True) as bars:
        task = bars.add_task("ranges", total=None)
        made = rebuild(lake, progress=lambda done, total: bars.update(task, completed=done, total=total))
    console.print(f"The search index is {made.name} now; `blyan search` uses it at once.", highlight=False, soft_wrap=True)


def _parsed_time(option: str, text: str | None) -> datetime | None:
    from datetime import UTC, datetime

    from blyan.errors import PermanentError

    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise PermanentError(f"{text!r} is no time", where=option, remedy="give it as 2026-01-31 or 2026-01-31T12:00:00Z") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _show_answer(asked: Any, names: Any) -> None:
    """Hits with where they are from, why they were found, and what they were looked for in."""
    from rich.markup import escape

    from blyan.query.ask import unmet

    console = _console()
    answer, searched = asked.answer, asked.answer.searched
    if understood := asked.understood.explain():
        console.print(f"Understood: {escape(understood)}.", highlight=False, soft_wrap=True)
    if missing := unmet(asked):
        console.print(f"No hit meets: {escape(', '.join(missing))}.", highlight=False, soft_wrap=True)
    for place, hit in enumerate(answer.hits, 1):
        row = hit.row
        labels = [str(row[name]) for name in ("kind", "status", "error_class", "value_bucket") if row[name]]
        programs = [names.get(account, account) for account in row["programs"] or []][:SHOWN_PROGRAMS]
        console.print(f"\n[b]{place}. {escape(_cited(row))}[/b]  {escape(', '.join([*labels, *programs]))}", highlight=False, soft_wrap=True)
        if row["signature"]:
            console.print(f"   [cyan]{row['signature']}[/cyan]", highlight=False, soft_wrap=True)
        for line in row["text"].split("\n")[:SHOWN_LINES]:
            console.print(f"   {escape(line)}", highlight=False, soft_wrap=True)
        console.print(f"   [dim]{escape(_why(hit, asked.met[place - 1]))}[/dim]", highlight=False, soft_wrap=True)
    slots = f"slots {searched.first_slot:,} to {searched.last_slot:,}" if searched.ranges else "no slots"
    passing = f", {searched.passing:,} of them pass the filters" if searched.passing < searched.documents else ""
    found = "Nothing was found" if not answer.hits else f"{len(answer.hits)} shown"
    console.print(
        f"\n{found}; searched {searched.documents:,} documents of {searched.ranges:,} ranges, {slots}{passing}; {answer.mode}, model {searched.model[:12]}.",
        highlight=False,
        soft_wrap=True,
    )


def _cited(row: Any) -> str:
    """Where a hit is from."""
    if row["scope"] == "transaction":
        at = f", {row['time']:%Y-%m-%d %H:%M:%S}" if row["time"] else ""
        return f"slot {row['slot']:,}, transaction {row['tx_index']:,}{at}"
    of = f" of {row['scope']} {row['subject']}" if row["subject"] else ""
    return f"slots {row['slot']:,} to {row['last_slot']:,}, summary{of}"


def _why(hit: Any, met: tuple[str, ...]) -> str:
    """Why it was found, and how many others are alike."""
    reasons = [f"score {hit.score:g}"]
    reasons += [f"meets {', '.join(met)}"] if met else []
    reasons += [f"meaning {hit.cosine:.3f}"] if hit.cosine is not None else []
    reasons += [f"words {hit.bm25:.2f} ({', '.join(hit.words)})"] if hit.bm25 is not None else []
    return "; ".join([*reasons, f"one of {hit.alike:,} alike" if hit.alike > 1 else "none alike"])


def _write_answer(asked: Any) -> None:
    """The answer as JSON."""
    from dataclasses import asdict

    from blyan.query.ask import unmet

    answer = asked.answer
    hits = [
        {"score": hit.score, "meets": met, "cosine": hit.cosine, "bm25": hit.bm25, "words": hit.words, "alike": hit.alike} | dict(hit.row)
        for hit, met in zip(answer.hits, asked.met, strict=True)
    ]
    facts = {
        "question": asked.understood.text,
        "understood": asked.understood.explain(),
        "unmet": unmet(asked),
        "mode": answer.mode,
        "searched": asdict(answer.searched),
        "hits": hits,
    }
    _write_facts(facts)


@app.command()
def ranges(output: Annotated[Output, typer.Option("-o", "--output")] = "table") -> None:
    """What the grid has, what the lake holds of it, and what is missing."""
    import json

    from rich.table import Table as Grid

    from blyan.lake import Lake
    from blyan.schemas import TRANSACTIONS
    from blyan.settings import load_settings
    from blyan.solana.inventory import COMPLETE, MISSING, PARTIAL, take_inventory

    settings = load_settings()
    inventory = take_inventory(Lake.from_settings(settings), settings.grid)
    counts = {state: sum(count for found, _, count in inventory.runs() if found == state) for state in (COMPLETE, PARTIAL, MISSING)}
    transactions = sum(part.rows for part in inventory.partitions[TRANSACTIONS.name].values())
    if output == "json":
        runs = [{"state": state, "first_slot": slots.first, "last_slot": slots.last, "ranges": count} for state, slots, count in inventory.runs()]
        facts = {"grid": str(settings.grid), "ranges": counts, "transactions": transactions, "runs": runs, "off_grid": inventory.off_grid()}
        typer.echo(json.dumps(facts, indent=2))
        return
    console = _console()
    console.print(
        f"{settings.lake}: slots {settings.first_slot:,} to {settings.horizon_slot - 1:,}, {settings.slots_per_range:,} in a range", highlight=False
    )
    grid = Grid("state", "slots", "ranges")
    colours = {COMPLETE: "green", PARTIAL: "yellow", MISSING: "dim"}
    for state, slots, count in inventory.runs():
        grid.add_row(f"[{colours[state]}]{state}[/]", str(slots), f"{count:,}")
    console.print(grid)
    console.print(", ".join(f"{count:,} {state}" for state, count in counts.items()) + f"; {transactions:,} transactions", highlight=False)
    if stray := inventory.off_grid():
        console.print(
            f"[yellow]{len(stray)} partitions are not on this grid[/yellow], the first is {stray[0]}: the lake was filled with another one."
        )


@app.command()
def statement(key: Annotated[str, typer.Argument(help="Key or first slot of a range.")]) -> None:
    """The completeness statement of a range, as JSON: what landed, what was skipped, what is unknown, and the digests of it all."""
    import json

    from blyan.lake import Lake
    from blyan.settings import load_settings
    from blyan.solana.ingest import statement_of
    from blyan.solana.slots import KEY_DIGITS

    settings = load_settings()
    slots = settings.grid.range_of(f"{int(key):0{KEY_DIGITS}d}" if key.isdecimal() else key)
    typer.echo(json.dumps(statement_of(Lake.from_settings(settings), slots), indent=2))


@source_app.command("check")
def source_check() -> None:
    """Reach the source, and say which slots it has."""
    from blyan.settings import load_settings
    from blyan.solana.sources import open_source

    console = _console()
    report = open_source(load_settings()).check()
    first, last = (f"{slot:,}" if slot is not None else "unknown" for slot in (report.first_slot, report.last_slot))
    for name, value in (
        ("source", report.name),
        ("where", report.where),
        ("genesis hash", report.genesis_hash or "it cannot tell"),
        ("first slot", first),
        ("last slot", last),
        ("detail", report.detail),
    ):
        console.print(f"{name:14} {value}", highlight=False, soft_wrap=True)


@app.command()
def doctor() -> None:
    """Every setting and where its value comes from, versions, and whether the lake and the source can be reached."""
    from rich.markup import escape

    from blyan.doctor import examine

    console = _console()
    broken = 0
    for section, findings in examine():
        console.print(f"\n[b]{section}[/b]")
        for finding in findings:
            mark = "" if finding.good is None else "[green]ok[/green] " if finding.good else "[red]no[/red] "
            broken += finding.good is False
            console.print(f"  {finding.name:36} {mark}{escape(finding.value)}", highlight=False, soft_wrap=True)
            if finding.remedy:
                console.print(f"  {'':36} [dim]{escape(finding.remedy)}[/dim]", highlight=False, soft_wrap=True)
    if broken:
        raise typer.Exit(FAILED)


# Printing


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def _grid(title: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table as Grid

    grid = Grid(title=title or None, title_justify="left")
    for at, name in enumerate(names):
        numeric = bool(rows) and all(isinstance(row[at], int | float) or type(row[at]).__name__ == "Decimal" for row in rows if row[at] is not None)
        grid.add_column(escape(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*("" if value is None else escape(str(_printable(value))) for value in row))
    return grid


def _printable(value: Any) -> Any:
    """Bytes as hex; everything else as it is."""
    return value.hex() if isinstance(value, bytes | bytearray | memoryview) else value


def _write_csv(names: Sequence[str], cursor: Any) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    while rows := cursor.fetchmany(10_000):
        writer.writerows([_printable(value) for value in row] for row in rows)


def _write_json(names: Sequence[str], cursor: Any) -> None:
    import json

    separator = "["
    while rows := cursor.fetchmany(10_000):
        for row in rows:
            sys.stdout.write(separator + json.dumps(dict(zip(names, map(_json_value, row), strict=True)), ensure_ascii=False))
            separator = ",\n"
    sys.stdout.write("]\n" if separator != "[" else "[]\n")


def _json_value(value: Any) -> Any:
    """A value that JSON holds without loss: integers up to 2^53 as numbers, exact numbers beyond and with decimals as text."""
    match value:
        case bool() | None | str():
            return value
        case int():
            return value if abs(value) <= EXACT_JSON else str(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case list() | tuple():
            return [_json_value(item) for item in value]
        case dict():
            return {str(name): _json_value(item) for name, item in value.items()}
        case bytes() | bytearray() | memoryview():
            return value.hex()
    if type(value).__name__ == "Decimal":
        return _json_value(int(value)) if value.as_tuple().exponent >= 0 else str(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def run() -> None:
    """Run the command; an expected error is one line, not a traceback."""
    try:
        app()
    except BlyanError as error:
        if "--debug" in sys.argv:
            raise
        sys.stderr.write(f"blyan: {error}\n")
        raise SystemExit(TRY_AGAIN if isinstance(error, TransientError) else FAILED) from error


class _NoPandas:
    """Hides pandas, which pyarrow otherwise imports on first use only to ask whether a list is one of its series: 0.3 s."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def main() -> None:
    """Run the command in a process of its own, which is tuned to be short-lived."""
    # Importing makes half a million objects that stay: looking through them again and again takes a fifth of the time.
    gc.set_threshold(50_000, 20, 100)
    sys.meta_path.insert(0, _NoPandas())
    try:
        run()
    except BrokenPipeError:  # whoever read the output, such as `head`, had enough
        sys.stderr.close()
        raise SystemExit(FAILED) from None


if __name__ == "__main__":
    main()

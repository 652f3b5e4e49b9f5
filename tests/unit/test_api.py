"""Parts of the service that need no network: keys, the audit log, problems, live events, metrics."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from blyan.api import keys, live
from blyan.api.audit import KEPT, AuditLog
from blyan.api.callers import LIMITS, SCOPES, Role, Scope, parse_scopes
from blyan.api.keys import KeyRing, create, listed, parse, parse_duration, revoke
from blyan.api.live import Hub, changes
from blyan.api.problems import KINDS, OverloadedError, RequestError, nearest, told_of
from blyan.api.telemetry import Gathered, JsonLines
from blyan.errors import MissingObjectError, PermanentError, SettingError, SourceUnreachableError, StoreFullError
from blyan.lake import Lake
from blyan.solana.landing import HEAD, Head, LandedRange
from blyan.solana.segments import Segment


def test_a_key_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    key = create(lake, Role.ANALYST, SCOPES[Role.ANALYST], name="mine")
    identity, secret = parse(key) or ("", "")
    (kept,) = listed(lake)
    assert (kept.id, kept.name, kept.role, kept.state(0)) == (identity, "mine", Role.ANALYST, "valid")
    assert secret not in (tmp_path / keys.FOLDER / f"{identity}.json").read_text()
    assert len(secret) == 43


@pytest.mark.parametrize(
    "text", ["", "blyan_", "blyan_abcdefghij_short", "blyan_ABCDEFGHIJ_" + "a" * 43, "blyan_../../../x_" + "a" * 43, "x" * 100_000]
)
def test_what_is_no_key_is_never_looked_for(text: str) -> None:
    assert parse(text) is None


def test_revoking_is_noticed_when_a_key_is_looked_up_again(tmp_path: Path) -> None:
    lake, now = Lake(str(tmp_path)), 0.0
    ring = KeyRing(lake, now=lambda: now, clock=lambda: now)
    identity, secret = parse(create(lake, Role.READER, SCOPES[Role.READER], lasts_s=100, now=0)) or ("", "")
    assert asyncio.run(ring.holder(identity, secret)).role == Role.READER
    revoke(lake, identity, now=1)
    assert revoke(lake, identity, now=9).revoked == 1, "again changes nothing"
    assert asyncio.run(ring.holder(identity, secret)), "known for five seconds"
    now = keys.KNOWN_S
    with pytest.raises(RequestError, match="is revoked"):
        asyncio.run(ring.holder(identity, secret))


def test_a_key_ends_when_it_was_said_to_whatever_is_remembered(tmp_path: Path) -> None:
    lake, now = Lake(str(tmp_path)), 0.0
    ring = KeyRing(lake, now=lambda: now, clock=lambda: 0.0)
    identity, secret = parse(create(lake, Role.READER, SCOPES[Role.READER], lasts_s=100, now=0)) or ("", "")
    asyncio.run(ring.holder(identity, secret))
    now = 100.0
    with pytest.raises(RequestError, match="is expired"):
        asyncio.run(ring.holder(identity, secret))


def test_a_wrong_secret_tells_nothing_of_the_key(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    identity, _ = parse(create(lake, Role.READER, SCOPES[Role.READER], lasts_s=-1)) or ("", "")
    said = []
    for asked in (identity, "a" * 10):
        with pytest.raises(RequestError) as refused:
            asyncio.run(KeyRing(lake).holder(asked, "b" * 43))
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_revoking_a_key_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    for identity in ("aaaaaaaaaa", "../../x", ""):
        with pytest.raises(PermanentError, match="there is no key"):
            revoke(Lake(str(tmp_path)), identity)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "0d", "-1d", "1w", "1.5h", "9999999d"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(PermanentError, match="is no duration"):
        parse_duration(text)


def test_a_role_has_more_than_the_one_below_and_no_key_has_more_than_its_role() -> None:
    roles = list(Role)
    for low, high in itertools.pairwise(roles):
        assert SCOPES[low] <= SCOPES[high]
        assert LIMITS[low].result_rows <= LIMITS[high].result_rows
    assert parse_scopes(["read"], Role.READER) == {Scope.READ}
    with pytest.raises(PermanentError, match="a reader has no scope operate, sql"):
        parse_scopes(["sql", "operate"], Role.READER)


# The audit log


def test_the_audit_is_rotated_by_size_and_loses_no_line(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.jsonl", 1_000)
    for number in range(60):
        audit.write({"number": number, "text": "x" * 80})
    audit.close()
    files = sorted(tmp_path.glob("audit.jsonl*"))
    found = [json.loads(line)["number"] for file in files if not file.name.endswith(".lock") for line in file.read_text().splitlines()]
    assert sorted(found) == list(range(60))
    assert all(file.stat().st_size <= 1_000 for file in files)
    assert oct((tmp_path / "audit.jsonl").stat().st_mode)[-3:] == "600"


def test_only_so_many_old_files_are_kept(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.jsonl", 100)
    for number in range(50):
        audit.write({"number": number, "text": "x" * 80})
    audit.close()
    assert len([file for file in tmp_path.iterdir() if not file.name.endswith(".lock")]) == KEPT + 1


WRITER = """
import sys
from pathlib import Path
from blyan.api.audit import AuditLog
audit = AuditLog(Path(sys.argv[1]), 4_000)
for number in range(100):
    audit.write({"writer": int(sys.argv[2]), "number": number})
"""


def test_several_processes_write_one_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "audit.jsonl")]
    writers = [subprocess.Popen([*command, str(writer)], env={"PYTHONPATH": os.pathsep.join(sys.path)}) for writer in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = [json.loads(line) for file in tmp_path.glob("audit.jsonl*") if not file.name.endswith(".lock") for line in file.read_text().splitlines()]
    assert sorted((line["writer"], line["number"]) for line in lines) == [(writer, number) for writer in range(3) for number in range(100)]


def test_an_audit_log_that_cannot_be_written_is_a_setting_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="BLYAN_AUDIT_LOG"):
        AuditLog(tmp_path / "file" / "audit.jsonl", 1_000)


# Problems


def test_kinds_differ_and_have_statuses_of_errors() -> None:
    assert len({kind.slug for kind in KINDS}) == len(KINDS)
    assert all(400 <= kind.status < 600 for kind in KINDS)


@pytest.mark.parametrize(
    ("error", "slug"),
    [
        (StoreFullError("no space", where="/secret/path"), "store-full"),
        (SourceUnreachableError("no answer", where="/secret/path"), "unavailable"),
        (MissingObjectError("gone: /secret/path", where="/secret/path"), "unavailable"),
        (PermanentError("broken /secret/path", where="/secret/path"), "internal"),
        (ValueError("/secret/path"), "internal"),
    ],
)
def test_what_is_not_the_callers_business_is_not_told(error: Exception, slug: str) -> None:
    told = told_of(error)
    assert told.kind.slug == slug
    assert b"/secret/path" not in told.document(path="/v1/x", request_id="1")


def test_what_is_the_callers_business_is_told() -> None:
    kind = KINDS[0]
    assert told_of(RequestError(kind, "what", remedy="remedy", details=[("body", "there")])).detail == "what"
    assert told_of(OverloadedError(kind, "what", remedy="wait", retry_after_s=0.2)).headers == {"retry-after": "1"}
    assert nearest("limt", ["limit", "order"]) == " (did you mean limit?)"
    assert nearest("zzz", ["limit", "order"]) == ""


def test_a_line_of_the_log_is_json_with_what_was_given_besides() -> None:
    record = logging.LogRecord("blyan.api", logging.WARNING, "", 0, "it %s", ("was",), None)
    record.rows = 3
    line = json.loads(JsonLines().format(record))
    assert (line["level"], line["message"], line["rows"]) == ("warning", "it was", 3)


def gathered(file: int) -> tuple[logging.Logger, Gathered]:
    logger, handler = logging.Logger("gathered"), Gathered(file)
    logger.addHandler(handler)
    return logger, handler


def test_lines_wait_for_each_other_and_a_warning_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gathered, "WAIT_S", 3600.0)
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as file:
        logger, handler = gathered(file.fileno())
        logger.info("first")
        assert not path.read_bytes()
        logger.warning("second")
        assert path.read_text() == "first\nsecond\n"
        for number in range(Gathered.LINES + 1):
            logger.info("%d", number)
        assert path.read_text().count("\n") == 2 + Gathered.LINES
        handler.flush()
        assert path.read_text().split("\n")[2:-1] == [str(number) for number in range(Gathered.LINES + 1)]


def test_a_line_does_not_wait_for_ever() -> None:
    reader, writer = os.pipe()
    logger, _ = gathered(writer)
    logger.info("alone")
    assert os.read(reader, 100) == b"alone\n"  # which waits until there is something
    os.close(writer)
    logger.warning("to a file that is closed")
    os.close(reader)


def test_lines_of_many_bytes_are_written_whole_and_no_write_is_larger_than_a_pipe_takes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gathered, "WAIT_S", 3600.0)
    written: list[bytes] = []
    given: list[bytes] = []

    def write(_: int, data: bytes) -> int:
        given.append(data)
        written.append(data[:3_000])
        return len(written[-1])

    monkeypatch.setattr("blyan.api.telemetry.os.write", write)
    logger, handler = gathered(0)
    lines = ["x" * size for size in (10, 4_000, 80, 9_000, 1, 2, 3)]
    for line in lines:
        logger.info(line)
    handler.flush()
    assert b"".join(written).decode().split("\n")[:-1] == lines
    assert all(len(data) <= select.PIPE_BUF for data in given if data.count(b"\n") > 1)
    assert any(data.count(b"\n") > 1 for data in given)


# Live


def head_with(generation: int, slots: dict[int, str | None], checkpoint: int = 0) -> Head:
    pairs = sorted(slots.items())
    segments = [Segment("s", pairs[0][0], pairs[-1][0], len(pairs), pairs, {}, 0)] if pairs else []
    return Head(generation=generation, ranges=[LandedRange("000000000000", segments)], checkpoint=checkpoint, processed=max(slots, default=0) + 2)


def test_changes_between_two_heads() -> None:
    before = head_with(1, {1: "a", 2: "b", 3: "c"}, 1)
    after = head_with(2, {2: "b", 3: "other", 4: None}, 2)
    found = [(event.event, event.id, event.data.get("slot", event.data.get("finalized_to"))) for event in changes(before, after)]
    assert found == [("slot", 2, 3), ("slot", 2, 4), ("final", 2, 1)], "slot 1 is final, and was only merged"
    assert [event.event for event in changes(head_with(1, {5: "x"}), head_with(2, {6: "y"}))] == ["gone", "slot"]


def put_head(lake: Lake, head: Head) -> None:
    import msgspec

    lake.store.put(HEAD, msgspec.json.encode(head))


def test_a_client_that_does_not_read_is_told_so_and_others_are_not_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "QUEUE", 4)
    monkeypatch.setattr(live, "LOOK_S", 0.005)
    lake = Lake(str(tmp_path))

    async def lived() -> tuple[list[str], list[str]]:
        put_head(lake, head_with(1, {0: "h"}))
        hub = Hub(lake, asyncio.Event())
        slow, quick = hub.events(), hub.events()
        assert (await anext(slow)).event == (await anext(quick)).event == "head"
        seen = []
        for number in range(2, 12):
            put_head(lake, head_with(number, dict.fromkeys(range(number), "h")))
            seen.append((await anext(quick)).event)
        left = [event.event async for event in slow]
        await quick.aclose()  # type: ignore[attr-defined]
        return left, seen

    left, seen = asyncio.run(lived())
    assert seen == ["slot"] * 10
    assert left == ["slot"] * 4 + ["slow"]


def test_who_comes_back_gets_what_came_since_or_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_S", 0.005)
    lake = Lake(str(tmp_path))

    async def lived() -> None:
        ending = asyncio.Event()
        hub = Hub(lake, ending)
        put_head(lake, head_with(5, {0: "h"}))
        first = hub.events()
        await anext(first)
        for number in (6, 7):
            put_head(lake, head_with(number, dict.fromkeys(range(number), "h")))
            while (await anext(first)).id < number:
                pass
        again = hub.events(6)
        assert (await anext(again)).id == 7
        for unknown in (3, 99):
            other = hub.events(unknown)
            assert (await anext(other)).event == "head"
            await other.aclose()  # type: ignore[attr-defined]
        ending.set()
        rest = [event async for event in first]
        assert all(event.event == "slot" for event in rest)
        await again.aclose()  # type: ignore[attr-defined]
        assert not hub._clients
        await hub.close()

    asyncio.run(asyncio.wait_for(lived(), 30))

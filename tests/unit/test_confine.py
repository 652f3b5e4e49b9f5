"""What a confined process still can, tried by Python in one: whatever a defect of DuckDB would let a statement do, it does in there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blyan.query import confine

REPOSITORY = Path(__file__).parents[2]

TRIES = """
import ctypes, json, os, resource, socket, subprocess, sys, threading
from pathlib import Path
from blyan.query import confine
from blyan.query.worker import _libraries
own, outside, layers = Path(sys.argv[1]), Path(sys.argv[2]), set(sys.argv[3].split(","))
active = []
if "first" in layers:
    confine.limit(cpu_s=1000, file_bytes=1 << 16, files=64)
    active = confine.alone(readable=[*_libraries(False), own / "files"], writable=[own / "spill"], network=False)
beside = threading.Event()
waiting = threading.Thread(target=beside.wait)
waiting.start()
os.chdir(own)
if "last" in layers:
    active += confine.shut(own, network=False)
libc = ctypes.CDLL(None, use_errno=True)
def called(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
seen = {}
def attempt(name, what):
    try:
        what()
    except (OSError, ValueError) as error:
        seen[name] = type(error).__name__
    else:
        seen[name] = "done"
def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
def in_thread(what):
    found = []
    def run():
        try:
            what()
        except OSError as error:
            found.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if found:
        raise found[0]
attempt("read outside", lambda: (outside / "secret").read_text())
attempt("read outside in a thread", lambda: in_thread(lambda: (outside / "secret").read_text()))
attempt("list outside", lambda: os.listdir(outside))
attempt("write outside", lambda: (outside / "new").write_text("x"))
attempt("delete outside", lambda: os.unlink(outside / "other"))
attempt("write a file it reads", lambda: Path("files/a").write_text("y"))
attempt("link", lambda: os.symlink(outside, "spill/link"))
attempt("hard link", lambda: os.link("files/a", "spill/link"))
attempt("socket", lambda: socket.socket())
attempt("unix socket", lambda: socket.socket(socket.AF_UNIX))
attempt("socket in a thread", lambda: in_thread(socket.socket))
attempt("fork", fork)
attempt("run", lambda: subprocess.run(["/bin/true"], check=True))
attempt("signal", lambda: os.kill(os.getppid(), 0))
attempt("trace", lambda: called(101, 16, 0, 0, 0))
attempt("memory of another", lambda: called(310, 0, 0, 0, 0, 0, 0))
attempt("mount", lambda: called(165, b"none", b"/", b"tmpfs", 0, 0))
attempt("unshare nothing", lambda: called(272, 0))
attempt("io_uring", lambda: called(425, 0, 0))
attempt("limits of another", lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE, resource.prlimit(os.getppid(), resource.RLIMIT_CORE)))
attempt("raise a limit", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30)))
attempt("large file", lambda: Path("spill/large").write_bytes(b"x" * (1 << 17)))
attempt("read its own", lambda: Path("files/a").read_text())
attempt("write its own", lambda: Path("spill/b").write_text("x"))
attempt("delete its own", lambda: os.unlink("spill/b"))
attempt("thread", lambda: in_thread(lambda: None))
beside.set()
print(json.dumps([active, seen]))
"""

ALLOWED = {"read its own", "write its own", "delete its own", "thread"}


def tried(tmp_path: Path, layers: str) -> tuple[list[str], dict[str, str]]:
    own, outside = tmp_path / "own", tmp_path / "outside"
    for folder in (own / "files", own / "spill", outside):
        folder.mkdir(parents=True)
    for file in (own / "files" / "a", outside / "secret", outside / "other"):
        file.write_text("x")
    done: Any = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRIES, str(own), str(outside), layers],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    active, seen = json.loads(done.stdout)
    return active, seen


def test_a_confined_process_reaches_nothing_but_its_own(tmp_path: Path) -> None:
    active, seen = tried(tmp_path, "first,last")
    if not {"landlock", "seccomp"} <= set(active):
        pytest.skip(f"the kernel grants only {active}")
    assert {name for name, how in seen.items() if how == "done"} == ALLOWED
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["other", "secret"]


def test_each_attempt_succeeds_where_nothing_confines_it(tmp_path: Path) -> None:
    """The negative control: what is refused above is refused by the layers, not by the machine."""
    _, seen = tried(tmp_path, "none")
    assert {
        name
        for name in ("read outside", "write outside", "delete outside", "link", "socket", "fork", "run", "signal", "large file")
        if seen[name] != "done"
    } == set()


def test_files_hold_without_seccomp_and_the_network_without_landlock(tmp_path: Path) -> None:
    """One layer that is missing opens what it alone holds, and no more."""
    active, first = tried(tmp_path / "first", "first")
    if "landlock" in active:
        assert {first[name] for name in ("read outside", "list outside", "write outside", "delete outside", "write a file it reads", "link")} <= {
            "PermissionError"
        }
    active, last = tried(tmp_path / "last", "last")
    if "seccomp" in active:
        assert {last[name] for name in ("socket", "unix socket", "socket in a thread", "fork", "run", "signal", "trace", "mount", "io_uring")} == {
            "PermissionError"
        }


def test_every_layer_is_named(tmp_path: Path) -> None:
    active, _ = tried(tmp_path, "first,last")
    assert set(active) <= set(confine.LAYERS)

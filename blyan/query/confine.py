"""What the kernel holds a process to, set by the process itself before it does anything for others.

Belongs here: limits, namespaces, Landlock, seccomp, by system calls and without root. Does not belong here: what runs inside
(`blyan.query.worker`), DuckDB's own settings.

Each layer is taken where the kernel grants it, and `Confinement` says which are active: none of them is the only one. Numbers and
structures are the kernel's own: landlock(7), seccomp(2), user_namespaces(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct


class Confinement(Struct, frozen=True):
    """The layers that are active, by name, and those that the kernel refused."""

    active: tuple[str, ...]
    refused: tuple[str, ...]


_NR_LANDLOCK_CREATE, _NR_LANDLOCK_ADD, _NR_LANDLOCK_RESTRICT, _NR_SECCOMP = 444, 445, 446, 317

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38

_CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x04000000, 0x08000000, 0x10000000, 0x40000000
_CLONE_THREAD = 0x00010000

_READ_FILE, _READ_DIR, _EXECUTE = 1 << 2, 1 << 3, 1 << 0
_WRITE = (1 << 1) | (1 << 4) | (1 << 5) | (1 << 7) | (1 << 8) | (1 << 14)
"""Write and truncate files, remove files and folders, make folders and files. Never links, devices, sockets, or moving across folders."""

_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Rights on files that a version of Landlock knows, as how many bits; the newest known counts for all newer ones."""

_DENIED = {
    "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "socketpair": 53, "fork": 57, "vfork": 58, "execve": 59, "kill": 62,
    "ptrace": 101, "syslog": 103, "rt_sigqueueinfo": 129, "personality": 135, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "tkill": 200, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
    "unshare": 272, "accept4": 288, "perf_event_open": 298, "rt_tgsigqueueinfo": 297, "open_by_handle_at": 304, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "bpf": 321, "execveat": 322, "userfaultfd": 323,
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "pidfd_open": 434, "pidfd_getfd": 438, "mount_setattr": 442,
}  # fmt: skip
"""System calls of x86-64 that nothing here needs: the network, other processes, other programs, mounts, the kernel."""

_NETWORK = frozenset({"socket", "connect", "socketpair", "bind", "accept", "accept4", "listen"})

_CLONE, _CLONE3, _TGKILL, _PRLIMIT = 56, 435, 234, 302

_EPERM, _ENOSYS = 1, 38


def limit(*, cpu_s: int | None = None, file_bytes: int | None = None, files: int | None = None, data_bytes: int | None = None) -> None:
    """Set limits of this process, hard ones too; those above what it has already are left.

    Args:
        cpu_s: CPU seconds.
        file_bytes: size of a file that it writes.
        files: open at once.
        data_bytes: private memory that can be written, reserved or not.
    """
    wanted = {resource.RLIMIT_CPU: cpu_s, resource.RLIMIT_FSIZE: file_bytes, resource.RLIMIT_NOFILE: files, resource.RLIMIT_DATA: data_bytes}
    wanted |= {resource.RLIMIT_CORE: 0, resource.RLIMIT_MEMLOCK: 0}
    for what, value in wanted.items():
        if value is not None:
            _, hard = resource.getrlimit(what)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(what, (value, value))


def alone(*, readable: Iterable[Path], writable: Iterable[Path], network: bool) -> list[str]:
    """Take what a process of one thread can take: no new rights, no core, its own network without one, files as listed.

    Args:
        readable: folders and files it may read.
        writable: folders in which it may write too.
        network: whether it must reach a bucket.

    Returns:
        The layers that are active.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    active = []
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        active.append("no_new_privs")
    if not network and _unshare(libc):
        active.append("namespaces")
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0:
        active.append("not_dumpable")
    if _landlock(libc, readable, writable, network=network):
        active.append("landlock")
    return active


def shut(root: Path | None, *, network: bool) -> list[str]:
    """Take what holds every thread: the root of the file system, and system calls that nothing needs any more.

    Args:
        root: the folder that becomes `/`, or None to leave that.
        network: whether it must reach a bucket.

    Returns:
        The layers that are active.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    active = []
    if root is not None:
        with contextlib.suppress(OSError):
            os.chroot(root)
            os.chdir("/")
            active.append("chroot")
    if _seccomp(libc, network=network):
        active.append("seccomp")
    return active


LAYERS = ("no_new_privs", "namespaces", "not_dumpable", "landlock", "chroot", "seccomp")
"""Every layer, in the order in which they are taken."""


def _unshare(libc: ctypes.CDLL) -> bool:
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS) != 0:
        return False
    with contextlib.suppress(OSError):
        # Its own number stays its own, so that its files stay its own; there are no others.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


def _landlock(libc: ctypes.CDLL, readable: Iterable[Path], writable: Iterable[Path], *, network: bool) -> bool:
    version = libc.syscall(_NR_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = (1 << _FS_RIGHTS[min(version, max(_FS_RIGHTS))]) - 1
    # From 4 on TCP can be bound and connected to only where a rule says so, from 6 on no signal leaves, and no abstract socket is reached.
    ruleset = struct.pack("QQQ", rights, 3 if version >= 4 and not network else 0, 3 if version >= 6 else 0)
    ruleset = ruleset[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = libc.syscall(_NR_LANDLOCK_CREATE, ruleset, ctypes.c_size_t(len(ruleset)), 0)
    if rules < 0:
        return False
    try:
        for paths, allowed in ((readable, _READ_FILE | _READ_DIR | _EXECUTE), (writable, _READ_FILE | _READ_DIR | _WRITE)):
            for path in paths:
                if path.exists() and not _allow(libc, rules, path, allowed & rights):
                    return False
        return bool(libc.syscall(_NR_LANDLOCK_RESTRICT, rules, 0) == 0)
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: Path, allowed: int) -> bool:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not path.is_dir():
            allowed &= _READ_FILE | _EXECUTE | (1 << 1) | (1 << 14)
        return bool(libc.syscall(_NR_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed, handle), 0) == 0)
    finally:
        os.close(handle)


def _seccomp(libc: ctypes.CDLL, *, network: bool) -> bool:
    if platform.machine() != "x86_64":
        return False
    program = _filter(os.getpid(), network=network)
    # struct sock_fprog: how many instructions, and where they are. The flag holds every thread to it, not only this one.
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    return bool(libc.syscall(_NR_SECCOMP, 1, 1, head) == 0)


def _filter(pid: int, *, network: bool) -> bytes:
    """The program that seccomp runs at every system call, of 8-byte instructions: code, jump if true, jump if false, value."""
    load, equal, set_, give = 0x20, 0x15, 0x45, 0x06
    allow, refuse, absent = 0x7FFF0000, 0x00050000 | _EPERM, 0x00050000 | _ENOSYS

    def do(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("HBBI", code, then, otherwise, value)

    # The number is at 0, the architecture at 4, the low half of argument n at 16 + 8n, and the high half 4 after it.
    steps = [do(load, 4), do(equal, 0xC000003E, 1, 0), do(give, 0x80000000), do(load, 0), do(0x35, 0x40000000, 0, 1), do(give, 0x80000000)]
    steps += [do(equal, _CLONE3, 0, 1), do(give, absent)]  # the C library then uses clone, whose flags can be looked at
    steps += [do(equal, _CLONE, 0, 4), do(load, 16), do(set_, _CLONE_THREAD, 1, 0), do(give, refuse), do(give, allow)]
    steps += [do(equal, _TGKILL, 0, 4), do(load, 16), do(equal, pid, 1, 0), do(give, refuse), do(give, allow)]
    steps += [do(equal, _PRLIMIT, 0, 6), do(load, 32), do(equal, 0, 0, 2), do(load, 36), do(equal, 0, 1, 0), do(give, refuse), do(give, allow)]
    for name, number in _DENIED.items():
        if not (network and name in _NETWORK):
            steps += [do(equal, number, 0, 1), do(give, refuse)]
    return b"".join([*steps, do(give, allow)])

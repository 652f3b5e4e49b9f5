"""Processes that share the work of one: started clean, and ended with whoever started them.

Belongs here: how such processes are started. Does not belong here: what they do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pyarrow as pa


def pool(processes: int, initializer: Callable[..., None] | None = None, *arguments: Any) -> ProcessPoolExecutor:
    """A pool of processes that use one thread each: they themselves are the parallelism.

    Spawned, because a fork of a process that has threads may hang.
    """
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(initializer, arguments))


def without_interrupts() -> None:
    """Initializer of workers whose parent answers an interrupt from the terminal, which reaches every process there, for them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def may_start() -> bool:
    """Whether this process may start others: one that is a worker itself may not."""
    return not multiprocessing.current_process().daemon


def _begin(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        # Each worker holds both ends of the pool's pipe, so none of them sees it close when the parent is killed.
        threading.Thread(target=_end_with, args=(parent,), daemon=True, name="end with parent").start()
    pa.set_cpu_count(1)
    if initializer is not None:
        initializer(*arguments)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)

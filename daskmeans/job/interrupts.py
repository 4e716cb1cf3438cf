"""Ctrl-C that arrives: once, at the driver alone, and wherever in Python it strikes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

RETRY_S = 1.0


@contextmanager
def insistent() -> Iterator[None]:
    """Raise KeyboardInterrupt again, until it leaves the context.

    Python drops an exception that strikes inside a garbage collector's callback or a finalizer, and Dask has many: a
    single Ctrl-C can get lost, and the wait for the cluster go on for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, RETRY_S)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGALRM)}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def not_for_children() -> Iterator[None]:
    """Start processes and threads that never see Ctrl-C, which a terminal sends to all processes of a command.

    They inherit that it is blocked. The driver gets what came meanwhile when the context ends.
    """
    # Started by the first child, it would lift the block.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

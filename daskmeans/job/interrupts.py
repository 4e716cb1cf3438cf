"""Ctrl-C and SIGTERM that arrive: once, at the driver alone, and wherever in Python they strike."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

RETRY_S = 1.0

# What asks a run to end: Ctrl-C, `kill`, and what batch systems send before the time is over.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A run was asked to end; the message says what is left, and how to go on."""


@contextmanager
def heeded() -> Iterator[None]:
    """Raise KeyboardInterrupt for all that asks a run to end, not for Ctrl-C alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A shell may have had SIGHUP ignored (`nohup`), or Ctrl-C (`&` in a script): so it stays.
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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

    def report(lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):  # which comes again, so there is nothing to tell
            hook(lost)

    heard = [n for n in SIGNALS if signal.getsignal(n) is signal.default_int_handler]
    if signal.SIGINT not in heard and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        heard.append(signal.SIGINT)  # some packages take Ctrl-C for themselves when they are imported
    before = {number: signal.signal(number, interrupt) for number in (*heard, signal.SIGALRM)}
    hook, sys.unraisablehook = sys.unraisablehook, report
    try:
        yield
    finally:
        sys.unraisablehook = hook
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

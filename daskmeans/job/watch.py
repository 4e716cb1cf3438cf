"""Ends a run whose pass makes no progress: a hung worker, or one that a queue never gives back.

Must not know what a pass computes.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from daskmeans.errors import ClusterError
from daskmeans.scan import Listener, PassReport

LOOK_S = 1.0


@contextmanager
def watched(listener: Listener, timeout_s: float | None, what_is_there: Callable[[], str]) -> Iterator[Listener]:
    """Yield a listener that hands on to `listener`, and sees to it that some block is done every `timeout_s`.

    Raises
    ------
    ClusterError
        No block was: the message says so, and `what_is_there`.
    """
    main = threading.main_thread()
    if timeout_s is None or threading.current_thread() is not main:
        yield listener
        return
    watch = _Watch(listener, timeout_s)
    thread = threading.Thread(target=watch.look, daemon=True)
    thread.start()
    try:
        yield watch
    except KeyboardInterrupt:
        if watch.stalled is None:
            raise
        raise ClusterError(
            f"{watch.stalled}: no block was done for {timeout_s:g} s (cluster.timeout); {what_is_there()}. Look at the "
            "logs of the workers, and run the same command again to go on from the last pass"
        ) from None
    finally:
        watch.over.set()
        thread.join()


class _Watch:
    """Listens to the scanner; `stalled` says which pass makes no progress."""

    def __init__(self, listener: Listener, timeout_s: float) -> None:
        self._listener, self._timeout_s = listener, timeout_s
        self._title = ""
        self._since: float | None = None
        self.over = threading.Event()
        self.stalled: str | None = None

    def look(self) -> None:
        """Look now and then, and interrupt the main thread if need be."""
        while not self.over.wait(min(LOOK_S, self._timeout_s / 4)):
            since = self._since
            if since is not None and time.monotonic() - since > self._timeout_s:
                self.stalled = self._title
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                return

    def started(self, number: int, title: str, n_blocks: int) -> None:
        """Begin to watch."""
        self._title, self._since = f"pass {number} ({title})", time.monotonic()
        self._listener.started(number, title, n_blocks)

    def advanced(self, n_blocks: int, n_bytes: int) -> None:
        """Take it as a sign of life."""
        if self._since is not None:
            self._since = time.monotonic()
        self._listener.advanced(n_blocks, n_bytes)

    def finished(self, report: PassReport) -> None:
        """Watch no more."""
        self._since = None
        self._listener.finished(report)

    def judged(self, report: PassReport) -> None:
        """Hand it on."""
        self._listener.judged(report)

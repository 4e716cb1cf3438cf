"""Ends a run whose pass makes no progress: a hung worker, one that a queue never gives back, or all out of memory.

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

# Workers that are all paused wait for memory that none will give free; some seconds may pass while they spill to disk.
PAUSED_S = 60.0


@contextmanager
def watched(
    listener: Listener,
    timeout_s: float | None,
    what_is_there: Callable[[], str],
    all_paused: Callable[[], bool],
) -> Iterator[Listener]:
    """Yield a listener that hands on to `listener`, and sees to it that some block is done every `timeout_s`.

    Raises
    ------
    ClusterError
        No block was, or none for a while and all workers are paused: the message says so, and `what_is_there`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield listener
        return
    watch = _Watch(listener, timeout_s, what_is_there, all_paused)
    thread = threading.Thread(target=watch.look, daemon=True)
    thread.start()
    try:
        yield watch
    except KeyboardInterrupt:
        if watch.stalled is None:
            raise
        raise ClusterError(watch.stalled) from None
    finally:
        watch.over.set()
        thread.join()


class _Watch:
    """Listens to the scanner; `stalled` says which pass makes no progress, and what is wrong."""

    def __init__(
        self,
        listener: Listener,
        timeout_s: float | None,
        what_is_there: Callable[[], str],
        all_paused: Callable[[], bool],
    ) -> None:
        self._listener, self._timeout_s = listener, timeout_s
        self._what_is_there, self._all_paused = what_is_there, all_paused
        self._title = ""
        self._since: float | None = None
        self.over = threading.Event()
        self.stalled: str | None = None

    def look(self) -> None:
        """Look now and then, and interrupt the main thread if need be."""
        while not self.over.wait(min(LOOK_S, (self._timeout_s or LOOK_S) / 4)):
            reason = self._reason()
            if reason is not None:
                self.stalled = (
                    f"{self._title}: {reason}; {self._what_is_there()}. Look at the logs of the workers, and run the "
                    "same command again to go on from the last pass"
                )
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                return

    def _reason(self) -> str | None:
        """Return why to end the run; None to go on."""
        since = self._since
        if since is None:
            return None
        silent_s = time.monotonic() - since
        if self._timeout_s is not None and silent_s > self._timeout_s:
            return f"no block was done for {self._timeout_s:g} s (cluster.timeout)"
        if silent_s > PAUSED_S and self._all_paused() and self._since == since:
            return f"no block was done for {silent_s:.0f} s, and all workers are paused for lack of memory"
        return None

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

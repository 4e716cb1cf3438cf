"""The log of a run as JSON lines: what happened and when, for programs, and for `daskmeans status` from any machine."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from daskmeans.scan import Listener, PassReport

LOG = "log.jsonl"

# How far a long pass is, is noted this often.
PROGRESS_S = 10.0


# What each line says, and what some say beside it.
FACTS: dict[str, Any] = {"time": str, "event": str}
MORE_FACTS: dict[str, dict[str, Any]] = {
    "pass": {"pass": int, "title": str, "inertia": float | None, "shift": float | None, "bytes": int, "seconds": float},
    "progress": {"pass": int, "title": str, "blocks": int, "n_blocks": int},
}


class JobLog:
    """Listens to a scanner, writes what it hears to a file, and hands it on; a context manager.

    The line of a pass waits until its inertia is known, or until the next pass begins. Lines of several runs follow
    each other in one file where one goes on from another's checkpoint. A disk that is full stops no run.

    Attributes
    ----------
    measure : returns what each line of a pass says beside what the scanner tells.
    """

    def __init__(self, path: Path, listener: Listener) -> None:
        self._path, self._listener = path, listener
        self.measure: Callable[[], dict[str, Any]] = dict
        self._report: PassReport | None = None
        self._lock = threading.Lock()
        self._number, self._title, self._n_blocks, self._n_done, self._n_bytes = 0, "", 0, 0, 0
        self._spoke = time.monotonic()
        self._is_broken = False

    def __enter__(self) -> JobLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write_report()
        if kind is not None:
            self.write("ended", reason=kind.__name__, message=str(error))

    def write(self, event: str, **facts: Any) -> None:
        """Write one line."""
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **facts})
        try:
            with self._lock:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        except OSError as error:
            if not self._is_broken:
                warnings.warn(f"{self._path}: the log cannot be written: {error}", stacklevel=2)
            self._is_broken = True

    def began(self, **facts: Any) -> None:
        """Write who runs, and where."""
        self.write("began", host=socket.gethostname(), pid=os.getpid(), **facts)

    def started(self, number: int, title: str, n_blocks: int) -> None:
        """Take note of a new pass."""
        self._write_report()
        self._number, self._title, self._n_blocks, self._n_done, self._n_bytes = number, title, n_blocks, 0, 0
        self._spoke = time.monotonic()
        self._listener.started(number, title, n_blocks)

    def advanced(self, n_blocks: int, n_bytes: int) -> None:
        """Write now and then how far a pass is; called from any thread."""
        self._listener.advanced(n_blocks, n_bytes)
        with self._lock:
            self._n_done += n_blocks
            self._n_bytes += n_bytes
            speaks = time.monotonic() - self._spoke >= PROGRESS_S
            if speaks:
                self._spoke = time.monotonic()
        if speaks:
            facts = {"pass": self._number, "title": self._title}
            self.write("progress", **facts, blocks=self._n_done, n_blocks=self._n_blocks, bytes=self._n_bytes)

    def finished(self, report: PassReport) -> None:
        """Keep the report until it is complete."""
        self._report = report
        self._listener.finished(report)

    def judged(self, report: PassReport) -> None:
        """Write the line of a pass whose inertia and center shift are known."""
        self._report = report
        self._write_report()
        self._listener.judged(report)

    def _write_report(self) -> None:
        report, self._report = self._report, None
        if report is not None:
            self.write(
                "pass",
                **{"pass": report.number},
                title=report.title,
                inertia=report.inertia,
                shift=report.center_shift,
                bytes=report.n_bytes,
                seconds=round(report.elapsed_s, 6),
                blocks=report.n_blocks,
                **self.measure(),
            )


def read_log(text: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log, but for what is cut short or damaged."""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and _is_whole(entry):
            yield entry


def _is_whole(entry: dict[str, Any]) -> bool:
    """Return whether a line has what a line of its event must have."""
    kinds = FACTS | MORE_FACTS.get(str(entry.get("event")), {})
    return all(isinstance(entry.get(name), kind) for name, kind in kinds.items())

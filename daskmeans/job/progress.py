"""Shows passes as they go: a bar within a pass, on a terminal, and a line when it is over."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from daskmeans.memory import format_bytes
from daskmeans.scan import PassReport

# Where there is no terminal, a long pass says this often how far it is.
QUIET_S = 30.0


class PassLines:
    """Listens to a scanner, and shows what it hears on `console`; a context manager.

    The line of a pass waits until its inertia is known, or until the next pass begins.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._report: PassReport | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._pass = _Pass(0, "", 0)

    def __enter__(self) -> PassLines:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._print_report()
        self._bar.stop()

    def started(self, number: int, title: str, n_blocks: int) -> None:
        """Show the bar of a new pass."""
        self._print_report()
        self._pass = _Pass(number, title, n_blocks)
        with self._lock:
            self._show(_head(number, title), total=n_blocks, state=f"{n_blocks:,} blocks")

    def advanced(self, n_blocks: int, n_bytes: int) -> None:
        """Move the bar; called from any thread."""
        with self._lock:
            current = self._pass
            current.n_done += n_blocks
            current.n_bytes += n_bytes
            if self._task is not None:
                self._bar.update(self._task, completed=current.n_done, state=current.state())
            if not self._console.is_terminal and current.is_silent_for(QUIET_S):
                self._print(f"{_head(current.number, current.title)}  {current.state()}")

    def finished(self, report: PassReport) -> None:
        """Keep the report until it is complete; what follows is done in memory, and can take a while."""
        with self._lock:
            self._show(f"{'':8}  {'between passes':<18}", total=None, state="at work on rows in memory")
            self._report = report

    def judged(self, report: PassReport) -> None:
        """Print the line of a pass whose inertia and center shift are known."""
        self._report = report
        self._print_report()

    def _show(self, description: str, *, total: int | None, state: str) -> None:
        """Show one bar in place of the one before; without a total, one that only says that there is work."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(description, total=total, state=state)

    def _print_report(self) -> None:
        report, self._report = self._report, None
        if report is not None:
            self._print(pass_line(report))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Pass:
    """How far a pass is."""

    def __init__(self, number: int, title: str, n_blocks: int) -> None:
        self.number, self.title, self.n_blocks = number, title, n_blocks
        self.n_done = self.n_bytes = 0
        self.began = self.spoke = time.monotonic()

    @property
    def gigabytes_per_s(self) -> float:
        """Speed of reading so far."""
        return self.n_bytes / 1e9 / max(time.monotonic() - self.began, 1e-9)

    def is_silent_for(self, seconds: float) -> bool:
        """Return whether nothing was said for so long, and take it that something is said now."""
        now = time.monotonic()
        if now - self.spoke < seconds:
            return False
        self.spoke = now
        return True

    def state(self) -> str:
        """Say how far the pass is."""
        elapsed_s = time.monotonic() - self.began
        eta_s = elapsed_s * (self.n_blocks - self.n_done) / max(self.n_done, 1)
        rate = f"{self.gigabytes_per_s:.2f} GB/s" if self.n_bytes else "from memory"
        return f"{self.n_done:,} of {self.n_blocks:,} blocks  {rate}  ETA {eta_s:.0f} s"


def pass_line(report: PassReport) -> str:
    """Return a line on a pass that is over."""
    read = "from memory"
    if report.n_bytes:
        rate = report.n_bytes / 1e9 / max(report.elapsed_s, 1e-9)
        read = f"{format_bytes(report.n_bytes)} at {rate:.2f} GB/s"
    parts = [_head(report.number, report.title), f"{read:>22}", f"{report.elapsed_s:6.1f} s"]
    if report.inertia is not None:
        parts.append(f"inertia {report.inertia:<11.6g}")
    if report.center_shift is not None:
        parts.append(f"center shift² {report.center_shift:.3g}")
    return "  ".join(parts).rstrip()


def _head(number: int, title: str) -> str:
    """Return how each line begins."""
    return f"pass {number:>3}  {title:<18}"

"""Says from files alone, on any machine that sees them, how far a run is: what `daskmeans status` and `logs` print."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daskmeans.errors import ConfigError
from daskmeans.job import checkpoint, locks, submit
from daskmeans.job.joblog import LOG, read_log
from daskmeans.job.results import SUMMARY
from daskmeans.memory import format_bytes


def status_lines(output: Path) -> list[tuple[str, str]]:
    """Return for people what the state of the run with these results is.

    Raises
    ------
    ConfigError
        There is no trace of a run.
    """
    output = output.absolute()
    entries = list(read_log(path)) if (path := _log_of(output)) is not None else []
    passes = [entry for entry in entries if entry["event"] == "pass"]
    lines = [("state", _state(output)), *_job_lines(output)]
    if passes:
        last = passes[-1]
        lines.append(
            ("passes", f"{last['pass']}, the last at {last['time']} in {last['seconds']:.1f} s: {last['title']}")
        )
    judged = [entry for entry in passes if entry.get("inertia") is not None]
    if judged:
        lines.append(("inertia", f"{judged[-1]['inertia']:.8g}"))
        if judged[-1].get("shift") is not None:
            lines.append(("center shift²", f"{judged[-1]['shift']:.3g}"))
    if entries and entries[-1]["event"] == "progress":
        now = entries[-1]
        lines.append(("now", f"pass {now['pass']}, {now['title']}: {now['blocks']:,} of {now['n_blocks']:,} blocks"))
    if passes:
        lines.append(("read", format_bytes(sum(entry.get("bytes", 0) for entry in passes))))
    return lines


def log_lines(output: Path) -> Iterator[str]:
    """Yield the log of a run for people, then what its driver's job printed where it was submitted.

    Raises
    ------
    ConfigError
        There is none.
    """
    output = output.absolute()
    path, printed = _log_of(output), submit.folder_of(output) / submit.OUTPUT
    if path is None and not printed.is_file():
        _state(output)
        raise ConfigError(f"RESULT: {output} has no log yet")
    for entry in () if path is None else read_log(path):
        time, event = entry.pop("time", "?"), entry.pop("event", "?")
        yield f"{time}  {event:<8}  " + "  ".join(f"{key} {_word(value)}" for key, value in entry.items())
    if printed.is_file():
        yield f"{printed}:"
        yield from printed.read_text(encoding="utf-8", errors="replace").splitlines()


def _word(value: Any) -> str:
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _log_of(output: Path) -> Path | None:
    """Return the log of the run that is going on, else that of the finished one."""
    places = (checkpoint.folder_of(output) / LOG, output / LOG)
    return next((place for place in places if place.is_file()), None)


def _state(output: Path) -> str:
    """Return the state of a run in a few words."""
    lock = locks.lock_of(output)
    owner = locks.read_owner(lock)
    if owner is not None and locks.is_alive(lock, owner):
        return f"running: {locks.describe(lock, owner)}"
    n_passes = checkpoint.last_pass(checkpoint.folder_of(output))
    if n_passes is not None:
        return f"interrupted after pass {n_passes} of the iteration; the same `daskmeans run` goes on"
    if (output / SUMMARY).is_file():
        return f"finished: {output}"
    if (submit.folder_of(output) / submit.JOB).is_file():
        return "submitted, and not begun or failed: see the queue, and `daskmeans logs`"
    raise ConfigError(f"RESULT: there is no run with the results {output}: no results, no checkpoint, no job")


def _job_lines(output: Path) -> list[tuple[str, str]]:
    """Return the job that the driver was submitted as, if it was."""
    try:
        job = json.loads((submit.folder_of(output) / submit.JOB).read_text(encoding="utf-8"))
        return [("job", f"{job['id']} of {job['system']}, submitted at {job['time']}")]
    except (OSError, ValueError, KeyError, TypeError):
        return []

"""Says from files alone, on any machine that sees them, how far a run is: what `daskmeans status` and `logs` print."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daskmeans.errors import ConfigError
from daskmeans.job import checkpoint, locks, submit
from daskmeans.job.joblog import LOG, read_log
from daskmeans.job.places import Place
from daskmeans.job.results import is_finished
from daskmeans.memory import format_bytes


def status_lines(output: str | Path) -> list[tuple[str, str]]:
    """Return for people what the state of the run with results at this path or URL is.

    Raises
    ------
    ConfigError
        There is no trace of a run.
    """
    place = Place.of(output)
    text = _log_of(place)
    entries = [] if text is None else list(read_log(text))
    passes = [entry for entry in entries if entry["event"] == "pass"]
    lines = [("state", _state(place)), *_job_lines(place.folder)]
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


def log_lines(output: str | Path) -> Iterator[str]:
    """Yield the log of a run for people, then what its driver's job printed where it was submitted.

    Raises
    ------
    ConfigError
        There is none.
    """
    place = Place.of(output)
    text, printed = _log_of(place), submit.folder_of(place.folder) / submit.OUTPUT
    if text is None and not printed.is_file():
        _state(place)
        raise ConfigError(f"RESULT: {place.name} has no log yet")
    for entry in () if text is None else read_log(text):
        time, event = entry.pop("time", "?"), entry.pop("event", "?")
        yield f"{time}  {event:<8}  " + "  ".join(f"{key} {_word(value)}" for key, value in entry.items())
    if printed.is_file():
        yield f"{printed}:"
        yield from printed.read_text(encoding="utf-8", errors="replace").splitlines()


def _word(value: Any) -> str:
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _log_of(place: Place) -> str | None:
    """Return the log of the run that is going on, else that of the finished one."""
    going_on = checkpoint.folder_of(place.folder) / LOG
    if going_on.is_file():
        return going_on.read_text(encoding="utf-8", errors="replace")
    return place.read_text(LOG) if place.has(LOG) else None


def _state(place: Place) -> str:
    """Return the state of a run in a few words."""
    lock = locks.lock_of(place.folder)
    owner = locks.read_owner(lock)
    if owner is not None and locks.is_alive(lock, owner):
        return f"running: {locks.describe(lock, owner)}"
    n_passes = checkpoint.last_pass(checkpoint.folder_of(place.folder))
    if n_passes is not None:
        return f"interrupted after pass {n_passes} of the iteration; the same `daskmeans run` goes on"
    if is_finished(place):
        return f"finished: {place.name}"
    if (submit.folder_of(place.folder) / submit.JOB).is_file():
        return "submitted, and not begun or failed: see the queue, and `daskmeans logs`"
    raise ConfigError(f"RESULT: there is no run with the results {place.name}: no results, no checkpoint, no job")


def _job_lines(output: Path) -> list[tuple[str, str]]:
    """Return the job that the driver was submitted as, if it was."""
    try:
        job = json.loads((submit.folder_of(output) / submit.JOB).read_text(encoding="utf-8"))
        return [("job", f"{job['id']} of {job['system']}, submitted at {job['time']}")]
    except (OSError, ValueError, KeyError, TypeError):
        return []

"""One run for each place of results: a lock file beside it, with its owner, which gives signs of life."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from daskmeans.errors import ConfigError

SUFFIX = ".lock"
HEARTBEAT_S = 30.0

# A run on another machine is taken for dead when it gave no sign of life for so long.
DEAD_AFTER_S = 600.0


@contextmanager
def locked(path: Path, key: str) -> Iterator[None]:
    """Hold the lock of the results at `path`, whose folder exists.

    Raises
    ------
    ConfigError
        Another run holds it; it says which.
    OSError
        The lock cannot be written.
    """
    lock = lock_of(path)
    token = uuid.uuid4().hex
    while not _create(lock, token):
        owner = read_owner(lock)
        if owner is not None and is_alive(lock, owner):
            raise ConfigError(
                f"{key}: another run writes {path}: {describe(lock, owner)}; wait for it, choose another path, or, if "
                f"that run is dead, remove {lock}"
            )
        _take_away(lock, owner)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(lock, over), daemon=True)
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()
        if (read_owner(lock) or {}).get("token") == token:
            lock.unlink(missing_ok=True)


def lock_of(path: Path) -> Path:
    """Return the lock file of the results at `path`."""
    return path.with_name(path.name + SUFFIX)


def read_owner(lock: Path) -> dict[str, Any] | None:
    """Return what a lock file says of its owner; None if there is no such file, or nothing in it can be read."""
    try:
        owner = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) and isinstance(owner.get("since"), int | float) else None


def is_alive(lock: Path, owner: dict[str, Any]) -> bool:
    """Tell whether the owner of a lock still runs, as far as can be seen from here."""
    if owner.get("host") == socket.gethostname():
        return began(owner.get("pid", 0)) == owner.get("began")
    return _silent_s(lock) < DEAD_AFTER_S


def describe(lock: Path, owner: dict[str, Any]) -> str:
    """Return who holds a lock, for people."""
    age_s = max(0, int(time.time() - owner.get("since", 0)))
    return (
        f"process {owner.get('pid')} of {owner.get('user')} on {owner.get('host')}, "
        f"for {age_s // 3600}:{age_s // 60 % 60:02d}:{age_s % 60:02d} h"
    )


def began(pid: int) -> int:
    """Return when a process of this machine began, in seconds of Unix time; 0 if there is none such."""
    try:
        return int(psutil.Process(pid).create_time())
    except (psutil.Error, TypeError, ValueError, OverflowError):
        return 0


def _create(lock: Path, token: str) -> bool:
    """Write the lock file, whole, if there is none."""
    pid = os.getpid()
    owner = {
        "token": token,
        "pid": pid,
        "began": began(pid),
        "host": socket.gethostname(),
        "user": _user(),
        "since": time.time(),
    }
    draft = lock.with_name(f".{lock.name}.{token}")
    try:
        draft.write_text(json.dumps(owner), encoding="utf-8")
        os.link(draft, lock)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return True


def _take_away(lock: Path, owner: dict[str, Any] | None) -> None:
    """Remove the lock of a dead run, but not one that another run has taken meanwhile."""
    aside = lock.with_name(f".{lock.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        lock.rename(aside)
        if read_owner(aside) != owner:
            with contextlib.suppress(FileExistsError):
                os.link(aside, lock)
        aside.unlink()


def _beat(lock: Path, over: threading.Event) -> None:
    """Give signs of life."""
    while not over.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(lock)


def _silent_s(lock: Path) -> float:
    """Return for how long there was no sign of life."""
    try:
        return time.time() - lock.stat().st_mtime
    except OSError:
        return float("inf")


def _user() -> str:
    try:
        return psutil.Process().username()
    except (psutil.Error, KeyError):
        return str(os.getuid())

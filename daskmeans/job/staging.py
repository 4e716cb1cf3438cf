"""Folders that appear whole or not at all: written under a hidden name, then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from daskmeans.errors import ConfigError
from daskmeans.job.locks import began, locked

PARTIAL, REPLACED = "partial", "replaced"


def check_free(path: Path, key: str, *, mark: str, overwrite: bool) -> None:
    """Raise ConfigError if results at `path` would destroy something.

    Parameters
    ----------
    path : where results are to appear.
    key : what the person calls it.
    mark : file by which a folder is known to be such results; no other folder is ever replaced.
    overwrite : whether earlier results may be replaced.
    """
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise ConfigError(f"{key}: {path} exists; choose another path, or replace it with --overwrite")
    if not (path / mark).is_file():
        raise ConfigError(
            f"{key}: {path} exists and holds no earlier results (no {mark} in it), so it is not "
            "overwritten; choose another path, or remove it yourself"
        )


@contextmanager
def staged(path: Path, key: str) -> Iterator[Path]:
    """Yield an empty hidden folder beside `path`, which takes its place if the body ends well.

    Holds the lock of `path`, so that no other run does the same. Cleans up behind earlier runs of this
    machine that died. What is at `path` stays whole until it is replaced.

    Raises
    ------
    ConfigError
        The folder cannot be made or put in place, or another run is at it.
    """
    path = path.absolute()
    created = _first_missing(path.parent)
    folder = path.parent / _hidden_name(path, PARTIAL)
    try:
        with ExitStack() as stack:
            with _told(path, key):
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(path, key))
                _clean_up(path)
                folder.mkdir()
            yield folder
            _put_in_place(folder, path, key)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(path.parent, created)
        raise


@contextmanager
def _told(path: Path, key: str) -> Iterator[None]:
    """Say of an error of the file system which key it comes from."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be written: {error}") from error


def _put_in_place(folder: Path, path: Path, key: str) -> None:
    """Rename `folder` to `path`; what was there leaves last."""
    with _told(path, key):
        if not os.path.lexists(path):
            folder.rename(path)
            return
        old = path.parent / _hidden_name(path, REPLACED)
        path.rename(old)
        folder.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _hidden_name(path: Path, state: str) -> str:
    """Return a name beside `path` that tells whose it is: host, process, and when that began."""
    pid = os.getpid()
    return f".{path.name}.{_host()}-{pid}-{began(pid)}-{uuid.uuid4().hex[:8]}.{state}"


def _clean_up(path: Path) -> None:
    """Remove what dead runs left beside `path`, and put back what one of them was replacing."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{re.escape(_host())}-(\d+)-(\d+)-[0-9a-f]+\.(\w+)")
    for other in list(path.parent.iterdir()):
        match = pattern.fullmatch(other.name)
        if match is None or began(int(match[1])) == int(match[2]):
            continue
        if match[3] == REPLACED and not os.path.lexists(path):
            other.rename(path)
        else:
            shutil.rmtree(other, ignore_errors=True)


def _host() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


def _first_missing(folder: Path) -> Path | None:
    """Return the outermost folder of the path that does not exist yet."""
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    return missing[-1] if missing else None


def _remove_empty(folder: Path, outermost: Path | None) -> None:
    """Remove the empty folders from `folder` outwards, `outermost` the last."""
    with contextlib.suppress(OSError):
        while outermost is not None and folder.is_relative_to(outermost):
            folder.rmdir()
            folder = folder.parent

"""Where results are, or go: a folder of this machine, or a URL that fsspec can write to.

A folder appears whole, by a rename. Object stores have none: what lies at a URL is whole when the files that say so
are there, which are written last; until then another file says that it is not. What replaces something whole is made
at a URL beside it, and copied from there by the store. Must not know what results are.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec

from daskmeans.errors import ConfigError
from daskmeans.nodes import Location, local_path
from daskmeans.retry import patiently

# Lies at a URL from the moment that something is written there until it is whole.
UNFINISHED = "unfinished.json"

# Files that a store is asked to copy before it is seen whether that went well.
COPIED_AT_ONCE = 500


@dataclass(frozen=True)
class Place:
    """A folder or a URL.

    Attributes
    ----------
    name : the path from the root on, or the URL.
    folder : the path; for a URL, a folder's name in the person's state directory: lock, checkpoints and drafts lie
        beside it, the same for whoever runs from wherever on a file system.
    is_remote : whether it is a URL.
    options : passed to fsspec, for URLs.
    """

    name: str
    folder: Path
    is_remote: bool
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, name: str | Path, options: Mapping[str, Any] | None = None) -> Place:
        """Return the place of a path or URL."""
        name = str(name).removeprefix("file://")
        if "://" not in name:
            path = local_path(name)
            return cls(str(path), path, is_remote=False)
        name = name.rstrip("/")
        return cls(name, _state_folder() / _as_file_name(name), True, dict(options or {}))

    def at(self, name: str) -> str:
        """Return the path or URL of what is called `name` there."""
        return f"{self.name}/{name}" if name else self.name

    def location(self, name: str, token: str) -> Location:
        """Return where a Zarr group called `name` is."""
        return Location(self.at(name), dict(self.options) if self.is_remote else None, token)

    def has(self, name: str) -> bool:
        """Return whether there is a file called `name`."""
        if not self.is_remote:
            return (self.folder / name).is_file()
        files, root = self._files()
        return bool(patiently(lambda: files.isfile(f"{root}/{name}"), self.name))

    def read_text(self, name: str) -> str:
        """Return the text of a file."""
        if not self.is_remote:
            return (self.folder / name).read_text(encoding="utf-8", errors="replace")
        files, root = self._files()
        content: bytes = patiently(lambda: files.cat_file(f"{root}/{name}"), self.name)
        return content.decode("utf-8", errors="replace")

    def is_empty(self) -> bool:
        """Return whether there is nothing at a URL."""
        files, root = self._files()
        return not patiently(lambda: files.exists(root), self.name)

    def make_room(self) -> Place:
        """Return the URL where new results are to be made: this one, or one beside it while this one has earlier ones.

        It says that what comes is not whole yet, and has nothing else left.
        """
        if self.is_empty() or self.has(UNFINISHED):
            room = self
        else:
            room = self._beside()
            if not room.is_empty() and not room.has(UNFINISHED):
                raise ConfigError(f"{room.name} is needed for new results, but holds something else; move that away")
        room._say_unfinished()
        room._clear()
        return room

    def upload(self, folder: Path, names: Sequence[str]) -> None:
        """Copy files of a folder to a URL."""
        for name in names:
            self._write(name, (folder / name).read_bytes())

    def publish(self, folder: Path, room: Place, *, last: Sequence[str]) -> None:
        """Complete what was made at `room` with all files of a folder, in the end those that say that all is there.

        Where it was made beside earlier results, it takes their place.
        """
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        room.upload(folder, [name for name in found if name not in last])
        room.upload(folder, [name for name in last if name in found])
        if room == self:
            self._say_finished()
        else:
            self._say_unfinished(replaced=True)
            self.settle(last=last)

    def is_half_replaced(self, *, last: Sequence[str]) -> bool:
        """Return whether new results that are whole were to take the place of earlier ones, and that was broken off."""
        if not self.has(UNFINISHED):
            return False
        try:
            replaced = json.loads(self.read_text(UNFINISHED))["replaced"]
        except (ValueError, KeyError, TypeError):
            return False
        return bool(replaced) and self._beside().has(last[-1])

    def settle(self, *, last: Sequence[str]) -> None:
        """Put whole results that lie beside this URL in its place; may be broken off and called again at any point."""
        files, root = self._files()
        for name in reversed(last):
            if self.has(name):
                patiently(functools.partial(files.rm_file, f"{root}/{name}"), self.name)
        self._clear()
        room = self._beside()
        _, there = room._files()
        prefix = files._strip_protocol(there).rstrip("/")
        found = patiently(lambda: files.find(there), room.name)
        names = sorted({name.removeprefix(prefix).strip("/") for name in found} - {UNFINISHED, *last})
        for begin in range(0, len(names), COPIED_AT_ONCE):
            self._copy(room, names[begin : begin + COPIED_AT_ONCE])
        for name in last:
            self._copy(room, [name])
        self._say_finished()
        room.remove()

    def remove(self) -> None:
        """Remove all that is at a URL, in the end what says that it is not whole."""
        if not self.is_empty():
            self._clear()
            files, root = self._files()
            patiently(lambda: files.rm(root, recursive=True), self.name)
            files.invalidate_cache()

    def _beside(self) -> Place:
        """Return the URL where results are made that replace those at this one."""
        head, _, tail = self.name.rpartition("/")
        return Place.of(f"{head}/.{tail}.new", self.options)

    def _say_unfinished(self, *, replaced: bool = False) -> None:
        told = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time(), "replaced": replaced}
        self._write(UNFINISHED, json.dumps(told).encode())

    def _say_finished(self) -> None:
        files, root = self._files()
        patiently(lambda: files.rm_file(f"{root}/{UNFINISHED}"), self.name)

    def _clear(self) -> None:
        """Remove all but what says that it is not whole."""
        files, root = self._files()
        for path in patiently(lambda: files.ls(root, detail=False), self.name):
            if path.rstrip("/").rpartition("/")[2] != UNFINISHED:
                patiently(functools.partial(files.rm, path, recursive=True), self.name)
        files.invalidate_cache()

    def _copy(self, other: Place, names: Sequence[str]) -> None:
        """Let the store copy files from another URL."""
        files, root = self._files()
        _, there = other._files()
        for folder in {f"{root}/{name}".rpartition("/")[0] for name in names} if _has_folders(files) else ():
            files.makedirs(folder, exist_ok=True)
        pairs = [f"{there}/{name}" for name in names], [f"{root}/{name}" for name in names]
        patiently(lambda: files.copy(*pairs), self.name)

    def _write(self, name: str, content: bytes) -> None:
        files, root = self._files()
        if _has_folders(files):
            files.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        patiently(lambda: files.pipe_file(f"{root}/{name}", content), self.name)

    def _files(self) -> tuple[Any, str]:
        """Return the file system, without what it remembers of before, and the path in it."""
        try:
            files, root = fsspec.url_to_fs(self.name, **self.options)
        except ImportError as error:
            raise ConfigError(
                f"{self.name}: a package for this kind of URL is missing: {error}; install it in the environment of "
                "the client and of the workers"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{self.name}: {error}") from error
        files.invalidate_cache()
        return files, root


@contextmanager
def told_of(where: str | Path, key: str) -> Iterator[None]:
    """Say of an error of the file system where it was, and which key that comes from."""
    try:
        yield
    except ConfigError as error:
        raise error if str(error).startswith(f"{key}:") else ConfigError(f"{key}: {error}") from error
    # Packages for remote stores raise what they like.
    except Exception as error:
        is_plain = isinstance(error, OSError) and error.errno is not None
        reason = f"{error}" if is_plain else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{key}: {where} cannot be written: {reason}") from error


def _has_folders(files: Any) -> bool:
    """Return whether a file system wants folders to be there before files are written."""
    return files.protocol == "memory" or "file" in files.protocol


def _state_folder() -> Path:
    """Return where programs keep what they remember for a person (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "daskmeans"


def _as_file_name(url: str) -> str:
    """Return a name for a URL that can be read, and that no other has.

    >>> _as_file_name("s3://bucket/winds")
    's3-bucket-winds-63d6d76f'
    """
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", url).strip("-.")[-80:]
    return f"{words}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"

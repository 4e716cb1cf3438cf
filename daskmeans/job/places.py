"""Where results are, or go: a folder of this machine, or a URL that fsspec can write to.

A folder appears whole, by a rename. Object stores have none: what lies at a URL is whole when the files that say so
are there, which are written last; until then another file says that it is not. Must not know what results are.
"""

from __future__ import annotations

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
from daskmeans.handles import Location, local_path
from daskmeans.retry import patiently

# Lies at a URL from the moment that something is written there until it is whole.
UNFINISHED = "unfinished.json"


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

    def begin(self) -> None:
        """Remove what is at a URL, and say there that what comes is not whole yet."""
        self.remove()
        told = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        self._write(UNFINISHED, json.dumps(told).encode())

    def upload(self, folder: Path, names: Sequence[str]) -> None:
        """Copy files of a folder to a URL."""
        for name in names:
            self._write(name, (folder / name).read_bytes())

    def publish(self, folder: Path, *, last: Sequence[str]) -> None:
        """Copy all files of a folder to a URL, in the end those that say that all is there."""
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        self.upload(folder, [name for name in found if name not in last])
        self.upload(folder, [name for name in last if name in found])
        files, root = self._files()
        patiently(lambda: files.rm_file(f"{root}/{UNFINISHED}"), self.name)

    def remove(self) -> None:
        """Remove all that is at a URL."""
        if not self.is_empty():
            files, root = self._files()
            patiently(lambda: files.rm(root, recursive=True), self.name)
            files.invalidate_cache()

    def _write(self, name: str, content: bytes) -> None:
        files, root = self._files()
        if files.protocol in ("memory", "file"):
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
def told_of(place: Place, key: str) -> Iterator[None]:
    """Say of an error of the file system which key it comes from."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    # Packages for remote stores raise what they like.
    except Exception as error:
        raise ConfigError(f"{key}: {place.name} cannot be written: {type(error).__name__}: {error}") from error


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

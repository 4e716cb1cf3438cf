"""Results that appear whole or not at all: folders are hidden, then renamed; URLs get last what makes them complete."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from daskmeans.errors import ConfigError
from daskmeans.job.locks import began, locked
from daskmeans.job.places import UNFINISHED, Place, told_of
from daskmeans.nodes import Location

PARTIAL, REPLACED = "partial", "replaced"


@dataclass
class Stage:
    """Results in the making.

    Attributes
    ----------
    folder : an empty folder, for all but what workers write at a URL.
    place : where they are to be.
    key : what the person calls that.
    room : the URL that was cleared to make them, if they are to be at one: there, or beside earlier results.
    """

    folder: Path
    place: Place
    key: str
    room: Place | None = None

    def begin(self) -> Place | None:
        """Make room at a URL, since everything that can be refused before has been."""
        if self.place.is_remote and self.room is None:
            with told_of(self.place.name, self.key):
                self.room = self.place.make_room()
        return self.room

    def written_at(self, name: str) -> Location:
        """Return where workers write the Zarr group called `name`."""
        token = uuid.uuid4().hex
        if self.room is not None:
            return self.room.location(name, token)
        return Location(str(self.folder / name) if name else str(self.folder), None, token)

    def show(self, names: Sequence[str]) -> None:
        """Let workers see files of the folder that they need for writing."""
        if self.room is not None:
            self.room.upload(self.folder, names)


def check_free(place: Place, key: str, *, last: Sequence[str], overwrite: bool) -> None:
    """Raise ConfigError if results at `place` would destroy something.

    Results that are whole, but were killed before they were all in the place of earlier ones, are put there first.

    Parameters
    ----------
    place : where results are to appear.
    key : what the person calls it.
    last : files that say that such results are whole; by the last of them they are known, and nothing else is ever
        replaced.
    overwrite : whether earlier results may be replaced.
    """
    if not place.is_remote and not os.path.lexists(place.folder):
        return
    if place.is_remote:
        with told_of(place.name, key):
            if place.is_half_replaced(last=last):
                place.folder.parent.mkdir(parents=True, exist_ok=True)
                with locked(place.folder, key):
                    place.settle(last=last)
            if place.is_empty() or place.has(UNFINISHED):
                return
    if not overwrite:
        raise ConfigError(f"{key}: {place.name} exists; choose another path, or replace it with --overwrite")
    if not place.has(last[-1]):
        raise ConfigError(
            f"{key}: {place.name} exists and holds no earlier results (no {last[-1]} in it), so it is not "
            "overwritten; choose another path, or remove it yourself"
        )


def check_reach(place: Place, key: str, cluster_type: str) -> None:
    """Raise ConfigError if workers could not write to `place`."""
    if place.name.startswith("memory://") and cluster_type != "threads":
        raise ConfigError(
            f"{key}: {place.name} is the memory of one process, and workers of {cluster_type} are others; write to a "
            "folder or a URL that all of them reach"
        )


@contextmanager
def staged_at(place: Place, key: str, *, last: Sequence[str]) -> Iterator[Stage]:
    """Yield where to write results that are to appear at `place` if the body ends well.

    Earlier results stay whole until they are replaced, those at a URL until the new ones are copied over them.

    Parameters
    ----------
    last : names of the files that say that the results are whole.

    Raises
    ------
    ConfigError
        Nothing can be written there, or another run is at it.
    """
    if not place.is_remote:
        with staged(place.folder, key) as folder:
            yield Stage(folder, place, key)
        return
    with drafted(place.folder, key) as folder:
        stage = Stage(folder, place, key)
        try:
            yield stage
            room = stage.begin()
            assert room is not None
            with told_of(place.name, key):
                place.publish(folder, room, last=last)
        except BaseException:
            with contextlib.suppress(Exception):
                if stage.room is not None and not place.is_half_replaced(last=last):
                    stage.room.remove()
            raise


@contextmanager
def staged(path: Path, key: str) -> Iterator[Path]:
    """Yield an empty hidden folder beside `path`, which takes its place if the body ends well.

    What is at `path` stays whole until it is replaced.

    Raises
    ------
    ConfigError
        The folder cannot be made or put in place, or another run is at it.
    """
    path = path.absolute()
    with drafted(path, key) as folder:
        yield folder
        _put_in_place(folder, path, key)


@contextmanager
def drafted(path: Path, key: str) -> Iterator[Path]:
    """Yield an empty hidden folder beside `path`, and remove it in the end if it is still there.

    Holds the lock of `path`, so that no other run does the same. Cleans up behind earlier runs of this machine that
    died.
    """
    path = path.absolute()
    created = _first_missing(path.parent)
    folder = path.parent / _hidden_name(path, PARTIAL)
    try:
        with ExitStack() as stack:
            with told_of(path, key):
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(path, key))
                _clean_up(path)
                folder.mkdir()
            yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(path.parent, created)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, path: Path, key: str) -> None:
    """Rename `folder` to `path`; what was there leaves last."""
    with told_of(path, key):
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

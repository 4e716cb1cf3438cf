"""What a run has reached, saved after each pass of the iteration, so that it can go on later to the same bits.

A checkpoint is one .npz file of plain arrays and JSON text, named after its content's SHA-256: damage shows, and
reading it cannot run code. Must not know how a pass is run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daskmeans import __version__
from daskmeans.errors import ConfigError, DataError
from daskmeans.lloyd import Model, State
from daskmeans.scan import PassReport, Scanner
from daskmeans.steps import Surveyed

FORMAT = 2
SUFFIX = ".checkpoint"

# One to go on from, and one in case that the disk damages it.
N_KEPT = 2

# Short passes are not each worth a file: one in so many seconds, and the last one when the run is interrupted.
INTERVAL_S = 1.0

_NAME = re.compile(r"pass-(\d+)\.([0-9a-f]{64})\.npz")

Identity = Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A run on its way.

    Attributes
    ----------
    state : of the iteration.
    identity : what was computed from what, as plain data; another run must not go on from here.
    rows : digest of what the survey found: other rows have another one.
    history : the passes so far.
    n_bytes : bytes read so far.
    peak_rss_bytes : the most memory that any process has held so far.
    """

    state: State
    identity: Identity
    rows: str
    history: Sequence[PassReport]
    n_bytes: int
    peak_rss_bytes: int

    def pack(self) -> bytes:
        """Return the content of the file."""
        arrays: dict[str, Any] = {}
        models = []
        for m, model in enumerate(self.state.models):
            values = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
            arrays |= {f"{m}.{name}": value for name, value in values.items() if isinstance(value, np.ndarray)}
            models.append({name: _plain(x) for name, x in values.items() if not isinstance(x, np.ndarray)})
        told = {
            "format": FORMAT,
            "identity": self.identity,
            "rows": self.rows,
            "n_passes": self.state.n_passes,
            "models": models,
            "history": [asdict(report) for report in self.history],
            "n_bytes": self.n_bytes,
            "peak_rss_bytes": self.peak_rss_bytes,
        }
        arrays["told"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def unpack(cls, content: bytes) -> Checkpoint:
        """Return the checkpoint that a file holds."""
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        told = json.loads(arrays.pop("told").tobytes())
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']}, expected {FORMAT}")
        models = []
        for m, values in enumerate(told["models"]):
            own = {name.partition(".")[2]: x for name, x in arrays.items() if name.partition(".")[0] == str(m)}
            models.append(Model(**values, **own))
        history = [PassReport(**report) for report in told["history"]]
        state = State(models, told["n_passes"])
        return cls(state, told["identity"], told["rows"], history, told["n_bytes"], told["peak_rss_bytes"])


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass
class Journal:
    """Saves the state of a run in a folder of its own beside the results, and tells where to go on.

    Attributes
    ----------
    folder : where the checkpoints are.
    identity : of this run.
    begun : the checkpoint to go on from, if any.
    """

    folder: Path
    identity: Identity
    begun: Checkpoint | None
    scanner: Scanner
    _rows: str = ""
    _pending: Checkpoint | None = None
    _saved_at: float = -np.inf

    def __post_init__(self) -> None:
        """Give the scanner the past of the run."""
        if self.begun is not None:
            self.scanner.history.extend(self.begun.history)
            self.scanner.n_bytes += self.begun.n_bytes
            self.scanner.peak_rss_bytes = max(self.scanner.peak_rss_bytes, self.begun.peak_rss_bytes)

    @property
    def saved(self) -> State | None:
        """Where to go on; None to begin."""
        return None if self.begun is None else self.begun.state

    def surveyed(self, found: Surveyed) -> None:
        """Raise DataError if the rows are not those that the run began with."""
        self._rows = digest(found)
        if self.begun is not None and self._rows != self.begun.rows:
            raise DataError(
                f"{self.folder}: the values of the input have changed since this run was interrupted; bring the old "
                "ones back, or begin anew with --no-resume"
            )

    def save(self, state: State) -> None:
        """Take note of the state after a pass; what happens to it later changes nothing."""
        models = [dataclasses.replace(model) for model in state.models]
        scanner = self.scanner
        self._pending = Checkpoint(
            State(models, state.n_passes),
            self.identity,
            self._rows,
            tuple(scanner.history),
            scanner.n_bytes,
            scanner.peak_rss_bytes,
        )
        if time.monotonic() - self._saved_at >= INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet. A disk that is full stops no run: earlier checkpoints stay as they are."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            write(self.folder, pending)
        except OSError as error:
            warnings.warn(f"{self.folder}: the checkpoint cannot be written: {error}", stacklevel=2)
        self._saved_at = time.monotonic()


def digest(found: Surveyed) -> str:
    """Return a digest of the rows, from what the survey found: bits of their moments, and how many there are."""
    sha = hashlib.sha256(repr((found.n_rows, found.n_dropped, found.n_eligible)).encode())
    for moments in (found.moments, found.weighted):
        for part in moments:
            sha.update(np.asarray(part, np.float64).tobytes())
    return sha.hexdigest()


def folder_of(output: Path) -> Path:
    """Return where the checkpoints of the run with these results are."""
    return output.with_name(output.name + SUFFIX)


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all, and remove all but the last ones.

    Raises
    ------
    OSError
        It cannot be written; earlier ones are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = checkpoint.pack()
    name = f"pass-{checkpoint.state.n_passes:06d}.{hashlib.sha256(content).hexdigest()}.npz"
    partial = folder / f".{os.getpid()}.partial"
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(folder / name)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    for old in list(_found(folder))[N_KEPT:]:
        old.unlink(missing_ok=True)
    for left in folder.glob(".*.partial"):
        left.unlink(missing_ok=True)


def read_last(folder: Path) -> Checkpoint | None:
    """Return the last checkpoint that is whole, or None; warns of those that are damaged."""
    for path in _found(folder):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            warnings.warn(f"{path} is damaged and left out: {error}", stacklevel=2)
    return None


def last_pass(folder: Path) -> int | None:
    """Return after which pass of the iteration the last checkpoint was written."""
    return next((int(path.name[5:].partition(".")[0]) for path in _found(folder)), None)


def _found(folder: Path) -> Iterator[Path]:
    """Yield the files of checkpoints, the last pass first."""
    if folder.is_dir():
        yield from sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _read(path: Path) -> Checkpoint:
    """Return the checkpoint in a file; raises ValueError and others where it is damaged."""
    content = path.read_bytes()
    match = _NAME.fullmatch(path.name)
    if match is None or hashlib.sha256(content).hexdigest() != match[2]:
        raise ValueError("its content is not what was written")
    return Checkpoint.unpack(content)


def remove_folder(folder: Path) -> None:
    """Remove the folder with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)


def check_same(folder: Path, then: Identity, now: Identity) -> None:
    """Raise ConfigError, and say what has changed, if a run would go on from another one's checkpoint."""
    changes = list(_changes(then, now))
    if changes:
        raise ConfigError(
            f"{folder} holds the checkpoint of a run that was another: {'; '.join(changes)}. Change that back to go "
            "on with it, begin anew with --no-resume, or choose another output.path"
        )


def _changes(then: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield what differs between two trees of plain data."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in [*then, *(key for key in now if key not in then)]:
            yield from _changes(then.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif then != now:
        yield f"{path} was {_shown(then)}, is {_shown(now)}"


def _shown(value: Any) -> str:
    """Return a value, cut short."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def identity_of(config: Mapping[str, Any], data: Mapping[str, Any]) -> Identity:
    """Return what makes a run the same as another, as plain data that JSON leaves as it is.

    Parameters
    ----------
    config : the sections of the configuration that steer the result.
    data : what the input is: its shape, dtype, blocks.
    """
    identity: Identity = json.loads(json.dumps({"daskmeans": __version__, **config, "data": data}))
    return identity

"""Begins a run, or goes on with one that was interrupted: finds its checkpoint, keeps its journal, cleans up behind it.

Must not know what is computed.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from daskmeans.errors import ConfigError
from daskmeans.job import checkpoint
from daskmeans.job.checkpoint import Checkpoint, Identity, Journal
from daskmeans.job.clustertypes import JOBQUEUE
from daskmeans.job.config import ClusterConfig, JobConfig
from daskmeans.job.interrupts import Interrupted
from daskmeans.job.joblog import LOG
from daskmeans.nodes import local_path
from daskmeans.scan import Scanner
from daskmeans.stores import OpenedStore

# Sections that say where to compute and to write, not what.
_NOT_IDENTITY = {"cluster", "output"}


@dataclass(frozen=True)
class Run:
    """A run that begins, or goes on.

    Attributes
    ----------
    folder : of checkpoints and log.
    begun : where to go on, if anywhere.
    """

    folder: Path
    begun: Checkpoint | None

    @property
    def log(self) -> Path:
        """Where the log is written while the run lasts."""
        return self.folder / LOG

    def resolved(self, config: JobConfig) -> JobConfig:
        """Return the configuration with the budget that the run began with, where none is given."""
        if self.begun is None or config.model.memory_budget is not None:
            return config
        budget = self.begun.identity["model"]["memory_budget"]
        return config.model_copy(update={"model": config.model.model_copy(update={"memory_budget": budget})})

    def with_logs(self, cluster: ClusterConfig) -> ClusterConfig:
        """Return the cluster with a place for what the jobs of its workers print, where none is given."""
        if cluster.type not in JOBQUEUE or "log_directory" in cluster.options:
            return cluster
        return cluster.model_copy(update={"options": {**cluster.options, "log_directory": str(self.folder)}})

    def check(self, identity: Identity) -> None:
        """Raise ConfigError, and say what has changed, if this is not the run that was begun."""
        if self.begun is not None:
            checkpoint.check_same(self.folder, self.begun.identity, identity)

    @contextmanager
    def journal(self, identity: Identity, scanner: Scanner) -> Iterator[Journal]:
        """Keep a journal of the passes, of which the last is not lost when the run ends early."""
        journal = Journal(self.folder, identity, self.begun, scanner)
        try:
            yield journal
        finally:
            journal.flush()

    def clean_up(self) -> None:
        """Remove the folder, as the results are there."""
        checkpoint.remove_folder(self.folder)


@contextmanager
def going_on(output: Path, resume: bool | None) -> Iterator[Run]:
    """Find out where to go on with the run whose results are to be in `output`, while its lock is held.

    Parameters
    ----------
    output : folder of the results.
    resume : whether to go on from a checkpoint; None: if there is one.

    Raises
    ------
    ConfigError
        There is no checkpoint, and there must be one.
    Interrupted
        In place of KeyboardInterrupt.
    """
    folder = checkpoint.folder_of(output)
    if resume is False:
        checkpoint.remove_folder(folder)
    begun = checkpoint.read_last(folder)
    if resume and begun is None:
        raise ConfigError(f"--resume: there is no checkpoint in {folder} to go on from; run without --resume")
    try:
        yield Run(folder, begun)
    except KeyboardInterrupt:
        raise Interrupted(_what_is_left(folder)) from None
    finally:
        _remove_without_checkpoint(folder)


def _what_is_left(folder: Path) -> str:
    """Say of a run that was interrupted how to go on."""
    nothing = "interrupted; no results were written"
    n_passes = checkpoint.last_pass(folder)
    if n_passes is None:
        return nothing
    return f"{nothing}; to go on after pass {n_passes} of the iteration, run the same command again ({folder})"


def _remove_without_checkpoint(folder: Path) -> None:
    """Remove a folder from which nothing can go on: a log alone. What jobs have printed stays, to be looked at."""
    if folder.is_dir() and all(place.name == LOG for place in folder.iterdir()):
        checkpoint.remove_folder(folder)


def identity_of(config: JobConfig, opened: OpenedStore) -> Identity:
    """Return what makes a run the same as another: the configuration, but for places, and what the input is."""
    grid = opened.samples.grid
    labels = hashlib.sha256()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, values in sorted(opened.coords.items()):
            labels.update(repr((name, values.dims, values.dtype.str)).encode())
            labels.update(values.values.tobytes() if values.dtype != object else repr(values.values.tolist()).encode())
    sections = config.model_dump(mode="json", exclude=_NOT_IDENTITY)
    del sections["input"]["missing_chunks"]
    store = sections["input"]["store"]
    sections["input"]["store"] = store if "://" in store else os.path.realpath(local_path(store))
    data = {
        "shape": list(grid.shape),
        "dtype": str(opened.samples.dtype),
        "features": list(opened.feature_names),
        "n_blocks": grid.n_blocks,
        "blocks": hashlib.sha256(repr(grid.bounds).encode()).hexdigest()[:16],
        "coordinates": labels.hexdigest()[:16],
    }
    return checkpoint.identity_of(sections, data)

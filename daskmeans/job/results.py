"""What a job leaves behind: result.zarr, with labels that workers write, summary.json, config.yaml.

Must not start computations: what it writes, others have computed.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from daskmeans.errors import ConfigError, DataError
from daskmeans.job.places import UNFINISHED, Place
from daskmeans.job.staging import Stage
from daskmeans.labelled import rank_rows
from daskmeans.nodes import Location, lazy_array
from daskmeans.retry import patiently
from daskmeans.samples import Block

# Damage to a chunk shows when it is read.
CHECKED = (ZstdCodec(level=0, checksum=True),)

RESULT, SUMMARY, CONFIG = "result.zarr", "summary.json", "config.yaml"
LABELS, DISTANCES, RUNNER_UP, MARGIN = "labels", "distances", "runner_up", "margin"

# What may be written for each sample: dtype, and what stands where a sample was dropped.
PER_SAMPLE: dict[str, tuple[type[np.generic], Any]] = {
    LABELS: (np.int32, -1),
    DISTANCES: (np.float32, np.nan),
    RUNNER_UP: (np.int32, -1),
    MARGIN: (np.float32, np.nan),
}

# Names that coordinates of the input must not take from the results.
NAMES = {*PER_SAMPLE, "centers", "counts", "sizes", "inertia_per_cluster", "cluster", "feature"}

# Dimensions of the arrays of a fitted model.
MODEL_DIMS = {"cluster", "feature", "component"}

Region = tuple[slice, ...]
Counted = npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class LabelGrid:
    """Where labels go: the sample grid of the input.

    Attributes
    ----------
    dims : names of the sample dimensions.
    shape : their lengths.
    chunks : length of the chunks of the labels along each.
    coords : the input's coordinates on these dimensions.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    coords: Mapping[Hashable, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelSink:
    """Writes the labels of a block into a Zarr array that exists. Picklable; used by the workers.

    Attributes
    ----------
    group : the Zarr group.
    lock : held while writing where two blocks may share a chunk; else a context that does nothing.
    counts : whether the rows of each cluster are counted.
    """

    group: Location
    lock: AbstractContextManager[Any]
    counts: bool

    def put(self, region: Region, labels: npt.NDArray[np.int32]) -> Counted:
        """Write `labels`, in the shape of `region`, and return how many rows each cluster has."""
        self.write(region, {LABELS: labels})
        return self.count(labels[labels >= 0])

    def count(self, labels: npt.NDArray[np.int32]) -> Counted:
        """Return how many rows each cluster has, up to the last that has any; None if nobody asks."""
        return np.bincount(labels) if self.counts else None

    def write(self, region: Region, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write arrays, each in the shape of `region`; try again where that fails in passing."""
        try:
            with self.lock:
                for name, part in values.items():
                    patiently(functools.partial(_write_part, self.group, name, region, part), "writing labels")
        # Packages for remote stores raise what they like.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{self.group.path}: the labels cannot be written: {reason}") from error


def _write_part(group: Location, name: str, region: Region, part: npt.NDArray[Any]) -> None:
    array_of(group, name)[region] = part


@dataclass(frozen=True)
class RankSink(LabelSink):
    """Writes beside the labels how clearly each sample belongs to its cluster.

    Attributes
    ----------
    more : names of the further arrays.
    """

    more: tuple[str, ...]

    def put_rows(self, block: Block, labels: npt.NDArray[np.int32], centers: npt.NDArray[np.float64]) -> Counted:
        """Rank the rows of a block, write what is asked for, and return how many rows each cluster has."""
        ranked = rank_rows(block.X, labels, centers)
        rows = {LABELS: labels, DISTANCES: ranked.distance, RUNNER_UP: ranked.runner_up, MARGIN: ranked.margin}
        names = (LABELS, *self.more)
        self.write(block.region, {name: block.on_grid(rows[name], PER_SAMPLE[name][1]) for name in names})
        return self.count(labels)


@lru_cache(maxsize=16)
def array_of(group: Location, name: str) -> Any:
    """Open an array for writing, once in a process."""
    options = None if group.storage_options is None else dict(group.storage_options)
    return zarr.open_array(f"{group.path}/{name}", mode="r+", storage_options=options)


def create_labels(
    stage: Stage, group: str, grid: LabelGrid, *, aligned: bool, more: Sequence[str] = (), counts: bool = False
) -> LabelSink:
    """Create the labels in a new Zarr group, all -1, and return what fills them.

    Parameters
    ----------
    stage : where the results are made.
    group : name of the group in it; empty where the results are the group.
    grid : dimensions, coordinates and chunks.
    aligned : whether no two of the blocks that will be written share a chunk.
    more : what else is written for each sample; names of `PER_SAMPLE`.
    counts : whether the rows of each cluster are counted.
    """
    import dask.array as da

    chunks = tuple(max(1, min(c, n)) for c, n in zip(grid.chunks, grid.shape, strict=True))
    # One Dask chunk: nothing of it is computed, and a graph of one task costs nothing.
    kinds = {name: PER_SAMPLE[name] for name in (LABELS, *more)}
    empty = {
        name: (grid.dims, da.full(grid.shape, fill, dtype=dtype, chunks=-1)) for name, (dtype, fill) in kinds.items()
    }
    encoding = {
        name: {"chunks": chunks, "compressors": CHECKED, "_FillValue" if fill != fill else "fill_value": fill}
        for name, (_, fill) in kinds.items()
    }
    coords = {name: _text_of_any_length(values) for name, values in grid.coords.items()}
    dataset = xr.Dataset(empty, coords=coords).drop_encoding()
    _write(dataset, stage.folder / group, compute=False, encoding=encoding)
    stage.show([str(PurePosixPath(group, name, "zarr.json")) for name in kinds])
    lock = nullcontext() if aligned else _shared_lock()
    written_at = stage.written_at(group)
    return RankSink(written_at, lock, counts, tuple(more)) if more else LabelSink(written_at, lock, counts)


def _text_of_any_length(values: xr.DataArray) -> xr.DataArray:
    """Return a coordinate as it is, text as what Zarr v3 specifies: it does not know text of a fixed length."""
    return values.astype(object) if values.dtype.kind == "U" else values


def sizes_of(counted: Sequence[Counted] | None, n_clusters: int) -> npt.NDArray[np.int64] | None:
    """Return how many rows each cluster has, given what a sink has returned for each block; None where unknown."""
    if not counted or any(part is None for part in counted):
        return None
    sizes = np.zeros(n_clusters, dtype=np.int64)
    for part in counted:
        assert part is not None
        sizes[: len(part)] += part
    return sizes


def _shared_lock() -> AbstractContextManager[Any]:
    """Return a lock that holds where labels are written: in threads, or in other processes."""
    from dask.utils import SerializableLock
    from distributed import Lock

    from daskmeans.workers import current_client

    lock: AbstractContextManager[Any] = SerializableLock() if current_client() is None else Lock()
    return lock


def check_label_names(grid: LabelGrid) -> None:
    """Raise ConfigError if names of the input are those of the results."""
    clash = (MODEL_DIMS | {*PER_SAMPLE}).intersection(grid.dims)
    if clash:
        raise ConfigError(
            f"input.sample_dims: {sorted(clash)[0]!r} is a name that the results have for something else; rename it in "
            "the store"
        )


def write_clusters(group: Path, clusters: xr.Dataset) -> None:
    """Write centers and the like into the group, the last that it needs."""
    _write(clusters, group)
    consolidate(group)


def consolidate(group: Path) -> None:
    """Gather the metadata of a group that is whole, so that it opens fast."""
    with _quiet_zarr():
        zarr.consolidate_metadata(str(group))


def _write(dataset: xr.Dataset, group: Path, **options: Any) -> None:
    """Write into a Zarr v3 group."""
    try:
        with _quiet_zarr():
            dataset.to_zarr(group, mode="a", zarr_format=3, consolidated=False, **options)
    except OSError as error:
        raise DataError(f"{group}: the results cannot be written: {error}") from error


@contextmanager
def _quiet_zarr() -> Iterator[None]:
    """Silence zarr on text and on consolidated metadata, which Zarr v3 does not specify yet."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=zarr.errors.UnstableSpecificationWarning)
        warnings.filterwarnings("ignore", category=zarr.errors.ZarrUserWarning)
        yield


def clusters_dataset(
    centers: npt.NDArray[np.float64],
    per_cluster: Mapping[str, npt.NDArray[np.float64]],
    scaled: Mapping[str, npt.NDArray[np.float64]],
    feature_names: Sequence[str],
) -> xr.Dataset:
    """Return the arrays of a fitted model.

    Parameters
    ----------
    centers : (n_clusters, n_features), in the input's units.
    per_cluster : arrays (n_clusters,) by name.
    scaled : what predicting on scaled features needs, by name: centers (n_clusters, n_features) and
        vectors (n_features,); empty where nothing was scaled.
    feature_names : one for each feature.
    """
    dims = {1: ("feature",), 2: ("cluster", "feature")}
    arrays: dict[str, Any] = {"centers": (("cluster", "feature"), centers)}
    arrays |= {name: (("cluster",), values) for name, values in per_cluster.items()}
    arrays |= {name: (dims[values.ndim], values) for name, values in scaled.items()}
    names = np.asarray(feature_names, dtype=object)
    return xr.Dataset(arrays, coords={"feature": ("feature", names)})


def write_summary(folder: Path, summary: Mapping[str, Any], config_text: str) -> None:
    """Write summary.json and config.yaml."""
    (folder / CONFIG).write_text(config_text, encoding="utf-8")
    text = json.dumps(summary, indent=2)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")


def open_stage(stage: Stage) -> xr.Dataset:
    """Open the results in the making without reading; what workers have written, from where they wrote it."""
    result: xr.Dataset = xr.open_zarr(stage.folder / RESULT, chunks=None)
    if not stage.place.is_remote:
        return result
    group = stage.written_at(RESULT)
    written = {name: lazy_array(array_of(group, name), result[name].dims) for name in PER_SAMPLE if name in result}
    return result.assign(written)


def open_results(path: str | Path, storage_options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Open what `daskmeans run` has left: ``labels``, ``centers`` and all else that is in its ``result.zarr``.

    Parameters
    ----------
    path : the run's ``output.path``: a folder, or a URL.
    storage_options : passed to fsspec, for URLs.

    Returns
    -------
    xarray.Dataset
        Lazy, in the chunks that are stored.

    Raises
    ------
    ConfigError
        There are no results, or they are damaged.
    """
    return _opened(Place.of(path, storage_options), chunks={})


def _opened(place: Place, **options: Any) -> xr.Dataset:
    """Open the results at `place`, if they are whole."""
    if not is_finished(place):
        raise ConfigError(f"RESULT: {place.name} holds no results of a finished run (no {SUMMARY} in it)")
    group = place.location(RESULT, "")
    try:
        found: xr.Dataset = xr.open_zarr(group.path, storage_options=group.storage_options, **options)
    except Exception as error:
        raise ConfigError(f"RESULT: {group.path} cannot be read: {error}") from error
    return found


def open_clusters(place: Place) -> xr.Dataset:
    """Return the arrays of a fitted model, read from the results at `place`, without labels.

    Raises
    ------
    ConfigError
        There are no results, or they are damaged.
    """
    clusters = _opened(place, drop_variables=list(PER_SAMPLE), chunks=None)
    # Coordinates of the labels are none of the model's.
    own = [name for name, variable in clusters.variables.items() if variable.ndim and {*variable.dims} <= MODEL_DIMS]
    try:
        return clusters[own].load()
    except Exception as error:
        raise ConfigError(f"RESULT: {place.at(RESULT)} cannot be read: {error}") from error


def is_finished(place: Place) -> bool:
    """Return whether there are results of a run that has come to its end."""
    return place.has(SUMMARY) and not (place.is_remote and place.has(UNFINISHED))

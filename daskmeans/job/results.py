"""What a job leaves behind: result.zarr, with labels that workers write, summary.json, config.yaml.

Must not start computations: what it writes, others have computed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from daskmeans.errors import ConfigError, DataError
from daskmeans.labelled import rank_rows
from daskmeans.samples import Block

RESULT, SUMMARY, CONFIG = "result.zarr", "summary.json", "config.yaml"
LABELS, DISTANCES, RUNNER_UP, MARGIN = "labels", "distances", "runner_up", "margin"

# What may be written for each sample: dtype, and what stands where a sample was dropped.
PER_SAMPLE: dict[str, tuple[type[np.generic], Any]] = {
    LABELS: (np.int32, -1),
    DISTANCES: (np.float32, np.nan),
    RUNNER_UP: (np.int32, -1),
    MARGIN: (np.float32, np.nan),
}

Region = tuple[slice, ...]


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
    group : path of the Zarr group.
    lock : held while writing where two blocks may share a chunk; else a context that does nothing.
    """

    group: str
    lock: AbstractContextManager[Any]

    def put(self, region: Region, labels: npt.NDArray[np.int32]) -> None:
        """Write `labels`, in the shape of `region`."""
        self.write(region, {LABELS: labels})

    def write(self, region: Region, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write arrays, each in the shape of `region`."""
        try:
            with self.lock:
                for name, part in values.items():
                    _array_of(self.group, name)[region] = part
        except OSError as error:
            raise DataError(f"{self.group}: the labels cannot be written: {error}") from error


@dataclass(frozen=True)
class RankSink(LabelSink):
    """Writes beside the labels how clearly each sample belongs to its cluster.

    Attributes
    ----------
    more : names of the further arrays.
    """

    more: tuple[str, ...]

    def put_rows(self, block: Block, labels: npt.NDArray[np.int32], centers: npt.NDArray[np.float64]) -> None:
        """Rank the rows of a block, and write what is asked for."""
        ranked = rank_rows(block.X, labels, centers)
        rows = {LABELS: labels, DISTANCES: ranked.distance, RUNNER_UP: ranked.runner_up, MARGIN: ranked.margin}
        names = (LABELS, *self.more)
        self.write(block.region, {name: block.on_grid(rows[name], PER_SAMPLE[name][1]) for name in names})


@lru_cache(maxsize=16)
def _array_of(group: str, name: str) -> Any:
    """Open an array for writing, once in a process."""
    return zarr.open_array(f"{group}/{name}", mode="r+")


def create_labels(group: Path, grid: LabelGrid, *, aligned: bool, more: Sequence[str] = ()) -> LabelSink:
    """Create the labels in a new Zarr group, all -1, and return what fills them.

    Parameters
    ----------
    group : path of the group.
    grid : dimensions, coordinates and chunks.
    aligned : whether no two of the blocks that will be written share a chunk.
    more : what else is written for each sample; names of `PER_SAMPLE`.
    """
    import dask.array as da

    chunks = tuple(max(1, min(c, n)) for c, n in zip(grid.chunks, grid.shape, strict=True))
    # One Dask chunk: nothing of it is computed, and a graph of one task costs nothing.
    kinds = {name: PER_SAMPLE[name] for name in (LABELS, *more)}
    empty = {
        name: (grid.dims, da.full(grid.shape, fill, dtype=dtype, chunks=-1)) for name, (dtype, fill) in kinds.items()
    }
    encoding = {
        name: {"chunks": chunks, "_FillValue" if fill != fill else "fill_value": fill}
        for name, (_, fill) in kinds.items()
    }
    _write(xr.Dataset(empty, coords=grid.coords).drop_encoding(), group, compute=False, encoding=encoding)
    lock = nullcontext() if aligned else _shared_lock()
    return RankSink(str(group), lock, tuple(more)) if more else LabelSink(str(group), lock)


def _shared_lock() -> AbstractContextManager[Any]:
    """Return a lock that holds where labels are written: in threads, or in other processes."""
    from dask.utils import SerializableLock
    from distributed import Lock

    from daskmeans.scan import current_client

    lock: AbstractContextManager[Any] = SerializableLock() if current_client() is None else Lock()
    return lock


def check_label_names(grid: LabelGrid) -> None:
    """Raise ConfigError if names of the input are those of the results."""
    clash = {"cluster", "feature"}.intersection(grid.dims)
    if clash:
        raise ConfigError(
            f"input.sample_dims: {sorted(clash)[0]!r} is the name of a dimension of the results; rename it in the store"
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


def open_clusters(folder: Path) -> xr.Dataset:
    """Return the arrays of a fitted model, read from the results in `folder`, without labels.

    Raises
    ------
    ConfigError
        There are no results in `folder`, or they are damaged.
    """
    if not (folder / SUMMARY).is_file():
        raise ConfigError(f"RESULT: {folder} holds no results of a finished run (no {SUMMARY} in it)")
    try:
        clusters: xr.Dataset = xr.open_zarr(folder / RESULT, drop_variables=list(PER_SAMPLE), chunks=None)
        return clusters.load()
    except Exception as error:
        raise ConfigError(f"RESULT: {folder / RESULT} cannot be read: {error}") from error

"""Results in the words of the data: lazy labels on the sample dimensions, centers over the feature dimensions.

Must not know how centers are found.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from daskmeans import kernels
from daskmeans.errors import DataError
from daskmeans.jit import Float64s, read_only
from daskmeans.kernels import Stack
from daskmeans.moments import count_non_finite
from daskmeans.samples import Block, Loader
from daskmeans.stores import OpenedStore, open_samples

OfBlock = Callable[[Block], npt.NDArray[Any]]

WEIGHT = "sample_weight"


def open_labelled(
    X: Any, sample_dims: Sequence[str] | None, feature_dims: Sequence[str] | None, sample_weight: Any
) -> OpenedStore | None:
    """Return data with named dimensions as an opened store; None for any other kind of `X`.

    Parameters
    ----------
    X : what `open_samples` returned, or an `xarray.DataArray` or `Dataset`.
    sample_dims : dimensions whose cells are the samples of an xarray object.
    feature_dims : dimensions of its features; None for all others.
    sample_weight : for an xarray object: a DataArray over some or all sample dimensions, the name of a variable,
        or ``"cos_latitude"``; None for 1.

    Raises
    ------
    DataError : weights were given that have no place in the dimensions of `X`.
    """
    if isinstance(X, OpenedStore):
        if sample_weight is not None:
            raise DataError("X was opened already: give its weights to open_samples instead of sample_weight.")
        return X
    if isinstance(X, xr.DataArray):
        X = X.to_dataset(name="values" if X.name is None else str(X.name))
    if not isinstance(X, xr.Dataset):
        return None
    names = tuple(str(name) for name in X.data_vars if not (isinstance(sample_weight, str) and name == sample_weight))
    if isinstance(sample_weight, xr.DataArray):
        X, sample_weight = X.assign({WEIGHT: sample_weight}), WEIGHT
    elif sample_weight is not None and not isinstance(sample_weight, str):
        raise DataError(
            "sample_weight of an xarray object must be a DataArray over its sample dimensions, the name of a variable, "
            "or 'cos_latitude'."
        )
    if feature_dims is None and sample_dims is not None:
        known = dict.fromkeys(str(dim) for name in names for dim in X[name].dims)
        feature_dims = [dim for dim in known if dim not in sample_dims]
    return open_samples(X, variables=names, sample_dims=sample_dims, feature_dims=feature_dims, weights=sample_weight)


def matrix_of(X: Any) -> Any:
    """Return the array of a DataArray, lazy if it is, and what has no named dimensions as it is; refuse all else."""
    if isinstance(X, (xr.Dataset, OpenedStore)):
        raise DataError(
            "Transformers take matrices, (n_samples, n_features). Data with named dimensions is scaled and projected"
            " by jobs: preprocess: {scale: standard, pca: 20}."
        )
    return X.data if isinstance(X, xr.DataArray) else X


def centers_dataset(opened: OpenedStore, centers: npt.NDArray[Any]) -> xr.Dataset:
    """Return centers, (n_clusters, n_features), as the variables of the data, over ``cluster`` and feature dims."""
    return opened.unstack(centers).assign_coords(cluster=np.arange(len(centers)))


def label_samples(opened: OpenedStore, centers: Float64s) -> xr.DataArray:
    """Return the nearest center of each sample, int32, -1 where it was dropped; lazy, unless the data is in memory.

    Parameters
    ----------
    centers : (n_clusters, n_features).
    """
    nearest = functools.partial(_nearest, centers=centers)
    return _on_grid(opened, nearest, np.dtype(np.int32), (), "labels")


def labels_on_grid(opened: OpenedStore, blocks: Sequence[Block], labels: npt.NDArray[np.int32]) -> xr.DataArray:
    """Return the labels, (n_rows,), of the rows of all blocks on the sample dimensions, -1 where one was dropped."""
    values = np.empty(opened.samples.grid.shape, np.int32)
    ends = np.cumsum([block.n_rows for block in blocks])
    for block, part in zip(blocks, np.split(labels, ends[:-1]), strict=True):
        values[block.region] = block.on_grid(part, -1)
    return xr.DataArray(values, dims=opened.sample_dims, coords=opened.coords, name="labels")


def measure_samples(opened: OpenedStore, centers: npt.NDArray[Any]) -> xr.DataArray:
    """Return the distances to all centers along a last dimension ``cluster``; lazy, NaN where a sample was dropped."""
    measure = functools.partial(_distances, centers=centers)
    return _on_grid(opened, measure, opened.samples.dtype, (len(centers),), "distances")


class Ranked(NamedTuple):
    """How clearly rows belong to their clusters.

    Attributes
    ----------
    distance : (n_rows,) float32, to the own center.
    runner_up : (n_rows,) int32, the second nearest center; -1 where there is one center only.
    margin : (n_rows,) float32, by how much the distance to the second nearest center exceeds that to the own; NaN
        where there is none.
    """

    distance: npt.NDArray[np.float32]
    runner_up: npt.NDArray[np.int32]
    margin: npt.NDArray[np.float32]


# Rows times centers that are in memory at once while rows are ranked.
RANKED_AT_ONCE = 2**20


def rank_rows(X: npt.NDArray[Any], labels: npt.NDArray[np.int32], centers: Float64s) -> Ranked:
    """Return how clearly rows, (n_rows, n_features), belong to the clusters of their labels, (n_rows,)."""
    n_rows, n_clusters = len(X), len(centers)
    ranked = Ranked(np.empty(n_rows, np.float32), np.full(n_rows, -1, np.int32), np.full(n_rows, np.nan, np.float32))
    step = max(1, RANKED_AT_ONCE // max(centers.shape))
    offset = centers.mean(axis=0)
    shifted = centers - offset
    sq_norms = (shifted**2).sum(axis=1)
    for begin in range(0, n_rows, step):
        part = slice(begin, begin + step)
        rows, own = X[part].astype(np.float64), labels[part]
        distance = np.linalg.norm(rows - centers[own], axis=1)
        ranked.distance[part] = distance
        if n_clusters == 1:
            continue
        scores = sq_norms - 2 * (rows - offset) @ shifted.T
        scores[np.arange(len(rows)), own] = np.inf
        second = scores.argmin(axis=1)
        ranked.runner_up[part] = second
        ranked.margin[part] = np.maximum(np.linalg.norm(rows - centers[second], axis=1) - distance, 0)
    return ranked


def _on_grid(
    opened: OpenedStore, function: OfBlock, dtype: np.dtype[Any], more: tuple[int, ...], name: str
) -> xr.DataArray:
    """Return what `function` makes of each block, on the sample dimensions and maybe ``cluster``."""
    chunks = [tuple(map(int, np.diff(bound))) for bound in opened.samples.grid.bounds]
    values: da.Array = da.map_blocks(
        functools.partial(_of_block, loader=opened.samples.loader, function=function),
        chunks=(*chunks, *((n,) for n in more)),
        dtype=dtype,
        meta=np.empty((0,) * (len(chunks) + len(more)), dtype=dtype),
        name=f"{name}-{uuid.uuid4().hex}",
    )
    if opened.labels_aligned:
        # Splits blocks into the chunks that the data is stored in; none is merged.
        values = values.rechunk(dict(enumerate(opened.label_chunks)))
    dims = (*opened.sample_dims, *("cluster" for _ in more))
    labelled: xr.DataArray = xr.DataArray(values, dims=dims, coords=opened.coords, name=name)
    return labelled.compute() if opened.is_in_memory else labelled


def _of_block(block_id: tuple[int, ...], *, loader: Loader, function: OfBlock) -> npt.NDArray[Any]:
    """Read the block at a place in the grid of blocks, and apply `function` to it."""
    grid = loader.grid
    place = block_id[: len(grid.shape)]
    block = loader.load(int(np.ravel_multi_index(place, grid.blocks_shape)))
    n_bad, first = count_non_finite(read_only(block.X))
    if n_bad:
        row = loader.source.describe_row(int(block.row_ids()[first]))
        raise DataError(
            f"Input X contains NaN or infinity in {n_bad:,} rows of a block, first in {row}. "
            "Every value must be finite; open it with missing='drop' to leave such samples out."
        )
    return function(loader.transformed(block))


def _nearest(block: Block, *, centers: Float64s) -> npt.NDArray[np.int32]:
    found = kernels.assign(block.X, None, Stack.of([centers]), centers.mean(axis=0), with_labels=True)
    return block.on_grid(found.labels[0], -1)


def _distances(block: Block, *, centers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    from sklearn.metrics.pairwise import euclidean_distances

    distances = euclidean_distances(block.X, centers) if block.n_rows else np.empty((0, len(centers)))
    columns = [block.on_grid(column.astype(block.X.dtype), np.nan) for column in distances.T]
    return np.stack(columns, axis=-1)

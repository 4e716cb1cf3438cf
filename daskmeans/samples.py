"""Samples: a row-blocked, weighted view of data that stays where it is.

A grid of samples (one dimension for a matrix; time, latitude, longitude for a map) is cut into blocks of whole
chunks. A block is flattened to rows inside the task that reads it, never before; its labels go back into its shape.
Must not know what is computed on the rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from daskmeans.errors import DataError, RowError
from daskmeans.memory import ROW_OVERHEAD_BYTES, Budget, plan_bounds

Rows = npt.NDArray[np.floating[Any]]
Region = tuple[slice, ...]
Missing = Literal["error", "drop"]


def row_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return the dtype that rows of `dtype` are clustered in: float32 is kept, all else becomes float64."""
    return np.dtype(np.float32 if np.dtype(dtype) == np.float32 else np.float64)


@dataclass(frozen=True)
class Grid:
    """The sample grid, cut into blocks at `bounds` along each of its dimensions.

    Blocks are numbered in C order. A row's id is the C-order index of its cell in the whole grid, whatever the blocks.
    """

    bounds: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each sample dimension."""
        return tuple(bound[-1] for bound in self.bounds)

    @property
    def n_cells(self) -> int:
        """Number of cells: of samples, unless some are dropped as missing."""
        return math.prod(self.shape)

    @cached_property
    def blocks_shape(self) -> tuple[int, ...]:
        """Number of blocks along each sample dimension."""
        return tuple(len(bound) - 1 for bound in self.bounds)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return math.prod(self.blocks_shape)

    @property
    def largest_block(self) -> int:
        """Cells of the largest block."""
        return math.prod(max(np.diff(bound), default=0) for bound in self.bounds)

    def region(self, index: int) -> Region:
        """Return the slices of block `index`, one for each sample dimension."""
        place = np.unravel_index(index, self.blocks_shape)
        return tuple(slice(bound[i], bound[i + 1]) for bound, i in zip(self.bounds, place, strict=True))


class Dropped(NamedTuple):
    """How many cells are no rows, by the first reason that holds."""

    masked: int = 0
    nan: int = 0
    infinite: int = 0
    weightless: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)

    def __str__(self) -> str:
        return ", ".join(f"{n:,} {reason}" for reason, n in self._asdict().items() if n)

    def plus(self, other: Dropped) -> Dropped:
        """Add up."""
        return Dropped(*(a + b for a, b in zip(self, other, strict=True)))


NONE_DROPPED = Dropped()


@dataclass(frozen=True)
class Block:
    """The rows of one block, in memory.

    Attributes
    ----------
    X : (n_rows, n_features) float32 or float64, C-contiguous. Read only: it may be the caller's own array.
    weight : (n_rows,) float64, or None where every row weighs 1.
    region : the block's slices in the sample grid.
    present : (n_cells,) bool, which cells of the region are rows; None where all are.
    dropped : why the others are not.
    """

    index: int
    region: Region
    grid: Grid
    X: Rows
    weight: npt.NDArray[np.float64] | None
    present: npt.NDArray[np.bool_] | None
    dropped: Dropped = NONE_DROPPED

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.X)

    def __sizeof__(self) -> int:
        """Return the bytes of the arrays: Dask moves nothing large without need, if it knows what is."""
        return sum(array.nbytes for array in (self.X, self.weight, self.present) if array is not None)

    def row_ids(self, rows: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
        """Return the ids of the rows, int64: of all, or of those at the places `rows` in `X`."""
        if rows is None:
            rows = np.arange(self.n_rows)
        cells = rows if self.present is None else np.flatnonzero(self.present)[rows]
        if len(self.region) == 1:
            return np.asarray(cells + self.region[0].start, dtype=np.int64)
        shape = [part.stop - part.start for part in self.region]
        places = np.unravel_index(cells, shape)
        corner = [part.start for part in self.region]
        ids = np.zeros(len(cells), dtype=np.int64)
        for place, begin, size in zip(places, corner, self.grid.shape, strict=True):
            ids = ids * size + (place + begin)
        return ids

    def mapped(self, apply: Callable[[Rows], Rows]) -> Block:
        """Return the block with what `apply` makes of its rows."""
        return replace(self, X=apply(self.X))

    def take(self, rows: npt.NDArray[np.int64], factor: npt.NDArray[np.float64] | None = None) -> Block:
        """Return the rows at these places, their weights times `factor`, (len(rows),), without their places."""
        weight = None if self.weight is None else self.weight[rows]
        if factor is not None:
            weight = factor if weight is None else factor * weight
        return Block(self.index, self.region, self.grid, self.X[rows], weight, None)

    def on_grid(self, values: npt.NDArray[Any], fill: Any) -> npt.NDArray[Any]:
        """Put one value a row back into the block's shape, `fill` where a cell was dropped."""
        if self.present is not None:
            cells = np.full(len(self.present), fill, dtype=values.dtype)
            cells[self.present] = values
            values = cells
        if len(self.region) == 1:
            return values
        return values.reshape([part.stop - part.start for part in self.region])


class Source(Protocol):
    """Where rows come from. Picklable; what it opens, it opens in the worker."""

    @property
    def n_features(self) -> int:
        """Number of features."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the rows: float32 or float64."""

    def read(
        self, region: Region, given: Sequence[npt.NDArray[Any]]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
        """Return the cells of `region` as (n_cells, n_features), and their weights or None.

        `given` are the block's own chunks where a Dask graph computes them.
        """

    def describe(self, region: Region) -> str:
        """Say where `region` lies, for an error message."""

    def describe_row(self, row_id: int) -> str:
        """Say where one row lies, for an error message."""


class Transform(Protocol):
    """A map of rows to rows, applied inside the task that reads them."""

    @property
    def n_features_out(self) -> int:
        """Number of features after the transform."""

    def apply(self, X: Rows) -> Rows:
        """Return the transformed rows in the dtype of `X`; `X` is left alone."""

    def inverse(self, centers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return `centers` in the units of the input."""


class Mask(Protocol):
    """Says which cells count. Picklable; what it opens, it opens in the worker."""

    def kept(self, region: Region) -> npt.NDArray[np.bool_]:
        """Return which cells of a region count, (n_cells,)."""

    def no_rows(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
        """Return what reading a region without a cell that counts would give, without reading it."""


@dataclass(frozen=True)
class Loader:
    """Reads one block: the part of `Samples` that travels to the workers."""

    source: Source
    grid: Grid
    missing: Missing
    transform: Transform | None = None
    mask: Mask | None = None

    def load(self, index: int, given: Sequence[npt.NDArray[Any]] = ()) -> Block:
        """Read block `index` and drop its masked and missing rows, before any transform."""
        region = self.grid.region(index)
        kept = None
        if self.mask is not None:
            kept = self.mask.kept(region)
            if not kept.any():
                X, weight = self.mask.no_rows()
                return Block(index, region, self.grid, X, weight, kept, Dropped(masked=len(kept)))
        cells, weight = self.source.read(region, given)
        X = np.ascontiguousarray(cells, dtype=self.source.dtype)
        present, dropped = self._present(X, weight, kept)
        if not dropped.total:
            return Block(index, region, self.grid, X, weight, None)
        weight = None if weight is None else weight[present]
        return Block(index, region, self.grid, X[present], weight, present, dropped)

    def _present(
        self, X: Rows, weight: npt.NDArray[np.float64] | None, kept: npt.NDArray[np.bool_] | None
    ) -> tuple[npt.NDArray[np.bool_], Dropped]:
        """Return which cells are rows, (n_cells,), and why the others are not."""
        present = np.ones(len(X), dtype=np.bool_) if kept is None else kept
        counts = [int(present.sum())]
        if self.missing == "drop":
            finite = np.isfinite(X).all(axis=1)
            nan = np.zeros(len(X), dtype=np.bool_)
            nan[~finite] = np.isnan(X[~finite]).any(axis=1)
            good = [~nan, finite, *([] if weight is None else [np.isfinite(weight)])]
            for part in good:
                present = present & part
                counts.append(int(present.sum()))
        return present, Dropped(*(a - b for a, b in itertools.pairwise([len(X), *counts])))

    def transformed(self, block: Block) -> Block:
        """Apply the transform, if there is one."""
        if self.transform is None:
            return block
        try:
            return block.mapped(self.transform.apply)
        except RowError as error:
            row_id = block.row_ids(np.array([error.row]))[0]
            raise DataError(f"{error.message} The first is {self.source.describe_row(int(row_id))}.") from None


@dataclass(frozen=True)
class Samples:
    """All samples: how to read each block, and the Dask collections that blocks come from, if any.

    Attributes
    ----------
    loader : reads a block.
    collections : Dask arrays of which block i needs the i-th row chunk (X, then weights); empty otherwise.
    n_samples : number of cells of the grid; None where the lengths of Dask's chunks are unknown.
    in_memory : whether the rows are in this process already, so that nothing is gained by keeping them.
    """

    loader: Loader
    collections: tuple[Any, ...] = ()
    n_samples: int | None = None
    in_memory: bool = False
    feature_names: tuple[str, ...] | None = field(default=None)

    @property
    def grid(self) -> Grid:
        """The sample grid."""
        return self.loader.grid

    @property
    def n_features(self) -> int:
        """Number of features, after the transform."""
        transform = self.loader.transform
        return self.loader.source.n_features if transform is None else transform.n_features_out

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the rows."""
        return self.loader.source.dtype

    @property
    def nbytes(self) -> int | None:
        """Bytes of all rows, decoded; None where the number of rows is unknown."""
        if self.n_samples is None:
            return None
        return self.n_samples * self.loader.source.n_features * self.dtype.itemsize

    @property
    def block_bytes(self) -> int:
        """Bytes of the rows of the largest block, decoded."""
        return int(self.grid.largest_block) * self.loader.source.n_features * self.dtype.itemsize

    def share(self, budget: Budget) -> Budget:
        """Return the budget as it is shared out beside the blocks of these samples."""
        return budget if self.in_memory else replace(budget, largest_block_bytes=self.block_bytes)

    def with_transform(self, transform: Transform | None) -> Samples:
        """Return the same samples, seen through `transform`; those of an array in memory are transformed at once."""
        if transform is None:
            return self
        loader = replace(self.loader, transform=transform)
        if self.in_memory and isinstance(loader.source, ArraySource):
            whole = replace(loader, grid=Grid(((0, len(loader.source.X)),)))
            block = whole.transformed(whole.load(0))
            return samples_from_array(block.X, block.weight)
        return Samples(loader, self.collections, self.n_samples, self.in_memory, self.feature_names)

    def in_larger_blocks(self, block_bytes: int) -> Samples:
        """Return the same samples, an array in memory in blocks of at least so many bytes."""
        source = self.loader.source
        if not (self.in_memory and isinstance(source, ArraySource)) or block_bytes <= IN_MEMORY_BLOCK_BYTES:
            return self
        return replace(samples_from_array(source.X, source.weight, block_bytes), feature_names=self.feature_names)

    def __repr__(self) -> str:
        n_samples = "unknown" if self.n_samples is None else f"{self.n_samples:,}"
        return (
            f"Samples(n_samples={n_samples}, n_features={self.n_features}, dtype={self.dtype}, "
            f"blocks={self.grid.n_blocks}, block_bytes={self.block_bytes:,})"
        )


@dataclass(frozen=True)
class ArraySource:
    """Rows of an array in this process: NumPy, or memory-mapped."""

    X: npt.NDArray[Any]
    weight: npt.NDArray[np.float64] | None

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.X.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the rows."""
        return row_dtype(self.X.dtype)

    def read(
        self,
        region: Region,
        given: Sequence[npt.NDArray[Any]],
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
        """Return a view of the rows."""
        (rows,) = region
        return self.X[rows], None if self.weight is None else self.weight[rows]

    def describe(self, region: Region) -> str:
        """Name the rows."""
        return f"rows {region[0].start} to {region[0].stop - 1}"

    def describe_row(self, row_id: int) -> str:
        """Name the row."""
        return f"row {row_id}"


# Blocks of arrays in memory: small enough to share work evenly, large enough that a task's cost does not show.
IN_MEMORY_BLOCK_BYTES = 8 * 2**20


def samples_from_array(
    X: npt.NDArray[Any], sample_weight: npt.NDArray[np.float64] | None, block_bytes: int = IN_MEMORY_BLOCK_BYTES
) -> Samples:
    """View a 2-D array in memory, (n_samples, n_features), as samples. No copy."""
    source = ArraySource(X, sample_weight)
    row_bytes = source.n_features * source.dtype.itemsize + ROW_OVERHEAD_BYTES
    bounds = plan_bounds((len(X),), (1,), row_bytes, block_bytes)
    return Samples(Loader(source, Grid(bounds), "error"), n_samples=len(X), in_memory=True)


@dataclass(frozen=True)
class ChunkSource:
    """Rows that arrive as the chunks of a Dask array, computed by its own graph."""

    n_features: int
    dtype: np.dtype[Any]
    known_lengths: bool

    def read(
        self,
        region: Region,
        given: Sequence[npt.NDArray[Any]],
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
        """Return the chunk and its weights."""
        X, *weights = given
        expected = (region[0].stop - region[0].start if self.known_lengths else len(X), self.n_features)
        if X.shape != expected:
            raise DataError(f"{self.describe(region)} of X were computed with shape {X.shape}; expected {expected}.")
        if isinstance(X, np.ma.MaskedArray):
            X = np.ma.filled(X.astype(self.dtype), np.nan)
        if not weights:
            return X, None
        weight = np.asarray(weights[0], dtype=np.float64)
        if len(weight) != len(X):
            raise DataError(f"{self.describe(region)} of X has {len(X)} rows but {len(weight)} weights.")
        return X, weight

    def describe(self, region: Region) -> str:
        """Name the chunk by its rows, where they are known."""
        if self.known_lengths:
            return f"rows {region[0].start} to {region[0].stop - 1}"
        return f"chunk {region[0].start // UNKNOWN_LENGTH}"

    def describe_row(self, row_id: int) -> str:
        """Name the row."""
        if self.known_lengths:
            return f"row {row_id}"
        chunk, row = divmod(row_id, UNKNOWN_LENGTH)
        return f"row {row} of chunk {chunk}"


# Chunks of unknown length are taken to be this long, so that their rows have distinct ids without a count.
UNKNOWN_LENGTH = 2**40


def samples_from_chunks(collections: Sequence[Any], *, dtype: np.dtype[Any]) -> Samples:
    """View a Dask array, (n_samples, n_features) in row chunks, as samples; optionally with one of weights.

    Parameters
    ----------
    collections : the Dask array of rows, features in one chunk, then, if there are any, the weights, (n_samples,)
        in the same row chunks.
    dtype : dtype of the rows.
    """
    X = collections[0]
    lengths: Iterable[float] = X.chunks[0]
    known = not any(math.isnan(length) for length in lengths)
    sizes = [int(n) for n in lengths] if known else [UNKNOWN_LENGTH] * len(X.chunks[0])
    bounds = tuple(int(n) for n in np.cumsum([0, *sizes]))
    source = ChunkSource(int(X.shape[1]), dtype, known)
    n_samples = bounds[-1] if known else None
    return Samples(Loader(source, Grid((bounds,)), "error"), tuple(collections), n_samples)

"""Rows out of variables on a grid: reads one region of the sample dimensions, flattens it there.

The only step between stored chunks and rows: variables and feature dimensions are stacked on the
last axis block by block, never globally. Must not know how blocks were planned.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import xarray as xr

from daskmeans.errors import DataError
from daskmeans.memory import Edges, chunk_edges
from daskmeans.retry import patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from daskmeans.handles import Handle
    from daskmeans.samples import Region

    Ranges = Mapping[str, slice | int]

T = TypeVar("T")


@dataclass(frozen=True)
class Field:
    """The columns of the rows that one variable fills.

    Attributes
    ----------
    dims : its feature dimensions, in the order in which they are flattened.
    shape : their lengths; `()` for a variable that is one feature.
    first : its first column.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    first: int

    @property
    def columns(self) -> slice:
        """Its columns."""
        return slice(self.first, self.first + math.prod(self.shape))


class Weight(Protocol):
    """Where weights come from."""

    def read(self, dataset: xr.Dataset, ranges: Ranges, sample_dims: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the weights of a region, (n_cells,)."""


@dataclass(frozen=True)
class NamedWeight:
    """A variable over some or all sample dimensions, or the cosine of it if it is in degrees."""

    name: str
    cosine: bool

    def __str__(self) -> str:
        return f"cosine of {self.name}" if self.cosine else self.name

    def read(self, dataset: xr.Dataset, ranges: Ranges, sample_dims: Sequence[str]) -> npt.NDArray[np.float64]:
        """Read the region's part; repeat it along the sample dimensions that it lacks."""
        part = read_variable(dataset.variables[self.name], ranges)
        values = part.values.astype(np.float64)
        if self.cosine:
            # Coordinates rounded beyond 90 degrees would weigh less than nothing.
            values = np.cos(np.deg2rad(values)).clip(min=0)
        shape = [length(ranges[dim]) for dim in sample_dims]
        axes = [dim for dim in sample_dims if dim in part.dims]
        missing = [axis for axis, dim in enumerate(sample_dims) if dim not in part.dims]
        values = np.expand_dims(values.transpose([part.dims.index(dim) for dim in axes]), missing)
        return np.ascontiguousarray(np.broadcast_to(values, shape)).reshape(-1)


@dataclass(frozen=True)
class NamedMask:
    """A variable that is not 0, and no NaN, where data counts; or the other way round."""

    name: str
    inverse: bool

    def __str__(self) -> str:
        return f"not {self.name}" if self.inverse else self.name

    def counts(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return where data counts; nowhere where the mask itself is missing."""
        known = np.isfinite(values)
        found: npt.NDArray[np.bool_] = known & ((values == 0) if self.inverse else (values != 0))
        return found


@dataclass(frozen=True)
class GridMask:
    """Which cells of a grid count, by a variable over some or all sample dimensions."""

    source: GriddedSource
    mask: NamedMask

    def __str__(self) -> str:
        return str(self.mask)

    def kept(self, region: Region) -> npt.NDArray[np.bool_]:
        """Read the region's part of the mask, (n_cells,)."""
        ranges, dims = self.source.ranges(region), self.source.sample_dims
        reader = NamedWeight(self.mask.name, cosine=False)
        read = functools.partial(reader.read, self.source.handle.dataset(), ranges, dims)
        return self.mask.counts(self.source.naming_damage(region, [self.mask.name], read))

    def no_rows(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
        """Return no rows, and no weights if there are weights."""
        rows = np.empty((0, self.source.n_features), self.source.dtype)
        return rows, None if self.source.weight is None else np.empty(0)


@dataclass(frozen=True, eq=False)
class GivenWeight:
    """Weights in memory, (n_samples,), of a store with one sample dimension."""

    values: npt.NDArray[np.float64]

    def __str__(self) -> str:
        return "given"

    def read(
        self,
        dataset: xr.Dataset,
        ranges: Ranges,
        sample_dims: Sequence[str],
    ) -> npt.NDArray[np.float64]:
        """Return a view of the region's weights."""
        return self.values[ranges[sample_dims[0]]]


@dataclass(frozen=True)
class GriddedSource:
    """Rows of a grid of samples: variables x feature dimensions, read from wherever they are.

    Attributes
    ----------
    fields : what fills the columns.
    sample_dims : dimensions of the grid.
    window : for each dimension of the variables, the stored range that was selected; an integer
        for a dimension that is neither of the samples nor of the features.
    n_features : number of columns.
    dtype : float32 or float64.
    weight : weights of the cells, or None.
    columns : (n_features,), which of the columns of all fields are features; None for all.
    """

    handle: Handle
    fields: tuple[Field, ...]
    sample_dims: tuple[str, ...]
    window: Mapping[str, slice | int]
    n_features: int
    dtype: np.dtype[Any]
    weight: Weight | None
    columns: npt.NDArray[np.intp] | None = dataclasses.field(default=None, compare=False)

    @property
    def width(self) -> int:
        """Number of columns of all fields, those included that are no features."""
        return int(self.fields[-1].columns.stop)

    def read(
        self,
        region: Region,
        given: Sequence[npt.NDArray[Any]],
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
        """Return the cells of `region`, (n_cells, n_features), and their weights.

        One copy at most beside what decoding needs; none where one variable is stored as
        (samples, features).

        Raises
        ------
        DataError : a chunk is damaged or cannot be read. It is named.
        """
        names = [field.name for field in self.fields]
        if isinstance(self.weight, NamedWeight):
            names.append(self.weight.name)
        cells, weight = self.naming_damage(region, names, lambda: self._read(region))
        return cells if self.columns is None else cells[:, self.columns], weight

    def naming_damage(self, region: Region, names: Sequence[str], read: Callable[[], T]) -> T:
        """Return what `read` returns; where it fails, raise an error that names the bad chunk of one of the variables.

        Raises
        ------
        DataError : a chunk is damaged or cannot be read.
        """
        try:
            return read()
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        # Codecs raise what they like, also exceptions that do not derive from Exception.
        except BaseException as error:
            raise self._find_damage(region, names, error) from error

    def describe(self, region: Region) -> str:
        """Name the coordinates of the region's first and last cells."""
        return self._where(dict(self._parts(region)))

    def describe_row(self, row_id: int) -> str:
        """Name the coordinates of a cell."""
        shape = [length(self.window[dim]) for dim in self.sample_dims]
        place = np.unravel_index(row_id, shape)
        return self.describe(tuple(slice(int(i), int(i) + 1) for i in place))

    def _read(self, region: Region) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
        ranges = self.ranges(region)
        dataset = self.handle.dataset()
        weight = None
        if self.weight is not None:
            weight = self.weight.read(dataset, ranges, self.sample_dims)
        n_cells = math.prod(part.stop - part.start for part in region)
        if len(self.fields) == 1:
            return self._read_field(dataset, self.fields[0], ranges).reshape(n_cells, self.width), weight
        cells = np.empty((n_cells, self.width), dtype=self.dtype)
        for field in self.fields:
            # Not kept under a name: it would still be in memory while the next one is read.
            _copy_columns(cells[:, field.columns], self._read_field(dataset, field, ranges))
        return cells, weight

    def _read_field(self, dataset: xr.Dataset, field: Field, ranges: Ranges) -> npt.NDArray[Any]:
        """Return one variable of the region, (sample dims..., feature dims...), maybe a view."""
        part = read_variable(dataset.variables[field.name], ranges)
        return part.transpose(*self.sample_dims, *field.dims).values

    def ranges(self, region: Region) -> dict[str, slice | int]:
        """Return the stored range of every dimension."""
        return {**self.window, **dict(self._parts(region))}

    def _parts(self, region: Region) -> Iterator[tuple[str, slice]]:
        """Yield the stored range of each sample dimension."""
        for dim, part in zip(self.sample_dims, region, strict=True):
            start = _start(self.window[dim])
            yield dim, slice(start + part.start, start + part.stop)

    def _where(self, ranges: Ranges) -> str:
        """Name the coordinates at the ends of the stored ranges of the sample dimensions."""
        return ", ".join(self._place(dim, ranges[dim]) for dim in self.sample_dims if dim in ranges)

    def _place(self, dim: str, part: slice | int) -> str:
        """Name the coordinates at the ends of one stored range."""
        line = self.handle.dataset().variables.get(dim)
        ends = [i if line is None else format_value(line[i].values) for i in _ends(part)]
        return f"{dim}={' to '.join(map(str, ends))}"

    def _find_damage(self, region: Region, names: Sequence[str], error: BaseException) -> DataError:
        """Read the region's chunks one by one, and return an error that names the first bad one."""
        ranges = self.ranges(region)
        dataset = self.handle.dataset()
        for name in names:
            variable = dataset.variables[name]
            if variable._in_memory:
                continue
            for index, inside in chunks_within(variable, ranges):
                try:
                    read_variable(variable, inside)
                except (KeyboardInterrupt, SystemExit, GeneratorExit):
                    raise
                except BaseException as cause:
                    return DataError(
                        f"{self.handle.label}: a chunk of variable {name!r} cannot be read: "
                        f"{self.handle.chunk_key(name, index)} ({_reason(cause)}). "
                        f"{self._where(inside)} is in it. Write this chunk again from its source, "
                        "or leave it out with select"
                    )
        return DataError(
            f"{self.handle.label}: {self.describe(region)} could not be read ({_reason(error)}), "
            "though each chunk could be read alone afterwards: a passing failure, or too little "
            "memory. Run it again, or lower memory_budget"
        )


def _copy_columns(columns: npt.NDArray[Any], part: npt.NDArray[Any]) -> None:
    """Copy (sample dims..., feature dims...) into columns, (n_cells, n_columns), in one go."""
    columns.reshape(part.shape)[...] = part


def read_variable(variable: xr.Variable, ranges: Ranges) -> xr.Variable:
    """Read a part of a variable into memory; try again where that fails in passing.

    Dask-backed variables are computed in this thread: a task must not start a second scheduler.
    """
    part = variable.isel({dim: ranges[str(dim)] for dim in variable.dims})
    return xr.Variable(part.dims, patiently(lambda: _in_memory(part), "reading a block"))


def _in_memory(part: xr.Variable) -> npt.NDArray[Any]:
    """Return the values of a variable."""
    data = part.data
    if hasattr(data, "compute"):
        data = data.compute(scheduler="synchronous")
    return np.asarray(data)


def stored_edges(variable: xr.Variable, dim: str, *, shards: bool) -> Edges:
    """Return where the stored chunks of `variable`, or the shards around them, meet along `dim`.

    Variables in memory, and files that are memory-mapped, can be cut anywhere.
    """
    axis = variable.dims.index(dim)
    size = variable.shape[axis]
    if variable.chunks is not None:
        lengths: tuple[int, ...] = variable.chunks[axis]
        regular = len(set(lengths[:-1])) == 1 and lengths[-1] <= lengths[0]
        return chunk_edges(size, lengths[0] if regular else lengths)
    if variable._in_memory:
        return chunk_edges(size, 1)
    stored = (variable.encoding.get("shards") if shards else None) or variable.encoding.get("chunks")
    return chunk_edges(size, stored[axis]) if stored else ()


def chunks_within(variable: xr.Variable, ranges: Ranges) -> Iterator[tuple[tuple[int, ...], dict[str, slice | int]]]:
    """Yield the index of each stored chunk or shard that `ranges` touch, and the part in them."""
    axes = []
    for dim, size in zip(map(str, variable.dims), variable.shape, strict=True):
        points = [0, *stored_edges(variable, dim, shards=True), size]
        axes.append(list(_overlaps(points, ranges[dim])))
    for place in itertools.product(*axes):
        index = tuple(i for i, _ in place)
        yield index, {str(dim): part for dim, (_, part) in zip(variable.dims, place, strict=True)}


def _overlaps(points: Sequence[int], part: slice | int) -> Iterator[tuple[int, slice | int]]:
    """Yield the number of each interval between `points` that `part` touches, and the overlap."""
    start = _start(part)
    stop = start + length(part)
    for i, (a, b) in enumerate(itertools.pairwise(points)):
        if a < stop and start < b:
            yield i, part if isinstance(part, int) else slice(max(a, start), min(b, stop))


def length(part: slice | int) -> int:
    """Return how many positions a selection along one dimension has."""
    return 1 if isinstance(part, int) else int(part.stop - part.start)


def format_value(value: Any) -> str:
    """Return a coordinate value as a person would write it.

    >>> format_value(np.datetime64("2006-04-16T00:00:00.000000000")), format_value(np.float32(0.1))
    ('2006-04-16', '0.1')
    """
    value = np.asarray(value)[()]
    if isinstance(value, tuple):
        return f"({', '.join(map(format_value, value))})"
    if isinstance(value, np.datetime64):
        return str(np.datetime_as_string(value, unit="auto"))
    return str(value)


def _ends(part: slice | int) -> list[int]:
    """Return the first and last index of a range, or the only one."""
    start, n = _start(part), length(part)
    return [start] if n == 1 else [start, start + n - 1]


def _start(part: slice | int) -> int:
    return part if isinstance(part, int) else int(part.start)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")

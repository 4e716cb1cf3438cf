"""What a report shows of labels and centers: a bounded sample of the one, the layout of the other.

Reads labels from a finished `result.zarr`, never all of them where they are many.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from daskmeans.gridded import format_value
from daskmeans.ome import DOWN

# Names by which dimensions are known as the sides of a map, the vertical one first.
VERTICAL = {"latitude", "lat", "y", "row", "northing", "nav_lat", "rlat", "projection_y_coordinate"}
HORIZONTAL = {"longitude", "lon", "x", "column", "col", "easting", "nav_lon", "rlon", "projection_x_coordinate"}

# Cells of labels that are read for a report, and what is shown of them.
MOST_CELLS = 2**26
MOST_SLICES = 12
MOST_PIXELS = (512, 1024)

Labels = npt.NDArray[np.integer[Any]]
Ticks = tuple[tuple[float, str], ...]

# Names of dimensions that are measured in degrees, which have their own round numbers.
DEGREES = {"latitude", "lat", "longitude", "lon", "rlat", "rlon", "nav_lat", "nav_lon"}


@dataclass(frozen=True)
class LabelView:
    """A picture's worth of labels.

    Attributes
    ----------
    labels : (n_rows, n_columns).
    title : which slice it is; empty where there is one only.
    sides : what lies along the sides.
    ratio : of its width to its height, by numbers of cells.
    x_ticks, y_ticks : for coordinates at the sides, how far from the left or the top, and how they are written.
    """

    labels: Labels
    title: str
    sides: str
    ratio: float = 1.0
    x_ticks: Ticks = ()
    y_ticks: Ticks = ()


def map_dims(dims: Sequence[str]) -> tuple[str, str] | None:
    """Return which two dimensions look like the sides of a map.

    >>> map_dims(("month", "lon", "lat")), map_dims(("time", "x"))
    (('lat', 'lon'), None)
    """
    vertical = [dim for dim in dims if dim.lower() in VERTICAL]
    horizontal = [dim for dim in dims if dim.lower() in HORIZONTAL]
    return (vertical[0], horizontal[0]) if len(vertical) == len(horizontal) == 1 else None


def label_views(labels: xr.DataArray) -> list[LabelView]:
    """Return maps of the labels, of a few slices where there are more dimensions; for one dimension, a strip."""
    dims = tuple(map(str, labels.dims))
    sides = map_dims(dims)
    if sides is None and len(dims) == 1:
        strip = _thin(labels, {dims[0]: MOST_PIXELS[1]}, MOST_CELLS)
        return [LabelView(strip.values.reshape(1, -1), "", _side(strip, dims[0], "left to right"))]
    if sides is None:
        return []
    others = [dim for dim in dims if dim not in sides]
    cells = math.prod(labels.sizes[dim] for dim in sides)
    most = max(1, min(MOST_SLICES, MOST_CELLS // max(1, cells)))
    return [_map(labels.isel(place), sides) for place in _some_places(labels, others, most)]


def _some_places(labels: xr.DataArray, dims: Sequence[str], most: int) -> list[dict[str, int]]:
    """Return evenly spread positions along `dims`, `most` at most."""
    shape = [labels.sizes[dim] for dim in dims]
    total = math.prod(shape)
    chosen = np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(int))
    return [dict(zip(dims, map(int, np.unravel_index(i, shape)), strict=True)) if dims else {} for i in chosen]


def _map(part: xr.DataArray, sides: tuple[str, str]) -> LabelView:
    """Return one map, north up."""
    vertical, horizontal = sides
    thin = _thin(part, dict(zip(sides, MOST_PIXELS, strict=True)), MOST_CELLS).transpose(vertical, horizontal)
    if _points_up(thin, vertical):
        thin = thin.isel({vertical: slice(None, None, -1)})
    gone = [str(name) for name, coord in part.coords.items() if not coord.dims]
    title = ", ".join(f"{name}={format_value(part.coords[name].values)}" for name in gone)
    text = f"{_side(thin, horizontal, 'left to right')}; {_side(thin, vertical, 'top to bottom')}"
    ratio = part.sizes[horizontal] / part.sizes[vertical]
    return LabelView(thin.values, title, text, ratio, _ticks(thin, horizontal, 6), _ticks(thin, vertical, 5))


def _ticks(part: xr.DataArray, dim: str, most: int) -> Ticks:
    """Return round numbers along a side, `most` at most, where its coordinate rises or falls all along."""
    if dim not in part.coords or part.sizes[dim] < 2 or part[dim].dtype.kind not in "iuf":
        return ()
    line = part[dim].values.astype(np.float64)
    steps = np.diff(line)
    if not (np.isfinite(line).all() and ((steps > 0).all() or (steps < 0).all())):
        return ()
    low, high = min(line[0], line[-1]), max(line[0], line[-1])
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    known = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 45.0, 60.0, 90.0] if dim.lower() in DEGREES else []
    step = next(s for s in [*known, *(power * m for m in (1, 2, 5, 10, 20))] if (high - low) / s <= most)
    if (high - low) / step < 1:
        step = next(power * m for m in (1, 2, 5, 10, 20) if (high - low) / (power * m) <= most)
    values = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    places = np.arange(len(line)) + 0.5
    rising = slice(None) if line[0] < line[-1] else slice(None, None, -1)
    at = np.interp(values, line[rising], places[rising]) / len(line)
    return tuple((float(place), f"{value:.10g}") for place, value in zip(at, values, strict=True))


def _points_up(part: xr.DataArray, vertical: str) -> bool:
    """Return whether the first row belongs at the bottom; rows of pictures that are merely counted start at the top."""
    if vertical not in part.coords or part.sizes[vertical] < 2 or part[vertical].dtype.kind not in "iuf":
        return False
    if part[vertical].attrs.get("positive") == DOWN:
        return False
    line = part[vertical].values
    is_counted = (
        line[0] == 0 and vertical.lower() in {"y", "row"} and np.ptp(np.diff(line)) == 0 and line[1] == int(line[1])
    )
    return bool(line[0] < line[-1]) and not is_counted


def _thin(part: xr.DataArray, most: dict[str, int], most_cells: int) -> xr.DataArray:
    """Return every n-th cell along each dimension; of what is too large to read, of its middle alone."""
    factor = (most_cells / max(1, part.size)) ** (1 / max(1, part.ndim))
    for dim, n in most.items():
        size = part.sizes[dim]
        kept = size if factor >= 1 else max(1, int(size * factor))
        begin = (size - kept) // 2
        part = part.isel({dim: slice(begin, begin + kept, -(-kept // n))})
    return part.load()


def _side(part: xr.DataArray, dim: str, direction: str) -> str:
    line = part[dim].values if dim in part.coords else np.arange(part.sizes[dim])
    first, last = (f"{end:.6g}" if line.dtype.kind == "f" else format_value(end) for end in (line[0], line[-1]))
    return f"{dim} from {first} to {last}, {direction}"


@dataclass(frozen=True)
class Features:
    """The columns of the centers that belong to one variable.

    Attributes
    ----------
    dims : its feature dimensions.
    lines : the coordinate values along each, as written in the names.
    columns : (n_features of the variable,).
    cells : likewise, where each lies in the grid of the feature dimensions; masked cells have no column.
    """

    name: str
    dims: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    columns: npt.NDArray[np.intp]
    cells: npt.NDArray[np.intp]

    def coordinate(self) -> npt.NDArray[np.float64] | None:
        """Return the values along its only dimension as numbers, times as years; None if they are neither."""
        try:
            return np.array(self.lines[0], dtype=np.float64)
        except ValueError:
            pass
        try:
            times = np.array(self.lines[0], dtype="datetime64[s]")
        except ValueError:
            return None
        years = times.astype("datetime64[Y]")
        span = (years + 1).astype(times.dtype) - years.astype(times.dtype)
        passed = (times - years.astype(times.dtype)).astype(np.float64) / span.astype(np.float64)
        return np.asarray(1970 + years.astype(np.int64) + passed, dtype=np.float64)

    def on_grid(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return values per column, (n_features,), in the shape of the feature dimensions, NaN where masked."""
        shape = [len(line) for line in self.lines]
        grid = np.full(math.prod(shape), np.nan)
        grid[self.cells] = values[self.columns]
        return grid.reshape(shape)


def parse_features(names: Sequence[str]) -> list[Features]:
    """Group columns by variable, from names such as ``u[level=500]``.

    >>> [(f.name, f.dims, f.lines) for f in parse_features(["u[level=200]", "u[level=500]", "t"])]
    [('u', ('level',), (('200', '500'),)), ('t', (), ())]
    """
    grouped: dict[str, list[tuple[int, list[tuple[str, str]]]]] = {}
    for column, name in enumerate(names):
        match = re.fullmatch(r"(.*?)\[(.*)\]", name)
        places = [tuple(pair.split("=", 1)) for pair in match[2].split(", ")] if match else []
        if any(len(pair) != 2 for pair in places):
            match, places = None, []
        grouped.setdefault(match[1] if match else name, []).append((column, places))
    return [_features(name, cells) for name, cells in grouped.items()]


def _features(name: str, cells: list[tuple[int, list[tuple[str, str]]]]) -> Features:
    """Return the layout of one variable's columns; flat where they are no full grid."""
    columns = np.array([column for column, _ in cells])
    dims = tuple(dim for dim, _ in cells[0][1])
    lines = tuple(tuple(dict.fromkeys(places[axis][1] for _, places in cells)) for axis in range(len(dims)))
    shape = tuple(map(len, lines))
    if math.prod(shape) != len(cells):
        # Masked cells are missing; those that are there do not come in the order of the grid any more.
        lines = tuple(tuple(sorted(line, key=_number_or_word)) for line in lines)
    if math.prod(shape) > MOST_EMPTY * len(cells):
        flat = tuple(str(i) for i in range(len(cells)))
        return Features(name, ("column",), (flat,), columns, np.arange(len(cells)))
    if not dims:
        return Features(name, (), (), columns, np.zeros(1, dtype=np.intp))
    found = [{value: i for i, value in enumerate(line)} for line in lines]
    places = tuple(np.array([index[at[axis][1]] for _, at in cells]) for axis, index in enumerate(found))
    return Features(name, dims, lines, columns, np.ravel_multi_index(places, shape))


# A grid with more cells than so many for each column is none.
MOST_EMPTY = 20


def _number_or_word(text: str) -> tuple[int, float, str]:
    """Return what sorts numbers as numbers, before words."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text

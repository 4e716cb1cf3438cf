"""Cuts a stored sample grid into blocks that hold whole chunks, so that a pass reads each once."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daskmeans.errors import ConfigError, DataError
from daskmeans.gridded import NamedWeight, stored_edges
from daskmeans.memory import (
    LARGEST_BLOCK_BYTES,
    ROW_OVERHEAD_BYTES,
    Budget,
    Edges,
    clip_edges,
    common_edges,
    format_bytes,
    longest_gap,
    plan_bounds_at,
    reads_of_each_chunk,
)
from daskmeans.samples import Grid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

    from daskmeans.gridded import GriddedSource

# Above this, labels are written in chunks as large as the blocks.
MANY_LABEL_CHUNKS = 10_000


class RepeatedReadsWarning(UserWarning):
    """Variables are chunked so differently that some chunks are read more than once in a pass."""


@dataclass(frozen=True)
class Axis:
    """One sample dimension: its stored length, and the part of it that was selected."""

    dim: str
    stored_size: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Length of the selection."""
        return self.stop - self.start

    def clip(self, edges: Edges) -> Edges:
        """Return edges of the stored dimension as edges of the selection."""
        return clip_edges(edges, self.start, self.stop)


def plan_grid(source: GriddedSource, budget: Budget | None) -> tuple[Grid, tuple[int, ...]]:
    """Return the grid of blocks, and the chunk lengths of labels along each sample dimension.

    A block holds whole shards where they fit, else whole chunks; if variables are chunked
    differently, whole chunks of all of them where that fits, else of the coarsest.

    Raises
    ------
    ConfigError : one chunk of rows does not fit the budget.
    DataError : there are no samples.
    """
    axes = _axes(source)
    shape = [axis.size for axis in axes]
    _check_not_empty(source, axes)
    block_bytes = LARGEST_BLOCK_BYTES if budget is None else budget.block_bytes
    row_bytes = source.width * source.dtype.itemsize + ROW_OVERHEAD_BYTES
    stored = _choose_edges(source, axes, block_bytes // row_bytes)
    edges = [axis.clip(edge) for axis, edge in zip(axes, stored, strict=True)]
    pieces = _pieces(source)
    if budget is not None and max(pieces.values()) > 1:
        edges = _cut_to_fit(edges, axes, budget.work_bytes // _read_bytes(source))
    _check_fits(source, edges, axes, budget)
    bounds = plan_bounds_at(shape, edges, row_bytes, block_bytes)
    repeated = _warn_of_repeated_reads(source, axes, bounds, pieces)
    return Grid(bounds), _label_chunks(source, axes, bounds, cut=repeated and max(pieces.values()) > 1)


def _axes(source: GriddedSource) -> list[Axis]:
    """Return the sample dimensions."""
    variable = source.handle.dataset().variables[source.fields[0].name]
    parts = [source.window[dim] for dim in source.sample_dims]
    return [
        Axis(dim, variable.sizes[dim], part.start, part.stop)
        for dim, part in zip(source.sample_dims, parts, strict=True)
        if isinstance(part, slice)
    ]


def _chunked_variables(source: GriddedSource) -> dict[str, xr.Variable]:
    """Return the variables whose chunks count; weights that lack a dimension are small."""
    names = [field.name for field in source.fields]
    variables = source.handle.dataset().variables
    if isinstance(source.weight, NamedWeight):
        weight = source.weight.name
        if set(variables[weight].dims) >= set(source.sample_dims):
            names.append(weight)
    return {name: variables[name] for name in names}


def _edges_of_all(source: GriddedSource, axis: Axis, *, shards: bool) -> list[Edges]:
    """Return where the chunks of each variable meet along one stored dimension."""
    variables = _chunked_variables(source).values()
    return [stored_edges(variable, axis.dim, shards=shards) for variable in variables]


def _choose_edges(source: GriddedSource, axes: Sequence[Axis], room: int) -> list[Edges]:
    """Return where blocks may end: the best choice of which one block has `room` rows at most."""
    for shards in (True, False):
        common = [common_edges(_edges_of_all(source, axis, shards=shards), axis.stored_size) for axis in axes]
        if _cells(common, axes) <= room:
            return common
    return [_coarsest(source, axis) for axis in axes]


def _coarsest(source: GriddedSource, axis: Axis) -> Edges:
    """Return the edges of the variable with the longest chunks."""
    several = _edges_of_all(source, axis, shards=False)
    return max(several, key=lambda edges: longest_gap(edges, axis.stored_size))


def _cells(stored: Sequence[Edges], axes: Sequence[Axis]) -> int:
    """Return the cells of the largest chunk between edges."""
    return math.prod(longest_gap(axis.clip(edges), axis.size) for axis, edges in zip(axes, stored, strict=True))


def _pieces(source: GriddedSource) -> dict[str, int]:
    """Return into how many pieces the stored chunks of each variable cut a row."""
    variables = source.handle.dataset().variables
    found = {}
    for field in source.fields:
        edges = {dim: stored_edges(variables[field.name], dim, shards=False) for dim in field.dims}
        parts = {dim: source.window[dim] for dim in field.dims}
        found[field.name] = math.prod(
            1 + len(clip_edges(edges[dim], part.start, part.stop))
            for dim, part in parts.items()
            if isinstance(part, slice)
        )
    in_memory = [name for name in found if variables[name]._in_memory]
    return found | dict.fromkeys(in_memory, 1)


def _cut_to_fit(edges: Sequence[Edges], axes: Sequence[Axis], room: int) -> list[Edges]:
    """Return edges within chunks too, where a chunk's rows with all their features are more than `room`.

    Chunks that cut features hold many rows of few features: all chunks side by side may be much. Cutting their rows
    reads each as often as it is cut, but works.
    """
    fitting = list(edges)
    lengths = [longest_gap(edge, axis.size) for edge, axis in zip(edges, axes, strict=True)]
    for i, axis in enumerate(axes):
        rows = math.prod(lengths)
        if rows <= room:
            break
        # In equal parts, as far as possible, so that labels have equal chunks.
        n_parts = min(lengths[i], -(-rows // max(1, room)))
        lengths[i] = -(-lengths[i] // n_parts)
        fitting[i] = _subdivide(fitting[i], axis.size, lengths[i])
    return fitting


def _subdivide(edges: Edges, size: int, length: int) -> Edges:
    """Return more edges, so that no gap is longer than `length`."""
    points = [0, *edges, size]
    return tuple(edge for a, b in itertools.pairwise(points) for edge in range(a, b, length) if edge)


def _label_chunks(
    source: GriddedSource, axes: Sequence[Axis], bounds: Sequence[tuple[int, ...]], *, cut: bool
) -> tuple[int, ...]:
    """Return the chunk lengths of labels: the stored ones, or the blocks' where those are no use.

    Data in memory have none, `cut` ones are longer than blocks, and labels are so small that very many chunks of them
    are a burden.
    """
    stored = [min(longest_gap(_coarsest(source, axis), axis.stored_size), axis.size) for axis in axes]
    blocks = [longest_gap(bound[1:-1], axis.size) for axis, bound in zip(axes, bounds, strict=True)]
    in_memory = all(v._in_memory for v in _chunked_variables(source).values())
    n_chunks = math.prod(math.ceil(axis.size / n) for axis, n in zip(axes, stored, strict=True))
    return tuple(blocks if in_memory or cut or n_chunks > MANY_LABEL_CHUNKS else stored)


def _check_not_empty(source: GriddedSource, axes: Sequence[Axis]) -> None:
    empty = [axis.dim for axis in axes if not axis.size]
    if empty or not source.n_features:
        what = f"dimension {empty[0]} has length 0" if empty else "there are no features"
        raise DataError(f"{source.handle.label} holds no samples: {what}")


def _read_bytes(source: GriddedSource) -> int:
    """Return what a row takes while it is read, with a copy."""
    return 2 * source.width * source.dtype.itemsize + ROW_OVERHEAD_BYTES


def _check_fits(source: GriddedSource, edges: Sequence[Edges], axes: Sequence[Axis], budget: Budget | None) -> None:
    """Raise where the smallest block and its copies need more than the budget leaves for blocks."""
    if budget is None:
        return
    lengths = [longest_gap(edge, axis.size) for edge, axis in zip(edges, axes, strict=True)]
    needed, room = math.prod(lengths) * _read_bytes(source), budget.work_bytes
    if needed > room:
        enough = Budget.for_rows(int(1.02 * needed * budget.row_bytes / room)).total_bytes
        shape = ", ".join(f"{axis.dim}: {n}" for axis, n in zip(axes, lengths, strict=True))
        raise ConfigError(
            f"{source.handle.label}: one chunk of rows ({shape}) has {math.prod(lengths):,} rows "
            f"of {source.n_features:,} features and needs {format_bytes(needed)} while it is "
            f"read, but memory_budget {format_bytes(budget.total_bytes)} leaves "
            f"{format_bytes(room)} for that. Set memory_budget to {format_bytes(enough)} "
            "or more, or store the data in smaller chunks"
        )


def _warn_of_repeated_reads(
    source: GriddedSource, axes: Sequence[Axis], bounds: Sequence[tuple[int, ...]], pieces: Mapping[str, int]
) -> bool:
    """Warn where a pass reads chunks of a variable more than once, and say how often; return whether it does."""
    repeated = False
    for name, variable in _chunked_variables(source).items():
        stored = [stored_edges(variable, axis.dim, shards=False) for axis in axes]
        edges = [axis.clip(edge) for axis, edge in zip(axes, stored, strict=True)]
        reads = reads_of_each_chunk(bounds, edges, [axis.size for axis in axes])
        if reads > 1:
            repeated = True
            why, remedy = "variables have different chunks, and a block that holds whole chunks of all", "equal chunks"
            if pieces.get(name, 1) > 1:
                why = (
                    f"chunks of {name!r} cut the features into {pieces[name]}, and a block of all of them side by side"
                )
                remedy = "chunks that hold all features of fewer samples"
            warnings.warn(
                f"{source.handle.label}: {why} would not fit the budget: each pass reads the chunks of "
                f"{name!r} {reads:.2f} times. A larger memory_budget, or {remedy}, avoids it",
                RepeatedReadsWarning,
                stacklevel=5,
            )
    return repeated

"""Budgets and block shapes: what is read at once, what is kept, what a plan needs. Pure integers.

Must not import Dask, Zarr or NumPy: everything here can be computed, and refused, before any data
is touched.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

KIB, MIB, GIB = 2**10, 2**20, 2**30

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _UNITS[f"{_letter}ib"] = 2 ** (10 * _power)
    _UNITS[f"{_letter}b"] = 10 ** (3 * _power)


def parse_bytes(text: str | int) -> int:
    """Return the number of bytes that `text` names: an integer, or a number with a unit.

    >>> parse_bytes("2GiB"), parse_bytes("500 MB"), parse_bytes(1024)
    (2147483648, 500000000, 1024)
    """
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{text!r} is not a size; write a number and a unit, such as 2GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def format_bytes(n_bytes: float) -> str:
    """Return `n_bytes` for people, in binary units.

    >>> format_bytes(2 * GIB), format_bytes(1536), format_bytes(12)
    ('2.0 GiB', '1.5 KiB', '12 B')
    """
    for unit, name in ((2**40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {name}"
    return f"{n_bytes:.0f} B"


# What a fit takes of the memory of all workers where no budget is given: this part of it.
DEFAULT_PART = 4


# Python with NumPy, Numba, Zarr and Dask, and memory that was freed and not given back (measured: 400 to 450 MiB); and
# 64 MiB to spare.
PROCESS_BYTES = 512 * MIB

# Larger budgets cover a process too, smaller ones rows only.
ROWS_ONLY = 128 * MIB

# Larger arrays come from the system, page by page, each time; a pass takes half as long again. So it is with glibc.
LARGEST_BLOCK_BYTES = 16 * MIB


# A block that is read: as it is stored, decoded, and put together (measured). So many are planned for at once.
COPIES_OF_A_BLOCK, BLOCKS_AT_WORK = 3, 2


@dataclass(frozen=True)
class Budget:
    """How one memory budget is shared out.

    The shares depend on the two numbers alone, never on that of workers or threads: they steer
    which rows are sampled and how rows are cut into blocks, so equal budgets give equal bits
    everywhere.

    Attributes
    ----------
    total_bytes : the budget.
    largest_block_bytes : of the blocks that the data was cut into, decoded; they are larger than `block_bytes` where
        chunks are. 0 where they are not known, or not read.
    """

    total_bytes: int
    largest_block_bytes: int = 0

    @classmethod
    def for_rows(cls, row_bytes: int) -> Budget:
        """Return the smallest budget that has so many bytes for rows."""
        return cls(row_bytes if row_bytes <= ROWS_ONLY else row_bytes + PROCESS_BYTES)

    @property
    def row_bytes(self) -> int:
        """What there is for rows, over all workers."""
        return max(min(self.total_bytes, ROWS_ONLY), self.total_bytes - PROCESS_BYTES)

    @property
    def block_bytes(self) -> int:
        """Rows of one block, decoded. Sixteenths leave room for the copies that decoding needs."""
        return min(LARGEST_BLOCK_BYTES, self.row_bytes // 16)

    @property
    def sample_bytes(self) -> int:
        """The uniform sample that seeding and polishing work on."""
        return min(256 * MIB, self.row_bytes // 8)

    @property
    def kept_bytes(self) -> int:
        """Blocks, or active rows, that stay in memory from one pass to the next.

        Where the budget covers a process, large blocks leave less, but never under an eighth.
        """
        wanted = self.row_bytes * 5 // 8
        if self.row_bytes <= ROWS_ONLY:
            return wanted
        at_work = BLOCKS_AT_WORK * COPIES_OF_A_BLOCK * self.largest_block_bytes
        return min(wanted, max(self.row_bytes // 8, self.row_bytes - self.sample_bytes - at_work))

    @property
    def blocks_at_once(self) -> int | None:
        """Return how many blocks threads of one process may work on at once; None where that is not to be limited.

        Only a budget that covers the process promises to limit it.
        """
        if self.row_bytes <= ROWS_ONLY or not self.largest_block_bytes:
            return None
        room = self.row_bytes - self.sample_bytes - self.kept_bytes
        return max(BLOCKS_AT_WORK, room // (COPIES_OF_A_BLOCK * self.largest_block_bytes))

    @property
    def work_bytes(self) -> int:
        """What blocks that are worked on, and the sample, may take."""
        return self.row_bytes - self.row_bytes * 5 // 8


# With m rows for each cluster the inertia of centers fitted to the sample exceeds the optimum by about 1/m.
SAMPLE_ROWS_PER_CLUSTER = 2048
SAMPLE_MIN_ROWS = 2**16


def sample_size(row_bytes: int, n_clusters: int, budget: Budget) -> int:
    """Return how many rows the uniform sample has: enough for the clusters, within the budget."""
    affordable = max(n_clusters, budget.sample_bytes // (row_bytes + ROW_OVERHEAD_BYTES))
    return min(max(SAMPLE_MIN_ROWS, SAMPLE_ROWS_PER_CLUSTER * n_clusters), affordable)


# Beside its features a row costs, while its block is worked on, a label, a distance, an id, a mask.
ROW_OVERHEAD_BYTES = 24

# Beside its features a row that is kept between passes has its weight, where the data has weights.
WEIGHT_BYTES = 8


Edges = range | tuple[int, ...]
"""Where chunks meet inside one dimension: ascending, both ends of the dimension left out."""


def chunk_edges(size: int, chunk: int | Sequence[int]) -> Edges:
    """Return the edges of chunks of length `chunk`, or of the lengths listed in it.

    >>> list(chunk_edges(10, 4)), chunk_edges(10, (3, 3, 4))
    ([4, 8], (3, 6))
    """
    if isinstance(chunk, int):
        return range(max(1, chunk), size, max(1, chunk))
    return tuple(itertools.accumulate(chunk[:-1]))


def clip_edges(edges: Edges, start: int, stop: int) -> Edges:
    """Return the edges that lie inside `start` to `stop`, counted from `start`.

    >>> list(clip_edges(range(4, 100, 4), 6, 15))
    [2, 6]
    """
    inside = edges[bisect.bisect_right(edges, start) : bisect.bisect_left(edges, stop)]
    if isinstance(inside, range):
        return range(inside.start - start, inside.stop - start, inside.step)
    return tuple(edge - start for edge in inside)


def common_edges(several: Sequence[Edges], size: int) -> Edges:
    """Return the edges that all of `several`, none of them clipped, share.

    >>> list(common_edges([range(4, 30, 4), range(6, 30, 6)], 30))
    [12, 24]
    """
    first, *others = several
    if all(edges == first for edges in others):
        return first
    if all(isinstance(edges, range) for edges in several):
        return chunk_edges(size, math.lcm(*(edges.step for edges in several)))  # type: ignore[union-attr]
    return tuple(sorted(set(first).intersection(*others)))


def longest_gap(edges: Edges, size: int) -> int:
    """Return the length of the longest chunk between `edges`; at least 1."""
    if isinstance(edges, range) and edges:
        return max(edges[0], edges.step if len(edges) > 1 else 1, size - edges[-1])
    points: list[int] = [0, *edges, size]
    return max(1, *(b - a for a, b in itertools.pairwise(points)))


def reads_of_each_chunk(bounds: Sequence[Sequence[int]], edges: Sequence[Edges], shape: Sequence[int]) -> float:
    """Return how often, on average, a pass over blocks between `bounds` reads each chunk.

    >>> reads_of_each_chunk([(0, 6, 12)], [range(4, 12, 4)], [12])
    1.3333333333333333
    """
    reads = 1.0
    for bound, edge, size in zip(bounds, edges, shape, strict=True):
        cuts = sum(1 for end in bound[1:-1] if end not in edge)
        reads *= 1 + cuts / (len(edge) + 1) if size else 1
    return reads


def plan_bounds(
    shape: Sequence[int], chunks: Sequence[int], row_bytes: int, block_bytes: int
) -> tuple[tuple[int, ...], ...]:
    """Cut the sample grid into blocks of whole chunks, of at most `block_bytes` if one chunk is.

    Parameters
    ----------
    shape : length of each sample dimension.
    chunks : length of the stored chunks (or shards) along each sample dimension.
    row_bytes : bytes of one row, decoded, with what a pass needs beside it.
    block_bytes : the bytes that a block should not exceed.

    Returns
    -------
    Boundaries along each dimension, from 0 to its length. Blocks grow along the last dimension
    first, so that rows which are neighbours in C order stay together.

    >>> plan_bounds((10, 100), (2, 50), row_bytes=8, block_bytes=3200)
    ((0, 4, 8, 10), (0, 100))
    """
    edges = [chunk_edges(size, chunk) for size, chunk in zip(shape, chunks, strict=True)]
    return plan_bounds_at(shape, edges, row_bytes, block_bytes)


def plan_bounds_at(
    shape: Sequence[int], edges: Sequence[Edges], row_bytes: int, block_bytes: int
) -> tuple[tuple[int, ...], ...]:
    """Cut the sample grid as `plan_bounds` does, where chunks meet at any `edges`.

    >>> plan_bounds_at((10,), [(3, 7)], row_bytes=8, block_bytes=56)
    ((0, 7, 10),)
    """
    room = max(1, block_bytes // max(1, row_bytes))
    lengths = [longest_gap(edge, size) for edge, size in zip(edges, shape, strict=True)]
    rows = math.prod(lengths)
    for axis in reversed(range(len(lengths))):
        others = rows // lengths[axis]
        lengths[axis] = min(max(lengths[axis], room // others), max(1, shape[axis]))
        bound = _merge(edges[axis], shape[axis], lengths[axis])
        rows = others * longest_gap(bound[1:-1], shape[axis])
        if len(bound) > 2:
            break
    return tuple(map(_merge, edges, shape, lengths))


def _merge(edges: Edges, size: int, length: int) -> tuple[int, ...]:
    """Join neighbouring chunks into blocks of at most `length`, or of one chunk."""
    bounds = [0]
    while bounds[-1] < size:
        reach = bounds[-1] + length
        last = size if reach >= size else edges[bisect.bisect_right(edges, reach) - 1]
        bounds.append(last)
    return tuple(bounds)


@dataclass(frozen=True)
class Plan:
    """What a fit will read and need, known before it starts."""

    n_rows: int
    n_features: int
    itemsize: int
    n_blocks: int
    largest_block_rows: int
    budget: Budget
    n_clusters: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's features."""
        return self.n_features * self.itemsize

    @property
    def data_bytes(self) -> int:
        """Bytes of all rows, decoded: what one pass reads."""
        return self.n_rows * self.row_bytes

    @property
    def in_flight_bytes(self) -> int:
        """Peak bytes of one task: the block, as it is stored, decoded and put together, and temporaries."""
        return self.largest_block_rows * (COPIES_OF_A_BLOCK * self.row_bytes + ROW_OVERHEAD_BYTES)

    @property
    def fits(self) -> bool:
        """Whether the whole input is read once and kept."""
        return self.data_bytes <= self.budget.kept_bytes

    @property
    def sample_rows(self) -> int:
        """Rows of the uniform sample."""
        return min(self.n_rows, sample_size(self.row_bytes, self.n_clusters, self.budget))

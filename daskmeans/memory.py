"""Budgets and block shapes: how much is read at once, what is kept, what a plan will need. Pure integers.

Must not import Dask, Zarr or NumPy: everything here can be computed, and refused, before any data is touched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Budget:
    """How one memory budget, for the rows of all workers together, is shared out.

    The shares depend on `total_bytes` alone, never on the number of workers or threads: they steer which
    rows are sampled and how rows are cut into blocks, so equal budgets give equal bits everywhere.
    """

    total_bytes: int

    @property
    def block_bytes(self) -> int:
        """Rows of one block, decoded. Sixteenths leave room for the copies that decoding needs."""
        return min(64 * MIB, self.total_bytes // 16)

    @property
    def sample_bytes(self) -> int:
        """The uniform sample that seeding and polishing work on."""
        return min(256 * MIB, self.total_bytes // 8)

    @property
    def kept_bytes(self) -> int:
        """Blocks, or active rows, that stay in memory from one pass to the next."""
        return self.total_bytes // 2


# Beside its features a row costs, while its block is worked on, a label, a distance, an id and a mask.
ROW_OVERHEAD_BYTES = 24


def plan_bounds(
    shape: Sequence[int], chunks: Sequence[int], row_bytes: int, block_bytes: int
) -> tuple[tuple[int, ...], ...]:
    """Cut the sample grid into blocks of whole chunks, each at most `block_bytes` where one chunk allows it.

    Parameters
    ----------
    shape : length of each sample dimension.
    chunks : length of the stored chunks (or shards) along each sample dimension.
    row_bytes : bytes of one row, decoded, with what a pass needs beside it.
    block_bytes : the bytes that a block should not exceed.

    Returns
    -------
    Boundaries along each dimension, from 0 to its length. Blocks grow along the last dimension first, so
    that rows which are neighbours in C order stay together.

    >>> plan_bounds((10, 100), (2, 50), row_bytes=8, block_bytes=3200)
    ((0, 4, 8, 10), (0, 100))
    """
    room = max(1, block_bytes // max(1, row_bytes))
    lengths = [min(chunk, size) if size else 1 for chunk, size in zip(chunks, shape, strict=True)]
    rows = math.prod(lengths)
    for axis in reversed(range(len(lengths))):
        whole = max(1, min(room // max(1, rows), math.ceil(shape[axis] / lengths[axis])))
        rows *= whole
        lengths[axis] *= whole
        if lengths[axis] < shape[axis]:
            break
    return tuple(
        (*range(0, size, length), size) for size, length in zip(shape, lengths, strict=True)
    )


@dataclass(frozen=True)
class Plan:
    """What a fit will read and need, known before it starts."""

    n_rows: int
    n_features: int
    itemsize: int
    n_blocks: int
    largest_block_rows: int
    budget: Budget

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
        """Peak bytes of one task: the block, the copies made while decoding it, and its temporaries."""
        return self.largest_block_rows * (2 * self.row_bytes + ROW_OVERHEAD_BYTES)

    @property
    def kept_bytes(self) -> int:
        """Bytes that stay in memory between passes, over all workers."""
        return self.data_bytes if self.fits else 0

    @property
    def fits(self) -> bool:
        """Whether the whole input is read once and kept."""
        return self.data_bytes <= self.budget.kept_bytes

    @property
    def sample_rows(self) -> int:
        """Rows of the uniform sample."""
        return min(self.n_rows, self.budget.sample_bytes // (self.row_bytes + ROW_OVERHEAD_BYTES))

"""Packed rows: what only stands for other rows stays in memory as a byte a number, so that there is room for more.

Rows are packed in groups. Of each feature a group has its smallest number and a step, 1/255 of its range; a row has the
number of steps. So a number is wrong by half a step at most, and one that lies far out spoils but its group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from daskmeans.jit import jit, read_only
from daskmeans.samples import Block, Rows

GROUP_ROWS = 256

MOST_STEPS = 255

# Of a weight the first half of a float32 is kept: its sign, its exponent and 8 binary digits.
HALF_BYTES, HALF_BITS = 2, 16


def packed_row_bytes(n_features: int, itemsize: int) -> float:
    """Return what a packed row takes, with its weight and its part of the group."""
    return n_features * (1 + 2 * itemsize / GROUP_ROWS) + HALF_BYTES


# For rows that are unpacked: new memory each time would come from the system page by page, where Dask has its workers
# give back what they have freed, and take a third of the time of a scan.
_buffers = threading.local()


def _room(shape: tuple[int, int], dtype: np.dtype[Any]) -> Rows:
    """Return an array of this thread, to be overwritten."""
    n_bytes = shape[0] * shape[1] * dtype.itemsize
    buffer = getattr(_buffers, "bytes", None)
    if buffer is None or len(buffer) < n_bytes:
        buffer = _buffers.bytes = np.empty(n_bytes, np.uint8)
    room: Rows = buffer[:n_bytes].view(dtype).reshape(shape)
    return room


@dataclass(frozen=True)
class Packed:
    """Rows of one block, packed.

    Attributes
    ----------
    steps : (n_rows, n_features) uint8.
    smallest, step : (n_groups, n_features) in the dtype of the rows.
    weight : (n_rows,) uint16, the first halves of float32.
    """

    steps: npt.NDArray[np.uint8]
    smallest: Rows
    step: Rows
    weight: npt.NDArray[np.uint16]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.steps)

    @classmethod
    def of(cls, block: Block) -> Packed:
        """Pack the rows of a block and their weights."""
        X = np.ascontiguousarray(block.X)
        weight = np.ones(len(X)) if block.weight is None else block.weight
        shape = (-(-len(X) // GROUP_ROWS), X.shape[1])
        rounded = weight.astype(np.float32).view(np.uint32) + np.uint32(2 ** (HALF_BITS - 1))
        half = (rounded >> np.uint32(HALF_BITS)).astype(np.uint16)
        packed = cls(np.empty(X.shape, np.uint8), np.empty(shape, X.dtype), np.empty(shape, X.dtype), half)
        _pack(read_only(X), packed.steps, packed.smallest, packed.step)
        return packed

    def unpacked(self, every: int = 1) -> tuple[Rows, npt.NDArray[np.float64]]:
        """Return every so many-th of the rows, about, and the weights of those that it stands for.

        The rows lie where the next call in the same thread will put others.
        """
        whole = self.weight[::every].astype(np.uint32) << np.uint32(HALF_BITS)
        X = _room((len(whole), self.steps.shape[1]), self.step.dtype)
        _unpack(self.steps, self.smallest, self.step, every, X)
        return X, every * whole.view(np.float32).astype(np.float64)


@jit
def _pack(X: Any, steps: Any, smallest: Any, step: Any) -> None:
    n_features = X.shape[1]
    largest, per_unit = np.empty(n_features, X.dtype), np.empty(n_features)
    for g in range(len(step)):
        rows = X[g * GROUP_ROWS : (g + 1) * GROUP_ROWS]
        low = smallest[g]
        low[:] = rows[0]
        largest[:] = rows[0]
        for t in range(1, len(rows)):
            for f in range(n_features):
                low[f] = min(low[f], rows[t, f])
                largest[f] = max(largest[f], rows[t, f])
        for f in range(n_features):
            size = (np.float64(largest[f]) - np.float64(low[f])) / MOST_STEPS
            step[g, f] = size
            per_unit[f] = 1 / size if size > 0 else 0.0
        for t in range(len(rows)):
            for f in range(n_features):
                n_steps = (np.float64(rows[t, f]) - np.float64(low[f])) * per_unit[f]
                steps[g * GROUP_ROWS + t, f] = np.uint8(n_steps + 0.5)


@jit
def _unpack(steps: Any, smallest: Any, step: Any, every: Any, X: Any) -> None:
    for i in range(X.shape[0]):
        t = i * every
        g = t // GROUP_ROWS
        for f in range(X.shape[1]):
            X[i, f] = smallest[g, f] + step[g, f] * X.dtype.type(steps[t, f])


@dataclass(frozen=True)
class KeptBlock(Block):
    """The rows of one block, or of several, that stay in memory from one pass to the next, without their places.

    Attributes
    ----------
    X, weight : of rows that are kept as they are.
    sample : of rows that stand for others, by their weights.
    """

    sample: Packed = field(kw_only=True)

    @classmethod
    def of(cls, rows: Block, sample: Block) -> KeptBlock:
        """Keep one block as it is, and pack the other."""
        return cls(rows.index, rows.region, rows.grid, rows.X, rows.weight, None, sample=Packed.of(sample))

    def __sizeof__(self) -> int:
        """Return the bytes of the arrays."""
        packed = (self.sample.steps, self.sample.smallest, self.sample.step, self.sample.weight)
        return super().__sizeof__() + sum(array.nbytes for array in packed)

    def mapped(self, apply: Callable[[Rows], Rows]) -> KeptBlock:
        """Return the block with what `apply` makes of all its rows."""
        return KeptBlock.of(super().mapped(apply), self.unpacked().mapped(apply))

    def unpacked(self, every: int = 1) -> Block:
        """Return the sample, about, or every so many-th row of it."""
        X, weight = self.sample.unpacked(every)
        return Block(self.index, self.region, self.grid, X, weight, None)

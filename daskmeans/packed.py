"""Packed rows: what only stands for other rows stays in memory as a byte a number, so that there is room for more.

Rows are packed in groups. Of each feature a group has its smallest number and a step, 1/255 of its range; a row has the
number of steps. So a number is wrong by half a step at most, and one that lies far out spoils but its group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from daskmeans.jit import jit, read_only
from daskmeans.memory import MIB
from daskmeans.samples import Block, Rows

GROUP_ROWS = 256

MOST_STEPS = 255

# Of a weight the first half of a float32 is kept: its sign, its exponent and 8 binary digits.
HALF_BYTES, HALF_BITS = 2, 16


def packed_row_bytes(n_features: int, itemsize: int, every: int = 1) -> float:
    """Return what a packed row takes, or every so many-th one, with its weight and its part of the group."""
    return n_features * (1 + 2 * itemsize * min(every, GROUP_ROWS) / GROUP_ROWS) + HALF_BYTES


# Rows are unpacked so many bytes at a time, each time into the same memory of a thread: new memory would come from the
# system page by page, where Dask has its workers give back what they have freed, and take a third of a scan's time.
PART_BYTES = 4 * MIB

_buffers = threading.local()


def _room(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Return memory of this thread, to be overwritten."""
    if len(getattr(_buffers, "part", ())) < PART_BYTES:
        _buffers.part = np.empty(PART_BYTES, np.uint8)
    part: npt.NDArray[np.uint8] = _buffers.part[:n_bytes]
    return part if len(part) == n_bytes else np.empty(n_bytes, np.uint8)


@dataclass(frozen=True)
class Packed:
    """Rows of one block, packed.

    Attributes
    ----------
    steps : (n_rows, n_features) uint8.
    smallest, step : (n_groups, n_features) in the dtype of the rows.
    weight : (n_rows,) uint16, the first halves of float32.
    every : each row stands for so many others, as alike. Of 256 and more, each is a group of its own.
    """

    steps: npt.NDArray[np.uint8]
    smallest: Rows
    step: Rows
    weight: npt.NDArray[np.uint16]
    every: int = 1

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

    def thinned(self, every: int) -> Packed:
        """Return every so many-th of rows that stand for themselves, to stand for the others too; it copies none."""
        steps, smallest, step = self.steps[::every], self.smallest, self.step
        if every >= GROUP_ROWS:  # of many groups there is no row
            used = np.arange(len(steps)) * every // GROUP_ROWS
            smallest, step = smallest[used], step[used]
        return Packed(steps, smallest, step, self.weight[::every], every)

    def parts(self) -> Iterator[tuple[Rows, npt.NDArray[np.float64]]]:
        """Yield some of the rows at a time, about, and the weights of those that they stand for.

        The rows lie where the next ones of the same thread will be put.
        """
        row_bytes = max(1, self.steps.shape[1] * self.step.dtype.itemsize)
        length = max(1, PART_BYTES // row_bytes)
        for begin in range(0, self.n_rows, length):
            stop = min(begin + length, self.n_rows)
            X = _room((stop - begin) * row_bytes).view(self.step.dtype).reshape(stop - begin, -1)
            yield X, self._unpack(begin, stop, X)

    def unpacked(self) -> tuple[Rows, npt.NDArray[np.float64]]:
        """Return the rows, about, and the weights of those that they stand for."""
        X = np.empty(self.steps.shape, self.step.dtype)
        return X, self._unpack(0, self.n_rows, X)

    def _unpack(self, begin: int, stop: int, X: Rows) -> npt.NDArray[np.float64]:
        """Unpack some rows into `X`, and return the weights of those that they stand for."""
        steps = np.ascontiguousarray(self.steps[begin:stop])
        _unpack(steps, self.smallest, self.step, begin, self.every, X)
        whole = self.weight[begin:stop].astype(np.uint32) << np.uint32(HALF_BITS)
        return self.every * whole.view(np.float32).astype(np.float64)


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
def _unpack(steps: Any, smallest: Any, step: Any, begin: Any, every: Any, X: Any) -> None:
    for i in range(X.shape[0]):
        g = (begin + i) * every // GROUP_ROWS if every < GROUP_ROWS else begin + i
        for f in range(X.shape[1]):
            X[i, f] = smallest[g, f] + step[g, f] * X.dtype.type(steps[i, f])


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

    def thinned(self, every: int) -> KeptBlock:
        """Return every so many-th row of the sample, without the rows that are kept as they are."""
        sample = self.sample.thinned(every)
        return KeptBlock(self.index, self.region, self.grid, self.X[:0], None, None, sample=sample)

    def parts(self) -> Iterator[Block]:
        """Yield some of the sample at a time, about, to be used before the next."""
        for X, weight in self.sample.parts():
            yield Block(self.index, self.region, self.grid, X, weight, None)

    def unpacked(self) -> Block:
        """Return the sample, about."""
        X, weight = self.sample.unpacked()
        return Block(self.index, self.region, self.grid, X, weight, None)

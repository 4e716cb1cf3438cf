"""Bounds: of rows that lie in this process, look only at those that may have changed cluster.

For each row and model a label and a bound are kept from pass to pass, 8 bytes; and for each model the sums of its
clusters, which rows that change cluster are moved between. Labels, centers and iterations are those of plain passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from daskmeans.active import largest_other
from daskmeans.jit import Float64s
from daskmeans.kernels import Stack
from daskmeans.reassigning import Moved, reassign
from daskmeans.samples import Block
from daskmeans.scan import Scanner
from daskmeans.steps import Assign, Assigned, split

# What is kept of a row, for each model: its label and its reach.
BOUND_BYTES = 8


class Known(NamedTuple):
    """What is known of the rows of one block for one model.

    Attributes
    ----------
    labels : (n_rows,) int32.
    reach : (n_rows,) float32, the drift up to which the label is certain.
    """

    labels: npt.NDArray[np.int32]
    reach: npt.NDArray[np.float32]

    @classmethod
    def nothing(cls, n_rows: int) -> Known:
        """Know nothing yet."""
        return cls(np.full(n_rows, -1, dtype=np.int32), np.full(n_rows, -np.inf, dtype=np.float32))


class Bounded:
    """What is known of all rows for one model.

    Attributes
    ----------
    stack : the centers that the rows were last assigned to.
    drift : (n_clusters,) float64, by how much gaps of the cluster's rows can have closed so far.
    blocks : what is known of each block, by its index.
    total : the sums over all rows, None before the first pass.
    """

    def __init__(self, centers: Float64s) -> None:
        self.stack = Stack.of([centers])
        self.drift = np.zeros(len(centers))
        self.blocks: dict[int, Known] = {}
        self.total: Moved | None = None

    def move_to(self, centers: Float64s) -> None:
        """Take note that the centers move."""
        shift = np.sqrt(((centers - self.stack.centers) ** 2).sum(axis=1))
        self.drift += (shift + largest_other(shift)) * (1 + 1e-12)
        self.stack = Stack.of([centers])

    def known(self, block: Block) -> Known:
        """Return what is known of the rows of a block, to be changed in place."""
        if block.index not in self.blocks:
            self.blocks[block.index] = Known.nothing(block.n_rows)
        return self.blocks[block.index]

    def assigned(self, offset: Float64s) -> Assigned:
        """Return what a pass at the centers finds, but for the farthest rows; inertia up to rounding of the total."""
        assert self.total is not None
        sums, counts, members, sq_dev = self.total
        moved = self.stack.centers - offset
        # sum w |x - c|^2 = sum w |x - o|^2 - 2 (c - o) . sum w (x - o) + |c - o|^2 sum w
        deviation = sums - counts[:, None] * offset
        inertia = sq_dev - 2 * (moved * deviation).sum(axis=1) + counts * (moved**2).sum(axis=1)
        return Assigned(sums, np.where(members > 0, counts, 0.0), np.maximum(0.0, inertia), None, [])


@dataclass(frozen=True)
class Reassign:
    """Assign anew those rows that the centers may have come too near to. Changes what is `bounded` of each block."""

    bounded: Sequence[Bounded]
    offset: Float64s

    def map(self, block: Block) -> list[Moved]:
        """Reassign rows of one block, for each model."""
        return [
            reassign(block.X, block.weight, model.stack, self.offset, model.drift, *model.known(block))
            for model in self.bounded
        ]

    def merge(self, left: list[Moved], right: list[Moved]) -> list[Moved]:
        """Add up."""
        return [add(a, b) for a, b in zip(left, right, strict=True)]

    def finish(self, total: list[Moved]) -> list[Moved]:
        """Nothing is left to do."""
        return total


def add(left: Moved, right: Moved) -> Moved:
    """Add up what two sets of rows change."""
    return Moved(*(a + b for a, b in zip(left, right, strict=True)))


class Bounds:
    """Assigns the rows to models that move from pass to pass."""

    def __init__(self, scanner: Scanner, offset: Float64s) -> None:
        self._scanner, self._offset = scanner, offset.astype(scanner.samples.dtype).astype(np.float64)
        self._bounded: dict[int, Bounded] = {}

    def assigned(self, numbers: Sequence[int], stack: Stack) -> list[Assigned]:
        """Return what assigning all rows to the models of `stack` yields; `numbers` tell these from other models.

        Passes over the data: one; a second one where a cluster is empty, to find the farthest rows.
        """
        before = self._bounded
        self._bounded = {}
        for m, number in enumerate(numbers):
            centers = stack.centers[stack.of_model(m)]
            self._bounded[number] = before.get(number) or Bounded(centers)
            self._bounded[number].move_to(centers)
        bounded = list(self._bounded.values())
        moved = self._scanner.scan(Reassign(bounded, self._offset), "iteration")
        for model, change in zip(bounded, moved, strict=True):
            model.total = change if model.total is None else add(model.total, change)
        found = [model.assigned(self._offset) for model in bounded]
        if all((part.counts > 0).all() for part in found):
            return found
        return split(self._scanner.scan(Assign(stack, self._offset), "iteration"), stack)

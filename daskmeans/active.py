"""Active rows: iterate on the few rows that can change cluster, without reading the others again.

A full pass at centers C0 knows for each row how much nearer its center is than the second nearest: its gap. While the
centers move by less than that, more exactly while |c_a - c0_a| + max_{b != a} |c_b - c0_b| < gap for a row of cluster
a, the row stays in its cluster, by the triangle inequality. So the rows with the smallest gaps are kept in memory, the
active rows; all others are frozen into sums.

To look ahead beyond that bound, a sample of the frozen rows stands for all of them, with weights, the denser the
smaller the gap: so it is known about how many of them change cluster too. While the bound holds none does, and the
sample changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from daskmeans import kernels
from daskmeans.kernels import Float64s, Stack
from daskmeans.samples import Block, Rows
from daskmeans.scan import Scanner
from daskmeans.steps import Assign, Assigned

# Centers whose shift is not known yet, or that have come to rest, are expected to move a little nevertheless: this
# share of the mean shift.
RESTLESS = 0.1

# More active rows of a model than this share of all cost more arithmetic than they save.
MOST_ACTIVE = 0.25

# The gap of a row with no second center, as a number to reckon with.
FOREVER = 1e100


class Frozen(NamedTuple):
    """What a full pass finds of the rows that it does not keep.

    Attributes
    ----------
    assigned : of all rows.
    smallest_gap : (n_centers,) float64, of the frozen rows of each cluster.
    """

    assigned: Assigned
    smallest_gap: Float64s


@dataclass(frozen=True)
class AssignAndKeep:
    """Assign all rows, and keep those whose gap is below the threshold of their cluster.

    Attributes
    ----------
    thresholds : for each model of the stack, (n_clusters,) float64.
    purpose : of the random words that choose the sample of the frozen rows; None for no sample.
    """

    assign: Assign
    thresholds: Sequence[Float64s]
    seed: int
    purpose: int | None

    @property
    def n_kept(self) -> int:
        """One set of rows for each model."""
        return len(self.thresholds)

    def map(self, block: Block) -> Frozen:
        """Assign the rows of one block, and keep none."""
        return self.map_and_keep(block)[0]

    def map_and_keep(self, block: Block) -> tuple[Frozen, tuple[Block, ...]]:
        """Assign the rows of one block."""
        found = self.assign.run(block, with_labels=True, with_gap=True)
        u = np.empty(0)
        if self.purpose is not None:
            u = kernels.uniform(kernels.random_words(self.seed, self.purpose, block.row_ids()))
        rows, gaps = [], []
        for m, threshold in enumerate(self.thresholds):
            factor, smallest = kernels.freeze(found.gap[m], found.labels[m], threshold, u)
            rows.append(block.take(factor))
            gaps.append(smallest)
        return Frozen(self.assign.collect(block, found), np.concatenate(gaps)), tuple(rows)

    def merge(self, left: Frozen, right: Frozen) -> Frozen:
        """Add up."""
        assigned = self.assign.merge(left.assigned, right.assigned)
        return Frozen(assigned, np.minimum(left.smallest_gap, right.smallest_gap))

    def finish(self, total: Frozen) -> Frozen:
        """Nothing is left to do."""
        return total


@dataclass(frozen=True)
class Choice:
    """How active rows are chosen.

    Attributes
    ----------
    sample : (n_sample, n_features), a uniform sample of the rows: it tells how gaps are distributed.
    share : of all rows that may be kept, over all models.
    sampled : whether a sample of the frozen rows is kept as well.
    must_last : iterations that active rows must be expected to last; a pass that keeps rows costs more arithmetic than
        one that does not.
    """

    sample: Rows
    share: float
    sampled: bool
    must_last: float = 0.0

    def thresholds(self, stack: Stack, offset: Float64s, shifts: Sequence[Float64s | None]) -> list[Float64s] | None:
        """Return for each model the gaps, (n_clusters,), below which rows are active, so that its share is kept.

        The threshold of a cluster is proportional to how fast the gaps of its rows are expected to close: to the last
        shift of its own center and the largest other one. None where the active rows of no model would last as many
        iterations as they must to be worth their while.
        """
        if self.must_last > 0 and all(shift is None for shift in shifts):
            return None
        found = kernels.assign(self.sample, None, stack, offset, with_labels=True, with_gap=True)
        thresholds, longest = [], 0.0
        for m, shift in enumerate(shifts):
            speed = _closing_speed(shift, stack.of_model(m))
            lasts = np.minimum(found.gap[m] / speed[found.labels[m]], FOREVER)
            limit = self._limit(lasts, min(MOST_ACTIVE, self.share / stack.n_models))
            longest = max(longest, limit)
            thresholds.append(limit * speed)
        return thresholds if longest >= self.must_last else None

    def _limit(self, lasts: Float64s, share: float) -> float:
        """Return the limit on how long rows last, (n_sample,), by which a share of them is kept."""
        if not self.sampled:
            return float(np.quantile(lasts, share))
        low, high = 0.0, float(lasts.max()) + np.finfo(float).tiny
        for _ in range(50):
            middle = (low + high) / 2
            chance = (middle / np.maximum(lasts, middle)) ** 2
            low, high = (low, middle) if chance.mean() > share else (middle, high)
        return low


def _closing_speed(shift: Float64s | None, own: slice) -> Float64s:
    """Return by how much the gaps of each cluster close in one iteration, (n_clusters,), up to a factor."""
    n_clusters = own.stop - own.start
    if shift is None or not shift.any():
        return np.ones(n_clusters)
    speed: Float64s = shift + largest_other(shift) + RESTLESS * shift.mean()
    return speed


def largest_other(values: Float64s) -> Float64s:
    """Return for each place the largest value of all other places, 0 where there is none."""
    if len(values) == 1:
        return np.zeros(1)
    first, second = np.argsort(values)[::-1][:2]
    others = np.full(len(values), values[first])
    others[first] = values[second]
    return others


class ActiveRows:
    """The state of one model after a full pass: active rows in memory, all others as sums.

    Attributes
    ----------
    anchor : (n_clusters, n_features) float64, the centers of the full pass.
    at_anchor : what the full pass found, for all rows.
    smallest_gap : (n_clusters,) float64, of the frozen rows of each cluster.
    """

    def __init__(
        self,
        rows: Scanner,
        anchor: Float64s,
        at_anchor: Assigned,
        smallest_gap: Float64s,
        offset: Float64s,
    ) -> None:
        self.anchor, self.at_anchor, self.smallest_gap = anchor, at_anchor, smallest_gap
        self._rows, self._offset = rows, offset
        self._kept_at_anchor = self._assign(anchor)

    def _assign(self, centers: Float64s) -> Assigned:
        return self._rows.scan(Assign(Stack.of([centers]), self._offset))

    def closed(self, centers: Float64s) -> float:
        """Return the largest part of a gap of frozen rows that moving to `centers` can have closed.

        Below 1 every frozen row still belongs to its cluster.
        """
        shift = np.sqrt(((centers - self.anchor) ** 2).sum(axis=1))
        closing = (shift + largest_other(shift)) * (1 + 1e-12)
        parts = np.full(len(shift), np.inf)
        np.divide(closing, self.smallest_gap, out=parts, where=self.smallest_gap > 0)
        return float(np.where(closing > 0, parts, 0.0).max())

    def assigned(self, centers: Float64s) -> Assigned:
        """Return what a full pass at `centers` would find, frozen rows staying in their clusters.

        It is what it finds indeed while less than 1 of each gap is `closed`. Sums are those of the full pass plus what
        the rows in memory have changed: where none has changed cluster, they are the same bits.
        """
        now, then, full = self._assign(centers), self._kept_at_anchor, self.at_anchor
        moved = centers - self.anchor
        sums = full.sums + (now.sums - then.sums)
        counts = full.counts + (now.counts - then.counts)
        # What is neither active nor in the sample; less than nothing where the sample stands for more than there is.
        frozen_sums, frozen_counts = full.sums - then.sums, full.counts - then.counts
        # sum w |x - c|^2 = sum w |x - c0|^2 - 2 (c - c0) . sum w (x - c0) + |c - c0|^2 sum w
        deviation = frozen_sums - frozen_counts[:, None] * self.anchor
        drift = frozen_counts * (moved**2).sum(axis=1) - 2 * (moved * deviation).sum(axis=1)
        inertia = full.inertia + (now.inertia - then.inertia) + drift
        return Assigned(sums, counts, np.maximum(0.0, inertia), full.far, [])

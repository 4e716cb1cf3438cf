"""Active rows: iterate on the few rows that can change cluster, without reading the others again.

A full pass at centers C0 knows for each row how much nearer its center is than the second nearest: its gap. While the
centers move by less than that, more exactly while |c_a - c0_a| + max_{b != a} |c_b - c0_b| < gap for a row of cluster
a, the row stays in its cluster, by the triangle inequality. So the rows with the smallest gaps are kept in memory, the
active rows; all others are frozen into sums.

To look ahead beyond that bound, a sample of the frozen rows stands for all of them, with weights, the denser the
smaller the gap: so it is known about how many of them change cluster too. While the bound holds none does, and the
sample changes nothing.

Several models share the rows in memory: what is kept for one serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from daskmeans import kernels, philox
from daskmeans.jit import Float64s
from daskmeans.kernels import Stack
from daskmeans.samples import Block, Rows
from daskmeans.scan import Scanner
from daskmeans.steps import Assign, Assigned, split

# Centers whose shift is not known yet, or that have come to rest, are expected to move a little nevertheless: this
# share of the mean shift.
RESTLESS = 0.1

# More active rows than this share of all cost more arithmetic than they save.
MOST_ACTIVE = 0.25

# The gap of a row with no second center, as a number to reckon with.
FOREVER = 1e100

# Of an interval, until what is left of it is as narrow as the sample is coarse.
BISECTIONS = 30


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
    """Assign all rows, and keep those whose gap is below the threshold of their cluster, in any of the models.

    Attributes
    ----------
    threshold : (n_centers,) float64.
    purpose : of the random words that choose the sample of the frozen rows; None for no sample.
    """

    assign: Assign
    threshold: Float64s
    seed: int
    purpose: int | None

    def map(self, block: Block) -> Frozen:
        """Assign the rows of one block, and keep none."""
        return self.map_and_keep(block)[0]

    def map_and_keep(self, block: Block) -> tuple[Frozen, Block]:
        """Assign the rows of one block."""
        found = self.assign.run(block, with_labels=True, with_gap=True)
        u = np.empty(0)
        if self.purpose is not None:
            u = philox.uniform(philox.random_words(self.seed, self.purpose, block.row_ids()))
        factor, smallest_gap = kernels.freeze(found.gap, found.labels, self.assign.stack, self.threshold, u)
        return Frozen(self.assign.collect(block, found), smallest_gap), block.take(factor)

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
    share : of all rows that may be kept.
    sampled : whether a sample of the frozen rows is kept as well.
    must_last : iterations that active rows must be expected to last; a pass that keeps rows costs more arithmetic than
        one that does not.
    """

    sample: Rows
    share: float
    sampled: bool
    must_last: float = 0.0

    def threshold(self, stack: Stack, offset: Float64s, shifts: Sequence[Float64s | None]) -> Float64s | None:
        """Return the gap of each center, (n_centers,), below which its rows are active, so that the share is kept.

        The threshold of a cluster is proportional to how fast the gaps of its rows are expected to close: to the last
        shift of its own center and the largest other one. Each model has a like part of what it would have alone. None
        where the active rows of no model would last as many iterations as they must to be worth their while.
        """
        if self.must_last > 0 and all(shift is None for shift in shifts):
            return None
        found = kernels.assign(self.sample, None, stack, offset, with_labels=True, with_gap=True)
        speeds = [_closing_speed(shift, stack.of_model(m)) for m, shift in enumerate(shifts)]
        lasts = np.stack([gap / speed[own] for gap, own, speed in zip(found.gap, found.labels, speeds, strict=True)])
        limits = self._limits(np.minimum(lasts, FOREVER))
        if max(limits) < self.must_last:
            return None
        return np.concatenate([limit * speed for limit, speed in zip(limits, speeds, strict=True)])

    def _limits(self, lasts: Float64s) -> Float64s:
        """Return the limit of each model on how long rows last, (n_models, n_sample), by which the share is kept."""
        share = min(MOST_ACTIVE, self.share)

        def alone(own: Float64s) -> float:
            return _largest(lambda limit: self._kept(own, limit) <= share, own.max())

        limits = np.array([alone(own) for own in lasts])
        if len(limits) > 1:
            limits *= _largest(lambda part: self._kept(lasts, limits[:, None] * part) <= share, 1.0)
        return limits

    def _kept(self, lasts: Float64s, limit: Any) -> float:
        """Return the share of rows that is kept, where they last (n_sample,) or (n_models, n_sample)."""
        if not self.sampled:
            return float(np.atleast_2d(lasts < limit).any(axis=0).mean())
        limit = np.maximum(limit, np.finfo(float).tiny)
        return float(np.atleast_2d((limit / np.maximum(lasts, limit)) ** 2).max(axis=0).mean())


def _largest(holds: Callable[[float], bool], most: float) -> float:
    """Return the largest number up to `most`, about, at which a condition holds that holds for small ones."""
    low, high = 0.0, most + np.finfo(float).tiny
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
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


class Anchor(NamedTuple):
    """One model after a full pass.

    Attributes
    ----------
    centers : (n_clusters, n_features) float64, of the full pass.
    found : what the full pass found, for all rows.
    smallest_gap : (n_clusters,) float64, of the frozen rows of each cluster.
    """

    centers: Float64s
    found: Assigned
    smallest_gap: Float64s

    def closed(self, centers: Float64s) -> float:
        """Return the largest part of a gap of frozen rows that moving to `centers` can have closed.

        Below 1 every frozen row still belongs to its cluster.
        """
        shift = np.sqrt(((centers - self.centers) ** 2).sum(axis=1))
        closing = (shift + largest_other(shift)) * (1 + 1e-12)
        parts = np.full(len(shift), np.inf)
        np.divide(closing, self.smallest_gap, out=parts, where=self.smallest_gap > 0)
        return float(np.where(closing > 0, parts, 0.0).max())

    def extended(self, centers: Float64s, now: Assigned, then: Assigned) -> Assigned:
        """Return what a full pass at `centers` would find, frozen rows staying in their clusters.

        It is what it finds indeed while less than 1 of each gap is `closed`. Sums are those of the full pass plus what
        the rows in memory have changed from `then`, at the anchor, to `now`: where none has changed cluster, they are
        the same bits.
        """
        full, moved = self.found, centers - self.centers
        sums = full.sums + (now.sums - then.sums)
        counts = full.counts + (now.counts - then.counts)
        # What is neither active nor in the sample; less than nothing where the sample stands for more than there is.
        frozen_sums, frozen_counts = full.sums - then.sums, full.counts - then.counts
        # sum w |x - c|^2 = sum w |x - c0|^2 - 2 (c - c0) . sum w (x - c0) + |c - c0|^2 sum w
        deviation = frozen_sums - frozen_counts[:, None] * self.centers
        drift = frozen_counts * (moved**2).sum(axis=1) - 2 * (moved * deviation).sum(axis=1)
        inertia = full.inertia + (now.inertia - then.inertia) + drift
        return Assigned(sums, counts, np.maximum(0.0, inertia), full.far, [])


Iteration: TypeAlias = Generator[Float64s, Assigned, None]
"""Yields centers, (n_clusters, n_features), and is sent what a full pass at them would find."""


@dataclass
class ActiveRows:
    """Rows in memory, and the models whose rows all others are summed up for."""

    rows: Scanner
    anchors: Sequence[Anchor]
    offset: Float64s

    def serve(self, iterations: Mapping[int, Iteration]) -> None:
        """Run the iterations of some models, by their numbers, to their ends, side by side in the same scans."""
        asked = {m: centers for m, iteration in iterations.items() if (centers := next(iteration, None)) is not None}
        if not asked:
            return
        then = self._assigned({m: self.anchors[m].centers for m in asked})
        while asked:
            answers = self._assigned(asked)
            following = {}
            for m, now in answers.items():
                centers = _answered(iterations[m], self.anchors[m].extended(asked[m], now, then[m]))
                if centers is not None:
                    following[m] = centers
            asked = following

    def _assigned(self, centers: Mapping[int, Float64s]) -> dict[int, Assigned]:
        stack = Stack.of(list(centers.values()))
        return dict(zip(centers, split(self.rows.scan(Assign(stack, self.offset)), stack), strict=True))


def _answered(iteration: Iteration, found: Assigned) -> Float64s | None:
    """Send an iteration what it has asked for, and return what it asks for next; None at its end."""
    try:
        return iteration.send(found)
    except StopIteration:
        return None

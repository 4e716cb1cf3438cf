"""Active rows: iterate on the few rows that can change cluster, without reading the others again.

A full pass at centers C0 knows for each row how much nearer its center is than the second nearest: its gap. While the
centers move by less than that, more exactly while |c_a - c0_a| + max_{b != a} |c_b - c0_b| < gap for a row of cluster
a, the row stays in its cluster, by the triangle inequality. So the rows with the smallest gaps are kept in memory, the
active rows; all others are frozen into sums.

To look ahead beyond that bound, a sample of the frozen rows stands for all of them, with weights, the denser the
smaller the gap: so it is known about how many of them change cluster too. While the bound holds none does, and the
sample changes nothing. How dense depends on how far the look-ahead will reach. The first goes far, and most rows can
change cluster: all are as likely to be kept, and none is active. Each next one goes less far, so that ever more of what
is kept lies near the borders, until all rows that can change cluster are active.

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

# More active rows than this share of all cost more arithmetic than they save, but to look ahead, where they save reads.
MOST_ACTIVE = 0.25

# The gap of a row with no second center, as a number to reckon with.
FOREVER = 1e100

# Rows whose gap is below this part of what centers on their way can close are as likely to change cluster, and so to
# be kept. Centers rarely move straight towards a row: of 0.03, 0.1, 0.2, 0.3 and 1 this took the fewest passes on image
# patches (k = 16, 64).
NEAR = 0.1

# A look-ahead may go this much farther than the last: rows were kept for one that goes as far.
FARTHER = 2.0

# Between these powers of 10 lies by how much thresholds and chances are scaled; halved so often, the interval is
# narrower than the sample is coarse.
SMALLEST, LARGEST, BISECTIONS = -100.0, 100.0, 40


class Frozen(NamedTuple):
    """What a full pass finds of the rows that it does not keep.

    Attributes
    ----------
    assigned : of all rows.
    smallest_gap : (n_centers,) float64, of the frozen rows of each cluster.
    """

    assigned: Assigned
    smallest_gap: Float64s


class Chances(NamedTuple):
    """How likely a row is kept: ``min(most, (threshold / gap)^2)``, below the threshold at most.

    Attributes
    ----------
    threshold : (n_centers,) float64.
    most : (n_models,) float64; where it is below 1 no row is active.
    """

    threshold: Float64s
    most: Float64s

    def and_none_of(self, n_centers: int, n_models: int) -> Chances:
        """Return the chances where so many further models follow of which no row is kept."""
        return Chances(np.append(self.threshold, np.zeros(n_centers)), np.append(self.most, np.zeros(n_models)))


@dataclass(frozen=True)
class AssignAndKeep:
    """Assign all rows, and keep the active ones of any of the models, and a sample of the others.

    Attributes
    ----------
    chances : that rows are kept.
    purpose : of the random words that choose the sample of the frozen rows; None for no sample.
    """

    assign: Assign
    chances: Chances
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
        factor, smallest_gap = kernels.freeze(found.gap, found.labels, self.assign.stack, *self.chances, u)
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

    def chances(self, stack: Stack, offset: Float64s, moves: Sequence[Float64s | None]) -> Chances | None:
        """Return how likely rows are kept, so that the share of all is.

        `moves` tells of each model by how much its centers, (n_clusters,), are expected to move until the next pass:
        where a sample is kept, by as much as in the last look-ahead, and else in each iteration by as much as in the
        last one; None where that is not known. All models are served alike: each for as far as it moves. None is
        returned where the active rows would not last as many iterations as they must to be worth their while.
        """
        if self.must_last > 0 and all(move is None for move in moves):
            return None
        found = kernels.assign(self.sample, None, stack, offset, with_labels=True, with_gap=True)
        closing = [
            np.ones(int(k)) if move is None else _closing(move)
            for k, move in zip(np.diff(stack.starts), moves, strict=True)
        ]
        lasts = np.stack([gap / closed[own] for gap, own, closed in zip(found.gap, found.labels, closing, strict=True)])
        if not self.sampled:
            scale = self._scale(lambda scale: lasts < scale)
            if scale < self.must_last:
                return None
            limits, most = np.full(len(moves), scale), np.ones(len(moves))
        else:
            near = np.array([[FOREVER if move is None else NEAR] for move in moves])
            odds = (near / np.maximum(lasts, near)) ** 2
            scale = self._scale(lambda scale: np.minimum(1.0, scale * odds))
            limits, most = near[:, 0] * np.sqrt(scale), np.full(len(moves), min(1.0, scale))
        return Chances(np.concatenate([limit * closed for limit, closed in zip(limits, closing, strict=True)]), most)

    def _scale(self, kept: Callable[[float], Any]) -> float:
        """Return the scale by which rows are `kept`, (n_models, n_sample), so that the share of all is."""
        most = self.share if self.sampled else min(MOST_ACTIVE, self.share)
        return _largest(lambda scale: bool(kept(scale).max(axis=0).mean() <= most))


def _largest(holds: Callable[[float], bool]) -> float:
    """Return the largest number, about, at which a condition holds that holds for small ones."""
    low, high = SMALLEST, LARGEST
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(10.0**middle) else (low, middle)
    return float(10.0**low)


def _closing(move: Float64s) -> Float64s:
    """Return by how much the gaps of each cluster close, (n_clusters,), where centers move by about so much."""
    if not move.any():
        return np.ones(len(move))
    closed: Float64s = move + largest_other(move) + RESTLESS * move.mean()
    return closed


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
        moves = self.moves(centers)
        closing = (moves + largest_other(moves)) * (1 + 1e-12)
        parts = np.full(len(moves), np.inf)
        np.divide(closing, self.smallest_gap, out=parts, where=self.smallest_gap > 0)
        return float(np.where(closing > 0, parts, 0.0).max())

    def moves(self, centers: Float64s) -> Float64s:
        """Return by how much each center, (n_clusters,), has moved to `centers`."""
        shift: Float64s = np.sqrt(((centers - self.centers) ** 2).sum(axis=1))
        return shift

    def is_near(self, centers: Float64s, reach: Float64s | None) -> bool:
        """Tell whether no gap is closed by more than `FARTHER` times what centers close that move by `reach`."""
        if reach is None:
            return True
        moves = self.moves(centers)
        return bool((moves + largest_other(moves) < FARTHER * _closing(reach)).all())

    def extended(self, centers: Float64s, now: Assigned, then: Assigned) -> Assigned:
        """Return what a full pass at `centers` would find, frozen rows staying in their clusters.

        It is what it finds indeed while less than 1 of each gap is `closed`. Sums are those of the full pass plus what
        the rows in memory have changed from `then`, at the anchor, to `now`: where none has changed cluster, they are
        the same bits. Beyond that, what the rows in memory did not tell of a cluster at the anchor is scaled by what is
        left of it: else a small cluster that shrinks could be left with a negative weight.
        """
        full, moved = self.found, centers - self.centers
        if self.closed(centers) < 1:
            sums = full.sums + (now.sums - then.sums)
            counts = full.counts + (now.counts - then.counts)
        else:
            left = np.ones(len(then.counts))
            np.divide(now.counts, then.counts, out=left, where=now.counts < then.counts)
            sums = now.sums + left[:, None] * (full.sums - then.sums)
            counts = now.counts + left * (full.counts - then.counts)
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

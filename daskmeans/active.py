"""Active rows: iterate on the few rows that can change cluster, without reading the others again.

A full pass at centers C0 knows for each row how much nearer its center is than the second nearest: its gap. While the
centers move by less than that, more exactly while |c_a - c0_a| + max_{b != a} |c_b - c0_b| < gap for a row of cluster
a, the row stays in its cluster, by the triangle inequality. So the rows with the smallest gaps are kept in memory, the
active rows; all others are frozen into sums.

To look ahead beyond that bound, a sample of the frozen rows stands for all of them, with weights, the denser the
smaller the gap: so it is known about how many of them change cluster too. It is packed, so rows of it are not quite
where they were, and serve beyond the bound only. How dense it is depends on how far the look-ahead will reach. The
first goes far, and most rows can change cluster: all are as likely to be kept, and none is active. Each next one goes
less far, so that ever more of what is kept lies near the borders, until it is all rows that can change cluster.

Several models share the rows in memory: what is kept for one serves all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from daskmeans import kernels, philox
from daskmeans.freezing import freeze
from daskmeans.jit import Float64s
from daskmeans.kernels import Stack
from daskmeans.packed import KeptBlock
from daskmeans.samples import Block, Rows
from daskmeans.scan import Scanner, Step
from daskmeans.steps import FOR_UNIFORM, Assign, Assigned, split

P = TypeVar("P")
R = TypeVar("R")

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

# Where there is a sample too, this part of what may be kept is for active rows of those models for which it holds at
# least all rows whose gap is below this part of what the last look-ahead has closed. Centers that move farther are
# served better by a denser sample.
ACTIVE_PART, CERTAIN = 0.5, 0.1

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


class Picked(NamedTuple):
    """Rows of one block that are kept: the active ones, and the sample of the others."""

    active: Block
    sample: Block

    def packed(self) -> KeptBlock:
        """Return the active rows as they are, and the sample packed."""
        return KeptBlock.of(self.active, self.sample)


class Limits(NamedTuple):
    """Which rows are kept: those whose gap is below `active`, and others as likely as ``min(most, (likely / gap)^2)``.

    Attributes
    ----------
    active, likely : (n_centers,) float64.
    most : (n_models,) float64.
    """

    active: Float64s
    likely: Float64s
    most: Float64s

    def and_none_of(self, n_centers: int, n_models: int) -> Limits:
        """Return the limits where so many further models follow of which no row is kept."""
        none = np.zeros(n_centers)
        return Limits(
            np.append(self.active, none), np.append(self.likely, none), np.append(self.most, np.zeros(n_models))
        )


@dataclass(frozen=True)
class AssignAndKeep:
    """Assign all rows, and keep the active ones of any of the models, and a sample of the others.

    Attributes
    ----------
    limits : which rows are kept.
    purpose : of the random words that choose the sample of the frozen rows; None for no sample.
    """

    assign: Assign
    limits: Limits
    seed: int
    purpose: int | None

    def map(self, block: Block) -> Frozen:
        """Assign the rows of one block, and keep none."""
        return self.map_and_keep(block)[0]

    def map_and_keep(self, block: Block) -> tuple[Frozen, Picked]:
        """Assign the rows of one block."""
        found = self.assign.run(block, with_labels=True, with_gap=True)
        u = np.empty(0)
        if self.purpose is not None:
            u = philox.uniform(philox.random_words(self.seed, self.purpose, block.row_ids()))
        is_active, factor, smallest_gap = freeze(found.gap, found.labels, self.assign.stack, *self.limits, u)
        active, sample = np.flatnonzero(is_active), np.flatnonzero(factor)
        picked = Picked(block.take(active), block.take(sample, factor[sample]))
        return Frozen(self.assign.collect(block, found), smallest_gap), picked

    def keep(self, picked: Picked) -> KeptBlock:
        """Keep the active rows as they are, and pack the sample."""
        return picked.packed()

    def merge(self, left: Frozen, right: Frozen) -> Frozen:
        """Add up."""
        assigned = self.assign.merge(left.assigned, right.assigned)
        return Frozen(assigned, np.minimum(left.smallest_gap, right.smallest_gap))

    def finish(self, total: Frozen) -> Frozen:
        """Nothing is left to do."""
        return total


@dataclass(frozen=True)
class KeepUniform(Generic[P, R]):
    """Do what another Step does, and keep a uniform sample of the rows beside it.

    Attributes
    ----------
    chance : that a row is kept.
    """

    step: Step[P, R]
    chance: float
    seed: int

    def map(self, block: Block) -> P:
        """Map, and keep no row."""
        return self.step.map(block)

    def map_and_keep(self, block: Block) -> tuple[P, Picked]:
        """Map one block."""
        u = philox.uniform(philox.random_words(self.seed, FOR_UNIFORM, block.row_ids()))
        sample, none = np.flatnonzero(u < self.chance), np.empty(0, dtype=np.int64)
        factor = np.full(len(sample), 1 / self.chance)
        return self.step.map(block), Picked(block.take(none), block.take(sample, factor))

    def keep(self, picked: Picked) -> KeptBlock:
        """Pack the sample."""
        return picked.packed()

    def merge(self, left: P, right: P) -> P:
        """Merge."""
        return self.step.merge(left, right)

    def finish(self, total: P) -> R:
        """Finish."""
        return self.step.finish(total)


@dataclass(frozen=True)
class AssignKept:
    """Assign the active rows, and, to look ahead, the sample too."""

    assign: Assign
    with_sample: bool

    def map(self, block: Block) -> Assigned:
        """Assign the rows of one kept block."""
        assert isinstance(block, KeptBlock)
        if not self.with_sample or not block.sample.n_rows:
            return self.assign.map(block)
        found = [self.assign.map(part) for part in block.parts()]
        return functools.reduce(self.assign.merge, found if not block.n_rows else [self.assign.map(block), *found])

    def merge(self, left: Assigned, right: Assigned) -> Assigned:
        """Add up."""
        return self.assign.merge(left, right)

    def finish(self, total: Assigned) -> Assigned:
        """Nothing is left to do."""
        return total


@dataclass(frozen=True)
class Choice:
    """How active rows are chosen.

    Attributes
    ----------
    sample : (n_sample, n_features), a uniform sample of the rows: it tells how gaps are distributed.
    share : of all rows that may be kept as they are.
    sampled : whether a sample of the frozen rows is kept as well.
    packed : what a row of the sample takes, of what one takes that is kept as it is.
    must_last : iterations that active rows must be expected to last; a pass that keeps rows costs more arithmetic than
        one that does not.
    """

    sample: Rows
    share: float
    sampled: bool
    packed: float = 1.0
    must_last: float = 0.0

    def limits(self, stack: Stack, offset: Float64s, moves: Sequence[Float64s | None]) -> Limits | None:
        """Return which rows are kept, so that they take the share of all.

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
            active = _largest(lambda scale: (lasts.min(axis=0) < scale).mean() <= min(MOST_ACTIVE, self.share))
            if active < self.must_last:
                return None
            return Limits(np.concatenate(closing) * active, np.zeros(len(stack.centers)), np.zeros(len(moves)))
        known = np.array([move is not None for move in moves])[:, None]
        most_active = ACTIVE_PART * self.share
        ready = known & ((lasts < CERTAIN).mean(axis=1, keepdims=True) <= most_active)
        # By the distance to the border, and only within a model by how fast it moves.
        means = np.array([closed.mean() for closed in closing])[:, None]
        nearest = np.where(ready, lasts * means, np.inf).min(axis=0)
        active = _largest(lambda scale: (nearest < scale).mean() <= most_active)
        left = self.share - (nearest < active).mean()
        near = np.where(known, NEAR, FOREVER)
        odds = (near / np.maximum(lasts, near)) ** 2 * (nearest >= active)
        scale = _largest(lambda scale: self.packed * np.minimum(1.0, scale * odds).max(axis=0).mean() <= left)
        centers = np.concatenate(closing)
        models = np.repeat(np.arange(len(moves)), np.diff(stack.starts))
        return Limits(
            np.where(ready, active / means, 0.0)[models, 0] * centers,
            np.sqrt(scale) * near[models, 0] * centers,
            np.full(len(moves), min(1.0, scale)),
        )


def _largest(holds: Callable[[float], Any]) -> float:
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

    def is_near(self, centers: Float64s, reach: Float64s | None, farther: float) -> bool:
        """Tell whether no gap is closed by more than `farther` times what centers close that move by `reach`."""
        if reach is None:
            return True
        moves = self.moves(centers)
        return bool((moves + largest_other(moves) < farther * _closing(reach)).all())

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
    _then: dict[tuple[int, bool], Assigned] = field(default_factory=dict)  # at the anchors, without and with the sample

    def serve(self, iterations: Mapping[int, Iteration]) -> None:
        """Run the iterations of some models, by their numbers, to their ends, side by side in the same scans."""
        asked = {m: centers for m, iteration in iterations.items() if (centers := next(iteration, None)) is not None}
        while asked:
            certain = {m: self.anchors[m].closed(centers) < 1 for m, centers in asked.items()}
            answers: dict[int, Assigned] = {}
            for with_sample in (False, True):
                answers |= self._answers({m: asked[m] for m in asked if certain[m] != with_sample}, with_sample)
            asked = {}
            for m, found in answers.items():
                centers = _answered(iterations[m], found)
                if centers is not None:
                    asked[m] = centers

    def _answers(self, asked: Mapping[int, Float64s], with_sample: bool) -> dict[int, Assigned]:
        """Return what a full pass would find; rows of the sample are not as they were, so only beyond the bound."""
        if not asked:
            return {}
        new = {m: self.anchors[m].centers for m in asked if (m, with_sample) not in self._then}
        if new:
            self._then |= {(m, with_sample): found for m, found in self._assigned(new, with_sample).items()}
        return {
            m: self.anchors[m].extended(asked[m], now, self._then[m, with_sample])
            for m, now in self._assigned(asked, with_sample).items()
        }

    def _assigned(self, centers: Mapping[int, Float64s], with_sample: bool) -> dict[int, Assigned]:
        stack = Stack.of(list(centers.values()))
        step = AssignKept(Assign(stack, self.offset, finds_far=False), with_sample)
        return dict(zip(centers, split(self.rows.scan(step), stack), strict=True))


def _answered(iteration: Iteration, found: Assigned) -> Float64s | None:
    """Send an iteration what it has asked for, and return what it asks for next; None at its end."""
    try:
        return iteration.send(found)
    except StopIteration:
        return None

"""Where the iteration starts: k-means||, k-means++ on a sample or a coreset, random rows; and the polish on samples.

What is done on the sample is done in this process, on the same kernels, and costs no pass over the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import methodcaller
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from daskmeans import kernels
from daskmeans.active import AssignKept
from daskmeans.drawing import Draw, Lot
from daskmeans.jit import Float64s, Int64s
from daskmeans.kernels import Stack
from daskmeans.lloyd import BOUNDED, FARTHEST_AHEAD, PLAIN, Model, State, Stop, advance, farthest, lloyd
from daskmeans.packed import packed_row_bytes
from daskmeans.samples import Rows, samples_from_array
from daskmeans.scan import Scanner
from daskmeans.steps import FOR_CANDIDATES, FOR_CORESET, FOR_RECLUSTER, Assign, RowSet, split

# Greedy k-means++ measures k (2 + log k) times the distances to all its rows; with more rows than this for each
# cluster the choice of centers no longer improves.
GREEDY_ROWS_PER_CLUSTER = 64
GREEDY_MIN_ROWS = 2**14

# Work on the sample costs no pass: so many tries are made for each number of clusters and the best is taken, unless one
# iteration takes more multiplications than this. With a third of the tries image patches (k=16) ended up to 1 % higher.
TRIES = 8
CHEAP_ITERATION = 10**9

# On a coreset more are made, up to so many multiplications an iteration in all, where passes read: image patches (k=16)
# then end within 0.06 % of the best known from 32 seeds, 0.2 % without.
CORESET_TRIES = 32
CHEAP_ITERATIONS = 4 * 10**9

# Candidates are clustered so many times as often: they are fewer, and tell less of which try is good.
RECLUSTERED = 2

# On rows that are kept the tries of a model race, in stages of so many iterations, on so many times as many rows as a
# coreset has, at most; after each the better half of them goes on. How many rows tell tries apart does not depend on
# how many there are. The best ends on all rows.
RACE = ((5, 8), (5, 16), (10, 32), (20, 64), (FARTHEST_AHEAD, 64), (FARTHEST_AHEAD, np.inf))

# The last stages take the arithmetic of so many passes each, at most: what is left to do the look-ahead does, which
# knows more. With 25 the same numbers of reads were needed (image patches, noise, blobs, Zipf), with 5 more.
POLISH_WORK = 10.0

# How far the first look-ahead will go is estimated from every so many-th of the rows that are kept, where these
# converge within so many iterations, and taken for so many times that. ERA-Interim (k = 4 to 20, stores 4 to 16 times
# the budget) took 3.6 reads with it and 4.1 without. Without that condition rows without structure took more, and so
# did eleven models of different k, which share what is kept near the borders of all.
PART, SOON, SURELY = 4, 20, 3.0

# Passes of k-means|| where no number of rounds is given.
AUTO_PASSES = 1

# So many times as many rows as are wanted are drawn from blocks: how many there will be is known from a sample only.
MORE_DRAWN = 1.5

# Tries whose inertia on a sample differs by no more than this part have ended in the same optimum.
SAME_OPTIMUM = 1e-9

# Tries whose inertia exceeds the best by more than this part, on as many rows as greedy k-means++ chooses from, will
# not be the best on all. Fewer rows do not tell: small clusters may be missing.
FAR_BEHIND = 0.05

# With fewer rows the time of an iteration goes into its calls, which plain passes make once for all models.
WORTH_BOUNDS = 2048


class KeptRows(NamedTuple):
    """A uniform sample of the rows that is kept where they are read.

    Attributes
    ----------
    scanner : of it.
    share : about how large a part of the rows it is.
    n_rows : how many rows there are in all.
    room : bytes of it that may be brought into this process.
    """

    scanner: Scanner
    share: float
    n_rows: int
    room: int

    def thinned(self, every: int) -> Scanner:
        """Return a scanner of every so many-th row: in this process where there is room, so that scans need no task."""
        if every == 1:
            return self.scanner
        samples = self.scanner.samples
        row_bytes = packed_row_bytes(samples.n_features, samples.dtype.itemsize, every)
        here = self.share * self.n_rows / every * row_bytes <= self.room
        return self.scanner.seen_through(methodcaller("thinned", every), here=here)


Seeds: TypeAlias = list[Float64s]
"""Initial centers for one model, each (n_clusters, n_features): the tries, the most promising first."""


@dataclass(frozen=True)
class Start:
    """What seeding needs to know.

    Attributes
    ----------
    n_clusters : one entry for each model that is to be seeded.
    sample : uniform sample of the rows.
    n_rows : how many rows it was drawn from.
    offset : (n_features,) float64, a point in the middle of the data.
    seed : of all random numbers.
    """

    n_clusters: tuple[int, ...]
    sample: RowSet
    n_rows: int
    offset: Float64s
    seed: int

    def n_tries(self, k: int) -> int:
        """Return how many tries each model of `k` clusters is worth; several models of as many share them."""
        if self.sample.X.size * k > CHEAP_ITERATION:
            return 1
        return max(2, TRIES // self.n_clusters.count(k))

    def generator(self, purpose: int) -> np.random.Generator:
        """Return random numbers of their own for each purpose."""
        return np.random.Generator(np.random.Philox(key=[self.seed, purpose]))


def random_rows(start: Start) -> list[Seeds]:
    """Take distinct rows of the sample, with probability proportional to weight. No pass over the data."""
    return [[_random(start, k, m).X.astype(np.float64)] for m, k in enumerate(start.n_clusters)]


def _random(start: Start, k: int, m: int) -> RowSet:
    """Return `k` random rows of the sample; they repeat only where there are fewer distinct ones."""
    first = np.sort(np.unique(start.sample.X, axis=0, return_index=True)[1])
    keys = start.generator(FOR_RECLUSTER + m).exponential(size=len(first)) / start.sample.weight[first]
    return start.sample.take(np.resize(first[np.argsort(keys, kind="stable")], k))


def plus_plus_on_sample(start: Start) -> list[Seeds]:
    """Choose centers by greedy k-means++ on the sample. No pass over the data."""
    seeds = []
    for m, k in enumerate(start.n_clusters):
        sample = start.sample
        generator = start.generator(FOR_RECLUSTER + m)
        if len(sample.X) > (limit := greedy_rows(k)):
            sample = sample.take(np.sort(generator.permutation(len(sample.X))[:limit]))
        rows = [plus_plus(sample.X, sample.weight, k, generator) for _ in range(start.n_tries(k))]
        seeds.append([sample.X[chosen].astype(np.float64) for chosen in rows])
    return seeds


def greedy_rows(k: int) -> int:
    """Return how many rows are enough for greedy k-means++ to choose `k` centers from."""
    return max(GREEDY_MIN_ROWS, GREEDY_ROWS_PER_CLUSTER * k)


def plus_plus(X: Rows, weight: Float64s, k: int, generator: np.random.Generator) -> Int64s:
    """Choose k rows of `X` by greedy k-means++ (Arthur & Vassilvitskii 2007, with several tries for each center).

    Parameters
    ----------
    X : (n_rows, n_features) float32 or float64.
    weight : (n_rows,) float64, not all zero.

    Returns
    -------
    (k,) places in `X`. They repeat only where there are fewer than `k` distinct rows.
    """
    points: Float64s = X.astype(np.float64)
    points -= np.average(points, axis=0, weights=weight)  # else |x|^2 - 2 x.c + |c|^2 cancels
    n_tries = 2 + int(np.log(k))
    sq_norm = np.einsum("ij,ij->i", points, points)
    chosen: Int64s = weighted_choice(weight, 1, generator)
    closest = _sq_dist(points, sq_norm, chosen)[0]
    while len(chosen) < k:
        mass = closest * weight
        tries = weighted_choice(mass if mass.any() else weight, n_tries, generator)
        candidates = np.minimum(_sq_dist(points, sq_norm, tries), closest)
        best = int(np.argmin(candidates @ weight))
        chosen = np.append(chosen, tries[best])
        closest = candidates[best]
        closest[tries[best]] = 0.0
    return chosen


def weighted_choice(mass: Float64s, n: int, generator: np.random.Generator) -> Int64s:
    """Return `n` places in `mass`, (n_rows,), each with probability proportional to it."""
    cumulative = np.cumsum(mass)
    places = np.searchsorted(cumulative, generator.random(n) * cumulative[-1], side="right")
    chosen: Int64s = np.minimum(places, np.flatnonzero(mass)[-1])
    return chosen


def _sq_dist(X: Float64s, sq_norm: Float64s, rows: Int64s) -> Float64s:
    """Return the squared distances from some rows to all, (len(rows), n_rows)."""
    return np.maximum(sq_norm[rows, None] - 2 * (X[rows] @ X.T) + sq_norm, 0)


def on_coreset(
    scanner: Scanner,
    start: Start,
    *,
    oversampling_factor: float,
    kept: Scanner | None,
    stop: Stop | None,
    more_tries: int = CORESET_TRIES,
) -> tuple[list[Seeds], RowSet]:
    """Seed by k-means||, and by greedy k-means++ on rows that stand for all; return these too, with their weights.

    One pass draws both the candidates of k-means|| and these rows. The tries of each model are those of both ways,
    iterated on these rows until they `stop`, the best first; where that is None, the most promising one as it is.
    `more_tries` are made by k-means++, at most, and the better ones taken.

    Passes over the data: one; none where the sample is all rows.
    """
    candidates, rows = _drawn(scanner, start, oversampling_factor)
    means, counts = _weighed(_scanner_of(rows.X, rows.weight), candidates, start.offset, kept)
    seeds = []
    for m, k in enumerate(start.n_clusters):
        n_tries, generator = start.n_tries(k), start.generator(FOR_RECLUSTER + m)
        tries = recluster(means, counts, k, n_tries, generator)
        n_more = min(more_tries // start.n_clusters.count(k), CHEAP_ITERATIONS // (rows.X.size * k))
        if stop is None:
            tries = tries[:1]
        else:
            more = [rows.X[plus_plus(rows.X, rows.weight, k, generator)].astype(np.float64) for _ in range(n_more)]
            if more:
                (more,) = polish(rows, [more], stop)
            (tries,) = polish(rows, [tries + more[:n_tries]], stop)
        seeds.append(tries if n_tries > 1 else tries[:1])
    return seeds, rows


def _drawn(scanner: Scanner, start: Start, oversampling_factor: float) -> tuple[RowSet, RowSet]:
    """Draw candidates of k-means||, and a coreset: rows that stand for all.

    Rows of the coreset are drawn by an upper bound of their sensitivity, the largest part that a row can have in the
    cost of any centers: with centers B, of which row x is nearest to b, and with W_b the weight and cost_b the cost of
    the rows of b, d(x, B)^2 / cost + cost_b / (W_b cost) + 1 / (W_b |B|), up to factors (Bachem, Lucic & Krause 2017,
    algorithm 2). So clusters too small or too far for a uniform sample have rows in it. Each is weighted by the inverse
    of its chance. B are the candidates of a first round over the sample, which tells W_b and cost_b too.
    """
    sample, n_rows = start.sample, start.n_rows
    of_sample = _scanner_of(sample.X, sample.weight)
    if len(sample.X) == n_rows:
        scanner = of_sample
    first = sample.take(weighted_choice(sample.weight, 1, start.generator(FOR_CANDIDATES)))
    n_draws = max(1, round(oversampling_factor * max(start.n_clusters)))
    draw = Draw(first.X.astype(np.float64), start.offset, start.seed, (Lot(n_draws, FOR_CANDIDATES + 1),))
    first = RowSet.concatenate([first, of_sample.scan(draw)[0].rows])
    stack = Stack.of([first.X.astype(np.float64)])
    found = of_sample.scan(Assign(stack, start.offset))
    full = found.counts > 0  # of equal candidates only the first has rows
    cost = float(found.inertia.sum())
    floor = np.zeros(len(full))
    floor[full] = (found.inertia[full] + (cost or 1.0) / full.sum()) / found.counts[full]
    expected = (cost + float(floor @ found.counts)) * n_rows / len(sample.X)
    size = min(greedy_rows(max(start.n_clusters)), len(sample.X))
    sensitive = Lot(size + 1, FOR_CORESET, floor, threshold=MORE_DRAWN * size / expected)
    draw = replace(draw, candidates=stack.centers, lots=(Lot(n_draws, FOR_CANDIDATES + 2), sensitive))
    drawn, of_coreset = scanner.scan(draw, "k-means|| 1/1")
    scanner.judge(drawn.cost, None)
    candidates = RowSet.concatenate([first, drawn.rows])
    if len(candidates.X) < max(start.n_clusters):
        candidates = RowSet.concatenate([candidates, _random(start, max(start.n_clusters), 0)])
    if size == n_rows or len(of_coreset.keys) < max(start.n_clusters):
        return candidates, sample
    threshold = sensitive.threshold
    if len(of_coreset.keys) > size:
        threshold, of_coreset = float(of_coreset.keys[-1]), of_coreset.smallest(size)
    chance = -np.expm1(-of_coreset.mass * threshold)
    return candidates, of_coreset.rows._replace(weight=of_coreset.rows.weight / chance)


def scalable(
    scanner: Scanner,
    start: Start,
    *,
    oversampling_factor: float,
    rounds: int,
    kept: Scanner | None = None,
) -> list[Seeds]:
    """Seed by k-means|| (Bahmani et al. 2012, algorithm 2), with one set of candidates for all models.

    Passes over the data: `rounds` to draw candidates; one to weigh them, where no uniform sample of the rows is `kept`
    that tells. None where the sample is all rows.
    """
    if len(start.sample.X) == start.n_rows:
        scanner, kept = _scanner_of(start.sample.X, start.sample.weight), None
    n_draws = max(1, round(oversampling_factor * max(start.n_clusters)))
    candidates = start.sample.take(weighted_choice(start.sample.weight, 1, start.generator(FOR_CANDIDATES)))
    for number in range(1, rounds + 1):
        lot = Lot(n_draws, FOR_CANDIDATES + number)
        step = Draw(candidates.X.astype(np.float64), start.offset, start.seed, (lot,))
        (drawn,) = scanner.scan(step, f"k-means|| {number}/{rounds}")
        scanner.judge(drawn.cost, None)
        candidates = RowSet.concatenate([candidates, drawn.rows])
    if len(candidates.X) < max(start.n_clusters):
        candidates = RowSet.concatenate([candidates, _random(start, max(start.n_clusters), 0)])
    means, counts = _weighed(scanner, candidates, start.offset, kept)
    return [
        recluster(means, counts, k, start.n_tries(k), start.generator(FOR_RECLUSTER + m))
        for m, k in enumerate(start.n_clusters)
    ]


def _weighed(scanner: Scanner, candidates: RowSet, offset: Float64s, kept: Scanner | None) -> tuple[Rows, Float64s]:
    """Return the means and the weights of the rows that are nearest to each candidate.

    The mean of these rows stands for them better than the candidate, and what counts them knows it.
    """
    weigh = Assign(Stack.of([candidates.X.astype(np.float64)]), offset, finds_far=False)
    if kept is None:
        found = scanner.scan(weigh, "k-means|| weights")
        scanner.judge(float(found.inertia.sum()), None)
        sums, counts = found.sums, found.counts
    else:
        found = kept.scan(AssignKept(weigh, with_sample=True))
        # A candidate is a row too, and all there is of a cluster so small that the sample has missed it.
        sums = found.sums + candidates.weight[:, None] * candidates.X
        counts = found.counts + candidates.weight
    full = counts > 0
    return (sums[full] / counts[full, None]).astype(candidates.X.dtype), counts[full]


def recluster(candidates: Rows, weight: Float64s, k: int, n_tries: int, generator: np.random.Generator) -> Seeds:
    """Cluster weighted points, (n_candidates, n_features), by k-means++ and Lloyd's iteration: the best tries."""
    tries = [plus_plus(candidates, weight, k, generator) for _ in range(max(TRIES, RECLUSTERED * n_tries))]
    stop = Stop(max_iter=100, sq_shift=0.0)
    models = in_memory(candidates, weight, [candidates[rows] for rows in tries], stop)
    models.sort(key=lambda model: model.total_inertia)
    return [model.centers for model in models[:n_tries]]


def polish(sample: RowSet, seeds: list[Seeds], stop: Stop) -> list[Seeds]:
    """Iterate on the sample from each try, and return those of each model that may be the best, best so far first."""
    polished = []
    stop = replace(stop, moves_empty=False)
    for tries in seeds:
        models = in_memory(sample.X, sample.weight, tries, stop)
        models.sort(key=lambda model: model.total_inertia)
        inertia = np.array([model.total_inertia for model in models])
        may_be_best = np.append(True, inertia[1:] > (1 + SAME_OPTIMUM) * inertia[:-1])
        if len(sample.X) >= greedy_rows(len(tries[0])):
            may_be_best &= inertia <= (1 + FAR_BEHIND) * inertia[0]
        polished.append([model.centers for model, keeps in zip(models, may_be_best, strict=True) if keeps])
    return polished


class Polished(NamedTuple):
    """Where iterating on a sample of the rows has led one model.

    Attributes
    ----------
    centers : (n_clusters, n_features) float64.
    reach : (n_clusters,) float64, how far from there all rows are expected to lead; None where that is not known.
    """

    centers: Float64s
    reach: Float64s | None


def polish_on_kept(kept: KeptRows, seeds: list[Seeds], stop: Stop, offset: Float64s) -> list[Polished]:
    """Iterate on rows that are kept.

    Returns the best of each model. The tries of one race: after so many iterations only the better half of them goes
    on, on more of the rows.
    """
    stop = replace(stop, moves_empty=False)
    races = [[Model(centers) for centers in tries] for tries in seeds]
    few = greedy_rows(max(len(tries[0]) for tries in seeds))
    every, rows = 1, kept.scanner
    for most, times in RACE:
        before, every = every, max(1, int(kept.share * kept.n_rows / (times * few)))
        if every != before:  # nothing found on other rows holds
            races = [[Model(model.centers) for model in tries] for tries in races]
            rows = kept.thinned(every)
        n_iter = min(most, farthest(kept.share / every, POLISH_WORK))
        _iterate(rows, [model for tries in races for model in tries], n_iter, stop, offset)
        races = [_better_half(tries) for tries in races]
    alone = len(races) == 1
    return [Polished(best.centers, _reach(kept, best, stop, offset) if alone else None) for best, *_ in races]


def _reach(kept: KeptRows, polished: Model, stop: Stop, offset: Float64s) -> Float64s | None:
    """Return how far from the centers that rows which are kept have led to all rows are expected to lead.

    Part of a sample and all of it end as far apart as the sample and all rows do, times a factor that follows from
    their numbers. None is returned where this does not show soon, so that it might be much farther.
    """
    if not polished.converged:
        return None
    model = Model(polished.centers)
    _iterate(kept.thinned(PART), [model], SOON, stop, offset)
    moved = np.sqrt(((model.centers - polished.centers) ** 2).sum(axis=1))
    reach: Float64s = SURELY * np.sqrt((1 - kept.share) / (PART - 1)) * moved
    return reach if model.converged and reach.any() else None


def _iterate(rows: Scanner, models: Sequence[Model], n_iter: int, stop: Stop, offset: Float64s) -> None:
    """Move models on rows that are kept, so many times at most. Changes the models."""
    for _ in range(n_iter):
        moving = [model for model in models if not model.converged]
        if not moving:
            return
        stack = Stack.of([model.centers for model in moving])
        found = rows.scan(AssignKept(Assign(stack, offset, finds_far=False), with_sample=True))
        for model, part in zip(moving, split(found, stack), strict=True):
            advance(model, part, stop, rows.samples.dtype)


def _better_half(tries: list[Model]) -> list[Model]:
    return sorted(tries, key=lambda model: model.total_inertia)[: -(-len(tries) // 2)]


def join_starts(sample: RowSet, seeds: list[Seeds], offset: Float64s) -> list[Seeds]:
    """Return the tries of all models of each number of clusters, those of the lowest inertia on the sample first."""
    tries = [centers for of_model in seeds for centers in of_model]
    stack = Stack.of(tries)
    found = kernels.assign(np.ascontiguousarray(sample.X), sample.weight, stack, offset)
    inertia = [float(found.inertia[stack.of_model(m)].sum()) for m in range(len(tries))]
    joined: dict[int, Seeds] = {}
    for m in np.argsort(inertia, kind="stable"):
        joined.setdefault(len(tries[m]), []).append(tries[m])
    return [joined[k] for k in dict.fromkeys(len(centers) for centers in tries)]


def in_memory(X: Rows, weight: Float64s, seeds: Sequence[npt.NDArray[np.floating]], stop: Stop) -> list[Model]:
    """Run Lloyd's iteration from each of `seeds` on rows in memory; no pass over the data."""
    models = [Model(centers.astype(np.float64)) for centers in seeds]
    method = BOUNDED if len(X) >= WORTH_BOUNDS else PLAIN
    lloyd(_scanner_of(X, weight), State(models), stop, X.mean(axis=0, dtype=np.float64), method)
    return models


def _scanner_of(X: Rows, weight: Float64s) -> Scanner:
    """Return a scanner of rows in memory."""
    unit = bool((weight == 1).all())
    return Scanner(samples_from_array(np.ascontiguousarray(X), None if unit else weight))

"""Lloyd's iteration on stacked models: passes, active rows, look-ahead, convergence, empty clusters.

Must not know where blocks come from or how a pass is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from daskmeans.active import ActiveRows, Anchor, AssignAndKeep, Choice, Iteration
from daskmeans.bounds import Bounds
from daskmeans.jit import Float64s
from daskmeans.kernels import Stack
from daskmeans.scan import Scanner
from daskmeans.steps import FOR_FROZEN, Assign, Assigned, Far, Sink, split
from daskmeans.transforms import on_sphere

# A look-ahead ends when its squared shifts are at most this part of the tolerance, for each model that shares the rows
# in memory and at most all of it, or after this many updates. The fewer rows tell of one model, the sooner its updates
# follow the noise only: eleven models on uniform or normal rows took up to twice as many passes with this part for all.
AHEAD_QUIETER = 0.1
FARTHEST_AHEAD = 300

# Iterations on rows in memory cost no read, but arithmetic: that of so many passes, at most. With 60 % of the rows in
# memory, of 64 features, they took 65 s without this, and 25 s with it, to the same number of reads of 2 s each.
AHEAD_WORK = 25.0


def farthest(share: float, work: float = AHEAD_WORK) -> int:
    """Return how many iterations on a share of all rows, in memory, are worth their arithmetic."""
    return max(1, min(FARTHEST_AHEAD, round(work / share)))


@dataclass(frozen=True)
class Stop:
    """When to stop, and where centers may come to lie.

    Attributes
    ----------
    max_iter : updates of the centers, at most.
    sq_shift : stop when the squared shifts of the centers, summed over clusters, are at most this.
    spherical : whether rows have length 1 and each update brings the centers to length 1 too: spherical k-means
        (Dhillon & Modha 2001).
    moves_empty : whether empty clusters move to rows far from their centers. On a sample they stay: it may have missed
        the few rows that they are made of.
    """

    max_iter: int
    sq_shift: float
    spherical: bool = False
    moves_empty: bool = True


@dataclass(frozen=True)
class Method:
    """How to iterate.

    Attributes
    ----------
    choice : which rows are active between passes; None for plain passes.
    look_ahead : whether to iterate on the active rows beyond the bound within which that is exact.
    bounded : whether rows lie in this process and bounds are kept of each, so that passes look at few of them.
    farthest : updates of a look-ahead, at most.
    settles : whether models at rest take part in the passes of others until they are settled: so nothing but the
        slowest may need a pass of its own to be scored.
    """

    choice: Choice | None = None
    look_ahead: bool = False
    seed: int = 0
    bounded: bool = False
    farthest: int = FARTHEST_AHEAD
    settles: bool = False


PLAIN = Method()
BOUNDED = Method(bounded=True)

# After a look-ahead that a full pass has rejected the next goes for about this part of its way.
LESS_FAR = 0.25

# A look-ahead may go so many times as far as the last, for which rows were kept: by the least part that the last has
# gained of the inertia it foresaw. Without this every second one was rejected on normal rows in 16 dimensions.
FARTHER = {0.5: 2.0, 0.25: 1.0, 0.0: 0.5}


@dataclass
class Model:
    """One model on its way.

    Attributes
    ----------
    centers : (n_clusters, n_features) float64, each value representable in the dtype of the rows.
    n_iter : updates of the centers so far, those of look-aheads not counted; the last one is, even if left out.
    converged : whether the last update met the tolerance.
    settled : whether inertia and counts belong to these very centers.
    inertia : (n_clusters,) float64, of the centers that rows were last assigned to.
    counts : (n_clusters,) float64, likewise; where an empty cluster has moved to a row, with that row.
    shift : (n_clusters,) float64, by how much the last update moved each center.
    means : (n_clusters, n_features) float64, of the rows of these very centers, where they are known.
    retreat : (n_clusters, n_features) float64, while `centers` are ahead of what is certain: the last ones that are,
        and what a full pass at the centers ahead must better: `inertia_to_better`.
    foreseen : the inertia that the last look-ahead has foreseen; infinity where none has.
    farther : how many times as far as the last the next look-ahead may go.
    reach : (n_clusters,) float64, by how much the last look-ahead has moved each center: the next will go about as far;
        before the first what is expected of it, or None.
    """

    centers: Float64s
    n_iter: int = 0
    converged: bool = False
    settled: bool = False
    inertia: Float64s | None = None
    counts: Float64s | None = None
    shift: Float64s | None = None
    means: Float64s | None = None
    retreat: Float64s | None = None
    inertia_to_better: float = np.inf
    foreseen: float = np.inf
    farther: float = max(FARTHER.values())
    reach: Float64s | None = None

    @property
    def total_inertia(self) -> float:
        """Inertia of the centers that rows were last assigned to."""
        assert self.inertia is not None
        return float(self.inertia.sum())

    @property
    def sq_shift(self) -> float:
        """Squared shifts of the last update, summed over clusters."""
        return 0.0 if self.shift is None else float((self.shift**2).sum())

    def rests(self, stop: Stop) -> bool:
        """Whether the centers move no more."""
        return self.converged or self.n_iter >= stop.max_iter

    def go_ahead(self, centers: Float64s, *, to_better: float, foreseen: float = np.inf) -> None:
        """Move to `centers` that nothing vouches for; a full pass must find less inertia there than `to_better`."""
        self.retreat, self.inertia_to_better, self.foreseen = self.centers, to_better, foreseen
        self.centers = centers

    def fall_back(self) -> None:
        """Return from where nothing vouched for the centers: a full pass found them to be no better."""
        assert self.retreat is not None
        self.centers, self.retreat = self.retreat, None
        self.farther = max(FARTHER.values())
        if self.reach is not None:
            self.reach = LESS_FAR * self.reach

    def go_on(self, inertia: float) -> None:
        """Go on from where the centers are, with so much inertia: a full pass vouches for them."""
        if self.retreat is not None:
            foreseen, gained = self.inertia_to_better - self.foreseen, self.inertia_to_better - inertia
            self.farther = next(farther for part, farther in FARTHER.items() if gained >= part * foreseen)
        self.retreat = None

    def settle(self, found: Assigned) -> None:
        """Take over what assigning the rows to these very centers has found."""
        self.inertia, self.counts, self.settled = found.inertia, found.counts, True
        self.means = found.sums / np.where(found.counts > 0, found.counts, 1.0)[:, None]


@dataclass
class State:
    """How far an iteration has come: all that must be known to go on.

    Attributes
    ----------
    n_passes : passes of the iteration so far.
    """

    models: list[Model]
    n_passes: int = 0


def lloyd(
    scanner: Scanner,
    state: State,
    stop: Stop,
    offset: Float64s,
    method: Method = PLAIN,
    save: Callable[[State], None] | None = None,
) -> None:
    """Iterate until all models have converged; each pass serves all that have not. Changes `state`.

    Passes over the data: at most one for each iteration of the slowest model.
    """
    dtype = scanner.samples.dtype
    bounds = Bounds(scanner, offset) if method.bounded else None
    while moving := [m for m in state.models if not m.rests(stop)]:
        at_rest = _least_inertia([m for m in state.models if m.rests(stop)])
        if bounds is None:
            waiting = [m for m in state.models if method.settles and m.rests(stop) and not m.settled]
            found = _full_pass(scanner, moving, waiting, stop, offset, method, FOR_FROZEN + state.n_passes)
        else:
            found = bounds.assigned([id(model) for model in moving], Stack.of([model.centers for model in moving]))
            for model, part in zip(moving, found, strict=True):
                advance(model, part, stop, dtype)
                model.settled = False
        state.n_passes += 1
        ahead = min(range(len(moving)), key=lambda m: found[m].inertia.sum())
        # Models at rest count too: else the curve of passes would rise as soon as the best one rests.
        scanner.judge(float(min(found[ahead].inertia.sum(), at_rest)), moving[ahead].sq_shift)
        if save is not None:
            save(state)


def _least_inertia(models: Sequence[Model]) -> float:
    """Return the least inertia of some models, infinity where none is known."""
    return min((model.total_inertia for model in models if model.inertia is not None), default=np.inf)


def _full_pass(
    scanner: Scanner,
    moving: Sequence[Model],
    waiting: Sequence[Model],
    stop: Stop,
    offset: Float64s,
    method: Method,
    purpose: int,
) -> list[Assigned]:
    """Assign all rows, move models on, and iterate on active rows; settle the `waiting` ones. Changes the models.

    `purpose` is that of the random words. Returns what the pass found for each model.
    """
    stack = Stack.of([model.centers for model in (*moving, *waiting)])
    found, active = _assigned(scanner, moving, stack, offset, method, purpose)
    for model, part in zip(waiting, found[len(moving) :], strict=True):
        model.settle(part)
    ahead = None
    if method.look_ahead:
        ahead = replace(stop, max_iter=method.farthest, sq_shift=min(1.0, AHEAD_QUIETER * len(moving)) * stop.sq_shift)
    iterations = {}
    for m, (model, part) in enumerate(zip(moving, found, strict=False)):
        inertia = float(part.inertia.sum())
        if model.retreat is not None and inertia >= model.inertia_to_better:
            model.fall_back()
            continue
        model.go_on(inertia)
        advance(model, part, stop, scanner.samples.dtype)
        if active is not None and (method.settles or method.look_ahead or not model.rests(stop)):
            iterations[m] = iteration(active.anchors[m], model, stop, ahead, scanner.samples.dtype)
    if active is not None:
        active.serve(iterations)
    return found


def _assigned(
    scanner: Scanner, models: Sequence[Model], stack: Stack, offset: Float64s, method: Method, purpose: int
) -> tuple[list[Assigned], ActiveRows | None]:
    """Assign all rows, and keep the active ones of the `models`, the first ones of the stack, where they pay."""
    assign, choice = Assign(stack, offset), method.choice
    of_models = Stack.of([model.centers for model in models])
    moves = [model.reach if method.look_ahead else model.shift for model in models]
    limits = None if choice is None else choice.limits(of_models, offset, moves)
    if choice is None or limits is None:
        return split(scanner.scan(assign, "iteration"), stack), None
    limits = limits.and_none_of(len(stack.centers) - len(of_models.centers), stack.n_models - len(models))
    step = AssignAndKeep(assign, limits, method.seed, purpose if choice.sampled else None)
    frozen, rows = scanner.scan_and_keep(step, "iteration")
    found = split(frozen.assigned, stack)
    anchors = [
        Anchor(model.centers, part, frozen.smallest_gap[stack.of_model(m)])
        for m, (model, part) in enumerate(zip(models, found, strict=False))
    ]
    return found, ActiveRows(rows, anchors, offset)


def iteration(anchor: Anchor, model: Model, stop: Stop, ahead: Stop | None, dtype: np.dtype[Any]) -> Iteration:
    """Iterate on active rows as far as that is exact; then, if `ahead` is given, look ahead. No pass. Changes `model`.

    `ahead` says when the look-ahead stops. Where it is given, an update that meets the tolerance is left out if a pass
    were needed to find the inertia of where it leads to.
    """
    certain, found = anchor.centers, anchor.found
    while not model.rests(stop) and anchor.closed(model.centers) < 1:
        certain, found = model.centers, (yield model.centers)
        if not (found.counts > 0).all():
            return  # where the empty cluster moves to is for a full pass to say
        advance(model, found, stop, dtype)
    if model.settled:
        return
    if model.rests(stop):
        if anchor.closed(model.centers) < 1:
            model.settle((yield model.centers))
        elif ahead is not None and model.converged and (found.counts > 0).all():
            model.centers = certain
            model.settle(found)
    elif ahead is not None:
        scout = Model(model.centers)
        while not scout.rests(ahead) and anchor.is_near(scout.centers, model.reach, model.farther):
            found = yield scout.centers
            if not (found.counts > 0).all():
                break
            advance(scout, found, ahead, dtype)
        here = float(anchor.found.inertia.sum())
        model.go_ahead(scout.centers, to_better=here, foreseen=here if scout.inertia is None else scout.total_inertia)
        model.reach = anchor.moves(scout.centers)


def advance(model: Model, found: Assigned, stop: Stop, dtype: np.dtype[Any]) -> None:
    """Move the centers of `model` to the means of their rows."""
    if not stop.moves_empty:
        found = found._replace(far=None)
    centers, counts = updated_centers(model.centers, found, dtype, spherical=stop.spherical)
    if _no_row_has_moved(model, found, centers, dtype):
        centers = model.centers
    model.shift = np.sqrt(((centers - model.centers) ** 2).sum(axis=1))
    model.inertia, model.counts = found.inertia, counts
    model.n_iter += 1
    model.settled, model.means = False, None
    model.converged = model.sq_shift <= stop.sq_shift
    model.centers = centers
    if not model.shift.any():
        model.settle(found)


def _no_row_has_moved(model: Model, found: Assigned, centers: Float64s, dtype: np.dtype[Any]) -> bool:
    """Tell whether the new centers differ from the old ones by rounding only.

    Sums of a full pass differ by rounding from those that active rows have changed, so shifts need not be exactly 0.
    """
    if model.counts is None or (np.abs(found.counts - model.counts) > 1e-13 * model.counts).any():
        return False
    shift, size = np.abs(centers - model.centers), np.abs(centers).max()
    return bool((shift <= 4 * np.finfo(dtype).eps * size).all())


def updated_centers(
    centers: Float64s, found: Assigned, dtype: np.dtype[Any], *, spherical: bool = False
) -> tuple[Float64s, Float64s]:
    """Return the means of each cluster's rows, or their directions, rounded to the dtype of the rows; and the counts.

    Empty clusters move to the rows farthest from their centers, which leave their clusters, as in scikit-learn; where
    none are given, or all rows lie on centers, they stay.
    """
    sums, counts = found.sums.copy(), found.counts.copy()
    if found.far is not None and not (counts > 0).all():
        _move_empty(sums, counts, found.far)
    updated = centers.copy()
    full = counts > 0
    means = sums[full] / counts[full, None]
    updated[full] = (on_sphere(means, centers[full]) if spherical else means).astype(dtype)
    return updated, counts


def _move_empty(sums: Float64s, counts: Float64s, far: Far) -> None:
    for cluster, row in zip(np.flatnonzero(counts == 0), range(len(far.sq_dist)), strict=False):
        x = far.rows.X[row].astype(np.float64)
        rounding = 4 * np.finfo(far.rows.X.dtype).eps * np.abs(x).max()
        if far.sq_dist[row] <= len(x) * rounding**2:
            break  # all rows lie on centers
        weight, old = far.rows.weight[row], far.label[row]
        moved = weight * x
        sums[old] -= moved
        counts[old] -= weight
        sums[cluster] = moved
        counts[cluster] = weight


def settle(
    scanner: Scanner, models: Sequence[Model], offset: Float64s, sink: Sink | None
) -> tuple[Model, list[Any] | None]:
    """Make inertia and counts those of the final centers, and return the best model and what the sink returned.

    Passes over the data: none where all models are settled and no labels are asked for; else one, and a second one
    where labels of another model than the one that was ahead are needed.
    """
    if sink is None:
        settle_all(scanner, models, offset)
        return min(models, key=lambda model: model.total_inertia), None
    ahead = min(range(len(models)), key=lambda m: models[m].total_inertia)
    outputs = _assign_all(scanner, models, offset, sink, ahead)
    best = min(range(len(models)), key=lambda m: models[m].total_inertia)
    if best != ahead:
        outputs = _assign_all(scanner, models[best : best + 1], offset, sink, 0)
    return models[best], outputs


def settle_all(scanner: Scanner, models: Sequence[Model], offset: Float64s) -> None:
    """Make inertia and counts those of the final centers. At most one pass over the data."""
    moved, others = [m for m in models if not m.settled], [m for m in models if m.settled]
    if moved:
        _assign_all(scanner, moved, offset, None, 0, _least_inertia(others))


def _assign_all(
    scanner: Scanner,
    models: Sequence[Model],
    offset: Float64s,
    sink: Sink | None,
    sink_model: int,
    of_others: float = np.inf,
) -> list[Any]:
    """Settle the models; `of_others` is the least inertia of those that are settled."""
    stack = Stack.of([model.centers for model in models])
    found = scanner.scan(Assign(stack, offset, sink, sink_model), "inertia" if sink is None else "labels")
    for model, part in zip(models, split(found, stack), strict=True):
        model.settle(part)
    scanner.judge(min(_least_inertia(models), of_others), None)
    return found.outputs

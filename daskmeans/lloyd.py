"""Lloyd's iteration on stacked models: passes, convergence, empty clusters.

Must not know where blocks come from or how a pass is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daskmeans.kernels import Float64s, Stack
from daskmeans.scan import Scanner
from daskmeans.steps import Assign, Assigned, Far, Sink


@dataclass
class Model:
    """One model on its way.

    Attributes
    ----------
    centers : (n_clusters, n_features) float64, each value representable in the dtype of the rows.
    n_iter : updates of the centers so far.
    converged : whether the last update met the tolerance.
    fixed : whether the last update changed nothing, so that inertia and counts belong to these very centers.
    inertia : (n_clusters,) float64, of the centers that rows were last assigned to.
    counts : (n_clusters,) float64, likewise.
    """

    centers: Float64s
    n_iter: int = 0
    converged: bool = False
    fixed: bool = False
    inertia: Float64s | None = None
    counts: Float64s | None = None

    @property
    def total_inertia(self) -> float:
        """Inertia of the centers that rows were last assigned to."""
        assert self.inertia is not None
        return float(self.inertia.sum())


@dataclass(frozen=True)
class Stop:
    """When to stop.

    Attributes
    ----------
    max_iter : updates of the centers, at most.
    sq_shift : stop when the squared shifts of the centers, summed over clusters, are at most this.
    """

    max_iter: int
    sq_shift: float


def lloyd(scanner: Scanner, models: Sequence[Model], stop: Stop, offset: Float64s) -> None:
    """Iterate until all `models` have converged; each pass serves all that have not. Changes `models`.

    Passes over the data: one for each iteration of the slowest model.
    """
    while moving := [m for m in models if not m.converged and m.n_iter < stop.max_iter]:
        stack = Stack.of([model.centers for model in moving])
        found = split(scanner.scan(Assign(stack, offset), "iteration"), stack)
        shifts = [advance(model, part, stop, scanner.samples.dtype) for model, part in zip(moving, found, strict=True)]
        best = min(range(len(moving)), key=lambda m: moving[m].total_inertia)
        scanner.judge(moving[best].total_inertia, shifts[best])


def advance(model: Model, found: Assigned, stop: Stop, dtype: np.dtype[Any]) -> float:
    """Move the centers of `model` to the means of their rows, and return the sum of squared shifts."""
    centers = updated_centers(model.centers, found, dtype)
    sq_shift = float(((centers - model.centers) ** 2).sum())
    model.inertia, model.counts = found.inertia, found.counts
    model.n_iter += 1
    model.fixed = sq_shift == 0
    model.converged = sq_shift <= stop.sq_shift
    model.centers = centers
    return sq_shift


def split(found: Assigned, stack: Stack) -> list[Assigned]:
    """Return the part of each model of the stack."""
    return [
        Assigned(found.sums[own], found.counts[own], found.inertia[own], [found.far[m]], [])
        for m, own in ((m, stack.of_model(m)) for m in range(stack.n_models))
    ]


def updated_centers(centers: Float64s, found: Assigned, dtype: np.dtype[Any]) -> Float64s:
    """Return the means of each cluster's rows, rounded to the dtype of the rows.

    Empty clusters move to the rows farthest from their centers, which leave their clusters, as in scikit-learn; where
    all rows lie on centers there is nowhere to move to, and they stay.
    """
    sums, counts = found.sums.copy(), found.counts.copy()
    _move_empty(sums, counts, found.far[0])
    updated = centers.copy()
    full = counts > 0
    updated[full] = (sums[full] / counts[full, None]).astype(dtype)
    return updated


def _move_empty(sums: Float64s, counts: Float64s, far: Far) -> None:
    for cluster, row in zip(np.flatnonzero(counts == 0), range(len(far.sq_dist)), strict=False):
        if far.sq_dist[row] == 0:
            break
        weight, old = far.rows.weight[row], far.label[row]
        moved = weight * far.rows.X[row].astype(np.float64)
        sums[old] -= moved
        counts[old] -= weight
        sums[cluster] = moved
        counts[cluster] = weight


def settle(
    scanner: Scanner, models: Sequence[Model], offset: Float64s, sink: Sink | None
) -> tuple[Model, list[Any] | None]:
    """Make inertia and counts those of the final centers, and return the best model and what the sink returned.

    Passes over the data: none where all models stand at a fixed point and no labels are asked for; else one, and a
    second one where labels of another model than the one that was ahead are needed.
    """
    ahead = min(range(len(models)), key=lambda m: models[m].total_inertia if models[m].n_iter else 0.0)
    if sink is None and all(model.fixed for model in models):
        return models[ahead], None
    outputs: list[Any] | None = _assign_all(scanner, models, offset, sink, ahead)
    best = min(range(len(models)), key=lambda m: models[m].total_inertia)
    if sink is not None and best != ahead:
        outputs = _assign_all(scanner, models[best : best + 1], offset, sink, 0)
    return models[best], None if sink is None else outputs


def _assign_all(
    scanner: Scanner, models: Sequence[Model], offset: Float64s, sink: Sink | None, sink_model: int
) -> list[Any]:
    stack = Stack.of([model.centers for model in models])
    title = "inertia" if sink is None else "labels"
    found = scanner.scan(Assign(stack, offset, sink, sink_model), title)
    for model, part in zip(models, split(found, stack), strict=True):
        model.inertia, model.counts = part.inertia, part.counts
    scanner.judge(min(model.total_inertia for model in models), None)
    return found.outputs

"""The Steps that draw at random: rows for a round of k-means||, and whole partitions.

Must not know of Dask or of where blocks come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from daskmeans import kernels, philox
from daskmeans.jit import Float64s
from daskmeans.kernels import Stack
from daskmeans.samples import Block
from daskmeans.steps import RowSet


class Drawn(NamedTuple):
    """Rows drawn with probability by their mass, without replacement.

    Attributes
    ----------
    rows : smallest key first.
    keys, mass : (n_rows,) float64.
    cost : weighted sum of squared distances to the nearest candidate, over all rows.
    """

    rows: RowSet
    keys: Float64s
    mass: Float64s
    cost: float

    def smallest(self, n: int) -> Drawn:
        """Return the `n` rows with the smallest keys."""
        order = np.lexsort((self.rows.row_ids, self.keys))[:n]
        return Drawn(self.rows.take(order), self.keys[order], self.mass[order], self.cost)


class Lot(NamedTuple):
    """Rows to draw.

    Attributes
    ----------
    n_draws : how many, at most.
    purpose : of the random words.
    floor : (n_candidates,) float64, what counts beside the squared distance of a row to its candidate; None for 0.
    threshold : the key that none of the rows drawn exceeds; it saves memory.
    """

    n_draws: int
    purpose: int
    floor: Float64s | None = None
    threshold: float = np.inf


@dataclass(frozen=True)
class Draw:
    """Draw rows in the pass that measures their distances to the candidates there are: a round of k-means||.

    Bahmani et al. 2012 draw each row on its own, with probability l d^2 / cost, which needs the cost beforehand: a pass
    more. This draws l rows without replacement, with the same odds, by their exponential keys -log(u) / mass
    (Efraimidis & Spirakis 2006): the smallest win, and two sets of winners merge. The mass is w (d^2 + `floor`).

    Attributes
    ----------
    candidates : (n_candidates, n_features) float64.
    lots : each drawn on its own.
    """

    candidates: Float64s
    offset: Float64s
    seed: int
    lots: tuple[Lot, ...]

    def map(self, block: Block) -> list[Drawn]:
        """Draw from one block."""
        stack = Stack.of([self.candidates])
        found = kernels.assign(block.X, block.weight, stack, self.offset, with_labels=True, with_sq_dist=True)
        weight = 1.0 if block.weight is None else block.weight
        mass, row_ids = found.sq_dist[0] * weight, block.row_ids()
        cost, drawn = float(mass.sum()), []
        for lot in self.lots:
            own = mass if lot.floor is None else mass + lot.floor[found.labels[0]] * weight
            keys = exponential_keys(philox.random_words(self.seed, lot.purpose, row_ids), own)
            rows = np.flatnonzero((keys < np.inf) & (keys <= lot.threshold))
            if len(rows) > lot.n_draws:
                rows = rows[np.argpartition(keys[rows], lot.n_draws)[: lot.n_draws]]
            drawn.append(Drawn(RowSet.of(block, rows), keys[rows], own[rows], cost))
        return drawn

    def merge(self, left: list[Drawn], right: list[Drawn]) -> list[Drawn]:
        """Keep the smallest keys."""
        merged = []
        for lot, one, other in zip(self.lots, left, right, strict=True):
            rows = RowSet.concatenate([one.rows, other.rows])
            keys, mass = np.concatenate([one.keys, other.keys]), np.concatenate([one.mass, other.mass])
            drawn = Drawn(rows, keys, mass, one.cost + other.cost)
            merged.append(drawn if len(keys) <= lot.n_draws else drawn.smallest(lot.n_draws))
        return merged

    def finish(self, total: list[Drawn]) -> list[Drawn]:
        """Order the rows of each lot."""
        return [drawn.smallest(lot.n_draws) for lot, drawn in zip(self.lots, total, strict=True)]


def exponential_keys(words: npt.NDArray[np.uint64], mass: Float64s) -> Float64s:
    """Return -log(u) / mass for the uniform u of each word, (n_rows,); infinity where mass is 0."""
    keys = np.full(len(mass), np.inf)
    np.divide(-np.log(philox.uniform(words)), mass, out=keys, where=mass > 0)
    return keys


@dataclass(frozen=True)
class RandomPartition:
    """Put every row into a random cluster; the centers are the means.

    Attributes
    ----------
    n_clusters : one entry for each model.
    purposes : of the random words, one for each model.
    """

    n_clusters: tuple[int, ...]
    purposes: tuple[int, ...]
    seed: int

    def map(self, block: Block) -> list[tuple[Float64s, Float64s]]:
        """Sum up the rows of each random cluster."""
        row_ids = block.row_ids()
        weight = np.ones(block.n_rows) if block.weight is None else block.weight
        totals = []
        for k, purpose in zip(self.n_clusters, self.purposes, strict=True):
            labels = (philox.random_words(self.seed, purpose, row_ids) % np.uint64(k)).astype(np.intp)
            sums = np.stack(
                [np.bincount(labels, weight * block.X[:, f], k) for f in range(block.X.shape[1])],
                axis=1,
            )
            totals.append((sums.astype(np.float64), np.bincount(labels, weight, k).astype(np.float64)))
        return totals

    def merge(self, left: Any, right: Any) -> list[tuple[Float64s, Float64s]]:
        """Add up."""
        return [(a + c, b + d) for (a, b), (c, d) in zip(left, right, strict=True)]

    def finish(self, total: Any) -> list[Float64s]:
        """Return the means, (n_clusters, n_features) for each model."""
        return [sums / np.maximum(counts, np.finfo(float).tiny)[:, None] for sums, counts in total]

"""How good a clustering is: what one pass sums up for a stack of models, and the indices that follow from it.

Must not know of Dask or of where blocks come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from daskmeans import kernels
from daskmeans.jit import Float64s
from daskmeans.kernels import Stack
from daskmeans.lloyd import Stop
from daskmeans.samples import Block, Rows
from daskmeans.seeding import in_memory, plus_plus
from daskmeans.spreads import distances_and_silhouettes
from daskmeans.steps import FOR_RECLUSTER, RowSet

# Rows of a block that are scored at once: what is kept of each row, for each model, stays small beside the block.
PIECE_ROWS = 2**16

# Rows of the sample whose distances to all others are held at once.
SILHOUETTE_ROWS = 256

# Starts of each clustering that the gap statistic makes of the sample or of random rows; the best counts.
GAP_TRIES = 3


class Spread(NamedTuple):
    """Sums over the rows of each cluster of a stack of models.

    Attributes
    ----------
    sums : (n_centers, n_features) float64, weighted.
    counts : (n_centers,) float64, weights.
    inertia : (n_centers,) float64, weighted squared distances to the center.
    dist : (n_centers,) float64, weighted distances to the center, or to another point that was asked for.
    silhouette : (n_centers,) float64, weighted simplified silhouettes.
    """

    sums: Float64s
    counts: Float64s
    inertia: Float64s
    dist: Float64s
    silhouette: Float64s

    def plus(self, other: Spread) -> Spread:
        """Add up."""
        return Spread(*(a + b for a, b in zip(self, other, strict=True)))

    def of_model(self, own: slice) -> Spread:
        """Return the part of one model."""
        return Spread(*(values[own] for values in self))

    @property
    def means(self) -> Float64s:
        """Means of each cluster's rows, (n_centers, n_features); 0 where it has none."""
        means: Float64s = self.sums / np.where(self.counts > 0, self.counts, 1.0)[:, None]
        return means


@dataclass(frozen=True)
class Measure:
    """Sum up over all rows what validity indices need.

    Attributes
    ----------
    stack : the centers of the models.
    offset : (n_features,) float64, a point in the middle of the data.
    points : (n_centers, n_features) float64, what `Spread.dist` is measured from; None for the centers.
    with_silhouette : whether `Spread.silhouette` is asked for, 0 if not.
    """

    stack: Stack
    offset: Float64s
    points: Float64s | None = None
    with_silhouette: bool = True

    def map(self, block: Block) -> Spread:
        """Sum up over one block."""
        n_centers, n_features = self.stack.centers.shape
        total = Spread(np.zeros((n_centers, n_features)), *(np.zeros(n_centers) for _ in range(4)))
        for begin in range(0, block.n_rows, PIECE_ROWS):
            rows = slice(begin, begin + PIECE_ROWS)
            total = total.plus(self._measure(block.X[rows], None if block.weight is None else block.weight[rows]))
        return total

    def _measure(self, X: Rows, weight: Float64s | None) -> Spread:
        found = kernels.assign(X, weight, self.stack, self.offset, with_labels=True)
        points = self.stack.centers if self.points is None else self.points
        sums = distances_and_silhouettes(
            X, weight, found.labels, self.stack, self.offset, points, with_silhouette=self.with_silhouette
        )
        return Spread(found.sums, found.counts, found.inertia, *sums)

    def merge(self, left: Spread, right: Spread) -> Spread:
        """Add up."""
        return left.plus(right)

    def finish(self, total: Spread) -> list[Spread]:
        """Return the sums of each model."""
        return [total.of_model(self.stack.of_model(m)) for m in range(self.stack.n_models)]


@dataclass(frozen=True)
class Scores:
    """How good one clustering is. Weights count as repetitions of their rows.

    Indices that compare clusters are NaN for one cluster, and for as many as there are rows.

    Attributes
    ----------
    counts : (n_clusters,) float64, weight of each cluster.
    inertia_per_cluster : (n_clusters,) float64, weighted squared distances to the center.
    explained_variation : share of the total sum of squares that lies between the means of the clusters.
    calinski_harabasz : greater is better (Calinski & Harabasz 1974).
    davies_bouldin : smaller is better (Davies & Bouldin 1979).
    simplified_silhouette : mean over all rows of ``1 - a / b``, the distances to the nearest and second nearest
        center (Hruschka et al. 2006).
    simplified_silhouette_per_cluster : (n_clusters,) float64, likewise; NaN where a cluster is empty.
    silhouette, silhouette_se : mean silhouette (Rousseeuw 1987) of a uniform sample, and its standard error; NaN where
        no sample was asked for or all of it lies in one cluster.
    """

    counts: Float64s
    inertia_per_cluster: Float64s
    explained_variation: float
    calinski_harabasz: float
    davies_bouldin: float
    simplified_silhouette: float
    simplified_silhouette_per_cluster: Float64s
    silhouette: float = np.nan
    silhouette_se: float = np.nan

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.counts)

    @property
    def inertia(self) -> float:
        """Weighted sum of squared distances to the nearest center."""
        return float(self.inertia_per_cluster.sum())

    @property
    def inertia_share(self) -> Float64s:
        """Share of each cluster in the inertia, (n_clusters,)."""
        share: Float64s = self.inertia_per_cluster / (self.inertia or 1.0)
        return share

    @property
    def weight_share(self) -> Float64s:
        """Share of each cluster in the weight of all rows, (n_clusters,)."""
        share: Float64s = self.counts / self.counts.sum()
        return share


def are_means(points: Float64s, spread: Spread) -> bool:
    """Tell whether points, (n_clusters, n_features), are the means of the clusters, for all that distances show.

    The mean distance to a point is at most as far off as the point is. Centers in float32 mostly are too far off.
    """
    full = spread.counts > 0
    shift = np.sqrt(((spread.means[full] - points[full]) ** 2).sum(axis=1))
    rounding = 16 * np.finfo(np.float64).eps * np.abs(points[full]).max()
    return bool((shift <= np.maximum(rounding, 1e-10 * spread.dist[full] / spread.counts[full])).all())


def score(centers: Float64s, spread: Spread, dist: Float64s, silhouette: tuple[float, float], *, n_rows: int) -> Scores:
    """Return the indices of one model.

    Parameters
    ----------
    centers : (n_clusters, n_features).
    spread : the sums over its clusters.
    dist : (n_clusters,) weighted sums of distances to the means of the clusters.
    silhouette : mean silhouette of a sample, and its standard error.
    n_rows : how many rows there are.
    """
    counts, means = spread.counts, spread.means
    full = counts > 0
    comparable = 1 < len(counts) < n_rows
    total = counts.sum()
    # sum w |x - mean|^2 = sum w |x - c|^2 - W |mean - c|^2, in each cluster
    within = float((spread.inertia - counts * ((means - centers) ** 2).sum(axis=1))[full].sum())
    between = float(counts @ ((means - counts @ means / total) ** 2).sum(axis=1))
    per_cluster = np.full(len(counts), np.nan)
    if comparable:
        np.divide(spread.silhouette, counts, out=per_cluster, where=full)
    return Scores(
        counts=counts,
        inertia_per_cluster=spread.inertia,
        explained_variation=between / (within + between) if within + between > 0 else np.nan,
        calinski_harabasz=_calinski_harabasz(within, between, int(full.sum()), float(total)) if comparable else np.nan,
        davies_bouldin=_davies_bouldin(means[full], dist[full] / counts[full]) if comparable else np.nan,
        simplified_silhouette=float(spread.silhouette.sum() / total) if comparable else np.nan,
        simplified_silhouette_per_cluster=per_cluster,
        silhouette=silhouette[0] if comparable else np.nan,
        silhouette_se=silhouette[1] if comparable else np.nan,
    )


def _calinski_harabasz(within: float, between: float, n_clusters: int, total: float) -> float:
    if n_clusters < 2:
        return np.nan
    return 1.0 if within <= 0 else between * (total - n_clusters) / (within * (n_clusters - 1))


def _davies_bouldin(means: Float64s, dist: Float64s) -> float:
    """Return the mean over clusters of their likeness to the cluster most like them."""
    if len(means) < 2:
        return np.nan
    apart = np.sqrt(((means[:, None] - means) ** 2).sum(axis=2))
    if np.allclose(dist, 0) or np.allclose(apart, 0):
        return 0.0
    apart[apart == 0] = np.inf
    return float(((dist[:, None] + dist) / apart).max(axis=1).mean())


# ---------------------------------------------------------------------------------------------------------------------
# On a sample


def sample_silhouettes(
    sample: RowSet, labelings: Sequence[npt.NDArray[np.int32]], n_rows: int
) -> list[tuple[float, float]]:
    """Return the mean silhouette (Rousseeuw 1987) of each labelling of a sample, and its standard error.

    A weight counts as so many copies of its row. The error is that of the infinitesimal jackknife (Efron 1982, ch. 6):
    a row counts by its own silhouette and by what it changes in those of the others. NaN for one cluster.

    Parameters
    ----------
    sample : the rows; memory for 256 distances to all of them is taken.
    labelings : each (n_sample,), labels from 0.
    n_rows : how many rows the sample was drawn from; the error is 0 where it is all of them.
    """
    parts = [_Silhouettes(labels, sample.weight) for labels in labelings]
    for rows, dist in _distances(sample.X):
        for part in parts:
            part.add(rows, dist)
    rest = max(0.0, 1 - len(sample.X) / max(1, n_rows))
    return [(part.mean, part.error * rest**0.5) if part.several else (np.nan, np.nan) for part in parts]


class _Silhouettes:
    """Silhouettes of the rows of one labelling, and the influence of each row on their mean."""

    def __init__(self, labels: npt.NDArray[np.int32], weight: Float64s) -> None:
        self.labels, self.weight = labels, weight
        self._member = _one_hot(labels, int(labels.max()) + 1) * weight[:, None]
        self._totals = self._member.sum(axis=0)
        self._values = np.empty(len(labels))
        self._influence = np.zeros((len(labels), len(self._totals)))
        self.several = np.count_nonzero(self._totals) > 1

    def add(self, rows: slice, dist: Float64s) -> None:
        """Take account of some rows, given their distances to all, (n_some, n_rows)."""
        labels, weight = self.labels[rows], self.weight[rows]
        each, totals = np.arange(len(labels)), self._totals
        others = totals[labels] - np.minimum(1.0, weight)  # the row itself, or that one of its copies
        sums = dist @ self._member
        with np.errstate(divide="ignore", invalid="ignore"):
            within = sums[each, labels] / others
            means = np.where(totals > 0, sums / totals, np.inf)
            means[each, labels] = np.inf
            near = means.argmin(axis=1)
            nearest = means[each, near]
            larger = np.maximum(nearest, within)
            values = (nearest - within) / larger
            sound = (others > 1e-12) & np.isfinite(values)
            by_within = np.where(within < nearest, -1, -nearest / larger) / larger / others
            by_nearest = np.where(within < nearest, within / larger, 1) / larger / totals[near]
        self._values[rows] = np.where(sound, values, 0.0)
        slope = np.zeros((len(labels), len(totals)))
        slope[each, labels] = np.where(sound, by_within, 0.0) * weight
        slope[each, near] = np.where(sound, by_nearest, 0.0) * weight
        level = np.where(sound, within, 0.0) @ (slope * _one_hot(labels, len(totals)))
        level += np.where(sound, nearest, 0.0) @ (slope * _one_hot(near, len(totals)))
        self._influence += dist.T @ slope - level

    @property
    def mean(self) -> float:
        """Weighted mean silhouette."""
        return float(np.average(self._values, weights=self.weight))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        on_others = self._influence[np.arange(len(self.labels)), self.labels]
        influence = self._values - self.mean + on_others
        return float(np.sqrt((influence**2) @ self.weight**2) / self.weight.sum())


def _one_hot(labels: npt.NDArray[Any], n_clusters: int) -> Float64s:
    hot: Float64s = np.eye(n_clusters)[labels]
    return hot


def _distances(X: Rows) -> Iterator[tuple[slice, Float64s]]:
    """Yield the distances of some rows at a time to all rows, (n_some, n_rows)."""
    points = X.astype(np.float64)
    points -= points.mean(axis=0)  # else |x|^2 - 2 x.y + |y|^2 cancels
    sq_norms = (points**2).sum(axis=1)
    for begin in range(0, len(X), SILHOUETTE_ROWS):
        rows = slice(begin, begin + SILHOUETTE_ROWS)
        sq_dist = sq_norms[rows, None] - 2 * (points[rows] @ points.T) + sq_norms
        own = np.arange(len(X))[rows]
        sq_dist[np.arange(len(own)), own] = 0
        yield rows, np.sqrt(np.maximum(sq_dist, 0))


class Gap(NamedTuple):
    """The gap statistic (Tibshirani, Walther & Hastie 2001) of several numbers of clusters.

    Attributes
    ----------
    n_clusters : (n_models,) int64, ascending.
    gap : (n_models,) float64, by how much the log inertia of uniform random rows exceeds that of the data; NaN for as
        many clusters as rows, whose inertia is 0.
    error : (n_models,) float64, standard error of `gap`, simulation error included.
    """

    n_clusters: npt.NDArray[np.int64]
    gap: Float64s
    error: Float64s

    @property
    def best(self) -> int | None:
        """The least k whose gap is at least that of the next larger one, less its error; None if there is none."""
        enough = np.flatnonzero(self.gap[:-1] >= self.gap[1:] - self.error[1:])
        return int(self.n_clusters[enough[0]]) if len(enough) else None


def gap_of_sample(sample: RowSet, n_clusters: Sequence[int], n_references: int, seed: int) -> Gap:
    """Return the gap statistic of a sample, against rows drawn uniformly from a box along its principal axes.

    Of each set of rows, that of the data and the references, every k is clustered three times from k-means++.
    """
    ks = sorted(set(n_clusters))
    generator = np.random.Generator(np.random.Philox(key=[seed, FOR_RECLUSTER]))
    points = sample.X.astype(np.float64)
    mean = np.average(points, axis=0, weights=sample.weight)
    axes = np.linalg.svd(points - mean, full_matrices=False)[2]
    along = (points - mean) @ axes.T
    low, high = along.min(axis=0), along.max(axis=0)
    observed = _log_inertias(points, sample.weight, ks, generator)
    expected = np.array(
        [
            _log_inertias(generator.uniform(low, high, along.shape), sample.weight, ks, generator)
            for _ in range(n_references)
        ]
    )
    known = np.where(np.array(ks) < len(points), 1.0, np.nan)
    error = expected.std(axis=0) * np.sqrt(1 + 1 / n_references)
    return Gap(np.array(ks), (expected.mean(axis=0) - observed) * known, error * known)


def _log_inertias(X: Float64s, weight: Float64s, ks: Sequence[int], generator: np.random.Generator) -> Float64s:
    """Return the log of the least inertia found for each number of clusters."""
    seeds = [X[plus_plus(X, weight, k, generator)] for k in ks for _ in range(GAP_TRIES)]
    stop = Stop(max_iter=100, sq_shift=1e-4 * float(X.var(axis=0).mean()))
    models = in_memory(X, weight, seeds, stop)
    inertias = np.reshape([model.total_inertia for model in models], (len(ks), GAP_TRIES)).min(axis=1)
    logs: Float64s = np.log(np.maximum(inertias, np.finfo(float).tiny))
    return logs

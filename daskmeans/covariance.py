"""Mean and covariance of all rows in one pass, and the principal components that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from daskmeans.jit import Float64s
from daskmeans.moments import means_of_both
from daskmeans.samples import Block, Rows
from daskmeans.transforms import Project, Standardize

# Bytes of a copy of some rows in float64.
TILE_BYTES = 4 * 2**20


class Scatter(NamedTuple):
    """Weight, mean and scatter of rows.

    Attributes
    ----------
    weight : total weight.
    mean : (n_features,) float64.
    scatter : (n_features, n_features) float64, weighted sum of products of deviations from the mean.
    """

    weight: float
    mean: Float64s
    scatter: Float64s

    def merge(self, other: Scatter) -> Scatter:
        """Combine two sets of rows."""
        together = means_of_both(self, other)
        if together is None:
            return self
        weight, mean, apart, share = together
        with np.errstate(invalid="ignore"):
            scatter = self.scatter + other.scatter
            scatter += np.outer(apart, apart * share)
        return Scatter(weight, mean, scatter)


@dataclass(frozen=True)
class Covariance:
    """Sum up the products of all pairs of features: n_features^2 numbers, whatever the number of rows."""

    def map(self, block: Block) -> Scatter:
        """Sum up over one block, tile by tile in two sweeps."""
        n_features = block.X.shape[1]
        total = Scatter(0.0, np.zeros(n_features), np.zeros((n_features, n_features)))
        n_rows = max(64, TILE_BYTES // (8 * n_features))
        for begin in range(0, block.n_rows, n_rows):
            rows = slice(begin, begin + n_rows)
            total = total.merge(_scatter(block.X[rows], None if block.weight is None else block.weight[rows]))
        return total

    def merge(self, left: Scatter, right: Scatter) -> Scatter:
        """Combine."""
        return left.merge(right)

    def finish(self, total: Scatter) -> Scatter:
        """Nothing is left to do."""
        return total


def _scatter(X: Rows, weight: Float64s | None) -> Scatter:
    w = np.ones(len(X)) if weight is None else weight
    total = float(w.sum())
    points = X.astype(np.float64)
    if total == 0:
        return Scatter(0.0, np.zeros(points.shape[1]), np.zeros((points.shape[1],) * 2))
    with np.errstate(invalid="ignore"):
        mean = w @ points / total
        points -= mean
        return Scatter(total, mean, (points * w[:, None]).T @ points)


class Components(NamedTuple):
    """Principal components.

    Attributes
    ----------
    components : (n_components, n_features) float64, orthonormal rows, each with its largest entry positive.
    variance : (n_components,) float64, descending, with n - 1 in the denominator as in scikit-learn; weights whose sum
        is below 2 count no repetitions, and the sum itself is taken.
    total_variance : of all components that there are.
    """

    components: Float64s
    variance: Float64s
    total_variance: float


def projection(found: Scatter, features: Standardize, n_components: int, *, whiten: bool) -> Project:
    """Return the projection of rows, whose features are standardized before, on their first principal components.

    Parameters
    ----------
    found : of the rows as they are.
    whiten : whether components are scaled to variance 1; one that does not vary is left alone.
    """
    scale = features.scale
    components = principal_components(found._replace(scatter=found.scatter / np.outer(scale, scale)))
    variance = components.variance[:n_components]
    return Project(
        features, components.components[:n_components], whitening(variance) if whiten else np.ones_like(variance)
    )


def whitening(variance: Float64s) -> Float64s:
    """Return what components of this variance, (n_components,) and descending, are divided by so that it becomes 1.

    What varies no more than by rounding is left alone: it would be blown up to as much as any other component.
    """
    rounding = len(variance) * np.finfo(np.float64).eps * variance[0]
    return np.where(variance > rounding, np.sqrt(variance), 1.0)


def principal_components(found: Scatter) -> Components:
    """Return all principal components of rows: the eigenvectors of their covariance."""
    values, vectors = np.linalg.eigh(found.scatter / (found.weight - 1 if found.weight >= 2 else found.weight))
    variance, components = np.maximum(values[::-1], 0.0), vectors.T[::-1]
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(len(components)), largest])[:, None]
    return Components(components, variance, float(variance.sum()))

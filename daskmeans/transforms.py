"""Maps of rows to rows that are applied inside the task that reads them: no pass, nothing stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from daskmeans.errors import RowError
from daskmeans.jit import Float64s
from daskmeans.moments import TILE_ROWS, Moments
from daskmeans.samples import Rows, Transform

# How far the mean of equal numbers may be from them, relatively: so many are added up before sums merge.
MEAN_ROUNDING = TILE_ROWS * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Standardize:
    """Scale each feature to mean 0 and variance 1.

    Attributes
    ----------
    mean, scale : (n_features,) float64.
    """

    mean: Float64s
    scale: Float64s

    @classmethod
    def of(cls, moments: Moments) -> Standardize:
        """Take mean and standard deviation; a constant feature is only shifted, as in scikit-learn."""
        scale = np.sqrt(moments.variance)
        return cls(moments.mean, np.where(scale <= MEAN_ROUNDING * np.abs(moments.mean), 1.0, scale))

    @property
    def n_features_out(self) -> int:
        """Number of features."""
        return len(self.mean)

    def apply(self, X: Rows) -> Rows:
        """Return scaled rows."""
        scaled: Rows = X - self.mean.astype(X.dtype)
        scaled /= self.scale.astype(X.dtype)
        return scaled

    def inverse(self, centers: Float64s) -> Float64s:
        """Return centers in the units of the input."""
        return centers * self.scale + self.mean


@dataclass(frozen=True)
class Project:
    """Project rows on principal components, and scale what they give.

    Attributes
    ----------
    features : what is done to the features before; its mean is the origin of the projection.
    components : (n_components, n_features) float64, orthonormal rows.
    scale : (n_components,) float64, what projections are divided by: 1, or their standard deviations.
    """

    features: Standardize
    components: Float64s
    scale: Float64s

    @property
    def n_features_out(self) -> int:
        """Number of components."""
        return len(self.components)

    def apply(self, X: Rows) -> Rows:
        """Return projected rows, (n_rows, n_components)."""
        factors = self.components / self.features.scale / self.scale[:, None]
        projected: Rows = (X - self.features.mean.astype(X.dtype)) @ factors.astype(X.dtype).T
        return projected

    def inverse(self, centers: Float64s) -> Float64s:
        """Return centers in the units of the input: the points of the subspace that project to them."""
        return self.features.inverse((centers * self.scale) @ self.components)


# Beyond this, or its inverse, squares lose digits, and lengths overflow in float32: such rows are scaled before.
LEAST_SQ_LENGTH = 1e-60


@dataclass(frozen=True)
class Normalize:
    """Bring each row to length 1, so that only its direction counts."""

    n_features_out: int

    def apply(self, X: Rows) -> Rows:
        """Return rows of length 1; those that are not finite become NaN.

        Raises
        ------
        RowError
            A row is 0 in all features.
        """
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            sq_length = np.einsum("ij,ij->i", X, X, dtype=np.float64)
            normalized: Rows = X / np.sqrt(sq_length).astype(X.dtype)[:, None]
            extreme = np.flatnonzero(~((sq_length > LEAST_SQ_LENGTH) & (sq_length < 1 / LEAST_SQ_LENGTH)))
            if len(extreme):
                rows = X[extreme].astype(np.float64)
                largest = np.abs(rows).max(axis=1)
                if not largest.all():
                    row = int(extreme[np.flatnonzero(largest == 0)[0]])
                    raise RowError(f"Input X contains rows of zeros, which have no direction: {REMEDY}", row)
                rows /= largest[:, None]
                normalized[extreme] = rows / np.sqrt((rows**2).sum(axis=1))[:, None]
        return normalized

    def inverse(self, centers: Float64s) -> Float64s:
        """Return the centers: directions have no other length."""
        return centers


Preparation: TypeAlias = Standardize | Project
"""What may be done to the features before rows are compared."""

REMEDY = "metric='cosine' cannot place them. Leave them out, or cluster with metric='euclidean'."


def on_sphere(points: Float64s, otherwise: Float64s) -> Float64s:
    """Return points, (n_points, n_features), brought to length 1; `otherwise`, likewise, where the length is 0."""
    length = np.sqrt((points**2).sum(axis=1))[:, None]
    return np.where(length > 0, points / np.where(length > 0, length, 1.0), otherwise)


@dataclass(frozen=True)
class Chain:
    """Transforms one after another, the first one first."""

    links: tuple[Transform, ...]

    @property
    def n_features_out(self) -> int:
        """Number of features after the last."""
        return self.links[-1].n_features_out

    def apply(self, X: Rows) -> Rows:
        """Apply each."""
        for link in self.links:
            X = link.apply(X)
        return X

    def inverse(self, centers: Float64s) -> Float64s:
        """Undo each, the last one first."""
        for link in reversed(self.links):
            centers = link.inverse(centers)
        return centers

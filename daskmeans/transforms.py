"""Maps of rows to rows that are applied inside the task that reads them: no pass, nothing stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from daskmeans.kernels import Float64s, Moments
from daskmeans.samples import Rows


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
        rounding = 10 * np.finfo(np.float64).eps * np.abs(moments.mean)
        return cls(moments.mean, np.where(scale <= rounding, 1.0, scale))

    @property
    def n_features_out(self) -> int:
        """Number of features."""
        return len(self.mean)

    def apply(self, X: Rows) -> Rows:
        """Return scaled rows."""
        scaled: Rows = (X - self.mean.astype(X.dtype)) / self.scale.astype(X.dtype)
        return scaled

    def inverse(self, centers: Float64s) -> Float64s:
        """Return centers in the units of the input."""
        return centers * self.scale + self.mean


@dataclass(frozen=True)
class Project:
    """Project rows on principal components, and scale what they give.

    Attributes
    ----------
    mean : (n_features,) float64.
    components : (n_components, n_features) float64, orthonormal rows.
    scale : (n_components,) float64, what projections are divided by: 1, or their standard deviations.
    """

    mean: Float64s
    components: Float64s
    scale: Float64s

    @property
    def n_features_out(self) -> int:
        """Number of components."""
        return len(self.components)

    def apply(self, X: Rows) -> Rows:
        """Return projected rows, (n_rows, n_components)."""
        factors = (self.components / self.scale[:, None]).astype(X.dtype)
        projected: Rows = (X - self.mean.astype(X.dtype)) @ factors.T
        return projected

    def inverse(self, centers: Float64s) -> Float64s:
        """Return centers in the units of the input: the points of the subspace that project to them."""
        return (centers * self.scale) @ self.components + self.mean

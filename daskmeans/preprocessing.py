"""Transformers for data that does not fit in memory: `StandardScaler` and `PCA`, each fitted in one pass.

scikit-learn's own take arrays in memory only, and dask-ml's know no weights and compute an SVD of all rows; these sum
up moments that merge, and transform a Dask array lazily, block by block.
"""

from __future__ import annotations

import functools
import numbers
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_array, check_is_fitted

from daskmeans import inputs
from daskmeans.covariance import Covariance, Scatter, principal_components, whitening
from daskmeans.errors import DataError
from daskmeans.frames import array_of
from daskmeans.labelled import matrix_of
from daskmeans.samples import row_dtype
from daskmeans.scan import Scanner
from daskmeans.steps import Both, Nothing, Survey, Surveyed
from daskmeans.survey import check_surveyed
from daskmeans.transforms import Project, Standardize


class _OnePass(inputs.StaysLazy, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What both transformers share: input of any kind, fitted in one pass, transformed block by block."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {}

    def _scan(self, X: Any, sample_weight: Any, step: Any) -> tuple[Surveyed, Any]:
        """Run `step` over all rows, beside the checks of the first pass."""
        self._validate_params()
        X, sample_weight = inputs.plain(self, matrix_of(X), reset=True), array_of(sample_weight)
        samples = inputs.as_samples(self, X, sample_weight, inputs.resolve_budget(None), reset=True)
        surveyed, found = Scanner(samples).scan(Both(Survey(1, 0, samples.n_samples), step), type(self).__name__)
        check_surveyed(surveyed, samples, n_clusters=1)
        return surveyed, found

    def _apply(self, X: Any, function: Any, n_columns: int) -> Any:
        """Return what `function` makes of the rows of `X`: lazily for Dask and Zarr, else at once."""
        check_is_fitted(self)
        X = inputs.plain(self, matrix_of(X), reset=False)
        if inputs.is_lazy(X):
            on_rows = functools.partial(_on_rows, function=function)
            return inputs.map_lazily(self, X, on_rows, n_columns, row_dtype(X.dtype), type(self).__name__.lower())
        return function(inputs.rows_in_memory(self, X, reset=False))

    def _undo(self, X: Any, function: Any, n_columns: int) -> Any:
        """Return the rows of which `X`, (n_samples, n_columns), was made: lazily for Dask and Zarr, else at once."""
        check_is_fitted(self)
        if inputs.is_lazy(X):
            on_rows, dtype = functools.partial(_back, function=function), row_dtype(X.dtype)
            name = f"{type(self).__name__.lower()}-inverse"
            return inputs.map_lazily(self, X, on_rows, self.n_features_in_, dtype, name, n_columns)
        rows = check_array(X, dtype=[np.float64, np.float32])
        inputs.check_columns(self, rows.shape, rows.dtype, reset=False, n_features=n_columns)
        return _back(rows, function=function)


def _on_rows(X: npt.NDArray[Any], *, function: Any) -> npt.NDArray[Any]:
    """Apply a function to the rows of one chunk, once they are known to be finite."""
    found: npt.NDArray[Any] = function(inputs.finite_rows(X))
    return found


def _back(X: npt.NDArray[Any], *, function: Any) -> npt.NDArray[Any]:
    """Apply the inverse of a transform to the rows of one chunk."""
    rows: npt.NDArray[Any] = function(X).astype(row_dtype(X.dtype))
    return rows


class StandardScaler(OneToOneFeatureMixin, _OnePass):  # type: ignore[misc]
    """Bring each feature to mean 0 and variance 1, as scikit-learn's does, on data of any size.

    Moments are exact and weighted, from one pass; they merge stably (Chan, Golub & LeVeque 1983).

    Parameters
    ----------
    with_mean, with_std : bool
        Whether features are centered, and whether they are scaled.

    Attributes
    ----------
    mean_, var_, scale_ : (n_features,) float64; the scale of a constant feature is 1, as are all without `with_std`.
    n_samples_seen_ : float, the weight of all rows.
    n_features_in_ : int

    Examples
    --------
    >>> import dask.array as da
    >>> from daskmeans.preprocessing import StandardScaler
    >>> X = da.from_array([[0.0, 1.0], [2.0, 1.0]], chunks=(1, 2))
    >>> StandardScaler().fit_transform(X).compute()
    array([[-1.,  0.],
           [ 1.,  0.]])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {"with_mean": ["boolean"], "with_std": ["boolean"]}

    def __init__(self, *, with_mean: bool = True, with_std: bool = True) -> None:
        self.with_mean = with_mean
        self.with_std = with_std

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Compute mean and variance of whatever `KMeans.fit` takes as a matrix. One pass over the data."""
        surveyed, _ = self._scan(X, sample_weight, Nothing())
        scaling = Standardize.of(surveyed.weighted)
        self.mean_, self.var_ = scaling.mean, surveyed.weighted.variance
        self.scale_ = scaling.scale if self.with_std else np.ones_like(scaling.scale)
        self.n_samples_seen_ = surveyed.weighted.weight
        return self

    @property
    def _scaling(self) -> Standardize:
        return Standardize(self.mean_ if self.with_mean else np.zeros_like(self.mean_), self.scale_)

    def transform(self, X: Any) -> Any:
        """Return scaled rows in the dtype of the rows; for Dask and Zarr a lazy Dask array."""
        check_is_fitted(self)
        return self._apply(X, self._scaling.apply, self.n_features_in_)

    def inverse_transform(self, X: Any) -> Any:
        """Return rows, such as centers, in the units of the input; for Dask and Zarr a lazy Dask array."""
        check_is_fitted(self)
        return self._undo(X, self._scaling.inverse, self.n_features_in_)


class PCA(ClassNamePrefixFeaturesOutMixin, _OnePass):  # type: ignore[misc]
    """Principal component analysis by the covariance of the features, on data of any number of rows.

    For up to a few thousand features: a pass sums up n_features^2 numbers in float64 in each task.

    Parameters
    ----------
    n_components : int, float or None
        Number of components; a number below 1 is the share of the variance that they must explain; None keeps all.
    whiten : bool
        Whether components are scaled to variance 1.

    Attributes
    ----------
    components_ : (n_components, n_features) float64, orthonormal rows.
    explained_variance_, explained_variance_ratio_ : (n_components,) float64.
    mean_ : (n_features,) float64.
    n_components_ : int
    n_features_in_ : int
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [
            None,
            Interval(numbers.Integral, 1, None, closed="left"),
            Interval(numbers.Real, 0, 1, closed="neither"),
        ],
        "whiten": ["boolean"],
    }

    def __init__(self, n_components: Any = None, *, whiten: bool = False) -> None:
        self.n_components = n_components
        self.whiten = whiten

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Find the components of whatever `KMeans.fit` takes as a matrix. One pass over the data."""
        _, scatter = self._scan(X, sample_weight, Covariance())
        return self._adopt(scatter)

    def _adopt(self, scatter: Scatter) -> Self:
        found = principal_components(scatter)
        ratio = found.variance / (found.total_variance or 1.0)
        n_components = self._n_components(ratio)
        self.components_ = found.components[:n_components]
        self.explained_variance_, self.explained_variance_ratio_ = found.variance[:n_components], ratio[:n_components]
        self.mean_, self.n_components_ = scatter.mean, n_components
        self._n_features_out = n_components
        return self

    def _n_components(self, ratio: npt.NDArray[np.float64]) -> int:
        wanted = self.n_components
        if wanted is None:
            return len(ratio)
        if isinstance(wanted, (int, np.integer)):
            if wanted > len(ratio):
                raise DataError(f"n_components={wanted} must be at most the number of features, {len(ratio)}.")
            return int(wanted)
        return min(len(ratio), int(np.searchsorted(np.cumsum(ratio), wanted, side="right")) + 1)

    @property
    def _projection(self) -> Project:
        scale = whitening(self.explained_variance_) if self.whiten else np.ones(self.n_components_)
        return Project(Standardize(self.mean_, np.ones_like(self.mean_)), self.components_, scale)

    def transform(self, X: Any) -> Any:
        """Return the components of each row, (n_samples, n_components); for Dask and Zarr a lazy Dask array."""
        check_is_fitted(self)
        return self._apply(X, self._projection.apply, self.n_components_)

    def inverse_transform(self, X: Any) -> Any:
        """Return the rows, such as centers, whose components these are, in the units of the input; lazily, too."""
        check_is_fitted(self)
        return self._undo(X, self._projection.inverse, self.n_components_)

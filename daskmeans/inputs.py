"""What `X` may be: arrays in memory, DataFrames, Dask, Zarr, and data with named dimensions. All become Samples.

The functions take the estimator first, as scikit-learn's `validate_data` does: they set its ``n_features_in_`` and
``feature_names_in_``, or, without `reset`, check that `X` agrees with them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import zarr
from dask.base import optimize
from scipy.sparse import issparse
from sklearn.base import TransformerMixin
from sklearn.utils._set_output import _wrap_data_with_container
from sklearn.utils.validation import _check_feature_names, _check_sample_weight, validate_data

from daskmeans.errors import DataError, SplitFeaturesWarning
from daskmeans.frames import array_of, is_dask_frame
from daskmeans.jit import read_only
from daskmeans.labelled import open_labelled
from daskmeans.memory import DEFAULT_PART, Budget, format_bytes, parse_bytes
from daskmeans.moments import count_non_finite
from daskmeans.samples import Rows, Samples, row_dtype, samples_from_array, samples_from_chunks
from daskmeans.stores import OpenedStore, samples_from_zarr
from daskmeans.tasks import lazy_rows
from daskmeans.workers import memory_of_workers


def resolve_budget(memory_budget: int | str | None) -> Budget:
    """Return the budget: as given, else a quarter of the memory of the workers, or of this machine."""
    if memory_budget is None:
        return Budget(memory_of_workers() // DEFAULT_PART)
    return Budget(parse_bytes(memory_budget))


def view(
    estimator: Any,
    X: Any,
    sample_weight: Any,
    budget: Budget,
    *,
    sample_dims: Sequence[str] | None = None,
    reset: bool,
) -> tuple[Samples, Any]:
    """View `X`, whatever it is, as samples; return them and the data, opened if it has named dimensions."""
    X, sample_weight = named(estimator, X, sample_weight, budget, sample_dims=sample_dims, reset=reset)
    return as_samples(estimator, X, sample_weight, budget, reset=reset), X


def named(
    estimator: Any,
    X: Any,
    sample_weight: Any,
    budget: Budget,
    *,
    sample_dims: Sequence[str] | None = None,
    reset: bool,
) -> tuple[Any, Any]:
    """Return data with named dimensions as opened samples, whose weights are its own; other data as it is.

    Sample and feature dimensions of fitted data are kept as ``estimator._layout``.
    """
    X, sample_weight = plain(estimator, X, reset=reset), array_of(sample_weight)
    dims, feature_dims = (sample_dims, None) if reset else estimator._layout
    opened = open_labelled(X, dims, feature_dims, sample_weight)
    if sample_dims is not None and (opened is None or opened is X):
        raise DataError("sample_dims is for xarray objects; give it to open_samples for a store.")
    if opened is None:
        return X, sample_weight
    names = np.array(opened.feature_names, dtype=object)
    if reset:
        estimator.n_features_in_, estimator.feature_names_in_ = len(names), names
        estimator._layout = (opened.sample_dims, opened.feature_dims)
    else:
        _check_names(estimator, names)
    return opened.within(budget), None


def _check_names(estimator: Any, names: npt.NDArray[Any]) -> None:
    """Raise DataError if the features of data with named dimensions are not those that were fitted."""
    kind, n_features = type(estimator).__name__, estimator.n_features_in_
    if len(names) != n_features:
        raise DataError(f"X has {len(names)} features, but {kind} is expecting {n_features} features.")
    expected = getattr(estimator, "feature_names_in_", names)
    if expected.tolist() != names.tolist():
        i = int(np.flatnonzero(expected != names)[0])
        raise DataError(f"Feature {i} of X is {names[i]}, but it was {expected[i]} when {kind} was fitted.")


# What a fit leaves only for some kinds of data: the next one may be of another kind.
OF_NAMED = ("feature_names_in_", "_layout", "centers_", "n_dropped_")


def plain(estimator: Any, X: Any, *, reset: bool) -> Any:
    """Return a Dask DataFrame as a Dask array, once the names of its columns have been checked; all else as it is.

    An array that is not in memory has no names: a warning says so where the features that were fitted have some.
    """
    for name in OF_NAMED if reset else ():
        vars(estimator).pop(name, None)
    if is_dask_frame(X):
        _check_feature_names(estimator, X._meta, reset=reset)
        return array_of(X)
    if is_lazy(X):
        _check_feature_names(estimator, X, reset=reset)
    return X


def as_samples(estimator: Any, X: Any, sample_weight: Any, budget: Budget, *, reset: bool) -> Samples:
    """View `X`, which is no DataFrame of Dask and has no named dimensions unless it was opened, as samples."""
    if isinstance(X, OpenedStore):
        return X.samples
    if is_lazy(X):
        check_columns(estimator, X.shape, X.dtype, reset=reset)
    if isinstance(X, zarr.Array):
        return samples_from_zarr(X, sample_weight, budget)
    if isinstance(X, da.Array):
        return _samples_from_dask(X, sample_weight)
    X = rows_in_memory(estimator, X, reset=reset)
    if sample_weight is not None:
        sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    return samples_from_array(X, sample_weight)


def rows_in_memory(estimator: Any, X: Any, *, reset: bool) -> npt.NDArray[Any]:
    """Check an array in memory as scikit-learn does; whether it is finite is seen in the first pass of a fit."""
    checked: npt.NDArray[Any] = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=[np.float64, np.float32],
        order="C",
        ensure_all_finite=not reset,
    )
    return checked


def check_columns(
    estimator: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *, reset: bool, n_features: int | None = None
) -> None:
    """Check the features of an array that is not in memory: `n_features` of them, by default as many as were fitted."""
    if len(shape) != 2:
        raise DataError(f"Expected 2D array, got {len(shape)}D array instead: X must be (n_samples, n_features).")
    if np.isnan(shape[1]):
        raise DataError("The number of features of X is unknown; let X.compute_chunk_sizes() find it.")
    if shape[1] == 0:
        raise DataError(f"Found array with 0 feature(s) (shape={shape}) while a minimum of 1 is required.")
    if dtype.kind not in "biuf":
        raise DataError(f"X has dtype {dtype}; expected real numbers.")
    if reset:
        estimator.n_features_in_ = int(shape[1])
        return
    expected = estimator.n_features_in_ if n_features is None else n_features
    if shape[1] != expected:
        raise DataError(
            f"X has {shape[1]} features, but {type(estimator).__name__} is expecting {expected} features as input."
        )


def is_lazy(X: Any) -> bool:
    """Tell whether `X` is an array that is not in memory: Dask or Zarr."""
    return isinstance(X, (da.Array, zarr.Array))


def map_lazily(
    estimator: Any,
    X: Any,
    function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    n_columns: int | None,
    dtype: npt.DTypeLike,
    name: str,
    n_features: int | None = None,
) -> da.Array:
    """Return what `function` makes of the rows of each chunk of `X`, a Dask or Zarr array, as a lazy Dask array.

    Parameters
    ----------
    n_columns : of the result, (n_samples, n_columns); None for (n_samples,).
    dtype : of the result.
    name : what its tasks are called.
    n_features : of `X`; None for those of the estimator.
    """
    check_columns(estimator, X.shape, X.dtype, reset=False, n_features=n_features)
    lazy = _whole_rows(da.from_zarr(X) if isinstance(X, zarr.Array) else X)
    return lazy_rows(lazy, function, n_columns, np.dtype(dtype), name)


def finite_rows(X: npt.NDArray[Any]) -> Rows:
    """Return rows in the dtype they are clustered in, or raise DataError if one is not finite."""
    rows: Rows = np.ascontiguousarray(X, dtype=row_dtype(X.dtype))
    n_bad, first = count_non_finite(read_only(rows))
    if n_bad:
        raise DataError(f"Input X contains NaN or infinity in {n_bad:,} rows of a chunk, first in its row {first}.")
    return rows


class StaysLazy:
    """For transformers: containers of `set_output` are for rows in memory; what comes out lazy or named stays so."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Put this in place of what scikit-learn has wrapped."""
        super().__init_subclass__(**options)
        if "transform" in vars(cls):
            cls.transform = _contained(vars(cls)["transform"].__wrapped__)  # type: ignore[attr-defined]
            cls.fit_transform = TransformerMixin.fit_transform.__wrapped__  # type: ignore[attr-defined]


def _contained(transform: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a method whose arrays in memory come in the container that was asked for."""

    @functools.wraps(transform)
    def contained(self: Any, X: Any) -> Any:
        found = transform(self, X)
        return _wrap_data_with_container("transform", found, X, self) if isinstance(found, np.ndarray) else found

    return contained


# ---------------------------------------------------------------------------------------------------------------------
# Dask arrays


def _samples_from_dask(X: da.Array, sample_weight: Any) -> Samples:
    if issparse(X._meta):
        raise TypeError(
            "Sparse data was passed for X, but dense data is required. Use X.map_blocks(lambda rows: rows.toarray(), "
            "dtype=X.dtype) to convert its chunks."
        )
    X = _whole_rows(X)
    collections = [X]
    if sample_weight is not None:
        collections.append(_weights_like(X, sample_weight))
    # Fusing once saves tasks in every pass.
    return samples_from_chunks(optimize(*collections), dtype=row_dtype(X.dtype))


def _whole_rows(X: da.Array) -> da.Array:
    """Merge chunks that cut the features of a row, and say what that costs."""
    n_pieces = len(X.chunks[1])
    if n_pieces == 1:
        return X
    row_bytes = X.shape[1] * X.dtype.itemsize
    n_rows = max(X.chunks[0])
    warnings.warn(
        f"The chunks of X cut each row into {n_pieces} pieces. They are merged, which copies all of X in every pass "
        f"and holds blocks of {format_bytes(n_rows * row_bytes)}; store X with all {X.shape[1]} features in one chunk "
        f"to avoid it.",
        SplitFeaturesWarning,
        stacklevel=5,
    )
    merged: da.Array = X.rechunk({1: -1})
    return merged


def _weights_like(X: da.Array, sample_weight: Any) -> da.Array:
    """Return weights as a Dask array in the row chunks of `X`."""
    known = not np.isnan(X.chunks[0]).any()
    weight: da.Array
    if isinstance(sample_weight, da.Array):
        if known and sample_weight.shape == X.shape[:1]:
            weight = sample_weight.rechunk((X.chunks[0],))
            return weight
        if not known and sample_weight.numblocks == X.numblocks[:1]:
            return sample_weight
    elif known:
        values = np.asarray(sample_weight, dtype=np.float64)
        if values.ndim == 0 or values.shape == X.shape[:1]:
            weight = da.from_array(np.broadcast_to(values, X.shape[:1]), chunks=(X.chunks[0],))
            return weight
    raise DataError(
        f"sample_weight.shape == {np.shape(sample_weight)}, expected {(X.shape[0],)}: one weight for each row"
        + ("." if known else ", as a Dask array in the row chunks of X, since their lengths are unknown.")
    )

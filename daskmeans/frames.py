"""Dask DataFrames as Dask arrays: lazily, without a count of their rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from dask.base import is_dask_collection
from dask.utils import is_dataframe_like, is_series_like

from daskmeans.errors import DataError


def is_dask_frame(X: Any) -> bool:
    """Tell whether `X` is a Dask DataFrame."""
    return bool(is_dask_collection(X) and is_dataframe_like(X))


def array_of(frame: Any) -> Any:
    """Return the values of a Dask DataFrame or Series as a Dask array of unknown chunk lengths; all else as it is."""
    if not is_dask_collection(frame) or not (is_dataframe_like(frame) or is_series_like(frame)):
        return frame
    dtypes = frame._meta.dtypes if is_dataframe_like(frame) else {frame.name: frame.dtype}
    plain = {name: _plain_dtype(name, dtype) for name, dtype in dtypes.items()}
    if any(plain[name] != dtype for name, dtype in dtypes.items()):
        frame = frame.astype(plain if is_dataframe_like(frame) else plain[frame.name])
    return frame.to_dask_array()


def _plain_dtype(name: Any, dtype: Any) -> np.dtype[Any]:
    """Return NumPy's dtype for a column: a float for nullable and Arrow-backed ones, as NaN is what is missing."""
    if dtype.kind not in "biuf":
        raise DataError(f"Column {name!r} of the DataFrame has dtype {dtype}; expected real numbers.")
    if isinstance(dtype, np.dtype):
        return dtype
    return np.dtype(dtype.numpy_dtype if dtype.kind == "f" else np.float64)

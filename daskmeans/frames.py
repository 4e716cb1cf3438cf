"""Dask DataFrames as Dask arrays: lazily, without a count of their rows."""

from __future__ import annotations

from typing import Any

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
    for name, dtype in dtypes.items():
        if dtype.kind not in "biuf":
            raise DataError(f"Column {name!r} of the DataFrame has dtype {dtype}; expected real numbers.")
    return frame.to_dask_array()

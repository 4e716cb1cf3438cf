"""daskmeans: k-means for data that does not fit in memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskmeans.estimator import KMeans as KMeans
    from daskmeans.estimator import load as load
    from daskmeans.job.results import open_results as open_results
    from daskmeans.selection import sweep as sweep
    from daskmeans.stores import open_samples as open_samples

__all__ = ["KMeans", "load", "open_results", "open_samples", "sweep"]
__version__ = "0.1.0"

_HOMES = {
    "KMeans": "estimator",
    "load": "estimator",
    "open_results": "job.results",
    "open_samples": "stores",
    "sweep": "selection",
}
_MODULES = ("metrics", "plots", "preprocessing")


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that ``daskmeans --help`` need not wait for Dask and Numba."""
    if name in _MODULES:
        return importlib.import_module(f"daskmeans.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"daskmeans.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

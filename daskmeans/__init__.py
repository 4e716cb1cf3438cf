"""daskmeans: k-means for data that does not fit in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskmeans.estimator import KMeans as KMeans
    from daskmeans.estimator import load as load
    from daskmeans.stores import open_samples as open_samples

__all__ = ["KMeans", "load", "open_samples"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that ``daskmeans --help`` need not wait for Dask and Numba."""
    if name == "open_samples":
        from daskmeans import stores

        return stores.open_samples
    if name in __all__:
        from daskmeans import estimator

        return getattr(estimator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

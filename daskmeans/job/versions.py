"""Versions of this package and of those that its results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version

from daskmeans import __version__

_PACKAGES = ("dask", "distributed", "numba", "numpy", "scikit-learn", "xarray", "zarr")


def versions() -> dict[str, str]:
    """Return the versions that a result should be reported with, by name."""
    return {
        "daskmeans": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }

"""Moments of the rows of one block, and whether they are finite: loops in one thread, without the GIL.

Must not know of Dask, Zarr or files.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from daskmeans.jit import NO_WEIGHT, Float64s, jit, read_only
from daskmeans.samples import Rows

# Rows whose sums are taken before they are merged: they stay in the cache for the second sweep.
TILE_ROWS = 256


class HasMean(Protocol):
    """Rows of which the weight and the mean are known."""

    @property
    def weight(self) -> float:
        """Total weight."""

    @property
    def mean(self) -> Float64s:
        """(n_features,) float64."""


def means_of_both(left: HasMean, right: HasMean) -> tuple[float, Float64s, Float64s, float] | None:
    """Return weight and mean of two sets of rows, how far apart their means are, and what squares of that count.

    To the sums of squared deviations, or of products, the two means add their distance squared times that factor (Chan,
    Golub & LeVeque 1983, eq. 1.5). None where nothing has weight.
    """
    total = left.weight + right.weight
    if total == 0:
        return None
    with np.errstate(invalid="ignore"):  # rows that are not finite are reported, once the pass is over
        apart = right.mean - left.mean
        return total, left.mean + apart * (right.weight / total), apart, left.weight * right.weight / total


class Moments(NamedTuple):
    """Weight, mean and sum of squared deviations of rows.

    Attributes
    ----------
    weight : total weight; the number of rows where none was given.
    mean : (n_features,) float64.
    sq_dev : (n_features,) float64.
    """

    weight: float
    mean: Float64s
    sq_dev: Float64s

    def merge(self, other: Moments) -> Moments:
        """Combine two sets of rows."""
        together = means_of_both(self, other)
        if together is None:
            return self
        weight, mean, apart, share = together
        with np.errstate(invalid="ignore"):
            return Moments(weight, mean, self.sq_dev + other.sq_dev + apart**2 * share)

    @property
    def variance(self) -> Float64s:
        """Variance of each feature, (n_features,)."""
        return self.sq_dev / self.weight if self.weight else np.zeros_like(self.sq_dev)


def moments(X: Rows, weight: Float64s | None) -> Moments:
    """Return the moments of the rows of `X`, (n_rows, n_features), weighted by `weight`, (n_rows,), if given."""
    mean, sq_dev = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    total = _moments(read_only(X), read_only(NO_WEIGHT if weight is None else weight), mean, sq_dev)
    return Moments(total, mean, sq_dev)


@jit
def _moments(X: Any, weight: Any, mean: Any, sq_dev: Any) -> float:
    """Fill mean and sum of squared deviations, tile by tile in two sweeps, and return the total weight.

    The first row is subtracted from all: so a mean that is large beside the deviations costs no digits.
    """
    n, d = X.shape
    total = 0.0
    origin = np.zeros(d)
    for f in range(d if n else 0):
        origin[f] = X[0, f]
    tile_mean = np.empty(d)
    tile_sq_dev = np.empty(d)
    for begin in range(0, n, TILE_ROWS):
        end = min(begin + TILE_ROWS, n)
        tile_weight = 0.0
        tile_mean[:] = 0
        tile_sq_dev[:] = 0
        for i in range(begin, end):
            w = weight[i] if len(weight) else 1.0
            tile_weight += w
            for f in range(d):
                tile_mean[f] += w * (np.float64(X[i, f]) - origin[f])
        if tile_weight == 0:
            continue
        for f in range(d):
            tile_mean[f] /= tile_weight
        for i in range(begin, end):
            w = weight[i] if len(weight) else 1.0
            for f in range(d):
                dev = np.float64(X[i, f]) - origin[f] - tile_mean[f]
                tile_sq_dev[f] += w * dev * dev
        both = total + tile_weight
        for f in range(d):
            delta = tile_mean[f] - mean[f]
            mean[f] += delta * (tile_weight / both)
            sq_dev[f] += tile_sq_dev[f] + delta * delta * (total * tile_weight / both)
        total = both
    if total > 0:
        mean += origin
    return total


@jit
def count_non_finite(X: Any) -> tuple[int, int]:
    """Return how many rows of `X` have a NaN or an infinity, and the first of them (-1 if none)."""
    count = 0
    first = -1
    for i in range(X.shape[0]):
        # x - x is 0 for a finite x and NaN for all else: a sum that vectorises.
        total = X.dtype.type(0)
        for f in range(X.shape[1]):
            total += X[i, f] - X[i, f]
        if total != 0:
            count += 1
            if first < 0:
                first = i
    return count, first

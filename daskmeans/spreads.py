"""What validity indices need of the rows of ONE block: a loop in one thread, without the GIL.

Must not know of Dask, Zarr or files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from daskmeans.jit import NO_WEIGHT, Float64s, jit, read_only
from daskmeans.kernels import TILE_ROWS, Stack, row_sq_dist
from daskmeans.products import fill, multiply, padded, room_for_products, tile_for
from daskmeans.samples import Rows

# Where a squared distance is at least this part of the squared norms that it is the difference of, scores in float64
# tell it to 10 digits and more: their rounding is about 1e-15 of these norms, and has either sign.
TOLD_BY_SCORES = 1e-5


def distances_and_silhouettes(
    X: Rows,
    weight: Float64s | None,
    labels: npt.NDArray[np.int32],
    stack: Stack,
    offset: Float64s,
    points: Float64s,
    *,
    with_silhouette: bool = True,
) -> tuple[Float64s, Float64s]:
    """Sum up over the rows of each cluster how far they are from a point, and their simplified silhouettes.

    The simplified silhouette of a row is 1 - a / b, where a is the distance to the nearest center and b that to the
    second nearest of the model; 0 where both are 0.

    Parameters
    ----------
    X : (n_rows, n_features) float32 or float64.
    weight : (n_rows,) float64, or None for 1.
    labels : (n_models, n_rows), as `kernels.assign` returns them.
    stack : the centers.
    offset : (n_features,) float64, a point in the middle of the data.
    points : (n_centers, n_features) float64, what distances are measured from.

    Returns
    -------
    dist, silhouette : (n_centers,) float64, weighted sums; 0 for silhouettes that are not asked for.
    """
    dist, silhouette = np.zeros(len(points)), np.zeros(len(points))
    _add_up(
        read_only(np.ascontiguousarray(X)),
        read_only(NO_WEIGHT if weight is None else weight),
        read_only(labels),
        stack.starts,
        offset,
        stack.centers,
        *_expanded(stack.centers, offset),
        points,
        *_expanded(points, offset),
        with_silhouette,
        dist,
        silhouette,
    )
    return dist, silhouette


def _expanded(points: Float64s, offset: Float64s) -> tuple[Rows, Rows]:
    shifted = points - offset
    return padded(-2 * shifted, (shifted**2).sum(axis=1))


@jit
def _add_up(
    X: Any,
    weight: Any,
    labels: Any,
    starts: Any,
    offset: Any,
    centers: Any,
    factors: Any,
    sq_norms: Any,
    points: Any,
    factors_of_points: Any,
    sq_norms_of_points: Any,
    with_silhouette: bool,
    dist: Any,
    silhouette: Any,
) -> None:
    n = len(X)
    size = min(TILE_ROWS, max(1, n))
    tile = tile_for(size, offset)
    scores = room_for_products(factors, size)
    scores_of_points = room_for_products(factors, size)
    numbers = np.empty((3, size))
    to_point, to_own, to_other = numbers[0], numbers[1], numbers[2]
    other = np.empty(size, np.int32)
    for begin in range(0, n, size):
        rows = min(size, n - begin)
        block = X[begin : begin + rows]
        fill(tile, X, np.arange(begin, begin + rows))
        multiply(factors_of_points, sq_norms_of_points, tile.columns, scores_of_points)
        if with_silhouette:
            multiply(factors, sq_norms, tile.columns, scores)
        for m in range(len(starts) - 1):
            first, last = starts[m], starts[m + 1]
            own = labels[m, begin : begin + rows]
            for t in range(rows):
                to_point[t] = scores_of_points[first + own[t], t]
            largest = sq_norms_of_points[first:last].max()
            _to_distances(block, points, first, own, tile.sq_norm, largest, to_point)
            for t in range(rows):
                dist[first + own[t]] += to_point[t] * (weight[begin + t] if len(weight) else 1.0)
            if with_silhouette:
                for t in range(rows):
                    to_own[t] = scores[first + own[t], t]
                _second_nearest(scores, first, last, own, to_other, other)
                largest = sq_norms[first:last].max()
                _to_distances(block, centers, first, own, tile.sq_norm, largest, to_own)
                _to_distances(block, centers, first, other, tile.sq_norm, largest, to_other)
                for t in range(rows):
                    to_own[t] = (to_other[t] - to_own[t]) / to_other[t] if to_other[t] > 0 else 0.0
                for t in range(rows):
                    silhouette[first + own[t]] += to_own[t] * (weight[begin + t] if len(weight) else 1.0)


@jit
def _second_nearest(scores: Any, first: int, last: int, own: Any, second: Any, other: Any) -> None:
    """Fill the smallest score of each row but that of its `own` cluster, and whose it is; of one cluster, infinity."""
    for t in range(len(own)):
        second[t] = np.inf
        other[t] = 0
    for c in range(first, last):
        for t in range(len(own)):
            score = np.inf if own[t] == c - first else scores[c, t]
            if score < second[t]:
                second[t] = score
                other[t] = c - first


@jit
def _to_distances(X: Any, points: Any, first: int, label: Any, sq_norm: Any, largest: float, scores: Any) -> None:
    """Turn scores into distances, and compute those directly that they do not tell; `largest` is |p|^2 of `points`."""
    untold = 0
    for t in range(len(X)):
        sq_dist = scores[t] + sq_norm[t]
        told = (sq_dist >= TOLD_BY_SCORES * (sq_norm[t] + largest)) & (sq_dist < np.inf)
        untold += not told
        scores[t] = np.sqrt(sq_dist) if told else -1.0
    if untold:
        for t in range(len(X)):
            if scores[t] < 0:
                scores[t] = np.sqrt(row_sq_dist(X, t, points, first + label[t]))

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


def distances_and_silhouettes(
    X: Rows,
    weight: Float64s | None,
    labels: npt.NDArray[np.int32],
    sq_dist: Float64s,
    stack: Stack,
    offset: Float64s,
    points: Float64s,
) -> tuple[Float64s, Float64s]:
    """Sum up over the rows of each cluster how far they are from a point, and their simplified silhouettes.

    The simplified silhouette of a row is 1 - a / b, where a is the distance to the nearest center and b that to the
    second nearest of the model, which scores in float64 find and which is computed directly; 0 where both are 0.

    Parameters
    ----------
    X : (n_rows, n_features) float32 or float64, C-contiguous.
    weight : (n_rows,) float64, or None for 1.
    labels, sq_dist : (n_models, n_rows), as `kernels.assign` returns them.
    stack : the centers.
    offset : (n_features,) float64, a point in the middle of the data.
    points : (n_centers, n_features) float64, what distances are measured from.

    Returns
    -------
    dist, silhouette : (n_centers,) float64, weighted sums.
    """
    dist, silhouette = np.zeros(len(points)), np.zeros(len(points))
    shifted = stack.centers - offset
    sq_norms = (shifted**2).sum(axis=1)
    _add_up(
        read_only(np.ascontiguousarray(X)),
        read_only(NO_WEIGHT if weight is None else weight),
        read_only(labels),
        read_only(sq_dist),
        stack.centers,
        stack.starts,
        offset,
        *padded(-2 * shifted, sq_norms),
        points,
        dist,
        silhouette,
    )
    return dist, silhouette


@jit
def _add_up(
    X: Any,
    weight: Any,
    labels: Any,
    sq_dist: Any,
    centers: Any,
    starts: Any,
    offset: Any,
    factors: Any,
    sq_norms: Any,
    points: Any,
    dist: Any,
    silhouette: Any,
) -> None:
    n = len(X)
    size = min(TILE_ROWS, max(1, n))
    tile = tile_for(size, offset)
    scores = room_for_products(factors, size)
    second = np.empty(size)
    other = np.empty(size, np.int32)
    for begin in range(0, n, size):
        rows = min(size, n - begin)
        fill(tile, X, np.arange(begin, begin + rows))
        multiply(factors, sq_norms, tile.columns, scores)
        for m in range(len(starts) - 1):
            own = labels[m, begin : begin + rows]
            _second_nearest(scores, starts[m], starts[m + 1], own, second, other)
            for t in range(rows):
                i, c = begin + t, starts[m] + own[t]
                w = weight[i] if len(weight) else 1.0
                dist[c] += w * np.sqrt(row_sq_dist(X, i, points, c))
                if other[t] >= 0:
                    b = np.sqrt(row_sq_dist(X, i, centers, other[t]))
                    if b > 0:
                        silhouette[c] += w * ((b - np.sqrt(sq_dist[m, i])) / b)


@jit
def _second_nearest(scores: Any, first: int, last: int, own: Any, second: Any, other: Any) -> None:
    """Fill the smallest score of each row but that of its `own` cluster, and whose it is; -1 where there is none."""
    for t in range(len(own)):
        second[t] = np.inf
        other[t] = -1
    for c in range(first, last):
        for t in range(len(own)):
            score = np.inf if own[t] == c - first else scores[c, t]
            if score < second[t]:
                second[t] = score
                other[t] = c

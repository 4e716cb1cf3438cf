"""A pass over ONE block in memory that looks only at rows whose bound says that they may have changed cluster.

Must not know of Dask, Zarr or files, nor of how bounds are kept from pass to pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from daskmeans.jit import NO_WEIGHT, Float64s, jit, read_only
from daskmeans.kernels import (
    FLOAT32_MARGIN,
    TILE_ROWS,
    Stack,
    apart,
    bound_errors,
    nearest,
    pays,
    two_smallest,
)
from daskmeans.products import fill, room_for_products, tile_for
from daskmeans.quantized import multiply_either, room_for_quantized
from daskmeans.samples import Rows


class Moved(NamedTuple):
    """What rows that changed cluster change in the sums of one model; rows assigned for the first time come from none.

    Attributes
    ----------
    sums : (n_clusters, n_features) float64, change of the weighted sums of the rows.
    counts : (n_clusters,) float64, of their weights.
    members : (n_clusters,) float64, of the number of rows of positive weight.
    sq_dev : (n_clusters,) float64, of the weighted squared distances to the offset.
    """

    sums: Float64s
    counts: Float64s
    members: Float64s
    sq_dev: Float64s


def reassign(
    X: Rows,
    weight: Float64s | None,
    model: Stack,
    offset: Float64s,
    drift: Float64s,
    labels: npt.NDArray[np.int32],
    reach: npt.NDArray[np.float32],
) -> Moved:
    """Assign those rows anew that the centers may have come too near to, and tell what that changes.

    The labels are those of `assign`. A row stays in its cluster, unseen, while its reach exceeds the drift of the
    cluster (Hamerly 2010, with the centers' movements added up rather than taken from the bound of each row).

    Parameters
    ----------
    X, weight, offset : as for `assign`.
    model : its centers, a stack of one.
    drift : (n_clusters,) float64, by how much gaps of the cluster's rows can have closed since a start that is the same
        for all calls with these `labels` and `reach`.
    labels : (n_rows,) int32, of the last call, -1 before the first; filled in place.
    reach : (n_rows,) float32, the drift up to which the label is certain, -infinity before the first call; filled in
        place.
    """
    n_clusters, n_features = model.centers.shape
    moved = Moved(
        sums=apart((n_clusters, n_features), 0.0),
        counts=apart((n_clusters,), 0.0),
        members=apart((n_clusters,), 0.0),
        sq_dev=apart((n_clusters,), 0.0),
    )
    limit = np.nextafter(drift.astype(np.float32), np.float32(np.inf))
    floor = (drift * (1 - FLOAT32_MARGIN)).astype(np.float32)
    _reassign(
        read_only(np.ascontiguousarray(X)),
        read_only(NO_WEIGHT if weight is None else weight),
        model.centers,
        *model.expanded(offset, X.dtype),
        limit,
        floor,
        labels,
        reach,
        *moved,
    )
    return moved


@jit
def _reassign(
    X: Any,
    weight: Any,
    centers: Any,
    offset: Any,
    factors: Any,
    sq_norms: Any,
    quantized: Any,
    errors: Any,
    limit: Any,
    floor: Any,
    labels: Any,
    reach: Any,
    sums: Any,
    counts: Any,
    members: Any,
    sq_dev: Any,
) -> None:
    n, d = X.shape
    size = min(TILE_ROWS, max(1, n))
    rows = np.empty(2 * size, np.int64)
    tile = tile_for(size, offset)
    scores = room_for_products(factors, size)
    best = np.empty(size, X.dtype)
    second = np.empty(size, X.dtype)
    label = np.empty(size, np.int32)
    bound = np.empty(size, X.dtype)
    gap = np.empty(size, np.float32)
    moved = np.empty(size, np.int64)
    whole = room_for_quantized(quantized, tile)
    is_quantized = len(quantized.pairs) > 0
    largest = 2 * sq_norms.max()

    waiting = 0
    for begin in range(0, n, size):
        end = min(begin + size, n)
        for i in range(begin, end):
            rows[waiting] = i
            waiting += not reach[i] > limit[labels[i]]
        while waiting >= size or (end == n and waiting > 0):
            taken = min(size, waiting)
            fill(tile, X, rows[:taken])
            multiply_either(factors, quantized, sq_norms, tile, whole, is_quantized, scores)
            while True:
                two_smallest(scores, 0, len(centers), best, second, label)
                bound_errors(tile.sq_norm, whole.scale, largest, errors, is_quantized, bound)
                unclear = 0
                for t in range(taken):
                    unclear += not second[t] - best[t] > bound[t]
                if not is_quantized or pays(unclear, taken, len(centers), d):
                    break
                is_quantized = False
                multiply_either(factors, quantized, sq_norms, tile, whole, is_quantized, scores)
            for t in range(taken):
                if not second[t] - best[t] > bound[t]:
                    label[t] = nearest(X, rows[t], centers, scores[:, t], best[t] + bound[t])
            _least_gap(best, second, tile.sq_norm, bound, gap)
            n_moved = 0
            for t in range(taken):
                i = rows[t]
                reach[i] = gap[t] + floor[label[t]]
                moved[n_moved] = t
                n_moved += label[t] != labels[i]
            _move(X, weight, rows, label, moved[:n_moved], labels, offset, sums, counts, members, sq_dev)
            waiting -= taken
            rows[:waiting] = rows[taken : taken + waiting]


@jit
def _least_gap(best: Any, second: Any, sq_norm: Any, bound: Any, gap: Any) -> None:
    """Fill by how much the second nearest center is farther than the nearest, never too much, whatever was rounded.

    NaN where a score overflowed or there is no second center.
    """
    zero, margin = best.dtype.type(0), best.dtype.type(FLOAT32_MARGIN)
    for t in range(len(gap)):
        far = np.sqrt(max(zero, second[t] + sq_norm[t] - bound[t]))
        near = np.sqrt(max(zero, best[t] + sq_norm[t] + bound[t]))
        gap[t] = far - near - margin * (far + near)


@jit
def _move(
    X: Any,
    weight: Any,
    rows: Any,
    label: Any,
    moved: Any,
    labels: Any,
    offset: Any,
    sums: Any,
    counts: Any,
    members: Any,
    sq_dev: Any,
) -> None:
    """Take those rows of a tile that have `moved` from the sums of their old clusters, and add them to the new ones."""
    for m in range(len(moved)):
        t = moved[m]
        i, new = rows[t], label[t]
        old = labels[i]
        w = weight[i] if len(weight) else 1.0
        member = 1.0 if w > 0 else 0.0
        dist = 0.0
        for f in range(X.shape[1]):
            value = np.float64(X[i, f])
            dev = value - np.float64(offset[f])
            dist += dev * dev
            sums[new, f] += w * value
        counts[new] += w
        members[new] += member
        sq_dev[new] += w * dist
        if old >= 0:
            for f in range(X.shape[1]):
                sums[old, f] -= w * np.float64(X[i, f])
            counts[old] -= w
            members[old] -= member
            sq_dev[old] -= w * dist
        labels[i] = new

"""Assignment of all rows of ONE block to the centers of a stack of models: loops in one thread, without the GIL.

Must not know of Dask, Zarr or files. Arrays in, arrays out; what is filled in place is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from daskmeans.cells import (
    add_to_cells,
    add_to_clusters,
    find_cells,
    grouped,
    no_rows,
    none_occurred,
    number_cells,
)
from daskmeans.jit import NO_WEIGHT, Float64s, Int64s, jit, read_only
from daskmeans.products import fill, padded, room, room_for_products, tile_for
from daskmeans.quantized import (
    TINY,
    Quantized,
    error_of_scores,
    multiply_either,
    quantized_factors,
    room_for_quantized,
)
from daskmeans.samples import Rows

# Rows of a tile: its features and its scores stay in the L2 cache. 128 to 1024 were tried on shapes from d=4, k=8 to
# d=768, k=1024; 256 was best or within 10 % of it throughout.
TILE_ROWS = 256

# Settling a label takes as long as so many quantized products of a feature save, for each center and each feature.
SETTLING = 96

# More than the rounding of a sum of two numbers to float32, relative to it.
FLOAT32_MARGIN = 1e-6

# Numbers of float64 in two cache lines, which processors fetch together.
CACHE_LINES = 16


class Expanded(NamedTuple):
    """What scores ``|c|^2 - 2 x.c`` are made of, in the dtype of the rows: offset, ``-2 c`` and ``|c|^2``.

    The offset is rounded once, so that rows and centers are shifted by the very same point. Zeros are added to the
    others as `multiply` needs them. Then the factors once more, quantized. Last by how much the difference of two
    scores may be wrong: relative to their largest term; and, of quantized ones, also to the scale of the row and the
    norm of the center.
    """

    offset: Rows
    factors: Rows
    sq_norms: Rows
    quantized: Quantized
    errors: tuple[Any, Any]


@dataclass(frozen=True, eq=False)
class Stack:
    """The centers of several models, stacked: model m owns rows ``starts[m]`` to ``starts[m + 1]``.

    Attributes
    ----------
    centers : (n_centers, n_features) float64, each value representable in the dtype of the rows.
    starts : (n_models + 1,) int64.
    """

    centers: Float64s
    starts: Int64s
    _expanded: dict[tuple[bytes, str], Expanded] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Stack, (self.centers, self.starts)

    def expanded(self, offset: Float64s, dtype: np.dtype[Any]) -> Expanded:
        """Return the centers as scores need them, computed once for all blocks of a pass."""
        key = (offset.tobytes(), dtype.str)
        if key not in self._expanded:
            rounded = offset.astype(dtype)
            shifted = self.centers - rounded
            with np.errstate(over="ignore"):
                factors, sq_norms = (-2 * shifted).astype(dtype), (shifted**2).sum(axis=1).astype(dtype)
            factors, sq_norms = padded(factors, sq_norms)
            n_centers, d = shifted.shape
            # (d + 4) roundings of their largest term; Higham, Accuracy and Stability, sec. 3.1.
            errors = dtype.type(2 * (d + 8) * np.finfo(dtype).eps), dtype.type(error_of_scores(d))
            quantized = quantized_factors(factors, n_centers)
            self._expanded[key] = Expanded(rounded, factors, sq_norms, quantized, errors)
        return self._expanded[key]

    @classmethod
    def of(cls, models: list[Float64s]) -> Stack:
        """Stack the centers of `models`."""
        starts = np.cumsum([0, *(len(centers) for centers in models)], dtype=np.int64)
        return cls(np.ascontiguousarray(np.concatenate(models), dtype=np.float64), starts)

    def of_model(self, m: int) -> slice:
        """Return the rows of model `m`."""
        return slice(int(self.starts[m]), int(self.starts[m + 1]))

    @property
    def n_models(self) -> int:
        """Number of models."""
        return len(self.starts) - 1


class Assignment(NamedTuple):
    """What assigning the rows of a block to a stack of models yields.

    Attributes
    ----------
    sums : (n_centers, n_features) float64, weighted sums of the rows of each cluster.
    counts : (n_centers,) float64, their weights.
    inertia : (n_centers,) float64, their weighted squared distances to the center.
    far_sq_dist : (n_centers,) float64, for each model its farthest rows of positive weight, in no order; -1 where
        there are fewer.
    far_row : (n_centers,) int64, which rows these are in the block.
    far_label : (n_centers,) int32, and to which cluster of their model they belong.
    labels : (n_models, n_rows) int32, or (n_models, 0) when not asked for.
    sq_dist : (n_models, n_rows) float64, or (n_models, 0) when not asked for.
    gap : (n_models, n_rows) float64, or (n_models, 0) when not asked for: by how much the distance to the second
        nearest center of the model exceeds that to the nearest; never too large, whatever was rounded.
    """

    sums: Float64s
    counts: Float64s
    inertia: Float64s
    far_sq_dist: Float64s
    far_row: Int64s
    far_label: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    sq_dist: Float64s
    gap: Float64s


def assign(
    X: Rows,
    weight: Float64s | None,
    stack: Stack,
    offset: Float64s,
    *,
    with_labels: bool = False,
    with_sq_dist: bool = False,
    with_gap: bool = False,
) -> Assignment:
    """Assign each row to the nearest center of each model, and sum up.

    The label is the exact one: scores are computed in the dtype of `X`, as ``|c|^2 - 2 x.c`` on data shifted by
    `offset`, and where their rounding could have changed the order the distances are compared directly in float64.
    So it depends on the row and the centers alone, not on the tile or the block. Ties go to the lowest label.

    Parameters
    ----------
    X : (n_rows, n_features) float32 or float64, C-contiguous.
    weight : (n_rows,) float64, or None for 1.
    stack : the centers.
    offset : (n_features,) float64, a point in the middle of the data.
    """
    n_rows, n_features = X.shape
    n_centers, n_models = len(stack.centers), stack.n_models
    result = Assignment(
        sums=apart((n_centers, n_features), 0.0),
        counts=apart((n_centers,), 0.0),
        inertia=apart((n_centers,), 0.0),
        far_sq_dist=apart((n_centers,), -1.0),
        far_row=np.zeros(n_centers, dtype=np.int64),
        far_label=np.zeros(n_centers, dtype=np.int32),
        labels=np.empty((n_models, n_rows if with_labels else 0), dtype=np.int32),
        sq_dist=np.empty((n_models, n_rows if with_sq_dist else 0)),
        gap=np.empty((n_models, n_rows if with_gap else 0)),
    )
    _assign(
        read_only(np.ascontiguousarray(X)),
        read_only(NO_WEIGHT if weight is None else weight),
        stack.centers,
        stack.starts,
        *stack.expanded(offset, X.dtype),
        *grouped(np.diff(stack.starts), 0 if with_sq_dist else n_rows, n_features),
        *result,
    )
    return result


def apart(shape: tuple[int, ...], fill: float) -> Float64s:
    """Return a filled array that shares no cache line with another.

    NumPy takes small arrays of all threads from one pool; neighbours that two threads add to made two threads as slow
    as one.
    """
    size = math.prod(shape)
    return np.full(size + 2 * CACHE_LINES, fill)[CACHE_LINES:-CACHE_LINES].reshape(shape)


@jit
def _assign(
    X: Any,
    weight: Any,
    centers: Any,
    starts: Any,
    offset: Any,
    factors: Any,
    sq_norms: Any,
    quantized: Any,
    errors: Any,
    order: Any,
    groups: Any,
    n_cells: Any,
    n_sought: Any,
    sums: Any,
    counts: Any,
    inertia: Any,
    far_sq_dist: Any,
    far_row: Any,
    far_label: Any,
    labels: Any,
    sq_dist: Any,
    gap: Any,
) -> None:
    n, d = X.shape
    size = min(TILE_ROWS, max(1, n))
    tile = tile_for(size, offset)
    scores = room_for_products(factors, size)
    numbers = room(4, size, factors)
    best, second, bound, most = numbers[0], numbers[1], numbers[2], numbers[3]
    label = room(len(starts) - 1, size, far_label)
    cell = room(len(groups) - 1, size, far_label)
    dist = np.empty(size)
    n_clusters = np.array([starts[m + 1] - starts[m] for m in order])
    cells = [no_rows(n, X) for n in n_cells]
    occurring = none_occurred(n_sought, X)
    whole = room_for_quantized(quantized, tile)
    is_quantized = len(quantized.pairs) > 0
    largest = np.empty(len(starts) - 1, X.dtype)
    for m in range(len(largest)):
        largest[m] = 2 * sq_norms[starts[m] : starts[m + 1]].max()

    for begin in range(0, n, size):
        rows = min(size, n - begin)
        block = X[begin : begin + rows]
        fill(tile, X, np.arange(begin, begin + rows))
        multiply_either(factors, quantized, sq_norms, tile, whole, is_quantized, scores)
        w = weight[begin : begin + rows]
        for g in range(len(cells)):
            alone = n_cells[g] == 0
            for p in range(groups[g], groups[g + 1]):
                m, own = order[p], label[p]
                first, last = starts[m], starts[m + 1]
                while True:
                    two_smallest(scores, first, last, best, second, own)
                    bound_errors(tile.sq_norm, whole.scale, largest[m], errors, is_quantized, bound)
                    unclear, n_far = _judge(rows, best, second, tile.sq_norm, far_sq_dist[first], bound, most)
                    if not is_quantized or pays(unclear, rows, len(centers) // len(n_clusters), d):
                        break
                    is_quantized = False
                    multiply_either(factors, quantized, sq_norms, tile, whole, is_quantized, scores)
                if unclear:
                    _settle_ties(block, centers[first:last], scores[first:last], best, second, bound, own)
                if alone:
                    _add_up(block, w, centers, own, first, sums, counts, inertia, dist)
                if n_far:
                    _keep_farthest(block, w, begin, most, centers, first, last, own, far_sq_dist, far_row, far_label)
                if labels.shape[1]:
                    labels[m, begin : begin + rows] = own[:rows]
                if sq_dist.shape[1]:
                    sq_dist[m, begin : begin + rows] = dist[:rows]
                if gap.shape[1]:
                    if not alone:
                        unknown = 0
                        for t in range(rows):
                            dist[t] = max(0.0, most[t])
                            unknown += not most[t] < np.inf
                        if unknown:
                            for t in range(rows):
                                if not most[t] < np.inf:
                                    dist[t] = row_sq_dist(block, t, centers, first + own[t])
                    for t in range(rows):
                        reached = max(0.0, np.float64(second[t]) + np.float64(tile.sq_norm[t]) - np.float64(bound[t]))
                        gap[m, begin + t] = max(0.0, np.sqrt(reached) - np.sqrt(dist[t]))
            if not alone:
                of_group = slice(groups[g], groups[g + 1])
                number_cells(label[of_group], n_clusters[of_group], cell[g])
        if find_cells(cell, n_cells, rows, occurring):
            add_to_cells(block, w, cell[0], occurring.cells)
        else:
            for g in range(len(cells)):
                if n_cells[g]:
                    add_to_cells(block, w, cell[g], cells[g])
    add_to_clusters(occurring.cells, order, starts, centers, sums, counts, inertia)
    for g in range(len(cells)):
        add_to_clusters(cells[g], order[groups[g] : groups[g + 1]], starts, centers, sums, counts, inertia)


@jit
def pays(n_unclear: int, n_rows: int, n_centers: int, n_features: int) -> bool:
    """Return whether quantized products of rows save more time than settling their unclear labels takes.

    `n_centers` are those of a model, on average.
    """
    return n_unclear * (n_centers + n_features) * SETTLING <= n_rows * n_centers * n_features


@jit
def bound_errors(sq_norm: Any, scale: Any, largest: Any, errors: Any, is_quantized: bool, bound: Any) -> None:
    """Fill by how much the difference of two scores may be wrong; NaN or infinite where a square overflowed.

    `scale` is that of quantized rows, `largest` twice the largest squared norm of the centers.
    """
    vanishing = np.finfo(bound.dtype).tiny
    for t in range(len(bound)):
        bound[t] = errors[0] * (sq_norm[t] + largest) + vanishing
    if is_quantized:
        of_products = errors[1] * np.sqrt(largest / 2 + TINY)
        for t in range(len(bound)):
            bound[t] += of_products * scale[t]


@jit
def _judge(n_rows: int, best: Any, second: Any, sq_norm: Any, reach: float, bound: Any, most: Any) -> tuple[int, int]:
    """Fill what the squared distance to the nearest center is at most; NaN or infinite where a square overflowed.

    Returns for how many rows the label is not certain, and for how many that distance may exceed `reach`.
    """
    limit = best.dtype.type(reach * (1 - FLOAT32_MARGIN) if reach > 0 else reach)
    unclear = 0
    n_far = 0
    for t in range(n_rows):
        reached = best[t] + sq_norm[t] + bound[t]
        most[t] = reached
        unclear += not second[t] - best[t] > bound[t]
        n_far += not reached <= limit
    return unclear, n_far


@jit
def row_sq_dist(X: Any, i: int, centers: Any, c: int) -> float:
    """Return the squared distance of row `i` to center `c`; whole arrays, since a view takes longer than the sum."""
    total = 0.0
    for f in range(X.shape[1]):
        dev = np.float64(X[i, f]) - centers[c, f]
        total += dev * dev
    return total


@jit
def two_smallest(scores: Any, first: int, last: int, best: Any, second: Any, label: Any) -> None:
    """Fill the smallest and second smallest score of each column, and the row of the smallest."""
    for t in range(len(best)):
        best[t] = np.inf
        second[t] = np.inf
        label[t] = 0
    for j in range(first, last):
        for t in range(len(best)):
            score = scores[j, t]
            second[t] = min(second[t], max(score, best[t]))
            if score < best[t]:
                best[t] = score
                label[t] = j - first


@jit
def _settle_ties(X: Any, centers: Any, scores: Any, best: Any, second: Any, bound: Any, label: Any) -> None:
    """Correct the label where rounding could have changed the order of the two smallest scores."""
    for t in range(X.shape[0]):
        # Negated, so that scores which overflowed or are NaN are compared in float64 too.
        if not second[t] - best[t] > bound[t]:
            label[t] = nearest(X, t, centers, scores[:, t], best[t] + bound[t])


@jit
def _add_up(
    X: Any, weight: Any, centers: Any, label: Any, first: int, sums: Any, counts: Any, inertia: Any, dist: Any
) -> None:
    """Add the rows to the sums of their clusters, and fill their squared distances; all in one loop, to hide latency.

    `first` is the center that label 0 stands for.
    """
    for t in range(X.shape[0]):
        c = first + label[t]
        w = weight[t] if len(weight) else 1.0
        total = 0.0
        for f in range(X.shape[1]):
            value = np.float64(X[t, f])
            dev = value - centers[c, f]
            total += dev * dev
            sums[c, f] += w * value
        dist[t] = total
        counts[c] += w
        inertia[c] += w * total


@jit
def nearest(X: Any, i: int, centers: Any, scores: Any, reach: Any) -> int:
    """Return the nearest to row `i` of the centers whose score does not exceed `reach`, by distances in float64."""
    nearest = 0
    smallest = np.inf
    for j in range(len(centers)):
        if not scores[j] > reach:
            dist = row_sq_dist(X, i, centers, j)
            if dist < smallest:
                smallest = dist
                nearest = j
    return nearest


@jit
def _keep_farthest(
    X: Any,
    weight: Any,
    begin: int,
    most: Any,
    centers: Any,
    first: int,
    last: int,
    label: Any,
    far_sq_dist: Any,
    far_row: Any,
    far_label: Any,
) -> None:
    """Let rows of a tile take the places of nearer ones among the farthest of a model: a heap, the nearest at `first`.

    `most` is what their squared distances are at most; the tile's rows begin with row `begin` of the block.
    """
    for t in range(len(X)):
        if most[t] <= far_sq_dist[first] or (len(weight) and not weight[t] > 0):
            continue
        new = row_sq_dist(X, t, centers, first + label[t])
        if not new > far_sq_dist[first]:
            continue
        place = 0
        while True:
            child = 2 * place + 1
            if first + child >= last:
                break
            if first + child + 1 < last and far_sq_dist[first + child + 1] < far_sq_dist[first + child]:
                child += 1
            if new <= far_sq_dist[first + child]:
                break
            far_sq_dist[first + place] = far_sq_dist[first + child]
            far_row[first + place] = far_row[first + child]
            far_label[first + place] = far_label[first + child]
            place = child
        far_sq_dist[first + place], far_row[first + place], far_label[first + place] = new, begin + t, label[t]

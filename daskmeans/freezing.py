"""Which rows of ONE block a pass keeps: those that can soon change cluster, and a sample of the others.

Must not know of Dask, Zarr or files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from daskmeans.jit import Float64s, jit
from daskmeans.kernels import TILE_ROWS, Stack

# What the gap of a row that lies on a border counts as, when something is divided by it.
SMALLEST_GAP = np.finfo(np.float64).tiny


def freeze(
    gap: Float64s,
    labels: npt.NDArray[np.int32],
    stack: Stack,
    active: Float64s,
    likely: Float64s,
    most: Float64s,
    u: Float64s,
) -> tuple[npt.NDArray[np.bool_], Float64s, Float64s]:
    """Divide rows into active ones, whose gap is below a limit of their cluster, and frozen ones.

    Of the frozen rows a sample stands for all: each with probability ``min(most, (likely / gap)^2)``, and with the
    inverse as its factor, since the smaller its gap the sooner a row can change cluster. What a row is for one of the
    models it is for all: active if it is for any, else in the sample with the largest of the probabilities.

    Parameters
    ----------
    gap, labels : (n_models, n_rows).
    active, likely : (n_centers,) limits.
    most : (n_models,).
    u : (n_rows,) uniform random numbers; empty to sample none.

    Returns
    -------
    is_active : (n_rows,) bool.
    factor : (n_rows,) float64, at least 1 for rows in the sample, 0 for all others.
    smallest_gap : (n_centers,) float64, of each cluster's frozen rows; infinity where it has none.
    """
    is_active = np.empty(gap.shape[1], np.bool_)
    factor = np.zeros(gap.shape[1])
    smallest_gap = np.full(len(active), np.inf)
    _freeze(gap, labels, stack.starts, active, likely, most, u, is_active, factor, smallest_gap)
    return is_active, factor, smallest_gap


@jit
def _freeze(
    gap: Any,
    labels: Any,
    starts: Any,
    active: Any,
    likely: Any,
    most: Any,
    u: Any,
    is_active: Any,
    factor: Any,
    smallest_gap: Any,
) -> None:
    n_models, n = gap.shape
    chance = np.empty(TILE_ROWS)
    limit = np.empty(TILE_ROWS)
    for begin in range(0, n, TILE_ROWS):
        rows = min(TILE_ROWS, n - begin)
        chance[:] = 0
        of_tile = is_active[begin : begin + rows]
        of_tile[:] = False
        for m in range(n_models):
            own = labels[m, begin : begin + rows]
            gaps = gap[m, begin : begin + rows]
            first, last = starts[m], starts[m + 1]
            if active[first:last].max() > 0:
                _look_up(active[first:last], own, limit)
                for t in range(rows):
                    of_tile[t] |= gaps[t] < limit[t]
            if len(u):
                _look_up(likely[first:last], own, limit)
                for t in range(rows):
                    ratio = limit[t] / max(gaps[t], SMALLEST_GAP)
                    chance[t] = max(chance[t], min(most[m], ratio * ratio))
        if len(u):
            for t in range(rows):
                if not of_tile[t] and u[begin + t] < chance[t]:
                    factor[begin + t] = 1.0 / chance[t]
        for m in range(n_models):
            own = labels[m, begin : begin + rows]
            gaps = gap[m, begin : begin + rows]
            smallest = smallest_gap[starts[m] : starts[m + 1]]
            _look_up(smallest, own, limit)
            smaller = 0
            for t in range(rows):
                smaller += (gaps[t] < limit[t]) & (not of_tile[t])
            if smaller:
                for t in range(rows):
                    if not of_tile[t]:
                        smallest[own[t]] = min(smallest[own[t]], gaps[t])


@jit
def _look_up(table: Any, places: Any, values: Any) -> None:
    """Fill the values at some places of a table: apart, so that what is made of them vectorises."""
    for t in range(len(places)):
        values[t] = table[places[t]]

"""Cells: the rows that belong to the same cluster in each of several models are summed up once for all of these.

A row of a block belongs to one cluster of each model; with few clusters few combinations of these, cells, are many
rows' own. What is summed up of a cell's rows is their deviations from the first of them, so it is as exact for clusters
that are small and far from the origin; at the end of the block each cell is added to the cluster that it lies in, model
by model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from daskmeans.jit import Float64s, Int64s, jit

# Numbers that the sums of all cells of a group have, at most: they stay in the L2 cache.
MOST_NUMBERS = 2**15

# Rows of a block for each cell, at least: else cells cost more to add to the models than they save.
ROWS_PER_CELL = 16


class Cells(NamedTuple):
    """The cells of one group of models.

    Attributes
    ----------
    taken : (n_cells,) bool, whether there is a row of it.
    origin : (n_cells, n_features) float64, the first row.
    weight : (n_cells,) float64, of all rows.
    sums : (n_cells, n_features) float64, weighted sums of the deviations from the origin.
    sq_dev : (n_cells,) float64, weighted sum of their squares.
    """

    taken: Any
    origin: Float64s
    weight: Float64s
    sums: Float64s
    sq_dev: Float64s


def groups(starts: Int64s, n_rows: int, n_features: int) -> Int64s:
    """Return where groups of models begin, (n_groups + 1,): of as many as have few enough cells together."""
    most = min(MOST_NUMBERS // (2 * n_features), n_rows // ROWS_PER_CELL)
    begins, n_cells = [0], 1
    for m, n_clusters in enumerate(np.diff(starts)):
        n_cells *= int(n_clusters)
        if n_cells > most and m > begins[-1]:
            begins.append(m)
            n_cells = int(n_clusters)
    return np.array([*begins, len(starts) - 1], dtype=np.int64)


@jit
def no_rows(n_cells: int, n_features: int) -> Any:
    """Return cells without rows."""
    return Cells(
        np.zeros(n_cells, np.bool_),
        np.zeros((n_cells, n_features)),
        np.zeros(n_cells),
        np.zeros((n_cells, n_features)),
        np.zeros(n_cells),
    )


@jit
def add_to_cells(X: Any, weight: Any, label: Any, starts: Any, cells: Any, cell: Any) -> None:
    """Add rows to their cells, by their labels, (n_models, n_rows); `cell` is room for one number for each row."""
    n_rows = X.shape[0]
    cell[:n_rows] = 0
    for m in range(len(label)):
        n_clusters = np.int32(starts[m + 1] - starts[m])
        for t in range(n_rows):
            cell[t] = cell[t] * n_clusters + label[m, t]
    for t in range(n_rows):
        c = cell[t]
        w = weight[t] if len(weight) else 1.0
        if not cells.taken[c]:
            cells.taken[c] = True
            for f in range(X.shape[1]):
                cells.origin[c, f] = X[t, f]
        total = 0.0
        for f in range(X.shape[1]):
            dev = np.float64(X[t, f]) - cells.origin[c, f]
            total += dev * dev
            cells.sums[c, f] += w * dev
        cells.weight[c] += w
        cells.sq_dev[c] += w * total


@jit
def add_to_clusters(cells: Any, starts: Any, centers: Any, sums: Any, counts: Any, inertia: Any) -> None:
    """Add each cell to the clusters that it lies in, one of each model; `starts` are those of the group's models."""
    n_cells, d = cells.sums.shape
    for i in range(n_cells):
        if not cells.taken[i]:
            continue
        rest, w = i, cells.weight[i]
        for m in range(len(starts) - 2, -1, -1):
            n_clusters = starts[m + 1] - starts[m]
            c = starts[m] + rest % n_clusters
            rest //= n_clusters
            # sum w |x - c|^2 = sum w |x - o|^2 + 2 (o - c) . sum w (x - o) + |o - c|^2 sum w
            total = cells.sq_dev[i]
            for f in range(d):
                apart = cells.origin[i, f] - centers[c, f]
                total += apart * (2 * cells.sums[i, f] + w * apart)
                sums[c, f] += cells.sums[i, f] + w * cells.origin[i, f]
            counts[c] += w
            inertia[c] += max(0.0, total)

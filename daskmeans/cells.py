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
    origin : (n_cells, n_features) float64, the first row.
    sums : (n_cells, n_features + 2) float64: weighted sums of the deviations from the origin; then the weight of all
        rows, 0 where there is none; then the weighted sum of the squared deviations.
    """

    origin: Float64s
    sums: Float64s


def grouped(n_clusters: Int64s, n_rows: int, n_features: int) -> tuple[Int64s, Int64s]:
    """Divide models of so many clusters, (n_models,), into groups that have few enough cells, the largest first.

    Returns
    -------
    The models, (n_models,), group after group; and where the groups begin, (n_groups + 1,).
    """
    most = min(MOST_NUMBERS // (2 * n_features), n_rows // ROWS_PER_CELL)
    members: list[list[int]] = []
    n_cells: list[int] = []
    for m in np.argsort(-n_clusters, kind="stable"):
        k = int(n_clusters[m])
        g = next((g for g, n in enumerate(n_cells) if n * k <= most), len(members))
        if g == len(members):
            members.append([])
            n_cells.append(1)
        members[g].append(int(m))
        n_cells[g] *= k
    return np.concatenate(members).astype(np.int64), np.cumsum([0, *map(len, members)], dtype=np.int64)


@jit
def no_rows(n_clusters: Any, n_features: int) -> Any:
    """Return cells without rows, of models of so many clusters; none where there is one model, which needs none."""
    n_cells = 0 if len(n_clusters) == 1 else n_clusters.prod()
    return Cells(np.zeros((n_cells, n_features)), np.zeros((n_cells, n_features + 2)))


@jit
def add_to_cells(X: Any, weight: Any, label: Any, n_clusters: Any, cells: Any, cell: Any) -> None:
    """Add rows to their cells, by their labels, (n_models, n_rows); `cell` is room for one number for each row."""
    n_rows, d = X.shape
    cell[:n_rows] = 0
    for m in range(len(label)):
        k = np.int32(n_clusters[m])
        for t in range(n_rows):
            cell[t] = cell[t] * k + label[m, t]
    origin, sums = cells.origin, cells.sums
    for t in range(n_rows):
        c = cell[t]
        w = weight[t] if len(weight) else 1.0
        if sums[c, d] == 0:  # nothing that weighs has come yet
            for f in range(d):
                origin[c, f] = X[t, f]
        total = 0.0
        for f in range(d):
            dev = np.float64(X[t, f]) - origin[c, f]
            total += dev * dev
            sums[c, f] += w * dev
        sums[c, d] += w
        sums[c, d + 1] += w * total


@jit
def add_to_clusters(cells: Any, models: Any, starts: Any, centers: Any, sums: Any, counts: Any, inertia: Any) -> None:
    """Add each cell to the clusters that it lies in, one of each of the group's `models`."""
    n_cells, d = cells.origin.shape
    for i in range(n_cells):
        w = cells.sums[i, d]
        if w == 0:
            continue
        rest = i
        for p in range(len(models) - 1, -1, -1):
            m = models[p]
            n_clusters = starts[m + 1] - starts[m]
            c = starts[m] + rest % n_clusters
            rest //= n_clusters
            # sum w |x - c|^2 = sum w |x - o|^2 + 2 (o - c) . sum w (x - o) + |o - c|^2 sum w
            total = cells.sums[i, d + 1]
            for f in range(d):
                apart = cells.origin[i, f] - centers[c, f]
                total += apart * (2 * cells.sums[i, f] + w * apart)
                sums[c, f] += cells.sums[i, f] + w * cells.origin[i, f]
            counts[c] += w
            inertia[c] += max(0.0, total)

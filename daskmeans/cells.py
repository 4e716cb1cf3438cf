"""Cells: the rows that belong to the same cluster in each of several models are summed up once for all of these.

A row of a block belongs to one cluster of each model; with few clusters few combinations of these, cells, are many
rows' own. What is summed up of a cell's rows is their deviations from the first of them, so it is as exact for clusters
that are small and far from the origin; at the end of the block each cell is added to the cluster that it lies in, model
by model.

Rows that form clusters have few of all the combinations that there could be. So the cells of all models together are
sought as they occur; once they turn out to be too many, the rows that follow go to the cells of groups of models.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from daskmeans.jit import Float64s, Int64s, jit
from daskmeans.samples import Rows

# Numbers that the sums of all cells of a group have, at most: they stay in the L2 cache. Of those that occur, most are
# seldom used.
MOST_NUMBERS, MOST_NUMBERS_THAT_OCCUR = 2**15, 2**16

# Rows of a block for each cell, at least: else cells cost more to add to the models than they save.
ROWS_PER_CELL = 16

# When cells that occur are too many: when more than a few, and more than one for so many rows so far.
FEW_CELLS, ROWS_PER_CELL_SO_FAR = 192, 8

# 2^64 over the golden ratio, whose multiples are far apart; Knuth, The Art of Computer Programming, vol. 3, sec. 6.4.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Cells(NamedTuple):
    """The cells of one group of models.

    Attributes
    ----------
    key : (n_cells,) int64, the clusters that it lies in: digits in the numbers of clusters of the models.
    origin : (n_cells, n_features), the first row.
    sums : (n_cells, n_features + 2) float64: weighted sums of the deviations from the origin; then the weight of all
        rows, 0 where there is none; then the weighted sum of the squared deviations.
    """

    key: Int64s
    origin: Rows
    sums: Float64s


class Occurring(NamedTuple):
    """The cells of all models together, as they occur: a hash table with open addressing.

    Attributes
    ----------
    cells : room for them.
    slots : (2^n,) int64, the cell in each slot, -1 where there is none.
    so_far : (2,) int64, how many cells have occurred, and in how many rows.
    """

    cells: Cells
    slots: Int64s
    so_far: Int64s


def grouped(n_clusters: Int64s, n_rows: int, n_features: int) -> tuple[Int64s, Int64s, Int64s, int]:
    """Divide models of so many clusters, (n_models,), into groups that have few enough cells, the largest first.

    Returns
    -------
    The models, (n_models,), group after group; where the groups begin, (n_groups + 1,); how many cells they have, 0 for
    a model alone that needs none; and how many cells of all models together are sought, 0 where that saves nothing.
    """
    most = min(MOST_NUMBERS // (2 * n_features), n_rows // ROWS_PER_CELL)
    members: list[list[int]] = []
    n_cells: list[int] = []
    for m in np.argsort(-n_clusters, kind="stable").tolist():
        k = int(n_clusters[m])
        g = next((g for g, n in enumerate(n_cells) if n * k <= most), len(members))
        if g == len(members):
            members.append([])
            n_cells.append(1)
        members[g].append(m)
        n_cells[g] *= k
    if len(n_clusters) == 1:
        n_cells = [0]
    is_sought = len(members) > 1 and max(n_cells) <= most and math.prod(n_cells) < 2**63
    return (
        np.concatenate(members).astype(np.int64),
        np.cumsum([0, *map(len, members)], dtype=np.int64),
        np.array([n if n <= most else 0 for n in n_cells], dtype=np.int64),
        min(MOST_NUMBERS_THAT_OCCUR // (2 * n_features), n_rows // ROWS_PER_CELL) if is_sought else 0,
    )


@jit
def no_rows(n_cells: int, X: Any) -> Any:
    """Return so many cells, without rows of `X`."""
    d = X.shape[1]
    return Cells(np.arange(n_cells), np.empty((n_cells, d), X.dtype), np.zeros((n_cells, d + 2)))


@jit
def none_occurred(n_cells: int, X: Any) -> Any:
    """Return room for so many cells that occur."""
    n_slots = 2
    while n_slots < 2 * n_cells:
        n_slots *= 2
    return Occurring(no_rows(n_cells, X), np.full(n_slots, -1), np.zeros(2, np.int64))


@jit
def number_cells(label: Any, n_clusters: Any, cell: Any) -> None:
    """Fill `cell`, (n_rows,), with the key of each row's cell, by its labels in a group, (n_models, n_rows)."""
    cell[:] = 0
    for m in range(len(label)):
        k = np.int32(n_clusters[m])
        for t in range(len(cell)):
            cell[t] = cell[t] * k + label[m, t]


@jit
def find_cells(cell: Any, n_cells: Any, n_rows: int, occurring: Any) -> bool:
    """Find the cell of all models together of some rows, by their cells in each group, (n_groups, n_rows).

    It takes the place of the cell in the first group. Returns False, and finds none, once there may be too many.
    """
    keys, slots, so_far = occurring.cells.key, occurring.slots, occurring.so_far
    if so_far[0] > min(len(keys) - n_rows, FEW_CELLS + so_far[1] // ROWS_PER_CELL_SO_FAR):
        return False
    so_far[1] += n_rows
    last = len(slots) - 1
    for t in range(n_rows):
        key = 0
        for g in range(len(cell)):
            key = key * n_cells[g] + cell[g, t]
        slot = np.int64((np.uint64(key) * GOLDEN) >> np.uint64(33)) & last
        while slots[slot] >= 0 and keys[slots[slot]] != key:
            slot = (slot + 1) & last
        if slots[slot] < 0:
            slots[slot] = so_far[0]
            keys[so_far[0]] = key
            so_far[0] += 1
        cell[0, t] = slots[slot]
    return True


@jit
def add_to_cells(X: Any, weight: Any, cell: Any, cells: Any) -> None:
    """Add rows to their cells."""
    d = X.shape[1]
    origin, sums = cells.origin, cells.sums
    for t in range(len(X)):
        c = cell[t]
        w = weight[t] if len(weight) else 1.0
        if sums[c, d] == 0:  # nothing that weighs has come yet
            for f in range(d):
                origin[c, f] = X[t, f]
        total = 0.0
        for f in range(d):
            dev = np.float64(X[t, f]) - np.float64(origin[c, f])
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
        rest = cells.key[i]
        for p in range(len(models) - 1, -1, -1):
            m = models[p]
            n_clusters = starts[m + 1] - starts[m]
            c = starts[m] + rest % n_clusters
            rest //= n_clusters
            # sum w |x - c|^2 = sum w |x - o|^2 + 2 (o - c) . sum w (x - o) + |o - c|^2 sum w
            total = cells.sums[i, d + 1]
            for f in range(d):
                apart = np.float64(cells.origin[i, f]) - centers[c, f]
                total += apart * (2 * cells.sums[i, f] + w * apart)
                sums[c, f] += cells.sums[i, f] + w * np.float64(cells.origin[i, f])
            counts[c] += w
            inertia[c] += max(0.0, total)

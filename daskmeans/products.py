"""Products of centers and rows, one tile of rows at a time: most of the arithmetic of a pass.

Not by BLAS, which packs both factors anew for each tile: with 256 rows of float32 it took 2 times (1,026 centers, 768
features) to 5 times as long (12 centers, 16 features). Must not know what the products are for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from daskmeans.jit import jit
from daskmeans.samples import Rows
from daskmeans.vectors import FACTORS_AT_ONCE, VECTOR_BYTES, VECTORS_AT_ONCE, multiply_block, turn_square

CACHE_LINE_BYTES = 64

# Rows of a block of products: of float32, and of numbers twice as large in two steps.
ROWS_AT_ONCE = VECTORS_AT_ONCE * VECTOR_BYTES // 4

# Of rows that are read ahead of being turned: they stay in the L2 cache until then.
BROUGHT_BYTES = 2**16


class Tile(NamedTuple):
    """Some rows less an offset, turned.

    Attributes
    ----------
    columns : (n_features, n_rows), both rounded up. Columns begin one cache line apart from a power of two, else all
        would compete for the same few lines of the cache.
    sq_norm : (n_rows,), the squared norms of the rows.
    offset : (n_features,).
    few : (vector, n_features), room for the rows that are turned at a time.
    """

    columns: Rows
    sq_norm: Rows
    offset: Rows
    few: Rows


def padded(factors: Rows, first: Rows) -> tuple[Rows, Rows]:
    """Return the factors of a product, (n_factors, n_features), and (n_factors,) with zeros added for `multiply`."""
    n, n_features = factors.shape
    more = -n % FACTORS_AT_ONCE
    # Not by np.pad, which takes longer than a small product.
    rows = np.concatenate([factors, np.zeros((more, n_features), factors.dtype)])
    return rows, np.concatenate([first, np.zeros(more, first.dtype)])


@jit
def room(n_rows: int, n_columns: int, like: Any) -> Any:
    """Return zeros, (n_rows, n_columns) in the dtype of `like`, that begin where a cache line does.

    A load that crosses two lines takes twice its time.
    """
    line = CACHE_LINE_BYTES // like.itemsize
    numbers = np.zeros(n_rows * n_columns + line, like.dtype)
    begin = (-numbers.ctypes.data // like.itemsize) % line
    return numbers[begin : begin + n_rows * n_columns].reshape((n_rows, n_columns))


@jit
def room_for_products(factors: Any, n_rows: int) -> Any:
    """Return zeros, (n_factors, n_rows), more rows than asked for where `multiply` needs them."""
    return room(len(factors), _rounded_up(n_rows, ROWS_AT_ONCE), factors)


@jit
def tile_for(n_rows: int, offset: Any) -> Any:
    """Return room for a tile of so many rows, in the dtype of `offset`, (n_features,)."""
    vector = VECTOR_BYTES // offset.itemsize
    whole = _rounded_up(n_rows, ROWS_AT_ONCE)
    d = _rounded_up(len(offset), vector)
    columns = room(d, whole + CACHE_LINE_BYTES // offset.itemsize, offset)
    tile = Tile(columns, room(1, whole, offset)[0], room(1, d, offset)[0], room(vector, d, offset))
    tile.offset[: len(offset)] = offset
    return tile


@jit
def _rounded_up(n: int, step: int) -> int:
    return (n + step - 1) // step * step


@jit
def fill(tile: Any, X: Any, rows: Any) -> None:
    """Fill the tile with some rows of `X`, (n_rows, n_features), in ascending order."""
    vector, d = len(tile.few), X.shape[1]
    all_few = np.arange(vector)
    row_bytes = d * X.itemsize
    together = _rounded_up(max(1, BROUGHT_BYTES // row_bytes), vector) if row_bytes > CACHE_LINE_BYTES else len(rows)
    for begin in range(0, len(rows), vector):
        if row_bytes > CACHE_LINE_BYTES and begin % together == 0:
            tile.few[0, 0] = _brought(X, rows[begin : begin + together])
        end = min(begin + vector, len(rows))
        if end == begin + vector and rows[end - 1] * d + tile.few.shape[1] <= X.size:
            for f in range(0, d, vector):
                turn_square(tile.columns, tile.sq_norm, begin, X, rows[begin:end], d, f, tile.offset)
        else:  # the last vector of the last row would end beyond X
            for t in range(begin, end):
                tile.few[t - begin, :d] = X[rows[t]]
            for f in range(0, d, vector):
                turn_square(tile.columns, tile.sq_norm, begin, tile.few, all_few, d, f, tile.offset)


@jit
def _brought(X: Any, rows: Any) -> Any:
    """Read a number of each cache line of some rows, in order, so that the processor foresees the next.

    It does not where lines of several rows are read in turn, as for turning them: from memory that took twice as long.
    """
    total = X.dtype.type(0)
    for i in rows:
        for f in range(0, X.shape[1], CACHE_LINE_BYTES // X.itemsize):
            total += X[i, f]
    return total


@jit
def multiply(factors: Any, first: Any, columns: Any, products: Any) -> None:
    """Fill ``products[j, t] = first[j] + sum_f factors[j, f] columns[f, t]``, of factors that are `padded`."""
    for t in range(0, products.shape[1], VECTORS_AT_ONCE * VECTOR_BYTES // factors.itemsize):
        for j in range(0, len(factors), FACTORS_AT_ONCE):
            multiply_block(products, j, t, factors, first, columns)

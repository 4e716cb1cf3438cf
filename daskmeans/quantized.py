"""Products of centers and rows in whole numbers: in half the time, with an error that is bounded.

A row, or a center, is a vector of 16-bit integers times a scale of its own. Processors multiply such integers in pairs
and add both products, exactly, in the time of one product of float32. Must not know what the products are for.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from daskmeans.jit import jit
from daskmeans.products import ROWS_AT_ONCE, multiply, room
from daskmeans.samples import Rows
from daskmeans.vectors import FACTORS_AT_ONCE, HAS_PAIRS, multiply_pairs

# The norm of what is quantized. Products are below its square, and fit 32 bits.
LARGEST = 32000.0

# Added to squared norms, so that rows whose squares vanish have a scale.
TINY = np.float32(1e-30)

# With fewer factors quantizing the rows takes as long as it saves: by the bytes of a number.
FEWEST_FACTORS = {4: 24, 8: 12}

# More than rounding in float32 adds to errors, relative to them.
MARGIN = 1.05


class Quantized(NamedTuple):
    """Vectors in whole numbers.

    Attributes
    ----------
    pairs : (n_pairs, n_rows) int32 for rows, (n_factors, n_pairs) for factors: features 2p in the lower 16 bits, 2p + 1
        in the upper ones.
    scale : (n_rows,) or (n_factors,), what the integers are to be multiplied by.
    """

    pairs: npt.NDArray[np.int32]
    scale: Rows


def quantized_factors(factors: Rows, n_factors: int) -> Quantized:
    """Return factors that are `padded`, `n_factors` without; none where that saves nothing."""
    if n_factors < FEWEST_FACTORS[factors.itemsize] or not HAS_PAIRS:
        return Quantized(np.empty((0, 0), np.int32), np.empty(0, factors.dtype))
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.sqrt((factors**2).sum(axis=1) + TINY) / factors.dtype.type(LARGEST)
        whole = np.rint(np.nan_to_num(factors / scale[:, None])).astype(np.int32)
    whole = np.concatenate([whole, np.zeros((len(whole), whole.shape[1] % 2), np.int32)], axis=1)
    return Quantized(np.ascontiguousarray(whole[:, 1::2] << 16 | whole[:, ::2] & 0xFFFF), scale)


def error_of_scores(n_features: int) -> float:
    """Return by how much the difference of two scores ``|c|^2 - 2 x.c`` may be wrong, for a scale and a norm of 1.

    Rows and centers differ from what they are quantized to by half a unit in each feature at most; so, relative to
    their norms, by ``e = sqrt(n_features) / 2 / LARGEST``, and their product by ``2 e + e^2``. A score has it twice,
    and both scores may be wrong.
    """
    e = MARGIN * math.sqrt(n_features) / 2 / LARGEST
    return 4 * (2 * e + e**2) * LARGEST


@jit
def room_for_quantized(factors: Any, tile: Any) -> Any:
    """Return room for the rows of a tile; none where the factors, `Quantized`, are not."""
    n_rows = len(tile.sq_norm) if len(factors.pairs) else 0
    return Quantized(room(factors.pairs.shape[1], n_rows, factors.pairs), room(1, n_rows, factors.scale)[0])


@jit
def multiply_either(
    factors: Any, quantized: Any, first: Any, tile: Any, whole: Any, is_quantized: bool, products: Any
) -> None:
    """Fill what `multiply` does, of factors that are `padded`; of those that are quantized if so asked.

    `whole` is room for the rows of the tile, quantized.
    """
    if not is_quantized:
        multiply(factors, first, tile.columns, products)
        return
    _quantize(tile, whole)
    pairs, scale = quantized.pairs, quantized.scale
    for t in range(0, len(whole.scale), ROWS_AT_ONCE):
        for j in range(0, len(pairs), FACTORS_AT_ONCE):
            multiply_pairs(products, j, t, pairs, first, whole.pairs, scale, whole.scale)


@jit
def _quantize(tile: Any, whole: Any) -> None:
    """Fill with the rows of a tile; where a square overflowed, with what has an infinite scale."""
    columns, pairs, scale = tile.columns, whole.pairs, whole.scale
    inverse = np.empty_like(scale)
    largest = scale.dtype.type(LARGEST)
    for t in range(len(scale)):
        norm = np.sqrt(tile.sq_norm[t] + TINY)
        scale[t] = norm / largest
        inverse[t] = largest / norm
    for p in range(len(pairs)):
        for t in range(len(scale)):
            lower = np.int32(np.rint(columns[2 * p, t] * inverse[t]))
            upper = np.int32(np.rint(columns[2 * p + 1, t] * inverse[t]))
            pairs[p, t] = upper << np.int32(16) | lower & np.int32(0xFFFF)

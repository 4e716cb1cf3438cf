"""Random words that belong to rows: the same for a row whatever block, order or process it is met in.

Must not know what they decide.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from daskmeans.jit import Float64s, Int64s, jit, read_only


def random_words(seed: int, purpose: int, row_ids: Int64s) -> npt.NDArray[np.uint64]:
    """Return one random 64-bit word for each row id: word ``id`` of ``numpy.random.Philox(key=[seed, purpose])``.

    Counter-based (Salmon et al. 2011, Philox4x64-10), so a row's word does not depend on chunks, order or process.
    """
    words = np.empty(len(row_ids), dtype=np.uint64)
    _philox(np.uint64(seed), np.uint64(purpose), read_only(row_ids), words)
    return words


def uniform(words: npt.NDArray[np.uint64]) -> Float64s:
    """Return the number in (0, 1) that each random word stands for."""
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


@jit
def _mul_high(a: Any, b: Any) -> Any:
    """Return the upper 64 bits of a 128-bit product, from products of 32-bit halves."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a_low, a_high, b_low, b_high = a & low, a >> half, b & low, b >> half
    cross = a_high * b_low + ((a_low * b_low) >> half)
    other = a_low * b_high + (cross & low)
    return a_high * b_high + (cross >> half) + (other >> half)


@jit
def _philox(seed: Any, purpose: Any, row_ids: Any, words: Any) -> None:
    factor0, factor1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
    weyl0, weyl1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
    current = np.int64(-1)
    x0 = x1 = x2 = x3 = np.uint64(0)
    for i in range(len(row_ids)):
        counter = row_ids[i] >> 2
        if counter != current:
            current = counter
            # NumPy steps its counter before it draws, so its first words come from counter 1.
            x0, x1, x2, x3 = np.uint64(counter + 1), np.uint64(0), np.uint64(0), np.uint64(0)
            key0, key1 = seed, purpose
            for _ in range(10):
                high0, low0 = _mul_high(factor0, x0), factor0 * x0
                high1, low1 = _mul_high(factor1, x2), factor1 * x2
                x0, x1, x2, x3 = high1 ^ x1 ^ key0, low1, high0 ^ x3 ^ key1, low0
                key0 += weyl0
                key1 += weyl1
        word = row_ids[i] & 3
        words[i] = x0 if word == 0 else x1 if word == 1 else x2 if word == 2 else x3

"""Tiles and products: what the widest registers compute is what NumPy computes."""

import numpy as np
import pytest
from numba.core.errors import TypingError

from daskmeans.products import fill, multiply, padded, room, room_for_products, tile_for

# Around the widths of vectors and blocks.
SIZES = [1, 3, 5, 6, 7, 8, 9, 15, 16, 17, 33]


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize(("of_rows", "of_tile"), [("f4", "f4"), ("f8", "f8"), ("f4", "f8")])
def test_tile_holds_rows_less_the_offset_turned(rng, of_rows, of_tile, d):
    X, offset = rng.normal(size=(70, d)).astype(of_rows), rng.normal(size=d).astype(of_tile)
    tile = tile_for(40, offset)
    for rows in (np.arange(40), np.arange(30, 70), np.array([0, 3, 69]), np.sort(rng.choice(70, 37, replace=False))):
        fill(tile, X, rows)
        expected = X[rows] - offset
        np.testing.assert_array_equal(tile.columns[:d, : len(rows)], expected.T)
        assert not tile.columns[d:].any()
        np.testing.assert_allclose(tile.sq_norm[: len(rows)], (expected**2).sum(axis=1), rtol=1e-5)


def test_tile_takes_nothing_of_a_row_from_the_next(rng):
    X = np.full((64, 3), np.nan)
    X[::2] = rng.normal(size=(32, 3))
    tile = tile_for(32, np.zeros(3))
    fill(tile, X, np.arange(0, 64, 2))
    assert np.isfinite(tile.columns).all()
    assert np.isfinite(tile.sq_norm).all()


def test_rows_that_are_not_contiguous_are_refused(rng):
    with pytest.raises(TypingError, match="C-contiguous"):
        fill(tile_for(16, np.zeros(3)), np.asfortranarray(rng.normal(size=(16, 3))), np.arange(16))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n_rows", [1, 40, 256])
@pytest.mark.parametrize("d", [1, 8, 17, 33])
@pytest.mark.parametrize("k", [1, 6, 77])
def test_products_are_those_of_matrices(rng, dtype, n_rows, d, k):
    factors, first = rng.normal(size=(k, d)).astype(dtype), rng.normal(size=k).astype(dtype)
    X = rng.normal(size=(n_rows, d)).astype(dtype)
    tile = tile_for(n_rows, np.zeros(d, dtype))
    fill(tile, X, np.arange(n_rows))
    all_factors, all_first = padded(factors, first)
    products = room_for_products(all_factors, n_rows)
    multiply(all_factors, all_first, tile.columns, products)
    expected = first[:, None].astype(np.float64) + factors.astype(np.float64) @ X.T
    np.testing.assert_allclose(products[:k, :n_rows], expected, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
def test_room_begins_where_a_cache_line_does(dtype):
    rooms = [room(3, 5, np.empty(0, dtype)) for _ in range(20)]
    assert all(numbers.ctypes.data % 64 == 0 and not numbers.any() and numbers.shape == (3, 5) for numbers in rooms)

"""Products in whole numbers: never further from exact ones than promised, whatever the rows are like."""

from __future__ import annotations

import naive
import numpy as np
import pytest

from daskmeans import kernels
from daskmeans.kernels import TILE_ROWS, Stack
from daskmeans.products import fill, padded, room_for_products, tile_for
from daskmeans.quantized import (
    FEWEST_FACTORS,
    LARGEST,
    TINY,
    error_of_scores,
    multiply_either,
    quantized_factors,
    room_for_quantized,
)
from daskmeans.reassigning import reassign
from daskmeans.vectors import HAS_PAIRS

needs_pairs = pytest.mark.skipif(not HAS_PAIRS, reason="this processor has no products of pairs")

KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "one feature": lambda rng, shape: rng.normal(size=shape) * (np.arange(shape[1]) == 0),
    "equal features": lambda rng, shape: np.repeat(rng.normal(size=(shape[0], 1)), shape[1], axis=1),
    "between two integers": lambda rng, shape: rng.integers(0, 9, size=shape) + 0.5,
    "of all sizes": lambda rng, shape: rng.normal(size=shape) * 10.0 ** rng.integers(-12, 13, size=(shape[0], 1)),
    "tiny": lambda rng, shape: 1e-22 * rng.normal(size=shape),
    "zeros": lambda rng, shape: np.zeros(shape),
}


def products(X, factors, first, *, is_quantized=True):
    all_factors, all_first = padded(factors, first)
    quantized = quantized_factors(all_factors, len(factors))
    assert bool(quantized.pairs.size) == is_quantized
    tile = tile_for(len(X), np.zeros(X.shape[1], X.dtype))
    fill(tile, X, np.arange(len(X)))
    whole = room_for_quantized(quantized, tile)
    found = room_for_products(all_factors, len(X))
    multiply_either(all_factors, quantized, all_first, tile, whole, is_quantized, found)
    return found[: len(factors), : len(X)], whole


@needs_pairs
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 2, 3, 16, 17, 64, 777])
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_wrong_by_less_than_promised(rng, dtype, d, kind):
    X = KINDS[kind](rng, (70, d)).astype(dtype)
    centers = np.concatenate([of(rng, (5, d)) for of in KINDS.values()]).astype(dtype)
    found, _ = products(X, -2 * centers, np.zeros(len(centers), dtype))
    exact = -2 * centers.astype(np.float64) @ X.T.astype(np.float64)
    norms = [np.sqrt((each.astype(np.float64) ** 2).sum(axis=1) + TINY) for each in (centers, X)]
    # One score, not two; and what float32 rounds, or cannot hold.
    promised = np.multiply.outer(*norms) * (error_of_scores(d) / LARGEST / 2 + 1e-6) + 1e-37
    assert (np.abs(found - exact) <= promised).all()
    if kind == "normal":
        assert np.abs(found[:5] - exact[:5]).max() > 0


@needs_pairs
def test_integers_fill_what_they_have(rng):
    _, whole = products(np.eye(40, 64, dtype=np.float32), np.ones((24, 64), np.float32), np.zeros(24, np.float32))
    pairs = whole.pairs[:, :40]
    lower, upper = (pairs << 16) >> 16, pairs >> 16
    assert lower.max() == upper.max() == LARGEST
    assert np.count_nonzero(lower) + np.count_nonzero(upper) == 40


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_saves_nothing_is_not_quantized(rng, dtype):
    k = FEWEST_FACTORS[np.dtype(dtype).itemsize] - 1
    X, factors = rng.normal(size=(50, 5)).astype(dtype), rng.normal(size=(k, 5)).astype(dtype)
    found, whole = products(X, factors, np.zeros(k, dtype), is_quantized=False)
    np.testing.assert_allclose(found, factors @ X.T, atol=1e-5)
    assert not whole.pairs.size


@pytest.mark.parametrize("kind", [*KINDS, "near ties", "overflow"])
@pytest.mark.parametrize("d", [3, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_are_those_of_exact_distances(rng, dtype, kind, d):
    n, k = 1500, 40
    if kind == "near ties":
        X = np.repeat(rng.normal(size=(n // 2, d)), 2, axis=0)
        X[1::2] = np.nextafter(X[1::2].astype(np.float32), np.float32(9))
    elif kind == "overflow":
        X = 1e19 * rng.normal(size=(n, d))
    else:
        X = KINDS[kind](rng, (n, d))
    X = X.astype(dtype)
    centers = X[rng.choice(n, k, replace=False)].astype(np.float64)
    others = X[rng.choice(n, 5, replace=False)].astype(np.float64)
    offset = np.zeros(d)
    found = kernels.assign(X, None, Stack.of([centers, others]), offset, with_labels=True, with_gap=True)
    for m, model in enumerate((centers, others)):
        sq_dist = naive.sq_distances(X, model)
        nearest, second = np.sort(sq_dist, axis=1)[:, :2].T
        # Equal but for the rounding of float64: of rows that are small beside the centers.
        assert (np.take_along_axis(sq_dist, found.labels[m][:, None], axis=1)[:, 0] <= nearest * (1 + 1e-14 * d)).all()
        assert (found.gap[m] <= (np.sqrt(second) - np.sqrt(nearest)) * (1 + 1e-6) + 1e-14 * np.sqrt(second)).all()
    labels, reach = np.full(n, -1, np.int32), np.full(n, -np.inf, np.float32)
    reassign(X, None, Stack.of([centers]), offset, np.zeros(k), labels, reach)
    np.testing.assert_array_equal(labels, found.labels[0])


@needs_pairs
@pytest.mark.parametrize(("apart", "is_quantized"), [(1, True), (1e4, False)])
def test_rows_that_it_does_not_tell_apart_are_not_quantized_further(rng, monkeypatch, apart, is_quantized):
    # What lies between two groups of clusters hides what lies between the clusters of each.
    centers = np.repeat([[-apart], [apart]], 20, axis=0) + 0.3 * rng.normal(size=(40, 16))
    X = (centers[rng.integers(40, size=4 * TILE_ROWS)] + 0.1 * rng.normal(size=(4 * TILE_ROWS, 16))).astype(np.float32)
    asked = []

    def multiply(*args):
        asked.append(args[5])
        multiply_either(*args)

    for name in ("_assign", "_judge"):
        monkeypatch.setattr(kernels, name, getattr(kernels, name).py_func)
    monkeypatch.setattr(kernels, "multiply_either", multiply)
    found = kernels.assign(X, None, Stack.of([centers]), np.zeros(16), with_labels=True)
    np.testing.assert_array_equal(found.labels[0], naive.assign(X, None, centers).labels)
    assert asked == ([True] * 4 if is_quantized else [True, False, False, False, False])

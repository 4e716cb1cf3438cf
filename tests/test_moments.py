"""Moments of blocks: exact wherever the data lies, mergeable, and what is not finite."""

from __future__ import annotations

import numpy as np
import pytest

from daskmeans.jit import read_only
from daskmeans.moments import TILE_ROWS, Moments, count_non_finite, moments


def test_moments_by_hand():
    found = moments(np.array([[1.0], [2.0], [9.0]]), np.array([1.0, 1.0, 0.0]))
    assert found.weight == 2.0
    assert found.mean.tolist() == [1.5]
    assert found.variance.tolist() == [0.25]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [1e6, -1e12])
def test_moments_are_exact_far_from_zero(rng, dtype, weighted, offset):
    X = (offset + rng.normal(size=(2 * TILE_ROWS + 3, 3))).astype(dtype)
    weight = rng.random(len(X)) if weighted else None
    found = moments(X, weight)
    near = X.astype(np.float64) - X[0]
    mean = np.average(near, axis=0, weights=weight)
    variance = np.average((near - mean) ** 2, axis=0, weights=weight)
    np.testing.assert_allclose(found.mean, mean + X[0], rtol=1e-14)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-12)


def test_moments_of_parts_merge_to_those_of_the_whole(rng):
    X, weight = rng.normal(size=(100, 2)), rng.random(100)
    whole = moments(X, weight)
    merged = moments(X[:30], weight[:30]).merge(moments(X[30:], weight[30:]))
    for a, b in zip(merged, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_moments_of_nothing_merge_with_anything():
    nothing = moments(np.empty((0, 1)), None)
    something = moments(np.array([[1.0], [3.0]]), None)
    for merged in (nothing.merge(something), something.merge(nothing)):
        assert (merged.weight, merged.mean.tolist(), merged.variance.tolist()) == (2.0, [2.0], [1.0])
    assert nothing.merge(nothing).variance.tolist() == [0.0]


def test_moments_with_infinities_merge_without_a_warning():
    infinite = Moments(1.0, np.array([np.inf]), np.array([np.nan]))
    assert not np.isfinite(infinite.merge(infinite).mean).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [count_non_finite, count_non_finite.py_func])
def test_rows_that_are_not_finite_are_counted(dtype, count):
    X = np.zeros((6, 9), dtype=dtype)
    assert count(read_only(X)) == (0, -1)
    X[2, 8], X[3, 0], X[3, 1], X[5, 5] = np.nan, np.inf, -np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        assert count(read_only(X)) == (3, 2)


def test_the_largest_float32_is_finite():
    X = np.full((2, 5), np.finfo(np.float32).max, dtype=np.float32)
    assert count_non_finite(read_only(X)) == (0, -1)

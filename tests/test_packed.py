"""Packed rows: a byte a number, wrong by half a step at most."""

from __future__ import annotations

import numpy as np
import pytest

from daskmeans import packed as module
from daskmeans.packed import GROUP_ROWS, KeptBlock, Packed, packed_row_bytes
from daskmeans.samples import Block, Grid


def block_of(X, weight=None):
    return Block(0, (slice(0, len(X)),), Grid(((0, len(X)),)), X, weight, None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_rows", [0, 1, GROUP_ROWS, 2 * GROUP_ROWS + 7])
def test_numbers_are_wrong_by_half_a_step_of_their_group(rng, dtype, n_rows):
    X = (rng.standard_cauchy((n_rows, 5)) * [1e-6, 1, 1e6, 0, 1] + [0, -1e4, 0, 3, 0]).astype(dtype)
    unpacked, weight = Packed.of(block_of(X)).unpacked()
    assert unpacked.dtype == dtype
    np.testing.assert_array_equal(weight, np.ones(n_rows))
    for begin in range(0, n_rows, GROUP_ROWS):
        group = slice(begin, begin + GROUP_ROWS)
        rows = X[group].astype(np.float64)
        step = (rows.max(axis=0) - rows.min(axis=0)) / 255
        rounding = 4 * np.finfo(dtype).eps * np.abs(rows).max(axis=0)
        assert (np.abs(unpacked[group] - rows) <= step / 2 * (1 + 1e-6) + rounding).all()


def test_the_ends_of_a_group_are_nearly_exact(rng):
    X = rng.integers(0, 2, (GROUP_ROWS, 3)) * np.array([0.1, 7.0, 1e5])
    np.testing.assert_allclose(Packed.of(block_of(X)).unpacked()[0], X, rtol=1e-14)


def test_weights_keep_eight_binary_digits(rng):
    weight = 10 ** rng.uniform(-30, 30, 1000)
    _, unpacked = Packed.of(block_of(np.zeros((1000, 2)), weight)).unpacked()
    np.testing.assert_allclose(unpacked, weight, rtol=2**-8)
    assert abs((unpacked / weight).mean() - 1) < 2**-11  # rounded up as often as down


@pytest.mark.parametrize("every", [2, 3, 256, 5000])
def test_every_so_many_th_row_stands_for_the_others(rng, every):
    X, weight = rng.random((1000, 3)), rng.random(1000)
    packed = Packed.of(block_of(X, weight))
    all_rows, all_weights = packed.unpacked()
    rows, weights = packed.thinned(every).unpacked()
    np.testing.assert_array_equal(rows, all_rows[::every])
    np.testing.assert_array_equal(weights, every * all_weights[::every])


@pytest.mark.parametrize("every", [1, 3, 300])
def test_parts_are_the_rows_in_memory_that_is_used_again(rng, monkeypatch, every):
    monkeypatch.setattr(module, "PART_BYTES", 7000)
    rows = Packed.of(block_of(rng.random((9000, 3)), rng.random(9000))).thinned(every)
    parts, places = [], set()
    for X, weight in rows.parts():
        parts.append((X.copy(), weight))
        places.add(X.ctypes.data)
    assert len(places) == 1
    for found, expected in zip(zip(*parts, strict=True), rows.unpacked(), strict=True):
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_memory_is_what_is_planned(rng):
    X = rng.random((100 * GROUP_ROWS, 12)).astype(np.float32)
    packed = Packed.of(block_of(X))
    n_bytes = sum(part.nbytes for part in (packed.steps, packed.smallest, packed.step, packed.weight))
    assert n_bytes == len(X) * packed_row_bytes(12, 4)


def test_a_map_of_the_rows_reaches_those_that_are_packed(rng):
    X = rng.random((50, 3))
    kept = KeptBlock.of(block_of(X[:20]), block_of(X[20:], np.full(30, 2.0))).mapped(lambda rows: 10 * rows[:, :2])
    np.testing.assert_array_equal(kept.X, 10 * X[:20, :2])
    np.testing.assert_allclose(kept.unpacked().X, 10 * X[20:, :2], atol=2 * 10 / 255)
    np.testing.assert_array_equal(kept.unpacked().weight, np.full(30, 2.0))

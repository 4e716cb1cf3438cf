"""Arithmetic on one block: a wrong bit here is a wrong label in somebody's map."""

from __future__ import annotations

import naive
import numpy as np
import pytest

from daskmeans import kernels
from daskmeans.kernels import TILE_ROWS, Stack
from daskmeans.reassigning import Moved, reassign


def assign(X, weight, *models, offset=None):
    stack = Stack.of([np.asarray(centers, dtype=np.float64) for centers in models])
    offset = X.mean(axis=0, dtype=np.float64) if offset is None else offset
    return kernels.assign(X, weight, stack, offset, with_labels=True, with_sq_dist=True)


def test_assign_by_hand():
    X = np.array([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0]])
    found = assign(X, np.array([1.0, 3.0, 2.0]), [[0.0, 1.0], [9.0, 0.0]])
    assert found.labels.tolist() == [[0, 0, 1]]
    assert found.sq_dist.tolist() == [[1.0, 1.0, 1.0]]
    assert found.sums.tolist() == [[0.0, 6.0], [20.0, 0.0]]
    assert found.counts.tolist() == [4.0, 2.0]
    assert found.inertia.tolist() == [4.0, 2.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (TILE_ROWS - 1, 3, 2), (TILE_ROWS + 1, 5, 7), (3 * TILE_ROWS, 17, 33)])
def test_assign_equals_brute_force(rng, dtype, weighted, shape):
    n, d, k = shape
    X = rng.normal(size=(n, d)).astype(dtype)
    weight = rng.random(n) if weighted else None
    centers = X[rng.integers(n, size=k)].astype(np.float64) + 0.5
    found, expected = assign(X, weight, centers), naive.assign(X, weight, centers)
    np.testing.assert_array_equal(found.labels[0], expected.labels)
    for name in ("sums", "counts", "inertia"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(found.sq_dist[0], expected.sq_dist, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_assign_equals_its_python_source(rng, dtype, monkeypatch):
    X = rng.integers(0, 5, size=(7, 3)).astype(dtype)
    weight = rng.integers(0, 3, size=7).astype(np.float64)
    models = [rng.integers(0, 5, size=(k, 3)).astype(np.float64) for k in (2, 3)]
    compiled = assign(X, weight, *models, offset=np.zeros(3))
    for name in ("_assign", "two_smallest", "_judge", "nearest", "_keep_farthest"):
        monkeypatch.setattr(kernels, name, getattr(kernels, name).py_func)
    plain = assign(X, weight, *models, offset=np.zeros(3))
    for a, b in zip(compiled, plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_may_lie_in_memory_in_any_order(rng):
    X = rng.normal(size=(400, 3))
    centers = X[:5].copy()
    expected = assign(X, None, centers)
    for same in (np.asfortranarray(X), np.repeat(X, 2, axis=0)[::2], np.tile(X, 2)[:, :3], X[::-1].copy()[::-1]):
        for found, wanted in zip(assign(same, None, centers), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("shift", [0.0, 100.0, 1e6])
def test_rows_near_the_border_get_the_right_label_in_float32(shift):
    X = (shift + np.array([[-1.0001], [-0.9999], [0.9999], [1.0001]])).astype(np.float32)
    centers = np.array([X[:2].mean(dtype=np.float64), X[2:].mean(dtype=np.float64)])[:, None]
    assert assign(X, None, centers).labels.tolist() == [[0, 0, 1, 1]]
    near = X[:2].astype(np.float64)
    np.testing.assert_array_equal(assign(X, None, near).labels[0], naive.assign(X, None, near).labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [1e3, 1e6])
def test_labels_far_from_the_origin_are_those_of_exact_distances(rng, dtype, shift):
    X = (shift + rng.normal(size=(2000, 4))).astype(dtype)
    centers = X[:10].astype(np.float64)
    np.testing.assert_array_equal(assign(X, None, centers).labels[0], naive.assign(X, None, centers).labels)


def test_rows_whose_squares_overflow_float32_get_the_right_label():
    X = np.array([[1e20], [2e20], [-3e20]], dtype=np.float32)
    centers = X[::-1].astype(np.float64)
    assert assign(X, None, centers, offset=np.zeros(1)).labels.tolist() == [[2, 1, 0]]


def test_labels_do_not_depend_on_the_offset(rng):
    X = rng.normal(size=(500, 3)).astype(np.float32)
    X[::7] = X[0]
    centers = X[:40].astype(np.float64)
    labels = [assign(X, None, centers, offset=offset).labels for offset in (np.zeros(3), np.full(3, 0.3), X[5] * 1.0)]
    np.testing.assert_array_equal(labels[0], labels[1])
    np.testing.assert_array_equal(labels[0], labels[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_go_to_the_lowest_label(dtype):
    X = np.array([[0.0], [1.0], [2.0], [0.1]], dtype=dtype)
    assert assign(X, None, [[2.0], [0.0], [0.0], [2.0]]).labels.tolist() == [[1, 0, 0, 1]]


@pytest.mark.parametrize("weighted", [False, True])
def test_a_model_of_a_stack_gets_what_it_gets_alone(rng, weighted):
    X = rng.normal(size=(TILE_ROWS + 9, 6)).astype(np.float32)
    weight = rng.random(len(X)) if weighted else None
    models = [X[rng.integers(len(X), size=k)].astype(np.float64) for k in (1, 8, 3)]
    together = assign(X, weight, *models)
    stack = Stack.of(models)
    for m, centers in enumerate(models):
        alone = assign(X, weight, centers)
        own = stack.of_model(m)
        for name in ("sums", "counts", "inertia", "far_sq_dist", "far_row", "far_label"):
            np.testing.assert_array_equal(getattr(together, name)[own], getattr(alone, name), err_msg=name)
        np.testing.assert_array_equal(together.labels[m], alone.labels[0])
        np.testing.assert_array_equal(together.sq_dist[m], alone.sq_dist[0])


def test_far_rows_are_the_farthest_of_positive_weight(rng):
    X = rng.normal(size=(1000, 2))
    weight = (rng.random(1000) < 0.5).astype(np.float64)
    centers = X[:5].copy()
    found, expected = assign(X, weight, centers), naive.assign(X, weight, centers)
    order = np.argsort(-np.where(weight > 0, expected.sq_dist, -1))[:5]
    assert set(found.far_row) == set(order)
    np.testing.assert_array_equal(found.far_label, expected.labels[found.far_row])
    np.testing.assert_allclose(found.far_sq_dist, expected.sq_dist[found.far_row])


def test_far_rows_are_marked_where_there_are_fewer_than_clusters():
    found = assign(np.array([[3.0], [5.0]]), np.array([1.0, 0.0]), [[0.0], [9.0], [20.0]])
    assert sorted(found.far_sq_dist.tolist()) == [-1.0, -1.0, 9.0]


def test_a_block_without_rows_adds_nothing():
    found = assign(np.empty((0, 2)), None, [[0.0, 1.0]], offset=np.zeros(2))
    assert found.counts.tolist() == [0.0]
    assert found.labels.shape == (1, 0)


def test_read_only_rows_are_accepted_and_left_alone(rng):
    X = rng.normal(size=(10, 2))
    before = X.copy()
    X.flags.writeable = False
    assign(X, None, X[:3])
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_reassigned_rows_have_the_labels_and_sums_of_all_rows_wherever_the_centers_go(rng, dtype, k):
    X = (1000 + rng.normal(size=(1500, 3)) * rng.choice([1e-3, 1.0], size=(1500, 1))).astype(dtype)
    weight = rng.integers(0, 3, size=1500).astype(float)
    centers = X[:k].astype(np.float64)
    offset, drift, total = X.mean(axis=0, dtype=np.float64), np.zeros(k), None
    labels, reach = np.full(1500, -1, dtype=np.int32), np.full(1500, -np.inf, dtype=np.float32)
    for step in (1.0, 0.3, 0.03, 0.003, 0.0):
        moved = reassign(X, weight, Stack.of([centers]), offset, drift, labels, reach)
        total = moved if total is None else Moved(*(a + b for a, b in zip(total, moved, strict=True)))
        found = kernels.assign(X, weight, Stack.of([centers]), offset, with_labels=True)
        np.testing.assert_array_equal(labels, found.labels[0])
        np.testing.assert_allclose(total.sums, found.sums, rtol=1e-9, atol=1e-6)
        np.testing.assert_array_equal(total.counts, found.counts)
        np.testing.assert_array_equal(total.members, np.bincount(labels[weight > 0], minlength=k))
        shift = step * rng.normal(size=centers.shape)
        moved_to = (centers + shift).astype(dtype).astype(np.float64)
        drift += 2 * np.sqrt(((moved_to - centers) ** 2).sum(axis=1)).max()
        centers = moved_to


def test_rows_that_centers_cannot_have_reached_are_not_looked_at(rng):
    X, offset = rng.normal(size=(500, 2)), np.zeros(2)
    labels, reach = np.full(500, -1, dtype=np.int32), np.full(500, -np.inf, dtype=np.float32)
    stack = Stack.of([np.array([[-1.0, 0.0], [1.0, 0.0]])])
    reassign(X, None, stack, offset, np.zeros(2), labels, reach)
    gap = np.abs(np.sqrt(((X[:, None] - stack.centers) ** 2).sum(axis=2)) @ [1, -1])
    np.testing.assert_allclose(reach, gap, atol=1e-5)
    wrong = 1 - labels
    kept = wrong.copy()
    reassign(X, None, stack, offset, np.full(2, 0.5), wrong, reach)
    np.testing.assert_array_equal(wrong[gap > 0.51], kept[gap > 0.51])
    np.testing.assert_array_equal(wrong[gap < 0.49], labels[gap < 0.49])

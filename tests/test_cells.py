"""Cells: the sums of several models, taken together, are those of each alone."""

import itertools

import numpy as np
import pytest

from daskmeans import cells, kernels
from daskmeans.cells import find_cells, grouped, none_occurred
from daskmeans.kernels import Stack, assign


def both(X, weight, models):
    """Assign rows to the models together by cells, and by each alone; the results side by side, model by model."""
    stack, offset = Stack.of(models), X.mean(axis=0, dtype=np.float64)
    assert len(grouped(np.diff(stack.starts), *X.shape)[1]) < len(models) + 1, "no models share cells"
    together = assign(X, weight, stack, offset, with_labels=True, with_gap=True)
    for m, centers in enumerate(models):
        alone = assign(X, weight, Stack.of([centers]), offset, with_labels=True, with_gap=True)
        own = stack.of_model(m)
        np.testing.assert_array_equal(together.labels[m], alone.labels[0])
        yield {name: (getattr(together, name)[own], getattr(alone, name)) for name in together._fields[:6]}
        assert (together.gap[m] <= alone.gap[0]).all()
        assert together.gap[m] == pytest.approx(alone.gap[0], abs=2e-2 * np.abs(X - offset).max())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("far", "size"), [(0.0, 1.0), (1000.0, 1.0), (1000.0, 1e-2)])
def test_models_together_get_what_each_gets_alone(rng, weighted, dtype, far, size):
    centers = rng.normal(size=(5, 3)) + far
    X = (centers[rng.integers(5, size=3000)] + size * rng.normal(size=(3000, 3))).astype(dtype)
    weight = rng.integers(0, 3, size=len(X)).astype(np.float64) if weighted else None
    models = [X[rng.integers(len(X), size=k)].astype(np.float64) for k in (2, 5, 3, 8)]
    for values in both(X, weight, models):
        for name in ("sums", "counts", "inertia"):
            np.testing.assert_allclose(*values[name], rtol=1e-12, err_msg=name)
        for name in ("far_sq_dist", "far_row", "far_label"):
            np.testing.assert_array_equal(*values[name], err_msg=name)


def test_rows_on_their_centers_have_no_inertia_at_all(rng):
    points = rng.normal(size=(4, 3)) * 1e3
    X = points[rng.integers(4, size=2000)]
    found = assign(X, None, Stack.of([points, points[::-1], points[:2]]), np.zeros(3))
    assert (found.inertia[:8] == 0).all()
    assert (found.inertia[8:] > 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_whose_cells_become_too_many_midway_are_all_summed_up(rng, weighted, dtype):
    centers = 100 * rng.normal(size=(6, 3))
    clear = centers[rng.integers(6, size=4000)] + rng.normal(size=(4000, 3))
    X = np.concatenate([clear, 100 * rng.normal(size=(4000, 3))]).astype(dtype)
    weight = rng.integers(0, 3, size=len(X)).astype(np.float64) if weighted else None
    models = [X[rng.integers(len(X), size=k)].astype(np.float64) for k in range(2, 10)]
    _, begins, _, sought = grouped(np.arange(2, 10), *X.shape)
    assert len(begins) > 2
    assert sought == 500
    for values in both(X, weight, models):
        for name in ("sums", "counts", "inertia"):
            np.testing.assert_allclose(*values[name], rtol=1e-11, atol=1e-9, err_msg=name)


def test_cells_of_all_models_are_found_until_there_are_too_many(rng):
    cell = rng.integers(0, 20, size=(3, 200)).astype(np.int32)
    cell[2] = cell[1] % 2
    occurring = none_occurred(2000, np.empty((0, 2)))
    before = cell.copy()
    for _ in range(2):
        found = before.copy()
        assert find_cells(found, np.array([20, 20, 20]), 200, occurring)
        np.testing.assert_array_equal(found[1:], before[1:])
        n_occurring = len(np.unique(before, axis=1).T)
        assert occurring.so_far[0] == n_occurring == len(np.unique(found[0]))
    for key, clusters in zip(occurring.cells.key[found[0]], before.T, strict=True):
        assert np.unravel_index(key, (20, 20, 20)) == tuple(clusters)
    while find_cells(rng.integers(0, 2**20, size=(1, 200)).astype(np.int32), np.array([2**20]), 200, occurring):
        assert occurring.so_far[0] <= cells.FEW_CELLS + occurring.so_far[1] // cells.ROWS_PER_CELL_SO_FAR + 200
    assert not find_cells(before.copy(), np.array([20, 20, 20]), 200, occurring)


def groups(*args):
    models, begins, _, _ = grouped(*args)
    return [models[begin:end].tolist() for begin, end in itertools.pairwise(begins)]


def test_groups_are_as_large_as_their_cells_are_few():
    n_clusters = np.array([2, 3, 4, 5])
    assert groups(n_clusters, 10**6, 4) == [[3, 2, 1, 0]]
    assert groups(n_clusters, 24 * cells.ROWS_PER_CELL, 4) == [[3, 2], [1, 0]]
    assert groups(n_clusters, 24 * cells.ROWS_PER_CELL - 1, 4) == [[3, 2], [1, 0]]
    assert groups(n_clusters, 19 * cells.ROWS_PER_CELL, 4) == [[3, 1], [2, 0]]
    assert groups(n_clusters, 0, 4) == [[3], [2], [1], [0]]
    assert groups(np.array([10**6, 2]), 10**9, 4) == [[0], [1]]
    assert groups(np.arange(2, 13), 10**6, 16) == [[10, 9, 5], [8, 7, 6], [4, 3, 2, 1, 0]]


def test_models_alone_need_no_cells_unless_those_of_all_are_sought():
    def cells_of_groups(*n_clusters, n_rows=24 * cells.ROWS_PER_CELL):
        _, _, n_cells, n_sought = grouped(np.array(n_clusters), n_rows, 4)
        return n_cells.tolist(), n_sought

    assert cells_of_groups(5) == ([0], 0)
    assert cells_of_groups(5, 4) == ([20], 0)
    assert cells_of_groups(5, 4, 3) == ([20, 3], 24)
    assert cells_of_groups(25, 4, 3) == ([0, 12], 0)
    assert cells_of_groups(5, 4, n_rows=0) == ([0, 0], 0)


def test_compiled_sums_equal_their_python_source(rng, monkeypatch):
    X = rng.integers(0, 5, size=(200, 2)).astype(np.float64)
    weight = rng.integers(0, 3, size=200).astype(np.float64)
    stack = Stack.of([rng.integers(0, 5, size=(k, 2)).astype(np.float64) for k in (2, 3, 2)])
    compiled = assign(X, weight, stack, np.zeros(2))
    for name in ("_assign", "_judge", "row_sq_dist", "no_rows", "number_cells", "add_to_cells", "add_to_clusters"):
        monkeypatch.setattr(kernels, name, getattr(kernels, name).py_func)
    plain = assign(X, weight, stack, np.zeros(2))
    for a, b in zip(compiled, plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_whose_squares_overflow_float32_are_as_certain_together():
    X = np.repeat(np.array([[2e20, 0], [-3e20, 0], [1e20, 0]], dtype=np.float32), 200, axis=0)
    models = [X[[0, 200]].astype(np.float64), X[[0, 200, 400]].astype(np.float64)]
    for values in both(X, None, models):
        np.testing.assert_allclose(*values["inertia"])
        np.testing.assert_array_equal(*values["far_sq_dist"])

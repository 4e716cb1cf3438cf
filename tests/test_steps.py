"""Each Step without Dask and with it: the same bits; and no merge changes what it merges."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import dask
import dask.array as da
import naive
import numpy as np
import pytest

from daskmeans import tasks
from daskmeans.drawing import Draw, Lot, RandomPartition, exponential_keys
from daskmeans.kernels import Stack
from daskmeans.samples import row_dtype, samples_from_chunks
from daskmeans.scan import Scanner
from daskmeans.steps import Assign, Both, Gather, Survey

N, D = 230, 3


def data(dtype=np.float64):
    rng = np.random.default_rng(1)
    return rng.normal(size=(N, D)).astype(dtype), rng.integers(0, 3, size=N).astype(np.float64)


def steps():
    X, _ = data()
    zero = np.zeros(D)
    stack = Stack.of([X[:4].copy(), X[4:6].copy()])
    survey = Survey(sample_size=20, seed=3, n_samples=N)
    return {
        "survey": survey,
        "survey of unknown length": Survey(sample_size=20, seed=3, n_samples=None),
        "assign": Assign(stack, zero),
        "labels": Assign(stack, zero, Gather(), 1),
        "draw": Draw(X[:2].copy(), zero, seed=3, lots=(Lot(9, 7), Lot(5, 8, np.ones(2), 2.0))),
        "random partition": RandomPartition((4, 2), (5, 6), seed=3),
        "both": Both(survey, Assign(stack, zero)),
    }


def scanned(step, chunks, *, weighted=True, dtype=np.float64, naively=False):
    X, weight = data(dtype)
    arrays = [X, weight] if weighted else [X]
    lazy = [da.from_array(a, chunks=(chunks, *a.shape[1:])) for a in arrays]
    samples = samples_from_chunks(lazy, dtype=row_dtype(dtype))
    if not naively:
        return Scanner(samples).scan(step)
    ends = samples.grid.bounds[0]
    blocks = [[a[i:j] for a in arrays] for i, j in itertools.pairwise(ends)]
    return naive.scan(samples, step, blocks)


def assert_same(a, b, rtol=0.0, where=""):
    """Compare nested results: bit for bit, unless `rtol` is given."""
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        if rtol and a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=where)
        else:
            np.testing.assert_array_equal(a, b, err_msg=where)
    elif dataclasses.is_dataclass(a):
        for item in dataclasses.fields(a):
            assert_same(getattr(a, item.name), getattr(b, item.name), rtol, f"{where}.{item.name}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same(one, other, rtol, f"{where}[{i}]")
    else:
        assert a == pytest.approx(b, rel=rtol, abs=rtol) if rtol else a == b, where


@pytest.mark.parametrize("name", steps())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_plain_loop_gives_the_same_bits_as_dask(name, dtype, weighted):
    step = steps()[name]
    for chunks in (N, 50, 7):
        expected = scanned(step, chunks, weighted=weighted, dtype=dtype, naively=True)
        assert_same(scanned(step, chunks, weighted=weighted, dtype=dtype), expected)


@pytest.mark.parametrize("name", steps())
def test_blocks_that_share_a_task_give_the_same_bits_as_the_plain_loop(name, monkeypatch):
    monkeypatch.setattr(tasks, "MAX_TASKS", 5)
    step = steps()[name]
    assert_same(scanned(step, 7), scanned(step, 7, naively=True))


@pytest.mark.parametrize("name", [name for name in steps() if name != "labels"])
@pytest.mark.parametrize("chunks", [1, 7, (30, 0, 200)])
def test_results_do_not_depend_on_chunks_but_for_rounding(name, chunks):
    step = steps()[name]
    with dask.config.set(scheduler="synchronous"):
        assert_same(scanned(step, chunks), scanned(step, N), rtol=1e-12)


@pytest.mark.parametrize("name", steps())
def test_merge_leaves_what_it_merges_as_it_was(name):
    step = steps()[name]
    X, weight = data()
    lazy = [da.from_array(a, chunks=(50, *a.shape[1:])) for a in (X, weight)]
    loader = samples_from_chunks(lazy, dtype=X.dtype).loader
    left, right = (step.map(loader.load(i, [X[50 * i : 50 * i + 50], weight[50 * i : 50 * i + 50]])) for i in (0, 1))
    before = copy.deepcopy((left, right))
    step.finish(step.merge(left, right))
    assert_same((left, right), before)


def test_the_sample_is_the_rows_of_positive_weight_with_the_smallest_random_words():
    X, weight = data()
    words = np.random.Philox(key=[3, 1]).random_raw(N)
    order = np.argsort(words)
    expected = np.sort(order[weight[order] > 0][:20])
    for n_samples in (N, None):
        for chunks in (N, 11, 1):
            sample = scanned(Survey(20, 3, n_samples), chunks).sample
            assert sample.row_ids.tolist() == expected.tolist()
            np.testing.assert_array_equal(sample.X, X[expected])


def test_the_sample_is_all_rows_of_positive_weight_where_it_is_large():
    surveyed = scanned(Survey(1000, 3, N), 20)
    _, weight = data()
    assert surveyed.sample.row_ids.tolist() == np.flatnonzero(weight > 0).tolist()
    assert surveyed.n_eligible == (weight > 0).sum()


def test_survey_by_hand():
    X = np.array([[1.0], [np.nan], [3.0], [np.inf], [5.0]])
    weight = np.array([1.0, 1.0, -1.0, 1.0, np.nan])
    lazy = [da.from_array(a, chunks=2) for a in (X, weight)]
    found = Scanner(samples_from_chunks([lazy[0].rechunk((2, 1)), lazy[1]], dtype=X.dtype)).scan(Survey(9, 0, 5))
    assert (found.n_rows, found.n_dropped) == (5, 0)
    assert (found.n_non_finite, found.first_non_finite) == (2, 1)
    assert (found.n_bad_weights, found.first_bad_weight) == (2, 2)


def test_assign_finds_the_farthest_rows_of_all_blocks():
    X, weight = data()
    expected = naive.assign(X, weight, X[:4])
    far = scanned(Assign(Stack.of([X[:4]]), np.zeros(D)), 11).far
    order = np.argsort(-np.where(weight > 0, expected.sq_dist, -1), kind="stable")[:4]
    assert far.rows.row_ids.tolist() == order.tolist()
    np.testing.assert_array_equal(far.label, expected.labels[order])


def test_the_farthest_of_equal_rows_is_the_first():
    X = np.array([[0.0], [1.0], [1.0], [1.0]])
    samples = samples_from_chunks([da.from_array(X, chunks=(3, 1))], dtype=X.dtype)
    far = Scanner(samples).scan(Assign(Stack.of([np.array([[0.0], [9.0]])]), np.zeros(1))).far
    assert far.sq_dist.tolist() == [1.0, 1.0]
    assert far.rows.row_ids[0] == 1


def test_labels_come_back_block_by_block():
    X, _ = data()
    stack = Stack.of([X[:4], X[4:6]])
    for model, centers in ((0, X[:4]), (1, X[4:6])):
        labels = scanned(Assign(stack, np.zeros(D), Gather(), model), 30).outputs
        np.testing.assert_array_equal(np.concatenate(labels), naive.assign(X, None, centers).labels)


def test_a_round_draws_the_rows_with_the_smallest_exponential_keys():
    X, weight = data()
    (drawn,) = scanned(Draw(X[:2], np.zeros(D), seed=3, lots=(Lot(9, 7),)), 13)
    mass = naive.assign(X, weight, X[:2]).sq_dist * weight
    keys = exponential_keys(np.random.Philox(key=[3, 7]).random_raw(N), mass)
    np.testing.assert_array_equal(drawn.rows.row_ids, np.argsort(keys)[:9])
    assert drawn.cost == pytest.approx(mass.sum())
    assert not set(drawn.rows.row_ids) & {0, 1}, "a candidate has no distance left, so it is not drawn again"


def test_a_round_draws_heavy_rows_more_often():
    mass = np.array([1.0, 3.0, 0.0, 6.0])
    wins = np.zeros(4)
    for trial in range(2000):
        words = np.random.Philox(key=[trial, 0]).random_raw(4)
        wins[np.argmin(exponential_keys(words, mass))] += 1
    np.testing.assert_allclose(wins / 2000, mass / 10, atol=0.03)


def test_a_random_partition_gives_the_means_of_random_clusters():
    X, weight = data()
    labels = np.random.Philox(key=[3, 5]).random_raw(N) % np.uint64(4)
    expected = [np.average(X[labels == j], axis=0, weights=weight[labels == j]) for j in range(4)]
    (centers,) = scanned(RandomPartition((4,), (5,), seed=3), 17)
    np.testing.assert_allclose(centers, expected)

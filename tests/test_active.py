"""Active rows and look-ahead: the same result as plain passes, from fewer of them."""

from __future__ import annotations

import collections
import gc
import weakref
from dataclasses import dataclass, replace

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskmeans.active import AssignAndKeep, AssignKept, Choice, Limits, largest_other
from daskmeans.kernels import Stack
from daskmeans.lloyd import BOUNDED, PLAIN, Method, Model, State, Stop, farthest, lloyd, settle
from daskmeans.samples import ArraySource, Grid, Loader, Samples
from daskmeans.scan import Scanner
from daskmeans.steps import Assign


@dataclass
class Problem:
    X: np.ndarray
    weight: np.ndarray | None
    centers: np.ndarray
    bounds: tuple[int, ...]
    tol: float
    share: float

    def solve(self, method: Method) -> tuple[Scanner, Model]:
        samples = Samples(
            Loader(ArraySource(self.X, self.weight), Grid((self.bounds,)), "error"),
            n_samples=len(self.X),
            in_memory=method.bounded,
        )
        scanner, model = Scanner(samples), Model(self.centers.copy())
        offset = self.X.mean(axis=0)
        with dask.config.set(scheduler="synchronous"):
            lloyd(scanner, State([model]), Stop(500, self.tol * self.X.var(axis=0).mean()), offset, method)
            return scanner, settle(scanner, [model], offset, None)[0]

    def labels(self, centers: np.ndarray) -> np.ndarray:
        return ((self.X[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)


@st.composite
def problems(draw, tols=(0.0, 1e-4)):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d, k = draw(st.integers(20, 400)), draw(st.integers(1, 4)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["noise", "blobs", "ties", "duplicates"]))
    X = rng.normal(size=(n, d))
    if kind == "blobs":
        X += 8 * rng.normal(size=(k, d))[rng.integers(k, size=n)]
    elif kind == "ties":
        X = rng.integers(-3, 4, size=(n, d)).astype(float)
    elif kind == "duplicates":
        X = X[rng.integers(max(2, n // 10), size=n)]
    weight = draw(st.sampled_from([None, "integers", "floats"]))
    if weight is not None:
        weight = rng.integers(0, 4, size=n).astype(float) if weight == "integers" else rng.random(n)
        weight[0] = 1
    centers = X[rng.integers(n, size=k)]  # repeated rows make empty clusters
    cuts = np.sort(rng.choice(np.arange(1, n), draw(st.integers(0, 6)), replace=False))
    bounds = (0, *(int(cut) for cut in cuts), n)
    return Problem(X, weight, centers, bounds, draw(st.sampled_from(tols)), draw(st.sampled_from([0.05, 0.3])))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(problems())
def test_exact_active_rows_follow_the_trajectory_of_plain_passes(problem):
    _, plain = problem.solve(PLAIN)
    _, active = problem.solve(Method(Choice(problem.X, problem.share, sampled=False)))
    assert active.n_iter == plain.n_iter
    assert active.total_inertia == pytest.approx(plain.total_inertia, rel=1e-9, abs=1e-9)
    np.testing.assert_array_equal(problem.labels(active.centers), problem.labels(plain.centers))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(problems())
def test_bounds_follow_the_trajectory_of_plain_passes(problem):
    _, plain = problem.solve(PLAIN)
    _, bounded = problem.solve(BOUNDED)
    assert bounded.n_iter == plain.n_iter
    assert bounded.total_inertia == pytest.approx(plain.total_inertia, rel=1e-9, abs=1e-9)
    np.testing.assert_array_equal(problem.labels(bounded.centers), problem.labels(plain.centers))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(problems(tols=(0.0,)))
def test_look_ahead_ends_in_a_fixed_point_of_plain_iteration(problem):
    method = Method(Choice(problem.X, problem.share, sampled=True), look_ahead=True)
    _, ahead = problem.solve(method)
    assert ahead.converged
    one_more = Problem(problem.X, problem.weight, ahead.centers, problem.bounds, 0.0, problem.share)
    _, settled = one_more.solve(PLAIN)
    np.testing.assert_array_equal(problem.labels(settled.centers), problem.labels(ahead.centers))
    assert settled.total_inertia == pytest.approx(ahead.total_inertia, rel=1e-12, abs=1e-12)


def test_both_take_fewer_passes_where_clusters_overlap():
    passes = collections.Counter()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        centers = rng.normal(size=(12, 4)) * 2
        X = centers[rng.integers(12, size=20_000)] + rng.normal(size=(20_000, 4))
        problem = Problem(X, None, X[:12], (0, 7_000, 20_000), 1e-4, 0.1)
        for name, method in {
            "plain": PLAIN,
            "exact": Method(Choice(X, 0.1, sampled=False)),
            "ahead": Method(Choice(X, 0.1, sampled=True, packed=0.2), look_ahead=True),
        }.items():
            scanner, model = problem.solve(method)
            passes[name] += scanner.n_passes
            assert model.converged
    assert passes["exact"] < passes["plain"]
    assert passes["ahead"] <= passes["plain"] / 4


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_no_pass_is_needed_to_know_what_belongs_to_centers_that_a_look_ahead_ends_in(rng, share):
    X = rng.normal(size=(12, 4))[rng.integers(12, size=20_000)] * 2 + rng.normal(size=(20_000, 4))
    weight, bounds = rng.random(len(X)), (0, 7_000, 20_000)
    method = Method(Choice(X, share, sampled=True, packed=0.2), look_ahead=True)
    for start in range(6):
        problem = Problem(X, weight, X[12 * start : 12 * (start + 1)], bounds, 1e-4, share)
        scanner, model = problem.solve(method)
        assert {report.title for report in scanner.history} == {"iteration"}
        labels = problem.labels(model.centers)
        sq_dist = ((X - model.centers[labels]) ** 2).sum(axis=1)
        np.testing.assert_allclose(model.counts, np.bincount(labels, weight), rtol=1e-12)
        np.testing.assert_allclose(model.inertia, np.bincount(labels, weight * sq_dist), rtol=1e-9)
        means = np.stack([np.average(X[labels == c], axis=0, weights=weight[labels == c]) for c in range(12)])
        np.testing.assert_allclose(model.means, means, rtol=1e-9)
        moves = ((means - model.centers) ** 2).sum()
        assert moves <= 1e-4 * X.var(axis=0).mean(), "one more update is within the tolerance"


def test_active_rows_are_gone_before_the_next_pass_keeps_others():
    X = np.random.default_rng(0).random((3000, 2)).astype(np.float32)
    samples = Samples(Loader(ArraySource(X, None), Grid((tuple(range(0, 3001, 100)),)), "error"), n_samples=len(X))
    kept = []

    class Watch(Scanner):
        def scan_and_keep(self, step, title):
            gc.collect()  # cycles may hold frames of what went before
            assert not any(block() for block in kept)
            found, rows = super().scan_and_keep(step, title)
            kept.extend(weakref.ref(block) for group in rows._kept.groups for block in group)
            return found, rows

    scanner, models = Watch(samples), [Model(X[start : start + 9].astype(np.float64)) for start in (0, 9)]
    method = Method(Choice(X, 0.2, sampled=True), look_ahead=True)
    with dask.config.set(scheduler="synchronous"):
        lloyd(scanner, State(models), Stop(500, 1e-6), X.mean(axis=0), method)
    assert len(kept) >= 3 * 30


def test_a_look_ahead_goes_no_farther_than_its_arithmetic_is_worth(rng):
    X = rng.normal(size=(20_000, 2))
    method = Method(Choice(X, 0.1, sampled=True, packed=0.2), look_ahead=True)
    scanner, model = Problem(X, None, X[:9], (0, 7_000, 20_000), 0.0, 0.1).solve(replace(method, farthest=2))
    more, other = Problem(X, None, X[:9], (0, 7_000, 20_000), 0.0, 0.1).solve(method)
    assert model.converged
    assert other.converged
    assert scanner.n_passes > more.n_passes
    assert [farthest(share) for share in (1.0, 0.5, 0.01)] == [25, 50, 300]


def test_the_packed_sample_serves_beyond_the_exact_bound_only(rng):
    X = rng.normal(size=(600, 3))
    scanner = Scanner(Samples(Loader(ArraySource(X, None), Grid(((0, 200, 600),)), "error"), n_samples=len(X)))
    centers, offset = Stack.of([X[:4]]), X.mean(axis=0)
    limits = Limits(np.full(4, 0.3), np.full(4, 0.5), np.ones(1))
    with dask.config.set(scheduler="synchronous"):
        frozen, kept = scanner.scan_and_keep(AssignAndKeep(Assign(centers, offset), limits, 0, 1), "iteration")
        alone, with_sample = (kept.scan(AssignKept(Assign(centers, offset), flag)) for flag in (False, True))
    dist = np.sort(np.sqrt(((X[:, None] - X[:4]) ** 2).sum(axis=2)), axis=1)
    gap = dist[:, 1] - dist[:, 0]
    assert alone.counts.sum() == (gap < 0.3).sum()
    assert frozen.smallest_gap.min() == pytest.approx(gap[gap >= 0.3].min())
    assert with_sample.counts.sum() == pytest.approx(len(X), rel=0.2)  # weights stand for those that are not kept


@pytest.mark.parametrize("weight", [None, np.arange(1.0, 601.0)])
def test_active_rows_have_weights_only_where_the_data_has(rng, weight):
    X = rng.normal(size=(600, 3))
    samples = Samples(Loader(ArraySource(X, weight), Grid(((0, 200, 600),)), "error"), n_samples=len(X))
    limits = Limits(np.full(4, 0.3), np.full(4, 0.5), np.ones(1))
    step = AssignAndKeep(Assign(Stack.of([X[:4]]), X.mean(axis=0)), limits, 0, 1)
    with dask.config.set(scheduler="synchronous"):
        _, kept = Scanner(samples).scan_and_keep(step, "iteration")
    blocks = [block for group in kept._kept.groups for block in group]
    assert sum(block.n_rows for block in blocks) > 100
    if weight is None:
        assert all(block.weight is None for block in blocks)
    else:
        weighed = {tuple(x): w for block in blocks for x, w in zip(block.X, block.weight, strict=True)}
        assert weighed.items() <= {tuple(x): w for x, w in zip(X, weight, strict=True)}.items()


def test_the_largest_other_shift_is_that_of_any_other_center():
    np.testing.assert_array_equal(largest_other(np.array([3.0, 1.0, 2.0])), [2, 3, 3])
    np.testing.assert_array_equal(largest_other(np.array([3.0])), [0])

"""The worked examples that people meet first, with the numbers they know, on NumPy and on Dask."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans as ScikitKMeans
from sklearn.datasets import make_blobs

import daskmeans
from daskmeans import KMeans


@pytest.fixture(params=["numpy", "dask"])
def given(request):
    """Hand over an array as it is, or as a Dask array of uneven chunks."""
    if request.param == "numpy":
        return lambda X: X
    return lambda X: da.from_array(X, chunks=((len(X) // 2, len(X) // 3, len(X) - len(X) // 2 - len(X) // 3), 2))


def matched(centers, truth):
    """Return the order of `centers` in which they are nearest to `truth`."""
    dist = np.linalg.norm(truth[:, None] - centers, axis=2)
    return linear_sum_assignment(dist)[1]


def gaussians(rng, centers, n, std=1.0):
    centers = np.array(centers, dtype=float)
    return np.concatenate([rng.normal(center, std, size=(n, 2)) for center in centers]), np.repeat(
        range(len(centers)), n
    )


def test_three_blobs_that_overlap(given):
    X, y, truth = make_blobs(1000, centers=3, n_features=2, random_state=0, return_centers=True)
    model = KMeans(3, n_init=10, random_state=0).fit(given(X))
    order = matched(model.cluster_centers_, truth)
    assert np.abs(model.cluster_centers_[order] - truth).mean() == pytest.approx(0.0572, abs=2e-3)
    assert (np.argsort(order)[np.asarray(model.labels_)] == y).mean() == pytest.approx(0.918, abs=3e-3)
    reference = ScikitKMeans(3, n_init=10, random_state=0).fit(X)
    assert model.inertia_ == pytest.approx(reference.inertia_, rel=1e-4)


def test_three_gaussians_of_3333_points_and_the_elbow_at_three(rng, given):
    truth = np.array([(5, 6), (-5, -6), (-10, 3)])
    X, _ = gaussians(rng, truth, 3333)
    model = KMeans(3, random_state=0).fit(given(X))
    assert np.abs(model.cluster_centers_[matched(model.cluster_centers_, truth)] - truth).max() < 0.05
    found = daskmeans.sweep(given(X), range(1, 8), n_init=2, sample_size=1000)
    assert found.suggestions["knee of explained variation"] == found.recommended == 3


def test_four_gaussians_that_overlap(rng, given):
    truth = np.array([(0, 0), (4, 0), (0, 4), (4, 4)])
    X, _ = gaussians(rng, truth, 1000, std=1.2)
    model = KMeans(4, random_state=0).fit(given(X))
    assert np.abs(model.cluster_centers_[matched(model.cluster_centers_, truth)] - truth).max() < 0.3
    assert model.inertia_ == pytest.approx(ScikitKMeans(4, n_init=10, random_state=0).fit(X).inertia_, rel=1e-3)


def test_two_blobs_far_apart_are_split_without_a_mistake(rng, given):
    X, y = gaussians(rng, [(20, 20), (4, 4)], 500, std=2)
    labels = np.asarray(KMeans(2, random_state=0).fit(given(X)).labels_)
    assert (labels == y).all() or (labels == 1 - y).all()


def test_sums_of_squares_add_up(rng, given):
    X, _ = gaussians(rng, [(0, 0), (6, 0), (0, 6)], 300)
    model = KMeans(3, tol=0, random_state=0).fit(given(X))
    labels = np.asarray(model.labels_)
    within = [((X[labels == c] - X[labels == c].mean(axis=0)) ** 2).sum() for c in range(3)]
    np.testing.assert_allclose(model.inertia_per_cluster_, within)
    assert model.inertia_ == pytest.approx(sum(within))
    total = ((X - X.mean(axis=0)) ** 2).sum()
    between = model.counts_ @ ((model.cluster_centers_ - X.mean(axis=0)) ** 2).sum(axis=1)
    assert total == pytest.approx(model.inertia_ + between)


def test_without_a_tolerance_it_ends_where_no_row_changes_cluster(rng, given):
    X, _ = gaussians(rng, [(0, 0), (3, 0), (0, 3)], 400)
    model = KMeans(3, tol=0, random_state=0).fit(given(X))
    labels = np.asarray(model.labels_)
    means = np.array([X[labels == c].mean(axis=0) for c in range(3)])
    np.testing.assert_allclose(model.cluster_centers_, means, rtol=1e-12)
    np.testing.assert_array_equal(np.linalg.norm(X[:, None] - means, axis=2).argmin(axis=1), labels)
    assert model.converged_

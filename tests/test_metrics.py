"""Validity indices: scikit-learn's numbers on any input, weights that equal repetition, few passes."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference
from sklearn.cluster import KMeans as ScikitKMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError

from daskmeans import KMeans, metrics
from daskmeans.errors import DataError
from daskmeans.kernels import Stack
from daskmeans.spreads import distances_and_silhouettes

X, _ = make_blobs(700, centers=4, n_features=3, cluster_std=2.0, random_state=1)
UNEVEN = da.from_array(X, chunks=((300, 1, 99, 250, 50), 3))


def fitted(X, k, tol=0.0):
    return KMeans(k, tol=tol, random_state=0).fit(X)


@pytest.mark.parametrize("tol", [0.0, 0.1])
@pytest.mark.parametrize("data", [X, UNEVEN, UNEVEN + 100], ids=["numpy", "uneven chunks", "far from 0"])
def test_indices_equal_scikit_learns(data, tol):
    models = [fitted(data, k, tol) for k in (2, 4, 7)]
    rows = np.asarray(data)
    for model, found in zip(models, metrics.scores(data, models, sample_size=1000), strict=True):
        labels = np.asarray(model.labels_)
        np.testing.assert_allclose(found.calinski_harabasz, reference.calinski_harabasz_score(rows, labels), rtol=1e-9)
        np.testing.assert_allclose(found.davies_bouldin, reference.davies_bouldin_score(rows, labels), rtol=1e-9)
        # The sample is all there is.
        np.testing.assert_allclose(found.silhouette, reference.silhouette_score(rows, labels), rtol=1e-7)
        np.testing.assert_allclose(found.inertia, model.inertia_, rtol=1e-12)
        total = ((rows - rows.mean(axis=0)) ** 2).sum()
        within = sum(
            ((rows[labels == c] - rows[labels == c].mean(axis=0)) ** 2).sum() for c in range(len(found.counts))
        )
        np.testing.assert_allclose(found.explained_variation, 1 - within / total, rtol=1e-9)
        np.testing.assert_allclose([found.inertia_share.sum(), found.weight_share.sum()], 1)


def test_the_simplified_silhouette_is_exact_over_all_rows():
    model = fitted(X, 4)
    dist = np.sort(model.transform(X), axis=1)
    values = 1 - dist[:, 0] / dist[:, 1]
    (found,) = metrics.scores(UNEVEN, [model], sample_size=0)
    np.testing.assert_allclose(found.simplified_silhouette, values.mean(), rtol=1e-12)
    expected = [values[model.labels_ == c].mean() for c in range(4)]
    np.testing.assert_allclose(found.simplified_silhouette_per_cluster, expected, rtol=1e-12)
    assert np.isnan(found.silhouette)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_distances_and_silhouettes_are_those_of_all_pairs_of_rows_and_centers(rng, dtype, weighted):
    models = [rng.normal(size=(k, 5)) + 100 for k in (1, 2, 9)]
    rows = (rng.normal(size=(600, 5)) + 100).astype(dtype)
    # So near to centers that scores do not tell how far.
    rows[::7] = (np.concatenate(models)[rng.integers(12, size=86)] + 1e-4 * rng.normal(size=(86, 5))).astype(dtype)
    weight = rng.random(600) if weighted else None
    points = np.concatenate(models) + 1e-5 * rng.normal(size=(12, 5))
    sq_dist = [((rows.astype(float)[:, None] - c) ** 2).sum(axis=2) for c in models]
    labels = np.array([each.argmin(axis=1) for each in sq_dist], np.int32)
    nearest = np.array([each.min(axis=1) for each in sq_dist])
    stack = Stack.of(models)
    found = distances_and_silhouettes(rows, weight, labels, stack, np.full(5, 100.0), points)
    for m, own in enumerate(labels + stack.starts[:-1, None]):
        dist = np.sqrt(((rows - points[own]) ** 2).sum(axis=1))
        second = np.sqrt(np.sort(sq_dist[m], axis=1)[:, 1]) if m else np.inf
        silhouette = np.zeros(600) if m == 0 else 1 - np.sqrt(nearest[m]) / second
        for values, sums in zip((dist, silhouette), found, strict=True):
            factors = values if weight is None else values * weight
            np.testing.assert_allclose(
                sums[stack.of_model(m)], np.bincount(own, factors, 12)[stack.of_model(m)], rtol=1e-10, atol=1e-10
            )
    arguments = rows, weight, labels, stack, np.full(5, 100.0), points
    dist, silhouette = distances_and_silhouettes(*arguments, with_silhouette=False)
    np.testing.assert_array_equal(dist, found[0])
    assert not silhouette.any()


def test_weights_equal_repetition(rng):
    weight = rng.integers(0, 4, len(X))
    repeated = np.repeat(X, weight, axis=0)
    model = fitted(X, 4, tol=0.1)
    (weighted,) = metrics.scores(UNEVEN, [model], weight, sample_size=5000)
    (plain,) = metrics.scores(repeated, [model], sample_size=5000)
    names = ("counts", "inertia", "explained_variation", "calinski_harabasz", "davies_bouldin", "simplified_silhouette")
    for name in (*names, "simplified_silhouette_per_cluster", "silhouette"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(plain, name), rtol=1e-9, err_msg=name)


def test_the_standard_error_of_the_silhouette_is_what_samples_scatter_by():
    model = fitted(X, 4)
    draws = [metrics.silhouette_score(X, model, sample_size=150, random_state=seed) for seed in range(60)]
    means, errors = np.transpose(draws)
    assert abs(means.mean() - reference.silhouette_score(X, model.labels_)) < 0.02
    assert 0.75 < means.std() / errors.mean() < 1.3
    assert metrics.silhouette_score(X, model, sample_size=len(X))[1] == 0


def test_one_pass_scores_a_fixed_point_and_two_any_other():
    reads = []
    lazy = UNEVEN.map_blocks(lambda rows: reads.append(1) or rows, dtype=X.dtype, meta=np.empty((0, 0)))
    for tol, passes in ((0.0, 1), (0.5, 2)):
        model = fitted(X, 5, tol)
        reads.clear()
        metrics.scores(lazy, [model], memory_budget=1000)
        assert len(reads) == 5 * passes


def test_single_indices():
    model = fitted(X, 4)
    (found,) = metrics.scores(X, [model], sample_size=0)
    assert metrics.explained_variation(X, model) == found.explained_variation
    assert metrics.calinski_harabasz_score(X, model.cluster_centers_) == found.calinski_harabasz
    assert metrics.davies_bouldin_score(X, model) == found.davies_bouldin
    assert metrics.simplified_silhouette_score(X, model) == found.simplified_silhouette
    with pytest.raises(DataError, match=r"shape \(2, 2\); expected \(n_clusters, 3\)"):
        metrics.explained_variation(X, np.zeros((2, 2)))


def test_the_models_of_others_are_scored_too():
    other = ScikitKMeans(4, n_init=1, random_state=0).fit(X)
    assert metrics.explained_variation(X, other) == metrics.explained_variation(X, other.cluster_centers_)
    with pytest.raises(NotFittedError):
        metrics.scores(X, [KMeans(3)])
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = fitted(frame, 4)
    assert metrics.explained_variation(X, model) == metrics.explained_variation(frame, model)
    with pytest.raises(DataError, match=r"fitted to the features \['a', 'b', 'c'\], but X has \['c', 'b', 'a'\]"):
        metrics.explained_variation(frame[["c", "b", "a"]], model)


@pytest.mark.parametrize("offset", [0, 1000])
def test_centers_that_are_rounded_are_not_taken_for_means(offset):
    rows = (X + offset).astype("f4")
    model = fitted(rows, 4)
    (found,) = metrics.scores(da.from_array(rows, chunks=(300, 3)), [model], sample_size=0)
    expected = reference.davies_bouldin_score(rows.astype(float), model.labels_)
    np.testing.assert_allclose(found.davies_bouldin, expected, rtol=1e-9)


def test_singletons_equal_rows_empty_clusters_and_large_offsets():
    rows = np.vstack([X, [[100.0, 0, 0]], [[0, 200.0, 0]], np.repeat([[-90.0, 0, 0]], 5, axis=0)])
    centers = np.vstack([fitted(X, 4).cluster_centers_, rows[700:703]])
    labels = KMeans(7, init=centers, max_iter=1).fit(rows).predict(rows)
    for offset, tolerance in ((0, 1e-7), (1e8, 1e-6)):  # scikit-learn's distances between equal rows are not 0
        moved = da.from_array(rows + offset, chunks=(300, 3))
        (found,) = metrics.scores(moved, [np.vstack([centers, np.full(3, 1e6)]) + offset], sample_size=1000)
        for name in ("calinski_harabasz", "davies_bouldin", "silhouette"):
            expected = getattr(reference, f"{name}_score")(rows, labels)
            np.testing.assert_allclose(getattr(found, name), expected, rtol=tolerance, err_msg=name)
        assert found.counts.tolist() == [*np.bincount(labels, minlength=7), 0]


def test_one_cluster_and_equal_rows_have_no_index_but_their_sums():
    (one, equal) = metrics.scores(np.ones((5, 2)), [np.ones((1, 2)), np.ones((2, 2))])
    assert np.isnan([one.calinski_harabasz, one.davies_bouldin, one.simplified_silhouette, one.silhouette]).all()
    assert equal.inertia == 0
    assert np.isnan(equal.silhouette)
    assert equal.counts.tolist() == [5, 0]


def test_the_gap_statistic_finds_the_blobs_and_no_structure_in_noise(rng):
    blobs, _ = make_blobs(600, centers=[[0, 0], [9, 0], [0, 9]], random_state=0)
    assert metrics.gap_statistic(blobs, range(1, 6)).best == 3
    found = metrics.gap_statistic(da.from_array(rng.random((2000, 2)), chunks=(300, 2)), range(1, 5), sample_size=500)
    assert found.best == 1
    assert found.gap.shape == found.error.shape == (4,)

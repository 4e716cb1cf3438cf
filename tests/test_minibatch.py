"""Data that arrives in parts, and models that come from scikit-learn and go to it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans as ScikitKMeans
from sklearn.datasets import make_blobs

from daskmeans import KMeans
from daskmeans.minibatch import Batched

CENTERS = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
X, Y = make_blobs(3000, centers=CENTERS, random_state=0)


def test_batches_lead_to_the_means():
    model = KMeans(3, random_state=0)
    for begin in range(0, len(X), 100):
        model.partial_fit(X[begin : begin + 100])
    order = np.argsort(model.predict(CENTERS))
    np.testing.assert_allclose(model.cluster_centers_, CENTERS[order], atol=0.15)
    assert model.counts_.sum() == len(X)
    assert model.n_iter_ == 30


def test_a_center_is_the_weighted_mean_of_its_rows(rng):
    weight = rng.integers(0, 3, 200).astype(float)
    model = KMeans(1, random_state=0)
    for rows in (slice(0, 100), slice(100, 200)):
        model.partial_fit(X[rows], sample_weight=weight[rows])
    np.testing.assert_allclose(model.cluster_centers_[0], np.average(X[:200], axis=0, weights=weight))


def test_starved_clusters_move_to_rows_of_the_batch():
    far = Batched(np.array([[0.0, 0.0], [1e6, 1e6]]), np.array([1000.0, 0.0]), 0.0)
    found = far.reassigned(X, np.ones(len(X)), np.random.default_rng(0))
    assert (found.centers[1] == X).all(axis=1).any()
    assert found.counts.tolist() == [1000, 1000]
    fed = Batched(far.centers, np.array([1000.0, 900.0]), 5.0)
    assert fed.reassigned(X, np.ones(len(X)), np.random.default_rng(0)) is fed


def test_the_same_batches_give_the_same_bits():
    models = [KMeans(5, random_state=3).partial_fit(X[:500]).partial_fit(X[500:]) for _ in range(2)]
    np.testing.assert_array_equal(models[0].cluster_centers_, models[1].cluster_centers_)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="n_samples=2 should be >= n_clusters=3"):
        KMeans(3).partial_fit(X[:2])
    with pytest.raises(ValueError, match="X has 1 features, but KMeans is expecting 2"):
        KMeans(3, random_state=0).partial_fit(X).partial_fit(X[:, :1])


def test_models_go_to_scikit_learn_and_back():
    model = KMeans(3, random_state=0).fit(X)
    other = model.to_sklearn()
    assert isinstance(other, ScikitKMeans)
    np.testing.assert_array_equal(other.predict(X), model.labels_)
    np.testing.assert_allclose(other.score(X), model.score(X))
    back = KMeans.from_sklearn(ScikitKMeans(3, n_init=1, random_state=0).fit(X))
    np.testing.assert_array_equal(back.predict(X), back.labels_)
    np.testing.assert_allclose(back.score(X), -back.inertia_)
    assert back.fit(X).n_iter_ <= 2

"""Data that arrives in parts, and models that come from scikit-learn and go to it."""

from __future__ import annotations

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from sklearn.cluster import BisectingKMeans, MiniBatchKMeans
from sklearn.cluster import KMeans as ScikitKMeans
from sklearn.datasets import make_blobs

from daskmeans import KMeans
from daskmeans.errors import DataError
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


def test_batches_of_any_kind_give_the_same_bits():
    weight = np.arange(1.0, 301.0)
    frame = pd.DataFrame(X[:300], columns=["a", "b"])
    grid = xr.Dataset(
        {"a": (("lat", "lon"), X[:300, 0].reshape(20, 15)), "b": (("lat", "lon"), X[:300, 1].reshape(20, 15))}
    )
    lazy_frame = dd.from_pandas(frame.assign(w=weight), npartitions=3)
    batches = {
        "dask": (da.from_array(X[:300], chunks=(70, 2)), {"sample_weight": da.from_array(weight, chunks=100)}),
        "frame": (lazy_frame[["a", "b"]], {"sample_weight": lazy_frame["w"]}),
        "zarr": (zarr.array(X[:300], chunks=(70, 2)), {"sample_weight": weight}),
        "named": (
            grid,
            {"sample_weight": xr.DataArray(weight.reshape(20, 15), dims=("lat", "lon")), "sample_dims": ["lat", "lon"]},
        ),
    }
    expected = KMeans(3, random_state=0).partial_fit(X[:300], sample_weight=weight).partial_fit(X[:300])
    for name, (batch, options) in batches.items():
        model = KMeans(3, random_state=0).partial_fit(batch, **options).partial_fit(batch)
        np.testing.assert_array_equal(model.cluster_centers_, expected.cluster_centers_, err_msg=name)
        np.testing.assert_array_equal(np.ravel(model.labels_), expected.labels_)
        assert hasattr(model, "feature_names_in_") == (name in ("frame", "named"))
    assert model.labels_.dims == ("lat", "lon")
    np.testing.assert_array_equal(model.centers_["a"], model.cluster_centers_[:, 0])
    with pytest.raises(ValueError, match="feature names should match"):
        KMeans(3, random_state=0).partial_fit(lazy_frame[["a", "b"]]).partial_fit(lazy_frame[["b", "a"]])


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


def test_what_scikit_learn_fitted_by_batches_goes_on():
    other = MiniBatchKMeans(3, random_state=0)
    weight = np.full(500, 2.0)
    for begin in (0, 500):
        other.partial_fit(X[begin : begin + 500], sample_weight=weight)
    model = KMeans.from_sklearn(other)
    np.testing.assert_array_equal(model.predict(X), other.predict(X))
    assert (model.n_iter_, model.counts_.sum()) == (2, 2000)
    other.partial_fit(X[1000:])
    np.testing.assert_allclose(model.partial_fit(X[1000:]).cluster_centers_, other.cluster_centers_)
    with pytest.raises(DataError, match="Got a BisectingKMeans; expected"):
        KMeans.from_sklearn(BisectingKMeans(3, random_state=0).fit(X))

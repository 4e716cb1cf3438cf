"""Spherical k-means: what Dhillon and Modha's iteration gives, on any input; only directions count."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from naive import spherical
from sklearn.metrics import adjusted_rand_score, calinski_harabasz_score
from sklearn.preprocessing import normalize

import daskmeans
from daskmeans import KMeans, metrics
from daskmeans.errors import DataError

N_CLUSTERS = 5


@pytest.fixture(name="X")
def directions(rng):
    """Rows of any length around five directions that overlap, 900 x 6."""
    centers = normalize(rng.normal(size=(N_CLUSTERS, 6)))
    rows = centers[rng.integers(N_CLUSTERS, size=900)] + 0.25 * rng.normal(size=(900, 6))
    return rows * rng.lognormal(sigma=2, size=(900, 1))


def fitted(X, **options):
    options = {"metric": "cosine", "random_state": 0, "tol": 0, **options}
    return KMeans(N_CLUSTERS, **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("algorithm", ["lloyd", "lookahead"])
@pytest.mark.parametrize("budget", ["1GiB", "60kB"], ids=["kept", "streamed"])
def test_the_iteration_is_the_naive_one(X, rng, weighted, algorithm, budget):
    weight = rng.integers(1, 4, len(X)).astype(float) if weighted else None
    init = X[rng.permutation(len(X))[:N_CLUSTERS]]
    lazy = da.from_array(X, chunks=((500, 1, 399), 6))
    model = fitted(X, init=init, algorithm=algorithm, memory_budget=budget).fit(lazy, sample_weight=weight)
    expected = spherical(X, weight, init)
    assert model.converged_
    if algorithm == "lloyd":
        assert model.n_iter_ == expected.n_iter
        np.testing.assert_allclose(model.cluster_centers_, expected.centers, atol=1e-12)
        np.testing.assert_array_equal(model.labels_.compute(), expected.labels)
    # By whatever path: a fixed point, whose inertia is what it is said to be.
    again = spherical(X, weight, model.cluster_centers_)
    np.testing.assert_allclose(again.centers, model.cluster_centers_, atol=1e-12)
    np.testing.assert_allclose(model.inertia_, again.inertia, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("init", ["k-means||", "k-means++", "random", "random-partition"])
def test_lengths_do_not_count(X, dtype, init):
    X = X.astype(dtype)
    model = fitted(X, init=init, tol=1e-4).fit(X)
    lengths = 2.0 ** (np.arange(len(X)) % 7 - 3)  # powers of two: not a bit of the directions changes
    other = fitted(X, init=init, tol=1e-4).fit((X * lengths[:, None]).astype(dtype))
    np.testing.assert_array_equal(model.cluster_centers_, other.cluster_centers_)
    np.testing.assert_array_equal(model.labels_, other.labels_)
    assert model.cluster_centers_.dtype == dtype
    np.testing.assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1, rtol=1e-6)


def test_inertia_is_twice_the_sum_of_one_minus_cosine_and_all_methods_agree(X, rng, tmp_path):
    weight = rng.integers(0, 3, len(X))
    model = fitted(X).fit(X, sample_weight=weight)
    cosines = normalize(X) @ model.cluster_centers_.T
    np.testing.assert_array_equal(model.labels_, cosines.argmax(axis=1))
    np.testing.assert_allclose(model.inertia_, 2 * weight @ (1 - cosines.max(axis=1)), rtol=1e-10)
    assert model.score(X, sample_weight=weight) == pytest.approx(-model.inertia_, rel=1e-12)
    np.testing.assert_allclose(model.transform(X) ** 2, 2 - 2 * cosines, atol=1e-12)
    model.save(tmp_path / "model.npz")
    loaded = daskmeans.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.predict(3 * X), model.labels_)


@pytest.mark.parametrize("kind", ["dask", "zarr", "xarray"])
def test_any_input_gives_what_numpy_gives(X, tmp_path, kind):
    store = zarr.create_array(tmp_path / "X.zarr", shape=X.shape, chunks=(250, 6), dtype="f8")
    store[:] = X
    given = {
        "dask": (da.from_array(X, chunks=(400, 6)), {}),
        "zarr": (store, {}),
        "xarray": (xr.DataArray(X, dims=("row", "feature")), {"sample_dims": ["row"]}),
    }
    data, dims = given[kind]
    expected = fitted(X, init=X[:N_CLUSTERS]).fit(X)
    model = fitted(X, init=X[:N_CLUSTERS]).fit(data, **dims)
    np.testing.assert_allclose(model.cluster_centers_, expected.cluster_centers_, atol=1e-12)
    np.testing.assert_array_equal(np.asarray(model.labels_), expected.labels_)
    np.testing.assert_array_equal(np.asarray(model.predict(data)), expected.labels_)
    np.testing.assert_allclose(np.asarray(model.transform(data)), expected.transform(X), atol=1e-7)
    assert model.score(data) == pytest.approx(expected.score(X))


def test_a_sweep_and_the_scores_are_those_of_the_directions(X):
    found = daskmeans.sweep(da.from_array(X, chunks=(400, 6)), range(2, 8), metric="cosine", n_init=3)
    model = found.models[5]
    np.testing.assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1)
    labels = np.asarray(model.labels_)
    expected = calinski_harabasz_score(normalize(X), labels)
    assert found.table.loc[5, "calinski_harabasz"] == pytest.approx(expected, rel=1e-9)
    (scores,) = metrics.scores(X, [model])
    assert scores.calinski_harabasz == pytest.approx(expected, rel=1e-9)
    assert scores.inertia == pytest.approx(model.inertia_, rel=1e-9)
    with pytest.raises(DataError, match="different metrics"):
        metrics.scores(X, [model, KMeans(2, random_state=0).fit(X)])


def test_batches_lead_to_directions(X):
    whole = fitted(X).fit(X)
    model = KMeans(N_CLUSTERS, metric="cosine", random_state=0)
    for begin in range(0, 900, 100):
        model.partial_fit(X[begin : begin + 100])
    np.testing.assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1)
    assert adjusted_rand_score(model.predict(X), whole.labels_) > 0.8


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e170, 1e300])
def test_lengths_whose_squares_are_no_numbers_do_not_count(X, scale):
    X = normalize(X)
    expected = fitted(X).fit(X)
    model = fitted(X).fit(X * scale)
    np.testing.assert_allclose(model.cluster_centers_, expected.cluster_centers_, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    with pytest.raises(DataError, match="rows of zeros"):
        model.predict(np.vstack([X * scale, np.zeros(6)]))


def test_opposite_rows_whose_sum_is_zero_leave_their_center_where_it_is():
    X = np.array([[1.0, 0.0], [-1.0, 0.0]])
    model = KMeans(1, metric="cosine", init=[[0.0, 3.0]]).fit(X)
    np.testing.assert_array_equal(model.cluster_centers_, [[0.0, 1.0]])
    assert model.inertia_ == 4.0


@pytest.mark.parametrize("lazy", [False, True])
def test_rows_of_zeros_are_refused_and_named(X, lazy):
    model = fitted(X).fit(X)
    X[[17, 60]] = 0
    data = da.from_array(X, chunks=(10, 6)) if lazy else X
    message = r"Input X contains rows of zeros, which have no direction: .* The first is "
    with pytest.raises(DataError, match=message + "row (17|60)"):
        fitted(X).fit(data)
    for method in (model.predict, model.transform, model.score):
        with pytest.raises(DataError, match=message):
            np.asarray(method(data))
    X[60, 3] = np.nan
    with pytest.raises(DataError, match=r"zeros|NaN or infinity in 1 of 900 rows, first in row 60"):
        fitted(X).fit(data)


def test_scikit_learn_knows_no_metric(X):
    with pytest.raises(DataError, match="knows no metric='cosine'"):
        fitted(X).fit(X).to_sklearn()

"""Lloyd's iteration: scikit-learn's trajectory, whatever the chunks; empty clusters find work."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import naive
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as ScikitKMeans
from sklearn.datasets import make_blobs
from sklearn.preprocessing import StandardScaler

from daskmeans import KMeans
from daskmeans.lloyd import Model

CHUNKS = [700, 350, (1, 699), (333, 0, 367), 64, (7,) * 100]


def blobs(n_samples=700, n_features=5, centers=9, **kwargs):
    X, _ = make_blobs(n_samples, n_features, centers=centers, cluster_std=3.0, random_state=0, **kwargs)
    return X


def assert_parity(ours, theirs, rtol=1e-6):
    np.testing.assert_array_equal(np.asarray(ours.labels_), theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=rtol, atol=1e-12)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-9)
    weighted = np.bincount(theirs.labels_, minlength=len(ours.counts_))
    if ours.counts_.sum() == len(theirs.labels_):
        np.testing.assert_array_equal(ours.counts_, weighted)


@pytest.mark.parametrize("chunks", CHUNKS, ids=lambda chunks: str(chunks)[:12])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("tol", [1e-4, 0])
def test_the_trajectory_is_that_of_scikit_learn(chunks, weighted, tol):
    X = blobs()
    weight = np.random.default_rng(2).random(len(X)) if weighted else None
    init = X[:8]
    theirs = ScikitKMeans(8, init=init, n_init=1, tol=tol, algorithm="lloyd").fit(X, sample_weight=weight)
    lazy = da.from_array(X, chunks=(chunks, X.shape[1]))
    lazy_weight = None if weight is None else da.from_array(weight, chunks=chunks)
    ours = KMeans(8, init=init, tol=tol, algorithm="lloyd").fit(lazy, sample_weight=lazy_weight)
    assert theirs.n_iter_ > 5
    assert_parity(ours, theirs)


@pytest.mark.parametrize("max_iter", [1, 2, 3])
def test_a_few_iterations_are_those_of_scikit_learn(max_iter):
    X = blobs()
    theirs = ScikitKMeans(8, init=X[:8], n_init=1, max_iter=max_iter).fit(X)
    ours = KMeans(8, init=X[:8], max_iter=max_iter).fit(X)
    assert_parity(ours, theirs)
    assert not ours.converged_


def test_many_features_and_one_cluster(rng):
    X = rng.normal(size=(100, 70))
    ours = KMeans(1).fit(X)
    np.testing.assert_allclose(ours.cluster_centers_[0], X.mean(axis=0))
    assert ours.inertia_ == pytest.approx(((X - X.mean(axis=0)) ** 2).sum())


def test_float32_reaches_the_same_inertia(rng):
    X = blobs().astype(np.float32)
    theirs = ScikitKMeans(8, init=X[:8], n_init=1).fit(X)
    ours = KMeans(8, init=X[:8]).fit(X)
    assert ours.cluster_centers_.dtype == np.float32
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-5)


@pytest.fixture(scope="module")
def reanalysis():
    """Months of ERA-Interim: z, u and v on three levels as nine features, standard scaled."""
    data = xr.open_zarr(Path(__file__).parent / "data" / "eraint_cut.zarr", chunks=None, consolidated=False)
    rows = data[["z", "u", "v"]].to_array("variable").stack(row=("month", "latitude", "longitude"))
    rows = rows.transpose("row", "variable", "level").to_numpy()
    return StandardScaler().fit_transform(rows.reshape(len(rows), -1).astype(np.float64))


@pytest.mark.parametrize("n_chunks", [1, 2, 5, 18, 60])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_trajectory_on_a_reanalysis_is_that_of_scikit_learn(reanalysis, n_chunks, weighted):
    X = reanalysis
    weight = np.random.default_rng(2).random(len(X)) if weighted else None
    init = X[:: len(X) // 8][:8]
    theirs = ScikitKMeans(8, init=init, n_init=1).fit(X, sample_weight=weight)
    lazy = da.from_array(X, chunks=(-(-len(X) // n_chunks), 9))
    assert_parity(KMeans(8, init=init, algorithm="lloyd").fit(lazy, sample_weight=weight), theirs)


@pytest.mark.parametrize("chunks", [700, 64])
@pytest.mark.parametrize("weighted", [False, True])
def test_an_empty_cluster_moves_to_the_farthest_row_as_in_scikit_learn(chunks, weighted):
    X = blobs()
    weight = np.random.default_rng(2).random(len(X)) if weighted else None
    init = X[:5].copy()
    init[3] = 1e3
    theirs = ScikitKMeans(5, init=init, n_init=1).fit(X, sample_weight=weight)
    ours = KMeans(5, init=init, algorithm="lloyd").fit(da.from_array(X, chunks=(chunks, 5)), sample_weight=weight)
    assert_parity(ours, theirs)


@pytest.mark.parametrize("chunks", [700, 64])
def test_several_empty_clusters_move_to_the_farthest_rows(chunks):
    X = blobs()
    init = X[:6].copy()
    init[[1, 2, 5]] = [[1e3], [2e3], [3e3]]
    theirs = ScikitKMeans(6, init=init, n_init=1, max_iter=1).fit(X)
    ours = KMeans(6, init=init, max_iter=1).fit(da.from_array(X, chunks=(chunks, 5)))

    def in_order(centers):
        return centers[np.lexsort(centers.T)]

    np.testing.assert_allclose(in_order(ours.cluster_centers_), in_order(theirs.cluster_centers_))
    assert ours.inertia_ == pytest.approx(theirs.inertia_)
    assert (ours.counts_ > 0).all()


def test_the_empty_cluster_moves_to_the_one_farthest_row():
    X = np.array([[0.0], [1.0], [2.0], [30.0]])
    ours = KMeans(3, init=np.array([[1.0], [100.0], [200.0]]), max_iter=1).fit(X)
    assert ours.cluster_centers_.ravel().tolist() == [1.5, 30.0, 0.0]  # row 0 is as far as row 2, and comes first


def test_an_empty_cluster_stays_away_from_rows_without_weight():
    X = np.array([[0.0], [1.0], [5.0], [1000.0]])
    ours = KMeans(2, init=np.array([[0.0], [9e3]]), max_iter=1).fit(X, sample_weight=[1, 1, 1, 0])
    assert sorted(ours.cluster_centers_.ravel()) == [0.5, 5.0]


def test_clusters_stay_where_all_rows_lie_on_centers():
    with pytest.warns(match=r"Number of distinct clusters \(1\) found smaller than n_clusters \(3\)"):
        ours = KMeans(3, init=np.array([[1.0], [2.0], [3.0]])).fit(np.ones((10, 1)))
    assert ours.inertia_ == 0.0
    assert ours.cluster_centers_.ravel().tolist() == [1.0, 2.0, 3.0]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    k=st.integers(1, 5),
    chunks=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    dtype=st.sampled_from([np.float32, np.float64]),
    weighted=st.booleans(),
    seed=st.integers(0, 5),
)
def test_any_chunks_dtype_and_weights_give_the_naive_answer(k, chunks, dtype, weighted, seed):
    rng = np.random.default_rng(seed)
    chunks = (*chunks, k + 10)
    # Eighths of integers: sums are exact in any order, so that ties are ties everywhere.
    X = rng.integers(-40, 40, size=(sum(chunks), 2)).astype(dtype) / 8
    weight = rng.integers(1, 4, size=len(X)).astype(np.float64) if weighted else None
    init = X[-k:].astype(np.float64) + np.arange(k)[:, None]
    expected = naive.lloyd(X, weight, init)
    lazy = da.from_array(X, chunks=(chunks, 2))
    ours = KMeans(k, init=init, tol=0, algorithm="lloyd").fit(lazy, sample_weight=weight)
    assert ours.inertia_ == pytest.approx(expected.inertia, rel=1e-5)
    if dtype == np.float64:
        np.testing.assert_array_equal(ours.labels_, expected.labels)
        np.testing.assert_allclose(ours.cluster_centers_, expected.centers, rtol=1e-9, atol=1e-9)
        assert ours.n_iter_ == expected.n_iter
    counts = np.ones(len(X)) if weight is None else weight
    assert ours.counts_.sum() == counts.sum()
    assert ours.inertia_per_cluster_.sum() == pytest.approx(ours.inertia_)


@pytest.mark.parametrize(("inertia", "farther"), [(5.9, 2.0), (7.0, 1.0), (9.0, 0.5)])
def test_the_next_look_ahead_goes_as_far_as_the_last_one_gained_what_it_foresaw(inertia, farther):
    model = Model(np.zeros((2, 1)), farther=1.5)
    model.go_ahead(np.ones((2, 1)), to_better=10.0, foreseen=2.0)
    model.go_on(inertia)
    assert model.farther == farther
    model.go_on(inertia)
    assert model.farther == farther, "nothing was ahead"

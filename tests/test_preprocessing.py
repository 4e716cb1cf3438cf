"""Transformers: scikit-learn's numbers, one pass, nothing materialised, centers back in the input's units."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from sklearn import decomposition, preprocessing
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from daskmeans import KMeans
from daskmeans.errors import DataError
from daskmeans.preprocessing import PCA, StandardScaler


@parametrize_with_checks([StandardScaler(), PCA(2)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(name="X")
def correlated(rng):
    return rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 1e4


def lazily(X):
    return da.from_array(X, chunks=((len(X) - 101, 1, 100), X.shape[1]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaling_is_that_of_scikit_learn(X, rng, dtype):
    X, weight = (X - 1e4).astype(dtype), rng.integers(0, 3, len(X))
    expected = preprocessing.StandardScaler().fit(X.astype(float), sample_weight=weight)
    model = StandardScaler().fit(lazily(X), sample_weight=weight)
    np.testing.assert_allclose(model.mean_, expected.mean_, rtol=1e-10)
    np.testing.assert_allclose(model.var_, expected.var_, rtol=1e-10)
    scaled = model.transform(lazily(X))
    assert isinstance(scaled, da.Array)
    assert scaled.dtype == dtype
    np.testing.assert_allclose(scaled, expected.transform(X), atol=1e-5 if dtype == np.float32 else 1e-10)
    np.testing.assert_allclose(model.inverse_transform(model.transform(X)), X, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("n_components", [3, None, 0.8])
def test_components_are_those_of_scikit_learn(X, n_components, whiten):
    expected = decomposition.PCA(n_components, whiten=whiten, svd_solver="full").fit(X)
    model = PCA(n_components, whiten=whiten).fit(lazily(X))
    assert model.n_components_ == expected.n_components_
    np.testing.assert_allclose(model.explained_variance_, expected.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(model.explained_variance_ratio_, expected.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(np.abs(model.transform(lazily(X))), np.abs(expected.transform(X)), atol=1e-6)
    np.testing.assert_allclose(
        model.inverse_transform(model.transform(X)), expected.inverse_transform(expected.transform(X)), rtol=1e-9
    )


def test_weights_equal_repetition(X, rng):
    weight = rng.integers(0, 4, len(X))
    weighted, repeated = PCA(4).fit(lazily(X), sample_weight=weight), PCA(4).fit(X.repeat(weight, axis=0))
    np.testing.assert_allclose(weighted.explained_variance_, repeated.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(weighted.components_, repeated.components_, atol=1e-7)


def test_constant_features_are_only_shifted(rng):
    X = np.column_stack([rng.normal(size=5000), np.full(5000, 0.1), np.full(5000, 1e10 / 3), np.zeros(5000)])
    lazy = da.from_array(X, chunks=(700, 4))
    model = StandardScaler().fit(lazy, sample_weight=rng.random(5000))
    assert model.scale_[1:].tolist() == [1, 1, 1]
    whitened = PCA(whiten=True).fit(lazy).transform(X)
    np.testing.assert_allclose(whitened.std(axis=0), [1, 0, 0, 0], atol=1e-2)


def test_whitening_leaves_alone_what_varies_by_rounding_only(X):
    X = np.column_stack([X - 1e4, 2 * (X[:, :2] - 1e4)])  # of rank 6
    model = PCA(whiten=True).fit(lazily(X))
    np.testing.assert_allclose(model.transform(X).std(axis=0, ddof=1), [1] * 6 + [0] * 2, atol=1e-6)
    np.testing.assert_allclose(PCA(3, whiten=True).fit(1e-20 * X).transform(1e-20 * X).std(axis=0, ddof=1), 1)


def test_weights_that_are_shares_count_as_such(X):
    shares = PCA(2, whiten=True).fit(lazily(X), sample_weight=np.full(len(X), 1 / len(X)))
    expected = PCA(2).fit(X).explained_variance_
    np.testing.assert_allclose(shares.explained_variance_, expected * (len(X) - 1) / len(X), rtol=1e-9)
    np.testing.assert_allclose(shares.transform(X).std(axis=0), 1, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inverses_are_lazy_too_and_keep_the_dtype(X, dtype):
    X = (X - 1e4).astype(dtype)
    for model in (StandardScaler(), PCA(), PCA(whiten=True)):
        back = model.fit(X).inverse_transform(model.transform(lazily(X)))
        assert isinstance(back, da.Array)
        assert back.dtype == back.compute().dtype == model.inverse_transform(model.transform(X)).dtype == dtype
        np.testing.assert_allclose(back, X, rtol=1e-3, atol=1e-3)
        with pytest.raises(DataError, match=r"X has 2 features, but .* is expecting 6"):
            model.inverse_transform(X[:, :2])


def test_data_with_named_dimensions_is_an_array_or_refused(X):
    lazy = xr.DataArray(lazily(X), dims=("row", "feature"))
    assert isinstance(StandardScaler().fit_transform(lazy), da.Array)
    with pytest.raises(DataError, match="Transformers take matrices"):
        PCA().fit(lazy.to_dataset("feature"))


def test_each_takes_one_pass_and_transforms_lazily(X):
    reads = []
    lazy = lazily(X).map_blocks(lambda rows: reads.append(1) or rows, dtype=X.dtype, meta=np.empty((0, 0)))
    for transformer in (StandardScaler(), PCA(2)):
        reads.clear()
        transformer.fit(lazy).transform(lazy)
        assert len(reads) == 3


def test_a_pipeline_on_dask_arrays_is_that_on_numpy(X):
    def pipeline():
        return make_pipeline(StandardScaler(), PCA(3, whiten=True), KMeans(4, random_state=0, tol=0))

    in_memory, lazy = pipeline().fit(X - 1e4), pipeline().fit(lazily(X - 1e4))
    assert isinstance(lazy[-1].labels_, da.Array)
    np.testing.assert_allclose(lazy[-1].inertia_, in_memory[-1].inertia_, rtol=1e-6)
    back = lazy[0].inverse_transform(lazy[1].inverse_transform(lazy[-1].cluster_centers_))
    assert back.shape == (4, 6)


def test_what_cannot_be_is_refused(X):
    with pytest.raises(DataError, match="n_components=7 must be at most the number of features, 6"):
        PCA(7).fit(X)
    with pytest.raises(DataError, match="X has 5 features, but PCA is expecting 6"):
        PCA(2).fit(X).transform(lazily(X[:, :5]))
    X[3, 3] = np.nan
    with pytest.raises(DataError, match="NaN or infinity in 1 of 500 rows, first in row 3"):
        StandardScaler().fit(lazily(X))

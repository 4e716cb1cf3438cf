"""Transformers: scikit-learn's numbers, one pass, nothing materialised, centers back in the input's units."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
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

"""What scikit-learn's users expect beyond its checks: frames, pipelines, searches, routing, pickles."""

from __future__ import annotations

import pickle

import dask.array as da
import dask.dataframe as dd
import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import xarray as xr
import zarr
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler as ScikitScaler

from daskmeans import KMeans
from daskmeans.errors import DataError
from daskmeans.preprocessing import PCA, StandardScaler

X, Y = make_blobs(300, centers=[[0, 0, 0], [9, 0, 0], [0, 9, 9]], random_state=0)
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])


@pytest.mark.parametrize("frame", [FRAME, pl.from_pandas(FRAME)], ids=["pandas", "polars"])
def test_frames_give_names_and_the_same_clusters(frame):
    model = KMeans(3, random_state=0).fit(frame)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(model.labels_, KMeans(3, random_state=0).fit(X).labels_)
    np.testing.assert_array_equal(model.predict(frame), model.labels_)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["c", "b", "a"]])


def test_dask_frames_stay_lazy():
    lazy = dd.from_pandas(FRAME, npartitions=4)
    model = KMeans(3, random_state=0).fit(lazy, sample_weight=lazy["a"] * 0 + 2)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert isinstance(model.labels_, da.Array)
    assert adjusted_rand_score(model.labels_.compute(), Y) == 1
    assert model.counts_.sum() == 2 * len(X)
    assert isinstance(model.transform(lazy), da.Array)
    np.testing.assert_allclose(model.score(lazy), model.score(FRAME))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(lazy[["c", "b", "a"]])
    with pytest.raises(DataError, match="Column 'name' of the DataFrame has dtype"):
        KMeans(3).fit(dd.from_pandas(FRAME.assign(name="x"), npartitions=2))


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_arrays_without_names_after_a_fit_with_names_are_warned_of(kind):
    arrays = {"numpy": X, "dask": da.from_array(X, chunks=(100, 3)), "zarr": zarr.array(X, chunks=(100, 3))}
    lazy = dd.from_pandas(FRAME, npartitions=4)
    for frame in (FRAME, lazy):
        model, scaler = KMeans(3, random_state=0).fit(frame), StandardScaler().fit(frame)
        for method in (model.predict, model.transform, model.score, scaler.transform):
            with pytest.warns(UserWarning, match="X does not have valid feature names, but .* was fitted with"):
                method(arrays[kind])


@pytest.mark.parametrize("dtype", ["Float64", "Float32", "float64[pyarrow]", "Int64"])
def test_nullable_and_arrow_columns_of_dask_frames(dtype):
    frame = FRAME.round().astype(dtype)
    lazy = dd.from_pandas(frame, npartitions=3)
    weight = lazy["a"].abs()
    expected = KMeans(3, random_state=0).fit(FRAME.round(), sample_weight=FRAME["a"].round().abs())
    model = KMeans(3, random_state=0).fit(lazy, sample_weight=weight)
    assert model.inertia_ == pytest.approx(expected.inertia_, rel=1e-6)
    assert model.cluster_centers_.dtype == ("f4" if dtype == "Float32" else "f8")
    frame.iloc[7, 1] = pd.NA
    with pytest.raises(DataError, match="NaN or infinity in 1 of 300 rows"):
        KMeans(3).fit(dd.from_pandas(frame, npartitions=3))


def test_another_fit_forgets_names():
    grid = xr.DataArray(X, dims=("row", "feature"))
    for first in (FRAME, dd.from_pandas(FRAME, npartitions=2), grid):
        for second in (X[:, :2], da.from_array(X[:, :2], chunks=(100, 2))):
            model = KMeans(3, random_state=0).fit(first).fit(second)
            assert not {"feature_names_in_", "centers_", "n_dropped_"} & vars(model).keys()
            assert model.n_features_in_ == 2


def test_sparse_input_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"dense data is required. Use '.toarray\(\)'"):
        KMeans(3).fit(csr_matrix(X))
    lazy = da.from_array(X, chunks=(100, 3)).map_blocks(csr_matrix, meta=csr_matrix((0, 0)))
    with pytest.raises(TypeError, match=r"Use X.map_blocks\(lambda rows: rows.toarray\(\)"):
        KMeans(3).fit(lazy)


def test_output_names():
    model = KMeans(3, random_state=0).set_output(transform="pandas").fit(FRAME)
    assert model.get_feature_names_out().tolist() == ["kmeans0", "kmeans1", "kmeans2"]
    table = model.transform(FRAME)
    assert table.columns.tolist() == ["kmeans0", "kmeans1", "kmeans2"]
    assert isinstance(model.set_output(transform="polars").transform(FRAME), pl.DataFrame)
    assert "KMeans" in model._repr_html_()


@pytest.mark.parametrize("make", [KMeans, StandardScaler, PCA])
def test_what_is_lazy_stays_so_whatever_container_was_asked_for(make):
    lazy = da.from_array(X, chunks=(100, 3))
    for data in (lazy, dd.from_pandas(FRAME, npartitions=2)):
        model = make().set_output(transform="pandas")
        assert isinstance(model.fit_transform(data), da.Array)
        assert isinstance(model.transform(data), da.Array)
        assert isinstance(model.fit(X).transform(X), pd.DataFrame)
        assert isinstance(make().set_output(transform="polars").fit_transform(FRAME), pl.DataFrame)
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(make().fit(lazy).transform(lazy), da.Array)
    if make is KMeans:
        grid = xr.DataArray(X.reshape(20, 15, 3), dims=("lat", "lon", "feature"))
        model = KMeans(3, random_state=0).set_output(transform="pandas").fit(grid, sample_dims=["lat", "lon"])
        assert model.transform(grid).dims == ("lat", "lon", "cluster")


def test_weights_are_routed_through_pipelines():
    weight = np.arange(1.0, len(X) + 1)
    with sklearn.config_context(enable_metadata_routing=True):
        model = KMeans(3, random_state=0).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(ScikitScaler().set_fit_request(sample_weight=False), model)
        pipeline.fit(X, sample_weight=weight)
    assert pipeline[-1].counts_.sum() == pytest.approx(weight.sum())


@pytest.mark.parametrize("copy", [clone, lambda m: pickle.loads(pickle.dumps(m))], ids=["clone", "pickle"])
def test_copies_fit_to_the_same_bits(copy):
    pipeline = make_pipeline(ScikitScaler(), KMeans(3, random_state=0))
    expected = pipeline.fit(X)[-1].cluster_centers_
    np.testing.assert_array_equal(copy(pipeline).fit(X)[-1].cluster_centers_, expected)


def test_joblib_runs_fits_side_by_side(tmp_path):
    fits = joblib.Parallel(n_jobs=2, prefer="threads")(
        joblib.delayed(KMeans(3, random_state=seed).fit)(X) for seed in range(3)
    )
    assert np.ptp([model.inertia_ for model in fits]) < 1e-9 * fits[0].inertia_
    joblib.dump(fits[0], tmp_path / "model")
    np.testing.assert_array_equal(joblib.load(tmp_path / "model").predict(X), fits[0].labels_)


def test_a_grid_search_takes_the_better_of_scores():
    # The score is minus the inertia, so that more clusters never look worse, and one cluster looks worst.
    search = GridSearchCV(KMeans(random_state=0), {"n_clusters": [1, 2, 3]}, cv=3).fit(X)
    assert search.best_params_ == {"n_clusters": 3}
    assert search.best_score_ < 0

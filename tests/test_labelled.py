"""Data with named dimensions in, maps of labels and centers with the same names out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from grids import CountingStore
from sklearn.cluster import KMeans as Reference
from zarr.storage import MemoryStore

import daskmeans
from daskmeans import KMeans
from daskmeans.errors import DataError
from daskmeans.memory import Budget

ERA = Path(__file__).parent / "data" / "eraint_cut.zarr"
SAMPLE_DIMS = ["month", "latitude", "longitude"]
WORDS = {"variables": ["z", "u", "v"], "sample_dims": SAMPLE_DIMS, "feature_dims": ["level"]}


def era(**options):
    return xr.open_zarr(ERA, consolidated=False, **options)[["z", "u", "v"]]


def by_hand():
    """Stack the cut as a person would, and weigh it by area."""
    cut = era().load()
    rows = [cut[name].transpose(..., "level").values.reshape(-1, cut.sizes["level"]) for name in ("z", "u", "v")]
    weight = np.cos(np.deg2rad(cut["latitude"])).broadcast_like(cut["z"].isel(level=0)).transpose(*SAMPLE_DIMS)
    return np.concatenate(rows, axis=1).astype(float), weight.values.reshape(-1)


@pytest.fixture(scope="module", name="start")
def four_rows():
    return by_hand()[0][[0, 1500, 3000, 4500]]


def test_a_store_with_weights_gives_scikit_learns_labels_as_a_map(start):
    X, weight = by_hand()
    reference = Reference(4, init=start, n_init=1, tol=0).fit(X, sample_weight=weight)
    opened = daskmeans.open_samples(ERA, weights="cos_latitude", **WORDS)
    model = KMeans(4, init=start, tol=0, memory_budget="1MiB").fit(opened)
    labels = model.labels_
    assert labels.dims == tuple(SAMPLE_DIMS)
    assert labels.chunks == era()["u"].isel(level=0).chunks
    for dim in labels.dims:
        assert labels[dim].equals(era()[dim])
    np.testing.assert_array_equal(labels.values.reshape(-1), reference.labels_)
    assert model.score(opened) == pytest.approx(-reference.inertia_)
    profile = model.centers_.sel(cluster=2)["u"]
    assert profile.dims == ("level",)
    np.testing.assert_allclose(profile.sel(level=500), reference.cluster_centers_[2, 4], rtol=1e-5)


@pytest.mark.parametrize("form", ["dask", "lazy", "memory", "array"])
def test_xarray_objects_give_what_the_store_gives(start, form):
    winds = era(chunks={} if form == "dask" else None)
    names = ["z"] if form == "array" else ["z", "u", "v"]
    expected = KMeans(4, init=start[:, : 3 * len(names)]).fit(
        daskmeans.open_samples(ERA, weights="cos_latitude", **{**WORDS, "variables": names})
    )
    X = winds["z"] if form == "array" else winds.load() if form == "memory" else winds
    weight = np.cos(np.deg2rad(winds["latitude"].astype(float))).clip(min=0) if form == "dask" else "cos_latitude"
    model = KMeans(4, init=start[:, : 3 * len(names)]).fit(X, sample_dims=SAMPLE_DIMS, sample_weight=weight)
    xr.testing.assert_equal(model.labels_.load(), expected.labels_.load())
    xr.testing.assert_equal(model.centers_, expected.centers_)
    assert (model.predict(X).chunks is None) == (form == "memory" or (form == "array" and X._in_memory))
    xr.testing.assert_equal(model.predict(X).load(), expected.labels_)


def test_fit_predict_and_transform_speak_of_the_dimensions_too(start):
    labels = KMeans(4, init=start).fit_predict(era(), sample_dims=SAMPLE_DIMS)
    model = KMeans(4, init=start).fit(era(), sample_dims=SAMPLE_DIMS)
    distances = model.transform(era())
    assert distances.dims == (*SAMPLE_DIMS, "cluster")
    np.testing.assert_array_equal(distances.argmin("cluster"), labels)


def test_samples_with_missing_values_are_minus_one_and_counted(start):
    cut = era().load().drop_encoding()
    cut["u"][1, 2, 3, 4] = np.nan
    cut["v"][0, 0, 5, 6] = np.inf
    opened = daskmeans.open_samples(cut, missing="drop", **WORDS)
    assert "dropped: not counted yet" in repr(opened)
    model = KMeans(4, init=start).fit(opened)
    gone = ~np.isfinite(cut[["u", "v"]].to_array()).all(["variable", "level"]).transpose(*SAMPLE_DIMS)
    np.testing.assert_array_equal(model.labels_ == -1, gone)
    assert "dropped: 2" in repr(opened)
    assert model.n_dropped_ == 2
    assert np.isnan(model.transform(opened).values[gone.values]).all()
    with pytest.raises(DataError, match=r"NaN or infinity in 1 rows of a block, first in month=.*missing='drop'"):
        model.predict(cut[["z", "u", "v"]].isel(month=[1])).compute()


def test_what_is_opened_describes_itself():
    text = repr(daskmeans.open_samples(ERA, weights="cos_latitude", **WORDS))
    for part in ("n_samples: 6,560 (month: 2", "n_features: 9 (z, u, v)", "blocks: 1, of 230.6 KiB at most"):
        assert part in text
    assert "weights: cosine of latitude" in text


def test_other_features_are_refused_by_name(start, tmp_path):
    model = KMeans(4, init=start).fit(era(), sample_dims=SAMPLE_DIMS)
    with pytest.raises(DataError, match=r"Feature 0 of X is v\[level=200\], but it was z\[level=200\]"):
        model.predict(era()[["v", "u", "z"]])
    with pytest.raises(DataError, match="X has 6 features, but KMeans is expecting 9"):
        model.predict(era()[["u", "v"]])
    with pytest.raises(DataError, match="sample_dims is for xarray objects"):
        KMeans(2).fit(np.ones((5, 2)), sample_dims=["x"])
    with pytest.raises(DataError, match="was opened already"):
        KMeans(2).fit(daskmeans.open_samples(ERA, **WORDS), sample_weight=np.ones(6560))
    model.save(tmp_path / "model")
    xr.testing.assert_equal(daskmeans.load(tmp_path / "model").predict(era()), model.labels_)


def counted_store(shape, chunks, dims):
    store = CountingStore(MemoryStore())
    array = zarr.create_group(store).create_array("t", shape=shape, chunks=chunks, dtype="f4", dimension_names=dims)
    array[...] = np.random.default_rng(0).normal(size=shape)
    store.reads.clear()
    return store


def chunk_reads(store):
    """Return how often chunks were read: one number where all were read as often."""
    return {n for key, n in store.reads.items() if key.startswith("t/c/")}


@pytest.mark.parametrize(
    ("shape", "chunks", "sample_dims", "feature_dims"),
    [
        ((40, 250, 400), (1, 250, 400), ["time"], ["y", "x"]),  # each map is a sample of 100,000 features
        ((40, 250, 400), (4, 125, 200), ["time"], ["y", "x"]),  # whose chunks cut it
        ((400, 100, 100), (50, 20, 20), ["y", "x"], ["time"]),  # each pixel is a sample, a time series
        ((400, 100, 100), (1, 100, 100), ["y", "x"], ["time"]),  # each chunk holds one of its features
    ],
)
def test_maps_and_time_series_as_samples_are_read_once_a_pass_within_the_budget(
    shape, chunks, sample_dims, feature_dims
):
    store = counted_store(shape, chunks, ["time", "y", "x"])
    opened = daskmeans.open_samples(store, sample_dims=sample_dims, feature_dims=feature_dims)
    budget = 12_000_000 if chunks[1:] != shape[1:] or sample_dims == ["time"] else 200_000_000
    init = np.random.default_rng(1).normal(size=(2, opened.samples.n_features))
    model = KMeans(2, init=init, max_iter=2, tol=0, algorithm="lloyd", memory_budget=budget).fit(opened)
    n_reads = 1 if budget > 10**8 else model.n_passes_
    assert chunk_reads(store) == {n_reads}
    blocks = opened.within(daskmeans.estimator.resolve_budget(budget)).samples
    assert 2 * blocks.block_bytes <= budget
    labels = model.labels_.compute()
    assert chunk_reads(store) == {n_reads + 1}
    assert labels.sizes == {dim: shape[["time", "y", "x"].index(dim)] for dim in sample_dims}


@pytest.mark.parametrize("chunks", [(2, 3, 8, 10), (60, 3, 1, 2), (2, 3, 4, 5), (6, 1, 4, 10)])
def test_four_dimensions_are_read_once_a_pass_however_they_are_chunked(chunks):
    """Chunked along time, along space, along both, and along features: each chunk is read once in each pass."""
    store = counted_store((60, 3, 8, 10), chunks, ["time", "level", "y", "x"])
    opened = daskmeans.open_samples(store, sample_dims=["time", "y", "x"], feature_dims=["level"])
    model = KMeans(2, init=np.eye(2, 3), max_iter=3, tol=0, algorithm="lloyd", memory_budget=40_000).fit(opened)
    assert opened.within(Budget(40_000)).samples.grid.n_blocks > 1
    assert model.n_passes_ > 1
    assert chunk_reads(store) == {model.n_passes_}
    model.labels_.compute()
    assert chunk_reads(store) == {model.n_passes_ + 1}


def test_a_batch_is_read_once_and_its_labels_keep_their_places():
    store = counted_store((40, 50, 3), (10, 25, 3), ("y", "x", "band"))
    batch = daskmeans.open_samples(store, variables=["t"], sample_dims=["y", "x"])
    model = daskmeans.KMeans(3, random_state=0).partial_fit(batch)
    assert chunk_reads(store) == {1}
    first = model.cluster_centers_.astype(np.float64)
    model.partial_fit(batch)
    xr.testing.assert_equal(model.labels_, daskmeans.labelled.label_samples(batch, first).compute())

"""Any stored grid becomes the rows that stacking it by hand gives, and each chunk is read once."""

from __future__ import annotations

import datetime
import math
import pickle
import runpy
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from era import CUT
from grids import ERA_DIMS, CountingStore, all_rows, all_weights, pickle_trip, small_map, stack_by_hand
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from daskmeans.blocking import RepeatedReadsWarning
from daskmeans.errors import ConfigError
from daskmeans.memory import (
    KIB,
    Budget,
    chunk_edges,
    clip_edges,
    common_edges,
    plan_bounds,
    plan_bounds_at,
    reads_of_each_chunk,
)
from daskmeans.stores import open_samples, samples_from_zarr

# -- grids, drawn at random ----------------------------------------------------------------------


@st.composite
def stored_grids(draw):
    """Draw shapes, chunks, the order of dimensions, what is a sample dimension, and a selection."""
    dims = [f"d{i}" for i in range(draw(st.integers(2, 5)))]
    sizes = {dim: draw(st.integers(1, 9 if len(dims) < 4 else 5)) for dim in dims}
    n_samples_dims = draw(st.integers(1, len(dims)))
    order = draw(st.permutations(dims))
    sample_dims, feature_dims = order[:n_samples_dims], order[n_samples_dims:]
    same_chunks = draw(st.booleans())
    chunks = {}
    variables = ["a", "b"][: draw(st.integers(1, 2))]
    for name in variables:
        drawn = {dim: draw(st.integers(1, sizes[dim])) for dim in dims}
        chunks[name] = chunks["a"] if same_chunks and chunks else drawn
    select = {}
    if draw(st.booleans()):
        dim = draw(st.sampled_from(dims))
        ends = sorted([draw(st.integers(0, sizes[dim] - 1)), draw(st.integers(0, sizes[dim] - 1))])
        select = {dim: ends}
    dtype = draw(st.sampled_from(["float32", "float64", "int16"]))
    budget = Budget(draw(st.sampled_from([16 * KIB, 64 * KIB, 10**9])))
    return dims, sizes, sample_dims, feature_dims, chunks, select, dtype, budget


@settings(max_examples=60, deadline=None)
@given(stored_grids())
def test_rows_are_those_of_a_global_stack_and_each_chunk_is_read_once(drawn):
    dims, sizes, sample_dims, feature_dims, chunks, select, dtype, budget = drawn
    store = CountingStore(MemoryStore())
    group = zarr.create_group(store)
    shape = [sizes[dim] for dim in dims]
    for i, (name, lengths) in enumerate(chunks.items()):
        values = (np.arange(math.prod(shape)).reshape(shape) + 10_000 * i).astype(dtype)
        array = group.create_array(
            name, shape=shape, chunks=[lengths[d] for d in dims], dtype=dtype, dimension_names=dims
        )
        array[...] = values
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            opened = open_samples(
                group,
                variables=list(chunks),
                sample_dims=sample_dims,
                feature_dims=feature_dims,
                select=select,
                budget=budget,
            )
        except ConfigError:
            reject()
    repeated = any(issubclass(warning.category, RepeatedReadsWarning) for warning in caught)
    store.reads.clear()
    rows = all_rows(opened.samples)
    cut = {dim: slice(ends[0], ends[1] + 1) for dim, ends in select.items()}
    stacked = xr.open_zarr(group.store, consolidated=False).isel(cut)
    assert repeated or set(store.chunk_reads().values()) == {1}
    assert rows.dtype == ("float32" if dtype == "float32" else "float64")
    np.testing.assert_array_equal(rows, stack_by_hand(stacked, list(chunks), sample_dims, feature_dims))


@given(
    st.integers(1, 60),
    st.integers(1, 20),
    st.integers(0, 59),
    st.integers(1, 60),
    st.integers(1, 80),
    st.integers(1, 9),
)
def test_blocks_end_where_chunks_do_and_are_no_larger_than_allowed(size, chunk, start, length, room, other):
    start, stop = min(start, size - 1), min(min(start, size - 1) + length, size)
    edges = clip_edges(chunk_edges(size, chunk), start, stop)
    assert list(edges) == [edge - start for edge in range(chunk, size, chunk) if start < edge < stop]
    (bound,) = plan_bounds_at([stop - start], [edges], 1, room)
    assert bound[0] == 0
    assert bound[-1] == stop - start
    assert set(bound[1:-1]) <= set(edges)
    assert max(np.diff(bound)) <= max(room, chunk)
    assert reads_of_each_chunk([bound], [edges], [stop - start]) == 1
    shared = common_edges([chunk_edges(size, chunk), chunk_edges(size, other)], size)
    assert list(shared) == sorted(set(range(chunk, size, chunk)) & set(range(other, size, other)))


def test_irregular_chunks_share_the_edges_that_all_have():
    assert common_edges([(3, 6, 8), range(3, 10, 3)], 10) == (3, 6)
    assert plan_bounds_at((10,), [(3, 6, 8)], 1, 5) == ((0, 3, 8, 10),)
    assert plan_bounds((7, 4), (2, 4), 1, 8) == ((0, 2, 4, 6, 7), (0, 4))
    assert reads_of_each_chunk([(0, 5, 10)], [(3, 6, 8)], [10]) == 1.25


# -- ERA-Interim ---------------------------------------------------------------------------------


def test_real_winds_become_rows_with_names_coordinates_and_weights():
    opened = open_samples(CUT, variables=["z", "u"], weights="cos_latitude", **ERA_DIMS)
    winds = xr.open_dataset(CUT, engine="zarr", consolidated=False)
    np.testing.assert_array_equal(
        all_rows(opened.samples), stack_by_hand(winds, ["z", "u"], ERA_DIMS["sample_dims"], ["level"])
    )
    assert opened.feature_names[2:4] == ("z[level=850]", "u[level=200]")
    assert opened.label_chunks == (1, 21, 40)
    assert opened.labels_aligned
    assert opened.samples.dtype == np.float32
    xr.testing.assert_identical(opened.coords["latitude"], winds["latitude"])
    cosine = np.cos(np.deg2rad(winds["latitude"].astype("float64"))).broadcast_like(winds["u"].isel(level=0))
    cosine = cosine.transpose(*ERA_DIMS["sample_dims"]).values.reshape(-1)
    np.testing.assert_allclose(all_weights(opened.samples), cosine, rtol=1e-15)
    assert all_weights(opened.samples).min() >= 0
    source = opened.samples.loader.source
    assert source.describe_row(80 + 1) == "month=1, latitude=85.5, longitude=-175.5"
    centers = opened.unstack(np.arange(12.0).reshape(2, 6))
    assert centers["u"].sel(cluster=1, level=500).item() == 10


def test_labels_return_to_their_places_on_the_map():
    opened = open_samples(CUT, variables=["u"], budget=Budget(2**20), **ERA_DIMS)
    labels = np.full(opened.shape, -1.0)
    grid = opened.samples.grid
    assert grid.n_blocks > 1
    for i in range(grid.n_blocks):
        block = opened.samples.loader.load(i)
        labels[grid.region(i)] = block.on_grid(block.X[:, 0], fill=np.nan)
    winds = xr.open_dataset(CUT, engine="zarr", consolidated=False)
    np.testing.assert_array_equal(labels, winds["u"].isel(level=0).values)


def test_selecting_by_coordinates_keeps_named_dimensions_and_reads_only_what_is_needed():
    store = CountingStore(zarr.storage.LocalStore(CUT, read_only=True))
    opened = open_samples(
        zarr.open_group(store, mode="r"),
        variables=["u"],
        select={"month": 7, "latitude": [-45, 45.0], "level": [200, 500]},
        budget=Budget(2**19),
        **ERA_DIMS,
    )
    store.reads.clear()
    winds = xr.open_dataset(CUT, engine="zarr", consolidated=False)
    cut = winds.sel(month=[7], latitude=slice(45, -45), level=slice(200, 500))
    rows = all_rows(opened.samples)
    np.testing.assert_array_equal(rows, stack_by_hand(cut, ["u"], ERA_DIMS["sample_dims"], ["level"]))
    assert opened.shape == (1, 21, 80)
    assert opened.coords["month"].values.tolist() == [7]
    assert set(store.chunk_reads().values()) == {1}
    assert {key.split("/")[2] for key in store.chunk_reads()} == {"1"}


def test_a_dimension_with_one_value_that_is_named_nowhere_is_dropped():
    opened = open_samples(
        CUT, variables=["u"], sample_dims=["latitude", "longitude"], select={"month": 1, "level": 500}
    )
    assert opened.feature_names == ("u",)
    assert opened.shape == (41, 80)
    assert int(opened.coords["month"]) == 1


def test_blocks_that_start_inside_a_chunk_of_labels_are_not_called_aligned():
    def aligned(select):
        return open_samples(CUT, variables=["u"], select=select, budget=Budget(2**19), **ERA_DIMS).labels_aligned

    assert aligned({"latitude": [90, 0]})
    assert not aligned({"latitude": [85.5, -45]})


def test_labels_of_very_many_chunks_are_written_in_larger_ones():
    array = zarr.create_array(MemoryStore(), shape=(20_001, 2), chunks=(1, 2), dtype="float32")
    opened = open_samples(array, budget=Budget(16 * 32 * 1000))
    assert opened.label_chunks == (1000,)
    assert opened.labels_aligned


# -- formats -------------------------------------------------------------------------------------


ENCODINGS = {
    "v3": {},
    "v3 sharded": {"a": {"chunks": (1, 2, 3), "shards": (3, 4, 3)}},
    "v3 packed": {
        "a": {"dtype": "int16", "scale_factor": 0.5, "add_offset": 10.0, "_FillValue": -1, "chunks": (2, 3, 3)}
    },
    "v2": {"a": {"chunks": (4, 3, 2)}},
    "v2 packed": {"a": {"dtype": "uint8", "scale_factor": 1.0, "_FillValue": 255, "chunks": (4, 3, 2)}},
}


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("consolidated", [False, True])
def test_every_zarr_format_gives_the_rows_of_the_plain_copy(tmp_path, kind, consolidated):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        small_map().to_zarr(
            tmp_path / "m.zarr", zarr_format=int(kind[1]), consolidated=consolidated, encoding=ENCODINGS[kind]
        )
    opened = open_samples(
        tmp_path / "m.zarr", variables=["a", "b"], sample_dims=["x", "y"], feature_dims=["band"], missing="drop"
    )
    rows = all_rows(opened.samples)
    expected = stack_by_hand(small_map(), ["a", "b"], ["x", "y"], ["band"])
    np.testing.assert_array_equal(rows, expected[np.isfinite(expected).all(axis=1)])
    assert opened.feature_names == ("a[band=0]", "a[band=1]", "a[band=2]", "b")
    assert set(opened.coords) == {"x", "y", "area"}


def test_a_block_holds_whole_shards_where_they_fit():
    store = CountingStore(MemoryStore())
    array = zarr.create_array(store, shape=(64, 4), chunks=(2, 4), shards=(16, 4), dtype="float64")
    values = np.arange(256.0).reshape(64, 4)
    array[...] = values
    for total, edge in ((16 * 2000, 32), (16 * 600, 10)):
        samples = samples_from_zarr(array, None, Budget(total))
        assert samples.grid.bounds[0][1] == edge
        store.reads.clear()
        np.testing.assert_array_equal(all_rows(samples), values)
        assert edge == 10 or set(store.chunk_reads().values()) == {1}


def test_chunks_that_are_absent_hold_the_fill_value(tmp_path):
    array = zarr.create_array(tmp_path / "x.zarr", shape=(6, 2), chunks=(2, 2), dtype="float32", fill_value=np.nan)
    array[2:4] = 1
    samples = open_samples(tmp_path / "x.zarr", missing="drop").samples
    np.testing.assert_array_equal(all_rows(samples), np.ones((2, 2)))
    assert samples.loader.load(0).row_ids().tolist() == [2, 3]


def test_arrays_without_dimension_names_are_samples_by_features(tmp_path):
    X = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    for zarr_format in (2, 3):
        group = zarr.create_group(tmp_path / f"{zarr_format}.zarr", zarr_format=zarr_format)
        for name, values in (("X", X), ("w", np.arange(50.0)), ("other", np.ones((2, 2)))):
            group.create_array(name, data=values, chunks=(7,) if values.ndim == 1 else (7, 2))
        opened = open_samples(group.store.root, array="X", weights="w", budget=Budget(16 * 500))
        assert opened.sample_dims == ("sample",)
        assert opened.feature_names == ("0", "1", "2")
        np.testing.assert_array_equal(all_rows(opened.samples), X)
        np.testing.assert_array_equal(all_weights(opened.samples), np.arange(50.0))
        assert opened.samples.grid.bounds[0][1] % 7 == 0


def test_numpy_files_are_memory_mapped_and_not_copied(tmp_path):
    X = np.random.default_rng(0).normal(size=(50, 3))
    np.save(tmp_path / "x.npy", X)
    opened = open_samples(tmp_path / "x.npy", budget=Budget(16 * 480))
    np.testing.assert_array_equal(all_rows(opened.samples), X)
    assert opened.samples.grid.n_blocks == 5
    assert opened.labels_aligned
    assert not opened.samples.loader.load(0).X.flags.owndata
    assert len(pickle.dumps(opened.samples.loader)) < 1500


@pytest.mark.parametrize("form", ["memory", "lazy", "dask", "array"])
def test_datasets_that_the_caller_opened(form):
    winds = xr.open_zarr(CUT, consolidated=False, chunks={} if form == "dask" else None)[["u", "v"]]
    expected = stack_by_hand(winds, ["u", "v"], ERA_DIMS["sample_dims"], ["level"])
    if form == "memory":
        winds = winds.load()
    if form == "array":
        winds, expected = winds["u"], expected[:, :3]
    opened = open_samples(winds, budget=Budget(2**20), **ERA_DIMS)
    assert opened.samples.grid.n_blocks > 1
    np.testing.assert_array_equal(all_rows(pickle_trip(opened.samples)), expected)


def test_irregular_dask_chunks_are_not_cut():
    grid = xr.Dataset({"a": (("t", "f"), np.arange(40.0).reshape(20, 2))}).chunk({"t": (3, 7, 1, 9)})
    opened = open_samples(grid, budget=Budget(16 * 400))
    assert opened.samples.grid.bounds == ((0, 10, 20),)
    np.testing.assert_array_equal(all_rows(opened.samples), np.arange(40.0).reshape(20, 2))


def test_times_are_selected_as_dates(tmp_path):
    days = np.datetime64("2006-01-01", "ns") + np.arange(10) * np.timedelta64(1, "D")
    grid = xr.Dataset({"t2m": (("time", "x"), np.arange(40.0).reshape(10, 4))}, coords={"time": days})
    grid.to_zarr(tmp_path / "t.zarr", consolidated=False)
    opened = open_samples(
        tmp_path / "t.zarr",
        variables=["t2m"],
        sample_dims=["time"],
        select={"time": [datetime.date(2006, 1, 3), "2006-01-04"]},
    )
    np.testing.assert_array_equal(all_rows(opened.samples), grid["t2m"].values[2:4])
    assert opened.samples.loader.source.describe_row(1) == "time=2006-01-04"
    one = open_samples(
        tmp_path / "t.zarr", variables=["t2m"], sample_dims=["x"], select={"time": datetime.date(2006, 1, 3)}
    )
    assert one.feature_names == ("t2m",)


def test_weights_of_fewer_dimensions_are_repeated():
    grid = small_map().assign(w=(("x",), np.arange(8)), full=(("x", "y"), np.arange(48.0).reshape(8, 6)))
    dims = {"variables": ["b"], "sample_dims": ["y", "x"]}
    repeated = all_weights(open_samples(grid, weights="w", **dims).samples)
    np.testing.assert_array_equal(repeated.reshape(6, 8), np.tile(np.arange(8.0), (6, 1)))
    full = all_weights(open_samples(grid, weights="full", **dims).samples)
    np.testing.assert_array_equal(full.reshape(6, 8), np.arange(48.0).reshape(8, 6).T)


# -- other processes -----------------------------------------------------------------------------


def test_a_loader_is_small_and_reads_in_another_process():
    loader = open_samples(CUT, variables=["u", "v"], **ERA_DIMS).samples.loader
    assert len(pickle.dumps(loader)) < 1500
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        block = pool.submit(loader.load, 0).result()
    np.testing.assert_array_equal(block.X, loader.load(0).X)


def test_many_threads_may_read_at_once():
    samples = pickle_trip(open_samples(CUT, variables=["u", "v"], budget=Budget(2**20), **ERA_DIMS).samples)
    expected = [samples.loader.load(i).X for i in range(samples.grid.n_blocks)]
    with ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(samples.loader.load, list(range(samples.grid.n_blocks)) * 5))
    for i, block in enumerate(blocks):
        np.testing.assert_array_equal(block.X, expected[i % len(expected)])


def test_a_store_that_was_rewritten_is_opened_afresh(tmp_path):
    for n_features in (2, 3):
        zarr.create_array(tmp_path / "x.zarr", data=np.full((4, n_features), 1.0 * n_features), overwrite=True)
        assert all_rows(open_samples(tmp_path / "x.zarr").samples).tolist() == [[1.0 * n_features] * n_features] * 4


# -- the store of the quickstart -----------------------------------------------------------------


def test_photographs_of_scikit_learn_as_a_store(tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[1] / "scripts" / "make_photo_store.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "photos.zarr")])
    runpy.run_path(str(script), run_name="__main__")
    assert "18.8 MiB" in capsys.readouterr().out
    opened = open_samples(
        tmp_path / "photos.zarr", variables=["pixels"], sample_dims=["image", "y", "x"], feature_dims=["feature"]
    )
    assert opened.samples.n_samples == 2 * 427 * 640
    assert opened.feature_names[3] == "pixels[feature=red_mean]"
    X = opened.samples.loader.load(0).X
    assert X.min() >= 0
    assert X.max() <= 1

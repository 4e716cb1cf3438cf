"""Any stored grid becomes the rows that stacking it by hand gives, and each chunk is read once."""

from __future__ import annotations

import collections
import datetime
import math
import pickle
import runpy
import shutil
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore, WrapperStore

from daskmeans.blocking import RepeatedReadsWarning
from daskmeans.errors import ConfigError, DataError
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

ERA = Path(__file__).parent / "data" / "eraint_cut.zarr"
ERA_DIMS = {"sample_dims": ["month", "latitude", "longitude"], "feature_dims": ["level"]}


class CountingStore(WrapperStore):
    """Counts how often each key is read."""

    def __init__(self, store):
        super().__init__(store)
        self.reads = collections.Counter()

    def _with_store(self, store):
        same = type(self)(store)
        same.reads = self.reads
        return same

    async def get(self, key, prototype, byte_range=None):
        self.reads[key] += 1
        return await super().get(key, prototype, byte_range)

    def chunk_reads(self):
        return {key: n for key, n in self.reads.items() if not key.endswith((".json", ".zarray", ".zgroup", ".zattrs"))}


def all_rows(samples):
    """Read every block, and put the rows where their ids say."""
    blocks = [samples.loader.load(i) for i in range(samples.grid.n_blocks)]
    ids = np.concatenate([block.row_ids() for block in blocks])
    rows = np.concatenate([block.X for block in blocks])
    return rows[np.argsort(ids)]


def all_weights(samples):
    blocks = [samples.loader.load(i) for i in range(samples.grid.n_blocks)]
    return np.concatenate([b.weight for b in blocks])[np.argsort(np.concatenate([b.row_ids() for b in blocks]))]


def stack_by_hand(dataset, names, sample_dims, feature_dims):
    """Stack as a person would: globally, with xarray."""
    columns = []
    for name in names:
        inner = [dim for dim in feature_dims if dim in dataset[name].dims]
        samples = dataset[name].stack(sample_=sample_dims)
        flat = samples.stack(feature_=inner) if inner else samples.expand_dims("feature_")
        columns.append(flat.transpose("sample_", "feature_").values)
    return np.concatenate(columns, axis=1)


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
    opened = open_samples(ERA, variables=["z", "u"], weights="cos_latitude", **ERA_DIMS)
    winds = xr.open_dataset(ERA, engine="zarr", consolidated=False)
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
    opened = open_samples(ERA, variables=["u"], budget=Budget(2**20), **ERA_DIMS)
    labels = np.full(opened.shape, -1.0)
    grid = opened.samples.grid
    assert grid.n_blocks > 1
    for i in range(grid.n_blocks):
        block = opened.samples.loader.load(i)
        labels[grid.region(i)] = block.on_grid(block.X[:, 0], fill=np.nan)
    winds = xr.open_dataset(ERA, engine="zarr", consolidated=False)
    np.testing.assert_array_equal(labels, winds["u"].isel(level=0).values)


def test_selecting_by_coordinates_keeps_named_dimensions_and_reads_only_what_is_needed():
    store = CountingStore(zarr.storage.LocalStore(ERA, read_only=True))
    opened = open_samples(
        zarr.open_group(store, mode="r"),
        variables=["u"],
        select={"month": 7, "latitude": [-45, 45.0], "level": [200, 500]},
        budget=Budget(2**19),
        **ERA_DIMS,
    )
    store.reads.clear()
    winds = xr.open_dataset(ERA, engine="zarr", consolidated=False)
    cut = winds.sel(month=[7], latitude=slice(45, -45), level=slice(200, 500))
    rows = all_rows(opened.samples)
    np.testing.assert_array_equal(rows, stack_by_hand(cut, ["u"], ERA_DIMS["sample_dims"], ["level"]))
    assert opened.shape == (1, 21, 80)
    assert opened.coords["month"].values.tolist() == [7]
    assert set(store.chunk_reads().values()) == {1}
    assert {key.split("/")[2] for key in store.chunk_reads()} == {"1"}


def test_a_dimension_with_one_value_that_is_named_nowhere_is_dropped():
    opened = open_samples(
        ERA, variables=["u"], sample_dims=["latitude", "longitude"], select={"month": 1, "level": 500}
    )
    assert opened.feature_names == ("u",)
    assert opened.shape == (41, 80)
    assert int(opened.coords["month"]) == 1


def test_blocks_that_start_inside_a_chunk_of_labels_are_not_called_aligned():
    def aligned(select):
        return open_samples(ERA, variables=["u"], select=select, budget=Budget(2**19), **ERA_DIMS).labels_aligned

    assert aligned({"latitude": [90, 0]})
    assert not aligned({"latitude": [85.5, -45]})


def test_labels_of_very_many_chunks_are_written_in_larger_ones():
    array = zarr.create_array(MemoryStore(), shape=(20_001, 2), chunks=(1, 2), dtype="float32")
    opened = open_samples(array, budget=Budget(16 * 32 * 1000))
    assert opened.label_chunks == (1000,)
    assert opened.labels_aligned


# -- formats -------------------------------------------------------------------------------------


def small_map():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, (6, 8, 3)).astype("float64")
    values[0, 0, 0] = np.nan
    lines = {"y": np.arange(6), "x": np.arange(8.0), "area": (("y", "x"), np.ones((6, 8)))}
    return xr.Dataset({"a": (("y", "x", "band"), values), "b": (("y", "x"), values[:, :, 1])}, coords=lines)


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
    winds = xr.open_zarr(ERA, consolidated=False, chunks={} if form == "dask" else None)[["u", "v"]]
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


def pickle_trip(samples):
    return pickle.loads(pickle.dumps(samples))


def test_a_loader_is_small_and_reads_in_another_process():
    loader = open_samples(ERA, variables=["u", "v"], **ERA_DIMS).samples.loader
    assert len(pickle.dumps(loader)) < 1500
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        block = pool.submit(loader.load, 0).result()
    np.testing.assert_array_equal(block.X, loader.load(0).X)


def test_many_threads_may_read_at_once():
    samples = pickle_trip(open_samples(ERA, variables=["u", "v"], budget=Budget(2**20), **ERA_DIMS).samples)
    expected = [samples.loader.load(i).X for i in range(samples.grid.n_blocks)]
    with ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(samples.loader.load, list(range(samples.grid.n_blocks)) * 5))
    for i, block in enumerate(blocks):
        np.testing.assert_array_equal(block.X, expected[i % len(expected)])


def test_a_store_that_was_rewritten_is_opened_afresh(tmp_path):
    for n_features in (2, 3):
        zarr.create_array(tmp_path / "x.zarr", data=np.full((4, n_features), 1.0 * n_features), overwrite=True)
        assert all_rows(open_samples(tmp_path / "x.zarr").samples).tolist() == [[1.0 * n_features] * n_features] * 4


# -- what can be wrong ---------------------------------------------------------------------------

WRONG = {
    "no variable named": ({"variables": None}, "is a group: name the array .* there is: u, v, z"),
    "misspelt variable": ({"variables": ["uu"]}, "no variable 'uu'; did you mean 'u'"),
    "misspelt array": ({"variables": None, "array": "w"}, "no array 'w'; there is: .*u, v, z"),
    "array and variables": ({"array": "u"}, "both given"),
    "not 2-D": (
        {"variables": None, "array": "u", "sample_dims": None, "feature_dims": None},
        "'u' has 4 dimensions .*level: 3.* 2-D array .* expected, or sample_dims",
    ),
    "misspelt dimension": ({"sample_dims": ["month", "lattitude"]}, "'lattitude'; did you mean 'latitude'"),
    "dimension left over": ({"feature_dims": []}, "dimension level of variable 'u' is left over"),
    "variable named twice": ({"variables": ["u", "v", "u"]}, "variables: 'u' is named twice"),
    "dimension named twice": ({"feature_dims": ["level", "month"]}, "month cannot be both"),
    "variables do not share": ({"variables": ["u", "latitude"]}, "'latitude' has no month, longitude"),
    "select dimension": ({"select": {"mont": 1}}, "no dimension 'mont'; did you mean 'month'"),
    "select value": ({"select": {"month": 2}}, "month has no 2; there is: 1, 7"),
    "select nearest": ({"select": {"latitude": 45.2}}, "the nearest value is 45.0"),
    "select nothing": ({"select": {"latitude": [91, 95]}}, r"nothing in \[91, 95\]; its values run from 90.0 to -90"),
    "select list": ({"select": {"month": [1, 7, 1]}}, "month has no"),
    "misspelt weights": ({"weights": "cos_lat"}, "weights: .*did you mean 'cos_latitude'"),
    "weights over features": ({"weights": "level"}, "'level' varies along level, but weights belong to samples"),
    "small budget": (
        {"budget": Budget(2**15)},
        r"one chunk of rows \(month: 1, latitude: 21, longitude: 40\) has 840 rows .* Set memory_budget to 107\..* KiB",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_words_are_answered_with_what_there_is(case):
    changed, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        open_samples(ERA, **{"variables": ["u"], **ERA_DIMS, **changed})


def test_no_latitude_to_weigh_by():
    with pytest.raises(ConfigError, match=r"needs a coordinate named latitude or lat, .* has: y, x, area"):
        open_samples(small_map(), variables=["b"], sample_dims=["y", "x"], weights="cos_latitude")


def test_places_that_hold_no_store(tmp_path):
    with pytest.raises(
        DataError, match=r"store not found: .*eraint_cut.zar does not exist; did you mean 'eraint_cut.zarr'"
    ):
        open_samples(str(ERA)[:-1])
    with pytest.raises(DataError, match=r"is not a Zarr store: there is no zarr.json"):
        open_samples(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"cannot be read as a .npy file"):
        open_samples(tmp_path / "x.npy")
    shutil.copytree(ERA, tmp_path / "broken.zarr")
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match="cannot be opened as Zarr"):
        open_samples(tmp_path / "broken.zarr")


def test_a_url_that_needs_a_package_names_it(monkeypatch):
    def fail(*args, **kwargs):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(zarr, "open", fail)
    with pytest.raises(ConfigError, match="package that reads this kind of store is missing: Install s3fs"):
        open_samples("s3://bucket/x.zarr")


def test_what_holds_no_numbers_or_no_samples():
    words = xr.Dataset({"w": (("n", "f"), np.array([["a", "b"]]))})
    with pytest.raises(DataError, match="'w' holds <U1, not numbers"):
        open_samples(words)
    with pytest.raises(DataError, match="holds no samples: dimension n has length 0"):
        open_samples(xr.Dataset({"w": (("n", "f"), np.empty((0, 2)))}))


def test_a_bare_array_is_not_taken_for_a_variable(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("X", data=np.ones((4, 2)))
    with pytest.raises(ConfigError, match=r"dimensions of 'X' have no names, .* write array: X"):
        open_samples(tmp_path / "g.zarr", variables=["X"])


@pytest.mark.parametrize("damage", ["truncated", "empty", "junk"])
def test_a_damaged_chunk_is_named(tmp_path, damage):
    shutil.copytree(ERA, tmp_path / "era.zarr")
    chunk = tmp_path / "era.zarr" / "v" / "c" / "1" / "0" / "1" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "junk": b"junk" * 100}[damage])
    samples = open_samples(tmp_path / "era.zarr", variables=["u", "v"], **ERA_DIMS).samples
    with pytest.raises(DataError) as raised:
        all_rows(samples)
    message = str(raised.value)
    assert f"variable 'v' cannot be read: {chunk} (" in message
    assert "month=7, latitude=-4.5 to -90.0, longitude=-180.0 to -4.5 is in it" in message


class Panic(BaseException):
    """As codecs written in Rust raise it: no Exception."""


class PanickingStore(CountingStore):
    broken = "u/c/0/0/1/1"

    async def get(self, key, prototype, byte_range=None):
        if key == self.broken:
            raise Panic("the codec panicked")
        return await super().get(key, prototype, byte_range)


def test_a_chunk_is_named_whatever_its_codec_raises():
    store = PanickingStore(zarr.storage.LocalStore(ERA, read_only=True))
    samples = open_samples(zarr.open_group(store, mode="r"), variables=["u"], **ERA_DIMS).samples
    with pytest.raises(DataError, match=r"u/c/0/0/1/1 \(Panic: the codec panicked\)"):
        all_rows(samples)


def test_a_failure_that_passes_is_told_from_damage():
    store = PanickingStore(zarr.storage.LocalStore(ERA, read_only=True))
    samples = open_samples(zarr.open_group(store, mode="r"), variables=["u"], **ERA_DIMS).samples
    error = samples.loader.source._find_damage((slice(0, 1), slice(0, 2), slice(0, 2)), ["u"], OSError("gone"))
    assert "a passing failure" in str(error)


def test_what_different_chunks_cost_is_said():
    group = zarr.create_group(MemoryStore())
    for name, chunk in (("a", 10), ("b", 7)):
        group.create_array(name, data=np.arange(700.0), chunks=(chunk,), dimension_names=["t"])
    words = {"variables": ["a", "b"], "sample_dims": ["t"]}
    assert open_samples(group, **words, budget=Budget(16 * 70 * 40)).samples.grid.bounds[0][1] == 70
    with pytest.warns(RepeatedReadsWarning, match=r"the chunks of 'b' 1\.\d+ times"):
        opened = open_samples(group, **words, budget=Budget(16 * 20 * 40))
    np.testing.assert_array_equal(all_rows(opened.samples), np.arange(700.0)[:, None].repeat(2, axis=1))


def test_chunks_that_cut_features_are_read_side_by_side_and_again_where_memory_is_short():
    values = np.arange(60.0 * 40).reshape(60, 40)
    store = CountingStore(MemoryStore())
    group = zarr.create_group(store)
    group.create_array("a", data=values, chunks=(30, 5), dimension_names=["time", "x"])
    words = {"variables": ["a"], "sample_dims": ["time"]}
    whole = open_samples(group, **words, budget=Budget(2**20))
    store.reads.clear()
    np.testing.assert_array_equal(all_rows(whole.samples), values)
    assert set(store.chunk_reads().values()) == {1}
    with pytest.warns(RepeatedReadsWarning, match=r"chunks of 'a' cut the features into 8.* 'a' 3\.00 times.*hold all"):
        cut = open_samples(group, **words, budget=Budget(7 * KIB * 8 // 3))
    store.reads.clear()
    np.testing.assert_array_equal(all_rows(cut.samples), values)
    assert set(store.chunk_reads().values()) == {3}
    assert cut.samples.grid.bounds == ((0, 10, 20, 30, 40, 50, 60),)
    assert cut.label_chunks == (10,)
    assert cut.labels_aligned


# -- what data is like ---------------------------------------------------------------------------


def test_all_that_are_no_sample_dims_are_features(tmp_path):
    image = np.arange(60, dtype="u1").reshape(4, 5, 3)
    zarr.create_array(tmp_path / "i.zarr", data=image, chunks=(3, 2, 1), dimension_names=["y", "x", "c"])
    opened = open_samples(tmp_path / "i.zarr", sample_dims=["y", "x"])
    np.testing.assert_array_equal(all_rows(opened.samples), image.reshape(20, 3))


def test_times_that_cannot_be_decoded_stay_numbers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cftime", None)
    monkeypatch.setattr(xr.coding.times, "cftime", None)
    units = {"units": "days since 2000-02-25", "calendar": "360_day"}
    grid = xr.Dataset({"a": (("time", "x"), np.ones((10, 2)))}, coords={"time": ("time", np.arange(10), units)})
    grid.to_zarr(tmp_path / "t.zarr", consolidated=False)
    with pytest.warns(UserWarning, match="times are left as the numbers that are stored: .*360_day"):
        opened = open_samples(tmp_path / "t.zarr", variables=["a"], select={"time": [3, 5]})
    assert opened.coords["time"].values.tolist() == [3, 4, 5]


def test_several_coordinates_may_index_one_dimension():
    index = pd.MultiIndex.from_product([[1, 2], range(5)], names=["p", "q"])
    rows = np.arange(20.0).reshape(10, 2)
    coords = xr.Coordinates.from_pandas_multiindex(index, "t")
    opened = open_samples(xr.Dataset({"a": (("t", "f"), rows)}).assign_coords(coords))
    np.testing.assert_array_equal(all_rows(pickle_trip(opened.samples)), rows)
    assert opened.samples.loader.source.describe_row(6) == "t=(2, 1)"


@pytest.mark.parametrize(("name", "attrs"), [("Lat", {}), ("nav_lat", {"standard_name": "latitude"})])
def test_latitudes_are_known_by_name_or_by_convention(name, attrs):
    latitudes = np.linspace(-80, 80, 6).reshape(2, 3)
    grid = xr.Dataset({"a": (("y", "x"), np.ones((2, 3)))}, coords={name: (("y", "x"), latitudes, attrs)})
    opened = open_samples(grid, sample_dims=["y", "x"], weights="cos_latitude")
    np.testing.assert_allclose(all_weights(opened.samples), np.cos(np.deg2rad(latitudes)).ravel())


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">f4", ">i2", "float16", "int64"])
def test_numbers_of_any_kind(tmp_path, dtype, rng):
    values = rng.integers(0, 2, size=(9, 3)).astype(dtype)
    zarr.create_array(tmp_path / "x.zarr", data=values, zarr_format=2)
    rows = all_rows(open_samples(tmp_path / "x.zarr").samples)
    assert rows.dtype.isnative
    np.testing.assert_array_equal(rows, values.astype(rows.dtype))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_single_values_go_to_the_labels_and_are_no_variables_to_cluster(tmp_path, zarr_format):
    single = {"height": 2.0, "member": 7, "when": np.datetime64("2000-01-01", "ns")}
    grid = xr.Dataset({"a": (("t", "f"), np.ones((6, 2))), "crs": 4326}, coords=single)
    grid.to_zarr(tmp_path / "s.zarr", zarr_format=zarr_format, consolidated=False)
    for store in (tmp_path / "s.zarr", grid):
        opened = open_samples(store, sample_dims=["t"])
        assert opened.feature_names == ("a[f=0]", "a[f=1]")
        assert {name: opened.coords[name].item() for name in ("height", "member")} == {"height": 2.0, "member": 7}
        assert opened.coords["when"] == single["when"]


def test_groups_within_are_offered(tmp_path):
    xr.Dataset({"a": (("t", "f"), np.ones((6, 2)))}).to_zarr(tmp_path / "n.zarr", group="deep/down", consolidated=False)
    for words in ({}, {"variables": ["a"]}):
        with pytest.raises(ConfigError, match=r"n.zarr holds no arrays; open a group in it: .*n.zarr/deep$"):
            open_samples(tmp_path / "n.zarr", **words)
    assert open_samples(tmp_path / "n.zarr" / "deep" / "down").shape == (6,)


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

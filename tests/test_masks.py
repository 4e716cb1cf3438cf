"""What is masked or missing is no sample: it is not looked at, its label is -1, and it is counted by reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from grids import CountingStore
from rich.console import Console
from zarr.storage import MemoryStore

import daskmeans
from daskmeans import KMeans
from daskmeans.errors import ConfigError, DataError
from daskmeans.job.configfile import load_config
from daskmeans.job.predict import predict_job
from daskmeans.job.run import run_job
from daskmeans.stores import open_samples

WORDS = {"variables": ["sst", "ice"], "sample_dims": ["y", "x"]}


@pytest.fixture(name="sea")
def a_sea_with_land(rng):
    """A grid of 12 x 10 with NaN on land, a NaN and an infinity at sea, and masks of samples and of columns."""
    sst, ice = rng.normal(size=(2, 12, 10)).astype("f4")
    land = np.zeros((12, 10), dtype=bool)
    land[:6, :5] = True
    sst[land] = np.nan
    sst[8, 8], ice[9, 9] = np.nan, np.inf
    arrays = {"sst": (("y", "x"), sst), "ice": (("y", "x"), ice), "sea": (("y", "x"), (~land).astype("i1"))}
    arrays |= {"land": (("y", "x"), land), "west": ("x", np.where(np.arange(10) < 5, 1.0, np.nan))}
    return xr.Dataset(arrays)


@pytest.mark.parametrize("mask", ["sea", "~land"])
def test_masked_samples_are_minus_one_and_their_values_do_not_matter(sea, mask):
    opened = open_samples(sea, mask=mask, missing="drop", **WORDS)
    model = KMeans(3, random_state=0).fit(opened)
    gone = sea["land"].values.copy()
    gone[8, 8] = gone[9, 9] = True
    np.testing.assert_array_equal(model.labels_ == -1, gone)
    np.testing.assert_array_equal(model.predict(opened) == -1, gone)
    assert model.n_dropped_ == 32
    assert f"mask: {'not land' if mask == '~land' else 'sea'}" in repr(opened)
    with pytest.raises(DataError, match="NaN or infinity in 2 of 90 rows, first in y=8, x=8"):
        KMeans(3).fit(open_samples(sea, mask=mask, **WORDS))


def test_where_too_few_samples_are_left_the_error_says_what_became_of_them(sea):
    with pytest.raises(DataError, match=r"n_samples=0 should be >= n_clusters=3: 120 more were dropped \(120 masked\)"):
        KMeans(3).fit(open_samples(sea.assign(none=sea["sea"] * 0), mask="none", missing="drop", **WORDS))
    with pytest.raises(DataError, match=r"\(30 masked, 1 nan, 1 infinite\)"):
        KMeans(100).fit(open_samples(sea, mask="sea", missing="drop", **WORDS))


def test_a_mask_of_fewer_dimensions_is_repeated_and_its_gaps_are_masked(sea):
    sea["ice"][9, 9] = 0
    opened = open_samples(sea[["ice", "west"]], mask="west", sample_dims=["y", "x"])
    assert opened.feature_names == ("ice",)
    labels = KMeans(2, random_state=0).fit(opened).labels_
    assert (labels.isel(x=slice(5)) >= 0).all()
    assert (labels.isel(x=slice(5, None)) == -1).sum() == 60


def test_blocks_without_a_cell_that_counts_are_not_read():
    store = CountingStore(MemoryStore())
    group = zarr.create_group(store)
    for name, values in (("a", np.random.default_rng(0).normal(size=(40, 8))), ("m", np.arange(40) >= 20)):
        dims = ["y", "x"][: values.ndim]
        group.create_array(name, data=values, chunks=(5, 8)[: values.ndim], dimension_names=dims)
    store.reads.clear()
    opened = open_samples(group, variables=["a"], sample_dims=["y"], feature_dims=["x"], mask="m")
    model = KMeans(2, memory_budget=2500, random_state=0).fit(opened)
    assert model.n_dropped_ == 20
    assert {key for key in store.reads if key.startswith("a/c/")} == {f"a/c/{i}/0" for i in range(4, 8)}


def test_features_that_are_missing_in_every_sample_are_left_out(rng):
    maps = rng.normal(size=(30, 4, 5)).astype("f4")
    land = np.zeros((4, 5), dtype=bool)
    land[1:3, 2] = True
    maps[:, land] = np.nan
    dataset = xr.Dataset({"h": (("time", "lat", "lon"), maps), "sea": (("lat", "lon"), ~land)})
    words = {"sample_dims": ["time"], "feature_dims": ["lat", "lon"]}
    model = KMeans(3, random_state=0).fit(open_samples(dataset, mask="sea", **words))
    assert model.cluster_centers_.shape == (3, 18)
    np.testing.assert_array_equal(np.isnan(model.centers_["h"]).all("cluster"), land)
    plain = KMeans(3, random_state=0).fit(maps[:, ~land])
    np.testing.assert_array_equal(model.labels_, plain.labels_)
    np.testing.assert_array_equal(model.centers_["h"].values[:, ~land], plain.cluster_centers_)


def test_wrong_masks_are_refused(sea):
    with pytest.raises(ConfigError, match=r"mask: .* has no variable 'se'; did you mean 'sea'"):
        open_samples(sea, mask="se", **WORDS)
    with pytest.raises(ConfigError, match="'sea' has dimensions y, x; a mask of samples has some of y"):
        open_samples(sea, variables=["sst"], sample_dims=["y"], feature_dims=["x"], mask="sea")
    with pytest.raises(ConfigError, match="leaves no feature"):
        open_samples(sea.assign(no=("x", np.zeros(10))), variables=["sst"], sample_dims=["y"], mask="no")


def test_a_job_counts_what_it_dropped_by_reason(sea, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sea.to_zarr("sea.zarr", consolidated=False)
    Path("job.yaml").write_text(
        "input: {store: sea.zarr, variables: [sst, ice], sample_dims: [y, x], mask: sea, missing: drop}\n"
        "model: {n_clusters: 3}\noutput: {path: out}\n"
    )
    console = Console(quiet=True)
    folder = run_job(load_config("job.yaml", []), console)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["n_dropped"] == 32
    assert summary["dropped"] == {"masked": 30, "nan": 1, "infinite": 1, "weightless": 0}
    predict_job(folder, "sea.zarr", "new.zarr", [], False, console)
    labels = xr.open_zarr("new.zarr")["labels"]
    xr.testing.assert_equal(labels, xr.open_zarr(folder / "result.zarr")["labels"])
    assert int((labels == -1).sum()) == 32
    assert daskmeans.open_samples("sea.zarr", mask="sea", **WORDS).samples.n_samples == 120


@pytest.mark.parametrize("key", ["mask", "weights"])
def test_a_damaged_chunk_of_a_mask_or_of_weights_is_named(tmp_path, key):
    kinds = xr.Dataset({"a": (("y", "x"), np.ones((4, 6))), "sea": (("y", "x"), np.ones((4, 6), "i1"))})
    chunks = {name: {"chunks": (2, 3)} for name in kinds}
    kinds.to_zarr(tmp_path / "k.zarr", consolidated=False, encoding=chunks)
    bad = tmp_path / "k.zarr" / "sea" / "c" / "1" / "0"
    bad.write_bytes(b"junk")
    opened = open_samples(tmp_path / "k.zarr", variables=["a"], sample_dims=["y", "x"], **{key: "sea"})
    with pytest.raises(DataError, match=f"a chunk of variable 'sea' cannot be read: {bad} .* y=2 to 3, x=0 to 2"):
        opened.samples.loader.load(0)

"""What data is like: numbers of any kind, times, coordinates of any kind, groups."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from grids import all_rows, all_weights, pickle_trip

from daskmeans.errors import ConfigError
from daskmeans.stores import open_samples


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

"""What is wrong with a store, or with what is asked of it, is said: where, and what there is instead."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import xarray as xr
import zarr
from era import CUT
from grids import ERA_DIMS, CountingStore, all_rows, small_map
from zarr.storage import MemoryStore

from daskmeans.blocking import RepeatedReadsWarning
from daskmeans.errors import ConfigError, DataError
from daskmeans.memory import (
    KIB,
    Budget,
)
from daskmeans.stores import open_samples

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
        open_samples(CUT, **{"variables": ["u"], **ERA_DIMS, **changed})


def test_no_latitude_to_weigh_by():
    with pytest.raises(ConfigError, match=r"needs a coordinate named latitude or lat, .* has: y, x, area"):
        open_samples(small_map(), variables=["b"], sample_dims=["y", "x"], weights="cos_latitude")


def test_places_that_hold_no_store(tmp_path):
    with pytest.raises(
        DataError, match=r"store not found: .*eraint_cut.zar does not exist; did you mean 'eraint_cut.zarr'"
    ):
        open_samples(str(CUT)[:-1])
    with pytest.raises(DataError, match=r"is not a Zarr store: there is no zarr.json"):
        open_samples(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"cannot be read as a .npy file"):
        open_samples(tmp_path / "x.npy")
    shutil.copytree(CUT, tmp_path / "broken.zarr")
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
    shutil.copytree(CUT, tmp_path / "era.zarr")
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
    store = PanickingStore(zarr.storage.LocalStore(CUT, read_only=True))
    samples = open_samples(zarr.open_group(store, mode="r"), variables=["u"], **ERA_DIMS).samples
    with pytest.raises(DataError, match=r"u/c/0/0/1/1 \(Panic: the codec panicked\)"):
        all_rows(samples)


def test_a_failure_that_passes_is_told_from_damage():
    store = PanickingStore(zarr.storage.LocalStore(CUT, read_only=True))
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

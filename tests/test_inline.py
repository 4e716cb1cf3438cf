"""Local arrays are read in the thread that asks, with zarrs where it is installed, and with the same values."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from typing import ClassVar

import numcodecs
import numpy as np
import pytest
import zarr
from xarray.backends.zarr import ZarrArrayWrapper
from zarr.storage import LocalStore, MemoryStore, _local

from daskmeans import inline
from daskmeans.errors import DataError
from daskmeans.memory import Budget
from daskmeans.stores import open_samples
from tests.grids import all_rows

X = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32)


def pipeline_of(wrapper):
    return type(wrapper.get_array().async_array.codec_pipeline).__name__


class WatchedStore(LocalStore):
    """Notes which threads read chunks."""

    threads: ClassVar[set[int]] = set()

    async def get(self, key, prototype, byte_range=None):
        self.threads.add(threading.get_ident())
        found = await asyncio.to_thread(lambda: self.threads.add(threading.get_ident()))
        assert found is None
        return await super().get(key, prototype, byte_range)


@pytest.fixture
def path(tmp_path):
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(100, 3))
    return tmp_path / "X.zarr"


@pytest.fixture(params=["zarr", "zarrs"])
def codecs(request, monkeypatch):
    if request.param == "zarr":
        monkeypatch.setattr(inline, "_has_zarrs", lambda: False)
    else:
        pytest.importorskip("zarrs")
        assert inline._has_zarrs()
    return request.param


def test_a_block_is_read_and_decoded_in_the_thread_that_asks(path):
    store = WatchedStore(path, read_only=True)
    array = zarr.open_array(store, mode="r")
    store.threads.clear()
    np.testing.assert_array_equal(all_rows(open_samples(array).samples), X)
    assert store.threads == {threading.get_ident()}


def test_whoever_decodes_does_so_in_the_thread_that_asks(tmp_path, codecs):
    rows = np.random.default_rng(0).standard_normal((400_000, 16)).astype(np.float32)
    zarr.create_array(tmp_path / "X.zarr", data=rows, chunks=(20_000, 16))
    samples = open_samples(tmp_path / "X.zarr", budget=Budget(16 * 200_000 * 88)).samples
    of_all_threads, of_this = time.process_time(), time.thread_time()
    np.testing.assert_array_equal(all_rows(samples), rows)
    assert time.thread_time() - of_this > 0.9 * (time.process_time() - of_all_threads)


@pytest.mark.parametrize(("long_wait_s", "side_by_side"), [(0.005, True), (60, False)])
def test_files_are_read_side_by_side_where_one_has_let_wait(path, monkeypatch, long_wait_s, side_by_side):
    read_by = []

    @functools.wraps(_local._get)
    def slow(*args):
        time.sleep(0.02)
        read_by.append(threading.get_ident())
        return get(*args)

    get = _local._get
    monkeypatch.setattr(_local, "_get", slow)
    monkeypatch.setattr(inline, "_has_zarrs", lambda: False)
    monkeypatch.setattr(inline, "LONG_WAIT_S", long_wait_s)
    samples = open_samples(path).samples
    read_by.clear()
    np.testing.assert_array_equal(all_rows(samples), X)
    assert len(read_by) == 10
    assert read_by.count(threading.get_ident()) == (1 if side_by_side else 10)
    assert (len(set(read_by)) > 2) == side_by_side


def test_values_are_the_same_whoever_decodes_them(path, codecs):
    samples = open_samples(path, budget=Budget(16 * 300 * 36)).samples
    assert samples.grid.bounds == ((0, 300, 600, 900, 1000),)
    np.testing.assert_array_equal(all_rows(samples), X)
    wanted = {"zarr": "BatchedCodecPipeline", "zarrs": "ZarrsCodecPipeline"}[codecs]
    assert pipeline_of(inline.wrapped(zarr.open_array(path, mode="r"))) == wanted


def test_damage_is_named_whoever_decodes(path, codecs):
    chunk = path / "c" / "3" / "0"
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(DataError, match=rf"{chunk} .*sample=300 to 399 is in it"):
        all_rows(open_samples(path).samples)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">i2"])
@pytest.mark.parametrize("filtered", [False, True])
def test_what_zarrs_does_not_know_zarr_decodes(tmp_path, codecs, dtype, filtered, recwarn):
    values = (100 * X).astype(dtype)
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=2)
    filters = [numcodecs.Shuffle(np.dtype(dtype).itemsize)] if filtered else None
    group.create_array("X", data=values, chunks=(100, 3), filters=filters)
    np.testing.assert_array_equal(all_rows(open_samples(tmp_path / "g.zarr", array="X").samples), values)
    assert not [w for w in recwarn if "zarrs" in str(w.message).lower()]


def test_who_has_asked_zarr_for_another_pipeline_gets_it(path):
    pytest.importorskip("zarrs")
    with zarr.config.set({"codec_pipeline.path": "some.other.Pipeline"}):
        assert not inline._has_zarrs()


def test_a_notebook_whose_thread_runs_an_event_loop_reads_as_well(path):
    async def cell():
        return all_rows(open_samples(path).samples)

    np.testing.assert_array_equal(asyncio.run(cell()), X)


def test_only_local_arrays_are_read_so():
    array = zarr.create_array(MemoryStore(), data=X)
    assert type(inline.wrapped(array)) is ZarrArrayWrapper


def test_a_failure_ends_what_waits_beside_it():
    ended = []

    async def waits():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def fails():
        await asyncio.sleep(0)
        raise ValueError("broken")

    async def both():
        await asyncio.gather(waits(), fails())

    with pytest.raises(ValueError, match="broken"):
        inline.run(both())
    assert ended

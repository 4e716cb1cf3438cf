"""Stores that are not files in a folder: references to chunks elsewhere, versioned stores, stores in memory."""

from __future__ import annotations

import base64
import functools
import json
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pytest
import xarray as xr

from daskmeans import KMeans, open_samples
from daskmeans.errors import DataError


@pytest.fixture(name="plain")
def a_small_table(rng):
    return xr.Dataset({"a": (("time", "band"), rng.normal(size=(100, 3)))}, coords={"time": np.arange(100) * 2.0})


def same(opened, plain):
    labels = KMeans(3, random_state=0).fit(opened).labels_
    np.testing.assert_array_equal(labels, KMeans(3, random_state=0).fit(plain["a"].values).labels_)
    np.testing.assert_array_equal(labels["time"], plain["time"])


def test_icechunk(tmp_path, plain):
    icechunk = pytest.importorskip("icechunk", reason="icechunk is not installed")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repository")))
    session = repository.writable_session("main")
    plain.to_zarr(session.store, consolidated=False, encoding={"a": {"chunks": (10, 3)}})
    session.commit("All of it")
    store = repository.readonly_session("main").store
    same(open_samples(store), plain)
    same(open_samples(xr.open_zarr(store, consolidated=False, chunks=None)), plain)


def test_references_to_chunks_elsewhere(tmp_path, plain):
    """As kerchunk and VirtualiZarr write them: metadata inline, chunks by path, offset and length."""
    plain.to_zarr(tmp_path / "there.zarr", zarr_format=2, consolidated=False, encoding={"a": {"chunks": (10, 3)}})
    references = {}
    for place in (tmp_path / "there.zarr").rglob("*"):
        key = str(place.relative_to(tmp_path / "there.zarr"))
        if place.name.startswith(".z"):
            references[key] = "base64:" + base64.b64encode(place.read_bytes()).decode()
        elif place.is_file():
            references[key] = [f"file://{place}", 0, place.stat().st_size]
    (tmp_path / "references.json").write_text(json.dumps({"version": 1, "refs": references}))
    options = {"fo": str(tmp_path / "references.json"), "remote_protocol": "file"}
    same(open_samples("reference://", variables=["a"], storage_options=options), plain)
    dataset = xr.open_zarr("reference://", storage_options=options, consolidated=False, chunks=None)
    same(open_samples(dataset), plain)


def test_memory(plain):
    plain.to_zarr("memory://somewhere/a.zarr", zarr_format=3, consolidated=False)
    same(open_samples("memory://somewhere/a.zarr"), plain)


def test_a_damaged_chunk_at_a_url_is_named_by_its_url(plain):
    plain.to_zarr("memory://broken/a.zarr", zarr_format=3, consolidated=False, encoding={"a": {"chunks": (10, 3)}})
    fsspec.filesystem("memory").pipe_file("/broken/a.zarr/a/c/2/0", b"junk")
    samples = open_samples("memory://broken/a.zarr").samples
    with pytest.raises(DataError, match=r"cannot be read: memory://broken/a\.zarr/a/c/2/0 \("):
        samples.loader.load(0)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Say nothing."""


def test_https(tmp_path, plain):
    """A folder that a web server offers, with metadata gathered, since such servers do not list."""
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    plain.to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=True)
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        same(open_samples(f"http://127.0.0.1:{server.server_address[1]}/a.zarr"), plain)
        server.shutdown()


def test_a_zip_file(tmp_path, plain):
    plain.to_zarr(tmp_path / "a", consolidated=False, encoding={"a": {"chunks": (10, 3)}})
    shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "a")
    same(open_samples(tmp_path / "a.zip"), plain)
    with pytest.raises(DataError, match=r"store not found: .*b.zip does not exist; did you mean 'a.zip'"):
        open_samples(tmp_path / "b.zip")
    (tmp_path / "b.zip").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"b.zip cannot be opened as Zarr: BadZipFile"):
        open_samples(tmp_path / "b.zip")


@pytest.mark.parametrize(
    ("name", "advice"), [("x.npz", "numpy.save"), ("x.parquet", "read_parquet"), ("x.json", "fo:")]
)
def test_what_is_no_store_is_told_how_to_be_clustered(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(DataError, match=f"{name} is not a Zarr store: .*{advice}"):
        open_samples(tmp_path / name)

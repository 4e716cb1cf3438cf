"""A store behind a network that fails now and then gives the same bits; what stays broken names itself."""

from __future__ import annotations

import collections
import errno
import http.client
import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from era import CUT
from grids import ERA_DIMS, CountingStore, all_rows
from rich.console import Console

from daskmeans import retry
from daskmeans.errors import DataError
from daskmeans.job.configfile import load_config
from daskmeans.job.fields import MASK, without_masked
from daskmeans.job.predict import predict_job
from daskmeans.job.run import run_job
from daskmeans.stores import open_samples

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(retry, "WAITS_S", (0.01,) * 4)


class FlakyStore(CountingStore):
    """Answers the first requests for each chunk with an error."""

    n_failures = 2
    error: BaseException = OSError(errno.EIO, "the server is busy")

    async def get(self, key, prototype, byte_range=None):
        found = await super().get(key, prototype, byte_range)
        if key.startswith(("u/c/", "v/c/")) and self.reads[key] <= self.n_failures:
            raise self.error
        return found


def flaky(n_failures, error=FlakyStore.error):
    store = FlakyStore(zarr.storage.LocalStore(CUT, read_only=True))
    FlakyStore.n_failures, FlakyStore.error = n_failures, error
    return store, open_samples(zarr.open_group(store, mode="r"), variables=["u", "v"], **ERA_DIMS).samples


@pytest.mark.parametrize("error", [OSError(errno.EIO, "busy"), ConnectionResetError(), TimeoutError()])
def test_reads_that_fail_in_passing_are_tried_again(error):
    _, samples = flaky(2, error)
    expected = open_samples(CUT, variables=["u", "v"], **ERA_DIMS).samples
    np.testing.assert_array_equal(all_rows(samples), all_rows(expected))


def test_a_chunk_that_stays_unreadable_names_itself():
    _, samples = flaky(10**9)
    with pytest.raises(DataError, match=r"chunk of variable 'u' cannot be read: .*u/c/0/0/0/0 \(OSError.*busy"):
        all_rows(samples)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "not yours"), ValueError("bad checksum")])
def test_refusals_and_damage_are_not_tried_again(error):
    store, samples = flaky(10**9, error)
    with pytest.raises(DataError, match="u/c/0/0/0/0"):
        all_rows(samples)
    assert max(store.chunk_reads().values()) <= 2  # once as part of the block, once to find out which it is


# -- a real server, and a bad line to it -------------------------------------------------------------


class BadLine(BaseHTTPRequestHandler):
    """Passes requests on to the server; fails the first for each of some chunks, in one of four ways."""

    protocol_version = "HTTP/1.1"
    target = ("127.0.0.1", 0)
    seen: collections.Counter = collections.Counter()  # noqa: RUF012
    failed: collections.Counter = collections.Counter()  # noqa: RUF012

    def do_GET(self):
        self.seen[self.path] += 1
        if "/c/" in self.path and self.seen[self.path] == 1 and len(self.failed_paths) < 12:
            way = ("500", "drop", "slow", "cut")[len(self.failed_paths) % 4]
            self.failed_paths.append(self.path)
            self.failed[way] += 1
            getattr(self, f"fail_{way}")()
        else:
            self.answer(*self.ask())

    failed_paths: list = []  # noqa: RUF012

    do_HEAD = do_GET  # noqa: N815

    def ask(self):
        line = http.client.HTTPConnection(*self.target)
        line.request(self.command, self.path, headers=dict(self.headers))
        response = line.getresponse()
        found = response.status, response.getheaders(), response.read()
        line.close()
        return found

    def answer(self, status, headers, body, sent=None):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "date", "server", "content-length"):
                self.send_header(name, value)
        length = len(body) if self.command == "GET" else dict(headers).get("Content-Length", 0)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body if sent is None else body[:sent])

    def fail_500(self):
        self.answer(500, [], b"<Error><Code>InternalError</Code><Message>We are sorry</Message></Error>")

    def fail_drop(self):
        self.close_connection = True

    def fail_slow(self):
        time.sleep(1.5)
        self.close_connection = True

    def fail_cut(self):
        status, headers, body = self.ask()
        self.answer(status, headers, body, sent=len(body) // 2)
        self.close_connection = True

    def log_message(self, *args):
        """Say nothing."""


def serve(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture(scope="module", name="endpoints")
def s3_server():
    """Start an S3 server that holds the cut in a bucket; yield its address, and that of the bad line."""
    moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    BadLine.target = server.get_host_and_port()
    direct = f"http://127.0.0.1:{BadLine.target[1]}"
    files = s3fs.S3FileSystem(**credentials(direct), skip_instance_cache=True)
    if not files.exists("weather"):  # all servers of a process share what they hold
        files.mkdir("weather")
        files.put(str(CUT), "weather/era.zarr", recursive=True)
    bad = ThreadingHTTPServer(("127.0.0.1", 0), BadLine)
    yield direct, serve(bad)
    bad.shutdown()
    bad.server_close()
    server.stop()


def credentials(endpoint):
    return {"key": "somebody", "secret": "hush-hush", "client_kwargs": {"endpoint_url": endpoint}}


JOB = """\
input: {store: s3://weather/era.zarr, variables: [z, u, v], sample_dims: [month, latitude, longitude],
  feature_dims: [level], weights: cos_latitude}
preprocess: {scale: standard}
model: {n_clusters: 4, memory_budget: 300kB, max_iter: 2, init: k-means++}
output: {path: remote}
"""


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_s3_over_a_bad_line_gives_the_bits_of_the_local_store(endpoints, tmp_path, monkeypatch):
    import s3fs

    # Its own and its client's tries come before ours; here they would hide what is tested.
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    shutil.copytree(CUT, "local.zarr")
    options = credentials(endpoints[1]) | {"config_kwargs": {"retries": {"max_attempts": 0}, "read_timeout": 1.0}}
    remote = run_job(load_config("job.yaml", [f"input.storage_options={json.dumps(options)}"]), QUIET)
    local = run_job(load_config("job.yaml", ["input.store=local.zarr", "output.path=local"]), QUIET)
    xr.testing.assert_identical(xr.open_zarr(remote / "result.zarr").load(), xr.open_zarr(local / "result.zarr").load())
    assert set(BadLine.failed) == {"500", "drop", "slow", "cut"}
    for name in ("config.yaml", "summary.json"):
        text = (remote / name).read_text()
        assert "hush-hush" not in text
        assert "somebody" not in text
        assert endpoints[1] in text
    again = [f"input.storage_options={json.dumps(credentials(endpoints[0]))}"]
    predict_job(remote, "s3://weather/era.zarr", "labels.zarr", again, False, QUIET)
    predict_job(remote, "local.zarr", "local_labels.zarr", [], False, QUIET)
    xr.testing.assert_identical(xr.open_zarr("labels.zarr").load(), xr.open_zarr("local_labels.zarr").load())


def test_what_is_masked_is_left_to_the_environment():
    options = {"anon": True, "key": MASK, "client_kwargs": {"endpoint_url": "http://x", "aws_session_token": MASK}}
    assert without_masked(options) == {"anon": True, "client_kwargs": {"endpoint_url": "http://x"}}

"""Hosts of their own, in network namespaces, that speak with each other over TLS: the same bits as on threads."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import distributed
import numpy as np
import pytest
import xarray as xr
import yaml
import zarr
from rich.console import Console

from daskmeans.errors import ClusterError
from daskmeans.job.configfile import load_config
from daskmeans.job.run import run_job

REPOSITORY = Path(__file__).parents[1]
BRIDGE = "dkm-br"
N_HOSTS = 3  # the scheduler, and two with a worker each

JOB = """\
input: {store: X.zarr}
model: {n_clusters: 5, tol: 0, max_iter: 5, memory_budget: 512kB}
output: {path: out}
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def remove_hosts():
    for i in range(N_HOSTS):
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "del", f"dkm{i}")
    with contextlib.suppress(subprocess.CalledProcessError):
        ip("link", "del", BRIDGE)


@pytest.fixture
def hosts():
    """Names of network namespaces, which reach each other and this machine at 10.213.7.1, .2 and so on."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    remove_hosts()
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", "10.213.7.254/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for i in range(N_HOSTS):
            ip("netns", "add", f"dkm{i}")
            ip("link", "add", f"dkm{i}", "type", "veth", "peer", "name", "eth0", "netns", f"dkm{i}")
            ip("link", "set", f"dkm{i}", "master", BRIDGE, "up")
            ip("-n", f"dkm{i}", "addr", "add", f"10.213.7.{i + 1}/24", "dev", "eth0")
            ip("-n", f"dkm{i}", "link", "set", "eth0", "up")
            ip("-n", f"dkm{i}", "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        remove_hosts()
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    yield [f"dkm{i}" for i in range(N_HOSTS)]
    remove_hosts()


@pytest.fixture
def certificates(tmp_path):
    """The words on TLS of a configuration: files of a certificate that signs itself."""
    pytest.importorskip("cryptography")
    made = distributed.Security.temporary()
    (tmp_path / "ca.pem").write_text(made.tls_ca_file)
    (tmp_path / "cert.pem").write_text(made.tls_scheduler_cert)
    (tmp_path / "key.pem").write_text(made.tls_scheduler_key)
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    return {"tls_ca_file": str(tmp_path / "ca.pem"), "tls_client_cert": cert, "tls_client_key": key}


def start(host, *words, tls):
    files = ["--tls-ca-file", tls["tls_ca_file"], "--tls-cert", tls["tls_client_cert"]]
    command = ["ip", "netns", "exec", host, sys.executable, "-m", *words, *files, "--tls-key", tls["tls_client_key"]]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_hosts_that_speak_tls_give_the_bits_of_threads(hosts, certificates, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    zarr.create_array("X.zarr", shape=(20_000, 4), chunks=(1000, 4), dtype="f4")[:] = rng.random((20_000, 4))
    Path("job.yaml").write_text(JOB)
    address = "tls://10.213.7.1:8786"
    job = {"type": "address", "wait": 60, "options": {"address": address, "security": certificates}}
    with contextlib.ExitStack() as stack:
        scheduler = ["distributed.cli.dask_scheduler", "--protocol", "tls", "--no-dashboard"]
        worker = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--protocol", "tls", "--no-dashboard"]
        processes = [start(hosts[0], *scheduler, tls=certificates)]
        processes += [start(host, *worker, "--nworkers", "1", tls=certificates) for host in hosts[1:]]
        for process in processes:
            stack.callback(process.wait)
            stack.callback(process.terminate)
        folder = run_when_it_answers([f"cluster={yaml.safe_dump(job, default_flow_style=True)}"])
        found = xr.open_zarr(folder / "result.zarr").load()
        plain = {"type": "address", "options": {"address": address.replace("tls", "tcp")}}
        monkeypatch.setattr("daskmeans.job.cluster.CONNECT_TIMEOUT_S", 2)
        with pytest.raises(ClusterError, match="no Dask scheduler answers at"):
            run_job(load_config("job.yaml", [f"cluster={yaml.safe_dump(plain)}", "output.path=plain"]), QUIET)
    folder = run_job(load_config("job.yaml", ["output.path=threads"]), QUIET)
    xr.testing.assert_identical(found, xr.open_zarr(folder / "result.zarr").load())


QUIET = Console(quiet=True)


def run_when_it_answers(overrides):
    """Run once the scheduler is there, which takes a while to start."""
    until = time.monotonic() + 60
    while True:
        try:
            return run_job(load_config("job.yaml", overrides), QUIET)
        except ClusterError:
            if time.monotonic() > until:
                raise
            time.sleep(1)

"""What a person at the command line gets: help at once, exit codes, and errors that say what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from era import CUT, REPOSITORY
from typer.testing import CliRunner

from daskmeans.cli import app
from daskmeans.errors import ConfigError
from daskmeans.job.staging import staged


@pytest.fixture(autouse=True)
def _here(era_job, monkeypatch):
    """Work in an empty directory that has a valid `job.yaml`."""
    monkeypatch.setenv("COLUMNS", "100")


def names():
    """Return what lies in the current directory."""
    return sorted(place.name for place in Path().iterdir())


def daskmeans(*arguments):
    """Run the command in this process; an error that is not explained fails the test."""
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def refusal(*arguments, code):
    """Return what is printed to stderr, on one line, by a command that is refused with this exit code."""
    done = daskmeans(*arguments)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return " ".join(done.stderr.split())


@pytest.mark.parametrize("command", [[], ["run"], ["validate"], ["plan"], ["predict"], ["schema"]])
def test_every_command_has_help(command):
    done = daskmeans(*command, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_help_does_not_wait_for_slow_imports():
    code = "import sys, daskmeans.cli; print(*(set(sys.modules) & {'dask', 'numba', 'zarr', 'xarray', 'sklearn'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == ""


def test_schema_is_for_editors():
    schema = json.loads(daskmeans("schema").stdout)
    assert set(schema["properties"]) == {"input", "preprocess", "model", "cluster", "output"}


def test_usage_errors_exit_with_2():
    assert "No such command 'rum'. Did you mean 'run'?" in refusal("rum", code=2)
    assert "Missing argument 'CONFIG'" in refusal("run", code=2)


def test_validate_says_what_it_found():
    done = daskmeans("validate", "job.yaml")
    assert done.exit_code == 0, done.output
    assert "6,560 (month=2, latitude=41, longitude=80)" in done.stdout
    assert "9: z[level=200], z[level=500]" in done.stdout
    assert not Path("out").exists()


def test_plan_says_what_a_run_needs():
    done = daskmeans("plan", "job.yaml")
    assert done.exit_code == 0, done.output
    for word in ("bytes", "blocks", "tasks", "passes", "memory"):
        assert word in done.stdout
    assert "6,560 samples x 9 features" in done.stdout


def test_plan_and_run_refuse_what_cannot_fit_and_say_what_to_change():
    options = "cluster={type: local, options: {n_workers: 2, threads_per_worker: 4, memory_limit: 300MiB}}"
    for command in ("plan", "run"):
        message = refusal(command, "job.yaml", "--set", options, "--set", "model.memory_budget=1GiB", code=2)
        assert "a worker would need" in message
        assert "lower model.memory_budget (now 1.0 GiB) or threads per worker, or give each worker" in message
    assert names() == ["job.yaml"]


def test_mistakes_in_the_configuration():
    message = refusal("run", "job.yaml", "--set", "model.n_cluster=3", "--set", "preprocess.scale=std", code=2)
    assert "model.n_cluster: unknown key; did you mean 'n_clusters'?" in message
    assert "preprocess.scale: expected 'none' or 'standard', got 'std'" in message
    assert "jobb.yaml: no such file; did you mean 'job.yaml'?" in refusal("validate", "jobb.yaml", code=2)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("input.store=nowhere.zarr", 3, "nowhere.zarr does not exist"),
        ("input.store=job.yaml", 3, "job.yaml"),
        ("input.variables=[z, w]", 2, "'w'"),
        ("input.sample_dims=[month, lattitude, longitude]", 2, "did you mean 'latitude'?"),
        ("input.select={month: 2}", 2, "month"),
        ("model.n_clusters=7000", 3, "model.n_clusters is 7,000, but"),
        ("model={n_clusters: 1, init: [[1, 2]]}", 2, "the centers have 2 features, the input has 9"),
        ("model.memory_budget=1kB", 2, "memory_budget"),
        ("output.path=job.yaml", 2, "output.path: "),
        (
            "output.path=gopher://bucket/out",
            2,
            "output.path: gopher://bucket/out: Protocol not known: gopher",
        ),
        ("output.path=job.yaml/out", 2, "job.yaml/out cannot be written: "),
        (
            "cluster={type: address, options: {address: 'tcp://127.0.0.1:9'}}",
            4,
            "no Dask scheduler answers at cluster.options.address tcp://127.0.0.1:9",
        ),
    ],
)
def test_bad_input_is_refused_before_data_is_read(monkeypatch, change, code, message):
    monkeypatch.setattr("daskmeans.job.cluster.CONNECT_TIMEOUT_S", 1)
    monkeypatch.setattr("daskmeans.scan.Scanner.scan", None)
    assert message in refusal("run", "job.yaml", "--set", change, code=code)
    assert names() == ["job.yaml"]


def test_the_budget_that_a_message_asks_for_is_enough():
    message = refusal("plan", "job.yaml", "--set", "model.memory_budget=200kB", code=2)
    enough = re.search(r"Set memory_budget to (\S+ \S+) or more", message)[1]
    assert daskmeans("plan", "job.yaml", "--set", f"model.memory_budget={enough}").exit_code == 0


def test_missing_values_are_counted_and_the_first_is_named():
    dataset = xr.open_zarr(CUT, consolidated=False).load()
    dataset["u"][1, 2, 3, 4] = np.nan
    dataset["v"][1, 2, 3, 5] = np.inf
    dataset.drop_encoding().to_zarr("holes.zarr", zarr_format=3, consolidated=False)
    message = refusal("run", "job.yaml", "--set", "input.store=holes.zarr", code=3)
    assert "NaN or infinity in 2 of 6,560 rows, first in month=7, latitude=76.5, longitude=-162.0" in message
    assert names() == ["holes.zarr", "job.yaml"]


def test_damaged_chunk_is_named():
    shutil.copytree(CUT, "damaged.zarr")
    chunk = next(place for place in sorted(Path("damaged.zarr/u/c").rglob("*")) if place.is_file())
    chunk.write_bytes(b"nonsense")
    message = refusal("run", "job.yaml", "--set", "input.store=damaged.zarr", code=3)
    assert str(chunk) in message
    assert names() == ["damaged.zarr", "job.yaml"]


def test_fewer_distinct_rows_than_clusters_is_a_warning():
    array = zarr.create_array("same.zarr", shape=(100, 2), chunks=(50, 2), dtype="f4")
    array[:50] = 1
    Path("same.yaml").write_text("input: {store: same.zarr}\nmodel: {n_clusters: 3}\noutput: {path: out}\n")
    command = [sys.executable, "-m", "daskmeans", "run", "same.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert "warning: Number of distinct clusters (2) found smaller than n_clusters (3)" in done.stderr


def test_earlier_results_are_only_replaced_when_asked():
    assert daskmeans("run", "job.yaml").exit_code == 0
    assert "exists; choose another path, or replace it with --overwrite" in refusal("run", "job.yaml", code=2)
    assert daskmeans("run", "job.yaml", "--overwrite", "--set", "model.n_clusters=4").exit_code == 0
    assert json.loads(Path("out/summary.json").read_text())["n_clusters"] == 4


def test_what_is_no_result_is_never_replaced():
    Path("precious").mkdir()
    Path("precious/thesis.txt").write_text("...")
    message = refusal("run", "job.yaml", "--overwrite", "--set", "output.path=precious", code=2)
    assert "holds no earlier results (no summary.json in it), so it is not overwritten" in message
    assert Path("precious/thesis.txt").exists()


def test_no_permission_is_said_before_data_is_read(tmp_path):
    tmp_path.chmod(0o500)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError) as caught, staged(tmp_path / "out", "output.path"):
            pass
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o700)
    assert f"output.path: {tmp_path}/out cannot be written: [Errno 13] Permission denied" in str(caught.value)


def test_interrupted_run_exits_with_130_and_leaves_nothing():
    array = zarr.create_array("big.zarr", shape=(400_000, 16), chunks=(20_000, 16), dtype="f4")
    array[:] = np.random.default_rng(0).standard_normal((400_000, 16), dtype="f4")
    Path("big.yaml").write_text(
        "input: {store: big.zarr}\noutput: {path: new/out}\n"
        "model: {n_clusters: 64, tol: 0, max_iter: 100000, memory_budget: 16MiB, init: random}\n"
    )
    command = [sys.executable, "-m", "daskmeans", "run", "big.yaml"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    ) as job:
        for line in job.stdout:
            if line.startswith("pass   2"):
                break
        os.killpg(job.pid, signal.SIGINT)
        began = time.monotonic()
        _, errors = job.communicate(timeout=30)
    assert job.returncode == 130, errors
    assert "error: interrupted; no results were written; to go on after pass " in " ".join(errors.split())
    assert time.monotonic() - began < 10
    assert [place.name for place in Path("new").iterdir()] == ["out.checkpoint"]


def environment():
    """Return an environment in which the package of this checkout is the one that is imported."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "default"}

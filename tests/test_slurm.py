"""The real thing: a SLURM of one node on this machine runs the workers, and the driver, and is empty afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import xarray as xr
from rich.console import Console
from typer.testing import CliRunner

from daskmeans.cli import app
from daskmeans.errors import ClusterError
from daskmeans.job.configfile import load_config
from daskmeans.job.run import run_job

REPOSITORY = Path(__file__).parents[1]
CUT = REPOSITORY / "tests" / "data" / "eraint_cut.zarr"
CONFIG = REPOSITORY / "configs" / "slurm.yaml"
SCRIPT = REPOSITORY / "scripts" / "slurm_for_tests.sh"
NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "munged")

CHANGES = [
    f"input.store={CUT}",
    "model.memory_budget=2MiB",
    "output.path=out",
    "cluster.options.interface=lo",
    "cluster.options.cores=1",
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """SLURM's configuration file, while it runs."""
    lacking = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if lacking:
        pytest.skip(f"no SLURM here: {', '.join(lacking)} not installed")
    if os.geteuid() != 0:
        pytest.skip("only root can start SLURM for tests")
    folder = tmp_path_factory.mktemp("slurm")
    # The daemon of munge, another user, must get there.
    for place in (folder, *folder.parents):
        if place.is_relative_to("/tmp") and place != Path("/tmp"):
            place.chmod(place.stat().st_mode | 0o011)
    started = subprocess.run(["bash", SCRIPT, "start", folder], capture_output=True, text=True)
    if started.returncode:
        pytest.skip(f"SLURM does not start here: {started.stderr.strip()}")
    yield folder / "slurm.conf"
    subprocess.run(["bash", SCRIPT, "stop", folder], check=True)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, slurm):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    # Jobs inherit it; the folders are those of the configuration, whose data is not here.
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    yield
    assert wait_until(lambda: not squeue()), squeue()
    assert wait_until(lambda: not workers()), workers()


def squeue():
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout


def workers():
    """Return the command lines of what still runs in the current directory: workers and drivers."""
    lines = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.info["cwd"] == str(Path.cwd()) and ("dask" in line and "pytest" not in line):
            lines.append(line)
    return lines


def wait_until(condition, timeout_s=30):
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def daskmeans(*arguments):
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_two_worker_jobs_give_the_bits_of_threads():
    folder = run_job(load_config(CONFIG, CHANGES), Console(quiet=True))
    found = xr.open_zarr(folder / "result.zarr").load()
    threads = [*CHANGES[:2], "output.path=threads", "cluster={type: threads}"]
    folder = run_job(load_config(CONFIG, threads), Console(quiet=True))
    xr.testing.assert_identical(found, xr.open_zarr(folder / "result.zarr").load())
    assert sorted(place.name for place in Path().iterdir()) == ["out", "threads"]


def test_the_driver_runs_as_a_job():
    changes = [word for change in CHANGES for word in ("--set", change)]
    driver = "cluster.driver={walltime: '0:10:00', memory: 1GiB}"
    job_id = daskmeans("submit", str(CONFIG), *changes, "--set", driver).strip()
    assert job_id.isdigit()
    assert job_id in squeue()
    assert "#SBATCH --time=00:10:00" in Path("out.submit/driver.sh").read_text()
    assert wait_until(lambda: not squeue(), timeout_s=180), squeue()
    printed = Path("out.submit/driver.log").read_text()
    assert Path("out/summary.json").is_file(), printed
    told = daskmeans("status", "out")
    assert "finished" in told
    assert f"{job_id} of slurm" in told
    logged = daskmeans("logs", "out")
    assert "pass 1  title survey" in logged
    assert "iterations" in logged


def test_a_warned_driver_submits_its_continuation():
    slow = ["model.tol=0", "model.init=random", "model.algorithm=lloyd", "cluster={type: threads}"]
    changes = [word for change in [*CHANGES[:3], *slow] for word in ("--set", change)]
    driver = "cluster.driver={memory: 1GiB, resubmit: true}"
    first = daskmeans("submit", str(CONFIG), "--to", "slurm", *changes, "--set", driver).strip()
    printed = Path("out.submit/driver.log")
    assert wait_until(lambda: printed.is_file() and "pass   4" in printed.read_text(), timeout_s=120)
    subprocess.run(["scancel", "--batch", "--signal=USR1", first], check=True)
    assert wait_until(lambda: Path("out/summary.json").is_file(), timeout_s=120), printed.read_text()
    assert "Going on from the checkpoint" in printed.read_text()
    began = [line for line in daskmeans("logs", "out").splitlines() if "  began  " in line]
    assert len(began) == 2


def test_sigterm_cancels_the_jobs():
    changes = [word for change in [*CHANGES, "model.tol=0", "model.init=random"] for word in ("--set", change)]
    command = [sys.executable, "-m", "daskmeans", "run", str(CONFIG), *changes, "--set", "model.algorithm=lloyd"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        for line in job.stdout:
            if line.startswith("pass   3"):
                break
        assert len(squeue().splitlines()) == 2
        assert "running: process" in daskmeans("status", "out")
        job.send_signal(signal.SIGTERM)
        _, errors = job.communicate(timeout=60)
    assert job.returncode == 130, errors
    assert "interrupted after pass" in daskmeans("status", "out")


def test_queue_is_quoted_when_no_worker_comes():
    never = ["cluster.wait=3", "cluster.options.job_extra_directives=['--begin=now+1hour']"]
    with pytest.raises(
        ClusterError, match=r"(?s)no workers after 3 s \(cluster.wait\); `squeue --me` says:.*BeginTime"
    ):
        run_job(load_config(CONFIG, [*CHANGES, *never]), Console(quiet=True))


def test_show_script():
    script = daskmeans("run", str(CONFIG), "--show-script")
    assert "#SBATCH -t 00:30:00" in script
    assert "dask_worker tcp://" in script
    assert not squeue()

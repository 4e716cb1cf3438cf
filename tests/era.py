"""The job that several test modules run: it clusters a small piece of a reanalysis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import xarray as xr
from rich.console import Console

from daskmeans.job.configfile import load_config
from daskmeans.job.run import run_job

REPOSITORY = Path(__file__).parents[1]
CUT = REPOSITORY / "tests" / "data" / "eraint_cut.zarr"
QUIET = Console(quiet=True)

# 6,560 samples of 9 features.
ERA = f"""\
input:
  store: {CUT}
  variables: [z, u, v]
  sample_dims: [month, latitude, longitude]
  feature_dims: [level]
preprocess: {{scale: standard}}
model: {{n_clusters: 4, memory_budget: 64MiB}}
output: {{path: out}}
"""


# Makes each block slow, so that there is a middle to be killed in.
SLOW = """
import sys, time
from rich.console import Console
from daskmeans.job import results
QUIET, write = Console(quiet=True), results.LabelSink.write
def slow(self, region, values):
    write(self, region, values)
    print("written", flush=True)
    time.sleep(0.5)
results.LabelSink.write = slow
"""


def kill_while_it_writes(code: str, *arguments: str) -> None:
    """Run code in a process that writes blocks slowly; strike it with SIGKILL, behind which nothing can clean up."""
    command = [sys.executable, "-c", SLOW + code, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def run_folder(*overrides: str) -> Path:
    """Run `job.yaml`, which lies in the current directory, and return the folder of its results."""
    return run_job(load_config("job.yaml", overrides), QUIET)


def run(*overrides: str) -> xr.Dataset:
    """Run `job.yaml`, and return its results."""
    return xr.open_zarr(run_folder(*overrides) / "result.zarr").load()

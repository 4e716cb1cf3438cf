"""Runs many passes on a cluster of this machine, and watches the memory of driver, scheduler and workers.

    python scripts/soak.py          # 200 passes
    python scripts/soak.py 50

Prints what each process holds on the way. Ends with 1 if one has grown by a tenth, or by 20 MiB, since pass 20.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import zarr

REPOSITORY = Path(__file__).parents[1]
N_WORKERS = 2
SETTLED = 20

JOB = """\
input: {store: X.zarr}
model: {n_clusters: 200, tol: 0, max_iter: %d, memory_budget: 2MiB, init: random, algorithm: lloyd}
cluster: {type: address, options: {scheduler_file: scheduler.json}}
output: {path: out, labels: false}
"""


def start(*words: str) -> subprocess.Popen[str]:
    # As in a cluster that the package starts.
    quiet = {
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "DASK_DISTRIBUTED__DIAGNOSTICS__COMPUTATIONS__MAX_HISTORY": "10",
        "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "100",
    }
    environment = {**os.environ, **quiet, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", *words], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Start a scheduler and workers, in processes of their own."""
    file = ["--scheduler-file", "scheduler.json"]
    worker = ["distributed.cli.dask_worker", *file, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    scheduler = ["distributed.cli.dask_scheduler", *file, "--no-dashboard", "--host", "127.0.0.1", "--port", "0"]
    processes = {"scheduler": start(*scheduler)}
    try:
        while not Path("scheduler.json").exists():
            time.sleep(0.1)
        processes |= {f"worker {i}": start(*worker) for i in range(N_WORKERS)}
        yield processes
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()


def make_store() -> None:
    """Write noise, on which k-means goes on for long."""
    rows = np.random.default_rng(0).standard_normal((400_000, 8), dtype="f4")
    zarr.create_array("X.zarr", shape=rows.shape, chunks=(4000, 8), dtype="f4")[:] = rows


def rss_mib(processes: dict[str, subprocess.Popen[str]]) -> dict[str, float]:
    return {name: psutil.Process(process.pid).memory_info().rss / 2**20 for name, process in processes.items()}


def watch(processes: dict[str, subprocess.Popen[str]], n_passes: int) -> dict[int, dict[str, float]]:
    """Return what each process holds after some passes."""
    found = {}
    assert processes["driver"].stdout is not None
    for line in processes["driver"].stdout:
        number = int(line.split()[1]) if line.startswith("pass ") else 0
        if number and (number % SETTLED == 0 or number == n_passes):
            found[number] = rss_mib(processes)
            print(
                f"pass {number:>4}" + "".join(f"  {name} {mib:6.1f} MiB" for name, mib in found[number].items()),
                flush=True,
            )
    return found


def main() -> int:
    n_passes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make_store()
        Path("job.yaml").write_text(JOB % n_passes)
        with cluster() as processes, start("daskmeans", "run", "job.yaml") as driver:
            found = watch({"driver": driver, **processes}, n_passes)
    if driver.returncode or max(found, default=0) < n_passes:
        print(f"the run ended early, with {driver.returncode}")
        return 1
    before, after = found[SETTLED], found[max(found)]
    grown = [name for name, mib in after.items() if mib > max(before[name] * 1.1, before[name] + 20)]
    print(f"grown: {', '.join(grown) or 'none'}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs many passes on a cluster of this machine, and watches the memory of driver, scheduler and workers.

    python scripts/soak.py          # 200 passes
    python scripts/soak.py 50

Prints what each process holds on the way, and by how much it has grown over the second half of the passes: the slope of
a line through what it held after each of them. Ends with 1 where that is more than 2 % of what it holds in 100 passes:
memory comes in steps of some MiB, and names of tasks in Dask's cache give way to longer ones.
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
from dask.utils import key_split
from distributed import Client

from daskmeans.job.cluster import SHORT_HISTORY

REPOSITORY = Path(__file__).parents[1]
N_WORKERS = 2
MOST_IN_100 = 0.02

JOB = """\
input: {store: X.zarr}
model: {n_clusters: 200, tol: 0, max_iter: 100000, memory_budget: 2MiB, init: random, algorithm: lloyd}
cluster: {type: address, options: {scheduler_file: scheduler.json}}
output: {path: out, labels: false}
"""


def start(*words: str) -> subprocess.Popen[str]:
    # As in a cluster that the package starts.
    short = {"DASK_" + key.upper().replace(".", "__").replace("-", "_"): str(it) for key, it in SHORT_HISTORY.items()}
    environment = {**os.environ, **short, "PYTHONPATH": str(REPOSITORY)}
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


def fill_cache() -> None:
    """Fill Dask's cache of the short names of tasks, of limited size, as a run of some 1,000 such passes does.

    Five times over: as entries come and go its table is laid out anew twice, with both tables in memory meanwhile.
    """
    for i in range(5 * key_split.cache_info().maxsize):
        key_split((f"before-{i // 100:032x}", i))


def fill_caches(processes: dict[str, subprocess.Popen[str]]) -> None:
    """Fill that cache of scheduler and workers, and print what it takes."""
    with Client(scheduler_file="scheduler.json") as client:
        client.wait_for_workers(N_WORKERS)
        before = rss_mib(processes)
        client.run_on_scheduler(fill_cache)
        client.run(fill_cache)
        taken = [f"{name} {mib - before[name]:.1f} MiB" for name, mib in rss_mib(processes).items()]
        print(f"Dask's names of the last {key_split.cache_info().maxsize:,} tasks:", ", ".join(taken), flush=True)


def make_store() -> None:
    """Write noise, on which k-means goes on for long."""
    rows = np.random.default_rng(0).standard_normal((400_000, 8), dtype="f4")
    zarr.create_array("X.zarr", shape=rows.shape, chunks=(4000, 8), dtype="f4")[:] = rows


def rss_mib(processes: dict[str, subprocess.Popen[str]]) -> dict[str, float]:
    return {name: psutil.Process(process.pid).memory_info().rss / 2**20 for name, process in processes.items()}


def watch(processes: dict[str, subprocess.Popen[str]], n_passes: int) -> dict[int, dict[str, float]]:
    """Return what each process holds after each pass, and end the driver after the last of them."""
    found = {}
    shown = {round(n_passes * part) for part in (0.1, 0.3, 0.55, 0.775, 1)}
    assert processes["driver"].stdout is not None
    for line in processes["driver"].stdout:
        number = int(line.split()[1]) if line.startswith("pass ") else 0
        if number:
            found[number] = rss_mib(processes)
        if number in shown:
            holds = "".join(f"  {name} {mib:6.1f} MiB" for name, mib in found[number].items())
            print(f"pass {number:>4}{holds}", flush=True)
        if number == n_passes:
            processes["driver"].terminate()
    return found


def slopes(found: dict[int, dict[str, float]], n_passes: int) -> dict[str, float]:
    """Return by how many MiB each process grows in 100 passes, over the second half of them."""
    numbers = [number for number in found if number > n_passes / 2]
    return {
        name: 100 * float(np.polyfit(numbers, [found[number][name] for number in numbers], 1)[0])
        for name in found[numbers[0]]
    }


def main() -> int:
    n_passes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make_store()
        Path("job.yaml").write_text(JOB)
        with cluster() as processes:
            fill_caches(processes)
            with start("daskmeans", "run", "job.yaml") as driver:
                found = watch({"driver": driver, **processes}, n_passes)
    if max(found, default=0) < n_passes:
        print(f"the run ended early, with {driver.returncode}, after {max(found, default=0)} passes")
        return 1
    grows = slopes(found, n_passes)
    print("MiB in 100 passes:", ", ".join(f"{name} {slope:+.2f}" for name, slope in grows.items()))
    grown = [name for name, slope in grows.items() if slope > MOST_IN_100 * found[n_passes][name]]
    print(f"grown: {', '.join(grown)}" if grown else "flat")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())

"""Strikes runs at random moments, and counts how many end with the same bits as a run that nothing happens to.

    python scripts/fault_runs.py                       # 20 runs of each fault
    python scripts/fault_runs.py 5 kill-worker sigterm

Faults: kill-driver (SIGKILL, then the run is started again), sigterm (likewise), kill-worker, pause-worker (5 s),
flaky-store (5 % of reads fail). The store has 200 blocks; runs with workers have two processes of one thread each.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import xarray as xr
import zarr

REPOSITORY = Path(__file__).parents[1]

JOB = """\
input: {store: X.zarr}
model: {n_clusters: 16, tol: 0, max_iter: 40, memory_budget: 1MiB, init: random, algorithm: lloyd}
output: {path: out, labels: true}
"""
LOCAL = "cluster={type: local, workers: 2, options: {threads_per_worker: 1, silence_logs: 60}}"

# Fails reads of chunks, in all processes of a run, as a disk or a network does.
FLAKY = """\
import random
from zarr.storage import LocalStore
get = LocalStore.get
async def flaky(self, key, prototype, byte_range=None):
    if "c/" in key and random.random() < 0.05:
        raise OSError(5, "Input/output error")
    return await get(self, key, prototype, byte_range)
LocalStore.get = flaky
"""


def make_store() -> None:
    rng = np.random.default_rng(0)
    X = 1.5 * rng.standard_normal((24, 8))[rng.integers(0, 24, 200_000)] + rng.standard_normal((200_000, 8))
    zarr.create_array("X.zarr", shape=X.shape, chunks=(1000, 8), dtype="f4")[:] = X
    Path("job.yaml").write_text(JOB)


def start(output: str, *changes: str, flaky: bool = False) -> subprocess.Popen[str]:
    path = os.pathsep.join([*(["flaky"] if flaky else []), str(REPOSITORY)])
    words = [word for change in (f"output.path={output}", *changes) for word in ("--set", change)]
    command = [sys.executable, "-m", "daskmeans", "run", "job.yaml", *words]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for_pass(job: subprocess.Popen[str], number: int) -> None:
    """Wait until a pass is over, and for a random part of the next one."""
    assert job.stdout is not None
    for line in job.stdout:
        if line.startswith(f"pass {number:>3}"):
            break
    time.sleep(random.uniform(0, 0.4))


def workers_of(job: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(job.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def finish(job: subprocess.Popen[str]) -> str:
    printed, _ = job.communicate(timeout=1800)
    return printed


def strike_driver(output: str, number: int) -> str:
    """End the driver once, or twice, at random moments; then let it finish."""
    for _ in range(random.randint(1, 2)):
        with start(output) as job:
            wait_for_pass(job, random.randint(1, 18))
            job.send_signal(number)
            finish(job)
        expected = 130 if number == signal.SIGTERM else -number
        if job.returncode not in (expected, 0):
            return f"exit code {job.returncode}"
        if job.returncode == 0:
            return ""
    with start(output) as job:
        return "" if (printed := finish(job)) and job.wait() == 0 else printed


def strike_worker(output: str, pause_s: float | None) -> str:
    with start(output, LOCAL) as job:
        wait_for_pass(job, random.randint(1, 14))
        worker = random.choice(workers_of(job))
        worker.send_signal(signal.SIGKILL if pause_s is None else signal.SIGSTOP)
        if pause_s is not None:
            time.sleep(pause_s)
            worker.send_signal(signal.SIGCONT)
        printed = finish(job)
    return "" if job.returncode == 0 else printed


def flaky_store(output: str) -> str:
    with start(output, flaky=True) as job:
        printed = finish(job)
    return "" if job.returncode == 0 else printed


FAULTS = {
    "kill-driver": lambda output: strike_driver(output, signal.SIGKILL),
    "sigterm": lambda output: strike_driver(output, signal.SIGTERM),
    "kill-worker": lambda output: strike_worker(output, None),
    "pause-worker": lambda output: strike_worker(output, 5.0),
    "flaky-store": flaky_store,
}


def is_same(output: str, expected: xr.Dataset) -> bool:
    """Return whether centers, labels and all else are the same bits, and nothing else was left behind."""
    left = [place.name for place in Path().iterdir() if place.name.strip(".").startswith(f"{output}.")]
    return xr.open_zarr(f"{output}/result.zarr").load().identical(expected) and not left


def main() -> int:
    n_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    kinds = sys.argv[2:] or list(FAULTS)
    n_bad = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_store()
        Path("flaky").mkdir()
        Path("flaky/sitecustomize.py").write_text(FLAKY)
        with start("undisturbed") as job:
            finish(job)
        expected = xr.open_zarr("undisturbed/result.zarr").load()
        for kind in kinds:
            n_same = 0
            for i in range(n_runs):
                problem = FAULTS[kind](f"{kind}-{i}")
                same = not problem and is_same(f"{kind}-{i}", expected)
                n_same += same
                if not same:
                    print(f"{kind} {i}: {problem or 'other bits, or something left behind'}", flush=True)
            print(f"{kind}: {n_same} of {n_runs} ended with the same bits", flush=True)
            n_bad += n_runs - n_same
        os.chdir("/")
    return min(n_bad, 1)


if __name__ == "__main__":
    sys.exit(main())

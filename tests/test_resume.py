"""What survives of a run that is killed, interrupted, or out of disk: a resumed run ends with the same bits."""

from __future__ import annotations

import json
import operator
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr
import zarr
from rich.console import Console

import daskmeans
from daskmeans.errors import ConfigError, DataError
from daskmeans.job import checkpoint, locks
from daskmeans.job.configfile import load_config
from daskmeans.job.joblog import read_log
from daskmeans.job.run import run_job
from daskmeans.scan import Scanner

REPOSITORY = Path(__file__).parents[1]
QUIET = Console(quiet=True)

# Plain passes, many of them, over 40 blocks.
JOB = """\
input: {store: X.zarr}
model: {n_clusters: 12, tol: 0, max_iter: 60, memory_budget: 512kB, init: random, algorithm: lloyd}
output: {path: out}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    centers = 1.5 * rng.standard_normal((16, 4))
    X = centers[rng.integers(0, 16, 40_000)] + rng.standard_normal((40_000, 4))
    path = tmp_path_factory.mktemp("store") / "X.zarr"
    zarr.create_array(path, shape=X.shape, chunks=(1000, 4), dtype="f4")[:] = X
    return path


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    """The results of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "job.yaml").write_text(JOB)
    config = load_config(folder / "job.yaml", [f"input.store={store}", f"output.path={folder / 'out'}"])
    run_job(config, QUIET)
    return xr.open_zarr(folder / "out/result.zarr").load()


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, store):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "INTERVAL_S", 0.0)
    Path("X.zarr").symlink_to(store)
    Path("job.yaml").write_text(JOB)


class StopAfterError(Exception):
    """Ends a run as if it were killed."""


def die_after(n_passes, monkeypatch, kind=StopAfterError):
    """Make the run end after some passes of any kind, until the patch is undone."""
    scan = Scanner._scan

    def fatal(self, step, title, *, keeps):
        if self.listener is not None and self.n_passes >= n_passes:
            raise kind
        return scan(self, step, title, keeps=keeps)

    monkeypatch.setattr(Scanner, "_scan", fatal)


def run(*overrides, resume=None):
    folder = run_job(load_config("job.yaml", overrides), QUIET, resume)
    return xr.open_zarr(folder / "result.zarr").load()


def died(*overrides, after, kind=StopAfterError):
    """Run until some passes are done, and then die."""
    with pytest.MonkeyPatch.context() as patch:
        die_after(after, patch, kind)
        with pytest.raises(KeyboardInterrupt if kind is KeyboardInterrupt else kind) as caught:
            run(*overrides)
    return caught.value


def command():
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    arguments = [sys.executable, "-m", "daskmeans", "run", "job.yaml"]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def strike(job, number, after, delay_s):
    """Send a signal to a run at some moment after a pass."""
    for line in job.stdout:
        if re.match(rf"pass +{after}\b", line):
            break
    time.sleep(delay_s)
    job.send_signal(number)
    return job.communicate(timeout=60)


def test_a_driver_killed_again_and_again_ends_with_the_same_bits(undisturbed):
    chance = random.Random(0)
    for after in (3, 12):
        with command() as job:
            strike(job, signal.SIGKILL, after, chance.uniform(0, 0.3))
        assert job.returncode == -signal.SIGKILL
        assert not Path("out").exists()
    xr.testing.assert_identical(run(resume=True), undisturbed)
    assert sorted(place.name for place in Path().iterdir()) == ["X.zarr", "job.yaml", "out"]
    entries = list(read_log(Path("out/log.jsonl").read_text()))
    events = [entry["event"] for entry in entries]
    told = next(entry for entry in reversed(entries) if entry["event"] == "pass")
    assert {"time", "pass", "inertia", "shift", "bytes", "seconds", "workers", "memory"} <= told.keys()
    assert told["workers"] == 1
    assert told["memory"] > 2**26
    assert events.count("began") == 3
    assert events[-1] == "done"


def test_sigterm_ends_processes_and_says_how_to_go_on(undisturbed):
    cluster = "\ncluster: {type: local, options: {n_workers: 1, threads_per_worker: 2}}\n"
    Path("job.yaml").write_text(JOB + cluster)
    with command() as job:
        for line in job.stdout:
            if line.startswith("pass   4"):
                break
        children = psutil.Process(job.pid).children(recursive=True)
        job.send_signal(signal.SIGTERM)
        _, errors = job.communicate(timeout=60)
    assert job.returncode == 130, errors
    assert re.search(
        r"error: interrupted; no results were written; to go on after pass \d+ of the iteration, run the same command "
        r"again \(.*/out.checkpoint\)",
        " ".join(errors.split()),
    )
    assert "Traceback" not in errors
    assert children
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert sorted(place.name for place in Path().iterdir()) == ["X.zarr", "job.yaml", "out.checkpoint"]
    xr.testing.assert_identical(run("cluster={type: threads}", resume=True), undisturbed)


@pytest.mark.parametrize(
    "model",
    [
        "{n_clusters: 8, memory_budget: 512kB, random_state: 3, n_init: 2}",  # look-ahead: retreat and trust
        "{n_clusters: 8, memory_budget: 512kB, init: random-partition, tol: 0, max_iter: 9, algorithm: lloyd}",
        "{n_clusters: 2, memory_budget: 512kB, init: [[0, 0, 0, 0], [1, 1, 1, 1]], max_iter: 7}",
        "{n_clusters: 5, memory_budget: 1GiB, init: k-means++, tol: 0}",  # kept in memory
    ],
)
def test_every_way_of_seeding_and_iterating_goes_on_to_the_same_bits(model):
    overrides = [f"model={model}", "preprocess.scale=standard"]
    if "init: [" in model:
        overrides.pop()
    whole = run(*overrides, "output.path=whole")
    n_passes = json.loads(Path("whole/summary.json").read_text())["n_passes"]
    for after in {4, n_passes - 1} & set(range(2, n_passes)):
        died(*overrides, f"output.path=out{after}", after=after)
        went_on = run(*overrides, f"output.path=out{after}")
        xr.testing.assert_identical(went_on, whole)


def test_seeding_is_not_done_twice():
    died("model.init=k-means||", "model.max_iter=4", after=4)
    run("model.init=k-means||", "model.max_iter=4")
    titles = [entry["title"] for entry in read_log(Path("out/log.jsonl").read_text()) if entry["event"] == "pass"]
    assert sum("k-means||" in title for title in titles) == 1


def test_only_the_same_run_goes_on(store):
    died(after=6)
    with pytest.raises(ConfigError, match=r"model.n_clusters was 12, is 13\. Change"):
        run("model.n_clusters=13")
    with pytest.raises(ConfigError, match=r"data.shape was \[40000\], is \[39000\]"):
        run("input.select={sample: [0, 38999]}")
    changed = Path("changed.zarr")
    zarr.create_array(changed, shape=(40_000, 4), chunks=(200, 4), dtype="f4")[:] = zarr.open_array(store)[:]
    Path("X.zarr").unlink()
    changed.rename("X.zarr")
    with pytest.raises(ConfigError, match=r"input.store was"):
        run()
    assert list(Path("out.checkpoint").glob("*.npz"))
    run("model.n_clusters=13", "model.max_iter=2", resume=False)


def test_changed_values_are_seen():
    data = zarr.create_array("Y.zarr", shape=(4000, 4), chunks=(200, 4), dtype="f4")
    data[:] = zarr.open_array("X.zarr")[:4000]
    died("input.store=Y.zarr", after=3)
    data[17, 2] += 1
    with pytest.raises(DataError, match=r"out.checkpoint: the values of the input have changed"):
        run("input.store=Y.zarr")
    data[17, 2] = zarr.open_array("X.zarr")[17, 2]
    run("input.store=Y.zarr", resume=True)


def test_resume_needs_a_checkpoint():
    with pytest.raises(ConfigError, match=r"--resume: there is no checkpoint in .*out.checkpoint"):
        run(resume=True)
    assert not Path("out.checkpoint").exists()


def test_budget_of_an_interrupted_run_is_that_of_its_continuation():
    few = ["model.memory_budget=null", "model.max_iter=3"]
    died(*few, after=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daskmeans.job.inputs.DEFAULT_PART", 17)
        run(*few)


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    place = random.Random(0).randrange(len(content))
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, lambda content: b"", lambda content: b"nonsense"])
def test_damaged_checkpoints_are_named_and_left_out(undisturbed, damage):
    died(after=8)
    last, before = sorted(Path("out.checkpoint").glob("*.npz"), reverse=True)
    last.write_bytes(damage(last.read_bytes()))
    with pytest.warns(UserWarning, match=rf"{last.name} is damaged and left out: its content is not what was written"):
        found = checkpoint.read_last(Path("out.checkpoint"))
    assert found.state.n_passes == int(before.name[5:11])
    if damage is flip:
        with pytest.warns(UserWarning, match="is damaged and left out"):
            xr.testing.assert_identical(run(), undisturbed)


def test_checkpoints_that_are_foreign_cannot_run_code():
    import hashlib
    import io

    file = io.BytesIO()
    np.savez(file, told=np.array([object()], dtype=object), allow_pickle=True)
    content = file.getvalue()
    folder = Path("out.checkpoint")
    folder.mkdir()
    (folder / f"pass-000001.{hashlib.sha256(content).hexdigest()}.npz").write_bytes(content)
    with pytest.warns(UserWarning, match="allow_pickle=False"):
        assert checkpoint.read_last(folder) is None


def test_second_run_with_one_output_is_refused():
    with locks.locked(Path("out"), "output.path"):
        with pytest.raises(ConfigError) as caught:
            run()
        assert f"another run writes {Path('out').absolute()}: process {os.getpid()} of " in str(caught.value)
        assert f" on {socket.gethostname()}, for 0:00:0" in str(caught.value)
    assert not Path("out.lock").exists()


def test_lock_of_the_dead_is_taken_over(monkeypatch):
    lock = Path("out.lock")
    lock.write_text(json.dumps({"pid": os.getpid(), "began": 1, "host": socket.gethostname()}))
    with locks.locked(Path("out"), "output.path"):
        assert locks.read_owner(lock)["pid"] == os.getpid()
    lock.write_text(json.dumps({"pid": 1, "began": 1, "host": "elsewhere", "user": "ada", "since": 0}))
    with pytest.raises(ConfigError, match="process 1 of ada on elsewhere, for"), locks.locked(Path("out"), "key"):
        pass
    os.utime(lock, (0, 0))
    with locks.locked(Path("out"), "output.path"):
        assert locks.read_owner(lock)["host"] == socket.gethostname()
    lock.write_text("half a")
    with locks.locked(Path("out"), "output.path"):
        pass


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place):
    """Leave no space on a disk."""
    with (place / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_full_disk_loses_nothing_that_was_whole(small_disk, undisturbed):
    output = f"output.path={small_disk / 'out'}"
    few = "model.max_iter=2"
    run(output, few, "output.labels=false")
    earlier = xr.open_zarr(small_disk / "out/result.zarr").load()
    died(output, "output.overwrite=true", after=6)
    checkpoints = {path: path.read_bytes() for path in (small_disk / "out.checkpoint").glob("*.npz")}
    fill(small_disk)
    # Labels, checkpoints, log: nothing can be written.
    with pytest.raises((ConfigError, DataError), match=rf"{small_disk}/.*No space left on device"):
        run(output, "output.overwrite=true")
    assert {path: path.read_bytes() for path in (small_disk / "out.checkpoint").glob("*.npz")} == checkpoints
    xr.testing.assert_identical(xr.open_zarr(small_disk / "out/result.zarr").load(), earlier)
    (small_disk / "filler").unlink()
    xr.testing.assert_identical(run(output, "output.overwrite=true"), undisturbed)


@pytest.mark.parametrize(
    "moment",
    [
        "daskmeans.job.checkpoint.write",
        "daskmeans.job.results.write_clusters",
        "daskmeans.job.results.consolidate",
        "daskmeans.job.results.write_summary",
        "daskmeans.job.run.write_table",
        "daskmeans.job.run.shutil.copyfile",
    ],
)
def test_disk_that_gets_full_on_the_way(small_disk, undisturbed, monkeypatch, moment):
    output = f"output.path={small_disk / 'out'}"
    run(output, "model.max_iter=2", "output.labels=false")
    earlier = xr.open_zarr(small_disk / "out/result.zarr").load()
    function = operator.attrgetter(moment.partition("daskmeans.")[2])(daskmeans)

    def fill_first(*args, **kwargs):
        fill(small_disk)
        return function(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(moment, fill_first)
        patch.setattr(warnings, "showwarning", lambda *_, **__: None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises((ConfigError, DataError), match=rf"{small_disk}/.*No space left on device"):
                run(output, "output.overwrite=true")
    xr.testing.assert_identical(xr.open_zarr(small_disk / "out/result.zarr").load(), earlier)
    (small_disk / "filler").unlink()
    assert sorted(place.name for place in small_disk.iterdir()) in (["out"], ["out", "out.checkpoint"])
    xr.testing.assert_identical(run(output, "output.overwrite=true"), undisturbed)


def test_full_disk_stops_no_run_that_needs_it_for_checkpoints_only(small_disk, tmp_path):
    folder = small_disk / "out.checkpoint"
    folder.mkdir()
    state = checkpoint.State([checkpoint.Model(np.zeros((2, 3)))], 1)
    found = checkpoint.Checkpoint(state, {}, "", [], 0, 0)
    checkpoint.write(folder, found)
    fill(small_disk)
    journal = checkpoint.Journal(folder, {}, None, Scanner(None))
    with pytest.warns(UserWarning, match=rf"{folder}: the checkpoint cannot be written: .*No space left"):
        journal.save(checkpoint.State([checkpoint.Model(np.ones((200, 300)))], 2))
    assert checkpoint.read_last(folder).state.n_passes == 1
    assert len(list(folder.iterdir())) == 1

"""What happens to a run when workers die, hang, or never come; and what is refused of clusters before they start."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import distributed
import numpy as np
import psutil
import pytest
import xarray as xr
import zarr
from rich.console import Console

from daskmeans.errors import ClusterError, ConfigError
from daskmeans.job.cluster import all_paused, describe_workers, job_script, translated_errors, what_is_there
from daskmeans.job.clustertypes import check_options
from daskmeans.job.config import ClusterConfig
from daskmeans.job.configfile import load_config
from daskmeans.job.digest import digest_of
from daskmeans.job.interrupts import heeded
from daskmeans.job.places import Place
from daskmeans.job.predict import predict_job
from daskmeans.job.results import open_clusters
from daskmeans.job.run import run_job
from daskmeans.job.submit import SYSTEMS, files_of
from daskmeans.job.watch import watched
from daskmeans.scan import Scanner

QUIET = Console(quiet=True)

JOB = """\
input: {store: X.zarr}
model: {n_clusters: 12, tol: 0, max_iter: 15, memory_budget: 512kB, init: random, algorithm: lloyd}
output: {path: out}
"""
LOCAL = "{type: local, workers: 2, options: {threads_per_worker: 1, silence_logs: 60}, timeout: %g}"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)


@pytest.fixture
def store():
    rng = np.random.default_rng(0)
    X = 1.5 * rng.standard_normal((16, 4))[rng.integers(0, 16, 40_000)] + rng.standard_normal((40_000, 4))
    zarr.create_array("X.zarr", shape=X.shape, chunks=(1000, 4), dtype="f4")[:] = X


def run(*overrides):
    folder = run_job(load_config("job.yaml", overrides), QUIET)
    return xr.open_zarr(folder / "result.zarr").load()


def at_pass(number, fault, monkeypatch):
    """Call `fault` with the processes of the workers that this test has started, shortly after a pass began."""
    scan, before = Scanner._scan, {child.pid for child in psutil.Process().children(recursive=True)}

    def observed(self, step, title, *, keeps):
        if self.listener is not None and self.n_passes == number:
            children = psutil.Process().children(recursive=True)
            mine = [c for c in children if c.pid not in before and "spawn_main" in " ".join(c.cmdline())]
            threading.Timer(0.05, fault, [mine]).start()
        return scan(self, step, title, keeps=keeps)

    monkeypatch.setattr(Scanner, "_scan", observed)


def test_lost_and_paused_workers_change_no_bit(store, monkeypatch):
    undisturbed = run("output.path=undisturbed", "model.max_iter=6")
    struck = []

    def kill_one_and_pause_the_other(workers):
        workers[0].send_signal(signal.SIGKILL)
        workers[1].send_signal(signal.SIGSTOP)
        time.sleep(1)
        workers[1].send_signal(signal.SIGCONT)
        struck.extend(workers)

    with monkeypatch.context() as patch:
        at_pass(4, kill_one_and_pause_the_other, patch)
        xr.testing.assert_identical(run(f"cluster={LOCAL % 60}", "model.max_iter=6"), undisturbed)
    assert len(struck) == 2
    _, alive = psutil.wait_procs(struck, timeout=10)
    assert not alive


class Deaf:
    """A listener that does nothing."""

    def __getattr__(self, name):
        return lambda *_: None


def do_two_passes(listener):
    """Do a slow pass, and one that hangs."""
    listener.started(4, "iteration", 7)
    for _ in range(4):
        time.sleep(0.2)
        listener.advanced(1, 0)
    listener.finished(None)
    time.sleep(0.6)  # between passes nothing is expected
    listener.started(5, "labels", 7)
    time.sleep(5)


def never():
    return False


def test_a_pass_that_hangs_ends_the_run():
    with pytest.raises(ClusterError) as caught, heeded(), watched(Deaf(), 0.4, lambda: "2 workers", never) as listener:
        do_two_passes(listener)
    message = str(caught.value)
    assert "pass 5 (labels): no block was done for 0.4 s (cluster.timeout); 2 workers. Look at the logs" in message
    assert "run the same command again to go on from the last pass" in message


def test_a_pass_ends_the_run_early_when_all_workers_are_paused(monkeypatch):
    monkeypatch.setattr("daskmeans.job.watch.PAUSED_S", 0.4)
    monkeypatch.setattr("daskmeans.job.watch.LOOK_S", 0.1)
    message = r"pass 5 \(labels\): no block was done for 0 s, and all workers are paused for lack of memory; 2 workers"
    with (
        pytest.raises(ClusterError, match=message),
        heeded(),
        watched(Deaf(), None, lambda: "2 workers", lambda: True) as listener,
    ):
        do_two_passes(listener)


def hoard():
    """Take more and more memory, as a block does that is larger than it was said to be."""
    hoarded = []
    while True:
        hoarded.append(bytes([1]) * 2**24)
        time.sleep(0.02)


def small_workers(**settings):
    """A cluster of one worker with very little memory; `settings` of what Dask does about it."""
    config = {f"distributed.{key.replace('__', '.')}": value for key, value in settings.items()}
    stack = contextlib.ExitStack()
    stack.enter_context(dask.config.set(config))
    options = {"threads_per_worker": 1, "memory_limit": "400MiB", "dashboard_address": ":0", "silence_logs": 60}
    cluster = stack.enter_context(distributed.LocalCluster(n_workers=1, **options))
    stack.enter_context(distributed.Client(cluster))
    return stack


def test_workers_that_are_killed_for_memory_are_explained():
    message = r"workers died while computing, most likely for lack of memory: 1 of them .*; lower model.memory_budget"
    with (
        small_workers(scheduler__allowed_failures=0, worker__memory__pause=False),
        pytest.raises(ClusterError, match=message),
        translated_errors(),
    ):
        distributed.get_client().submit(hoard, retries=0).result()


def test_workers_that_are_paused_are_seen():
    with small_workers(worker__memory__pause=0.1, worker__memory__spill=False):
        until = time.monotonic() + 20
        while not all_paused() and time.monotonic() < until:
            time.sleep(0.1)
        told = what_is_there()
    assert re.search(r"knows of 1 workers, tcp://\S+ paused with \S+ MiB of 400.0 MiB; lower model.memory_budget", told)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("{type: slurn}", "cluster.type: expected 'threads', .* got 'slurn'; did you mean 'slurm'?"),
        ("{type: slurm, options: {core: 2}}", "cluster.options.core: unknown option; did you mean 'cores'?"),
        ("{type: slurm, options: {memory: lots}}", "cluster.options.memory: expected a size such as 2GiB"),
        ("{type: slurm, options: {wall_time: 1}}", "wall_time: unknown option; did you mean 'walltime'?"),
        ("{type: local, workers: 2, adapt: {maximum: 3}}", "cluster.adapt: expected either workers or adapt, got both"),
        ("{type: local, workers: 2, options: {n_workers: 2}}", "n_workers: given twice"),
        ("{type: threads, workers: 2}", "cluster.workers: the workers of threads are not asked for here"),
        ("{type: slurm, adapt: {minimum: 3, maximum: 2}}", "cluster.adapt.minimum: expected at most the maximum, 2"),
        ("{type: distributed.LocalCluster, options: {n_worker: 1}}", "did you mean 'n_workers'?"),
        ("{performance_report: true}", "cluster.performance_report: threads are no cluster, and have no such report"),
        ("{type: slurm, driver: {walltime: 1h}}", "cluster.driver.walltime: expected a time such as 24:00:00"),
        ("{type: address, options: {address: tls://h:1, security: {tls_ca: x}}}", "did you mean 'tls_ca_file'?"),
    ],
)
def test_mistakes_in_the_cluster_are_found_before_it_starts(cluster, message):
    with pytest.raises(ConfigError, match=message):
        load_config("job.yaml", [f"cluster={cluster}"])


def test_lacking_packages_are_named_with_their_remedy(monkeypatch):
    for kind in ("mpi", "kubernetes", "gateway"):
        with pytest.raises(ConfigError, match=rf"{kind} needs dask_{kind}.* pip install daskmeans\[{kind}\]"):
            describe_workers(ClusterConfig(type=kind))
    with pytest.raises(ConfigError, match=r"there is no LocalClutser in distributed; did you mean 'LocalCluster'\?"):
        describe_workers(ClusterConfig(type="distributed.LocalClutser"))
    assert check_options("my_site.Cluster", {"anything": 1}) == []


def test_performance_report_needs_its_package(monkeypatch):
    monkeypatch.setattr("daskmeans.job.cluster.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package bokeh; pip install daskmeans\[performance\]"):
        describe_workers(ClusterConfig(type="local", performance_report=True))


def test_performance_report_is_written_beside_the_results(store):
    pytest.importorskip("bokeh", reason="bokeh is not installed")
    run(f"cluster={LOCAL % 60}", "cluster.performance_report=true", "model.max_iter=1", "output.labels=false")
    assert "Bokeh" in Path("out/performance.html").read_text()


def test_any_class_of_clusters_runs_a_job(store):
    options = "{n_workers: 0, threads_per_worker: 1, dashboard_address: '127.0.0.1:0', silence_logs: 60}"
    cluster = f"cluster={{type: distributed.LocalCluster, workers: 1, options: {options}}}"
    with pytest.raises(ConfigError, match=r"model.memory_budget: missing; .* workers of distributed.LocalCluster"):
        run(cluster, "model.memory_budget=null")
    xr.testing.assert_identical(run(cluster, "model.max_iter=2"), run("model.max_iter=2", "output.path=threads"))


def files_for(kind, *overrides):
    """Return the files that would be written to submit the driver, as they are in `out.submit`."""
    folder = Path("out.submit").absolute()
    return files_of(load_config("job.yaml", overrides), Path("job.yaml"), ["model.n_clusters=3"], folder, kind)


@pytest.mark.parametrize("kind", ["slurm", "pbs", "sge", "lsf", "oar"])
def test_scripts_of_batch_systems(kind):
    job = [f"cluster.type={kind}", "cluster.workers=2", "cluster.options={cores: 4, memory: 8GiB, queue: long}"]
    driver = "cluster.driver={walltime: '1-00:00:00', memory: 3GiB, resubmit: true, prologue: [module load python]}"
    config = load_config("job.yaml", [*job, driver])
    assert describe_workers(config.cluster).n_workers == 2
    assert describe_workers(config.cluster).n_threads == 4
    lines = files_for(kind, *job, driver)["driver.sh"].splitlines()
    assert lines[0] == "#!/bin/bash"
    assert any("long" in line for line in lines)
    assert any("24:00:00" in line or "-W 1440" in line for line in lines)
    run = next(i for i, line in enumerate(lines) if line.startswith("timeout --signal=TERM 86280 "))
    assert lines[run].endswith("--set model.n_clusters=3 &")
    assert lines.index("module load python") < run
    assert any(f"then {SYSTEMS[kind].command[0]} " in line for line in lines)


def test_description_for_htcondor():
    driver = "{walltime: '1:00:00', cores: 2, account: physics, directives: [requirements = HasDisk], resubmit: true}"
    files = files_for("htcondor", f"cluster.driver={driver}")
    folder = Path("out.submit").absolute()
    assert {
        *(f"executable = {folder}/driver.sh", f"output = {folder}/driver.log", "request_cpus = 2"),
        *("request_memory = 4096MB", "allowed_job_duration = 3600", "accounting_group = physics"),
        *("requirements = HasDisk", f"initialdir = {Path.cwd()}"),
    } <= set(files["driver.sub"].splitlines())
    assert files["driver.sub"].splitlines()[-1] == "queue"
    assert f"then condor_submit -terse {folder}/driver.sub; fi" in files["driver.sh"]
    assert "HasDisk" not in files["driver.sh"]


# Instead of a run: it waits for SIGTERM, and ends as a run does.
# It starts a little later than its parents, as Python does: `timeout` loses a signal while it forks.
FAKE_RUN = """\
#!/bin/bash
trap 'exit 130' TERM
sleep 0.5
touch started
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("struck", "walltime", "again"),
    [
        (signal.SIGUSR1, "1:00:00", True),  # the batch system warns
        (signal.SIGUSR1, "null", True),
        (signal.SIGTERM, "1:00:00", False),  # somebody cancels the job
        (None, "0:00:02", True),  # the time is over
    ],
)
def test_driver_submits_its_continuation_when_its_time_is_over(tmp_path, monkeypatch, struck, walltime, again):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "fake"))
    for name, text in {"fake": FAKE_RUN, "qsub": "#!/bin/bash\necho $1 > submitted\n"}.items():
        Path(name).write_text(text)
        Path(name).chmod(0o755)
    Path("driver.sh").write_text(
        files_for("pbs", f"cluster.driver={{walltime: {walltime}, resubmit: true}}")["driver.sh"]
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen(["bash", "driver.sh"], env=environment) as job:
        while not Path("started").exists():
            time.sleep(0.02)
        if struck is not None:
            job.send_signal(struck)
        assert job.wait(timeout=20) == (130 if struck else 124)
    assert Path("submitted").exists() is again
    assert not again or Path("submitted").read_text().strip() == str(tmp_path / "out.submit/driver.sh")


def test_script_of_the_workers_is_shown_without_a_batch_system():
    options = {"cores": 2, "memory": "4GiB", "interface": "lo", "queue": "long"}
    script = job_script(ClusterConfig(type="pbs", options=options))
    assert "#PBS -q long" in script
    with pytest.raises(ConfigError, match=r"cluster.type: threads submits no job scripts; slurm, pbs"):
        job_script(ClusterConfig())


def test_a_result_of_others_starts_no_cluster_of_its_choice(store):
    run("model.max_iter=1", "output.labels=false")
    path = Path("out/config.yaml")
    path.write_text(path.read_text().replace("type: threads", "type: os.system"))
    summary = json.loads(Path("out/summary.json").read_text())
    summary["digest"] = digest_of(open_clusters(Place.of("out")), path.read_text())
    Path("out/summary.json").write_text(json.dumps(summary))
    predict_job(Path("out"), "X.zarr", "labels.zarr", [], False, QUIET)
    assert xr.open_zarr("labels.zarr")["labels"].shape == (40_000,)

"""What a job leaves behind, that it is whole or not there at all, and that where it ran makes no difference."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from era import CUT, ERA, QUIET, REPOSITORY, run
from sklearn.cluster import KMeans as Reference
from sklearn.preprocessing import StandardScaler

from daskmeans.errors import ConfigError, DataError
from daskmeans.job import staging
from daskmeans.job.cluster import Workers, describe_workers
from daskmeans.job.config import ClusterConfig
from daskmeans.job.configfile import load_config
from daskmeans.job.interrupts import insistent
from daskmeans.job.plan import JobPlan
from daskmeans.job.predict import predict_job
from daskmeans.job.run import run_job
from daskmeans.job.staging import staged
from daskmeans.memory import GIB, MIB, Budget, Plan

pytestmark = pytest.mark.usefixtures("era_job")


def names(folder):
    return [place.name for place in folder.iterdir()]


def era_rows():
    """Return the cut as (samples, features), stacked by hand."""
    cut = xr.open_zarr(CUT, consolidated=False).load()
    rows = [cut[name].transpose(..., "level").values.reshape(-1, cut.sizes["level"]) for name in ("z", "u", "v")]
    return cut, np.concatenate(rows, axis=1).astype(float)


def test_results_are_those_of_sklearn_in_the_words_of_the_input():
    cut, X = era_rows()
    start = X[[0, 1500, 3000, 4500]]
    result = run("model.tol=0", f"model.init={start.tolist()}")
    scaler = StandardScaler().fit(X)
    reference = Reference(4, init=scaler.transform(start), n_init=1, tol=0, algorithm="lloyd").fit(scaler.transform(X))

    labels = result["labels"]
    assert labels.dims == ("month", "latitude", "longitude")
    assert labels.dtype == np.int32
    assert labels.encoding["chunks"] == zarr.open_array(CUT / "z", mode="r").chunks[:1] + labels.encoding["chunks"][1:]
    for dim in labels.dims:
        assert labels[dim].equals(cut[dim])
    np.testing.assert_array_equal(labels.values.reshape(-1), reference.labels_)
    assert result["centers"].dims == ("cluster", "feature")
    assert result["feature"].values[4] == "u[level=500]"
    expected = scaler.inverse_transform(reference.cluster_centers_)
    np.testing.assert_allclose(result["centers"], expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(result["counts"], np.bincount(reference.labels_))
    np.testing.assert_allclose(result["inertia_per_cluster"].sum(), reference.inertia_, rtol=1e-6)


def test_summary_and_resolved_config_allow_to_run_again():
    first = run("model.memory_budget=null", "output.path=first")
    summary = json.loads(Path("first/summary.json").read_text())
    assert summary["n_samples"] == 6560
    assert summary["n_features"] == 9
    assert summary["n_clusters"] == 4
    assert summary["n_passes"] == len(summary["passes"])
    assert summary["bytes_read"] == 6560 * 9 * 4
    assert summary["converged"] is True
    assert summary["inertia"] == pytest.approx(float(first["inertia_per_cluster"].sum()))
    assert {"n_iter", "elapsed_s", "config", "versions", "n_dropped", "peak_worker_bytes"} <= set(summary)
    again = run_job(load_config("first/config.yaml", ["output.path=again"]), QUIET)
    assert load_config(again / "config.yaml").model.memory_budget == summary["budget_bytes"]
    xr.testing.assert_identical(xr.open_zarr(again / "result.zarr").load(), first)


def test_dropped_samples_have_label_minus_one():
    cut = xr.open_zarr(CUT, consolidated=False).load().drop_encoding()
    cut["u"][1, 2, 3, 4] = np.nan
    cut.chunk({"month": 1, "latitude": 10, "longitude": 40}).to_zarr("holes.zarr", zarr_format=3, consolidated=False)
    result = run("input.store=holes.zarr", "input.missing=drop")
    assert result["labels"].encoding["chunks"] == (1, 10, 40)
    missing = cut["u"].isnull().any("level")
    np.testing.assert_array_equal(result["labels"].values == -1, missing.transpose(*result["labels"].dims))
    assert json.loads(Path("out/summary.json").read_text())["n_dropped"] == 1


def test_selection_that_cuts_chunks_of_labels():
    zarr.create_array("X.zarr", shape=(1000, 2), chunks=(64, 2), dtype="f4")[:] = np.arange(2000).reshape(1000, 2)
    Path("job.yaml").write_text(
        "input: {store: X.zarr, select: {sample: [10, 989]}}\noutput: {path: out}\n"
        "model: {n_clusters: 3, memory_budget: 32kB}\n"
    )
    labels = run()["labels"]
    assert labels.shape == (980,)
    # Three runs of equal labels: no block has overwritten its neighbour's part of a chunk.
    assert np.count_nonzero(np.diff(labels.values)) == 2
    assert labels.min() == 0


def test_labels_may_be_left_out():
    assert set(run("output.labels=false")) == {
        *("centers", "counts", "inertia_per_cluster"),
        *("scaled_centers", "feature_mean", "feature_scale"),
    }


def test_bits_are_the_same_on_threads_on_a_scheduler_and_on_local_processes(cluster):
    shutil.copytree(CUT, "cut.zarr")
    Path("job.yaml").write_text(ERA.replace(str(CUT), "cut.zarr").replace("64MiB", "2MiB"))
    threads = run("output.path=threads")
    address = ["cluster.type=address", f"cluster.options.address={cluster.scheduler_address}"]
    xr.testing.assert_identical(run("output.path=address", *address), threads)
    for n_workers in (1, 2):
        options = "{threads_per_worker: 1, memory_limit: 2GiB, silence_logs: 50}"
        local = f"cluster={{type: local, workers: {n_workers}, options: {options}}}"
        xr.testing.assert_identical(run(f"output.path=local{n_workers}", local), threads)


def test_predict_gives_the_labels_of_the_fit():
    labels = run()["labels"]
    predict_job(Path("out"), str(CUT), "new.zarr", [], False, QUIET)
    predicted = xr.open_zarr("new.zarr")["labels"].load()
    xr.testing.assert_equal(predicted, labels)
    assert predicted.dtype == np.int32
    with pytest.raises(ConfigError, match=r"OUTPUT: .*new.zarr exists; choose another path"):
        predict_job(Path("out"), str(CUT), "new.zarr", [], False, QUIET)


def test_predict_refuses_other_features_and_missing_values():
    run()
    with pytest.raises(DataError, match=r"STORE has 6 features .* RESULT has 9"):
        predict_job(Path("out"), str(CUT), "new.zarr", ["input.variables=[u, v]"], False, QUIET)
    with pytest.raises(DataError, match=r"feature 3 of STORE is v\[level=200\], of RESULT u\[level=200\]"):
        predict_job(Path("out"), str(CUT), "new.zarr", ["input.variables=[z, v, u]"], False, QUIET)
    cut = xr.open_zarr(CUT, consolidated=False).load().drop_encoding()
    cut["u"][0, 0, 0, 0] = np.nan
    cut.to_zarr("holes.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(DataError, match="NaN or infinity in 1 of 6,560 rows"):
        predict_job(Path("out"), "holes.zarr", "new.zarr", [], False, QUIET)
    assert not Path("new.zarr").exists()
    with pytest.raises(ConfigError, match="holds no results of a finished run"):
        predict_job(Path("nowhere"), str(CUT), "new.zarr", [], False, QUIET)


def fail(place):
    """Do as a run does that dies half-way."""
    place.touch()
    raise RuntimeError


def test_new_folder_replaces_the_old_one_only_when_it_is_whole(tmp_path):
    place = tmp_path / "deep" / "er" / "out"
    with pytest.raises(RuntimeError), staged(place, "key") as folder:
        fail(folder / "half")
    assert names(tmp_path) == ["job.yaml"]
    with staged(place, "key") as folder:
        (folder / "first").touch()
        assert not place.exists()
    with staged(place, "key") as folder:
        (folder / "second").touch()
        assert names(place) == ["first"]
    assert names(place) == ["second"]
    assert names(place.parent) == ["out"]


def test_next_run_cleans_up_behind_dead_ones_and_puts_back_what_they_were_replacing(tmp_path, monkeypatch):
    place = tmp_path / "out"
    alive = tmp_path / staging._hidden_name(place, staging.PARTIAL)
    alive.mkdir()
    monkeypatch.setattr(staging, "began", lambda pid: 0 if pid == os.getpid() else 1)
    dead = [tmp_path / staging._hidden_name(place, state) for state in (staging.PARTIAL, staging.REPLACED)]
    monkeypatch.undo()
    for folder in dead:
        folder.mkdir()
    (dead[1] / "earlier").touch()
    with pytest.raises(RuntimeError), staged(place, "key") as folder:
        fail(folder / "half")
    assert not any(folder.exists() for folder in dead)
    assert alive.exists()
    assert names(place) == ["earlier"]


def test_plan_adds_up_what_a_worker_holds():
    rows = Plan(10**6, 64, 4, n_blocks=10, largest_block_rows=10**5, budget=Budget(GIB), n_clusters=8)
    plan = JobPlan(rows, Workers(2, 4, 4 * GIB), fixed_passes=5, max_iter=10)
    assert rows.in_flight_bytes == 10**5 * (3 * 256 + 24)
    assert plan.kept_bytes == 256 * 10**6
    assert plan.worker_bytes > 4 * rows.in_flight_bytes + 128 * 10**6
    plan.check()
    with pytest.raises(ConfigError, match=r"a worker would need .* lower model.memory_budget \(now 1.0 GiB\)"):
        JobPlan(rows, Workers(2, 4, 512 * MIB), fixed_passes=5, max_iter=10).check()


def test_workers_of_a_local_cluster_are_known_before_it_starts():
    options = {"n_workers": 3, "threads_per_worker": 2, "memory_limit": "512MiB"}
    assert describe_workers(ClusterConfig(type="local", options=options)) == Workers(3, 2, 512 * MIB)
    assert describe_workers(ClusterConfig(type="threads", options={"num_workers": 3})).n_threads == 3


def lose_an_interrupt():
    """Do as a finalizer does that is struck by Ctrl-C, and wait for what will not come."""
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    time.sleep(5)


def test_interrupt_that_gets_lost_comes_again(monkeypatch):
    monkeypatch.setattr("daskmeans.job.interrupts.RETRY_S", 0.1)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), insistent():
        lose_an_interrupt()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_arrives_though_a_package_has_taken_it(monkeypatch):
    monkeypatch.setattr("daskmeans.job.interrupts.RETRY_S", 0.1)
    before = signal.signal(signal.SIGINT, lambda *_: sys.exit())
    try:
        with pytest.raises(KeyboardInterrupt), insistent():
            lose_an_interrupt()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_of_configurations_are_valid(path):
    load_config(path)

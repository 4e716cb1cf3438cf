"""Labels of new data, and how clear they are: out of core, aligned to chunks, whole or not there at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from era import CUT, QUIET, REPOSITORY, kill_while_it_writes
from era import run_folder as run
from sklearn.metrics.pairwise import euclidean_distances

from daskmeans.errors import ConfigError
from daskmeans.job import predict
from daskmeans.job.cluster import Workers
from daskmeans.job.config import ClusterConfig
from daskmeans.job.configfile import load_config
from daskmeans.job.predict import predict_job
from daskmeans.labelled import rank_rows
from daskmeans.stores import open_samples

pytestmark = pytest.mark.usefixtures("era_job")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ranks_are_those_of_all_distances(rng, dtype):
    X = (rng.normal(size=(500, 5)) + 100).astype(dtype)
    centers = X[:7].astype(float)
    distances = np.linalg.norm(X[:, None].astype(float) - centers, axis=2)
    labels = distances.argmin(axis=1).astype(np.int32)
    ranked = rank_rows(X, labels, centers)
    ordered = np.sort(distances, axis=1)
    np.testing.assert_array_equal(ranked.runner_up, distances.argsort(axis=1)[:, 1])
    np.testing.assert_allclose(ranked.distance, ordered[:, 0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ranked.margin, ordered[:, 1] - ordered[:, 0], rtol=1e-5, atol=1e-6)


def test_one_center_has_no_runner_up(rng):
    X = rng.normal(size=(5, 2))
    ranked = rank_rows(X, np.zeros(5, np.int32), X[:1])
    assert set(ranked.runner_up) == {-1}
    assert np.isnan(ranked.margin).all()


def test_distances_and_runner_up_are_written_beside_the_labels():
    cut = xr.open_zarr(CUT, consolidated=False).load().drop_encoding()
    cut["u"][1, 2, 3, 4] = np.nan
    cut.chunk({"month": 1, "latitude": 10, "longitude": 40}).to_zarr("holes.zarr", consolidated=False)
    more = ["output.distances=true", "output.runner_up=true"]
    result = xr.open_zarr(run("input.store=holes.zarr", "input.missing=drop", *more) / "result.zarr").load()
    clusters = ("cluster", "feature")
    mean, scale = result["feature_mean"].values, result["feature_scale"].values
    rows = np.concatenate([cut[name].transpose(..., "level").values for name in ("z", "u", "v")], axis=-1)
    scaled = ((rows.reshape(-1, 9) - mean) / scale).astype(float)
    gone = ~np.isfinite(scaled).all(axis=1)
    distances = euclidean_distances(np.nan_to_num(scaled), result["scaled_centers"].transpose(*clusters))
    ordered = np.sort(distances, axis=1)
    for name in ("labels", "distances", "runner_up", "margin"):
        assert result[name].encoding["chunks"] == (1, 10, 40)
    written = {name: result[name].values.reshape(-1) for name in ("distances", "runner_up", "margin")}
    np.testing.assert_allclose(written["distances"][~gone], ordered[~gone, 0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(written["margin"][~gone], (ordered[:, 1] - ordered[:, 0])[~gone], atol=2e-3)
    assert (written["runner_up"][~gone] == distances.argsort(axis=1)[~gone, 1]).mean() > 0.999
    assert set(written["runner_up"][gone]) == {-1}
    assert np.isnan(written["distances"][gone]).all()
    predict_job(Path("out"), "holes.zarr", "new.zarr", [], False, QUIET)
    predicted = xr.open_zarr("new.zarr").load()
    assert {name: predicted[name].dtype.name for name in predicted} == {
        "labels": "int32",
        "distances": "float32",
        "runner_up": "int32",
        "margin": "float32",
    }
    xr.testing.assert_equal(predicted, result[["labels", "distances", "runner_up", "margin"]])


def test_predict_refuses_another_scaling():
    run()
    with pytest.raises(ConfigError, match=r"preprocess\.scale: none, but RESULT was made of scaled features"):
        predict_job(Path("out"), str(CUT), "new.zarr", ["preprocess.scale=none"], False, QUIET)


def test_odd_coordinates_go_to_the_labels_and_not_to_the_model(rng):
    odd = {
        "day": ("y", np.arange(8).astype("m8[D]").astype("m8[ns]")),
        "ok": ("y", np.arange(8) % 2 == 0),
        "place": ("x", [f"s {i} ü" for i in range(5)]),
        "height": (("y", "x"), rng.normal(size=(8, 5))),
        "when": np.datetime64("2000-01-01", "ns"),
        "centers": ("y", np.arange(8)),
    }
    xr.Dataset({"a b": (("y", "x", "f"), rng.normal(size=(8, 5, 2)))}, coords=odd).to_zarr("odd.zarr", zarr_format=2)
    Path("job.yaml").write_text("""{input: {store: odd.zarr, variables: [a b], sample_dims: [y, x]},
        model: {n_clusters: 3, memory_budget: 64MiB}, output: {path: out}}""")
    labels = xr.open_zarr(run() / "result.zarr")["labels"].load()
    assert set(labels.coords) == {"day", "ok", "place", "height", "when"}
    assert labels["place"].values.tolist() == odd["place"][1]
    predict_job("out", "odd.zarr", "new.zarr", [], False, QUIET)
    xr.testing.assert_equal(xr.open_zarr("new.zarr")["labels"].load(), labels)


@pytest.mark.parametrize("name", ["cluster", "component", "labels"])
def test_dimensions_that_results_have_themselves_are_refused(name, rng):
    xr.Dataset({"a": ((name, "f"), rng.normal(size=(20, 3)))}).to_zarr("named.zarr", consolidated=False)
    text = "{input: {store: named.zarr}, model: {n_clusters: 3, memory_budget: 64MiB}, output: {path: out}}"
    Path("job.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"input.sample_dims: '{name}' is a name that the results have"):
        run()


def test_ranks_without_labels_are_refused():
    with pytest.raises(ConfigError, match="expected labels: true"):
        load_config("job.yaml", ["output.labels=false", "output.runner_up=true"])


PREDICT = """
from daskmeans.job import predict
one = ["cluster.options={num_workers: 1}"]
predict.predict_job("out", sys.argv[1], "new.zarr", one, False, QUIET)
"""


def test_a_killed_predict_leaves_no_labels_and_can_be_run_again():
    folder = run("model.memory_budget=300kB")
    kill_while_it_writes(PREDICT, str(CUT))
    assert not Path("new.zarr").exists()
    left = [place for place in Path().iterdir() if place.name.startswith(".new.zarr")]
    assert len(left) == 1
    time.sleep(0.01)
    predict_job(folder, str(CUT), "new.zarr", [], False, QUIET)
    assert not left[0].exists()
    labels = xr.open_zarr("new.zarr")["labels"].load()
    xr.testing.assert_equal(labels, xr.open_zarr(folder / "result.zarr")["labels"].load())
    assert labels.encoding["chunks"] == zarr.open_array("out/result.zarr/labels", mode="r").chunks


def test_on_threads_blocks_are_small_and_few_at_once(rng, monkeypatch):
    monkeypatch.setattr(predict, "IN_FLIGHT_BYTES", 64_000)
    threads = ClusterConfig()
    for chunk, n_at_once in ((50, 4), (2000, 2), (10_000, 1)):
        zarr.create_array(f"{chunk}.zarr", data=rng.normal(size=(20_000, 1)), chunks=(chunk, 1))
        opened, cluster = predict._frugal(open_samples(f"{chunk}.zarr"), Workers(1, 4, 2**30), threads)
        assert opened.samples.block_bytes <= max(8000, 8 * chunk)
        assert cluster.options == {"num_workers": n_at_once}
        asked = ClusterConfig(options={"num_workers": 4})
        assert predict._frugal(opened, Workers(1, 4, 2**30), asked)[1] is asked


def test_predicting_does_without_what_fits_models():
    code = "import sys, daskmeans.job.predict; print('sklearn' in sys.modules, 'matplotlib' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

"""Jobs whose features are scaled, projected or brought to length 1: as if they had been before, from the same reads."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from rich.console import Console
from sklearn import cluster, decomposition, preprocessing
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline

from daskmeans import KMeans
from daskmeans.errors import ConfigError, DataError
from daskmeans.fit import Problem
from daskmeans.job import checkpoint
from daskmeans.job.configfile import load_config
from daskmeans.job.predict import predict_job
from daskmeans.job.run import run_job
from daskmeans.memory import Budget
from daskmeans.moments import moments
from daskmeans.samples import NONE_DROPPED
from daskmeans.scan import Scanner
from daskmeans.steps import RowSet, Surveyed
from daskmeans.transforms import Standardize

QUIET = Console(quiet=True)
N_ROWS, N_FEATURES, N_CLUSTERS = 3000, 8, 4

JOB = """\
input: {store: X.zarr}
model: {n_clusters: 4, memory_budget: 128kB, tol: 0}
output: {path: out}
"""


@pytest.fixture(name="X", autouse=True)
def _store(tmp_path, monkeypatch, rng):
    """Correlated features of very different scales around four centers, as a store of float64."""
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    centers = 4 * rng.normal(size=(N_CLUSTERS, N_FEATURES))
    X = centers[rng.integers(N_CLUSTERS, size=N_ROWS)] + rng.normal(size=(N_ROWS, N_FEATURES))
    X = X @ rng.normal(size=(N_FEATURES, N_FEATURES)) * 10.0 ** np.arange(-3, 5) + 100
    zarr.create_array("X.zarr", shape=X.shape, chunks=(200, N_FEATURES), dtype="f8")[:] = X
    return X


def run(*overrides, resume=None):
    folder = run_job(load_config("job.yaml", overrides), QUIET, resume)
    return xr.open_zarr(folder / "result.zarr").load()


def peer(steps):
    """Return scikit-learn's transformers that do what a job does."""
    kinds = {
        "scale": [preprocessing.StandardScaler()],
        "pca": [decomposition.PCA(3)],
        "scale+pca": [preprocessing.StandardScaler(), decomposition.PCA(3)],
        "scale+whiten": [preprocessing.StandardScaler(), decomposition.PCA(3, whiten=True)],
    }
    return make_pipeline(*kinds[steps])


KEYS = {
    "scale": ["preprocess={scale: standard}"],
    "pca": ["preprocess={pca: 3}"],
    "scale+pca": ["preprocess={scale: standard, pca: 3}"],
    "scale+whiten": ["preprocess={scale: standard, pca: 3, whiten: true}"],
}


@pytest.mark.parametrize("steps", KEYS)
def test_labels_are_those_of_scikit_learn_from_the_same_centers(X, steps):
    rows = X[[5, 600, 1200, 2900]]
    init = f"model.init={rows.tolist()}"
    result = run(*KEYS[steps], init, "model.algorithm=lloyd")
    transformers = peer(steps).fit(X)
    expected = cluster.KMeans(N_CLUSTERS, init=transformers.transform(rows), n_init=1, tol=0, algorithm="lloyd")
    expected.fit(transformers.transform(X))
    np.testing.assert_array_equal(result["labels"].values, expected.labels_)
    # Whitening as scikit-learn does it divides by n - 1, and so do we.
    np.testing.assert_allclose(result["inertia_per_cluster"].sum(), expected.inertia_, rtol=1e-6)
    np.testing.assert_allclose(result["centers"], transformers.inverse_transform(expected.cluster_centers_), rtol=1e-5)
    assert json.loads(Path("out/summary.json").read_text())["passes"][0]["title"] == "survey"


def test_projecting_takes_no_more_passes_and_keeps_the_clusters(X):
    result = run("preprocess={scale: standard, pca: 3}")
    summary = json.loads(Path("out/summary.json").read_text())
    assert sum(report["title"].startswith("survey") for report in summary["passes"]) == 1
    assert result["components"].dims == ("component", "feature")
    assert result["scaled_centers"].dims == ("cluster", "component")
    assert result["centers"].dims == ("cluster", "feature")
    rows = preprocessing.StandardScaler().fit_transform(X)
    expected = cluster.KMeans(N_CLUSTERS, n_init=10, random_state=0).fit(decomposition.PCA(3).fit_transform(rows))
    assert adjusted_rand_score(expected.labels_, result["labels"]) > 0.99


PREPARED = [
    *KEYS.values(),
    ["model.metric=cosine"],
    ["model.metric=cosine", "preprocess={scale: standard, pca: 3}"],
    ["model.metric=cosine", "preprocess={scale: standard}", "model.n_clusters=[2, 3, 4, 5]"],
]


@pytest.mark.parametrize("keys", PREPARED, ids=str)
def test_predict_treats_new_data_alike(X, keys):
    result = run(*keys)
    predict_job(Path("out"), "X.zarr", "labels.zarr", [], False, QUIET)
    np.testing.assert_array_equal(xr.open_zarr("labels.zarr")["labels"], result["labels"])
    assert len(np.unique(result["labels"])) == result.sizes["cluster"]
    assert Path("out/report.html").is_file()


class StopError(Exception):
    """Ends a run as if it were killed."""


@pytest.mark.parametrize("keys", [PREPARED[3], *PREPARED[-2:]], ids=str)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(keys, monkeypatch):
    monkeypatch.setattr(checkpoint, "INTERVAL_S", 0.0)
    keys = [*keys, "model.init=random", "model.algorithm=lloyd"]
    undisturbed = run(*keys, "output.path=undisturbed")
    scan = Scanner._scan

    def fatal(self, *args, **options):
        if self.listener is not None and self.n_passes >= 3:
            raise StopError
        return scan(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scanner, "_scan", fatal)
        with pytest.raises(StopError):
            run(*keys)
    xr.testing.assert_identical(run(*keys, resume=True), undisturbed)


def test_directions_are_those_of_rows_brought_to_length_1_before(X):
    rows = preprocessing.normalize(X)
    zarr.create_array("unit.zarr", shape=X.shape, chunks=(200, N_FEATURES), dtype="f8")[:] = rows
    result = run("model.metric=cosine")
    other = run("model.metric=cosine", "input.store=unit.zarr", "output.path=unit")
    # Lengths of 1 to rounding may number the clusters otherwise.
    assert adjusted_rand_score(result["labels"], other["labels"]) == 1
    np.testing.assert_allclose(np.linalg.norm(result["centers"], axis=1), 1)


def test_a_row_of_zeros_is_named_even_where_scaling_makes_it(X):
    zarr.open_array("X.zarr")[:] = np.where(np.arange(N_ROWS)[:, None] % 2, 1.0, -1.0)
    zarr.open_array("X.zarr")[1200:1202] = 0
    with pytest.raises(DataError, match=r"rows of zeros, which have no direction: .* The first is sample=1200"):
        run("model.metric=cosine", "model.n_clusters=2")
    with pytest.raises(DataError, match="rows of zeros, which have no direction"):
        run("model.metric=cosine", "model.n_clusters=2", "preprocess={scale: standard}")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["preprocess={pca: 9}"], r"preprocess\.pca: 9 components, but the input has 8 features: "),
        (["preprocess={whiten: true}"], r"preprocess\.whiten: expected a number of components"),
        (["preprocess={pca: 0}"], r"preprocess\.pca: expected"),
        (["model.metric=manhattan"], r"model\.metric: expected 'euclidean' or 'cosine'"),
    ],
)
def test_what_cannot_be_is_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        run(*keys)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("preprocess={pca: 2}", r"preprocess\.pca: 2, but RESULT was made with 3; leave it"),
        ("preprocess={pca: 3, whiten: true}", r"preprocess\.whiten: True, but RESULT was made with False"),
        ("model.metric=cosine", r"model\.metric: cosine, but RESULT was made with euclidean"),
    ],
)
def test_predict_refuses_to_treat_new_data_otherwise(key, message):
    run("preprocess={pca: 3}")
    with pytest.raises(ConfigError, match=message):
        predict_job(Path("out"), "X.zarr", "labels.zarr", [key], False, QUIET)


def test_preparing_the_sample_takes_one_copy_of_it(rng):
    sample = RowSet(np.arange(50_000), rng.normal(size=(50_000, 16)).astype(np.float32) + 100, np.ones(50_000))
    found = moments(sample.X, None)
    surveyed = Surveyed(len(sample.X), NONE_DROPPED, len(sample.X), 0, -1, False, 0, -1, found, found, sample)
    options = replace(KMeans(4)._options(Budget(2**24)), scale="standard")
    tracemalloc.start()
    try:
        problem = Problem.of(surveyed, Standardize.of(found), options, sample.X.dtype)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert problem.sample.X.var(axis=0) == pytest.approx(np.ones(16), rel=1e-3)
    assert sample.X.nbytes <= peak < 1.5 * sample.X.nbytes

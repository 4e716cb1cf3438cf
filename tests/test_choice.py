"""A job with several numbers of clusters: the table, the choice and its labels; the words of the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from rich.console import Console
from sklearn.datasets import make_blobs

from daskmeans.errors import ConfigError
from daskmeans.job.configfile import load_config
from daskmeans.job.run import run_job

QUIET = Console(quiet=True)
JOB = """
input: {store: blobs.npy}
preprocess: {scale: standard}
model: {n_clusters: [2, 3, 4, 5, 6], random_state: 0, n_init: 2}
output: {path: out}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    X, _ = make_blobs(900, centers=[[0, 0], [9, 0], [0, 9], [9, 9]], random_state=0)
    np.save("blobs.npy", X)


def test_a_job_takes_the_number_that_most_criteria_suggest():
    folder = run_job(load_config("job.yaml"), QUIET)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["n_clusters"] == summary["sweep"]["recommended"] == 4
    assert "criteria suggest 4" in summary["sweep"]["reason"]
    table = pd.read_csv(folder / "sweep.csv", index_col="n_clusters")
    assert table.index.tolist() == [2, 3, 4, 5, 6]
    assert [row["n_clusters"] for row in summary["sweep"]["table"]] == [2, 3, 4, 5, 6]
    np.testing.assert_allclose(table.loc[4, "inertia"], summary["inertia"])
    result = xr.open_zarr(folder / "result.zarr").load()
    assert result["centers"].shape == (4, 2)
    np.testing.assert_array_equal(np.bincount(result["labels"].values), result["counts"].values)
    # It can be run again from what it wrote.
    again = run_job(load_config(folder / "config.yaml", ["output.path=again"]), QUIET)
    np.testing.assert_array_equal(xr.open_zarr(again / "result.zarr")["centers"].values, result["centers"].values)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.n_clusters=[]", r"model.n_clusters: expected a whole number or a list of them, got an empty list"),
        ("model.n_clusters=[2, 0]", r"model.n_clusters: expected greater than or equal to 1, got 0"),
        ("model.n_clusters=true", r"model.n_clusters: expected a number, got true"),
        ("model.init=[[0, 0], [1, 1]]", r"model.init: expected the name of a seeding, since n_clusters is a list"),
    ],
)
def test_what_is_no_number_of_clusters_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("job.yaml", [override])

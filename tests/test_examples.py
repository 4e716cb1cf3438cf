"""Each configuration that ships runs, on real data or on a small stand-in for it, and gives what it promises."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from rich.console import Console
from test_ome import write_image
from test_remote import credentials, s3_server  # noqa: F401

from daskmeans.job.configfile import load_config
from daskmeans.job.run import run_job

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()


def run(name, *overrides):
    folder = run_job(load_config(CONFIGS / name, overrides), Console(quiet=True))
    assert (folder / "report.html").is_file()
    return xr.open_zarr(folder / "result.zarr").load()


def test_quickstart(monkeypatch):
    script = REPOSITORY / "scripts" / "make_photo_store.py"
    monkeypatch.setattr(sys, "argv", [str(script), "data/photos.zarr"])
    runpy.run_path(str(script), run_name="__main__")
    result = run("quickstart.yaml", "model.max_iter=3")
    assert result["labels"].dims == ("image", "y", "x")


def test_era_regimes():
    Path("data/eraint_uvz.zarr").symlink_to(REPOSITORY / "tests" / "data" / "eraint_cut.zarr")
    result = run("era_regimes.yaml")
    assert result["labels"].dims == ("month", "latitude", "longitude")
    assert sorted(np.unique(result["labels"])) == list(range(8))


def test_sst_masked(rng):
    time = np.datetime64("2006-04-16", "ns") + np.arange(12) * np.timedelta64(30, "D")
    lines = {"time": time, "latitude": np.linspace(-5, 4.4, 9), "longitude": np.arange(0.0, 360, 10)}
    sst = 300 + rng.normal(size=(12, 9, 36)).astype("f4")
    land = rng.random((9, 36)) < 0.3
    sst[:, land] = np.nan
    dataset = xr.Dataset({"surface_temperature": (tuple(lines), sst)}, coords=lines)
    dataset.chunk(time=4, longitude=18).to_zarr("data/ostia_monthly.zarr", consolidated=False)
    result = run("sst_masked.yaml")
    np.testing.assert_array_equal(result["labels"] == -1, land)
    np.testing.assert_array_equal(result["runner_up"] == -1, land)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_embeddings_s3(endpoints, rng):
    options = credentials(endpoints[0])
    X = rng.normal(size=(4000, 8)).astype("f4")
    group = zarr.open_group("s3://weather/embeddings.zarr", mode="w", storage_options=options)
    group.create_array("X", data=X, chunks=(500, 8))
    smaller = ["model.n_clusters=20", "model.max_iter=2", "model.memory_budget=64MiB", "cluster={type: threads}"]
    store = ["input.store=s3://weather/embeddings.zarr", f"input.storage_options={options}"]
    assert run("embeddings_s3.yaml", *smaller, *store)["labels"].shape == (4000,)


def test_ome_zarr(rng):
    write_image("data/section.ome.zarr", rng.integers(0, 4000, size=(3, 40, 48)).astype("u2"), "0.5")
    result = run("ome_zarr.yaml")
    assert result["labels"].dims == ("y", "x")
    assert float(result["y"][1] - result["y"][0]) == 0.5
    assert "image[c=GFP]" in result["feature"].values
    assert np.isfinite(result["distances"]).all()


@pytest.mark.parametrize("kind", ["v2", "v2 packed", "v3 packed", "v3 sharded"])
def test_labels_of_other_formats_are_those_of_the_plain_copy(kind, rng):
    # Packed integers decode to float64.
    values = rng.integers(-300, 300, size=(6, 20, 24)).astype("f8" if "packed" in kind else "f4") / 2
    dims = ("time", "y", "x")
    version = int(kind[1])
    plain = xr.Dataset({"a": (dims, values)})
    plain.to_zarr("plain.zarr", consolidated=False, encoding={"a": {"chunks": (3, 10, 12)}})
    encoding = {"chunks": (3, 5, 6)}
    if "packed" in kind:
        encoding |= {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -9999}
    if kind == "v3 sharded":
        encoding |= {"shards": (6, 10, 12)}
    plain.to_zarr("other.zarr", zarr_format=version, consolidated=False, encoding={"a": encoding})
    text = "input: {store: %s, variables: [a], sample_dims: [y, x], feature_dims: [time]}\n"
    found = []
    for name in ("plain", "other"):
        job = text % f"{name}.zarr" + f"model: {{n_clusters: 5, memory_budget: 40kB}}\noutput: {{path: {name}}}\n"
        Path("job.yaml").write_text(job)
        folder = run_job(load_config("job.yaml", []), Console(quiet=True))
        found.append(xr.open_zarr(folder / "result.zarr").load())
    np.testing.assert_array_equal(found[0]["labels"], found[1]["labels"])
    np.testing.assert_allclose(found[0]["centers"], found[1]["centers"], rtol=1e-6)

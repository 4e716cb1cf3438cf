"""Results, checkpoints and logs that are damaged at random: what reads them says so, or gives what it gave before.

DASKMEANS_FUZZ=2000 pytest tests/test_fuzz_results.py
"""

from __future__ import annotations

import os
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from rich.console import Console

from daskmeans import KMeans, load
from daskmeans.errors import DaskMeansError
from daskmeans.job import checkpoint
from daskmeans.job.configfile import load_config
from daskmeans.job.predict import predict_job
from daskmeans.job.run import run_job
from daskmeans.job.status import log_lines, status_lines
from daskmeans.scan import Scanner

N_DAMAGED = int(os.environ.get("DASKMEANS_FUZZ", "60"))
QUIET = Console(quiet=True)

JOB = """\
input: {store: X.zarr}
preprocess: {scale: standard}
model: {n_clusters: 3, memory_budget: 100kB, tol: 0, max_iter: 6, init: random, algorithm: lloyd}
output: {path: out}
"""


class StopAfterError(Exception):
    """Ends a run as if it were killed."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with data, the results of a run, and what another run has left that was killed."""
    folder = tmp_path_factory.mktemp("whole")
    store = f"input.store={folder / 'X.zarr'}"
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(checkpoint, "INTERVAL_S", 0.0)
        Path("job.yaml").write_text(JOB)
        zarr.create_array("X.zarr", shape=(4000, 3), chunks=(400, 3), dtype="f4")[:] = rng.random((4000, 3))
        run_job(load_config("job.yaml"), QUIET)
        scan = Scanner._scan

        def fatal(self, step, title, *, keeps):
            if self.listener is not None and self.n_passes >= 5:
                raise StopAfterError
            return scan(self, step, title, keeps=keeps)

        patch.setattr(Scanner, "_scan", fatal)
        with pytest.raises(StopAfterError):
            run_job(load_config("job.yaml", [store, "output.path=killed"]), QUIET)
    KMeans(n_clusters=3, random_state=0).fit(rng.random((100, 3))).save(folder / "model.npz")
    return folder


@pytest.fixture
def damaged(whole, tmp_path, monkeypatch):
    """Return a copy of the folder in which one file, or another, is damaged."""

    def damage(part, seed):
        chance = random.Random(f"{part} {seed}")
        place = tmp_path / str(seed)
        shutil.copytree(whole, place)
        monkeypatch.chdir(place)
        files = [file for file in sorted((place / part).rglob("*")) if file.is_file()] or [place / part]
        file = chance.choice(files)
        way = chance.choice([flip, cut, lambda content, chance: b"", lambda content, chance: chance.randbytes(200)])
        if chance.random() < 0.1:
            file.unlink()
        else:
            file.write_bytes(way(file.read_bytes(), chance))
        return str(file)

    return damage


def flip(content, chance):
    place = chance.randrange(max(1, len(content)))
    return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]


def cut(content, chance):
    return content[: chance.randrange(max(1, len(content)))]


def attempt(function, *arguments):
    """Return what a function returns, None where it refuses with reasons; other errors pass."""
    try:
        return function(*arguments)
    except DaskMeansError:
        return None


def predicted():
    shutil.rmtree("labels.zarr", ignore_errors=True)
    predict_job("out", "X.zarr", "labels.zarr", [], False, QUIET)
    return xr.open_zarr("labels.zarr").load()


def opened(path):
    """Return the results, None where xarray or Zarr see damage: what they raise is theirs."""
    try:
        return xr.open_zarr(path).load()
    except Exception:
        return None


@pytest.mark.filterwarnings("ignore")
def test_damaged_results_are_refused_or_change_nothing(whole, damaged):
    labels = xr.open_zarr(whole / "out/result.zarr")["labels"].load()
    for seed in range(N_DAMAGED // 3):
        file = damaged("out", seed)
        found = attempt(predicted)
        assert found is None or found["labels"].equals(labels), file
        attempt(lambda: status_lines("out"))
        attempt(lambda: list(log_lines("out")))
        # A chunk that is not there is taken for the fill value, -1, by whoever reads it.
        if (result := opened("out/result.zarr")) is not None and "/labels/c/" in file and Path(file).exists():
            assert result["labels"].equals(labels), file


@pytest.mark.filterwarnings("ignore")
def test_damaged_checkpoints_are_left_out(whole, damaged):
    expected = xr.open_zarr(whole / "out/result.zarr").load()
    changes = [f"input.store={whole / 'X.zarr'}", "output.path=killed"]
    for seed in range(N_DAMAGED // 3):
        file = damaged("killed.checkpoint", seed)
        attempt(lambda: status_lines("killed"))
        attempt(lambda: list(log_lines("killed")))
        folder = run_job(load_config("job.yaml", changes), QUIET)
        assert xr.open_zarr(folder / "result.zarr").load().identical(expected), file


def test_damaged_models_are_refused_or_change_nothing(whole, damaged):
    expected = load(whole / "model.npz")
    for seed in range(N_DAMAGED):
        file = damaged("model.npz", seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = attempt(load, file)
        if model is not None:
            np.testing.assert_array_equal(model.cluster_centers_, expected.cluster_centers_)


def test_a_damaged_result_is_named(damaged):
    damaged("X.zarr/zarr.json", 0)
    config = Path("out/config.yaml")
    config.write_text(config.read_text().replace("missing: error", "missing: drop"))
    with pytest.raises(DaskMeansError, match=r"RESULT: .*/out is damaged, or was edited: its centers and config.yaml"):
        predict_job("out", "X.zarr", "labels.zarr", [], False, QUIET)

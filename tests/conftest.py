"""What several test modules share: one real cluster, and data that is easy to look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dask
import distributed
import numpy as np
import pytest
from era import ERA

N_WORKERS = 4


@pytest.fixture(scope="session")
def cluster() -> Iterator[distributed.LocalCluster]:
    """A real cluster: four processes of one thread each. Nothing runs on it without a client: see `client`."""
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "60s"}),  # the machine may be busy
        distributed.LocalCluster(
            n_workers=N_WORKERS,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",  # any free port; None still asks for 8787
            memory_limit="1GiB",
            silence_logs="ERROR",
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster: distributed.LocalCluster) -> Iterator[distributed.Client]:
    """A client of the cluster; Dask's default while the test lasts."""
    with distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def era_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory that has a valid `job.yaml`."""
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(ERA)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in each test."""
    return np.random.default_rng(0)

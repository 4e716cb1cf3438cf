"""Labels new data by the centers of a finished run, in one pass and little memory.

Imports less than a run does: what fits models takes memory that the rows could have.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from rich.console import Console

from daskmeans.blocking import RepeatedReadsWarning
from daskmeans.errors import ConfigError, DataError
from daskmeans.job import results
from daskmeans.job.chunks import check_chunks
from daskmeans.job.cluster import Workers, describe_workers, open_cluster, translated_errors
from daskmeans.job.config import ClusterConfig, JobConfig
from daskmeans.job.configfile import Origins, apply_override, load_config
from daskmeans.job.digest import check_digest
from daskmeans.job.fields import without_masked
from daskmeans.job.inputs import budget_of, create_labels, open_input, some
from daskmeans.job.interrupts import insistent
from daskmeans.job.places import Place
from daskmeans.job.prepared import check_same, compared_centers, transform_of
from daskmeans.job.progress import PassLines
from daskmeans.job.staging import check_free, check_reach, staged_at
from daskmeans.kernels import Stack
from daskmeans.memory import MIB, Budget
from daskmeans.scan import Scanner
from daskmeans.steps import Assign, Both, Survey
from daskmeans.stores import OpenedStore

OUTPUT_KEY = "OUTPUT"

# Where the run that made the results was told how to get at them.
RESULT_OPTIONS = "output.storage_options"

# The file that makes a folder of labels a Zarr group.
GROUP_MARK = "zarr.json"

# What threads of this process read and work on at once. Beside it there are some 300 MiB of Python and libraries.
IN_FLIGHT_BYTES = 96 * MIB

# A budget of so many blocks has blocks of just that size: see `Budget.block_bytes`.
SHARES = 16


def predict_job(
    result: str | Path,
    store: str,
    output: str | Path,
    overrides: Sequence[str],
    overwrite: bool,
    console: Console,
) -> None:
    """Write the labels of the samples of `store`, by the centers in `result`, to the Zarr store `output`.

    One pass over the data. On threads, the default, blocks are as small and as few at once as keep this process below
    500 MB, where chunks of rows decode to at most some 64 MiB.

    Raises
    ------
    ConfigError, DataError, ClusterError
        What the person must mend. Nothing that looks like labels is left.
    """
    source = Place.of(result, _result_options(overrides))
    clusters = results.open_clusters(source)
    check_digest(source, clusters)
    config = _config_of(source, overrides)
    options = without_masked(config.input.storage_options) if "://" in store else None
    new_input = config.input.model_copy(update={"store": store, "weights": None, "storage_options": options})
    place = Place.of(output, without_masked(config.output.storage_options))
    check_free(place, OUTPUT_KEY, last=[GROUP_MARK], overwrite=overwrite)
    check_reach(place, OUTPUT_KEY, config.cluster.type)
    workers = describe_workers(config.cluster)
    opened = open_input(new_input, budget_of(config, workers))
    check_chunks(opened, new_input)
    cluster = config.cluster
    if cluster.type == "threads":
        opened, cluster = _frugal(opened, workers, cluster)
    _check_features(opened.feature_names, tuple(map(str, clusters["feature"].values)))
    check_same(config, clusters)
    with staged_at(place, OUTPUT_KEY, last=[GROUP_MARK]) as stage, open_cluster(cluster), translated_errors():
        stage.begin()
        sink = create_labels(opened, stage, "", config.output, len(clusters["centers"]))
        with PassLines(console) as listener, insistent():
            _label(Scanner(opened.samples, listener=listener), clusters, sink)
        results.consolidate(stage.folder)
    console.print(f"Labels of {opened.samples.n_samples:,} samples: {place.name}", soft_wrap=True)


def _result_options(overrides: Sequence[str]) -> dict[str, Any] | None:
    """Return how to get at results at a URL: as the run did, which wrote no secrets into them."""
    data: dict[str, Any] = {}
    for override in overrides:
        if override.partition("=")[0].strip().startswith(RESULT_OPTIONS):
            apply_override(data, Origins("--set"), override)
    found = data.get("output", {}).get("storage_options")
    return found if isinstance(found, dict) else None


def _config_of(source: Place, overrides: Sequence[str]) -> JobConfig:
    """Return the configuration of the run, but for the cluster: a class with arguments, which a result is not trusted.

    It is read as a file, so that mistakes in `overrides` are told as always.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, results.CONFIG)
        path.write_text(source.read_text(results.CONFIG), encoding="utf-8")
        return load_config(path, ["cluster={type: threads}", *overrides])


def _frugal(opened: OpenedStore, workers: Workers, cluster: ClusterConfig) -> tuple[OpenedStore, ClusterConfig]:
    """Return the same samples in small blocks, and threads as few as they need to be, unless a number is given."""
    opened = _in_small_blocks(opened, IN_FLIGHT_BYTES // (2 * workers.n_threads))
    if "num_workers" in cluster.options:
        return opened, cluster
    at_once = max(1, IN_FLIGHT_BYTES // max(1, 2 * opened.samples.block_bytes))
    options = {**cluster.options, "num_workers": min(workers.n_threads, at_once)}
    return opened, cluster.model_copy(update={"options": options})


def _in_small_blocks(opened: OpenedStore, block_bytes: int) -> OpenedStore:
    """Return the same samples in blocks of so many bytes, or as few more as chunks, each read once, take."""
    while block_bytes < opened.samples.block_bytes:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RepeatedReadsWarning)
                return opened.within(Budget.for_rows(SHARES * block_bytes))
        except (ConfigError, RepeatedReadsWarning):
            block_bytes *= 2
    return opened


def _check_features(found: Sequence[str], expected: Sequence[str]) -> None:
    """Raise DataError if the features of new data are not those that were clustered."""
    if tuple(found) == tuple(expected):
        return
    if len(found) != len(expected):
        raise DataError(
            f"STORE has {len(found)} features ({some(found)}), RESULT has {len(expected)} "
            f"({some(expected)}); give data with the same variables and dimensions"
        )
    i = next(i for i, names in enumerate(zip(found, expected, strict=True)) if len(set(names)) > 1)
    raise DataError(
        f"feature {i} of STORE is {found[i]}, of RESULT {expected[i]}; give data with the same "
        "variables and dimensions, in the same order"
    )


def _label(scanner: Scanner, clusters: xr.Dataset, sink: results.LabelSink) -> None:
    """Assign all rows to the nearest center, prepared as they were when the centers were found."""
    transform, centers = transform_of(clusters), compared_centers(clusters)
    if transform is not None:
        scanner.transform(transform)
    samples = scanner.samples
    survey = Survey(sample_size=1, seed=0, n_samples=samples.n_samples)
    assign = Assign(Stack.of([centers]), centers.mean(axis=0), sink)
    surveyed, _ = scanner.scan(Both(survey, assign), "labels")
    from daskmeans.survey import check_surveyed

    check_surveyed(surveyed, samples, n_clusters=0)

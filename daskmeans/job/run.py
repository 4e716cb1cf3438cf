"""Jobs from start to end: validate, plan, run. Everything that can be refused is, before data is read."""

from __future__ import annotations

import contextlib
import functools
import shutil
import socket
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from daskmeans.errors import ConfigError, DataError
from daskmeans.fit import Fitted
from daskmeans.job import digest, results
from daskmeans.job.choice import fit_one_or_choose, most_clusters, summary_of, write_table
from daskmeans.job.chunks import check_chunks
from daskmeans.job.cluster import (
    Workers,
    all_paused,
    describe_workers,
    job_script,
    join_mpi,
    n_workers,
    open_cluster,
    performance_report,
    translated_errors,
    what_is_there,
)
from daskmeans.job.config import JobConfig
from daskmeans.job.configfile import dump_config
from daskmeans.job.going_on import going_on, identity_of
from daskmeans.job.inputs import budget_of, create_labels, label_grid, open_input, some
from daskmeans.job.interrupts import heeded, insistent
from daskmeans.job.joblog import LOG, JobLog
from daskmeans.job.notes import SampleNote, noted_warnings
from daskmeans.job.places import Place, told_of
from daskmeans.job.plan import JobPlan
from daskmeans.job.prepared import with_preparation
from daskmeans.job.progress import PassLines
from daskmeans.job.report import write_report
from daskmeans.job.staging import Stage, check_free, check_reach, staged_at
from daskmeans.job.submit import submit
from daskmeans.job.versions import versions
from daskmeans.job.watch import watched
from daskmeans.memory import Budget, Plan, format_bytes
from daskmeans.options import FitOptions
from daskmeans.scan import Scanner
from daskmeans.seeding import AUTO_PASSES
from daskmeans.stores import OpenedStore

PERFORMANCE = "performance.html"

OUTPUT_KEY = "output.path"

# What says that results are whole; the summary is the last of all.
MARKS = [f"{results.RESULT}/zarr.json", results.SUMMARY]


@dataclass(frozen=True)
class Job:
    """A job that was checked and planned; its configuration has the resolved budget."""

    config: JobConfig
    opened: OpenedStore
    plan: JobPlan

    @property
    def budget(self) -> Budget:
        """Memory for the rows."""
        return self.plan.rows.budget


def validate_job(config: JobConfig, console: Console) -> None:
    """Check the configuration and the store's metadata, and print what was found."""
    job = _prepare(config)
    opened = job.opened
    check_chunks(opened, config.input)
    sizes = (f"{dim}={size}" for dim, size in zip(opened.sample_dims, opened.shape, strict=True))
    lines = [
        ("store", opened.label),
        ("samples", f"{job.plan.rows.n_rows:,} ({', '.join(sizes)})"),
        ("features", f"{len(opened.feature_names):,}: {some(opened.feature_names)}"),
        ("dtype", str(opened.samples.dtype)),
        ("bytes", format_bytes(job.plan.rows.data_bytes)),
        ("weights", config.input.weights or "none"),
        ("missing", config.input.missing),
        ("output", config.output.path),
    ]
    _print_lines(console, lines)
    console.print("The configuration is valid.")


def plan_job(config: JobConfig, console: Console) -> None:
    """Print what a run would read and need.

    Raises
    ------
    ConfigError
        It cannot fit.
    """
    job = _prepare(config)
    _print_lines(console, job.plan.lines())
    job.plan.check()
    console.print("This fits.")


def submit_job(config: JobConfig, path: Path, overrides: Sequence[str], system: str | None) -> str:
    """Check a job, submit its driver to a batch system, and return the id."""
    place = _output(config)
    _prepare(config).plan.check()
    return submit(config, path, overrides, place.folder, system)


def show_script(config: JobConfig, console: Console) -> None:
    """Print the script of the jobs that a run would submit for its workers."""
    console.out(job_script(config.cluster), highlight=False)


def run_job(config: JobConfig, console: Console, resume: bool | None = None) -> Path:
    """Cluster, write the results, print a summary, and return the folder of the results.

    A checkpoint is kept beside the results while it runs; `resume` says whether to go on from it: None, if there is
    one. Of results at a URL, the folder that is returned is the one beside which the checkpoint was.

    Raises
    ------
    ConfigError, DataError, ClusterError
        What the person must mend. Nothing that looks like results is left.
    Interrupted
        By Ctrl-C or SIGTERM; the same call goes on.
    """
    began = time.perf_counter()
    join_mpi(config.cluster)
    place = _output(config)
    with heeded(), contextlib.ExitStack() as stack:
        stage = stack.enter_context(staged_at(place, OUTPUT_KEY, last=MARKS))
        run = stack.enter_context(going_on(place.folder, resume))
        noted = stack.enter_context(noted_warnings())
        job = _prepare(run.resolved(config))
        check_chunks(job.opened, config.input)
        identity = identity_of(job.config, job.opened)
        run.check(identity)
        job.plan.check()
        stage.begin()
        with open_cluster(run.with_logs(config.cluster)) as workers, translated_errors():
            sink = _sink(job, stage)
            timeout_s = config.cluster.timeout
            with (
                performance_report(stage.folder / PERFORMANCE, wanted=config.cluster.performance_report),
                PassLines(console) as lines,
                JobLog(run.log, lines) as log,
                watched(log, timeout_s, what_is_there, all_paused) as listener,
            ):
                scanner = Scanner.within(job.opened.samples, job.budget, listener)
                log.measure = functools.partial(_measured, scanner)
                log.began(workers=asdict(workers), plan=dict(job.plan.lines()))
                if run.begun is not None:
                    console.print(f"Going on from the checkpoint {run.folder}", highlight=False, soft_wrap=True)
                with run.journal(identity, scanner) as journal, insistent():
                    several = not isinstance(job.config.model.n_clusters, int)
                    note = SampleNote(journal)
                    fitted, choice = fit_one_or_choose(scanner, _options(job), sink, note, several=several)
                clusters = _clusters(fitted, job)
                with told_of(place.name, OUTPUT_KEY):
                    results.write_clusters(stage.folder / results.RESULT, clusters)
                summary = _summary(job, fitted, scanner, time.perf_counter() - began) | summary_of(choice)
                log.write("done", inertia=fitted.inertia, n_iter=fitted.n_iter, peak_bytes=scanner.peak_rss_bytes)
            config_text = dump_config(job.config)
            summary |= {"warnings": noted, digest.KEY: digest.digest_of(clusters, config_text)}
            with told_of(place.name, OUTPUT_KEY):
                results.write_summary(stage.folder, summary, config_text)
                write_table(stage.folder, choice)
                note.write_projection(stage.folder, fitted.scaled_centers, scanner.samples.loader.transform)
                _report(stage)
                if run.log.is_file():
                    shutil.copyfile(run.log, stage.folder / LOG)
    run.clean_up()
    _print_lines(console, _summary_lines(summary, place))
    return place.folder


def _output(config: JobConfig) -> Place:
    """Return where the results are to be, if nothing is in the way."""
    place = Place.of(config.output.path, config.output.storage_options)
    check_free(place, OUTPUT_KEY, last=MARKS, overwrite=config.output.overwrite)
    check_reach(place, OUTPUT_KEY, config.cluster.type)
    return place


def _sink(job: Job, stage: Stage) -> results.LabelSink | None:
    """Return what writes labels, if they are wanted."""
    output = job.config.output
    if not output.labels:
        return None
    return create_labels(job.opened, stage, results.RESULT, output, most_clusters(job.config.model.n_clusters))


def _prepare(config: JobConfig) -> Job:
    """Open the store's metadata, resolve the budget, and plan; reads no data."""
    workers = describe_workers(config.cluster)
    budget = budget_of(config, workers)
    opened = open_input(config.input, budget)
    _check_model(config, opened)
    model = config.model.model_copy(update={"memory_budget": budget.total_bytes})
    config = config.model_copy(update={"model": model})
    return Job(config, opened, _plan(config, opened, budget, workers))


def _check_model(config: JobConfig, opened: OpenedStore) -> None:
    """Raise where model and input do not go together, as far as metadata tells."""
    results.check_label_names(label_grid(opened))
    n_samples, n_clusters = opened.samples.n_samples, most_clusters(config.model.n_clusters)
    if n_samples is not None and n_samples < n_clusters:
        raise DataError(
            f"model.n_clusters is {n_clusters:,}, but {opened.label} has {n_samples:,} samples; "
            "ask for fewer clusters or give more data"
        )
    pca = config.preprocess.pca
    if pca is not None and pca > opened.samples.n_features:
        raise ConfigError(
            f"preprocess.pca: {pca} components, but the input has {opened.samples.n_features} features: "
            f"{some(opened.feature_names)}"
        )
    init = config.model.init
    if not isinstance(init, str) and len(init[0]) != opened.samples.n_features:
        raise ConfigError(
            f"model.init: the centers have {len(init[0])} features, the input has "
            f"{opened.samples.n_features}: {some(opened.feature_names)}"
        )


def _plan(config: JobConfig, opened: OpenedStore, budget: Budget, workers: Workers) -> JobPlan:
    """Return what the job will read and need."""
    samples, model = opened.samples, config.model
    rows = Plan(
        n_rows=samples.n_samples or 0,
        n_features=samples.n_features,
        itemsize=samples.dtype.itemsize,
        n_blocks=samples.grid.n_blocks,
        largest_block_rows=int(samples.grid.largest_block),
        budget=samples.share(budget),
        n_clusters=most_clusters(model.n_clusters),
    )
    rounds = AUTO_PASSES if model.init_rounds == "auto" else model.init_rounds + 1
    seeding = rounds if model.init == "k-means||" else 0
    return JobPlan(rows, workers, fixed_passes=seeding + 2, max_iter=model.max_iter)


def _options(job: Job) -> FitOptions:
    """Return what to fit; the words of the configuration are those of the engine."""
    model = job.config.model
    return FitOptions(
        n_clusters=(model.n_clusters,) if isinstance(model.n_clusters, int) else model.n_clusters,
        init=model.init if isinstance(model.init, str) else np.array(model.init),
        n_init=model.n_init if isinstance(model.init, str) else 1,
        max_iter=model.max_iter,
        tol=model.tol,
        seed=model.random_state,
        oversampling_factor=model.oversampling_factor,
        init_rounds=model.init_rounds,
        algorithm=model.algorithm,
        budget=job.budget,
        scale=job.config.preprocess.scale,
        pca=job.config.preprocess.pca,
        whiten=job.config.preprocess.whiten,
        metric=model.metric,
    )


def _measured(scanner: Scanner) -> dict[str, Any]:
    """Return what the log says of who has worked on a pass: how many, and the most memory that one has held so far."""
    return {"workers": n_workers(), "memory": scanner.peak_rss_bytes}


def _clusters(fitted: Fitted, job: Job) -> Any:
    """Return the arrays of the fitted model, as a Dataset."""
    per_cluster: dict[str, Any] = {"inertia_per_cluster": fitted.inertia_per_cluster, "counts": fitted.counts}
    sizes = results.sizes_of(fitted.outputs, len(fitted.centers))
    if sizes is not None:
        per_cluster["sizes"] = sizes
    clusters = results.clusters_dataset(fitted.centers, per_cluster, {}, job.opened.feature_names)
    return with_preparation(clusters, fitted, job.config)


def _summary(job: Job, fitted: Fitted, scanner: Scanner, elapsed_s: float) -> dict[str, Any]:
    """Return what summary.json says."""
    return {
        "n_samples": fitted.n_rows,
        "n_dropped": fitted.dropped.total,
        "dropped": fitted.dropped._asdict(),
        "n_features": fitted.centers.shape[1],
        "n_clusters": fitted.centers.shape[0],
        "inertia": fitted.inertia,
        "n_iter": fitted.n_iter,
        "n_passes": scanner.n_passes,
        "converged": fitted.converged,
        "bytes_read": scanner.n_bytes,
        "elapsed_s": elapsed_s,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "host": socket.gethostname(),
        "budget_bytes": job.budget.total_bytes,
        "peak_worker_bytes": scanner.peak_rss_bytes,
        "passes": [asdict(report) for report in scanner.history],
        "config": job.config.model_dump(mode="json"),
        "versions": versions(),
    }


def _summary_lines(summary: dict[str, Any], place: Place) -> list[tuple[str, str]]:
    """Return the summary for people."""
    dropped = f", {summary['n_dropped']:,} dropped" if summary["n_dropped"] else ""
    converged = "converged" if summary["converged"] else "not converged: raise model.max_iter"
    return [
        ("samples", f"{summary['n_samples']:,}{dropped}"),
        ("features", f"{summary['n_features']:,}"),
        ("clusters", f"{summary['n_clusters']:,}"),
        *([("chosen", summary["sweep"]["reason"])] if "sweep" in summary else []),
        ("inertia", f"{summary['inertia']:.8g}"),
        ("iterations", f"{summary['n_iter']} ({converged})"),
        ("passes", f"{summary['n_passes']}, {format_bytes(summary['bytes_read'])} read"),
        ("memory", f"{format_bytes(summary['peak_worker_bytes'])} at most in a worker"),
        ("time", f"{summary['elapsed_s']:.1f} s"),
        ("results", place.name),
    ]


def _report(stage: Stage) -> None:
    """Write the report; a page that fails must not cost the results of a long run."""
    try:
        with results.open_stage(stage) as result:
            write_report(stage.folder, result)
    except Exception as error:
        warnings.warn(f"The report could not be made: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)


def _print_lines(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, value)
    console.print(table, highlight=False, markup=False)

"""Jobs from start to end: validate, plan, run, predict. Everything that can be refused is, before data is read."""

from __future__ import annotations

import contextlib
import shutil
import time
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from daskmeans.errors import ConfigError, DataError
from daskmeans.fit import AUTO_ROUNDS, FitOptions, Fitted, check_surveyed
from daskmeans.job import results
from daskmeans.job.choice import fit_one_or_choose, most_clusters, summary_of, write_table
from daskmeans.job.cluster import (
    Workers,
    all_paused,
    describe_workers,
    job_script,
    join_mpi,
    open_cluster,
    translated_errors,
    what_is_there,
)
from daskmeans.job.config import InputConfig, JobConfig, OutputConfig
from daskmeans.job.configfile import dump_config, load_config
from daskmeans.job.fields import without_masked
from daskmeans.job.going_on import going_on, identity_of
from daskmeans.job.interrupts import heeded, insistent
from daskmeans.job.joblog import LOG, JobLog
from daskmeans.job.plan import JobPlan
from daskmeans.job.progress import PassLines
from daskmeans.job.report import write_report
from daskmeans.job.staging import check_free, staged
from daskmeans.job.submit import submit
from daskmeans.job.versions import versions
from daskmeans.job.watch import watched
from daskmeans.kernels import Stack
from daskmeans.memory import DEFAULT_PART, Budget, Plan, format_bytes
from daskmeans.scan import Scanner
from daskmeans.steps import Assign, Both, Survey
from daskmeans.stores import OpenedStore, open_samples
from daskmeans.transforms import Standardize

OUTPUT_KEY = "output.path"


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
    sizes = (f"{dim}={size}" for dim, size in zip(opened.sample_dims, opened.shape, strict=True))
    lines = [
        ("store", opened.label),
        ("samples", f"{job.plan.rows.n_rows:,} ({', '.join(sizes)})"),
        ("features", f"{len(opened.feature_names):,}: {_some(opened.feature_names)}"),
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
    folder = _local(config.output.path, OUTPUT_KEY)
    check_free(folder, OUTPUT_KEY, mark=results.SUMMARY, overwrite=config.output.overwrite)
    _prepare(config).plan.check()
    return submit(config, path, overrides, folder, system)


def show_script(config: JobConfig, console: Console) -> None:
    """Print the script of the jobs that a run would submit for its workers."""
    console.out(job_script(config.cluster), highlight=False)


def run_job(config: JobConfig, console: Console, resume: bool | None = None) -> Path:
    """Cluster, write the results, print a summary, and return the folder of the results.

    A checkpoint is kept beside the results while it runs; `resume` says whether to go on from it: None, if there is
    one.

    Raises
    ------
    ConfigError, DataError, ClusterError
        What the person must mend. Nothing that looks like results is left.
    Interrupted
        By Ctrl-C or SIGTERM; the same call goes on.
    """
    began = time.perf_counter()
    join_mpi(config.cluster)
    folder = _local(config.output.path, OUTPUT_KEY)
    check_free(folder, OUTPUT_KEY, mark=results.SUMMARY, overwrite=config.output.overwrite)
    with heeded(), contextlib.ExitStack() as stack:
        stage = stack.enter_context(staged(folder, OUTPUT_KEY))
        run = stack.enter_context(going_on(folder, resume))
        job = _prepare(run.resolved(config))
        identity = identity_of(job.config, job.opened)
        run.check(identity)
        job.plan.check()
        with open_cluster(run.with_logs(config.cluster)) as workers, translated_errors():
            sink = _create_labels(job.opened, stage / results.RESULT, config.output) if config.output.labels else None
            timeout_s = config.cluster.timeout
            with (
                PassLines(console) as lines,
                JobLog(run.log, lines) as log,
                watched(log, timeout_s, what_is_there, all_paused) as listener,
            ):
                scanner = Scanner(job.opened.samples, job.budget.kept_bytes, listener)
                log.began(workers=asdict(workers), plan=dict(job.plan.lines()))
                if run.begun is not None:
                    console.print(f"Going on from the checkpoint {run.folder}", highlight=False, soft_wrap=True)
                with run.journal(identity, scanner) as journal, insistent():
                    several = not isinstance(job.config.model.n_clusters, int)
                    fitted, choice = fit_one_or_choose(scanner, _options(job), sink, journal, several=several)
                results.write_clusters(stage / results.RESULT, _clusters(fitted, job.opened))
                summary = _summary(job, fitted, scanner, time.perf_counter() - began) | summary_of(choice)
                log.write("done", inertia=fitted.inertia, n_iter=fitted.n_iter, peak_bytes=scanner.peak_rss_bytes)
            results.write_summary(stage, summary, dump_config(job.config))
            write_table(stage, choice)
            _report(stage)
            if run.log.is_file():
                shutil.copyfile(run.log, stage / LOG)
    run.clean_up()
    _print_lines(console, _summary_lines(summary, folder))
    return folder


def predict_job(
    result: Path,
    store: str,
    output: str,
    overrides: Sequence[str],
    overwrite: bool,
    console: Console,
) -> None:
    """Write the labels of the samples of `store`, by the centers in `result`, to the Zarr store `output`.

    One pass over the data.
    """
    clusters = results.open_clusters(result)
    # Clusters are classes with arguments: what a result says of them is not trusted.
    config = load_config(result / results.CONFIG, ["cluster={type: threads}", *overrides])
    options = without_masked(config.input.storage_options) if "://" in store else None
    new_input = config.input.model_copy(update={"store": store, "weights": None, "storage_options": options})
    folder = _local(output, "OUTPUT")
    check_free(folder, "OUTPUT", mark="zarr.json", overwrite=overwrite)
    workers = describe_workers(config.cluster)
    budget = _budget(config, workers)
    opened = _open(new_input, budget)
    _check_features(opened.feature_names, tuple(map(str, clusters["feature"].values)))
    _check_scaling(config, clusters)
    with staged(folder, "OUTPUT") as stage, open_cluster(config.cluster), translated_errors():
        sink = _create_labels(opened, stage, config.output)
        with PassLines(console) as listener, insistent():
            _label(Scanner(opened.samples, 0, listener), clusters, sink)
        results.consolidate(stage)
    console.print(f"Labels of {opened.samples.n_samples:,} samples: {folder}", soft_wrap=True)


def _prepare(config: JobConfig) -> Job:
    """Open the store's metadata, resolve the budget, and plan; reads no data."""
    workers = describe_workers(config.cluster)
    budget = _budget(config, workers)
    opened = _open(config.input, budget)
    _check_model(config, opened)
    model = config.model.model_copy(update={"memory_budget": budget.total_bytes})
    config = config.model_copy(update={"model": model})
    return Job(config, opened, _plan(config, opened, budget, workers))


def _budget(config: JobConfig, workers: Workers) -> Budget:
    """Return the budget as given, else a share of the workers' memory."""
    given = config.model.memory_budget
    if given is None and not workers.total_memory_bytes:
        raise ConfigError(
            f"model.memory_budget: missing; expected a size such as 2GiB, since nothing says how much memory "
            f"workers of {config.cluster.type} have before they run"
        )
    return Budget(given or workers.total_memory_bytes // DEFAULT_PART)


def _open(config: InputConfig, budget: Budget) -> OpenedStore:
    """Open the input; the words of the configuration are those of `open_samples`."""
    arguments = config.model_dump(exclude={"store"})
    return open_samples(config.store, budget=budget, **arguments)


def _check_model(config: JobConfig, opened: OpenedStore) -> None:
    """Raise where model and input do not go together, as far as metadata tells."""
    results.check_label_names(_label_grid(opened))
    n_samples, n_clusters = opened.samples.n_samples, most_clusters(config.model.n_clusters)
    if n_samples is not None and n_samples < n_clusters:
        raise DataError(
            f"model.n_clusters is {n_clusters:,}, but {opened.label} has {n_samples:,} samples; "
            "ask for fewer clusters or give more data"
        )
    init = config.model.init
    if not isinstance(init, str) and len(init[0]) != opened.samples.n_features:
        raise ConfigError(
            f"model.init: the centers have {len(init[0])} features, the input has "
            f"{opened.samples.n_features}: {_some(opened.feature_names)}"
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
        budget=budget,
        n_clusters=most_clusters(model.n_clusters),
    )
    rounds = AUTO_ROUNDS if model.init_rounds == "auto" else model.init_rounds
    seeding = rounds + 1 if model.init == "k-means||" else 0
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
    )


def _label_grid(opened: OpenedStore) -> results.LabelGrid:
    """Return where labels go."""
    taken = {*results.PER_SAMPLE, "centers", "counts", "inertia_per_cluster", "cluster", "feature"}
    coords: dict[Hashable, Any] = {name: values for name, values in opened.coords.items() if name not in taken}
    return results.LabelGrid(opened.sample_dims, opened.shape, opened.label_chunks, coords)


def _create_labels(opened: OpenedStore, group: Path, output: OutputConfig) -> results.LabelSink:
    """Create the labels, all -1, and what else is asked for of each sample."""
    more = [results.DISTANCES] if output.distances else []
    more += [results.RUNNER_UP, results.MARGIN] if output.runner_up else []
    return results.create_labels(group, _label_grid(opened), aligned=opened.labels_aligned, more=more)


def _clusters(fitted: Fitted, opened: OpenedStore) -> Any:
    """Return the arrays of the fitted model, as a Dataset."""
    scaled = {}
    if fitted.scaling is not None:
        scaled = {
            "scaled_centers": fitted.scaled_centers,
            "feature_mean": fitted.scaling.mean,
            "feature_scale": fitted.scaling.scale,
        }
    per_cluster = {"inertia_per_cluster": fitted.inertia_per_cluster, "counts": fitted.counts}
    return results.clusters_dataset(fitted.centers, per_cluster, scaled, opened.feature_names)


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
        "budget_bytes": job.budget.total_bytes,
        "peak_worker_bytes": scanner.peak_rss_bytes,
        "passes": [asdict(report) for report in scanner.history],
        "config": job.config.model_dump(mode="json"),
        "versions": versions(),
    }


def _summary_lines(summary: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
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
        ("results", str(folder)),
    ]


def _report(folder: Path) -> None:
    """Write the report; a page that fails must not cost the results of a long run."""
    try:
        write_report(folder)
    except Exception as error:
        warnings.warn(f"The report could not be made: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)


def _check_features(found: Sequence[str], expected: Sequence[str]) -> None:
    """Raise DataError if the features of new data are not those that were clustered."""
    if tuple(found) == tuple(expected):
        return
    if len(found) != len(expected):
        raise DataError(
            f"STORE has {len(found)} features ({_some(found)}), RESULT has {len(expected)} "
            f"({_some(expected)}); give data with the same variables and dimensions"
        )
    i = next(i for i, names in enumerate(zip(found, expected, strict=True)) if len(set(names)) > 1)
    raise DataError(
        f"feature {i} of STORE is {found[i]}, of RESULT {expected[i]}; give data with the same "
        "variables and dimensions, in the same order"
    )


def _check_scaling(config: JobConfig, clusters: Any) -> None:
    """Raise ConfigError if features are to be scaled otherwise than when they were clustered."""
    was_scaled, is_scaled = "scaled_centers" in clusters, config.preprocess.scale != "none"
    if was_scaled != is_scaled:
        raise ConfigError(
            f"preprocess.scale: {config.preprocess.scale}, but RESULT was made of "
            f"{'scaled' if was_scaled else 'unscaled'} features; leave it as it is in RESULT"
        )


def _label(scanner: Scanner, clusters: Any, sink: results.LabelSink) -> None:
    """Assign all rows to the nearest center, in the units that the fit measured distances in."""
    centers = clusters["centers"].values
    if "scaled_centers" in clusters:
        centers = clusters["scaled_centers"].values
        mean, scale = clusters["feature_mean"].values, clusters["feature_scale"].values
        scanner.transform(Standardize(mean, scale))
    samples = scanner.samples
    survey = Survey(sample_size=1, seed=0, n_samples=samples.n_samples)
    assign = Assign(Stack.of([centers]), centers.mean(axis=0), sink)
    surveyed, _ = scanner.scan(Both(survey, assign), "labels")
    check_surveyed(surveyed, samples, n_clusters=0)


def _local(path: str, key: str) -> Path:
    """Return a path of this machine, from the current directory on."""
    if "://" in path:
        raise ConfigError(
            f"{key}: {path} is a URL; expected a folder of this machine or of a file system that workers share: object "
            "stores cannot rename, so that results there would not appear whole or not at all. Write to a folder, "
            "then copy it, such as with `aws s3 cp --recursive`"
        )
    return Path(path).expanduser().absolute()


def _some(names: Sequence[str]) -> str:
    """Return the first few names."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _print_lines(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, value)
    console.print(table, highlight=False, markup=False)

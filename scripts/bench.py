"""Compare daskmeans with its peers: tables of ratios, each measured in one run on the same data.

Times are medians over rounds in which all candidates take turns, so that a machine that slows down slows all of them.
Peers are optional: ``pip install .[bench]``.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import dask
import dask.array as da
import numpy as np
import psutil
import typer
import zarr
from make_large_store import write_large_store
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans as ScikitKMeans
from sklearn.datasets import load_sample_images

import daskmeans
from daskmeans.estimator import KMeans
from daskmeans.inputs import as_samples, resolve_budget
from daskmeans.memory import MIB, format_bytes
from daskmeans.samples import Block
from daskmeans.scan import Scanner

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)
console = Console()
Rounds = Annotated[int, typer.Option(help="Rounds; figures are medians over them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ChunkMiB = Annotated[int, typer.Option(help="Size of the store's chunks; at least 60 are written.")]
Folder = Annotated[Path | None, typer.Option(help="Where stores are written; a temporary folder if not given.")]

SHAPES = [
    (4_000_000, 4, 8),
    (2_000_000, 16, 8),
    (1_000_000, 16, 64),
    (500_000, 64, 256),
    (200_000, 128, 1024),
    (60_000, 768, 1024),
]

# Iterations of the fits that are timed in memory: what comes before and after them counts too.
N_ITER = 10


# ---------------------------------------------------------------------------------------------------------------------
# Data


def blobs(n: int, d: int, k: int, *, spread: float, seed: int = 0) -> np.ndarray:
    """Gaussian blobs of variance 1 around `k` centers of variance ``spread**2``."""
    rng = np.random.default_rng(seed)
    centers = spread * rng.standard_normal((k, d))
    return (centers[rng.integers(k, size=n)] + rng.standard_normal((n, d))).astype(np.float32)


def patches() -> np.ndarray:
    """All 4 x 4 x 3 patches of the photographs that scikit-learn ships, about 540,000 x 48."""
    images = [image.astype(np.float32) / 255 for image in load_sample_images().images]
    windows = [np.lib.stride_tricks.sliding_window_view(image, (4, 4), axis=(0, 1)) for image in images]
    rows = np.concatenate([window.reshape(-1, 48) for window in windows])
    return rows[np.random.default_rng(0).permutation(len(rows))]


def write_store(path: Path, X: np.ndarray, chunk_bytes: int = 4 * MIB) -> zarr.Array:
    """Write rows as a Zarr array, zstd-compressed, in row chunks."""
    rows = max(1, chunk_bytes // (X.shape[1] * X.dtype.itemsize))
    array = zarr.create_array(path, shape=X.shape, chunks=(rows, X.shape[1]), dtype=X.dtype, overwrite=True)
    array[:] = X
    return array


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def elapsed_s(task: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    task()
    return time.perf_counter() - begin


def in_turns(tasks: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median time of each task, in seconds; the first turn warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            seconds = elapsed_s(task)
            if number:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def show(title: str, rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"title": title, "machine": machine(), "rows": rows}))
        return
    table = Table(title=f"{title}\n{machine()}")
    columns = dict.fromkeys(column for row in rows for column in row)
    for column in columns:
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        values = (row.get(column, "") for column in columns)
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values))
    console.print(table)


def machine() -> str:
    return (
        f"{psutil.cpu_count(logical=False)} cores, {format_bytes(psutil.virtual_memory().total)}, "
        f"daskmeans {daskmeans.__version__}, {time.strftime('%Y-%m-%d')}"
    )


class Load:
    """A Step that does nothing with the rows: a pass of it reads and decodes, no more."""

    def map(self, block: Block) -> int:
        return block.n_rows

    def merge(self, left: int, right: int) -> int:
        return left + right

    def finish(self, total: int) -> int:
        return total


# ---------------------------------------------------------------------------------------------------------------------
# Subcommands


@app.command()
def memory(rounds: Rounds = 5, as_json: AsJson = False, shapes: str = "0,1,2,3,4,5") -> None:
    """Arrays in memory against scikit-learn (and FAISS): time per iteration, and whole fits."""
    rows = []
    for dtype in (np.float32, np.float64):
        for n, d, k in (SHAPES[int(i)] for i in shapes.split(",")):
            X = np.random.default_rng(0).standard_normal((n, d)).astype(dtype)
            rows.append(_per_iteration(X, k, rounds))
    show(f"Fits of {N_ITER} iterations from the same centers on noise, time per iteration", rows, as_json=as_json)
    whole = []
    for name, X in {"blobs": blobs(2_000_000, 16, 32, spread=5), "noise": blobs(2_000_000, 16, 1, spread=0)}.items():
        seconds = in_turns(
            {
                "daskmeans": lambda X=X: KMeans(32, random_state=0).fit(X),
                "scikit-learn": lambda X=X: ScikitKMeans(32, random_state=0).fit(X),
            },
            rounds,
        )
        ours, theirs = KMeans(32, random_state=0).fit(X), ScikitKMeans(32, random_state=0).fit(X)
        whole.append(
            {
                "case": f"{name} 2M x 16, k=32",
                "daskmeans s": seconds["daskmeans"],
                "scikit-learn s": seconds["scikit-learn"],
                "time ratio": seconds["daskmeans"] / seconds["scikit-learn"],
                "inertia ratio": ours.inertia_ / theirs.inertia_,
            }
        )
    show("Whole fits with default parameters", whole, as_json=as_json)


def _per_iteration(X: np.ndarray, k: int, rounds: int) -> dict[str, Any]:
    init = X[:k].copy()

    def ours(n_iter: int) -> None:
        KMeans(k, init=init, max_iter=n_iter, tol=0, algorithm="lloyd").fit(X)

    def theirs(n_iter: int) -> None:
        ScikitKMeans(k, init=init, n_init=1, max_iter=n_iter, tol=0).fit(X)

    fits = {"daskmeans": ours, "scikit-learn": theirs, **_faiss(X, init)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds = in_turns({name: (lambda fit=fit: fit(N_ITER)) for name, fit in fits.items()}, rounds)
    row: dict[str, Any] = {"case": f"{len(X):,} x {X.shape[1]}, k={k}, {X.dtype}"}
    row |= {f"{name} ms": 1000 * value / N_ITER for name, value in seconds.items()}
    row |= {f"ratio to {name}": seconds["daskmeans"] / seconds[name] for name in seconds if name != "daskmeans"}
    return row


def _faiss(X: np.ndarray, init: np.ndarray) -> dict[str, Callable[[int], None]]:
    """Return FAISS's k-means where it is installed; it knows float32 only."""
    try:
        import faiss
    except ImportError:
        return {}
    if X.dtype != np.float32:
        return {}

    def fit(n_iter: int) -> None:
        model = faiss.Kmeans(X.shape[1], len(init), niter=n_iter, max_points_per_centroid=len(X))
        model.train(X, init_centroids=init)

    return {"FAISS": fit}


@app.command()
def store(
    rows: int = 16_000_000,
    features: int = 64,
    chunk_mib: ChunkMiB = 64,
    rounds: Rounds = 5,
    folder: Folder = None,
    as_json: AsJson = False,
    peers: Annotated[bool, typer.Option(help="Time dask-ml's fit too, once.")] = True,
) -> None:
    """A store larger than the budget: a pass against only reading it, peak memory, a whole fit against dask-ml."""
    with Workplace(folder) as path:
        X = _large_store(path / "large.zarr", rows, features, chunk_mib)
        init = X[:32]
        budget = X.nbytes // 4
        samples = as_samples(KMeans(), X, None, resolve_budget(budget), reset=True)
        scanner = Scanner(samples)
        plain = daskmeans.steps.Assign(
            daskmeans.kernels.Stack.of([init.astype(float)]), init.mean(axis=0).astype(float)
        )
        seconds = in_turns({"read": lambda: scanner.scan(Load()), "pass": lambda: scanner.scan(plain)}, rounds)
        table = [
            {
                "case": f"Lloyd pass, {rows:,} x {features}, k=32, {_chunks(X)}",
                "read only s": seconds["read"],
                "pass s": seconds["pass"],
                "ratio": seconds["pass"] / seconds["read"],
                "GB/s": X.nbytes / seconds["pass"] / 1e9,
            }
        ]
        show("A Lloyd pass against only reading and decoding", table, as_json=as_json)
        fits = [_measured_fit("daskmeans", _fit_ours, path / "large.zarr", budget)]
        if peers:
            fits.append(_measured_fit("dask-ml", _fit_dask_ml, path / "large.zarr", budget))
            fits[0]["times faster"] = fits[1]["fit s"] / fits[0]["fit s"]
            fits[1]["times faster"] = 1.0
        show(f"Whole fits, k=32, memory_budget {format_bytes(budget)}", fits, as_json=as_json)


def _large_store(path: Path, rows: int, features: int, chunk_mib: int) -> zarr.Array:
    """Write blobs in chunks of about so many MiB."""
    return write_large_store(path, rows, features, max(1, min(chunk_mib * MIB // (4 * features), rows // 60)))


def _chunks(X: zarr.Array) -> str:
    return f"{X.nchunks} chunks of {format_bytes(math.prod(X.chunks) * X.dtype.itemsize)}"


def _measured_fit(name: str, fit: Callable[..., Any], path: Path, budget: int) -> dict[str, Any]:
    """Fit in a process of its own, and tell its peak memory."""
    queue: Any = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(target=fit, args=(path, budget, queue))
    process.start()
    result = queue.get()
    process.join()
    return {"case": name, **result}


def _fit_ours(path: Path, budget: int, queue: Any) -> None:
    X = zarr.open_array(path, mode="r")
    begin = time.perf_counter()
    model = KMeans(32, random_state=0, memory_budget=budget).fit(X)
    seconds = time.perf_counter() - begin
    queue.put({"fit s": seconds, "inertia": model.inertia_, "passes": model.n_passes_, "peak": _peak()})


def _fit_dask_ml(path: Path, budget: int, queue: Any) -> None:
    from dask_ml.cluster import KMeans as DaskMLKMeans

    X = da.from_zarr(path)
    begin = time.perf_counter()
    model = DaskMLKMeans(32, random_state=0, tol=1e-4).fit(X)
    seconds = time.perf_counter() - begin
    centers = KMeans(32, init=model.cluster_centers_, max_iter=1)
    inertia = -centers.fit(model.cluster_centers_).score(X)
    queue.put({"fit s": seconds, "inertia": inertia, "passes": f"{model.n_iter_} iterations", "peak": _peak()})


def _peak() -> str:
    return format_bytes(daskmeans.workers.peak_rss_bytes())


@app.command()
def passes(folder: Folder = None, as_json: AsJson = False) -> None:
    """Reads until converged from the same seeds, against plain Lloyd; and the best of 3 scikit-learn fits in memory."""
    table = []
    with Workplace(folder) as path:
        cases = {
            "blobs 1M x 16, k=32": (blobs(1_000_000, 16, 32, spread=1.5), 32),
            "image patches 540k x 48, k=16": (patches(), 16),
            "image patches 540k x 48, k=64": (patches(), 64),
            "noise 1M x 8, k=16": (np.random.default_rng(0).random((1_000_000, 8), dtype=np.float32), 16),
        }
        for name, (X, k) in cases.items():
            table.append({"case": name, **_count_passes(write_store(path / "X.zarr", X, X.nbytes // 512), X, k)})
            console.print(table[-1])
    show("Reads of a store 8 times the budget", table, as_json=as_json)


def _count_passes(stored: zarr.Array, X: np.ndarray, k: int) -> dict[str, Any]:
    budget = X.nbytes // 8
    seeds = X[np.random.default_rng(1).choice(len(X), k, replace=False)]
    plain = ScikitKMeans(k, init=seeds, n_init=1).fit(X)
    ahead = KMeans(k, init=seeds, memory_budget=budget, random_state=0).fit(stored)
    exact = KMeans(k, init=seeds, memory_budget=budget, random_state=0, algorithm="lloyd").fit(stored)
    default = KMeans(k, memory_budget=budget, random_state=0).fit(stored)
    best = min(ScikitKMeans(k, n_init=1, random_state=seed).fit(X).inertia_ for seed in range(3))
    return {
        "plain Lloyd": plain.n_iter_ + 1,
        "active rows": exact.n_passes_,
        "look-ahead": ahead.n_passes_,
        "fewer times": (plain.n_iter_ + 1) / ahead.n_passes_,
        "inertia to plain": ahead.inertia_ / plain.inertia_,
        "default fit and labels": default.n_passes_ + 1,
        "inertia to best of 3": default.inertia_ / best,
    }


@app.command()
def sweep(
    rows: int = 16_000_000,
    features: int = 64,
    chunk_mib: ChunkMiB = 64,
    rounds: Rounds = 5,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """k = 2 to 12 in shared passes against k = 12 alone with the same number of passes."""
    with Workplace(folder) as path:
        X = _large_store(path / "large.zarr", rows, features, chunk_mib)
        budget = resolve_budget(X.nbytes // 4)
        samples = as_samples(KMeans(), X, None, budget, reset=True)
        sample, scanner = X[:4096].astype(float), Scanner(samples)
        rng, offset = np.random.default_rng(0), sample.mean(axis=0)

        def step(numbers: range) -> Any:
            models = [sample[rng.choice(len(sample), k, replace=False)] for k in numbers]
            return daskmeans.steps.Assign(daskmeans.kernels.Stack.of(models), offset)

        many, one = step(range(2, 13)), step(range(12, 13))
        seconds = in_turns({"many": lambda: scanner.scan(many), "one": lambda: scanner.scan(one)}, rounds)
    table = [
        {
            "case": f"a pass, {rows:,} x {features}, {_chunks(X)}",
            "k=12 alone s": seconds["one"],
            "k=2..12 s": seconds["many"],
            "ratio": seconds["many"] / seconds["one"],
        }
    ]
    show("Eleven models in one pass against one", table, as_json=as_json)


@app.command()
def seeding(runs: int = 11, as_json: AsJson = False) -> None:
    """The mixtures of Bahmani et al. 2012, table 1: cost / 1e4 after seeding and at the end, medians."""
    table = []
    for variance in (1, 10, 100):
        found: dict[str, list[float]] = {}
        for run in range(runs):
            rng = np.random.default_rng(run)
            centers = rng.standard_normal((50, 15)) * variance**0.5
            X = centers[rng.integers(50, size=10_000)] + rng.standard_normal((10_000, 15))
            for rounds in (5, "auto"):
                model = KMeans(50, init_rounds=rounds, random_state=run).fit(X)
                found.setdefault(f"final, rounds={rounds}", []).append(model.inertia_)
            found.setdefault("scikit-learn final", []).append(ScikitKMeans(50, random_state=run).fit(X).inertia_)
        table.append(
            {"case": f"R = {variance}", **{name: statistics.median(costs) / 1e4 for name, costs in found.items()}}
        )
    show("GaussMixture, 10,000 x 15, k = 50, l = 2k", table, as_json=as_json)


@app.command()
def scale(rounds: Rounds = 5, as_json: AsJson = False) -> None:
    """Time of a pass against the number of blocks, of rows, and of workers."""
    table = []
    for n_blocks in (100, 1_000, 10_000, 100_000):
        X = da.zeros((n_blocks, 1), chunks=(1, 1), dtype=np.float64)
        seconds = _pass_seconds(X, 1 if n_blocks >= 10_000 else rounds)
        table.append({"case": f"{n_blocks:,} blocks of one row", "pass s": seconds})
    show("A pass over tiny blocks, threads", table, as_json=as_json)
    table = []
    for n in (2_000_000, 4_000_000, 8_000_000):
        X = da.random.default_rng(0).standard_normal((n, 16), chunks=(250_000, 16), dtype=np.float32)
        seconds = _pass_seconds(X, rounds)
        previous = table[-1]["pass s"] if table else float("nan")
        table.append({"case": f"{n:,} rows", "pass s": seconds, "to the previous": seconds / previous})
    show("A pass against the number of rows", table, as_json=as_json)
    table = []
    for threads in (1, 2):
        X = da.random.default_rng(0).standard_normal((4_000_000, 16), chunks=(250_000, 16), dtype=np.float32)
        with dask.config.set(num_workers=threads):
            table.append({"case": f"{threads} threads", "pass s": _pass_seconds(X, rounds)})
    show("A pass against the number of workers", table, as_json=as_json)


def _pass_seconds(X: da.Array, rounds: int) -> float:
    samples = as_samples(KMeans(), X, None, resolve_budget(None), reset=True)
    centers = np.random.default_rng(0).standard_normal((32, X.shape[1]))
    step = daskmeans.steps.Assign(daskmeans.kernels.Stack.of([centers]), centers.mean(axis=0))
    return in_turns({"pass": lambda: Scanner(samples).scan(step)}, rounds)["pass"]


class Workplace:
    """A given folder, or a temporary one that is removed."""

    def __init__(self, given: Path | None) -> None:
        self.given = given

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp()) if self.given is None else self.given
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path

    def __exit__(self, *_: object) -> None:
        if self.given is None:
            shutil.rmtree(self.path)


if __name__ == "__main__":
    app()

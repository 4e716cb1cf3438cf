"""One pass over the data: a task per block, a reduction tree of fixed shape. The only module that builds Dask graphs.

Must not know what a Step computes.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import resource
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import dask
import dask.array as da
import dask.local
import dask.threaded
import distributed
import numpy as np
import numpy.typing as npt
import threadpoolctl
from dask._task_spec import List, Task, TaskRef
from dask.base import get_scheduler, persist
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from daskmeans.samples import Block, Grid, Loader, Samples, Transform

Key: TypeAlias = Any  # a string, or a tuple of a string and integers
P = TypeVar("P")
Q = TypeVar("Q")
R = TypeVar("R", covariant=True)

# A task reads at least one block. Above this many, a task takes several, so that the scheduler is not drowned.
MAX_TASKS = 4096
FAN_IN = 16


class Step(Protocol[P, R]):
    """What to do with one block, how to merge two results, how to finish. Pure; picklable."""

    def map(self, block: Block) -> P:
        """Return the partial result of one block."""

    def merge(self, left: P, right: P) -> P:
        """Combine the results of two runs of blocks, `left` before `right`, and leave both as they are."""

    def finish(self, total: P) -> R:
        """Turn the merged result into what the caller asked for, in the caller's process."""


class KeepingStep(Step[P, R], Protocol[P, R]):
    """A Step that also picks rows of each block to stay where they are, for scans of their own."""

    def map_and_keep(self, block: Block) -> tuple[P, Block]:
        """Return the partial result of one block, and those of its rows that are kept."""


@dataclass
class Scanned(Generic[P]):
    """A partial result and what it took to compute it."""

    partial: P
    n_bytes: int
    peak_rss_bytes: int
    kept: Block | None = None


@dataclass(frozen=True)
class PassReport:
    """What one pass took.

    Attributes
    ----------
    number : counts from 1.
    title : what the pass was for.
    n_bytes : bytes of rows that were read and decoded; 0 where all blocks were kept.
    inertia : of the centers that the pass assigned rows to; None where it assigned none.
    center_shift : squared distance that the pass moved the centers by, summed over clusters; None where it moved none.
    """

    number: int
    title: str
    n_blocks: int
    n_bytes: int
    elapsed_s: float
    inertia: float | None = None
    center_shift: float | None = None


class Listener(Protocol):
    """Hears of the progress of a scan."""

    def started(self, number: int, title: str, n_blocks: int) -> None:
        """A pass begins."""

    def advanced(self, n_blocks: int, n_bytes: int) -> None:
        """Some blocks of the pass are done. Called from any thread."""

    def finished(self, report: PassReport) -> None:
        """The pass is over."""

    def judged(self, report: PassReport) -> None:
        """Inertia and center shift of the pass are known."""


def peak_rss_bytes() -> int:
    """Return the most memory that this process has held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass
class Scanner:
    """Runs Steps over samples, one pass each; keeps the blocks that fit; counts what was read.

    Runs where Dask would: on the active `distributed.Client` if there is one, else on threads. Rows that lie in
    this process stay in it.

    Attributes
    ----------
    samples : what is scanned.
    kept_bytes : where all rows together take no more, over all workers, they are read once and kept.
    listener : hears of progress.
    history : a report for each pass so far.
    n_bytes : bytes of rows read and decoded so far.
    peak_rss_bytes : the most memory that any process that worked on a pass has held.
    """

    samples: Samples
    kept_bytes: int = 0
    listener: Listener | None = None
    history: list[PassReport] = field(default_factory=list)
    n_bytes: int = 0
    peak_rss_bytes: int = 0
    _kept: dict[int, Any] = field(default_factory=dict)  # each a Block, or a Delayed that computes one

    @property
    def n_passes(self) -> int:
        """Number of passes so far."""
        return len(self.history)

    def scan(self, step: Step[P, R], title: str = "scan") -> R:
        """Run `step` over all blocks: one pass."""
        return self._scan(step, title, keeps=False)[0]

    def scan_and_keep(self, step: KeepingStep[P, R], title: str) -> tuple[R, Scanner]:
        """Run `step` over all blocks, one pass, and return beside its result a scanner of the rows that are kept."""
        return self._scan(step, title, keeps=True)

    def _scan(self, step: Step[P, R], title: str, *, keeps: bool) -> tuple[R, Scanner]:
        begin = time.perf_counter()
        n_blocks = self.samples.grid.n_blocks
        if self.listener is not None:
            self.listener.started(self.n_passes + 1, title, n_blocks)
        total, kept = self._run(step, keeps=keeps)
        elapsed_s = time.perf_counter() - begin
        self.n_bytes += total.n_bytes
        self.peak_rss_bytes = max(self.peak_rss_bytes, total.peak_rss_bytes)
        report = PassReport(self.n_passes + 1, title, n_blocks, total.n_bytes, elapsed_s)
        self.history.append(report)
        if self.listener is not None:
            self.listener.finished(report)
        return step.finish(total.partial), self._scanner_of(kept)

    def judge(self, inertia: float, center_shift: float | None) -> None:
        """Add to the report of the last pass what its caller made of it."""
        self.history[-1] = replace(self.history[-1], inertia=inertia, center_shift=center_shift)
        if self.listener is not None:
            self.listener.judged(self.history[-1])

    def transform(self, transform: Transform) -> None:
        """See the rows through `transform` from now on, those that are kept too."""
        self.samples = self.samples.with_transform(transform)
        apply, blocks = self.samples.loader.transformed, _in_this_process(self._kept)
        if blocks:
            self._kept = blocks
            with _on_threads(apply, list(blocks.values())) as transformed:
                for i, block in zip(blocks, transformed, strict=True):
                    blocks[i] = block
        elif self._kept:
            name = f"transformed-{uuid.uuid4().hex}"
            graph: dict[Key, Task] = {
                (name, i): Task((name, i), apply, TaskRef(block.key)) for i, block in self._kept.items()
            }
            self._kept = _persist(name, graph, list(self._kept), list(self._kept.values()))

    def _run(self, step: Step[P, Any], *, keeps: bool) -> tuple[Scanned[P], Sequence[Any]]:
        """Compute the merged result of all blocks, and what is kept of each task, where Dask would."""
        token = uuid.uuid4().hex
        client = None if self.samples.in_memory else current_client()
        if client is not None:
            with _relayed(client, token, self.listener) as tick:
                return self._compute(_Work(self.samples.loader, step, keeps, tick, True), token)
        tick = _silent if self.listener is None else self.listener.advanced
        work = _Work(self.samples.loader, step, keeps, tick, False)
        with one_blas_thread():
            return self._compute_here(work) if self._needs_no_graph() else self._compute(work, token)

    def _needs_no_graph(self) -> bool:
        """Whether threads of this process have, or can read, all blocks; `_compute` has the same results."""
        if self.samples.in_memory or _in_this_process(self._kept):
            return True
        return _uses_threads() and not self.samples.collections and not self._kept

    def _compute_here(self, work: _Work) -> tuple[Scanned[Any], Sequence[Any]]:
        """Compute one pass on threads of this process."""
        fresh, kept = self._keeps_all(), _in_this_process(self._kept)
        groups = _groups(self.samples.grid.n_blocks)
        rows: dict[int, Block] = {}

        def scanned(number: int) -> Scanned[Any]:
            indices = groups[number]
            if fresh:
                kept.update((i, _load_task(work, i, ())) for i in indices)
            found = work.map(indices, [kept.get(i, ()) for i in indices], fresh=fresh)
            if found.kept is not None:
                rows[number] = found.kept
            return _result_task(found)

        with _on_threads(scanned, range(len(groups))) as parts:
            total = _merged(work, parts, len(groups))
        self._kept = kept
        return total, [rows[number] for number in sorted(rows)]

    def _compute(self, work: _Work, token: str) -> tuple[Scanned[Any], Sequence[Any]]:
        """Build the graph of one pass and compute it."""
        graph = _Graph(self, work, token)
        layers = HighLevelGraph.from_collections(
            token, graph.tasks, dependencies=[*self.samples.collections, *self._kept.values()]
        )
        wanted = [graph.root, *graph.new_blocks.values(), *graph.rows]
        delayed = [Delayed(key, layers, layer=token) for key in wanted]
        if len(delayed) > 1:
            delayed = _persisted(delayed)
        total: Scanned[Any] = delayed[0].compute()
        blocks: Sequence[Any] = delayed[1:]
        if blocks and not work.in_worker and _uses_threads():
            blocks = dask.compute(*blocks)
        new = len(graph.new_blocks)
        if new:
            self._kept = dict(zip(graph.new_blocks, blocks[:new], strict=True))
        return total, blocks[new:]

    def _scanner_of(self, blocks: Sequence[Any]) -> Scanner:
        """Return a scanner of rows that a pass has kept."""
        grid = Grid((tuple(range(len(blocks) + 1)),))
        loader = self.samples.loader
        kept = Samples(Loader(loader.source, grid, "error", loader.transform))
        return Scanner(kept, _kept=dict(enumerate(blocks)))

    @property
    def reads_each_pass(self) -> bool:
        """Whether the next pass has to read the data again."""
        return not (self._kept or self.samples.in_memory or self._keeps_all())

    def _keeps_all(self) -> bool:
        """Whether this pass shall keep all blocks."""
        nbytes = self.samples.nbytes
        return not (self._kept or self.samples.in_memory or nbytes is None or nbytes > self.kept_bytes)


class _Graph:
    """The tasks of one pass.

    Their shape depends on the number of blocks alone: so the bits of the result do not depend on who computes it.

    All names end in the token of the pass. The scheduler groups tasks by name, and hands those of a group out as
    workers get free only if what they depend on is in small groups: one that passes share would grow.

    Attributes
    ----------
    root : key of the merged result.
    new_blocks : keys of the blocks that this pass reads and that stay.
    rows : keys of the rows that the step keeps, of each task.
    """

    def __init__(self, scanner: Scanner, work: _Work, token: str) -> None:
        self.samples, self.token = scanner.samples, token
        self.tasks: dict[Key, Task] = {}
        self.work = TaskRef(self._add(f"work-{token}", 0, work.itself))
        n_blocks = self.samples.grid.n_blocks
        self.new_blocks: dict[int, Key] = {}
        if scanner._keeps_all():
            self.new_blocks = {
                i: self._add(f"block-{token}", i, _load_task, self.work, i, self._chunks(i)) for i in range(n_blocks)
            }
        blocks = self.new_blocks or {i: block.key for i, block in scanner._kept.items()}
        results = self._add_maps(n_blocks, blocks)
        self.rows: list[Key] = []
        if work.keeps:
            self.rows = [self._add(f"rows-{token}", i, _rows_task, TaskRef(key)) for i, key in enumerate(results)]
            results = [self._add(f"result-{token}", i, _result_task, TaskRef(key)) for i, key in enumerate(results)]
        self.root = self._add_merges(results)

    def _add(self, name: str, i: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Key:
        key = (name, i)
        self.tasks[key] = Task(key, function, *args, **kwargs)
        return key

    def _add_maps(self, n_blocks: int, blocks: dict[int, Key]) -> list[Key]:
        """Add a task for each block, or for several where there are very many."""
        keys: list[Key] = []
        for indices in _groups(n_blocks):
            given = List(*(TaskRef(blocks[i]) if i in blocks else self._chunks(i) for i in indices))
            fresh = bool(self.new_blocks)
            keys.append(self._add(f"map-{self.token}", len(keys), _map_task, self.work, indices, given, fresh=fresh))
        return keys

    def _add_merges(self, keys: list[Key]) -> Key:
        """Add the reduction tree."""
        numbers = itertools.count()
        while len(keys) > 1:
            groups = [List(*map(TaskRef, keys[begin : begin + FAN_IN])) for begin in range(0, len(keys), FAN_IN)]
            name = f"merge-{self.token}"
            keys = [self._add(name, next(numbers), _merge_task, self.work, group) for group in groups]
        return keys[0]

    def _chunks(self, i: int) -> Any:
        """Refer to the Dask chunks that block `i` is made of."""
        return List(*(TaskRef((c.name, i, *([0] * (c.ndim - 1)))) for c in self.samples.collections))


def _groups(n_blocks: int) -> list[tuple[int, ...]]:
    """Return the blocks of each task: one, or several where there are very many."""
    per_task = -(-n_blocks // MAX_TASKS)
    return [tuple(range(begin, min(begin + per_task, n_blocks))) for begin in range(0, n_blocks, per_task)]


def _merged(work: _Work, parts: Iterator[Scanned[Any]], n_parts: int) -> Scanned[Any]:
    """Merge as the tasks of a graph do, each group of parts as soon as the last of them is there."""
    while n_parts > 1:
        parts = map(functools.partial(_merge_task, work), _batches(parts))
        n_parts = -(-n_parts // FAN_IN)
    return next(parts)


def _batches(parts: Iterator[Scanned[Any]]) -> Iterator[list[Scanned[Any]]]:
    while batch := list(itertools.islice(parts, FAN_IN)):
        yield batch


@contextmanager
def _on_threads(function: Callable[[P], Q], values: Sequence[P]) -> Iterator[Iterator[Q]]:
    """Give what `function` makes of each value, in order, computed on as many threads as Dask would use."""
    if len(values) == 1:
        yield map(function, values)
        return
    pool = ThreadPoolExecutor(_n_threads())
    try:
        yield pool.map(function, values)
    finally:
        pool.shutdown(cancel_futures=True)


def _n_threads() -> int:
    """Return how many threads Dask would use in this process."""
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def _uses_threads() -> bool:
    """Return whether Dask would compute in this process."""
    return get_scheduler() in (None, dask.threaded.get, dask.local.get_sync)


def _in_this_process(blocks: dict[int, Any]) -> dict[int, Block]:
    """Return the blocks if they lie in this process."""
    return {i: block for i, block in blocks.items() if isinstance(block, Block)}


def current_client() -> distributed.Client | None:
    """Return the client that Dask would compute on now, or None where it would compute in this process."""
    owner = getattr(get_scheduler(), "__self__", None)
    return owner if isinstance(owner, distributed.Client) else None


def memory_of_workers() -> int:
    """Return the bytes of memory that the workers may use: those of the current client, or this process."""
    client = current_client()
    if client is None:
        return int(MEMORY_LIMIT)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [worker["memory_limit"] or MEMORY_LIMIT for worker in workers]
    return int(sum(limits)) or int(MEMORY_LIMIT)


def lazy_rows(
    X: da.Array,
    function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    n_columns: int | None,
    dtype: np.dtype[Any],
    name: str,
) -> da.Array:
    """Return what `function` makes of each row chunk of `X`, (n_samples,) or (n_samples, n_columns), lazily."""
    meta = np.empty((0,) if n_columns is None else (0, 0), dtype=dtype)
    if n_columns is None:
        return X.map_blocks(function, drop_axis=1, dtype=dtype, meta=meta, name=f"{name}-{uuid.uuid4().hex}")
    chunks = (X.chunks[0], (n_columns,))
    return X.map_blocks(function, chunks=chunks, dtype=dtype, meta=meta, name=f"{name}-{uuid.uuid4().hex}")


def _persist(
    name: str, graph: dict[Key, Task], indices: Sequence[int], dependencies: Sequence[Delayed]
) -> dict[int, Delayed]:
    layers = HighLevelGraph.from_collections(name, graph, dependencies=dependencies)
    delayed = [Delayed((name, i), layers, layer=name) for i in indices]
    return dict(zip(indices, _persisted(delayed), strict=True))


class _Together:
    """Some Delayed of one graph as one collection: the scheduler keeps a note of each that it was given, for ever."""

    def __init__(self, delayed: Sequence[Delayed]) -> None:
        self._delayed = delayed

    __dask_optimize__ = staticmethod(Delayed.__dask_optimize__)
    __dask_scheduler__ = staticmethod(Delayed.__dask_scheduler__)

    def __dask_graph__(self) -> Any:
        return self._delayed[0].__dask_graph__()

    def __dask_layers__(self) -> tuple[str, ...]:
        layers: tuple[str, ...] = self._delayed[0].__dask_layers__()
        return layers

    def __dask_keys__(self) -> list[Key]:
        return [one.key for one in self._delayed]

    def __dask_tokenize__(self) -> list[Key]:
        return self.__dask_keys__()

    def __dask_postcompute__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return list, ()

    def __dask_postpersist__(self) -> tuple[Callable[..., list[Delayed]], tuple[()]]:
        return self._rebuilt, ()

    def _rebuilt(self, results: Mapping[Key, Any], **_: Any) -> list[Delayed]:
        return [Delayed(key, {key: results[key]}) for key in self.__dask_keys__()]


def _persisted(delayed: Sequence[Delayed]) -> list[Delayed]:
    """Compute some Delayed of one graph, and leave each result where it is."""
    rebuilt: list[Delayed] = persist(_Together(delayed))[0] if delayed else []
    return rebuilt


@functools.cache
def _blas() -> threadpoolctl.ThreadpoolController:
    """Find the BLAS libraries of this process, those that the kernels call included."""
    importlib.import_module("scipy.linalg.cython_blas")
    return threadpoolctl.ThreadpoolController()


def one_blas_thread() -> AbstractContextManager[Any]:
    """Give BLAS one thread in this process: parallelism is Dask's, and sums have the same bits on any machine."""
    limit: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return limit


@functools.cache
def _one_blas_thread_for_good() -> object:
    """Give BLAS one thread in this process, a worker of Dask's."""
    return one_blas_thread()


def _silent(n_blocks: int, n_bytes: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class _Relay:
    """Tells the client, from a worker, that blocks are done."""

    topic: str
    token: str

    def __call__(self, n_blocks: int, n_bytes: int) -> None:
        distributed.get_worker().log_event(self.topic, (self.token, n_blocks, n_bytes))


@contextmanager
def _relayed(client: distributed.Client, token: str, listener: Listener | None) -> Iterator[Callable[[int, int], None]]:
    """Carry what workers report to the listener, while the pass lasts."""
    if listener is None:
        yield _silent
        return
    # One topic for all passes: the scheduler never forgets one, but keeps a limited number of events of each.
    topic = f"daskmeans-{client.id}"

    def hear(event: tuple[float, Any]) -> None:
        of, n_blocks, n_bytes = event[1]
        if of == token:
            listener.advanced(n_blocks, n_bytes)

    client.subscribe_topic(topic, hear)
    try:
        yield _Relay(topic, token)
    finally:
        client.unsubscribe_topic(topic)


@dataclass(frozen=True)
class _Work:
    """All that the tasks of a pass share; sent to each worker once."""

    loader: Loader
    step: Any
    keeps: bool
    tick: Callable[[int, int], None]
    in_worker: bool

    def itself(self) -> _Work:
        return self

    def map(self, blocks: Sequence[int], given: Sequence[Any] | None = None, *, fresh: bool = False) -> Scanned[Any]:
        """Load and map some blocks, merging from the left.

        `given` are, for each block, the block itself where it is kept, else its Dask chunks; `fresh` says that kept
        blocks were read in this pass.
        """
        if self.in_worker:
            _one_blas_thread_for_good()
        total: Any = None
        n_bytes = 0
        kept: list[Block] = []
        for place, i in enumerate(blocks):
            block = () if given is None else given[place]
            read = 0
            if not isinstance(block, Block):
                block = self.loader.load(i, block)
                read = block.X.nbytes
                block = self.loader.transformed(block)
            elif fresh:
                read = block.X.nbytes
            if self.keeps:
                partial, rows = self.step.map_and_keep(block)
                kept.append(rows)
            else:
                partial = self.step.map(block)
            total = partial if place == 0 else self.step.merge(total, partial)
            n_bytes += read
            self.tick(1, read)
        return Scanned(total, n_bytes, peak_rss_bytes(), Block.concatenate(kept) if kept else None)


def _map_task(work: _Work, blocks: tuple[int, ...], given: Sequence[Any], fresh: bool) -> Any:
    return work.map(blocks, given, fresh=fresh)


def _load_task(work: _Work, i: int, chunks: Sequence[Any]) -> Block:
    return work.loader.transformed(work.loader.load(i, chunks))


def _rows_task(scanned: Scanned[Any]) -> Block | None:
    return scanned.kept


def _result_task(scanned: Scanned[Any]) -> Scanned[Any]:
    return replace(scanned, kept=None)


def _merge_task(work: _Work, parts: list[Scanned[Any]]) -> Scanned[Any]:
    total = parts[0].partial
    for part in parts[1:]:
        total = work.step.merge(total, part.partial)
    return Scanned(total, sum(part.n_bytes for part in parts), max(part.peak_rss_bytes for part in parts))

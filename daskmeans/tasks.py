"""The tasks of one pass, for a block or several each, and a tree of fixed shape: the only module that builds graphs.

Must not know what a Step computes, nor where tasks run.
"""

from __future__ import annotations

import functools
import graphlib
import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeAlias, TypeVar

import dask.array as da
import distributed
import numpy as np
import numpy.typing as npt
from dask._task_spec import GraphNode, List, Task, TaskRef, convert_legacy_graph
from dask.base import compute, persist
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.sizeof import sizeof

from daskmeans.samples import Block, Loader, Samples
from daskmeans.workers import one_blas_thread_for_good, peak_rss_bytes

Key: TypeAlias = Any  # a string, or a tuple of a string and integers
P = TypeVar("P")

# So many results are merged at a time, and of what comes of these as many again.
FAN_IN = 4

# A task takes one block, or some power of FAN_IN of them: where there would be more tasks than this in all, so that the
# scheduler is not drowned, or FAN_IN times so many for each thread of the workers. Scans of rows in memory, which there
# are many of, then cost the scheduler less, a millisecond or two for each task. With half as many tasks for a thread
# workers would hold less even shares: up to 969 MiB of 2 GiB for two, with this up to 892.
MAX_TASKS = 4096
TASKS_PER_THREAD = 16

# One task merges so many results, a power of FAN_IN too.
MERGED_AT_ONCE = FAN_IN**2


@dataclass
class Scanned(Generic[P]):
    """A partial result and what it took to compute it."""

    partial: P
    n_bytes: int
    peak_rss_bytes: int
    kept: list[Block] = field(default_factory=list)

    def __sizeof__(self) -> int:
        """Return the bytes of it all."""
        return int(sizeof(self.partial) + sizeof(self.kept))

    def added(self, other: Scanned[P], merge: Callable[[P, P], P]) -> Scanned[P]:
        """Return both as one, without what is kept."""
        peak = max(self.peak_rss_bytes, other.peak_rss_bytes)
        return Scanned(merge(self.partial, other.partial), self.n_bytes + other.n_bytes, peak)


@dataclass(frozen=True)
class Work:
    """All that the tasks of a pass share; sent to each worker once."""

    loader: Loader
    step: Any
    keeps: bool
    tick: Callable[[int, int], None]
    in_worker: bool

    def itself(self) -> Work:
        """Return this: a task that hands it to others."""
        return self

    def map(self, blocks: Sequence[int], given: Sequence[Any], *, fresh: bool = False) -> Scanned[Any]:
        """Load and map some blocks, and merge their results.

        `given` are, for each block, the block itself where it is kept, else its Dask chunks; `fresh` says that kept
        blocks were read in this pass.
        """
        if self.in_worker:
            one_blas_thread_for_good()
        kept: list[Block] = []
        found = (self._map_one(i, block, kept, fresh=fresh) for i, block in zip(blocks, given, strict=True))
        return replace(merge_task(self, found), kept=kept)

    def _map_one(self, i: int, block: Any, kept: list[Block], *, fresh: bool) -> Scanned[Any]:
        """Load and map a block, and add to those that are `kept` what the step keeps of it."""
        n_bytes = 0
        if not isinstance(block, Block):
            block = self.loader.load(i, block)
            n_bytes = block.X.nbytes
            block = self.loader.transformed(block)
        elif fresh:
            n_bytes = block.X.nbytes
        if self.keeps:
            partial, rows = self.step.map_and_keep(block)
            kept.append(self.step.keep(rows))
        else:
            partial = self.step.map(block)
        self.tick(1, n_bytes)
        return Scanned(partial, n_bytes, peak_rss_bytes())


def folded(parts: Iterable[P], merge: Callable[[P, P], P]) -> P:
    """Merge runs of FAN_IN parts from the left, then runs of as many of what comes of these, until one is left.

    Runs may be merged apart, where they begin at a multiple of a power of FAN_IN and are as long: the result has the
    same bits. No more parts are held than the tree has levels.
    """
    totals: list[Any] = []  # of each level, of a run that is not whole yet
    lengths: list[int] = []
    for part in parts:
        for level in itertools.count():
            if level == len(totals):
                totals.append(None)
                lengths.append(0)
            if lengths[level]:
                part = merge(totals[level], part)
            lengths[level] += 1
            if lengths[level] < FAN_IN:
                totals[level] = part
                break
            totals[level], lengths[level] = None, 0
    rest: list[P] = [total for total, length in zip(totals, lengths, strict=True) if length]
    return functools.reduce(lambda right, left: merge(left, right), rest)


def _map_task(work: Work, blocks: tuple[int, ...], given: Sequence[Any], fresh: bool) -> Any:
    return work.map(blocks, given, fresh=fresh)


def load_task(work: Work, blocks: tuple[int, ...], chunks: Sequence[Any]) -> list[Block]:
    """Read some blocks."""
    return [work.loader.transformed(work.loader.load(i, given)) for i, given in zip(blocks, chunks, strict=True)]


def _rows_task(scanned: Scanned[Any]) -> list[Block]:
    return scanned.kept


def result_task(scanned: Scanned[Any]) -> Scanned[Any]:
    """Return what is to be merged."""
    return replace(scanned, kept=[])


def merge_task(work: Work, parts: Iterable[Scanned[Any]]) -> Scanned[Any]:
    """Merge results of runs of as many blocks."""
    return folded(parts, lambda left, right: left.added(right, work.step.merge))


class Graph:
    """The tasks of one pass.

    Their shape depends on the number of blocks alone: so the bits of the result do not depend on who computes it.

    All names end in the token of the pass. The scheduler groups tasks by name, and hands those of a group out as
    workers get free only if what they depend on is in small groups: one that passes share would grow.

    Attributes
    ----------
    root : key of the merged result.
    blocks : keys of the blocks that this pass reads and that stay, those of a task together.
    rows : keys of the rows that the step keeps, of each task.
    collections : whose graphs the tasks need beside them.
    """

    def __init__(
        self, samples: Samples, kept: Sequence[Delayed], work: Work, token: str, *, per_task: int, fresh: bool
    ) -> None:
        self.samples, self.kept, self.token = samples, kept, token
        self.collections = samples.collections
        self.tasks: dict[Key, Any] = {}
        self.work = TaskRef(self._add(f"work-{token}", 0, work.itself))
        n_blocks = self.samples.grid.n_blocks
        groups = groups_of(n_blocks, per_task)
        given: list[Any] = [List(*map(self._chunks, group)) for group in groups]
        self.blocks: list[Key] = []
        if fresh:
            loads = zip(groups, given, strict=True)
            self.blocks = [
                self._add(f"block-{token}", i, load_task, self.work, group, chunks)
                for i, (group, chunks) in enumerate(loads)
            ]
        if keys := self.blocks or [block.key for block in kept]:
            given = [TaskRef(key) for key in keys]
        results = [
            self._add(f"map-{token}", i, _map_task, self.work, group, given[i], fresh=fresh)
            for i, group in enumerate(groups)
        ]
        self.rows: list[Key] = []
        if work.keeps:
            self.rows = [self._add(f"rows-{token}", i, _rows_task, TaskRef(key)) for i, key in enumerate(results)]
            results = [self._add(f"result-{token}", i, result_task, TaskRef(key)) for i, key in enumerate(results)]
        self.root = self._add_merges(results)
        if n_blocks > MAX_TASKS and not any(map(_is_annotated, self.collections)):
            self.tasks, self.collections = _with_upstream(self.tasks, self.collections), ()

    def delayed(self) -> list[Delayed]:
        """Return the merged result, the new blocks and the rows, to be computed."""
        layers = HighLevelGraph.from_collections(self.token, self.tasks, dependencies=[*self.collections, *self.kept])
        wanted = [self.root, *self.blocks, *self.rows]
        return [Delayed(key, layers, layer=self.token) for key in wanted]

    def _add(self, name: str, i: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Key:
        key = (name, i)
        self.tasks[key] = Task(key, function, *args, **kwargs)
        return key

    def _add_merges(self, keys: list[Key]) -> Key:
        """Add the reduction tree."""
        numbers = itertools.count()
        while len(keys) > 1:
            runs = [keys[begin : begin + MERGED_AT_ONCE] for begin in range(0, len(keys), MERGED_AT_ONCE)]
            name = f"merge-{self.token}"
            keys = [self._add(name, next(numbers), merge_task, self.work, List(*map(TaskRef, run))) for run in runs]
        return keys[0]

    def _chunks(self, i: int) -> Any:
        """Refer to the Dask chunks that block `i` is made of."""
        return List(*(TaskRef((c.name, i, *([0] * (c.ndim - 1)))) for c in self.samples.collections))


def _is_annotated(collection: Any) -> bool:
    """Return whether the user has asked for where, or how, tasks of a collection run."""
    return any(layer.annotations for layer in collection.__dask_graph__().layers.values())


def _with_upstream(tasks: Mapping[Key, Task], collections: Sequence[Any]) -> dict[Key, Any]:
    """Return tasks with those of the collections that they need: inside them where no other task needs these.

    The scheduler is spared a task for each chunk. What several tasks need is still computed once, and what is on the
    cluster stays there.
    """
    given: dict[Key, Any] = {}
    for collection in collections:
        given.update(collection.__dask_graph__())
    nodes: dict[Key, GraphNode] = convert_legacy_graph(given)
    needs = {key: nodes[key].dependencies & given.keys() if key in nodes else () for key in given}
    owners: dict[Key, Key | None] = {}  # the only task that needs a node, directly or not; None where there are more

    def claim(keys: Iterable[Key], owner: Key | None) -> None:
        for key in keys:
            if owners.setdefault(key, owner) != owner:
                owners[key] = None

    for key, task in tasks.items():
        claim(task.dependencies & given.keys(), key)
    inside: dict[Key, list[GraphNode]] = {}
    for key in reversed(list(graphlib.TopologicalSorter(needs).static_order())):
        if key not in owners:
            continue
        if isinstance(given[key], distributed.Future):
            owners[key] = None
        owner = owners[key]
        claim(needs[key], owner)
        if owner is not None:
            inside.setdefault(owner, []).append(nodes[key])
    fused = {key: Task.fuse(*inside.get(key, ()), task) for key, task in tasks.items()}
    return {key: given[key] for key, owner in owners.items() if owner is None} | fused


def blocks_per_task(n_blocks: int, n_threads: int | None) -> int:
    """Return how many blocks a task takes on so many threads; on None where that must not make it more."""
    per_task = 1
    enough = min(MAX_TASKS, FAN_IN * TASKS_PER_THREAD * n_threads) if n_threads else MAX_TASKS
    while n_blocks > enough * per_task:
        per_task *= FAN_IN
    return per_task


def groups_of(n_blocks: int, per_task: int) -> list[tuple[int, ...]]:
    """Return the blocks of each task."""
    return [tuple(range(begin, min(begin + per_task, n_blocks))) for begin in range(0, n_blocks, per_task)]


def transformed(groups: Sequence[Delayed], apply: Callable[[Block], Block]) -> list[Delayed]:
    """Return what `apply` makes of blocks that are kept, to be computed where they are."""
    name = f"transformed-{uuid.uuid4().hex}"
    tasks = [Task((name, i), _apply_task, apply, TaskRef(blocks.key)) for i, blocks in enumerate(groups)]
    graph: dict[Key, Task] = {task.key: task for task in tasks}
    layers = HighLevelGraph.from_collections(name, graph, dependencies=list(groups))
    return [Delayed(key, layers, layer=name) for key in graph]


def _apply_task(apply: Callable[[Block], Block], blocks: Sequence[Block]) -> list[Block]:
    return [apply(block) for block in blocks]


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


def brought(delayed: Sequence[Delayed]) -> list[Any]:
    """Compute some Delayed of one graph, and bring their results here."""
    return list(compute(_Together(delayed))[0]) if delayed else []


def persisted(delayed: Sequence[Delayed]) -> list[Delayed]:
    """Compute some Delayed of one graph, and leave each result where it is."""
    rebuilt: list[Delayed] = persist(_Together(delayed))[0] if delayed else []
    return rebuilt


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

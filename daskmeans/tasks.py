"""The tasks of one pass, one for each block, and a reduction tree of fixed shape: the only module that builds graphs.

Must not know what a Step computes, nor where tasks run.
"""

from __future__ import annotations

import functools
import graphlib
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

import dask.array as da
import distributed
import numpy as np
import numpy.typing as npt
from dask._task_spec import GraphNode, List, Task, TaskRef, convert_legacy_graph
from dask.base import persist
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from daskmeans.samples import Block, Loader, Samples
from daskmeans.workers import one_blas_thread_for_good, peak_rss_bytes

Key: TypeAlias = Any  # a string, or a tuple of a string and integers
P = TypeVar("P")

# A task reads at least one block. Above this many, a task takes several, so that the scheduler is not drowned.
MAX_TASKS = 4096
FAN_IN = 16


@dataclass
class Scanned(Generic[P]):
    """A partial result and what it took to compute it."""

    partial: P
    n_bytes: int
    peak_rss_bytes: int
    kept: Block | None = None


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

    def map(self, blocks: Sequence[int], given: Sequence[Any] | None = None, *, fresh: bool = False) -> Scanned[Any]:
        """Load and map some blocks, merging from the left.

        `given` are, for each block, the block itself where it is kept, else its Dask chunks; `fresh` says that kept
        blocks were read in this pass.
        """
        if self.in_worker:
            one_blas_thread_for_good()
        total: Any = None
        n_bytes = 0
        kept: list[Any] = []
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
        return Scanned(total, n_bytes, peak_rss_bytes(), self.step.keep(kept) if kept else None)


def _map_task(work: Work, blocks: tuple[int, ...], given: Sequence[Any], fresh: bool) -> Any:
    return work.map(blocks, given, fresh=fresh)


def load_task(work: Work, i: int, chunks: Sequence[Any]) -> Block:
    """Read a block."""
    return work.loader.transformed(work.loader.load(i, chunks))


def _rows_task(scanned: Scanned[Any]) -> Block | None:
    return scanned.kept


def result_task(scanned: Scanned[Any]) -> Scanned[Any]:
    """Return what is to be merged."""
    return replace(scanned, kept=None)


def _merge_task(work: Work, parts: list[Scanned[Any]]) -> Scanned[Any]:
    total = parts[0].partial
    for part in parts[1:]:
        total = work.step.merge(total, part.partial)
    return Scanned(total, sum(part.n_bytes for part in parts), max(part.peak_rss_bytes for part in parts))


class Graph:
    """The tasks of one pass.

    Their shape depends on the number of blocks alone: so the bits of the result do not depend on who computes it.

    All names end in the token of the pass. The scheduler groups tasks by name, and hands those of a group out as
    workers get free only if what they depend on is in small groups: one that passes share would grow.

    Attributes
    ----------
    root : key of the merged result.
    new_blocks : keys of the blocks that this pass reads and that stay.
    rows : keys of the rows that the step keeps, of each task.
    collections : whose graphs the tasks need beside them.
    """

    def __init__(self, samples: Samples, kept: Mapping[int, Delayed], work: Work, token: str, *, fresh: bool) -> None:
        self.samples, self.kept, self.token = samples, kept, token
        self.collections = samples.collections
        self.tasks: dict[Key, Any] = {}
        self.work = TaskRef(self._add(f"work-{token}", 0, work.itself))
        n_blocks = self.samples.grid.n_blocks
        self.new_blocks: dict[int, Key] = {}
        if fresh:
            self.new_blocks = {
                i: self._add(f"block-{token}", i, load_task, self.work, i, self._chunks(i)) for i in range(n_blocks)
            }
        blocks = self.new_blocks or {i: block.key for i, block in kept.items()}
        results = self._add_maps(n_blocks, blocks)
        self.rows: list[Key] = []
        if work.keeps:
            self.rows = [self._add(f"rows-{token}", i, _rows_task, TaskRef(key)) for i, key in enumerate(results)]
            results = [self._add(f"result-{token}", i, result_task, TaskRef(key)) for i, key in enumerate(results)]
        self.root = self._add_merges(results)
        if n_blocks > MAX_TASKS and not any(map(_is_annotated, self.collections)):
            self.tasks, self.collections = _with_upstream(self.tasks, self.collections), ()

    def delayed(self) -> list[Delayed]:
        """Return the merged result, the new blocks and the rows, to be computed."""
        layers = HighLevelGraph.from_collections(
            self.token, self.tasks, dependencies=[*self.collections, *self.kept.values()]
        )
        wanted = [self.root, *self.new_blocks.values(), *self.rows]
        return [Delayed(key, layers, layer=self.token) for key in wanted]

    def _add(self, name: str, i: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Key:
        key = (name, i)
        self.tasks[key] = Task(key, function, *args, **kwargs)
        return key

    def _add_maps(self, n_blocks: int, blocks: dict[int, Key]) -> list[Key]:
        """Add a task for each block, or for several where there are very many."""
        keys: list[Key] = []
        for indices in groups_of(n_blocks):
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


def groups_of(n_blocks: int) -> list[tuple[int, ...]]:
    """Return the blocks of each task: one, or several where there are very many."""
    per_task = -(-n_blocks // MAX_TASKS)
    return [tuple(range(begin, min(begin + per_task, n_blocks))) for begin in range(0, n_blocks, per_task)]


def merged(work: Work, parts: Iterator[Scanned[Any]], n_parts: int) -> Scanned[Any]:
    """Merge as the tasks of a graph do, each group of parts as soon as the last of them is there."""
    while n_parts > 1:
        parts = map(functools.partial(_merge_task, work), _batches(parts))
        n_parts = -(-n_parts // FAN_IN)
    return next(parts)


def _batches(parts: Iterator[Scanned[Any]]) -> Iterator[list[Scanned[Any]]]:
    while batch := list(itertools.islice(parts, FAN_IN)):
        yield batch


def transformed(blocks: Mapping[int, Delayed], apply: Callable[[Block], Block]) -> dict[int, Delayed]:
    """Return what `apply` makes of blocks that are kept, and keep it where they are."""
    name = f"transformed-{uuid.uuid4().hex}"
    graph: dict[Key, Task] = {(name, i): Task((name, i), apply, TaskRef(block.key)) for i, block in blocks.items()}
    layers = HighLevelGraph.from_collections(name, graph, dependencies=list(blocks.values()))
    delayed = [Delayed((name, i), layers, layer=name) for i in blocks]
    return dict(zip(blocks, persisted(delayed), strict=True))


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

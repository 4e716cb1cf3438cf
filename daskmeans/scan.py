"""Passes over the data: runs a Step over all blocks, keeps those that fit, counts what is read.

Must not know what a Step computes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import dask
import distributed

from daskmeans.memory import Budget
from daskmeans.samples import Block, Grid, Loader, Samples, Transform
from daskmeans.tasks import (
    Graph,
    Scanned,
    Work,
    blocks_per_task,
    brought,
    groups_of,
    load_task,
    merge_task,
    persisted,
    result_task,
    transformed,
)
from daskmeans.workers import current_client, give_back_memory, n_threads_of, on_threads, one_blas_thread, uses_threads

P = TypeVar("P")
Q = TypeVar("Q")
K = TypeVar("K")
R = TypeVar("R", covariant=True)


class Step(Protocol[P, R]):
    """What to do with one block, how to merge two results, how to finish. Pure; picklable."""

    def map(self, block: Block) -> P:
        """Return the partial result of one block."""

    def merge(self, left: P, right: P) -> P:
        """Combine the results of two runs of blocks, `left` before `right`, and leave both as they are."""

    def finish(self, total: P) -> R:
        """Turn the merged result into what the caller asked for, in the caller's process."""


class KeepingStep(Step[P, R], Protocol[P, R, K]):
    """A Step that also picks rows of each block to stay where they are, for scans of their own."""

    def map_and_keep(self, block: Block) -> tuple[P, K]:
        """Return the partial result of one block, and those of its rows that are kept."""

    def keep(self, picked: K) -> Block:
        """Return the rows that were picked of one block as they stay."""


@dataclass(frozen=True)
class PassReport:
    """What one pass took.

    Attributes
    ----------
    number : counts from 1.
    title : what the pass was for.
    n_bytes : bytes of rows that were read and decoded; 0 where all blocks were kept.
    inertia : of the centers that the pass assigned rows to, the least of several models, those included that are at
        rest; None where it assigned none.
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


class Kept(NamedTuple):
    """Blocks that stay in memory from one pass to the next.

    Attributes
    ----------
    groups : the blocks of each task: lists, or Delayed that compute them.
    per_task : how many blocks a task takes.
    """

    groups: list[Any]
    per_task: int

    @property
    def is_here(self) -> bool:
        """Whether they lie in this process."""
        return all(isinstance(group, list) for group in self.groups)


@dataclass
class Scanner:
    """Runs Steps over samples, one pass each; keeps the blocks that fit; counts what was read.

    Runs where Dask would: on the active `distributed.Client` if there is one, else on threads. Rows that lie in
    this process stay in it.

    Attributes
    ----------
    samples : what is scanned.
    kept_bytes : where all rows together take no more, over all workers, they are read once and kept.
    blocks_at_once : that threads of this process work on, at most; None for as many as there are threads.
    listener : hears of progress.
    history : a report for each pass so far.
    n_bytes : bytes of rows read and decoded so far.
    peak_rss_bytes : the most memory that any process that worked on a pass has held.
    """

    samples: Samples
    kept_bytes: int = 0
    blocks_at_once: int | None = None
    listener: Listener | None = None
    history: list[PassReport] = field(default_factory=list)
    n_bytes: int = 0
    peak_rss_bytes: int = 0
    _kept: Kept | None = None

    @classmethod
    def within(cls, samples: Samples, budget: Budget, listener: Listener | None = None) -> Scanner:
        """Return a scanner that keeps to a budget."""
        share = samples.share(budget)
        return cls(samples, share.kept_bytes, share.blocks_at_once, listener)

    @property
    def n_passes(self) -> int:
        """Number of passes so far."""
        return len(self.history)

    def scan(self, step: Step[P, R], title: str = "scan") -> R:
        """Run `step` over all blocks: one pass."""
        return self._scan(step, title, keeps=False)[0]

    def scan_and_keep(self, step: KeepingStep[P, R, K], title: str) -> tuple[R, Scanner]:
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
        return step.finish(total.partial), self._scanner_of(kept, n_blocks)

    def judge(self, inertia: float, center_shift: float | None) -> None:
        """Add to the report of the last pass what its caller made of it."""
        self.history[-1] = replace(self.history[-1], inertia=inertia, center_shift=center_shift)
        if self.listener is not None:
            self.listener.judged(self.history[-1])

    def transform(self, transform: Transform) -> None:
        """See the rows through `transform` from now on, those that are kept too."""
        self.samples = self.samples.with_transform(transform)
        apply = self.samples.loader.transformed
        if self._kept is not None and self._kept.is_here:
            groups = self._kept.groups
            places = list(range(len(groups)))  # not the blocks: each must go when what is made of it has come
            with on_threads(lambda i: [apply(block) for block in groups[i]], places) as changed:
                for i, blocks in zip(places, changed, strict=True):
                    groups[i] = blocks
        elif self._kept is not None:
            self._kept = self._kept._replace(groups=persisted(transformed(self._kept.groups, apply)))

    def seen_through(self, apply: Callable[[Block], Block], *, here: bool) -> Scanner:
        """Return a scanner of what `apply` makes of the blocks that are kept: where they are, or brought `here`."""
        assert self._kept is not None
        groups = self._kept.groups
        if self._kept.is_here:
            groups = [[apply(block) for block in blocks] for blocks in groups]
        else:
            groups = (brought if here else persisted)(transformed(groups, apply))
        return Scanner(self.samples, blocks_at_once=self.blocks_at_once, _kept=self._kept._replace(groups=groups))

    def _run(self, step: Step[P, Any], *, keeps: bool) -> tuple[Scanned[P], Kept]:
        """Compute the merged result of all blocks, and what is kept of each task, where Dask would."""
        token = uuid.uuid4().hex
        client = None if self._is_here else current_client()
        if client is not None:
            with _relayed(client, token, self.listener) as tick:
                work = Work(self.samples.loader, step, keeps, tick, True)
                return self._compute(work, token, None if self.samples.collections else n_threads_of(client))
        if keeps:
            give_back_memory()  # rows that were kept so far are gone, and others take their place
        tick = _silent if self.listener is None else self.listener.advanced
        work = Work(self.samples.loader, step, keeps, tick, False)
        with one_blas_thread():
            return self._compute_here(work) if self._needs_no_graph() else self._compute(work, token, None)

    @property
    def _is_here(self) -> bool:
        """Whether the blocks lie in this process."""
        return self.samples.in_memory if self._kept is None else self._kept.is_here

    def _needs_no_graph(self) -> bool:
        """Whether threads of this process have, or can read, all blocks; `_compute` has the same results."""
        return self._is_here or (self._kept is None and uses_threads() and not self.samples.collections)

    def _per_task(self, n_threads: int | None) -> int:
        """Return how many blocks a task takes: those that are kept together, or so many as so many threads want."""
        return blocks_per_task(self.samples.grid.n_blocks, n_threads) if self._kept is None else self._kept.per_task

    def _compute_here(self, work: Work) -> tuple[Scanned[Any], Kept]:
        """Compute one pass on threads of this process."""
        fresh, per_task = self._keeps_all(), self._per_task(None)
        groups = groups_of(self.samples.grid.n_blocks, per_task)
        blocks: list[Any] = [None] * len(groups) if self._kept is None else self._kept.groups
        rows: list[Any] = [None] * len(groups)

        def scanned(number: int) -> Scanned[Any]:
            indices = groups[number]
            if fresh:
                blocks[number] = load_task(work, indices, [()] * len(indices))
            found = work.map(indices, blocks[number] or [()] * len(indices), fresh=fresh)
            rows[number] = found.kept
            return result_task(found)

        in_batches = self._kept is not None
        with on_threads(scanned, range(len(groups)), self.blocks_at_once, in_batches=in_batches) as parts:
            total = merge_task(work, parts)
        if fresh:
            self._kept = Kept(blocks, per_task)
        return total, Kept(rows, per_task)

    def _compute(self, work: Work, token: str, n_threads: int | None) -> tuple[Scanned[Any], Kept]:
        """Build the graph of one pass and compute it."""
        fresh, per_task = self._keeps_all(), self._per_task(n_threads)
        kept = [] if self._kept is None else self._kept.groups
        graph = Graph(self.samples, kept, work, token, per_task=per_task, fresh=fresh)
        delayed = graph.delayed()
        if len(delayed) > 1:
            delayed = persisted(delayed)
        total: Scanned[Any] = delayed[0].compute()
        blocks: list[Any] = delayed[1:]
        if blocks and not work.in_worker and uses_threads():
            blocks = list(dask.compute(*blocks))
        if fresh:
            self._kept = Kept(blocks[: len(graph.blocks)], per_task)
        return total, Kept(blocks[len(graph.blocks) :], per_task)

    def _scanner_of(self, kept: Kept, n_blocks: int) -> Scanner:
        """Return a scanner of rows that a pass over so many blocks has kept."""
        grid = Grid((tuple(range(n_blocks + 1)),))
        loader = self.samples.loader
        samples = Samples(Loader(loader.source, grid, "error", loader.transform))
        return Scanner(samples, blocks_at_once=self.blocks_at_once, _kept=kept)

    @property
    def reads_each_pass(self) -> bool:
        """Whether the next pass has to read the data again."""
        return not (self._kept is not None or self.samples.in_memory or self._keeps_all())

    def _keeps_all(self) -> bool:
        """Whether this pass shall keep all blocks."""
        nbytes = self.samples.nbytes
        here = self._kept is not None or self.samples.in_memory
        return not (here or nbytes is None or nbytes > self.kept_bytes)


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

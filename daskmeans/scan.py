"""Passes over the data: runs a Step over all blocks, keeps those that fit, counts what is read.

Must not know what a Step computes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import dask
import distributed

from daskmeans.memory import Budget
from daskmeans.samples import Block, Grid, Loader, Samples, Transform
from daskmeans.tasks import Graph, Scanned, Work, groups_of, load_task, merged, persisted, result_task, transformed
from daskmeans.workers import current_client, on_threads, one_blas_thread, uses_threads

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

    def keep(self, picked: Sequence[K]) -> Block:
        """Return the rows that were picked of the blocks of one task as they stay."""


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
    _kept: dict[int, Any] = field(default_factory=dict)  # each a Block, or a Delayed that computes one

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
            places = list(blocks)  # not the blocks: each must go when what is made of it has come
            with on_threads(lambda i: apply(blocks[i]), places) as changed:
                for i, block in zip(places, changed, strict=True):
                    blocks[i] = block
        elif self._kept:
            self._kept = transformed(self._kept, apply)

    def _run(self, step: Step[P, Any], *, keeps: bool) -> tuple[Scanned[P], Sequence[Any]]:
        """Compute the merged result of all blocks, and what is kept of each task, where Dask would."""
        token = uuid.uuid4().hex
        client = None if self.samples.in_memory else current_client()
        if client is not None:
            with _relayed(client, token, self.listener) as tick:
                return self._compute(Work(self.samples.loader, step, keeps, tick, True), token)
        tick = _silent if self.listener is None else self.listener.advanced
        work = Work(self.samples.loader, step, keeps, tick, False)
        with one_blas_thread():
            return self._compute_here(work) if self._needs_no_graph() else self._compute(work, token)

    def _needs_no_graph(self) -> bool:
        """Whether threads of this process have, or can read, all blocks; `_compute` has the same results."""
        if self.samples.in_memory or _in_this_process(self._kept):
            return True
        return uses_threads() and not self.samples.collections and not self._kept

    def _compute_here(self, work: Work) -> tuple[Scanned[Any], Sequence[Any]]:
        """Compute one pass on threads of this process."""
        fresh, kept = self._keeps_all(), _in_this_process(self._kept)
        groups = groups_of(self.samples.grid.n_blocks)
        rows: dict[int, Block] = {}

        def scanned(number: int) -> Scanned[Any]:
            indices = groups[number]
            if fresh:
                kept.update((i, load_task(work, i, ())) for i in indices)
            found = work.map(indices, [kept.get(i, ()) for i in indices], fresh=fresh)
            if found.kept is not None:
                rows[number] = found.kept
            return result_task(found)

        in_batches = bool(kept) and not fresh
        with on_threads(scanned, range(len(groups)), self.blocks_at_once, in_batches=in_batches) as parts:
            total = merged(work, parts, len(groups))
        self._kept = kept
        return total, [rows[number] for number in sorted(rows)]

    def _compute(self, work: Work, token: str) -> tuple[Scanned[Any], Sequence[Any]]:
        """Build the graph of one pass and compute it."""
        graph = Graph(self.samples, self._kept, work, token, fresh=self._keeps_all())
        delayed = graph.delayed()
        if len(delayed) > 1:
            delayed = persisted(delayed)
        total: Scanned[Any] = delayed[0].compute()
        blocks: Sequence[Any] = delayed[1:]
        if blocks and not work.in_worker and uses_threads():
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
        return Scanner(kept, blocks_at_once=self.blocks_at_once, _kept=dict(enumerate(blocks)))

    @property
    def reads_each_pass(self) -> bool:
        """Whether the next pass has to read the data again."""
        return not (self._kept or self.samples.in_memory or self._keeps_all())

    def _keeps_all(self) -> bool:
        """Whether this pass shall keep all blocks."""
        nbytes = self.samples.nbytes
        return not (self._kept or self.samples.in_memory or nbytes is None or nbytes > self.kept_bytes)


def _in_this_process(blocks: dict[int, Any]) -> dict[int, Block]:
    """Return the blocks if they lie in this process."""
    return {i: block for i, block in blocks.items() if isinstance(block, Block)}


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

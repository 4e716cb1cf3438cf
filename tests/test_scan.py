"""One pass: each block once, the same bits whoever computes it."""

from __future__ import annotations

import collections
import threading
import time
from dataclasses import dataclass, replace

import dask
import dask.array as da
import naive
import numpy as np
import pytest
import zarr
from counting import counted
from distributed.utils import key_split_group

from daskmeans import tasks
from daskmeans.active import AssignKept, KeepUniform
from daskmeans.kernels import Stack
from daskmeans.samples import Grid, row_dtype, samples_from_array, samples_from_chunks
from daskmeans.scan import Scanner
from daskmeans.steps import Assign
from daskmeans.stores import samples_from_zarr
from daskmeans.workers import current_client, on_threads


@dataclass(frozen=True)
class Path:
    """A step whose result spells out which blocks were merged, and in which order."""

    def map(self, block):
        return str(block.index)

    def merge(self, left, right):
        return f"({left} {right})"

    def finish(self, total):
        return total


@dataclass(frozen=True)
class Sum:
    def map(self, block):
        return block.X.sum()

    def merge(self, left, right):
        return left + right

    def finish(self, total):
        return float(total)


@dataclass(frozen=True)
class Fail:
    def map(self, block):
        raise ValueError(f"block {block.index} is bad")

    def merge(self, left, right):
        return left

    def finish(self, total):
        return total


def scanner(X, **kwargs):
    return Scanner(samples_from_chunks([X], dtype=row_dtype(X.dtype)), **kwargs)


@pytest.mark.parametrize("n_blocks", [1, 2, 16, 17, 40, 300])
@pytest.mark.parametrize("max_tasks", [4, 10**6])
def test_merges_follow_a_tree_fixed_by_the_number_of_blocks(n_blocks, max_tasks, monkeypatch):
    monkeypatch.setattr(tasks, "MAX_TASKS", max_tasks)
    X = da.zeros((n_blocks, 1), chunks=1)
    pass_ = scanner(X)
    expected = naive.scan(pass_.samples, Path(), [[np.zeros((1, 1))]] * n_blocks)
    assert pass_.scan(Path()) == expected
    with dask.config.set(scheduler="synchronous"):
        assert pass_.scan(Path()) == expected


def test_streamed_chunks_are_read_once_in_each_pass():
    X, reads = counted(np.ones((20, 2)), 3)
    pass_ = scanner(X)
    for n in (1, 2, 3):
        assert pass_.scan(Sum()) == 40.0
        assert set(reads.values()) == {n}
        assert len(reads) == 7
    assert (pass_.n_passes, pass_.n_bytes) == (3, 3 * 20 * 2 * 8)


def test_kept_chunks_are_read_once_in_all():
    X, reads = counted(np.ones((20, 2)), 3)
    pass_ = scanner(X, kept_bytes=10**6)
    for _ in range(3):
        assert pass_.scan(Sum()) == 40.0
    assert set(reads.values()) == {1}
    assert pass_.n_bytes == 20 * 2 * 8
    assert [report.n_bytes for report in pass_.history] == [320, 0, 0]


def test_an_array_in_memory_is_scanned_with_threads_under_any_scheduler(rng):
    X = rng.normal(size=(200, 3))
    with dask.config.set(scheduler="processes"):
        assert Scanner(samples_from_array(X, None, block_bytes=1000)).scan(Sum()) == pytest.approx(X.sum())


def test_the_listener_hears_of_every_block():
    class Listener:
        def __init__(self):
            self.heard, self.n_blocks, self.n_bytes = [], 0, 0

        def started(self, number, title, n_blocks):
            self.heard.append(("started", number, title, n_blocks))

        def advanced(self, n_blocks, n_bytes):
            self.n_blocks += n_blocks
            self.n_bytes += n_bytes

        def finished(self, report):
            self.heard.append(("finished", report.number, report.n_bytes))

        def judged(self, report):
            self.heard.append(("judged", report.inertia, report.center_shift))

    listener = Listener()
    with dask.config.set(scheduler="synchronous"):
        pass_ = scanner(da.ones((10, 2), chunks=(4, 2)), listener=listener)
        pass_.scan(Sum(), "looking")
    pass_.judge(5.0, None)
    assert listener.heard == [("started", 1, "looking", 3), ("finished", 1, 160), ("judged", 5.0, None)]
    assert (listener.n_blocks, listener.n_bytes) == (3, 160)


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_an_error_in_a_block_reaches_the_caller_as_it_is(scheduler):
    with dask.config.set(scheduler=scheduler), pytest.raises(ValueError, match=r"^block 0 is bad$"):
        scanner(da.ones((10, 2), chunks=(10, 2))).scan(Fail())


def test_an_error_on_a_worker_reaches_the_caller_as_it_is(client):
    with pytest.raises(ValueError, match=r"^block 0 is bad$"):
        scanner(da.ones((10, 2), chunks=(10, 2))).scan(Fail())


def test_the_client_is_used_only_while_there_is_one(cluster):
    assert current_client() is None


def test_a_config_that_asks_for_threads_wins_over_the_client(client):
    assert current_client() is client
    with dask.config.set(scheduler="threads"):
        assert current_client() is None


def test_workers_hold_kept_blocks_and_release_them(client):
    def held():
        return {key for keys in client.has_what().values() for key in keys if "block" in str(key)}

    pass_ = scanner(da.ones((30, 2), chunks=(5, 2)), kept_bytes=10**6)
    assert pass_.scan(Sum()) == pass_.scan(Sum()) == 60.0
    assert len(held()) == 6
    del pass_
    deadline = time.monotonic() + 10
    while held() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not held()


def test_the_scheduler_knows_how_large_what_workers_keep_is(client):
    pass_ = scanner(da.ones((30, 2), chunks=(5, 2)), kept_bytes=10**6)
    pass_.scan(Sum())
    held = client.nbytes(summary=False)
    sizes = [size for key, size in held.items() if "block" in str(key)]
    assert len(sizes) == 6
    assert min(sizes) >= 5 * 2 * 8


@pytest.mark.parametrize(
    ("n_blocks", "n_threads", "expected"),
    [(100, None, 1), (100, 0, 1), (100, 1, 4), (128, 2, 1), (129, 2, 4), (5000, 1000, 4), (10**6, 1000, 256)],
)
def test_tasks_are_some_for_each_thread_and_never_very_many(n_blocks, n_threads, expected):
    per_task = tasks.blocks_per_task(n_blocks, n_threads)
    assert per_task == expected
    assert len(tasks.groups_of(n_blocks, per_task)) <= tasks.MAX_TASKS


def test_workers_take_several_blocks_at_a_time_to_the_same_bits(client, tmp_path):
    X = np.random.default_rng(0).random((5000, 3))
    samples = samples_from_zarr(zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(10, 3)), None, None)
    samples = replace(samples, loader=replace(samples.loader, grid=Grid((tuple(range(0, 5001, 10)),))))
    assert tasks.blocks_per_task(500, sum(client.nthreads().values())) > 1
    assign = Assign(Stack.of([X[:4]]), X.mean(axis=0))
    found = []
    for where in ({}, {"scheduler": "threads"}):
        with dask.config.set(where):
            of_all, rows = Scanner(samples).scan_and_keep(KeepUniform(assign, 0.5, 0), "iteration")
            found.append([of_all, rows.scan(AssignKept(assign, with_sample=True))])
    for of_workers, of_threads in zip(*found, strict=True):
        np.testing.assert_array_equal(of_workers.sums, of_threads.sums)
        np.testing.assert_array_equal(of_workers.inertia, of_threads.inertia)


def test_blocks_lost_with_a_worker_are_read_again(client):
    pass_ = scanner(da.ones((30, 2), chunks=(5, 2)), kept_bytes=10**6)
    expected = pass_.scan(Sum())
    client.restart_workers([next(worker for worker, keys in client.has_what().items() if keys)], timeout=30)
    assert pass_.scan(Sum()) == expected


def test_tasks_of_two_passes_are_in_no_group_together():
    # Dask's scheduler would not hand out the blocks one by one, once it has seen the tasks of some passes.
    pass_ = scanner(da.ones((300, 1), chunks=1))
    work = tasks.Work(pass_.samples.loader, Sum(), False, print, True)
    graphs = [tasks.Graph(pass_.samples, [], work, token, per_task=1, fresh=False) for token in ("0a", "1b")]
    groups = [{key_split_group(key) for key in graph.tasks} for graph in graphs]
    assert not groups[0] & groups[1]


class Interrupted(Sum):
    def merge(self, left, right):
        raise KeyboardInterrupt


def test_an_interrupt_ends_the_threads_of_a_pass():
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt) as interrupt:
        Scanner(samples_from_array(np.ones((40, 2)), None, block_bytes=100)).scan(Interrupted())
    assert set(threading.enumerate()) == before, interrupt


def noise(n_rows):
    return da.random.default_rng(0).normal(size=(n_rows, 3), chunks=(2, 3))


def weighted():
    return [noise(60), da.arange(1.0, 61.0, chunks=2)]


def overlapping():
    X = noise(60)
    return [X + X[::-1] - X.mean(axis=0)]


def recut():
    X = noise(60).rechunk((7, 2)).rechunk((3, 3))
    return [X, X.sum(axis=1) ** 2]


def embedded():
    return [da.from_array(np.arange(120.0).reshape(40, 3), chunks=(1, 3))]


def of_delayed():
    rows = dask.delayed(np.ones)((4, 3))
    return [da.concatenate([da.from_delayed(rows * i, (4, 3), dtype=float) for i in range(40)])]


@dataclass(frozen=True)
class WeightedSum(Sum):
    def map(self, block):
        return (block.X.T * (1 if block.weight is None else block.weight)).sum()


@pytest.mark.parametrize("make", [weighted, overlapping, recut, embedded, of_delayed])
@pytest.mark.parametrize("where", ["threads", "cluster", "persisted", "partly persisted"])
@pytest.mark.parametrize("kept_bytes", [0, 10**6])
def test_chunks_computed_inside_the_tasks_that_need_them_have_the_same_bits(
    make, where, kept_bytes, monkeypatch, request
):
    if where != "threads":
        request.getfixturevalue("client")
    given = make()
    if where == "persisted":
        given = list(dask.persist(*given))
    if where == "partly persisted":
        given = [given[0].persist() * 2, *given[1:]]
    blocks = [np.split(array.compute(), np.cumsum(array.chunks[0])[:-1]) for array in given]
    monkeypatch.setattr(tasks, "MAX_TASKS", 4)
    samples = samples_from_chunks(given, dtype=np.dtype(float))
    expected = naive.scan(samples, WeightedSum(), list(zip(*blocks, strict=True)))
    pass_ = Scanner(samples, kept_bytes=kept_bytes)
    assert [pass_.scan(WeightedSum()) for _ in range(2)] == [expected] * 2


def test_the_scheduler_has_no_task_for_each_chunk_where_there_are_very_many(monkeypatch):
    monkeypatch.setattr(tasks, "MAX_TASKS", 4)
    shared = dask.delayed(np.ones)((1, 1))
    X = da.concatenate([da.from_delayed(shared + i, (1, 1), dtype=float) for i in range(100)]) + 1
    pass_ = scanner(X)
    work = tasks.Work(pass_.samples.loader, Sum(), False, print, True)
    graph = tasks.Graph(pass_.samples, [], work, "0a", per_task=tasks.blocks_per_task(100, None), fresh=False)
    assert collections.Counter(key_split_group(key).split("-")[0] for key in graph.tasks) == {
        "work": 1,
        "ones": 1,
        "map": 2,
        "merge": 1,
    }
    assert not graph.collections


def test_many_streamed_chunks_are_read_once_in_each_pass(monkeypatch):
    monkeypatch.setattr(tasks, "MAX_TASKS", 4)
    X, reads = counted(np.ones((40, 2)), 1)
    pass_ = scanner(X)
    for n in (1, 2):
        assert pass_.scan(Sum()) == 80.0
        assert set(reads.values()) == {n}
    assert len(reads) == 40


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 7, 200])
def test_threads_take_batches_and_give_all_results_in_order(n_threads, n):
    with (
        dask.config.set(num_workers=n_threads),
        on_threads(lambda value: (value, threading.get_ident()), range(n), in_batches=True) as results,
    ):
        values, threads = zip(*results, strict=True)
    assert values == tuple(range(n))
    assert len(set(threads)) <= n_threads

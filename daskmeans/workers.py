"""Where a pass is computed: on threads of this process, or on the workers of a client."""

from __future__ import annotations

import ctypes
import functools
import itertools
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import dask
import dask.local
import dask.threaded
import distributed
import threadpoolctl
from dask.base import get_scheduler
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

# What takes little time is handed out in so many batches for each thread: one by one would cost as much again.
BATCHES = 16

P = TypeVar("P")
Q = TypeVar("Q")


def current_client() -> distributed.Client | None:
    """Return the client that Dask would compute on now, or None where it would compute in this process."""
    owner = getattr(get_scheduler(), "__self__", None)
    return owner if isinstance(owner, distributed.Client) else None


def n_threads_of(client: distributed.Client) -> int:
    """Return the number of threads of all workers that are there now."""
    return sum(client.nthreads().values())


def memory_of_workers() -> int:
    """Return the bytes of memory that the workers may use: those of the current client, or this process."""
    client = current_client()
    if client is None:
        return int(MEMORY_LIMIT)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [worker["memory_limit"] or MEMORY_LIMIT for worker in workers]
    return int(sum(limits)) or int(MEMORY_LIMIT)


@contextmanager
def on_threads(
    function: Callable[[P], Q], values: Sequence[P], most: int | None = None, *, in_batches: bool = False
) -> Iterator[Iterator[Q]]:
    """Give what `function` makes of each value, in order, computed on as many threads as Dask would use.

    These are at most so many as given by `most`, unless Dask was told their number. `in_batches` each takes several
    values at a time.
    """
    if len(values) == 1:
        yield map(function, values)
        return
    n_threads = _n_threads(most)
    batch = max(1, len(values) // (BATCHES * n_threads)) if in_batches else 1
    pool = ThreadPoolExecutor(n_threads)
    try:
        batches = (values[begin : begin + batch] for begin in range(0, len(values), batch))
        results = pool.map(lambda some: [function(value) for value in some], batches)
        yield itertools.chain.from_iterable(results)
    finally:
        pool.shutdown(cancel_futures=True)


def _n_threads(most: int | None) -> int:
    """Return how many threads Dask would use in this process; where it was not told, at most so many as given."""
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    told = dask.config.get("num_workers", None)
    return int(told) if told else min(CPU_COUNT, most or CPU_COUNT)


def uses_threads() -> bool:
    """Return whether Dask would compute in this process."""
    return get_scheduler() in (None, dask.threaded.get, dask.local.get_sync)


def peak_rss_bytes() -> int:
    """Return the most memory that this process has held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def give_back_memory() -> None:
    """Give the memory that this process has freed back to the system, where its C library can: glibc.

    That keeps what a thread has freed for threads like it. On busy cores others took as much again: fits of 1 GiB
    peaked at up to 1006 MiB, with this at 806 MiB at most.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@functools.cache
def _blas() -> threadpoolctl.ThreadpoolController:
    """Find the BLAS libraries of this process."""
    return threadpoolctl.ThreadpoolController()


def one_blas_thread() -> AbstractContextManager[Any]:
    """Give BLAS one thread in this process: parallelism is Dask's, and sums have the same bits on any machine."""
    limit: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return limit


@functools.cache
def one_blas_thread_for_good() -> object:
    """Give BLAS one thread in this process, a worker of Dask's."""
    return one_blas_thread()

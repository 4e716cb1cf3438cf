"""Where a job runs: checks a cluster's options, starts or joins the cluster, and says what it has.

Must not know what is computed there.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from daskmeans.errors import ClusterError, did_you_mean
from daskmeans.job.interrupts import not_for_children

if TYPE_CHECKING:
    from distributed import Client

    from daskmeans.job.config import ClusterConfig

# A problem with an option: its key below `options`, if it is one key's, and what is wrong.
OptionProblem = tuple[tuple[str, ...], str]


def check_options(kind: str, options: Mapping[str, Any]) -> list[OptionProblem]:
    """Return what is wrong with the `options` of a cluster of type `kind`, by key.

    >>> check_options("local", {"n_worker": 2})
    [(('n_worker',), "unknown option; did you mean 'n_workers'?")]
    """
    known = sorted(_known_options(kind))
    unknown = [((str(key),), f"unknown option{did_you_mean(str(key), known)}") for key in options if key not in known]
    return unknown + list(_wrong_values(kind, options))


def _known_options(kind: str) -> set[str]:
    """Return the names of the options that a cluster of this kind takes."""
    if kind == "threads":
        return {"num_workers"}
    if kind == "address":
        return {"address"}
    from distributed import LocalCluster, Nanny, Worker

    takers: list[Callable[..., Any]] = [LocalCluster.__init__, Nanny.__init__, Worker.__init__]
    names = {name for taker in takers for name in inspect.signature(taker).parameters}
    return names - _NOT_OPTIONS


# Parameters that are no one's to set from a file: what Python itself needs, and what is deprecated.
_NOT_OPTIONS = {"self", "loop", "asynchronous", "start", "ip", "kwargs", "worker_kwargs", "nanny"}


def _wrong_values(kind: str, options: Mapping[str, Any]) -> Iterator[OptionProblem]:
    """Yield the options whose values cannot be right."""
    for key in ("num_workers", "n_workers", "threads_per_worker"):
        value = options.get(key)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (is_whole and value >= 1):
            yield (key,), f"expected a whole number, at least 1, got {value!r}"
    if kind == "local" and not _is_memory_limit(options.get("memory_limit")):
        limit = options["memory_limit"]
        yield ("memory_limit",), f"expected a size such as 2GiB, or auto, got {limit!r}"
    if kind == "address" and not isinstance(options.get("address"), str):
        yield (), "expected the scheduler's address, such as {address: tcp://10.0.0.1:8786}"


def _is_memory_limit(value: Any) -> bool:
    """Return whether Dask understands `value` as a worker's limit."""
    from dask.utils import parse_bytes

    if value is None or value == "auto":
        return True
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return bool(parse_bytes(value) >= 0)
    except (ValueError, OverflowError):
        return False


CONNECT_TIMEOUT_S = 20
WORKERS_TIMEOUT_S = 60


@dataclass(frozen=True)
class Workers:
    """What a cluster has.

    Attributes
    ----------
    n_workers : processes that work.
    n_threads : threads of each, the most where they differ.
    memory_bytes : memory of each, the least where they differ.
    """

    n_workers: int
    n_threads: int
    memory_bytes: int

    @property
    def total_memory_bytes(self) -> int:
        """Memory of all workers together."""
        return self.n_workers * self.memory_bytes


def describe_workers(config: ClusterConfig) -> Workers:
    """Return what the cluster has or would have; starts nothing, but asks a scheduler that runs."""
    if config.type == "threads":
        return _this_process(config.options)
    if config.type == "local":
        return _local_workers(config.options)
    with _connected(config.options["address"]) as client:
        return _workers_of(client)


@contextmanager
def open_cluster(config: ClusterConfig) -> Iterator[Workers]:
    """Make Dask compute on the cluster that `config` describes, and say what it has.

    Raises
    ------
    ClusterError
        The cluster does not start, does not answer, or has no workers.
    """
    if config.type == "threads":
        import dask

        workers = _this_process(config.options)
        with dask.config.set(scheduler="threads", num_workers=workers.n_threads):
            yield workers
        return
    opened = _local(config.options) if config.type == "local" else _connected(config.options["address"])
    with opened as client:
        _check_installed(client)
        yield _workers_of(client)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Say what the failure of a cluster means, and what to do about it."""
    from distributed import CancelledError, KilledWorker
    from distributed.comm import CommClosedError

    try:
        yield
    except KilledWorker as error:
        raise ClusterError(
            f"workers died while computing, most likely for lack of memory: {error}; lower "
            "model.memory_budget or the threads per worker, or give each worker more memory"
        ) from error
    except (CommClosedError, CancelledError) as error:
        raise ClusterError(f"the connection to the cluster was lost: {error}; see the logs of its scheduler") from error


def _this_process(options: Mapping[str, Any]) -> Workers:
    """Return the threads of this process."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    return Workers(1, options.get("num_workers") or CPU_COUNT, MEMORY_LIMIT)


def _local_workers(options: Mapping[str, Any]) -> Workers:
    """Return what `LocalCluster` would start; the rules are its own."""
    from dask.system import CPU_COUNT
    from distributed.deploy.utils import nprocesses_nthreads
    from distributed.system import MEMORY_LIMIT
    from distributed.worker_memory import parse_memory_limit

    n_workers, n_threads = options.get("n_workers"), options.get("threads_per_worker")
    if n_workers is None and n_threads is None:
        n_workers, n_threads = nprocesses_nthreads()
    elif n_workers is None:
        n_workers = max(1, CPU_COUNT // n_threads)
    n_threads = n_threads or max(1, -(-CPU_COUNT // n_workers))
    limit = options.get("memory_limit", "auto")
    logger = logging.getLogger(__name__)
    memory_bytes = parse_memory_limit(limit, 1, n_workers, logger=logger)
    return Workers(n_workers, n_threads, memory_bytes or MEMORY_LIMIT)


@contextmanager
def _local(options: Mapping[str, Any]) -> Iterator[Client]:
    """Start processes on this machine, for the time of the context."""
    from distributed import Client, LocalCluster

    # Any free port of the loopback: no other machine sees the dashboard, and no port is in the way.
    arguments = {"dashboard_address": "127.0.0.1:0", **options}
    try:
        with not_for_children():
            cluster = LocalCluster(**arguments)
    except Exception as error:
        raise ClusterError(f"the local cluster did not start: {error}; check cluster.options") from error
    with cluster, Client(cluster) as client:
        yield client


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    """Join a scheduler that runs already, and wait for its first worker."""
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_TIMEOUT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at cluster.options.address {address}: {error}; start one "
            "with `dask scheduler`, or correct the address"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_TIMEOUT_S)
        except TimeoutError as error:
            raise ClusterError(
                f"the scheduler at {address} has no workers after {WORKERS_TIMEOUT_S} s; start "
                f"some with `dask worker {address}`"
            ) from error
        yield client


def _workers_of(client: Client) -> Workers:
    """Ask a cluster what it has."""
    from distributed.system import MEMORY_LIMIT

    workers = client.scheduler_info()["workers"].values()
    return Workers(
        n_workers=len(workers),
        n_threads=max(worker["nthreads"] for worker in workers),
        memory_bytes=min(worker["memory_limit"] or MEMORY_LIMIT for worker in workers),
    )


def _check_installed(client: Client) -> None:
    """Raise ClusterError if workers cannot import this package."""
    found = client.run(find_spec, "daskmeans")
    lacking = [address for address, spec in found.items() if spec is None]
    if lacking:
        raise ClusterError(
            f"daskmeans is not installed where these workers run: {', '.join(lacking[:3])}; "
            "install the same version there"
        )

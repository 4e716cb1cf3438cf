"""Where a job runs: starts or joins the cluster, waits for its workers, and says what it has.

Must not know what is computed there.
"""

from __future__ import annotations

import itertools
import logging
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskmeans.errors import ClusterError, ConfigError
from daskmeans.job.clustertypes import JOBQUEUE, kind_of, load_class
from daskmeans.job.interrupts import not_for_children
from daskmeans.memory import format_bytes

if TYPE_CHECKING:
    from distributed import Client

    from daskmeans.job.config import ClusterConfig

MORE_MEMORY = "lower model.memory_budget or the threads per worker, or give each worker more memory"

CONNECT_TIMEOUT_S = 20
CLOSE_TIMEOUT_S = 30


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
    if config.performance_report and find_spec("bokeh") is None:
        raise ConfigError("cluster.performance_report: needs the package bokeh; pip install daskmeans[performance]")
    if config.type == "threads":
        return _this_process(config.options)
    if config.type == "local":
        return _local_workers(_local_options(config))
    if config.type == "address":
        with _connected(config) as client:
            return _workers_of(client)
    load_class(config.type)
    if config.type in JOBQUEUE:
        return _queued_workers(config)
    return Workers(config.most_workers, 1, 0)


# Dask's processes keep a profile of each second, an hour of how busy they were, messages and past graphs, which only a
# report has use for.
SHORT_HISTORY = {
    "distributed.worker.profile.enabled": False,
    "distributed.diagnostics.computations.max-history": 10,
    # Messages hold tasks, and tasks hold centers.
    "distributed.admin.low-level-log-length": 10,
    "distributed.admin.system-monitor.log-length": 100,
}


@contextmanager
def open_cluster(config: ClusterConfig) -> Iterator[Workers]:
    """Make Dask compute on the cluster that `config` describes, and say what it has.

    Raises
    ------
    ClusterError
        The cluster does not start, does not answer, or has no workers.
    """
    import dask
    from distributed import span

    if config.type == "threads":
        workers = _this_process(config.options)
        with dask.config.set(scheduler="threads", num_workers=workers.n_threads):
            yield workers
        return
    opened = {"local": _local, "address": _connected, "mpi": _joined}.get(config.type, _deployed)(config)
    remembered = dask.config.set({} if config.performance_report else SHORT_HISTORY)
    # Dask's processes keep for ever how long the tasks of each span took; without this each pass is one.
    with remembered, _quiet_asyncio(), opened as client, span("daskmeans"):
        _check_installed(client)
        yield _workers_of(client)


@contextmanager
def performance_report(path: Path, *, wanted: bool) -> Iterator[None]:
    """Write Dask's report on what the current cluster does in the body; one that fails does not cost the results."""
    if not wanted:
        yield
        return
    from distributed import performance_report as report

    reporting = report(filename=str(path))
    reporting.__enter__()
    yield
    try:
        reporting.__exit__(None, None, None)
    except Exception as error:
        warnings.warn(f"Dask's performance report could not be made: {error}", RuntimeWarning, stacklevel=3)


def job_script(config: ClusterConfig) -> str:
    """Return the script of the jobs that would be submitted for the workers.

    Raises
    ------
    ConfigError
        Such a cluster submits no jobs.
    """
    if config.type not in JOBQUEUE:
        raise ConfigError(f"cluster.type: {config.type} submits no job scripts; {', '.join(JOBQUEUE)} do")
    with _started(config) as cluster:
        return str(cluster.job_script())


def join_mpi(config: ClusterConfig) -> None:
    """Where all processes of an MPI program are here, let the first become the scheduler, the third and on workers.

    Only the second one, the driver, returns from this.
    """
    if config.type == "mpi":
        load_class("mpi")(**config.options)


def what_is_there() -> str:
    """Say in a few words which workers the current cluster has, and how they are."""
    from daskmeans.workers import current_client

    if current_client() is None:
        return "there are only threads of this process"
    found = _found_workers()
    if found is None:
        return "the scheduler does not answer"
    words = [
        f"the scheduler knows of {len(found)} workers",
        *itertools.islice(map(_state_of, found, found.values()), 4),
    ]
    return ", ".join(words) + (f"; {MORE_MEMORY}" if all_paused() else "")


def n_workers() -> int:
    """Return how many workers the current cluster has now; the threads of this process are one."""
    found = _found_workers()
    return 1 if found is None else len(found)


def all_paused() -> bool:
    """Return whether all workers of the current cluster wait for memory, which none of them will give free."""
    found = _found_workers()
    return found is not None and bool(found) and all(worker.get("status") == "paused" for worker in found.values())


def _found_workers() -> dict[str, dict[str, Any]] | None:
    """Return what the scheduler says of its workers; None where there is none, or it does not answer."""
    from daskmeans.workers import current_client

    client = current_client()
    try:
        return (
            None
            if client is None
            else client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=5)["workers"]
        )
    except Exception:
        return None


def _state_of(address: str, worker: Mapping[str, Any]) -> str:
    """Say how a worker is."""
    memory, limit = worker.get("metrics", {}).get("memory", 0), worker.get("memory_limit") or 0
    return f"{address} {worker.get('status')} with {format_bytes(memory)} of {format_bytes(limit)}"


@contextmanager
def translated_errors() -> Iterator[None]:
    """Say what the failure of a cluster means, and what to do about it."""
    from distributed import CancelledError, KilledWorker
    from distributed.comm import CommClosedError

    try:
        yield
    except KilledWorker as error:
        raise ClusterError(
            f"workers died while computing, most likely for lack of memory: {error.allowed_failures + 1} of them over "
            f"the same blocks, the last of them {error.last_worker.address}; {MORE_MEMORY}. Their logs say more"
        ) from error
    except (CommClosedError, CancelledError) as error:
        raise ClusterError(f"the connection to the cluster was lost: {error}; see the logs of its scheduler") from error


@contextmanager
def _quiet_asyncio() -> Iterator[None]:
    """Silence what asyncio says of waits that an interrupt has ended: nobody asks for their outcome."""

    def is_news(record: logging.LogRecord) -> bool:
        return "exception was never retrieved" not in record.getMessage()

    logger = logging.getLogger("asyncio")
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


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


def _queued_workers(config: ClusterConfig) -> Workers:
    """Return what jobs of a batch system would give."""
    import dask
    from dask.utils import parse_bytes

    known = {**dask.config.get(f"jobqueue.{config.type}", {}), **config.options}
    lacking = [key for key in ("cores", "memory") if not known.get(key)]
    if lacking:
        raise ConfigError(f"cluster.options.{lacking[0]}: missing; expected the {lacking[0]} of one job")
    n_processes = known.get("processes") or 1
    n_threads = max(1, int(known["cores"]) // n_processes)
    return Workers(config.most_workers, n_threads, int(parse_bytes(known["memory"])) // n_processes)


def _local_options(config: ClusterConfig) -> dict[str, Any]:
    """Return the arguments of `LocalCluster`."""
    n_workers = config.workers if config.adapt is None else config.adapt.minimum or 1
    return {**({} if n_workers is None else {"n_workers": n_workers}), **config.options}


@contextmanager
def _local(config: ClusterConfig) -> Iterator[Client]:
    """Start processes on this machine, for the time of the context."""
    from distributed import Client, LocalCluster

    # Any free port of the loopback: no other machine sees the dashboard, and no port is in the way.
    arguments = {"dashboard_address": "127.0.0.1:0", **_with_security(_local_options(config))}
    try:
        with not_for_children():
            cluster = LocalCluster(**arguments)
    except Exception as error:
        raise ClusterError(f"the local cluster did not start: {error}; check cluster.options") from error
    with cluster, Client(cluster) as client:
        if config.adapt is not None:
            cluster.adapt(**config.adapt.model_dump())
        yield client


@contextmanager
def _started(config: ClusterConfig) -> Iterator[Any]:
    """Start the cluster of a class, without workers, for the time of the context."""
    options = _with_security(config.options)
    if config.type in JOBQUEUE:
        # The dashboard is for no other machine, unless asked.
        given = options.get("scheduler_options") or {}
        options["scheduler_options"] = {"dashboard_address": "127.0.0.1:0", **given}
    factory = load_class(config.type)
    try:
        with not_for_children():
            cluster = factory(**options)
    except Exception as error:
        raise ClusterError(
            f"the cluster {kind_of(config.type).path} did not start: {error}; check cluster.options"
        ) from error
    try:
        yield cluster
    finally:
        cluster.close(timeout=CLOSE_TIMEOUT_S)


@contextmanager
def _deployed(config: ClusterConfig) -> Iterator[Client]:
    """Start the cluster of a class, and wait for its first worker; its jobs end with the context."""
    from distributed import Client

    with _started(config) as cluster:
        try:
            if config.adapt is not None:
                cluster.adapt(**config.adapt.model_dump())
            elif config.workers is not None:
                cluster.scale(config.workers)
        except Exception as error:
            raise ClusterError(f"the workers cannot be asked for: {error}; see what `--show-script` prints") from error
        with Client(cluster, timeout=CONNECT_TIMEOUT_S) as client:
            _wait_for_workers(client, config)
            yield client


@contextmanager
def _joined(config: ClusterConfig) -> Iterator[Client]:
    """Join the scheduler of the MPI program that this process belongs to."""
    from distributed import Client

    with Client(timeout=CONNECT_TIMEOUT_S) as client:
        _wait_for_workers(client, config)
        yield client


@contextmanager
def _connected(config: ClusterConfig) -> Iterator[Client]:
    """Join a scheduler that runs already, and wait for its first worker."""
    from distributed import Client

    options = _with_security(config.options)
    place = options.get("address") or options["scheduler_file"]
    try:
        client = Client(timeout=CONNECT_TIMEOUT_S, **options)
    except (OSError, TimeoutError, ValueError) as error:
        key = "address" if "address" in options else "scheduler_file"
        raise ClusterError(
            f"no Dask scheduler answers at cluster.options.{key} {place}: {error}; start one "
            f"with `dask scheduler`, or correct the {key}"
        ) from error
    with client:
        _wait_for_workers(client, config)
        yield client


def _wait_for_workers(client: Client, config: ClusterConfig) -> None:
    """Wait for the first worker; those that come later take part then."""
    try:
        client.wait_for_workers(1, timeout=config.wait)
    except TimeoutError as error:
        raise ClusterError(
            f"the scheduler at {client.scheduler.address} has no workers after {config.wait:g} s (cluster.wait); "
            f"{_queue(config)}"
        ) from error


def _queue(config: ClusterConfig) -> str:
    """Say what the queue of a batch system says, or where else workers come from."""
    if config.type == "address":
        return "start some with `dask worker`"
    command = kind_of(config.type).queue
    if not command:
        return "look at the logs of the cluster"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"`{' '.join(command)}` does not answer: {error}"
    return f"`{' '.join(command)}` says:\n{(done.stdout + done.stderr).rstrip()}"


def _with_security(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in which the words on TLS are what Dask takes; who gives them wants nothing unencrypted."""
    words = options.get("security")
    if not isinstance(words, Mapping):
        return dict(options)
    from distributed import Security

    return {**options, "security": Security(**{"require_encryption": True, **words})}


def _workers_of(client: Client) -> Workers:
    """Ask a cluster what it has."""
    from distributed.system import MEMORY_LIMIT

    workers = client.scheduler_info(n_workers=-1)["workers"].values()
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

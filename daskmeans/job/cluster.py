"""Where a job runs: checks a cluster's options, starts or joins the cluster, and says what it has.

Must not know what is computed there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from daskmeans.errors import did_you_mean

# A problem with an option: its key below `options`, if it is one key's, and what is wrong.
OptionProblem = tuple[tuple[str, ...], str]


def check_options(kind: str, options: Mapping[str, Any]) -> list[OptionProblem]:
    """Return what is wrong with the `options` of a cluster of type `kind`, by key.

    >>> check_options("local", {"n_worker": 2})
    [(('n_worker',), "unknown option; did you mean 'n_workers'?")]
    """
    known = sorted(_known_options(kind))
    unknown = [
        ((str(key),), f"unknown option{did_you_mean(str(key), known)}")
        for key in options
        if key not in known
    ]
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

"""Which clusters there are: for each type its class, the package that brings it, and the options that it takes.

Starts nothing, and imports a deploying package only where it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from daskmeans.errors import ConfigError, did_you_mean

# A problem with an option: its key below `options`, if it is one key's, and what is wrong.
OptionProblem = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class Kind:
    """A type of cluster.

    Attributes
    ----------
    path : dotted path of the class, or of the function that makes one.
    extra : of this package, that installs what brings the class; None where no extra does.
    queue : command that shows the queue, where there is one.
    """

    path: str
    extra: str | None = None
    queue: tuple[str, ...] = ()


JOBQUEUE = {
    "slurm": Kind("dask_jobqueue.SLURMCluster", "slurm", ("squeue", "--me")),
    "pbs": Kind("dask_jobqueue.PBSCluster", "pbs", ("qstat",)),
    "sge": Kind("dask_jobqueue.SGECluster", "sge", ("qstat",)),
    "lsf": Kind("dask_jobqueue.LSFCluster", "lsf", ("bjobs",)),
    "htcondor": Kind("dask_jobqueue.HTCondorCluster", "htcondor", ("condor_q",)),
    "oar": Kind("dask_jobqueue.OARCluster", "oar", ("oarstat",)),
}
OTHERS = {
    "ssh": Kind("distributed.SSHCluster", "ssh"),
    "mpi": Kind("dask_mpi.initialize", "mpi"),
    "kubernetes": Kind("dask_kubernetes.operator.KubeCluster", "kubernetes"),
    "gateway": Kind("dask_gateway.GatewayCluster", "gateway"),
}
KINDS = {**JOBQUEUE, **OTHERS}

# Those that need no package but Dask.
OWN_TYPES = ("threads", "local", "address")
NAMES = (*OWN_TYPES, *KINDS)

# Parameters that are no one's to set from a file: what Python itself needs, and what is deprecated.
_NOT_OPTIONS = {"self", "loop", "asynchronous", "start", "ip", "kwargs", "worker_kwargs", "nanny", "job_cls", "cls"}

# What a job is told by its cluster.
_NOT_JOB_OPTIONS = {"scheduler", "name"}


def kind_of(name: str) -> Kind:
    """Return the kind of a type that is deployed by a class: a known one, or the dotted path of a class."""
    return KINDS.get(name) or Kind(name)


def check_options(name: str, options: Mapping[str, Any]) -> list[OptionProblem]:
    """Return what is wrong with the `options` of a cluster of type `name`, by key.

    Those of a class whose package is not installed here are not looked at.

    >>> check_options("local", {"n_worker": 2})
    [(('n_worker',), "unknown option; did you mean 'n_workers'?")]
    """
    return [*_unknown(options, _known_options(name), ()), *_wrong_security(options), *_wrong_values(name, options)]


def _unknown(options: Mapping[str, Any], known: set[str] | None, path: tuple[str, ...]) -> Iterator[OptionProblem]:
    """Yield the options that nothing takes; `known` is None where anything may be taken."""
    names = sorted(known or ())
    for key in options if known is not None else ():
        if key not in names:
            yield (*path, str(key)), f"unknown option{did_you_mean(str(key), names)}"


def _known_options(name: str) -> set[str] | None:
    """Return the names of the options that a cluster of this type takes, None where that cannot be known."""
    if name == "threads":
        return {"num_workers"}
    if name == "address":
        return {"address", "scheduler_file", "security"}
    if name == "local":
        from distributed import LocalCluster, Nanny, Worker

        takers: list[Callable[..., Any]] = [LocalCluster.__init__, Nanny.__init__, Worker.__init__]
        return {name for taker in takers for name in inspect.signature(taker).parameters} - _NOT_OPTIONS
    try:
        return parameters(load_class(name))
    except ConfigError:
        return None


def parameters(factory: Any) -> set[str] | None:
    """Return the parameters of a class or function, those that it hands on to its base included.

    None where it takes any keyword, and nothing tells what becomes of it.
    """
    names: set[str] = set()
    functions = (
        [vars(c)["__init__"] for c in factory.__mro__ if "__init__" in vars(c)]
        if inspect.isclass(factory)
        else [factory]
    )
    for function in functions:
        own = inspect.signature(function).parameters.values() if function is not object.__init__ else ()
        names |= {p.name for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        job = getattr(factory, "job_cls", None)
        if inspect.isclass(job) and any(p.kind is p.VAR_KEYWORD for p in own):
            # dask-jobqueue: what the cluster does not take is the job's.
            return names | ((parameters(job) or set()) - _NOT_JOB_OPTIONS) - _NOT_OPTIONS
        if own and not any(p.kind is p.VAR_KEYWORD for p in own):
            return names - _NOT_OPTIONS
    return None


def load_class(name: str) -> Any:
    """Import the class of a type of cluster.

    Raises
    ------
    ConfigError
        Its package is not installed, or there is no such class.
    """
    kind = kind_of(name)
    module, _, attribute = kind.path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        remedy = "install the package that brings it" if kind.extra is None else f"pip install daskmeans[{kind.extra}]"
        raise ConfigError(
            f"cluster.type: {name} needs {kind.path}, which cannot be imported: {error}; {remedy}"
        ) from None
    except AttributeError:
        names = [other for other in dir(importlib.import_module(module)) if other[:1].isupper()]
        raise ConfigError(
            f"cluster.type: there is no {attribute} in {module}{did_you_mean(attribute, names)}"
        ) from None


def _wrong_security(options: Mapping[str, Any]) -> Iterator[OptionProblem]:
    """Yield what is wrong with the words on TLS."""
    security = options.get("security")
    if isinstance(security, Mapping):
        from distributed import Security

        known = {*inspect.signature(Security).parameters, *Security.__slots__} - {"self", "kwargs", "extra_conn_args"}
        yield from _unknown(security, known, ("security",))


def _wrong_values(name: str, options: Mapping[str, Any]) -> Iterator[OptionProblem]:
    """Yield the options whose values cannot be right."""
    counts = ("num_workers", "threads_per_worker", "cores", "processes", *(["n_workers"] if name == "local" else []))
    for key in counts:
        value = options.get(key)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (is_whole and value >= 1):
            yield (key,), f"expected a whole number, at least 1, got {value!r}"
    sizes = {"local": "memory_limit", **dict.fromkeys(JOBQUEUE, "memory")}
    if name in sizes and not is_memory_limit(options.get(sizes[name])):
        yield (sizes[name],), f"expected a size such as 2GiB, or auto, got {options[sizes[name]]!r}"
    if name == "address":
        given = [key for key in ("address", "scheduler_file") if isinstance(options.get(key), str)]
        if len(given) != 1:
            yield (), "expected the scheduler's address, such as {address: tcp://10.0.0.1:8786}, or its scheduler_file"


def is_memory_limit(value: Any) -> bool:
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


def parse_walltime(text: str) -> int:
    """Return the seconds of ``[days-]hours:minutes[:seconds]``.

    >>> parse_walltime("1-00:00:30")
    86430
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text)
    if match is None:
        raise ValueError(f"expected a time such as 24:00:00 or 2-00:00:00, got {text!r}")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds

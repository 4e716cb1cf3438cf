"""Arrays in files of this machine, read and decoded in the thread that asks for them.

zarr hands each chunk from the thread that asks to one that runs an event loop, from there to a pool of threads, and
back. On two cores one was idle for a third of a pass meanwhile, though another thread was ready to run: with all of it
in one thread a pass takes two thirds of the time. A task has one thread, and other tasks read while it computes.
Must not know what is read.
"""

from __future__ import annotations

import asyncio
import functools
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import zarr
from xarray.backends.zarr import ZarrArrayWrapper
from zarr.storage import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

# Threads of its own would leave those that ask idle: a pass took a fifth longer.
ZARRS = {
    "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
    "codec_pipeline.chunk_concurrent_minimum": 1,
    "threading.max_workers": 1,
}

# So many zarr asks for at once, unless it is configured otherwise.
MOST_FILES = 10

# A file of the page cache is there at once; one on a disk nearby often is, too.
LONG_WAIT_S = 0.0005


class _SameThread(ThreadPoolExecutor):
    """Calls what is submitted at once, in the thread that submits it, until a file has let it wait.

    Then it reads further files in threads of their own: the wait for one, long on a network, is spent on the others.
    """

    def __init__(self) -> None:
        super().__init__(MOST_FILES)
        self._has_waited = False

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call `function`, and return what it returned or raised, or will."""
        reads = _reads_a_file(function)
        if reads and self._has_waited:
            return super().submit(function, *args, **kwargs)
        future: Future[T] = Future()
        idle_s = time.thread_time() - time.perf_counter()
        try:
            future.set_result(function(*args, **kwargs))
        # Codecs raise what they like, also exceptions that do not derive from Exception.
        except BaseException as error:
            future.set_exception(error)
        self._has_waited |= reads and time.perf_counter() - time.thread_time() + idle_s > LONG_WAIT_S
        return future


def _reads_a_file(function: Callable[..., Any]) -> bool:
    """Return whether it is a store of zarr that submits something, by way of `asyncio.to_thread`: codecs do too."""
    called = function.args[0] if isinstance(function, functools.partial) and function.args else function
    return str(getattr(called, "__module__", "")).startswith("zarr.storage")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in this thread, with what it would give to other threads. No event loop may run here."""
    loop = asyncio.new_event_loop()
    try:
        loop.set_default_executor(_SameThread())
        return loop.run_until_complete(coroutine)
    finally:
        loop.run_until_complete(_cancelled(asyncio.all_tasks(loop)))
        loop.close()


async def _cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    """Stop what a failure has left unfinished."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _runs_a_loop() -> bool:
    """Return whether an event loop runs in this thread: the main one of a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _InlineArray(ZarrArrayWrapper):
    """A stored array that xarray reads lazily, in the thread that asks for it."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if _runs_a_loop():
            return super().__getitem__(key)  # type: ignore[no-untyped-call]
        return run(self.async_getitem(key))  # type: ignore[no-untyped-call]


def wrapped(array: zarr.Array[Any]) -> ZarrArrayWrapper:
    """Return the array as xarray reads it lazily. Where it is remote, zarr does it: several chunks travel at once."""
    if not isinstance(array.store, LocalStore):
        return ZarrArrayWrapper(array)  # type: ignore[no-untyped-call]
    return _InlineArray(_decoded_by_zarrs(array) if _suits_zarrs(array) else array)  # type: ignore[no-untyped-call]


def _suits_zarrs(array: zarr.Array[Any]) -> bool:
    """Return whether zarrs may decode an array: it knows no numbers of other byte orders, and passes by own stores."""
    dtype = array.dtype
    return type(array.store) is LocalStore and dtype.kind in "biuf" and dtype.isnative and _has_zarrs()


def _has_zarrs() -> bool:
    """Return whether zarrs is installed, and nobody has asked zarr for another way to decode."""
    usual = zarr.config.defaults[0]["codec_pipeline"]["path"]
    return find_spec("zarrs") is not None and zarr.config.get("codec_pipeline.path") == usual


def _decoded_by_zarrs(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the array as zarrs decodes it, in Rust; what zarrs does not know, zarr decodes after all."""
    opened = array.async_array
    with zarr.config.set(ZARRS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to say of the array was said when it was opened
        return zarr.Array(zarr.AsyncArray(opened.metadata, opened.store_path, opened.config))

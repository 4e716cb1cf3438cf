"""Looks at the chunks of a store before they are read: which are missing, and which are empty or cut short.

Zarr reads a chunk that is not there as its fill value. That may be meant, since a chunk of nothing else need not be
stored; or a copy was not finished, and nothing but a look at the store tells.
"""

from __future__ import annotations

import itertools
import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from daskmeans.errors import DataError
from daskmeans.handles import StoreHandle
from daskmeans.job.config import InputConfig
from daskmeans.nodes import open_node
from daskmeans.stores import OpenedStore

# Looks at files that are made at once: a network's file system takes its time for each.
N_LOOKS = 16

# Stores that are no folders are listed, which takes a request for each thousand chunks.
MOST_LISTED = 100_000

# A frame of Blosc begins with 16 bytes, the last four of which are its length.
BLOSC_HEADER = 16

Index = tuple[int, ...]


def check_chunks(opened: OpenedStore, config: InputConfig) -> None:
    """Warn of chunks that are not stored, or refuse them, as the configuration says. Reads no data.

    Raises
    ------
    DataError
        A chunk is empty or cut short; or one is missing, and none may be.
    """
    handle = opened.source.handle
    if not isinstance(handle, StoreHandle) or handle.level is not None:
        return
    node = open_node(handle.location.path, handle.location.storage_options)
    for name in handle.names or ((handle.bare_array,) if handle.bare_array else ()):
        variable = handle.dataset().variables[name]
        array: Any = node if isinstance(node, zarr.Array) else node[name]
        parts = [opened.source.window[str(dim)] for dim in variable.dims]
        n_chunks, missing = _missing(array, parts)
        is_gap = _is_nan(array.fill_value) or array.fill_value == variable.encoding.get("_FillValue")
        if missing and config.missing_chunks != "fill" and not (is_gap and config.missing == "drop"):
            _tell(
                f"{opened.label}: {len(missing):,} of {n_chunks:,} chunks of variable {name!r} are",
                missing,
                array,
                config,
            )


def _tell(beginning: str, missing: Sequence[str], array: Any, config: InputConfig) -> None:
    """Warn of missing chunks, or refuse them."""
    message = (
        f"{beginning} not stored, {missing[0]} the first, and would be read as the fill value, {array.fill_value}. If "
        "they were lost, write the store again; if they are meant, set input.missing_chunks to fill"
    )
    if config.missing_chunks == "error":
        raise DataError(message)
    warnings.warn(message, stacklevel=2)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _missing(array: Any, parts: Sequence[slice | int]) -> tuple[int, list[str]]:
    """Return how many chunks the parts of the dimensions touch, and where those would be that are not stored."""
    lengths = array.shards or array.chunks
    if not isinstance(array.store_path.store, LocalStore):
        return _missing_by_list(array)
    touched = [_touched(part, length) for part, length in zip(parts, lengths, strict=True)]
    folder = Path(array.store_path.store.root) / array.store_path.path
    has_blosc = "blosc" in str((array.compressors or ("",))[-1]).lower()

    def look(indices: Sequence[Index]) -> list[str]:
        paths = [folder / array.metadata.encode_chunk_key(index) for index in indices]
        return [str(path) for path in paths if not _is_whole(path, has_blosc=has_blosc)]

    with ThreadPoolExecutor(N_LOOKS) as pool:
        missing = list(itertools.chain.from_iterable(pool.map(look, _batches(itertools.product(*touched), 1000))))
    return math.prod(map(len, touched)), missing


def _missing_by_list(array: Any) -> tuple[int, list[str]]:
    """Return the same of a store that is no folder, as far as it can be listed, whatever the parts."""
    if array.shards or array.nchunks > MOST_LISTED:
        return 0, []
    try:
        n_missing = array.nchunks - array.nchunks_initialized
    except Exception:  # such as a web server's, which cannot be listed
        return 0, []
    return array.nchunks, ["which is not known"] * n_missing


def _touched(part: slice | int, length: int) -> range:
    """Return which chunks a part of a dimension touches."""
    if isinstance(part, int):
        return range(part // length, part // length + 1)
    return range(part.start // length, -(-part.stop // length))


def _batches(indices: Iterator[Index], size: int) -> Iterator[list[Index]]:
    while batch := list(itertools.islice(indices, size)):
        yield batch


def _is_whole(path: Path, *, has_blosc: bool) -> bool:
    """Return whether a chunk is stored.

    Raises
    ------
    DataError
        It is there, but empty, or cut short in a way that its codec would not notice.
    """
    try:
        n_bytes = path.stat().st_size
    except OSError:
        return False
    if n_bytes and has_blosc:
        with path.open("rb") as file:
            header = file.read(BLOSC_HEADER)
        expected = struct.unpack("<I", header[-4:])[0] if len(header) == BLOSC_HEADER else BLOSC_HEADER
    else:
        expected = 1
    if n_bytes < expected:
        raise DataError(f"{path} is damaged: {n_bytes:,} of {expected:,} bytes; write this chunk again from its source")
    return True

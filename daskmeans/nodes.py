"""Opens Zarr groups and arrays, or says why that is not possible; tells what is in them and where its chunks lie.

Must not know what is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import xarray as xr
import zarr
from xarray.core.indexing import LazilyIndexedArray
from zarr.storage import ZipStore

from daskmeans.errors import ConfigError, DataError, did_you_mean
from daskmeans.inline import wrapped
from daskmeans.retry import patiently

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    Array: TypeAlias = zarr.Array[Any]
    Node: TypeAlias = zarr.Group | Array


@dataclass(frozen=True)
class Location:
    """Where a Zarr store is. Its options, of which some may be secret, are in no message.

    `token` makes one opening differ from the next, so that a store that was rewritten is not taken
    from the cache of a process that knew it before.
    """

    path: str
    storage_options: Mapping[str, Any] | None = field(compare=False, repr=False)
    token: str


def local_path(path: str) -> Path:
    """Return a path of this machine from its root on; ``~name`` stays as it is where there is no such user."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        return Path(path).absolute()


def node_label(node: Node) -> str:
    """Return the path or URL of a Zarr group or array."""
    return str(node.store_path).removeprefix("file://")


# A process works on few stores at a time; an opened store is small.
@lru_cache(maxsize=16)
def node_at(location: Location) -> Node:
    """Open the Zarr group or array, once in each process."""
    return open_node(location.path, location.storage_options)


def open_node(store: Any, storage_options: Mapping[str, Any] | None) -> Node:
    """Open a Zarr group or array for reading, or say why that is not possible."""
    try:
        options = None if storage_options is None else dict(storage_options)
        place = ZipStore(store, mode="r") if _is_local(store, ".zip") else store
        node = patiently(lambda: zarr.open(place, mode="r", storage_options=options), f"opening {store}")
    except ImportError as error:
        raise ConfigError(
            f"{store}: a package that reads this kind of store is missing: {error}; "
            "install it in the environment of the client and of the workers"
        ) from error
    except FileNotFoundError as error:
        check_exists(str(store))
        raise DataError(
            f"{store} is not a Zarr store: there is no zarr.json (Zarr v3), .zgroup or .zarray "
            f"(Zarr v2) in it. {_what_to_do(store)}"
        ) from error
    except Exception as error:
        raise DataError(f"{store} cannot be opened as Zarr: {type(error).__name__}: {error}") from error
    check_attributes(node)
    return node


def _is_local(store: Any, suffix: str) -> bool:
    """Return whether a store is a path of this machine that ends so."""
    return isinstance(store, str) and "://" not in store and store.endswith(suffix)


# What is no Zarr, but known to hold data, by the ends of names; and how it can be clustered all the same.
OTHER_FORMATS = {
    ".npz": "It is an archive of NumPy: save the array alone with numpy.save, and give the .npy file",
    ".parquet": "Parquet is read as a table: KMeans().fit(dask.dataframe.read_parquet(...)[columns])",
    ".nc": "NetCDF is opened by xarray: open_samples(xarray.open_dataset(...)), or Dataset.to_zarr",
    ".json": "References to chunks elsewhere are opened as reference://, with storage_options: {fo: the path}",
}


def _what_to_do(store: Any) -> str:
    """Say how to cluster what is no Zarr store."""
    found = (advice for suffix, advice in OTHER_FORMATS.items() if _is_local(store, suffix))
    return next(found, "Give the path of a Zarr group or array, or of a .npy file")


def check_attributes(node: Node) -> None:
    """Raise where the metadata is damaged in a way that Zarr does not see."""
    attributes = node.metadata.attributes
    if not isinstance(attributes, dict):
        raise DataError(
            f"{node_label(node)} is damaged: the attributes in its metadata are {attributes!r}; expected a mapping"
        )


def check_exists(path: str) -> None:
    """Raise where `path` is local and there is nothing, naming what is like it beside it."""
    place = Path(path)
    if "://" in path or place.exists():
        return
    beside = sorted(entry.name for entry in place.parent.glob("[!.]*") if entry.suffix != ".lock")
    hint = did_you_mean(place.name, beside) if len(beside) < 30 else ""
    raise DataError(f"store not found: {path} does not exist{hint}")


def bare_arrays_of(node: Node) -> tuple[str, ...]:
    """Return the names of the arrays of a group whose dimensions have no names."""
    if isinstance(node, zarr.Array):
        return ()
    return tuple(sorted(name for name, array in node.arrays() if dimension_names(array) is None))


def groups_of(node: Node | None) -> tuple[str, ...]:
    """Return the names of the groups within a group."""
    return tuple(sorted(node.group_keys())) if isinstance(node, zarr.Group) else ()


def dimension_names(array: Array) -> tuple[str, ...] | None:
    """Return the names of the dimensions of a stored array, or None where it has dimensions without names."""
    if not array.ndim:
        return ()
    if array.metadata.zarr_format == 2:
        names: Any = array.attrs.get("_ARRAY_DIMENSIONS")
    else:
        names = array.metadata.dimension_names
    if names is None or len(names) != array.ndim or None in names:
        return None
    return tuple(str(name) for name in names)


def chunk_key_of(node: Node, name: str, index: Sequence[int], label: str = "") -> str:
    """Return the path or URL of one stored chunk, or shard; `label` is that of the store."""
    array: Any = node[name] if isinstance(node, zarr.Group) else node
    key = array.metadata.encode_chunk_key(tuple(index))
    if "://" in label:
        return "/".join(
            part for part in (label.rstrip("/"), array.path.removeprefix(node.path).strip("/"), key) if part
        )
    return str(array.store_path / key).removeprefix("file://")


def lazy_array(array: Array, dims: Sequence[Hashable]) -> xr.Variable:
    """Wrap one stored array as it is, not read and not decoded."""
    encoding = {"chunks": array.chunks, "shards": array.shards}
    lazy = LazilyIndexedArray(wrapped(array))
    attrs = {key: value for key, value in array.attrs.items() if key != "_ARRAY_DIMENSIONS"}
    return xr.Variable(dims, lazy, attrs, encoding)

"""Handles: Zarr, xarray and .npy data opened here, and opened again in whatever process reads it.

Everything becomes an `xarray.Dataset` of variables that are read lazily, without Dask: reading a
block through xarray costs what zarr-python costs (measured: within 0.05 ms a block, no further
copy), and brings the decoding of `_FillValue`, `scale_factor`, `add_offset` and times with it.
Must not know what samples are.
"""

from __future__ import annotations

import uuid
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xarray as xr
import zarr
from xarray.backends.zarr import ZarrStore
from xarray.core.indexing import LazilyIndexedArray

from daskmeans.errors import ConfigError, DataError, did_you_mean
from daskmeans.inline import wrapped
from daskmeans.nodes import (
    Location,
    bare_arrays_of,
    check_attributes,
    check_exists,
    chunk_key_of,
    dimension_names,
    groups_of,
    lazy_array,
    local_path,
    node_at,
    node_label,
    open_node,
)
from daskmeans.ome import CHANNELS, IMAGE, describe_image, is_image
from daskmeans.retry import patiently

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daskmeans.nodes import Array, Node


class Handle(Protocol):
    """Data that can be opened in any process. Cheap to pickle; safe to share by threads."""

    @property
    def label(self) -> str:
        """Name of the data, for people."""

    @property
    def is_given(self) -> bool:
        """Whether the caller gave the variables themselves, rather than a store of them."""

    def dataset(self) -> xr.Dataset:
        """Return the variables, opened but not read."""

    def only(self, names: Sequence[str]) -> Handle:
        """Return a handle on these variables alone."""

    def bare_arrays(self) -> tuple[str, ...]:
        """Return the names of the arrays whose dimensions have no names."""

    def groups(self) -> tuple[str, ...]:
        """Return the names of the groups within."""

    def chunk_key(self, name: str, index: Sequence[int]) -> str:
        """Return where one stored chunk of a variable lies: a file or the key of an object."""


@dataclass(frozen=True, eq=False)
class DatasetHandle:
    """Variables that the caller opened or computed, pickled as they are.

    Those of a Zarr store pickle as its path. Dask-backed ones carry their graph.
    """

    given: xr.Dataset
    label: str
    node: Node | None

    @property
    def is_given(self) -> bool:
        """Whether they do not come from a Zarr group or array."""
        return self.node is None

    def dataset(self) -> xr.Dataset:
        """Return the variables."""
        return self.given

    def only(self, names: Sequence[str]) -> DatasetHandle:
        """Return a handle on these variables alone."""
        indexes = self.given.xindexes
        # The levels of an index over several coordinates go together.
        kept = {*names, *(level for name in names if name in indexes for level in indexes.get_all_coords(name))}
        return replace(self, given=self.given.drop_vars([name for name in self.given.variables if name not in kept]))

    def bare_arrays(self) -> tuple[str, ...]:
        """Return the names of the arrays whose dimensions have no names."""
        return () if self.node is None else bare_arrays_of(self.node)

    def groups(self) -> tuple[str, ...]:
        """Return the names of the groups within."""
        return groups_of(self.node)

    def chunk_key(self, name: str, index: Sequence[int]) -> str:
        """Return the key, or number the chunk where the store is not known."""
        if self.node is None:
            return f"chunk {tuple(index)} of {name!r}"
        return chunk_key_of(self.node, name, index)


@dataclass(frozen=True)
class StoreHandle:
    """A Zarr store, group or array by its path or URL, opened once in each process.

    Attributes
    ----------
    bare_array : name of the wanted array, where its dimensions have no names.
    names : variables to open; None for all.
    level : which resolution is wanted, where the group is an image pyramid.
    """

    location: Location
    bare_array: str | None
    names: tuple[str, ...] | None
    level: int | None = None

    @property
    def label(self) -> str:
        """The path or URL."""
        return self.location.path

    @property
    def is_given(self) -> bool:
        """It is a store."""
        return False

    def dataset(self) -> xr.Dataset:
        """Return the variables, opened but not read."""
        return _dataset_of_store(self)

    def only(self, names: Sequence[str]) -> StoreHandle:
        """Return a handle on these variables alone."""
        return replace(self, names=tuple(names))

    def bare_arrays(self) -> tuple[str, ...]:
        """Return the names of the arrays whose dimensions have no names."""
        return () if self.level is not None else bare_arrays_of(node_at(self.location))

    def groups(self) -> tuple[str, ...]:
        """Return the names of the groups within."""
        return groups_of(node_at(self.location))

    def chunk_key(self, name: str, index: Sequence[int]) -> str:
        """Return the path of the chunk's file or object."""
        node = node_at(self.location)
        if self.level is not None and isinstance(node, zarr.Group):
            node, _ = _image_of(node, self.level, self.label)
        return chunk_key_of(node, name, index, self.label)


@dataclass(frozen=True)
class NpyHandle:
    """A NumPy file, memory-mapped in each process that reads it."""

    path: str
    token: str

    @property
    def label(self) -> str:
        """The path."""
        return self.path

    @property
    def is_given(self) -> bool:
        """It is a store."""
        return False

    def dataset(self) -> xr.Dataset:
        """Map the file."""
        return _map_npy(self)

    def only(self, names: Sequence[str]) -> NpyHandle:
        """Return the same: there is one array."""
        return self

    def bare_arrays(self) -> tuple[str, ...]:
        """Return none: the array is found in any case."""
        return ()

    def groups(self) -> tuple[str, ...]:
        """Return none."""
        return ()

    def chunk_key(self, name: str, index: Sequence[int]) -> str:
        """Return the path."""
        return self.path


def open_handle(
    store: Any, array: str | None, storage_options: Mapping[str, Any] | None, level: int | None = None
) -> Handle:
    """Open `store` and return a handle on it.

    Parameters
    ----------
    store : path or URL of a Zarr v2 or v3 group or array, or of a .npy file; or an opened Zarr
        store, group or array; or an `xarray.Dataset` or `DataArray`.
    array : name of the array that is wanted, where its dimensions may have no names.
    storage_options : passed to fsspec, for URLs.
    level : which resolution of an image pyramid, 0 for the finest; None for that too.

    Raises
    ------
    DataError : the store does not exist, is no Zarr, or its metadata cannot be read.
    ConfigError : a package that the URL needs is not installed, or `array` is not in the store.
    """
    if isinstance(store, xr.DataArray):
        store = store.to_dataset(name="values" if store.name is None else str(store.name))
    if isinstance(store, xr.Dataset):
        label = str(store.encoding.get("source", "the given Dataset"))
        return DatasetHandle(store, label, node=None)
    if isinstance(store, str | Path):
        return _open_path(str(store), array, storage_options, level)
    node = store if isinstance(store, zarr.Group | zarr.Array) else open_node(store, None)
    label = node_label(node)
    if isinstance(node, zarr.Group) and array is None and is_image(node):
        image, dataset = _image_of(node, level or 0, label)
        return DatasetHandle(dataset, label, image)
    _check_no_level(level, label)
    bare_array = _bare_array(node, array, label)
    dataset = _open_variables(node, bare_array, None, label)
    return DatasetHandle(dataset, label, node)


def _open_path(
    path: str, array: str | None, storage_options: Mapping[str, Any] | None, level: int | None
) -> StoreHandle | NpyHandle:
    """Open a path or URL."""
    token = uuid.uuid4().hex
    if "://" not in path:
        path = str(local_path(path))
    if path.endswith(".npy"):
        check_exists(path)
        return NpyHandle(path, token)
    location = Location(path, storage_options, token)
    if array is None and is_image(node_at(location)):
        return StoreHandle(location, None, None, level or 0)
    _check_no_level(level, path)
    return StoreHandle(location, _bare_array(node_at(location), array, path), None)


def _check_no_level(level: int | None, label: str) -> None:
    if level is not None:
        raise ConfigError(f"level: {label} is no image pyramid (it has no multiscales metadata); leave level out")


def _image_of(group: zarr.Group, level: int, label: str) -> tuple[Array, xr.Dataset]:
    """Open one resolution of an image without reading it."""
    image = describe_image(group, level, label)
    array: Array = group[image.path]  # type: ignore[assignment]
    dataset = _decode_array(array, IMAGE, image.dims).assign_coords(image.coords)
    return array, dataset.assign_attrs({} if image.channel_dim is None else {CHANNELS: image.channel_dim})


def _bare_array(node: Node, array: str | None, label: str) -> str | None:
    """Return the name of the wanted array where xarray cannot open it as part of a group."""
    if isinstance(node, zarr.Array):
        return str(node.basename or "X")
    if array is None:
        return None
    members = dict(node.arrays())
    if array not in members:
        raise ConfigError(f"{label} has no array {array!r}{did_you_mean(array, sorted(members))}")
    check_attributes(members[array])
    return array if dimension_names(members[array]) is None else None


@lru_cache(maxsize=16)
def _dataset_of_store(handle: StoreHandle) -> xr.Dataset:
    """Open the variables of a handle, once in each process."""
    node = node_at(handle.location)
    if handle.level is not None and isinstance(node, zarr.Group):
        return _image_of(node, handle.level, handle.label)[1]
    return _open_variables(node, handle.bare_array, handle.names, handle.label)


def _open_variables(node: Node, bare_array: str | None, names: tuple[str, ...] | None, label: str) -> xr.Dataset:
    """Open the variables of a group, or the one bare array that is wanted, without reading."""
    if isinstance(node, zarr.Array):
        assert bare_array is not None
        return _decode_array(node, bare_array, dimension_names(node) or _made_up_dims(node.ndim))
    if bare_array is not None:
        return _open_bare(node, bare_array)
    return _open_group(node, names, label)


def _made_up_dims(ndim: int) -> tuple[str, ...]:
    """Name the dimensions of an array that has no names for them."""
    if ndim <= 2:
        return ("sample", "feature")[:ndim]
    return tuple(f"dim_{axis}" for axis in range(ndim))


def _decode_array(array: Array, name: str, dims: Sequence[str]) -> xr.Dataset:
    """Wrap one array that xarray cannot open as part of a group, decoded as xarray does."""
    return xr.decode_cf(xr.Dataset({name: lazy_array(array, dims)}), decode_times=False)


def _open_bare(group: zarr.Group, name: str) -> xr.Dataset:
    """Open one array without named dimensions, and the 1-D arrays that may be its weights."""
    array: Array = group[name]  # type: ignore[assignment]
    dataset = _decode_array(array, name, _made_up_dims(array.ndim))
    for other, beside in group.arrays():
        if other != name and array.ndim and beside.shape == array.shape[:1]:
            dataset = dataset.merge(_decode_array(beside, other, _made_up_dims(array.ndim)[:1]))
    return dataset


class _NamedArrays(ZarrStore):
    """The arrays of a group that have named dimensions; xarray refuses groups that hold others."""

    names: tuple[str, ...] | None = None

    def array_keys(self) -> tuple[str, ...]:
        """Return the names of the arrays to open."""
        return tuple(
            name
            for name, array in self.arrays()
            if (self.names is None or name in self.names) and dimension_names(array) is not None
        )

    def open_store_variable(self, name: str) -> xr.Variable:
        """Open one array, to be read where it is asked for."""
        found: xr.Variable = super().open_store_variable(name)  # type: ignore[no-untyped-call]
        array = self.members[name]
        assert isinstance(array, zarr.Array)
        lazy = LazilyIndexedArray(wrapped(array))
        return xr.Variable(found.dims, lazy, found.attrs, found.encoding)


def _open_group(group: zarr.Group, names: tuple[str, ...] | None, label: str) -> xr.Dataset:
    """Open the arrays of a group that have named dimensions, with xarray."""
    # As xarray does: Zarr v2 has no other place for a missing value than its fill value.
    is_v2 = group.metadata.zarr_format == 2
    try:
        arrays = _NamedArrays(group, mode="r", use_zarr_fill_value_as_mask=is_v2)
        arrays.names = names
        return patiently(lambda: _open_decoded(arrays, label), label)
    except Exception as error:
        raise DataError(f"{label} cannot be opened by xarray: {type(error).__name__}: {error}") from error


def _open_decoded(arrays: ZarrStore, label: str) -> xr.Dataset:
    """Open arrays with xarray; times that it cannot decode stay the numbers that they are stored as."""
    options: dict[str, Any] = {"chunks": None, "cache": False, "decode_timedelta": False}
    try:
        return xr.open_dataset(arrays, **options)
    except ValueError as error:
        if "unable to decode time" not in str(error):
            raise
        dataset = xr.open_dataset(arrays, decode_times=False, **options)
        warnings.warn(f"{label}: times are left as the numbers that are stored: {error}", stacklevel=2)
        return dataset


@lru_cache(maxsize=16)
def _map_npy(handle: NpyHandle) -> xr.Dataset:
    """Memory-map a .npy file as a Dataset of one variable."""
    try:
        values = np.load(handle.path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{handle.path} cannot be read as a .npy file: {error}") from error
    return xr.Dataset({Path(handle.path).stem: (_made_up_dims(values.ndim), values)})

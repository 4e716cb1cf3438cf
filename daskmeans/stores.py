"""Opens Zarr, xarray and .npy data as samples: which variables, which dimensions, which blocks.

Checks every name before anything is read. Must not know what is computed on the rows.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from daskmeans.blocking import plan_grid
from daskmeans.errors import ConfigError, DataError
from daskmeans.gridded import (
    Field,
    GivenWeight,
    GriddedSource,
    GridMask,
    NamedMask,
    NamedWeight,
    format_value,
    length,
    read_variable,
)
from daskmeans.handles import open_handle
from daskmeans.memory import MIB, format_bytes
from daskmeans.ome import CHANNELS
from daskmeans.resolve import (
    keep_named_dims,
    resolve_dims,
    resolve_mask,
    resolve_selection,
    resolve_variables,
    resolve_weight,
)
from daskmeans.retry import patiently
from daskmeans.samples import Loader, Missing, Samples, row_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from daskmeans.gridded import Weight
    from daskmeans.handles import Handle
    from daskmeans.memory import Budget
    from daskmeans.resolve import Dims, Window

# Coordinates up to this size are copied to the labels.
COORDINATE_BYTES = 256 * MIB

# Coordinates up to this size are opened by each worker, to name places in error messages.
PLACE_BYTES = 8 * MIB


@dataclass(frozen=True)
class OpenedStore:
    """Samples of a store, and what is needed to put labels and centers back into its dimensions.

    Attributes
    ----------
    label : the path or URL.
    samples : the rows; their grid has one axis for each of `sample_dims`.
    sample_dims : dimensions of the labels.
    coords : coordinates of the labels, in memory: all that lie along sample dimensions alone, and
        the values of dimensions that `select` dropped.
    label_chunks : chunk lengths to write labels with: the stored ones along each sample dimension,
        unless that would make very many.
    fields : which columns each variable fills.
    feature_dims : dimensions of the features.
    feature_coords : coordinates of the feature dimensions, where they have any.
    found : what a pass over the samples has found out, such as ``n_dropped``.
    """

    label: str
    samples: Samples
    sample_dims: tuple[str, ...]
    coords: Mapping[str, xr.DataArray]
    label_chunks: tuple[int, ...]
    fields: tuple[Field, ...]
    feature_dims: tuple[str, ...]
    feature_coords: Mapping[str, xr.DataArray]
    found: dict[str, int] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def source(self) -> GriddedSource:
        """What reads the rows."""
        source = self.samples.loader.source
        assert isinstance(source, GriddedSource)
        return source

    @property
    def is_in_memory(self) -> bool:
        """Whether all variables are arrays in memory."""
        dataset = self.source.handle.dataset()
        return all(dataset.variables[field.name]._in_memory for field in self.fields)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each sample dimension."""
        return self.samples.grid.shape

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns, such as ``u[level=500]``."""
        assert self.samples.feature_names is not None
        return self.samples.feature_names

    @property
    def labels_aligned(self) -> bool:
        """Whether no two blocks share a chunk of labels, so that all can be written at once.

        It is False where a selection starts inside a stored chunk, or chunks are irregular.
        """
        return all(
            edge % chunk == 0
            for bound, chunk in zip(self.samples.grid.bounds, self.label_chunks, strict=True)
            for edge in bound[:-1]
        )

    def unstack(self, values: npt.NDArray[Any], dim: str = "cluster") -> xr.Dataset:
        """Return values per feature, (n, n_features), as variables over `dim` and feature dims, NaN where masked."""
        if (columns := self.source.columns) is not None:
            wide = np.full((len(values), self.source.width), np.nan)
            wide[:, columns] = values
            values = wide
        arrays = {
            field.name: ((dim, *field.dims), values[:, field.columns].reshape(-1, *field.shape))
            for field in self.fields
        }
        return xr.Dataset(arrays, coords=self.feature_coords)

    def within(self, budget: Budget) -> OpenedStore:
        """Return the same samples in blocks that fit `budget`. Reads nothing.

        Raises
        ------
        ConfigError : the budget is too small for one chunk of rows.
        """
        grid, label_chunks = plan_grid(self.source, budget)
        samples = replace(self.samples, loader=replace(self.samples.loader, grid=grid))
        return replace(self, samples=samples, label_chunks=label_chunks)

    def __repr__(self) -> str:
        samples, weight = self.samples, self.source.weight
        dims = ", ".join(f"{dim}: {size}" for dim, size in zip(self.sample_dims, self.shape, strict=True))
        dropped = f"{self.found['n_dropped']:,}" if "n_dropped" in self.found else "not counted yet"
        lines = {
            "n_samples": f"{self.samples.n_samples:,} ({dims})",
            "n_features": f"{samples.n_features:,} ({', '.join(field.name for field in self.fields)})",
            "dtype": str(samples.dtype),
            "blocks": f"{samples.grid.n_blocks:,}, of {format_bytes(samples.block_bytes)} at most",
            "weights": "none" if weight is None else str(weight),
            "mask": "none" if samples.loader.mask is None else str(samples.loader.mask),
            "missing": "an error" if samples.loader.missing == "error" else f"dropped: {dropped}",
        }
        return "\n".join([f"<samples of {self.label}>", *(f"    {name}: {text}" for name, text in lines.items())])


def open_samples(
    store: Any,
    *,
    array: str | None = None,
    variables: Sequence[str] | None = None,
    sample_dims: Sequence[str] | None = None,
    feature_dims: Sequence[str] | None = None,
    select: Mapping[str, Any] | None = None,
    weights: str | None = None,
    mask: str | None = None,
    missing: Missing = "error",
    budget: Budget | None = None,
    storage_options: Mapping[str, Any] | None = None,
    level: int | None = None,
) -> OpenedStore:
    """Open a store as samples. Reads metadata and coordinates only.

    Parameters
    ----------
    store : path or URL of a Zarr v2 or v3 group or array, or path of a .zip or .npy file; an opened
        `zarr.Array` or `zarr.Group`; an `xarray.Dataset` or `DataArray`. Variables backed by Dask
        are computed block by block inside the task that clusters them: right for a store that was
        opened lazily; write the result of a costly computation to a store first. Select with
        `select` rather than beforehand: a Dataset that was cut does not tell where chunks begin.
    array : the array to read, where its dimensions have no names: (samples, features).
    variables : the variables to stack as features, each over all of `sample_dims`. By default all
        of a Dataset or DataArray.
    sample_dims : dimensions that make the samples; a cell of their grid is one sample. By default
        all that are not in `feature_dims`; the first one of a 2-D array.
    feature_dims : dimensions that make the features, by default all that are not in `sample_dims`. A variable may lack
        some of them.
    select : for a dimension, a coordinate value or a range ``[start, stop]``, both included, in
        either order, ``None`` for an open end. By position where there are no coordinates. A
        dimension that is given one value is dropped, unless it is named among the sample or
        feature dimensions: then it stays, with length 1.
    weights : ``"cos_latitude"``, where a variable is named lat or latitude, or has this standard_name; or a variable
        over some or all sample dimensions.
    mask : a variable over some or all sample dimensions: samples where it is 0 or NaN are dropped, and their values
        are not looked at. Or over feature dimensions: such features are left out. ``~`` before the name turns it
        round.
    missing : what NaN or infinity in a sample does: ``"error"``, or ``"drop"``: the sample's label is -1.
    budget : bounds the size of blocks; None for blocks of some 16 MiB.
    storage_options : passed to fsspec, for URLs.
    level : which resolution of an OME-Zarr image, 0 for the finest, which is the default. Its variable is ``image``;
        its channels are features by default, and its pixels samples.

    Returns
    -------
    OpenedStore
        The rows are float32 if all variables are, after decoding, else float64.

    Raises
    ------
    ConfigError : a name or value is wrong, or the budget is too small for one chunk of rows.
    DataError : the store cannot be opened, or does not hold numbers.

    Examples
    --------
    >>> winds = xr.Dataset({"u": (("y", "x", "level"), np.ones((4, 5, 2), "float32"))})
    >>> opened = open_samples(winds, sample_dims=["y", "x"], feature_dims=["level"])
    >>> opened.samples, opened.feature_names
    (Samples(n_samples=20, n_features=2, dtype=float32, blocks=1, block_bytes=160), ('u[level=0]', 'u[level=1]'))
    """
    handle = open_handle(store, array, storage_options, level)
    if sample_dims is None and feature_dims is None:
        feature_dims = _channels(handle)
    names = resolve_variables(handle, array, variables, default=_default_variables(handle, weights, mask))
    window = resolve_selection(handle, select or {})
    dims = resolve_dims(handle, names, sample_dims, feature_dims, window)
    window = keep_named_dims(window, dims)
    weight = resolve_weight(handle, weights, dims, window)
    hidden = resolve_mask(handle, mask, dims, window)
    return _open(handle, names, dims, window, weight, hidden, missing, budget)


def samples_from_zarr(
    array: zarr.Array[Any], sample_weight: npt.NDArray[np.float64] | None, budget: Budget | None
) -> Samples:
    """View a 2-D Zarr array, (n_samples, n_features), as samples. Reads no chunk.

    Parameters
    ----------
    array : opened where the caller likes; its store must be picklable for other processes.
    sample_weight : (n_samples,), in memory, or None.
    budget : bounds the size of blocks; None for blocks of some 16 MiB.
    """
    handle = open_handle(array, None, None)
    names = resolve_variables(handle, None, None, default=_default_variables(handle))
    window = resolve_selection(handle, {})
    dims = resolve_dims(handle, names, None, None, window)
    weight = None if sample_weight is None else GivenWeight(sample_weight)
    return _open(handle, names, dims, window, weight, None, "error", budget).samples


def _channels(handle: Handle) -> tuple[str, ...] | None:
    """Return the dimension of an image's channels; None for what is no image, or has none."""
    dim = handle.dataset().attrs.get(CHANNELS)
    return None if dim is None else (str(dim),)


def _default_variables(handle: Handle, weights: str | None = None, mask: str | None = None) -> tuple[str, ...]:
    """Return all variables of a Dataset that the caller gave, or the only one of a store; a single value is none."""
    others = {weights, mask.removeprefix("~").strip() if mask else None}
    found = handle.dataset().data_vars.items()
    names = tuple(str(name) for name, variable in found if variable.ndim and name not in others)
    return names if handle.is_given or len(names) == 1 else ()


def _open(
    handle: Handle,
    names: Sequence[str],
    dims: Dims,
    window: Window,
    weight: Weight | None,
    mask: NamedMask | None,
    missing: Missing,
    budget: Budget | None,
) -> OpenedStore:
    """Plan the blocks, and gather what labels and centers will need."""
    dataset = handle.dataset()
    fields = _fields(dataset, names, dims, window)
    dtypes = {row_dtype(dataset.variables[name].dtype) for name in names}
    hides_samples = mask is not None and _is_along(dataset.variables[mask.name], dims.samples)
    columns = None if mask is None or hides_samples else _kept_columns(handle, fields, mask, window)
    source = GriddedSource(
        handle=handle.only(_needed(dataset, names, dims, weight, mask if hides_samples else None)),
        fields=fields,
        sample_dims=dims.samples,
        window=window,
        n_features=fields[-1].columns.stop if columns is None else len(columns),
        dtype=np.result_type(*dtypes),
        weight=weight,
        columns=columns,
    )
    grid, label_chunks = plan_grid(source, budget)
    coords = _coords(handle, window)
    feature_names = _feature_names(fields, coords, window)
    samples = Samples(
        Loader(source, grid, missing, mask=GridMask(source, mask) if mask is not None and hides_samples else None),
        n_samples=grid.n_cells,
        feature_names=feature_names if columns is None else tuple(feature_names[i] for i in columns),
    )
    return OpenedStore(
        label=handle.label,
        samples=samples,
        sample_dims=dims.samples,
        coords={name: c for name, c in coords.items() if set(c.dims) <= set(dims.samples)},
        label_chunks=label_chunks,
        fields=fields,
        feature_dims=dims.features,
        feature_coords={name: c for name, c in coords.items() if c.dims and set(c.dims) <= set(dims.features)},
    )


def _fields(dataset: xr.Dataset, names: Sequence[str], dims: Dims, window: Window) -> tuple[Field, ...]:
    """Lay the variables side by side in the columns, in the order in which they were named."""
    fields: list[Field] = []
    for name in names:
        inner = tuple(dim for dim in dims.features if dim in dataset.variables[name].dims)
        shape = tuple(length(window[dim]) for dim in inner)
        fields.append(Field(name, inner, shape, fields[-1].columns.stop if fields else 0))
    return tuple(fields)


def _is_along(variable: xr.Variable, dims: Sequence[str]) -> bool:
    """Return whether a variable varies along some of these dimensions."""
    return any(dim in dims for dim in variable.dims)


def _kept_columns(handle: Handle, fields: Sequence[Field], mask: NamedMask, window: Window) -> npt.NDArray[np.intp]:
    """Return the columns that a mask over feature dimensions leaves; a variable that lacks one of these keeps all."""
    part = _read_whole(handle, mask.name, window)
    keep: list[npt.NDArray[np.bool_]] = []
    for field in fields:
        if not set(part.dims) <= set(field.dims):
            keep.append(np.ones(math.prod(field.shape), dtype=np.bool_))
            continue
        sizes = dict(zip(field.dims, field.shape, strict=True))
        values = xr.DataArray(mask.counts(part.values), dims=part.dims).broadcast_like(_empty(sizes))
        keep.append(values.transpose(*field.dims).values.ravel())
    columns = np.flatnonzero(np.concatenate(keep))
    if not len(columns):
        raise ConfigError(f"mask: {mask} leaves no feature")
    return columns


def _read_whole(handle: Handle, name: str, window: Window) -> xr.Variable:
    """Read what was selected of a variable that is small."""
    try:
        return read_variable(handle.dataset().variables[name], window)
    except Exception as error:
        raise DataError(f"{handle.label}: {name!r} cannot be read: {type(error).__name__}: {error}") from error


def _empty(sizes: Mapping[str, int]) -> xr.DataArray:
    """Return something of these dimensions."""
    return xr.DataArray(np.empty(tuple(sizes.values()), dtype=np.bool_), dims=list(sizes))


def _needed(
    dataset: xr.Dataset, names: Sequence[str], dims: Dims, weight: Weight | None, mask: NamedMask | None
) -> tuple[str, ...]:
    """Return what a worker opens: variables, weights, mask, and coordinates that name a place."""
    places = [dim for dim in dims.samples if dim in dataset.coords and dataset.coords[dim].nbytes <= PLACE_BYTES]
    masks = () if mask is None else (mask.name,)
    return (*names, *([weight.name] if isinstance(weight, NamedWeight) else ()), *masks, *places)


def _coords(handle: Handle, window: Window) -> dict[str, xr.DataArray]:
    """Return the coordinates of what was selected, in memory, without how they were stored."""
    selected = handle.dataset().coords.to_dataset().isel(window, missing_dims="ignore")
    small = {str(name): coord for name, coord in selected.coords.items() if coord.nbytes <= COORDINATE_BYTES}
    return {name: _loaded(handle, name, coord).drop_encoding().reset_coords(drop=True) for name, coord in small.items()}


def _loaded(handle: Handle, name: str, coord: xr.DataArray) -> xr.DataArray:
    """Read a coordinate into memory."""
    try:
        return patiently(coord.load, f"reading coordinate {name}")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{handle.label}: coordinate {name!r} cannot be read: {reason}") from error


def _feature_names(fields: Sequence[Field], coords: Mapping[str, xr.DataArray], window: Window) -> tuple[str, ...]:
    """Name the columns: the variable, and the coordinates of its feature dimensions."""
    if len(fields) == 1 and fields[0].dims == ("feature",) and "feature" not in coords:
        return tuple(map(str, range(fields[0].shape[0])))
    names: list[str] = []
    for field in fields:
        lines = [[f"{dim}={value}" for value in _places(dim, coords, window)] for dim in field.dims]
        places = map(", ".join, itertools.product(*lines))
        names += [f"{field.name}[{place}]" if place else field.name for place in places]
    return tuple(names)


def _places(dim: str, coords: Mapping[str, xr.DataArray], window: Window) -> list[str]:
    """Return the coordinate values of one feature dimension, or its positions."""
    if dim in coords:
        return [format_value(value) for value in coords[dim].values]
    part = window[dim]
    assert isinstance(part, slice)
    return [str(i) for i in range(part.start, part.stop)]

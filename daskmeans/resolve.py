"""Finds in a dataset what was asked for by name: variables, dimensions, selections, weights.

What is not there raises an error that says what is. Reads coordinates, never data.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from daskmeans.errors import ConfigError, DataError, did_you_mean
from daskmeans.gridded import NamedMask, NamedWeight, format_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from daskmeans.handles import Handle

COS_LATITUDE = "cos_latitude"
LATITUDE_NAMES = ("latitude", "lat")

Window = dict[str, slice | int]
"""The stored range of each dimension; an integer where one position was selected."""


@dataclass(frozen=True)
class Dims:
    """Which dimensions make the samples, and which the features."""

    samples: tuple[str, ...]
    features: tuple[str, ...]


def resolve_variables(
    handle: Handle, array: str | None, variables: Sequence[str] | None, *, default: Sequence[str]
) -> tuple[str, ...]:
    """Return the names of the variables to read: those named, else the `default` ones.

    Raises
    ------
    ConfigError : none is named though there is a choice, or one is not there.
    DataError : one does not hold numbers.
    """
    if array is not None and variables is not None:
        raise ConfigError("array and variables were both given; name one of them")
    names = tuple(variables or ()) or ((array,) if array is not None else tuple(default))
    dataset = handle.dataset()
    if not names:
        raise ConfigError(_what_there_is(handle))
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"variables: {name!r} is named twice")
        if name in handle.bare_arrays() and name not in dataset.variables:
            raise ConfigError(
                f"{handle.label}: the dimensions of {name!r} have no names, so it cannot be one of "
                f"variables; write array: {name}"
            )
        if not dataset.variables and not handle.bare_arrays():
            raise ConfigError(_what_there_is(handle))
        _check_there(name, dataset.variables, f"{handle.label} has no variable", dataset.data_vars)
        check_numbers(handle.label, name, dataset.variables[name])
    return names


def _what_there_is(handle: Handle) -> str:
    """Say what could be named in a group."""
    arrays = sorted([*map(str, handle.dataset().data_vars), *handle.bare_arrays()])
    if arrays:
        return (
            f"{handle.label} is a group: name the array (array) or the variables (variables) to "
            f"cluster; there is: {_listing(arrays)}"
        )
    groups = [f"{handle.label}/{name}" for name in handle.groups()]
    return f"{handle.label} holds no arrays" + (f"; open a group in it: {_listing(groups)}" if groups else "")


def check_numbers(label: str, name: str, variable: xr.Variable) -> None:
    """Raise DataError where a variable holds no real numbers."""
    if variable.dtype.kind not in "biuf":
        raise DataError(
            f"{label}: variable {name!r} holds {variable.dtype}, not numbers; "
            "k-means needs integers or floating-point numbers"
        )


def resolve_selection(handle: Handle, select: Mapping[str, Any]) -> Window:
    """Return the stored range of every dimension, selected by coordinate values.

    Raises
    ------
    ConfigError : a dimension is not there, or a value selects nothing or no unbroken range.
    """
    dataset = handle.dataset()
    window: Window = {str(dim): slice(0, size) for dim, size in dataset.sizes.items()}
    for dim, wanted in select.items():
        _check_there(dim, window, f"select: {handle.label} has no dimension", window)
        window[dim] = _select_range(dataset, dim, wanted)
    return window


def _select_range(dataset: xr.Dataset, dim: str, wanted: Any) -> slice | int:
    """Return the positions along one dimension that `wanted` selects."""
    size = dataset.sizes[dim]
    line = xr.DataArray(np.arange(size), dims=[dim])
    line = line.assign_coords({dim: dataset[dim].values if dim in dataset.coords else line.values})
    try:
        found = _select_positions(line, dim, wanted)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"select: {dim} has no {wanted!r}; {_nearest(line[dim].values, wanted)}") from error
    is_range = isinstance(wanted, slice | list | tuple)
    if found.size == 1 and not is_range:
        return int(found.item())
    if found.size == 0:
        raise ConfigError(f"select: {dim} has nothing in {wanted!r}; {_span(line[dim].values)}")
    start, stop = int(found[0]), int(found[-1]) + 1
    if not np.array_equal(found, np.arange(start, stop)):
        raise ConfigError(
            f"select: {dim}={wanted!r} is no unbroken range of the stored values; "
            "select a single value or a range [start, stop]"
        )
    return slice(start, stop)


def _select_positions(line: xr.DataArray, dim: str, wanted: Any) -> Any:
    """Return the positions that xarray selects; a range may be given in either order."""
    if isinstance(wanted, slice):
        wanted = [wanted.start, wanted.stop]
    if not isinstance(wanted, list | tuple):
        # A date selects a range of times, be it of one.
        return line.sel({dim: _label(wanted)}).values
    if len(wanted) != 2:
        raise ValueError("a range has two ends")
    start, stop = map(_label, wanted)
    found = line.sel({dim: slice(start, stop)}).values
    return found if found.size else line.sel({dim: slice(stop, start)}).values


def _label(value: Any) -> Any:
    """Return a label as pandas takes it: YAML reads an unquoted date as a `datetime.date`."""
    return value.isoformat() if isinstance(value, datetime.date) else value


def _nearest(values: Any, wanted: Any) -> str:
    """Say which coordinate value is nearest, or between which ends they lie."""
    if len(values) > 6 and np.isscalar(wanted) and not isinstance(wanted, str) and values.dtype.kind in "iuf":
        nearest = values[np.argmin(np.abs(values - wanted))]
        return f"the nearest value is {format_value(nearest)}"
    return _span(values)


def _span(values: Any) -> str:
    """Say what coordinate values there are."""
    if len(values) <= 6:
        return f"there is: {_listing(map(format_value, values))}"
    return f"its values run from {format_value(values[0])} to {format_value(values[-1])}"


def resolve_dims(
    handle: Handle,
    names: Sequence[str],
    sample_dims: Sequence[str] | None,
    feature_dims: Sequence[str] | None,
    window: Window,
) -> Dims:
    """Return which dimensions of the variables make the samples and which the features.

    Raises
    ------
    ConfigError : a dimension is misspelt, named twice, missing from a variable, or left over.
    """
    variables = {name: handle.dataset().variables[name] for name in names}
    known = list(dict.fromkeys(str(dim) for v in variables.values() for dim in v.dims))
    for role, asked in (("sample_dims", sample_dims), ("feature_dims", feature_dims)):
        for dim in asked or ():
            what = f"{role}: no variable of {_listing(names)} has a dimension"
            _check_there(dim, known, what, known)
    dims = _fill_dims(handle.label, variables, known, sample_dims, feature_dims, window)
    twice = [dim for dim in dims.samples if dim in dims.features]
    if twice:
        raise ConfigError(f"{_listing(twice)} cannot be both in sample_dims and in feature_dims")
    for name, variable in variables.items():
        _check_covers(handle.label, name, variable, dims, window)
    return dims


def _fill_dims(
    label: str,
    variables: Mapping[str, xr.Variable],
    known: Sequence[str],
    sample_dims: Sequence[str] | None,
    feature_dims: Sequence[str] | None,
    window: Window,
) -> Dims:
    """Return the dimensions, those that were not named filled in where there is no choice."""
    open_dims = [dim for dim in known if isinstance(window[dim], slice)]
    if sample_dims is not None:
        rest = [dim for dim in open_dims if dim not in sample_dims]
        return Dims(tuple(sample_dims), tuple(rest if feature_dims is None else feature_dims))
    if feature_dims is not None:
        samples = [dim for dim in open_dims if dim not in feature_dims]
        return Dims(tuple(samples), tuple(feature_dims))
    if len(variables) == 1 and len(open_dims) == 2:
        return Dims((open_dims[0],), (open_dims[1],))
    sizes = {name: _describe_shape(variable) for name, variable in variables.items()}
    described = "; ".join(f"{name!r} has {shape}" for name, shape in sizes.items())
    raise ConfigError(
        f"{label}: {described}. A 2-D array (samples, features) was expected, or sample_dims "
        "and feature_dims that say which dimensions make the samples and which the features"
    )


def _describe_shape(variable: xr.Variable) -> str:
    """Say how many dimensions, and how long they are."""
    sizes = ", ".join(f"{dim}: {size}" for dim, size in variable.sizes.items())
    return f"{variable.ndim} dimension{'s' * (variable.ndim != 1)} ({sizes})"


def _check_covers(label: str, name: str, variable: xr.Variable, dims: Dims, window: Window) -> None:
    """Raise where a variable lacks a sample dimension, or has one that nothing was said about."""
    if not dims.samples:
        raise ConfigError(f"{label}: no dimension is left for the samples; name sample_dims")
    lacks = [dim for dim in dims.samples if dim not in variable.dims]
    if lacks:
        raise ConfigError(
            f"{label}: variable {name!r} has no {_listing(lacks)}; it has {_listing(variable.dims)}"
            ". All variables must have all sample_dims: leave this one out, or change sample_dims"
        )
    named = {*dims.samples, *dims.features}
    over = [d for d in variable.dims if d not in named and isinstance(window[str(d)], slice)]
    if over:
        raise ConfigError(
            f"{label}: dimension {_listing(over)} of variable {name!r} is left over: it is neither "
            f"in sample_dims ({_listing(dims.samples)}) nor in feature_dims "
            f"({_listing(dims.features) or 'none'}). Add it to one of them, or select one value"
        )


def keep_named_dims(window: Window, dims: Dims) -> Window:
    """Return the window in which sample and feature dimensions with one value have length 1."""
    named = {*dims.samples, *dims.features}
    return {
        dim: slice(part, part + 1) if dim in named and isinstance(part, int) else part for dim, part in window.items()
    }


def resolve_weight(handle: Handle, weights: str | None, dims: Dims, window: Window) -> NamedWeight | None:
    """Return what is read as weights.

    Raises
    ------
    ConfigError : the variable is not there, or has a dimension that is none of the samples'.
    """
    if weights is None:
        return None
    dataset = handle.dataset()
    name = weights
    if weights == COS_LATITUDE:
        name = _latitude(dataset)
        if not name:
            raise ConfigError(
                f"weights: {COS_LATITUDE} needs a coordinate named {' or '.join(LATITUDE_NAMES)}, or of this "
                f"standard_name; {handle.label} has: {_listing(dataset.coords) or 'none'}. Rename it, or name a "
                "variable that holds the weights"
            )
    known = [COS_LATITUDE, *dataset.variables]
    _check_there(name, dataset.variables, f"weights: {handle.label} has no variable", known)
    variable = dataset.variables[name]
    check_numbers(handle.label, name, variable)
    strange = [dim for dim in map(str, variable.dims) if dim not in dims.samples and isinstance(window[dim], slice)]
    if strange:
        raise ConfigError(
            f"weights: {name!r} varies along {_listing(strange)}, but weights belong to samples, "
            f"whose dimensions are {_listing(dims.samples)}"
        )
    return NamedWeight(name, cosine=weights == COS_LATITUDE)


def _latitude(dataset: xr.Dataset) -> str:
    """Return the variable that holds latitudes: by its name, or by what the CF conventions ask for; else nothing."""
    names = [str(name) for name in dataset.variables]
    by_name = [name for latitude in LATITUDE_NAMES for name in names if name.lower() == latitude]
    by_standard = [name for name in names if dataset.variables[name].attrs.get("standard_name") == "latitude"]
    return next(iter([*by_name, *by_standard]), "")


def resolve_mask(handle: Handle, mask: str | None, dims: Dims, window: Window) -> NamedMask | None:
    """Return what says which samples, or which features, count; ``~`` before the name turns it round.

    Raises
    ------
    ConfigError : the variable is not there, or varies along both samples and features, or along neither.
    """
    if mask is None:
        return None
    name, inverse = mask.removeprefix("~").strip(), mask.startswith("~")
    dataset = handle.dataset()
    _check_there(name, dataset.variables, f"mask: {handle.label} has no variable", dataset.variables)
    variable = dataset.variables[name]
    check_numbers(handle.label, name, variable)
    along = [dim for dim in map(str, variable.dims) if isinstance(window[dim], slice)]
    if not along or not (set(along) <= set(dims.samples) or set(along) <= set(dims.features)):
        raise ConfigError(
            f"mask: {name!r} has dimensions {_listing(along) or 'none'}; a mask of samples has some of "
            f"{_listing(dims.samples)}, a mask of features some of {_listing(dims.features) or 'none'}"
        )
    return NamedMask(name, inverse)


def _check_there(name: str, known: Iterable[Any], what: str, shown: Iterable[Any] | None = None) -> None:
    """Raise unless `name` is among `known`, with what was meant perhaps."""
    known = [str(there) for there in known]
    if name not in known:
        offered = known if shown is None else shown
        raise ConfigError(f"{what} {name!r}{did_you_mean(str(name), map(str, offered))}")


def _listing(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))

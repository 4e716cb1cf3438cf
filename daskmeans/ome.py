"""OME-Zarr images: which resolution to read, what its axes are called, where its pixels lie.

Follows NGFF 0.4 (Zarr v2) and 0.5 (Zarr v3), https://ngff.openmicroscopy.org; older axes, which are names only, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
import zarr

from daskmeans.errors import ConfigError, DataError

IMAGE = "image"

# Value of the attribute ``positive`` of rows of pixels: the first is the uppermost.
DOWN = "down"

# Attribute of the opened Dataset: its dimension of channels, if it has one.
CHANNELS = "channel_dimension"


@dataclass(frozen=True)
class Image:
    """One resolution of an image.

    Attributes
    ----------
    path : of its array in the group.
    dims : names of the axes.
    coords : where the pixels lie along axes of space and time, in the units of the image; names of the channels.
    channel_dim : the axis of the channels, if there is one.
    """

    path: str
    dims: tuple[str, ...]
    coords: dict[str, xr.Variable]
    channel_dim: str | None


def is_image(node: Any) -> bool:
    """Return whether a Zarr group says that it is an image pyramid."""
    return isinstance(node, zarr.Group) and "multiscales" in _metadata(node)


def _metadata(group: zarr.Group) -> dict[str, Any]:
    """Return what NGFF says of a group: below ``ome`` since version 0.5."""
    attrs = group.attrs.asdict()
    inner = attrs.get("ome")
    return inner if isinstance(inner, dict) else attrs


def describe_image(group: zarr.Group, level: int, label: str) -> Image:
    """Return what there is to know of one resolution of the first image of a group; 0 is the finest.

    Raises
    ------
    ConfigError : there are fewer resolutions.
    DataError : the metadata is not as NGFF says.
    """
    metadata = _metadata(group)
    try:
        pyramid = metadata["multiscales"][0]
        paths = [entry["path"] for entry in pyramid["datasets"]]
        if not 0 <= level < len(paths):
            sizes = "; ".join(f"{i}: {' x '.join(map(str, _array(group, path).shape))}" for i, path in enumerate(paths))
            raise ConfigError(f"level: {label} has no resolution {level}; there is {sizes}")
        array = _array(group, paths[level])
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in pyramid.get("axes", "tczyx")]
        dims = tuple(str(axis["name"]) for axis in axes)
        if len(dims) != array.ndim:
            raise DataError(f"{label}: the image has {array.ndim} dimensions, but {len(dims)} axes: {', '.join(dims)}")
        channel_dim = next((a["name"] for a in axes if a.get("type") == "channel" or a["name"] == "c"), None)
        transforms = [*pyramid["datasets"][level].get("coordinateTransformations", [])]
        transforms += pyramid.get("coordinateTransformations", [])
        coords = _places(axes, array.shape, transforms, channel_dim)
        names = [str(c.get("label", i)) for i, c in enumerate(metadata.get("omero", {}).get("channels", []))]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError | DataError):
            raise
        raise DataError(f"{label}: its multiscales metadata is not as OME-Zarr says: {error!r}") from error
    if channel_dim is not None and len(names) == len(set(names)) == array.shape[dims.index(channel_dim)]:
        coords[channel_dim] = xr.Variable((channel_dim,), np.array(names, dtype=object))
    return Image(paths[level], dims, coords, channel_dim)


def _array(group: zarr.Group, path: str) -> Any:
    return group[path]


def _places(
    axes: list[dict[str, Any]], shape: tuple[int, ...], transforms: list[dict[str, Any]], channel_dim: str | None
) -> dict[str, xr.Variable]:
    """Return where the pixels lie: each transform scales or moves what those before it give."""
    places = [np.arange(size, dtype=np.float64) for size in shape]
    for transform in transforms:
        if transform["type"] == "scale":
            places = [line * factor for line, factor in zip(places, transform["scale"], strict=True)]
        elif transform["type"] == "translation":
            places = [line + offset for line, offset in zip(places, transform["translation"], strict=True)]
    attrs = [{"units": axis["unit"]} if "unit" in axis else {} for axis in axes]
    for axis, attr in zip(axes, attrs, strict=True):
        if axis["name"] == "y":
            attr["positive"] = DOWN
    return {
        str(axis["name"]): xr.Variable((str(axis["name"]),), line, attr)
        for axis, line, attr in zip(axes, places, attrs, strict=True)
        if transforms and axis["name"] != channel_dim
    }

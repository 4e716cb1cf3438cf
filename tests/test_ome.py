"""OME-Zarr images: channels are features, pixels are samples, of the resolution that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
import zarr

from daskmeans import KMeans, open_samples
from daskmeans.errors import ConfigError, DataError
from daskmeans.job.views import label_views

AXES = [
    {"name": "c", "type": "channel"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
]


def write_image(path, pixels, version, axes=AXES):
    """Write an image and its half as a pyramid, as NGFF 0.4 or 0.5 says."""
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for level, array in enumerate([pixels, pixels[:, ::2, ::2]]):
        group.create_array(str(level), data=array, chunks=(1, 8, 8))
        scale = [1.0, 0.5 * 2**level, 0.5 * 2**level]
        transforms = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": [0.0, 10.0, 0.0]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    metadata = {"multiscales": [{"axes": axes, "datasets": datasets}]}
    metadata["omero"] = {"channels": [{"label": "DAPI"}, {"label": "GFP"}, {"label": "RFP"}]}
    group.attrs.update(metadata if version == "0.4" else {"ome": metadata | {"version": version}})


@pytest.fixture(name="pixels")
def some_pixels(rng):
    return rng.integers(0, 4000, size=(3, 20, 24)).astype("u2")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("level", [None, 0, 1])
@pytest.mark.parametrize("opened_before", [False, True])
def test_pixels_are_samples_and_channels_features(tmp_path, pixels, version, level, opened_before):
    write_image(tmp_path / "i.zarr", pixels, version)
    opened = open_samples(zarr.open(tmp_path / "i.zarr") if opened_before else tmp_path / "i.zarr", level=level)
    step = 2 if level else 1
    expected = pixels[:, ::step, ::step]
    assert opened.feature_names == ("image[c=DAPI]", "image[c=GFP]", "image[c=RFP]")
    assert opened.sample_dims == ("y", "x")
    np.testing.assert_array_equal(opened.coords["y"], 10 + 0.5 * step * np.arange(expected.shape[1]))
    assert opened.coords["y"].attrs == {"units": "micrometer", "positive": "down"}
    model = KMeans(3, random_state=0).fit(opened)
    plain = KMeans(3, random_state=0).fit(expected.reshape(3, -1).T)
    np.testing.assert_array_equal(model.labels_.values.ravel(), plain.labels_)
    (view,) = label_views(model.labels_.load())
    np.testing.assert_array_equal(view.labels, model.labels_)  # not upside down
    np.testing.assert_array_equal(model.centers_["image"].sel(c="GFP"), model.cluster_centers_[:, 1])


def test_other_dimensions_may_be_features(tmp_path, pixels):
    write_image(tmp_path / "i.zarr", pixels, "0.5")
    opened = open_samples(tmp_path / "i.zarr", sample_dims=["c"], feature_dims=["y", "x"])
    assert opened.shape == (3,)


def test_wrong_levels_and_metadata_are_refused(tmp_path, pixels):
    write_image(tmp_path / "i.zarr", pixels, "0.5")
    with pytest.raises(ConfigError, match="no resolution 2; there is 0: 3 x 20 x 24; 1: 3 x 10 x 12"):
        open_samples(tmp_path / "i.zarr", level=2)
    xr.Dataset({"a": (("t", "f"), np.ones((3, 2)))}).to_zarr(tmp_path / "plain.zarr", consolidated=False)
    with pytest.raises(ConfigError, match="is no image pyramid"):
        open_samples(tmp_path / "plain.zarr", level=1)
    write_image(tmp_path / "axes.zarr", pixels, "0.5", axes=AXES[:2])
    with pytest.raises(DataError, match="the image has 3 dimensions, but 2 axes: c, y"):
        open_samples(tmp_path / "axes.zarr")
    zarr.create_group(tmp_path / "odd.zarr").attrs["multiscales"] = [{"datasets": [{}]}]
    with pytest.raises(DataError, match="its multiscales metadata is not as OME-Zarr says: KeyError"):
        open_samples(tmp_path / "odd.zarr")


def test_a_damaged_chunk_of_an_image_is_named(tmp_path, pixels):
    write_image(tmp_path / "i.zarr", pixels, "0.5")
    chunk = tmp_path / "i.zarr" / "1" / "c" / "2" / "0" / "1"
    chunk.write_bytes(b"junk")
    with pytest.raises(DataError, match=f"variable 'image' cannot be read: {chunk}"):
        KMeans(2).fit(open_samples(tmp_path / "i.zarr", level=1))

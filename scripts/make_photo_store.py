"""Writes the photographs that scikit-learn ships as a Zarr store: each pixel and its neighbourhood.

    python scripts/make_photo_store.py OUT

Two photographs, 427 x 640 pixels, 546,560 samples of 9 features: for red, green and blue the value,
and the mean and the standard deviation of the 5 x 5 pixels around it, all between 0 and 1.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from scipy.ndimage import uniform_filter
from sklearn.datasets import load_sample_images

COLOURS = ("red", "green", "blue")
WIDTH = 5
# 2 x 4 x 4 chunks of some 0.6 MB: small enough to show how a store is read in blocks.
CHUNKS = {"image": 1, "y": 107, "x": 160, "feature": 9}


def describe_pixels(photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return (y, x, 9): the colour, its local mean and its local standard deviation."""
    colour = photo.astype(np.float64) / 255
    mean = uniform_filter(colour, size=(WIDTH, WIDTH, 1))
    variance = uniform_filter(colour**2, size=(WIDTH, WIDTH, 1)) - mean**2
    # The running sums of the filter leave rounding errors below 0.
    features = [colour, mean.clip(min=0), np.sqrt(variance.clip(min=0))]
    return np.concatenate(features, axis=2).astype(np.float32)


def photo_dataset() -> xr.Dataset:
    """Return all photographs, with names for every coordinate."""
    photos = load_sample_images()
    pixels = np.stack([describe_pixels(photo) for photo in photos.images])
    n_y, n_x = pixels.shape[1:3]
    features = [*COLOURS, *(f"{c}_mean" for c in COLOURS), *(f"{c}_std" for c in COLOURS)]
    return xr.Dataset(
        {"pixels": (tuple(CHUNKS), pixels, {"long_name": f"colour, mean and std of {WIDTH} x {WIDTH} pixels"})},
        coords={
            "image": [Path(name).stem for name in photos.filenames],
            "y": np.arange(n_y, dtype=np.int32),
            "x": np.arange(n_x, dtype=np.int32),
            "feature": features,
        },
        attrs={"title": "Photographs that scikit-learn ships (load_sample_images)"},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the store to write; replaced where it exists")
    out: Path = parser.parse_args().out
    if out.exists() and not (out / "zarr.json").exists():
        parser.error(f"{out} exists and is not a Zarr store; name another place")
    dataset = photo_dataset()
    with warnings.catch_warnings():
        # Zarr v3 does not specify strings yet; zarr and xarray read and write them.
        warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
        dataset.to_zarr(
            out, mode="w", zarr_format=3, consolidated=False, encoding={"pixels": {"chunks": tuple(CHUNKS.values())}}
        )
    shape = " x ".join(f"{name} {size}" for name, size in dataset.sizes.items())
    print(f"{out}: pixels ({shape}), {dataset['pixels'].nbytes / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()

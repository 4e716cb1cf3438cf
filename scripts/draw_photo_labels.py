"""Draws the clustered photographs beside the originals.

    python scripts/draw_photo_labels.py data/photos.zarr results/quickstart

On the right each pixel has the mean colour of its cluster. The picture is clusters.png in the folder of the results.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

COLOURS = ["red", "green", "blue"]


def draw(photos: xr.Dataset, clusters: xr.Dataset) -> Any:
    """Return a figure with a row for each photograph, and a row that explains the clusters."""
    features = [f"pixels[feature={colour}]" for colour in COLOURS]
    paint = clusters["centers"].sel(feature=features).values.clip(0, 1)
    n_photos = photos.sizes["image"]
    ratio = photos.sizes["y"] / photos.sizes["x"]
    width = 11.0
    figure = plt.figure(figsize=(width, n_photos * width / 2 * ratio + 1.5), layout="constrained")
    rows = figure.subfigures(2, 1, height_ratios=[n_photos * width / 2 * ratio, 1.1])
    axes = rows[0].subplots(n_photos, 2, squeeze=False)
    for (left, right), name in zip(axes, photos["image"].values, strict=True):
        original = photos["pixels"].sel(image=name, feature=COLOURS).values
        labels = clusters["labels"].sel(image=name).values
        show(left, original, f"{name}: as it is")
        show(right, paint[labels], f"{name}: {len(paint)} clusters")
    explain(rows[1].subplots(), paint, clusters["counts"].values)
    return figure


def show(axes: Any, image: np.ndarray, title: str) -> None:
    axes.imshow(image)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def explain(axes: Any, paint: np.ndarray, counts: np.ndarray) -> None:
    """Draw a bar of the clusters' colours, each as long as its share of the pixels."""
    share = counts / counts.sum()
    start = 0.0
    for cluster in np.argsort(paint.sum(axis=1)):
        axes.barh(0, share[cluster], left=start, color=paint[cluster], edgecolor="white")
        ink = "white" if paint[cluster].mean() < 0.5 else "black"
        text = f"{cluster}\n{share[cluster]:.0%}"
        axes.text(start + share[cluster] / 2, 0, text, ha="center", va="center", color=ink, fontsize=9)
        start += share[cluster]
    axes.set_title("clusters, by their share of the pixels", fontsize=10)
    axes.set_xlim(0, 1)
    axes.set_axis_off()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="what make_photo_store.py wrote")
    parser.add_argument("results", type=Path, help="what `daskmeans run` wrote")
    arguments = parser.parse_args()
    photos = xr.open_zarr(arguments.store, consolidated=False)
    clusters = xr.open_zarr(arguments.results / "result.zarr")
    picture = arguments.results / "clusters.png"
    draw(photos, clusters).savefig(picture, dpi=110)
    print(f"Look at {picture}")


if __name__ == "__main__":
    main()

"""What was done to features before they were clustered: arrays of the results, by which new data is treated alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from daskmeans.errors import ConfigError
from daskmeans.job.config import JobConfig
from daskmeans.samples import Transform
from daskmeans.transforms import Chain, Normalize, Project, Standardize

if TYPE_CHECKING:
    from daskmeans.fit import Fitted

SCALED_CENTERS, MEAN, SCALE = "scaled_centers", "feature_mean", "feature_scale"
COMPONENTS, COMPONENT_SCALE = "components", "component_scale"


def with_preparation(clusters: xr.Dataset, fitted: Fitted, config: JobConfig) -> xr.Dataset:
    """Add what predicting needs to the arrays of a fitted model; nothing where features were taken as they are."""
    clusters["centers"].attrs["metric"] = config.model.metric
    prepared = fitted.preparation
    if prepared is None:
        return clusters
    features = prepared.features if isinstance(prepared, Project) else prepared
    arrays: dict[str, Any] = {MEAN: ("feature", features.mean)}
    if config.preprocess.scale != "none":
        arrays[SCALE] = ("feature", features.scale)
    if isinstance(prepared, Project):
        arrays[COMPONENTS] = (("component", "feature"), prepared.components)
        arrays[COMPONENT_SCALE] = ("component", prepared.scale)
    last = "component" if isinstance(prepared, Project) else "feature"
    return clusters.assign({SCALED_CENTERS: (("cluster", last), fitted.scaled_centers), **arrays})


def transform_of(clusters: xr.Dataset) -> Transform | None:
    """Return what the rows of new data are to be seen through, as those that were clustered; None for nothing."""
    links: list[Transform] = []
    n_features = clusters.sizes["feature"]
    if MEAN in clusters:
        scale = clusters[SCALE].values if SCALE in clusters else np.ones(n_features)
        features = Standardize(clusters[MEAN].values, scale)
        links.append(features)
        if COMPONENTS in clusters:
            components = clusters[COMPONENTS].transpose("component", "feature").values
            links = [Project(features, components, clusters[COMPONENT_SCALE].values)]
    if _metric(clusters) == "cosine":
        links.append(Normalize(links[-1].n_features_out if links else n_features))
    return Chain(tuple(links)) if links else None


def compared_centers(clusters: xr.Dataset) -> npt.NDArray[np.float64]:
    """Return the centers that rows seen through `transform_of` are compared with."""
    name = SCALED_CENTERS if SCALED_CENTERS in clusters else "centers"
    centers: npt.NDArray[np.float64] = clusters[name].transpose("cluster", ...).values
    return centers


def check_same(config: JobConfig, clusters: xr.Dataset) -> None:
    """Raise ConfigError if features are to be prepared otherwise than when they were clustered."""
    was_scaled, is_scaled = SCALE in clusters, config.preprocess.scale != "none"
    if was_scaled != is_scaled:
        raise ConfigError(
            f"preprocess.scale: {config.preprocess.scale}, but RESULT was made of "
            f"{'scaled' if was_scaled else 'unscaled'} features; leave it as it is in RESULT"
        )
    was_white = COMPONENTS in clusters and bool((clusters[COMPONENT_SCALE] != 1).any())
    for key, now, before in (
        ("preprocess.pca", config.preprocess.pca, clusters.sizes.get("component")),
        ("preprocess.whiten", config.preprocess.whiten, was_white),
        ("model.metric", config.model.metric, _metric(clusters)),
    ):
        if now != before:
            raise ConfigError(f"{key}: {now}, but RESULT was made with {before}; leave it as it is in RESULT")


def _metric(clusters: xr.Dataset) -> str:
    return str(clusters["centers"].attrs.get("metric", "euclidean"))

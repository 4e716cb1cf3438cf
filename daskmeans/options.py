"""What to fit, in the words of `KMeans`, and initial centers as they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from daskmeans.errors import DataError
from daskmeans.jit import Float64s
from daskmeans.memory import Budget
from daskmeans.transforms import on_sphere

Init = str | npt.NDArray[Any] | Callable[..., npt.ArrayLike]
INIT_NAMES = ("k-means||", "k-means++", "random", "random-partition")


@dataclass(frozen=True)
class FitOptions:
    """What to fit; the words and their meaning are those of `KMeans`.

    Attributes
    ----------
    n_clusters : one number for each model that is asked for.
    n_init : starts of each of them; 1 where `init` is an array.
    init : a name, centers (n_clusters, n_features) in the input's units, or a callable
        ``init(X, n_clusters, random_state)`` that is given the uniform sample.
    seed : of all random numbers.
    scale : whether each feature is brought to mean 0 and variance 1 before.
    pca : number of principal components, of the features as scaled, that rows are projected on before; None for all
        features as they are.
    whiten : whether components are scaled to variance 1.
    metric : "cosine" brings rows and centers to length 1.
    race : whether of the starts of each number of clusters only the one that is best on the sample goes on.
    """

    n_clusters: tuple[int, ...]
    init: Init
    n_init: int
    max_iter: int
    tol: float
    seed: int
    oversampling_factor: float
    init_rounds: int | Literal["auto"]
    algorithm: Literal["lloyd", "lookahead", "auto"]
    budget: Budget
    scale: Literal["none", "standard"] = "none"
    pca: int | None = None
    whiten: bool = False
    metric: Literal["euclidean", "cosine"] = "euclidean"
    race: bool = False

    @property
    def prepares(self) -> bool:
        """Whether features are changed by what the survey finds of them."""
        return self.scale != "none" or self.pca is not None

    @property
    def spherical(self) -> bool:
        """Whether rows and centers have length 1."""
        return self.metric == "cosine"

    @property
    def each_model(self) -> tuple[int, ...]:
        """Number of clusters of each start of each model."""
        return tuple(k for k in self.n_clusters for _ in range(self.n_init))


def check_centers(centers: Any, n_clusters: int, n_features: int) -> Float64s:
    """Return initial centers as float64, or raise ValueError if their shape is wrong."""
    given = np.asarray(centers, dtype=np.float64)
    if given.shape != (n_clusters, n_features):
        raise DataError(
            f"The shape of the initial centers {given.shape} does not match the number of clusters {n_clusters} and "
            f"the number of features of the data {n_features}."
        )
    if not np.isfinite(given).all():
        raise DataError("The initial centers contain NaN or infinity.")
    return given


def rounded(centers: npt.ArrayLike, dtype: np.dtype[Any], *, spherical: bool) -> Float64s:
    """Return centers rounded to the dtype of the rows, brought to length 1 before if they are `spherical`."""
    points = np.asarray(centers, dtype=np.float64)
    return (on_sphere(points, points) if spherical else points).astype(dtype).astype(np.float64)

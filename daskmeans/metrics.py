"""Validity of fitted models on data of any size, weighted, from one pass over it.

``scores`` computes all indices at once, for any number of models; the other functions return one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from daskmeans import kernels
from daskmeans.errors import DataError
from daskmeans.estimator import KMeans
from daskmeans.inputs import resolve_budget, view
from daskmeans.jit import Float64s
from daskmeans.kernels import Stack
from daskmeans.scan import Scanner
from daskmeans.steps import Both, Survey, Surveyed
from daskmeans.survey import check_surveyed
from daskmeans.transforms import Normalize
from daskmeans.validity import Gap, Measure, Scores, Spread, are_means, gap_of_sample, sample_silhouettes, score

__all__ = [
    "Gap",
    "Scores",
    "calinski_harabasz_score",
    "davies_bouldin_score",
    "explained_variation",
    "gap_statistic",
    "scores",
    "silhouette_score",
    "simplified_silhouette_score",
]

Model: TypeAlias = BaseEstimator | npt.ArrayLike


def scores(
    X: Any,
    models: Sequence[Model],
    sample_weight: Any = None,
    *,
    sample_size: int = 4096,
    random_state: int = 0,
    memory_budget: int | str | None = None,
    sample_dims: Sequence[str] | None = None,
) -> list[Scores]:
    """Return all validity indices of each model on `X`; a row belongs to the nearest center.

    For models with ``metric="cosine"`` they are those of the rows brought to length 1.

    Passes over the data: one for all models; a second one where centers are not the means of their rows, as Davies and
    Bouldin's index needs the distances to these (a model fitted to float64 rows with ``tol=0`` spares it).

    Parameters
    ----------
    X : whatever `KMeans.fit` takes.
    models : fitted models, scikit-learn's too, or their centers, (n_clusters, n_features).
    sample_weight : (n_samples,) weights, which count as repetitions of rows.
    sample_size : rows of the uniform sample that the mean silhouette is taken on; time grows by its square.
        0 for none.
    random_state : seed of the sample.
    memory_budget, sample_dims : as for `KMeans`.

    Examples
    --------
    >>> import numpy as np
    >>> from daskmeans.metrics import scores
    >>> (found,) = scores(np.array([[0.0], [2.0], [10.0], [12.0]]), [np.array([[1.0], [11.0]])])
    >>> found.inertia, found.explained_variation, found.davies_bouldin
    (4.0, 0.9615384615384616, 0.2)
    """
    budget = resolve_budget(memory_budget)
    viewer = KMeans()
    if sample_dims is None and hasattr(X, "dims"):  # an xarray object, as the models saw theirs
        sample_dims = next((model._layout[0] for model in models if isinstance(model, KMeans)), None)
    samples, _ = view(viewer, X, sample_weight, budget, sample_dims=sample_dims, reset=True)
    if _metric_of(models) == "cosine":
        samples = samples.with_transform(Normalize(samples.n_features))
    scanner = Scanner.within(samples, budget)
    centers = [_centers_of(model, viewer) for model in models]
    measured = measure(scanner, centers, sample_size=sample_size, seed=random_state)
    return score_measured(scanner, measured, with_silhouette=sample_size > 0)


@dataclass(frozen=True)
class Measured:
    """What one pass finds of models.

    Attributes
    ----------
    centers : of each model, (n_clusters, n_features) float64.
    points : of each model, likewise, what `Spread.dist` was measured from: the means of the clusters, if known.
    spreads : sums over the clusters of each model.
    surveyed : what the pass saw of the rows, and a uniform sample of them.
    """

    centers: list[Float64s]
    points: list[Float64s]
    spreads: list[Spread]
    surveyed: Surveyed

    def take(self, models: Sequence[int]) -> Measured:
        """Return some of the models."""
        centers, points = ([values[m] for m in models] for values in (self.centers, self.points))
        return Measured(centers, points, [self.spreads[m] for m in models], self.surveyed)

    def labels(self) -> list[npt.NDArray[np.int32]]:
        """Return the labels of the sample, (n_sample,) for each model."""
        stack = Stack.of(self.centers)
        X = np.ascontiguousarray(self.surveyed.sample.X)
        return list(kernels.assign(X, None, stack, stack.centers.mean(axis=0), with_labels=True).labels)


def measure(
    scanner: Scanner,
    centers: list[Float64s],
    *,
    means: Sequence[Float64s | None] | None = None,
    sample_size: int,
    seed: int,
) -> Measured:
    """Sum up over all rows, and draw a sample of them. One pass over the data.

    Parameters
    ----------
    means : of the rows of each model's clusters, (n_clusters, n_features), where they are known: saves a pass later.
    """
    points = [c if m is None else m for c, m in zip(centers, means or [None] * len(centers), strict=True)]
    stack = Stack.of(centers)
    survey = Survey(max(1, sample_size), seed, scanner.samples.n_samples)
    step = Both(survey, Measure(stack, stack.centers.mean(axis=0), np.concatenate(points)))
    surveyed, spreads = scanner.scan(step, "scores")
    check_surveyed(surveyed, scanner.samples, n_clusters=0)
    scanner.judge(min(float(spread.inertia.sum()) for spread in spreads), None)
    return Measured(centers, points, spreads, surveyed)


def score_measured(scanner: Scanner, measured: Measured, *, with_silhouette: bool) -> list[Scores]:
    """Score models. No pass over the data where distances to the means of the clusters were measured, else one."""
    centers, spreads, surveyed = measured.centers, measured.spreads, measured.surveyed
    dist = [spread.dist for spread in spreads]
    if not all(are_means(p, s) for p, s in zip(measured.points, spreads, strict=True)):
        stack, means = Stack.of(centers), np.concatenate([spread.means for spread in spreads])
        step = Measure(stack, stack.centers.mean(axis=0), means, with_silhouette=False)
        dist = [spread.dist for spread in scanner.scan(step, "distances to means")]
    silhouettes = [(np.nan, np.nan)] * len(centers)
    if with_silhouette:
        silhouettes = sample_silhouettes(surveyed.sample, measured.labels(), surveyed.n_eligible)
    parts = zip(centers, spreads, dist, silhouettes, strict=True)
    return [score(*each, n_rows=surveyed.n_eligible) for each in parts]


def explained_variation(X: Any, model: Model, sample_weight: Any = None) -> float:
    """Return the share of the total sum of squares that lies between clusters: at most 1. One pass over the data."""
    return scores(X, [model], sample_weight, sample_size=0)[0].explained_variation


def calinski_harabasz_score(X: Any, model: Model, sample_weight: Any = None) -> float:
    """Return the index of Calinski & Harabasz 1974: greater is better. One pass over the data."""
    return scores(X, [model], sample_weight, sample_size=0)[0].calinski_harabasz


def davies_bouldin_score(X: Any, model: Model, sample_weight: Any = None) -> float:
    """Return the index of Davies & Bouldin 1979: smaller is better. At most two passes over the data, see `scores`."""
    return scores(X, [model], sample_weight, sample_size=0)[0].davies_bouldin


def simplified_silhouette_score(X: Any, model: Model, sample_weight: Any = None) -> float:
    """Return the mean over all rows of 1 - a / b, distances to nearest and second nearest center. One pass."""
    return scores(X, [model], sample_weight, sample_size=0)[0].simplified_silhouette


def silhouette_score(
    X: Any, model: Model, sample_weight: Any = None, *, sample_size: int = 4096, random_state: int = 0
) -> tuple[float, float]:
    """Return the mean silhouette (Rousseeuw 1987) of a uniform sample, and its standard error. One pass."""
    found = scores(X, [model], sample_weight, sample_size=sample_size, random_state=random_state)[0]
    return found.silhouette, found.silhouette_se


def gap_statistic(
    X: Any,
    n_clusters: Sequence[int],
    sample_weight: Any = None,
    *,
    sample_size: int = 1000,
    n_references: int = 10,
    random_state: int = 0,
) -> Gap:
    """Return the gap statistic (Tibshirani et al. 2001) of several numbers of clusters, on a uniform sample.

    One pass over the data, to draw the sample; it is clustered in memory, and so are as many sets of random rows.

    Parameters
    ----------
    X, sample_weight : whatever `KMeans.fit` takes.
    n_clusters : numbers of clusters; the rule of `Gap.best` compares neighbours, so give consecutive ones.
    sample_size, n_references : rows of the sample, and sets of random rows.
    """
    samples, _ = view(KMeans(), X, sample_weight, resolve_budget(None), reset=True)
    surveyed = Scanner(samples).scan(Survey(sample_size, random_state, samples.n_samples), "sample")
    check_surveyed(surveyed, samples, max(n_clusters))
    return gap_of_sample(surveyed.sample, n_clusters, n_references, random_state)


def _metric_of(models: Sequence[Model]) -> str:
    """Return the metric of all models; centers alone are taken to be compared by Euclidean distance."""
    metrics = {model.metric if isinstance(model, KMeans) else "euclidean" for model in models}
    if len(metrics) > 1:
        raise DataError("The models have different metrics; score those of one metric at a time.")
    return metrics.pop() if metrics else "euclidean"


def _centers_of(model: Model, viewer: KMeans) -> Float64s:
    """Return the centers of a model as float64, or raise DataError if they are none of what `viewer` has seen."""
    if isinstance(model, BaseEstimator):
        check_is_fitted(model)
        known, seen = (list(getattr(each, "feature_names_in_", [])) for each in (model, viewer))
        if known and seen and known != seen:
            raise DataError(f"The model was fitted to the features {known}, but X has {seen}.")
    found = np.array(getattr(model, "cluster_centers_", model), dtype=np.float64)
    n_features = viewer.n_features_in_
    if found.ndim != 2 or found.shape[1] != n_features:
        raise DataError(f"The centers have shape {found.shape}; expected (n_clusters, {n_features}).")
    return found

"""Pictures of models and sweeps: each function draws on axes, its own or given ones, and returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskmeans.covariance import Covariance, principal_components
from daskmeans.errors import DataError
from daskmeans.estimator import KMeans
from daskmeans.inputs import resolve_budget, view
from daskmeans.metrics import scores
from daskmeans.samples import samples_from_array
from daskmeans.scan import Scanner
from daskmeans.steps import Survey
from daskmeans.survey import check_surveyed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from daskmeans.selection import Sweep

__all__ = ["centers", "cluster_sizes", "convergence", "elbow", "projection", "silhouettes"]

# More features, or more clusters, than these are drawn as a heat map, fewer as profiles.
MOST_PROFILED, MOST_LINES = 8, 10

# More clusters than this are not numbered one by one.
MOST_NUMBERED = 20

# Where the largest inertia exceeds the smallest by this factor, the axis is logarithmic.
MOST_LINEAR = 10


def _axes(ax: Axes | None) -> Axes:
    """Return axes to draw on: those given, or new ones."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _colors(n: int) -> npt.NDArray[np.float64]:
    """Return a color for each cluster: the same cluster has the same color in every picture."""
    import matplotlib as mpl

    if n <= 10:
        return np.array([mpl.colormaps["tab10"](i) for i in range(n)])
    return np.array([mpl.colormaps["turbo"](x) for x in np.linspace(0.05, 0.95, n)])


def _number(axis: Axis, n_clusters: int) -> None:
    """Put the numbers of clusters on an axis: each, where there is room."""
    if n_clusters <= MOST_NUMBERED:
        axis.set_ticks(range(n_clusters))
    else:
        axis.set_ticks(range(0, n_clusters, -(-n_clusters // 10)))


def elbow(sweep: Sweep, ax: Axes | None = None) -> Axes:
    """Draw inertia against the number of clusters; a ring marks the knee, a dashed line the recommended number."""
    ax = _axes(ax)
    inertia = sweep.table["inertia"]
    ax.plot(inertia.index, inertia, "o-", markersize=4, color="tab:blue")
    _mark(ax, sweep, inertia, "knee of explained variation")
    ax.set_title(f"recommended: {sweep.recommended}", fontsize="medium")
    ax.set(xlabel="number of clusters", ylabel="inertia", ylim=(0, None), xticks=inertia.index)
    ax.legend(fontsize="small")
    return ax


def _mark(ax: Axes, sweep: Sweep, values: Any, criterion: str | None) -> None:
    """Mark the recommended number by a dashed line, and what one criterion suggests by a ring."""
    ax.axvline(sweep.recommended, color="0.6", linestyle="--", zorder=0, label="recommended")
    suggested = sweep.suggestions.get(criterion) if criterion else None
    if suggested is not None:
        place, label = ([suggested], [values[suggested]]), "suggested by the curve"
        ax.plot(*place, "o", markersize=11, markerfacecolor="none", color="tab:red", label=label)


def sweep_scores(sweep: Sweep) -> npt.NDArray[Any]:
    """Draw the elbow and every score against the number of clusters, and return the axes, (2, 4).

    A ring marks what each criterion suggests, a dashed line the number that is recommended.
    """
    import matplotlib.pyplot as plt

    panels = {
        "explained_variation": ("explained variation", "knee of explained variation"),
        "calinski_harabasz": ("Calinski-Harabasz (high is good)", "largest Calinski-Harabasz index"),
        "davies_bouldin": ("Davies-Bouldin (low is good)", "smallest Davies-Bouldin index"),
        "simplified_silhouette": ("simplified silhouette (high is good)", "largest simplified silhouette"),
        "silhouette": ("silhouette of a sample (high is good)", None),
        "gap": ("gap statistic of a sample", "gap rule"),
        "stability": ("stability (1 is stable)", None),
    }
    _, axes = plt.subplots(2, 4, figsize=(14, 6), layout="constrained", sharex=True)
    elbow(sweep, axes.flat[0])
    axes.flat[0].set_xlabel("")
    for ax, (name, (title, criterion)) in zip(axes.flat[1:], panels.items(), strict=True):
        values = sweep.table[name]
        error = sweep.table.get(f"{name}_se")
        ax.errorbar(values.index, values, yerr=error, fmt="o-", markersize=4, capsize=3, color="tab:blue")
        _mark(ax, sweep, values, criterion)
        ax.set_title(title, fontsize="medium")
        if values.isna().all():
            ax.annotate("not computed", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.5")
            ax.set_yticks([])
    axes.flat[-1].set_ylim(min(0, np.nanmin(sweep.table["stability"].fillna(0))), 1.05)
    for ax in axes[1]:
        ax.set_xlabel("number of clusters")
    result: npt.NDArray[Any] = axes
    return result


def cluster_sizes(model: KMeans, ax: Axes | None = None) -> Axes:
    """Draw the weight of each cluster as a share of all."""
    ax = _axes(ax)
    share = 100 * model.counts_ / model.counts_.sum()
    bars = ax.bar(range(len(share)), share, color=_colors(len(share)))
    if len(share) <= MOST_NUMBERED:
        ax.bar_label(bars, fmt="%.1f", fontsize="small")
    _number(ax.xaxis, len(share))
    ax.set(xlabel="cluster", ylabel="share of all samples / %")
    return ax


def silhouettes(model: KMeans, X: Any, sample_weight: Any = None, ax: Axes | None = None) -> Axes:
    """Draw the mean simplified silhouette of each cluster, over all rows, and that of all. One pass over the data."""
    ax = _axes(ax)
    (found,) = scores(X, [model], sample_weight, sample_size=0)
    values = found.simplified_silhouette_per_cluster
    ax.barh(range(len(values)), np.nan_to_num(values), color=_colors(len(values)))
    ax.axvline(found.simplified_silhouette, color="0.3", linestyle="--")
    ax.annotate(
        f"all: {found.simplified_silhouette:.3f}",
        (found.simplified_silhouette, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        color="0.3",
    )
    ax.set(xlabel="mean simplified silhouette", ylabel="cluster", xlim=(0, 1))
    _number(ax.yaxis, len(values))
    ax.invert_yaxis()
    return ax


def centers(model: KMeans, ax: Axes | None = None, *, standardize: bool = False) -> Axes:
    """Draw the centers: profiles of up to 10 clusters over up to 8 features, else a heat map.

    Parameters
    ----------
    model : fitted.
    ax : what to draw on.
    standardize : whether each feature is shown in standard deviations between the centers, from their mean: for
        features of different units.
    """
    ax = _axes(ax)
    values, label = np.asarray(model.cluster_centers_, dtype=np.float64), "value"
    if standardize:
        spread = values.std(axis=0)
        values = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
        label = "deviation / standard deviations"
    names = [str(name) for name in getattr(model, "feature_names_in_", range(values.shape[1]))]
    if len(names) <= MOST_PROFILED and len(values) <= MOST_LINES:
        for cluster, color in enumerate(_colors(len(values))):
            ax.plot(values[cluster], "o-", color=color, label=f"{cluster}")
        ax.set_ylabel(label)
        ax.legend(title="cluster", fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    else:
        diverges = values.min() < 0 < values.max()
        limit = np.abs(values).max()
        limits = {"vmin": -limit, "vmax": limit, "cmap": "RdBu_r"} if diverges else {"cmap": "viridis"}
        image = ax.imshow(values, aspect="auto", interpolation="nearest", **limits)
        ax.figure.colorbar(image, ax=ax, label=label)
        ax.set_ylabel("cluster")
        _number(ax.yaxis, len(values))
    _name_features(ax, names)
    return ax


def _name_features(ax: Axes, names: Sequence[str]) -> None:
    """Put the names of features on the x axis where they can be read."""
    ax.set_xlabel("feature")
    if len(names) <= 30:
        long = max(map(len, names)) > 3
        ax.set_xticks(range(len(names)), names, rotation=60 if long else 0, ha="right" if long else "center")


def projection(
    model: KMeans, X: Any, ax: Axes | None = None, *, sample_size: int = 2000, random_state: int = 0
) -> Axes:
    """Draw a uniform sample of the rows and the centers: on their principal axes where there are over two features.

    One pass over the data, to draw the sample.
    """
    from matplotlib import patheffects

    ax = _axes(ax)
    samples, _ = view(model, X, None, resolve_budget(None), reset=False)
    samples = samples.with_transform(model._normalize)
    surveyed = Scanner(samples).scan(Survey(sample_size, random_state, samples.n_samples), "sample")
    check_surveyed(surveyed, samples, n_clusters=1)
    rows, points = surveyed.sample.X, np.asarray(model.cluster_centers_, dtype=np.float64)
    labels = _nearest(rows, points)
    shown, at = np.asarray(rows, dtype=np.float64), points
    axis_names = [str(name) for name in getattr(model, "feature_names_in_", ["feature 0", "feature 1"])]
    if rows.shape[1] == 1:
        shown, at = (np.column_stack([x[:, 0], np.zeros(len(x))]) for x in (shown, at))
        axis_names = [axis_names[0], ""]
    elif rows.shape[1] > 2:
        scatter = Scanner(samples_from_array(np.ascontiguousarray(shown), None)).scan(Covariance())
        found = principal_components(scatter)
        shown, at = ((x - scatter.mean) @ found.components[:2].T for x in (shown, at))
        share = found.variance[:2] / (found.total_variance or 1.0)
        axis_names = [f"principal component {i + 1} ({100 * part:.0f} %)" for i, part in enumerate(share)]
    colors = _colors(len(points))
    ax.scatter(shown[:, 0], shown[:, 1], c=colors[labels], s=6, alpha=0.5, linewidths=0, rasterized=True)
    ax.scatter(at[:, 0], at[:, 1], c=colors, s=90, marker="X", edgecolors="black", zorder=3)
    rim = [patheffects.withStroke(linewidth=3, foreground="white")]
    for cluster, place in enumerate(at if len(at) <= MOST_NUMBERED else []):
        ax.annotate(f"{cluster}", place, xytext=(6, 6), textcoords="offset points", fontweight="bold", path_effects=rim)
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
    if rows.shape[1] == 1:
        ax.set_yticks([])
    return ax


def _nearest(rows: npt.NDArray[Any], points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Return the nearest center of each row of a sample."""
    from daskmeans import kernels
    from daskmeans.kernels import Stack

    found = kernels.assign(np.ascontiguousarray(rows), None, Stack.of([points]), points.mean(axis=0), with_labels=True)
    labels: npt.NDArray[np.int32] = found.labels[0]
    return labels


def convergence(history: KMeans | Sequence[Any], ax: Axes | None = None) -> Axes:
    """Draw inertia against passes over the data.

    Seeding by k-means|| counts the distance to the nearest candidate, of which there are more than clusters: its last
    inertia may be below that of the first iteration.

    Parameters
    ----------
    history : a model as `fit` left it; of a model of a sweep, the least inertia of all models is drawn. Or reports of
        passes, each an object or a mapping with ``number``, ``title`` and ``inertia``, such as ``passes`` of
        summary.json.
    """
    if isinstance(history, KMeans) and not hasattr(history, "history_"):
        raise DataError("The model has no history: only `fit` leaves one, and it is not saved.")
    ax = _axes(ax)
    reports = history.history_ if isinstance(history, KMeans) else history
    told = [report if isinstance(report, dict) else vars(report) for report in reports]
    known = [report for report in told if report["inertia"] is not None]
    for title, color, label in (("k-means||", "tab:orange", "seeding (candidates)"), ("", "tab:blue", "iteration")):
        part = [report for report in known if report["title"].startswith("k-means||") == bool(title)]
        if part:
            ax.plot([r["number"] for r in part], [r["inertia"] for r in part], "o-", color=color, label=label)
    ax.set(xlabel="pass over the data", ylabel="inertia", xlim=(0.5, len(told) + 0.5))
    ax.locator_params(axis="x", integer=True)
    values = [report["inertia"] for report in known]
    if values and max(values) > MOST_LINEAR * min(values) > 0:
        ax.set_yscale("log")
    if known:
        ax.legend()
    return ax

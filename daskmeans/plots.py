"""Pictures of models and sweeps: each function draws on axes, its own or given ones, and returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskmeans.covariance import Covariance, principal_components
from daskmeans.estimator import KMeans
from daskmeans.fit import check_surveyed
from daskmeans.inputs import resolve_budget, view
from daskmeans.metrics import scores
from daskmeans.samples import samples_from_array
from daskmeans.scan import Scanner
from daskmeans.steps import Survey

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from daskmeans.selection import Sweep

__all__ = ["centers", "cluster_sizes", "convergence", "elbow", "projection", "silhouettes"]

# More features than this are drawn as a heat map, fewer as profiles.
MOST_PROFILED = 8

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


def elbow(sweep: Sweep, ax: Axes | None = None) -> Axes:
    """Draw inertia against the number of clusters; the recommended number is marked."""
    ax = _axes(ax)
    inertia = sweep.table["inertia"]
    ax.plot(inertia.index, inertia, "o-", color="tab:blue")
    ax.axvline(sweep.recommended, color="0.6", linestyle="--", zorder=0)
    ax.set_title(f"recommended: {sweep.recommended}", fontsize="medium")
    ax.set(xlabel="number of clusters", ylabel="inertia", ylim=(0, None), xticks=inertia.index)
    return ax


def sweep_scores(sweep: Sweep) -> npt.NDArray[Any]:
    """Draw the elbow and every score against the number of clusters, and return the axes, (2, 4)."""
    import matplotlib.pyplot as plt

    panels = {
        "explained_variation": "explained variation",
        "calinski_harabasz": "Calinski-Harabasz (high is good)",
        "davies_bouldin": "Davies-Bouldin (low is good)",
        "simplified_silhouette": "simplified silhouette (high is good)",
        "silhouette": "silhouette of a sample (high is good)",
        "gap": "gap statistic of a sample",
        "stability": "stability (1 is stable)",
    }
    _, axes = plt.subplots(2, 4, figsize=(14, 6), layout="constrained", sharex=True)
    elbow(sweep, axes.flat[0])
    axes.flat[0].set_xlabel("")
    for ax, (name, title) in zip(axes.flat[1:], panels.items(), strict=True):
        values = sweep.table[name]
        error = sweep.table.get(f"{name}_se")
        ax.errorbar(values.index, values, yerr=error, fmt="o-", markersize=4, capsize=3, color="tab:blue")
        ax.axvline(sweep.recommended, color="0.6", linestyle="--", zorder=0)
        ax.set_title(title, fontsize="medium")
    for ax in axes[1]:
        ax.set_xlabel("number of clusters")
    result: npt.NDArray[Any] = axes
    return result


def cluster_sizes(model: KMeans, ax: Axes | None = None) -> Axes:
    """Draw the weight of each cluster as a share of all."""
    ax = _axes(ax)
    share = 100 * model.counts_ / model.counts_.sum()
    bars = ax.bar(range(len(share)), share, color=_colors(len(share)))
    if len(share) <= 20:
        ax.bar_label(bars, fmt="%.1f %%", fontsize="small")
        ax.set_xticks(range(len(share)))
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
    ax.set(xlabel="mean simplified silhouette", ylabel="cluster")
    if len(values) <= 20:
        ax.set_yticks(range(len(values)))
    ax.invert_yaxis()
    return ax


def centers(model: KMeans, ax: Axes | None = None, *, standardize: bool = False) -> Axes:
    """Draw the centers: profiles over up to 8 features, else a heat map.

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
    if len(names) <= MOST_PROFILED:
        for cluster, color in enumerate(_colors(len(values))):
            ax.plot(values[cluster], "o-", color=color, label=f"{cluster}")
        ax.set_ylabel(label)
        ax.legend(title="cluster", fontsize="small", ncols=1 + len(values) // 9)
    else:
        diverges = values.min() < 0 < values.max()
        limit = np.abs(values).max()
        limits = {"vmin": -limit, "vmax": limit, "cmap": "RdBu_r"} if diverges else {"cmap": "viridis"}
        image = ax.imshow(values, aspect="auto", interpolation="nearest", **limits)
        ax.figure.colorbar(image, ax=ax, label=label)
        ax.set_ylabel("cluster")
        if len(values) <= 20:
            ax.set_yticks(range(len(values)))
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
    ax = _axes(ax)
    samples, _ = view(KMeans(), X, None, resolve_budget(None), reset=True)
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
    for cluster, place in enumerate(at if len(at) <= 20 else []):
        ax.annotate(f"{cluster}", place, xytext=(6, 6), textcoords="offset points", fontweight="bold")
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
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

    Parameters
    ----------
    history : a fitted model, or reports of passes, each an object or a mapping with ``number``, ``title`` and
        ``inertia``, such as ``passes`` of summary.json.
    """
    ax = _axes(ax)
    reports = history.history_ if isinstance(history, KMeans) else history
    told = [report if isinstance(report, dict) else vars(report) for report in reports]
    known = [report for report in told if report["inertia"] is not None]
    for title, color, label in (("k-means||", "tab:orange", "seeding"), ("", "tab:blue", "iteration")):
        part = [report for report in known if report["title"].startswith("k-means||") == bool(title)]
        if part:
            ax.plot([r["number"] for r in part], [r["inertia"] for r in part], "o-", color=color, label=label)
    ax.set(xlabel="pass over the data", ylabel="inertia", xlim=(0.5, len(told) + 0.5))
    ax.locator_params(axis="x", integer=True)
    values = [report["inertia"] for report in known]
    if values and max(values) > MOST_LINEAR * min(values) > 0:
        ax.set_yscale("log")
    ax.legend()
    return ax

"""report.html: what was clustered, how it went and what came out, on one page that opens anywhere.

Made from the files of the results alone, so that it can be made again. No script but a chooser, no network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from daskmeans.job import charts
from daskmeans.job.charts import OKABE_ITO, Line, aligned, cluster_colors, diverging_colors, ink_on
from daskmeans.job.course import comparison, convergence, how_it_was_made, what_was_clustered
from daskmeans.job.notes import Projection
from daskmeans.job.results import CONFIG, LABELS, SUMMARY
from daskmeans.job.tags import duration, escaped, number, page, section, table
from daskmeans.job.views import Features, LabelView, Ticks, label_views, map_dims, parse_features

REPORT = "report.html"


Floats = npt.NDArray[np.float64]

# More than these would make the page heavy, and no one would look at them.
MOST_ROWS, MOST_COLUMNS, MOST_BUBBLES, MOST_LINES, MOST_PROFILES, MOST_MAPS = 100, 16, 60, 16, 8, 16

# Maps are not drawn narrower or wider than so many times their height: of a thin one, nothing could be seen.
NARROWEST, WIDEST = 0.4, 4.0

# Height of a row of the heat map.
ROW_PX = 25


def write_report(folder: Path, result: xr.Dataset) -> Path:
    """Write the page into a folder of results and return its path.

    Parameters
    ----------
    result : centers and labels, opened. Reads the centers, and a bounded sample of the labels.
    """
    text = render_report(folder, result)
    path = folder / REPORT
    path.write_text(text, encoding="utf-8")
    return path


def render_report(folder: Path, result: xr.Dataset) -> str:
    """Return the page as HTML."""
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    found = Found.of(result, summary)
    labels = result.get(LABELS)
    maps = [] if labels is None else _label_maps(labels, found)
    lie = Projection.read(folder)
    config = (folder / CONFIG).read_text(encoding="utf-8")
    title = Path(str(summary["config"]["input"]["store"])).name
    sections = [
        _head(title, found),
        _warnings(found),
        *maps,
        section("Clusters", _cluster_table(found)),
        *_center_sections(found),
        *([] if lie is None else [section("How the samples lie", _projection(found, lie))]),
        *comparison(summary),
        section("Convergence", convergence(summary)),
        section("What was clustered", what_was_clustered(summary)),
        section("How it was made", how_it_was_made(summary, config)),
    ]
    return page(f"{title}: {found.n_clusters} clusters", "\n".join(sections))


@dataclass(frozen=True)
class Found:
    """What came out.

    Attributes
    ----------
    centers : (n_clusters, n_features), in the input's units.
    relative : likewise, from the mean of all samples, in units of `spread`.
    spread : in words.
    counts, inertia : (n_clusters,); counts are weights.
    sizes : (n_clusters,), numbers of samples; None where they are unknown.
    """

    summary: Mapping[str, Any]
    centers: Floats
    relative: Floats
    spread: str
    counts: Floats
    inertia: Floats
    sizes: npt.NDArray[np.int64] | None
    names: list[str]
    colors: list[str]

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.centers)

    @classmethod
    def of(cls, result: xr.Dataset, summary: Mapping[str, Any]) -> Found:
        """Read the centers and what belongs to them."""
        centers = result["centers"].values.astype(np.float64)
        counts = result["counts"].values.astype(np.float64)
        if "feature_scale" in result:
            mean, scale = result["feature_mean"].values, result["feature_scale"].values
            spread = "standard deviations of the samples"
        else:
            mean = np.average(centers, axis=0, weights=counts if counts.sum() > 0 else None)
            scale = np.sqrt(np.average((centers - mean) ** 2, axis=0, weights=counts if counts.sum() > 0 else None))
            spread = "standard deviations of the centers"
        relative = (centers - mean) / np.where(scale > 0, scale, 1)
        names = [str(name) for name in result["feature"].values]
        colors = _colors_by_likeness(relative)
        inertia = result["inertia_per_cluster"].values.astype(np.float64)
        sizes = result["sizes"].values if "sizes" in result else None
        return cls(summary, centers, relative, spread, counts, inertia, sizes, names, colors)

    def largest_first(self, most: int) -> list[int]:
        """Return the clusters of the most weight, in the order of their numbers where all are asked for."""
        if self.n_clusters <= most:
            return list(range(self.n_clusters))
        return [int(i) for i in np.argsort(-self.counts, kind="stable")[:most]]


def _colors_by_likeness(relative: Floats) -> list[str]:
    """Return a colour for each center: distinct ones where they are few, else alike ones where centers are alike."""
    colors = cluster_colors(len(relative))
    if len(relative) <= len(OKABE_ITO):
        return colors
    _, _, axes = np.linalg.svd(relative - relative.mean(axis=0), full_matrices=False)
    rank = np.argsort(np.argsort(relative @ axes[0], kind="stable"))
    return [colors[i] for i in rank]


# ---------------------------------------------------------------------------------------------------------------------
# Sections


def _head(title: str, found: Found) -> str:
    summary = found.summary
    facts = {
        "samples": f"{summary['n_samples']:,}",
        "features": f"{summary['n_features']:,}",
        "clusters": f"{found.n_clusters:,}",
        "inertia": number(summary["inertia"]),
        "iterations": f"{summary['n_iter']}",
        "reads of the data": f"{summary['n_passes']}",
        "time": duration(summary["elapsed_s"]),
    }
    cells = "".join(f"<div><b>{escaped(value)}</b><span>{escaped(name)}</span></div>" for name, value in facts.items())
    return f'<header><h1>Clusters of {escaped(title)}</h1><div class="facts">{cells}</div></header>'


def _warnings(found: Found) -> str:
    """Say what a reader should know before believing the rest."""
    summary, lines = found.summary, [str(line) for line in found.summary.get("warnings", [])]
    if not summary["converged"]:
        lines.append("The iteration has not converged: raise model.max_iter, or tol.")
    empty = int((found.counts == 0).sum())
    if empty:
        lines.append(f"{empty} of {found.n_clusters} clusters are empty: there are fewer distinct samples.")
    if summary["n_dropped"]:
        total = summary["n_samples"] + summary["n_dropped"]
        share = summary["n_dropped"] / total
        lines.append(f"{summary['n_dropped']:,} of {total:,} samples ({share:.1%}) were dropped as missing or masked.")
    if not lines:
        return ""
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return f'<section class="warn"><h2>Mind</h2><ul>{items}</ul></section>'


def _label_maps(labels: xr.DataArray, found: Found) -> list[str]:
    """Show where the clusters lie."""
    views = label_views(labels)
    if not views:
        return []
    figures = ""
    for i, view in enumerate(views):
        uri = charts.labels_png(view.labels, found.colors)
        caption = f"{view.title}: {view.sides}" if view.title else view.sides
        if len(view.labels) == 1:
            image = f'<img class="strip" src="{uri}" alt="clusters, {escaped(caption)}">'
        else:
            ratio = min(max(view.ratio, NARROWEST), WIDEST)
            caption += "" if ratio == view.ratio else "; not to scale"
            image = _framed(f'<img src="{uri}" alt="clusters, {escaped(caption)}">', ratio, view)
        hidden = "" if i == 0 else " hidden"
        figures += f"<figure{hidden}>{image}<figcaption>{escaped(caption)}</figcaption></figure>"
    chooser = ""
    if len(views) > 1:
        options = "".join(f"<option>{escaped(view.title)}</option>" for view in views)
        chooser = f'<label>Slice <select onchange="choose(this)">{options}</select></label>'
    dropped = bool((np.concatenate([view.labels.ravel() for view in views]) < 0).any())
    heading = "Where they lie" if map_dims(tuple(map(str, labels.dims))) else "Along the samples"
    return [section(heading, f'<div class="choice">{chooser}{figures}</div>{_legend(found, dropped=dropped)}')]


def _framed(image: str, ratio: float, view: LabelView) -> str:
    """Put round numbers at the sides of a map, which keeps its shape while it loads, and on any screen."""

    def ticks(found: Ticks, kind: str, side: str) -> str:
        return "".join(f'<span class="{kind}" style="{side}:{100 * at:.2f}%">{text}</span>' for at, text in found)

    sides = ticks(view.x_ticks, "x", "left") + ticks(view.y_ticks, "y", "top")
    return f'<div class="framed" style="--ratio:{ratio:.4g}">{image}{sides}</div>'


def _legend(found: Found, *, dropped: bool = False) -> str:
    shown = found.largest_first(MOST_BUBBLES)
    keys = "".join(f"<li>{_swatch(found.colors[i], i)}</li>" for i in shown)
    if dropped:
        keys += f'<li><i class="swatch" style="background:{charts.GONE}"></i>dropped</li>'
    alike = found.n_clusters > len(OKABE_ITO)
    note = "<p class=note>Colours are the more alike, the more alike the centers are.</p>" if alike else ""
    return f'<ul class="legend">{keys}</ul>{note}'


def _swatch(color: str, i: int) -> str:
    return f'<i class="swatch" style="background:{color};color:{ink_on(color)}">{i}</i>'


def _cluster_table(found: Found) -> str:
    """Show size, weight, spread and character of each cluster."""
    weighted = bool(found.summary["config"]["input"].get("weights"))
    heads = ["", *_size_heads(found, weighted), "share", "inertia", "mean distance", "stands out by"]
    shown = found.largest_first(MOST_ROWS)
    columns = [_swatch_column(found, shown), *_size_columns(found, shown, weighted), *_quality_columns(found, shown)]
    rows = list(zip(*columns, strict=True))
    note = f"<p>The {MOST_ROWS} largest of {found.n_clusters:,} clusters.</p>" if len(rows) < found.n_clusters else ""
    unit = (
        f"{'Share: of the weight. ' if weighted else ''}Mean distance: root mean square, to the center. "
        f"Stands out by: the features farthest from the mean, in {found.spread}."
    )
    return f'<div class="cards">{table(heads, rows, words={0, len(heads) - 1})}</div>{note}<p class=note>{unit}</p>'


def _size_heads(found: Found, weighted: bool) -> list[str]:
    """Say how clusters are counted: by samples, by weight, or both."""
    if not weighted:
        return ["samples"]
    return ["weight"] if found.sizes is None else ["samples", "weight"]


def _swatch_column(found: Found, shown: Sequence[int]) -> list[str]:
    return [_swatch(found.colors[i], i) for i in shown]


def _size_columns(found: Found, shown: Sequence[int], weighted: bool) -> list[list[str]]:
    """Return numbers of samples, weights, or both."""
    weights = [number(found.counts[i]) for i in shown]
    return [weights] if not weighted or found.sizes is None else [[f"{found.sizes[i]:,}" for i in shown], weights]


def _quality_columns(found: Found, shown: Sequence[int]) -> list[list[str]]:
    """Return shares, inertia, mean distances, and what is special."""
    shares = found.counts / (found.counts.sum() or 1.0)
    bars = [
        f'<span class="bar"><i style="width:{100 * shares[i]:.1f}%;background:{found.colors[i]}"></i></span>'
        for i in shown
    ]
    distances = np.sqrt(found.inertia / np.where(found.counts > 0, found.counts, np.nan))
    return [
        [f"{shares[i]:.1%}{bar}" for i, bar in zip(shown, bars, strict=True)],
        aligned(found.inertia[shown]),
        aligned(distances[shown]),
        [escaped(_character(found, i)) for i in shown],
    ]


def _character(found: Found, i: int) -> str:
    """Name the three features in which a center is farthest from the mean."""
    order = np.argsort(-np.abs(found.relative[i]), kind="stable")[:3]
    # Where all features are of one variable, its name says nothing.
    is_one = len({name.partition("[")[0] for name in found.names}) == 1 < len(found.names)
    names = [name.partition("[")[2].rstrip("]") or name if is_one else name for name in found.names]
    return ", ".join(f"{names[f]} {found.relative[i, f]:+.1f}" for f in order)


def _center_sections(found: Found) -> list[str]:
    """Show the centers as what their features are: maps, profiles, a table, a heat map."""
    fields = parse_features(found.names)
    parts = []
    if len(found.names) <= MOST_COLUMNS:
        parts.append(_center_table(found))
    maps = [field for field in fields if len(field.dims) == 2 and map_dims(field.dims)]
    lines = [field for field in fields if len(field.dims) == 1 and len(field.columns) > 2]
    parts += [_center_maps(found, field) for field in maps[:MOST_PROFILES]]
    profiles = "".join(_profile(found, field) for field in lines[:MOST_PROFILES] if field.coordinate() is not None)
    if profiles:
        parts.append(f'<h3>Profiles</h3>{_legend(found)}<div class="charts">{profiles}</div>')
    if len(found.names) > MOST_COLUMNS and not maps:
        parts.append(_heat_map(found))
    return [section("Centers", "".join(parts))]


def _center_table(found: Found) -> str:
    """Show the values of the centers, coloured by how far they are from the mean."""
    rows, shown = [], found.largest_first(MOST_ROWS)
    texts = [aligned(column) for column in found.centers[shown].T]
    for row, i in enumerate(shown):
        colors = diverging_colors(found.relative[i] / 2)
        cells = [
            f'<td style="background:{c};color:{ink_on(c)}">{text[row]}</td>'
            for text, c in zip(texts, colors, strict=True)
        ]
        rows.append(f"<tr><th>{_swatch(found.colors[i], i)}</th>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{_in_lines(name)}</th>" for name in ["", *found.names])
    scale = f"Blue is below, orange above the mean, in {found.spread}; full at 2."
    body = f'<div class="wide"><table class="heat"><tr>{heads}</tr>{"".join(rows)}</table></div>'
    return f"{body}<p class=note>In the units of the input. {scale}</p>"


def _in_lines(name: str) -> str:
    """Return the name of a feature in short lines: the variable, then its places."""
    head, _, places = name.partition("[")
    return "<br>".join(map(escaped, [head, *places.rstrip("]").split(", ")] if places else [head]))


def _profile(found: Found, field: Features) -> str:
    """Draw the centers of one variable along its feature dimension."""
    coordinate = field.coordinate()
    assert coordinate is not None
    shown = found.largest_first(MOST_LINES)
    lines = [Line(coordinate, found.centers[i][field.columns], found.colors[i], f"cluster {i}") for i in shown]
    chart = charts.line_chart(lines, field.dims[0], field.name)
    return f"<figure>{chart}</figure>"


def _center_maps(found: Found, field: Features) -> str:
    """Draw each center as a map, relative to the mean."""
    sides = map_dims(field.dims)
    assert sides is not None
    figures = ""
    for i in found.largest_first(MOST_MAPS):
        grid = field.on_grid(found.relative[i])
        if field.dims != sides:
            grid = grid.T
        line = [float(value) for value in field.lines[field.dims.index(sides[0])]]
        grid = grid[::-1] if line[0] < line[-1] and sides[0].lower() not in {"y", "row"} else grid
        step = [-(-size // most) for size, most in zip(grid.shape, (256, 512), strict=True)]
        uri = charts.values_png(grid[:: step[0], :: step[1]] / 2)
        share = found.counts[i] / (found.counts.sum() or 1)
        caption = f"{_swatch(found.colors[i], i)} {share:.1%}"
        figures += f'<figure><img class="map" src="{uri}" alt="center {i}"><figcaption>{caption}</figcaption></figure>'
    note = f"{field.name} of each center. Blue is below, orange above the mean of all, in {found.spread}; full at 2."
    return f'<div class="maps">{figures}</div><p class=note>{escaped(note)}</p>'


def _heat_map(found: Found) -> str:
    """Draw all centers as rows of one picture."""
    shown = found.largest_first(MOST_ROWS)
    step = -(-len(found.names) // 2000)
    uri = charts.values_png(found.relative[shown][:, ::step] / 2)
    every = f"every {step}th of " if step > 1 else ""
    note = f"A row for each cluster, a column for {every}{len(found.names):,} features."
    note += " Blue is below the mean, orange above."
    keys = "".join(_swatch_column(found, shown)) if len(shown) <= MOST_BUBBLES else ""
    image = f'<img class="heatmap" style="height:{ROW_PX * len(shown)}px" src="{uri}" alt="heat map">'
    return f'<div class="rows"><div>{keys}</div>{image}</div><p class=note>{escaped(note)}</p>'


def _projection(found: Found, lie: Projection) -> str:
    """Draw a sample and the centers on the plane in which the sample varies most."""
    shown = found.largest_first(MOST_BUBBLES)
    rows, centers = np.array(lie.rows), np.array(lie.centers)[shown]
    names = [f"component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(lie.explained)]
    dots = [found.colors[label] for label in lie.labels]
    colors = [found.colors[i] for i in shown]
    chart = charts.scatter_chart(rows, dots, centers, colors, [str(i) for i in shown], *names)
    largest = f" Numbers: the {len(shown)} largest clusters." if len(shown) < found.n_clusters else ""
    note = (
        f"{len(rows):,} samples, drawn uniformly, on the plane in which they vary most (principal components), in the "
        f"colours of their clusters; numbers are at the centers.{largest} What overlaps here may lie apart in other "
        "directions."
    )
    return f"{chart}<p class=note>{note}</p>"

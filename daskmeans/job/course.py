"""How a run went, for its page: passes, the numbers of clusters that were compared, what was read, by what means.

Made from summary.json and the configuration alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from daskmeans.job import charts
from daskmeans.job.charts import Line, aligned, short
from daskmeans.job.tags import duration, escaped, in_words, section, table
from daskmeans.memory import format_bytes

# Scores of numbers of clusters that are worth a chart; the table has all.
DRAWN_SCORES = ("inertia", "silhouette", "simplified_silhouette", "calinski_harabasz", "davies_bouldin", "gap")


def convergence(summary: Mapping[str, Any]) -> str:
    """Draw inertia against pass, and list the passes."""
    # Rounds of seeding have other numbers of centers, so that their inertia does not compare.
    known = [r for r in summary["passes"] if r["inertia"] is not None and not r["title"].startswith("k-means")]
    chart = ""
    # Nor do the passes of several numbers of clusters.
    if len(known) > 1 and not summary.get("sweep"):
        x, y = (np.array([report[key] for report in known], dtype=float) for key in ("number", "inertia"))
        chart = charts.line_chart([Line(x, y, "#0072B2", "inertia")], "pass", "inertia", whole_x=True)
    heads = ["pass", "what for", "inertia", "center shift\u00b2", "read", "time"]
    inertia = aligned([np.nan if report["inertia"] is None else report["inertia"] for report in summary["passes"]])
    rows = [_pass_row(report, text) for report, text in zip(summary["passes"], inertia, strict=True)]
    state = "Converged" if summary["converged"] else "Not converged"
    n_iter = summary["n_iter"]
    told = f"<p>{state} after {n_iter} iteration{'s' * (n_iter != 1)} over the data.</p>"
    return f"{told}{chart}<details><summary>All {len(rows)} passes</summary>{table(heads, rows, words={1})}</details>"


def _pass_row(report: Mapping[str, Any], inertia: str) -> list[str]:
    found = [inertia, "" if report["center_shift"] is None else short(report["center_shift"])]
    cost = [format_bytes(report["n_bytes"]), duration(report["elapsed_s"])]
    return [str(report["number"]), escaped(report["title"]), *found, *cost]


def comparison(summary: Mapping[str, Any]) -> list[str]:
    """Show how the numbers of clusters that were tried compare, if several were."""
    sweep = summary.get("sweep")
    if not sweep:
        return []
    told = f"<p>{escaped(str(sweep['reason']))}</p>"
    drawn = "".join(f"<figure>{chart}</figure>" for chart in _score_charts(sweep))
    note = (
        "Dashed: the number that was taken. Where criteria differ, several numbers may serve: look at their maps too."
    )
    body = f'{told}<div class="charts">{drawn}</div><p class=note>{note}</p>{_score_table(sweep)}'
    return [section("How many clusters", body)]


def _score_charts(sweep: Mapping[str, Any]) -> Iterator[str]:
    """Draw the elbow, and the other scores against the number of clusters."""
    rows = sweep["table"]
    k = np.array([row["n_clusters"] for row in rows], dtype=np.float64)
    for name in DRAWN_SCORES:
        y = np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)
        if np.isfinite(y).sum() > 1:
            line = Line(k, y, "#0072B2", name)
            yield charts.line_chart([line], "clusters", _spaced(name), whole_x=True, mark=float(sweep["recommended"]))


def _score_table(sweep: Mapping[str, Any]) -> str:
    """List all scores, what was taken in bold."""
    names = [name for name in sweep["table"][0] if any(row[name] is not None for row in sweep["table"])]
    columns = [_score_column([row[name] for row in sweep["table"]]) for name in names]
    rows = []
    for row, cells in zip(sweep["table"], zip(*columns, strict=True), strict=True):
        taken = row["n_clusters"] == sweep["recommended"]
        rows.append([f"<b>{cell}</b>" for cell in cells] if taken else list(cells))
    return table(["clusters" if name == "n_clusters" else _spaced(name) for name in names], rows, words=())


def _score_column(values: Sequence[float | bool | None]) -> list[str]:
    """Return numbers, yes or no, or nothing."""
    if any(isinstance(value, bool) for value in values):
        return ["" if value is None else "yes" if value else "no" for value in values]
    if all(isinstance(value, int) for value in values):
        return [str(value) for value in values]
    return aligned([np.nan if value is None else value for value in values])


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def what_was_clustered(summary: Mapping[str, Any]) -> str:
    """Say what was read, and what of it was left out."""
    config = summary["config"]
    given = {
        key: value for key, value in config["input"].items() if value not in (None, {}, []) and key != "storage_options"
    }
    lines = {key: in_words(value) for key, value in given.items()}
    lines["features scaled"] = in_words(config.get("preprocess", {}).get("scale", "none"))
    lines["samples"] = f"{summary['n_samples']:,}"
    lines["dropped"] = f"{summary['n_dropped']:,}"
    lines |= {f"dropped: {key}": f"{n:,}" for key, n in summary.get("dropped", {}).items() if n}
    return table([], [[f"<b>{escaped(key)}</b>", escaped(value)] for key, value in lines.items()])


def how_it_was_made(summary: Mapping[str, Any], config: str) -> str:
    """Say when, where and with what the run was made, and by which configuration."""
    cluster = summary["config"].get("cluster", {})
    lines = {
        "finished": str(summary.get("finished", "")),
        "cluster": in_words(cluster.get("type", "")),
        "machine of the driver": str(summary.get("host", "")),
        "time": duration(summary["elapsed_s"]),
        "bytes read": format_bytes(summary["bytes_read"]),
        "memory budget": format_bytes(summary["budget_bytes"]),
        "most memory of a worker": format_bytes(summary["peak_worker_bytes"]),
        **summary["versions"],
    }
    facts = table([], [[f"<b>{escaped(key)}</b>", escaped(str(value))] for key, value in lines.items()])
    return f"{facts}<details><summary>Configuration</summary><pre>{escaped(config)}</pre></details>"

"""A job that asks for several numbers of clusters: all are fitted and scored, one is chosen and labels the samples.

Imports what scores them inside: scikit-learn's metrics and kneed take some 90 MiB that other jobs do without.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskmeans.fit import Fitted, Journal, fit
from daskmeans.kernels import Stack
from daskmeans.options import FitOptions
from daskmeans.scan import Scanner
from daskmeans.steps import Assign, Sink

if TYPE_CHECKING:
    from daskmeans.selection import Selection

TABLE = "sweep.csv"

# Rows of the sample that silhouettes and stability are computed on.
SAMPLE_ROWS = 4096


def fit_one_or_choose(
    scanner: Scanner, options: FitOptions, sink: Sink | None, journal: Journal | None, *, several: bool
) -> tuple[Fitted, Selection | None]:
    """Fit the model that was asked for, or `several` of which one is chosen.

    Passes over the data: those of `fit`; or those of `select`, and one for labels.
    """
    if not several:
        return fit(scanner, options, sink, journal), None
    from daskmeans.selection import select

    found = select(scanner, options, sample_size=SAMPLE_ROWS, journal=journal)
    chosen = found.chosen
    if sink is not None:
        stack = Stack.of([chosen.scaled_centers])
        assigned = scanner.scan(Assign(stack, stack.centers.mean(axis=0), sink), "labels")
        scanner.judge(chosen.inertia, None)
        chosen = replace(chosen, outputs=assigned.outputs)
    return chosen, found


def summary_of(found: Selection | None) -> dict[str, Any]:
    """Return what summary.json says of the choice; nothing where there was none. Scores that do not exist are null."""
    if found is None:
        return {}
    rows = json.loads(found.table.reset_index().to_json(orient="records", double_precision=15))
    return {
        "sweep": {
            "recommended": found.recommended,
            "reason": found.reason,
            "suggestions": found.suggestions,
            "table": rows,
        }
    }


def write_table(folder: Path, found: Selection | None) -> None:
    """Write the scores of all numbers of clusters, a row for each, where there was a choice."""
    if found is not None:
        found.table.to_csv(folder / TABLE)


def most_clusters(n_clusters: int | Sequence[int]) -> int:
    """Return the largest number of clusters that is asked for."""
    return n_clusters if isinstance(n_clusters, int) else max(n_clusters)

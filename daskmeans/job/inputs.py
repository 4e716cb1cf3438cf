"""Opens what a configuration names: the samples, within the budget; the labels that go with them.

Must not know what is computed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from daskmeans.errors import ConfigError
from daskmeans.job import results
from daskmeans.job.cluster import Workers
from daskmeans.job.config import InputConfig, JobConfig, OutputConfig
from daskmeans.job.staging import Stage
from daskmeans.memory import DEFAULT_PART, Budget
from daskmeans.stores import OpenedStore, open_samples

# Numbers of rows of each cluster that blocks report, all blocks together; more would be a burden on the client.
MOST_COUNTED = 2**22


def budget_of(config: JobConfig, workers: Workers) -> Budget:
    """Return the budget as given, else a share of the workers' memory."""
    given = config.model.memory_budget
    if given is None and not workers.total_memory_bytes:
        raise ConfigError(
            f"model.memory_budget: missing; expected a size such as 2GiB, since nothing says how much memory "
            f"workers of {config.cluster.type} have before they run"
        )
    return Budget(given or workers.total_memory_bytes // DEFAULT_PART)


def open_input(config: InputConfig, budget: Budget) -> OpenedStore:
    """Open the input; the words of the configuration are those of `open_samples`."""
    arguments = config.model_dump(exclude={"store", "missing_chunks"})
    return open_samples(config.store, budget=budget, **arguments)


def label_grid(opened: OpenedStore) -> results.LabelGrid:
    """Return where labels go."""
    coords: dict[Hashable, Any] = {name: values for name, values in opened.coords.items() if name not in results.NAMES}
    return results.LabelGrid(opened.sample_dims, opened.shape, opened.label_chunks, coords)


def create_labels(
    opened: OpenedStore, stage: Stage, group: str, output: OutputConfig, n_clusters: int
) -> results.LabelSink:
    """Create the labels, all -1, and what else is asked for of each sample."""
    more = [results.DISTANCES] if output.distances else []
    more += [results.RUNNER_UP, results.MARGIN] if output.runner_up else []
    counts = opened.samples.grid.n_blocks * n_clusters <= MOST_COUNTED
    return results.create_labels(
        stage, group, label_grid(opened), aligned=opened.labels_aligned, more=more, counts=counts
    )


def some(names: Sequence[str]) -> str:
    """Return the first few names."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

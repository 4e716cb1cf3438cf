"""Mini-batch updates of centers (Sculley 2010), for data that arrives in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from daskmeans.jit import Float64s
from daskmeans.samples import Block, Rows
from daskmeans.seeding import weighted_choice

# A cluster with less weight than this share of the heaviest is starved: its center moves to a row of the batch.
STARVED = 0.01


@dataclass(frozen=True)
class Collect:
    """Bring all rows into memory: those of one batch."""

    def map(self, block: Block) -> list[Block]:
        """Return one block."""
        return [block]

    def merge(self, left: list[Block], right: list[Block]) -> list[Block]:
        """Put them one after another."""
        return left + right

    def finish(self, total: list[Block]) -> list[Block]:
        """Nothing is left to do."""
        return total


def rows_of(blocks: Sequence[Block]) -> tuple[Rows, Float64s]:
    """Return the rows of blocks, (n_rows, n_features), and their weights, (n_rows,)."""
    weights = [np.ones(block.n_rows) if block.weight is None else block.weight for block in blocks]
    return np.concatenate([block.X for block in blocks]), np.concatenate(weights)


class Batched(NamedTuple):
    """Centers and what they have seen.

    Attributes
    ----------
    centers : (n_clusters, n_features) float64.
    counts : (n_clusters,) float64, weight of the rows that moved each.
    since_reassigned : weight of the rows since starved clusters were looked for.
    """

    centers: Float64s
    counts: Float64s
    since_reassigned: float

    def moved_by(self, sums: Float64s, counts: Float64s) -> Batched:
        """Return centers moved to the means of all rows that they have seen, given a batch's sums and counts.

        That is Sculley's step with a learning rate of 1 / count for each row, all rows of the batch at once.
        """
        seen = self.counts + counts
        full = counts > 0
        centers = self.centers.copy()
        centers[full] = (centers[full] * self.counts[full, None] + sums[full]) / seen[full, None]
        return Batched(centers, seen, self.since_reassigned + float(counts.sum()))

    def reassigned(self, X: Rows, weight: Float64s, generator: np.random.Generator) -> Batched:
        """Return centers of which the starved ones are rows of the batch, as in scikit-learn's MiniBatchKMeans.

        It is done once in a while: after 10 rows for each cluster, or at once where a cluster is empty. At most half
        of the rows of the batch become centers; the new ones get the smallest weight of the others, so that they are
        not starved again at once.
        """
        n_clusters = len(self.centers)
        if self.since_reassigned < 10 * n_clusters and (self.counts > 0).all():
            return self
        starved = np.flatnonzero(self.counts < STARVED * self.counts.max())
        most = len(X) // 2
        starved = starved[np.argsort(self.counts[starved], kind="stable")][:most]
        centers, counts = self.centers.copy(), self.counts.copy()
        if len(starved):
            rows = np.unique(weighted_choice(weight, len(starved), generator))
            starved = starved[: len(rows)]
            centers[starved] = X[rows[: len(starved)]].astype(np.float64)
            others = np.delete(counts, starved)
            counts[starved] = others.min() if len(others) else 1.0
        return Batched(centers, counts, 0.0)

"""The Steps: what one pass computes of a block, how two results merge, what comes out.

Must not know of Dask or of where blocks come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from daskmeans import kernels, philox
from daskmeans.jit import Float64s, Int64s, read_only
from daskmeans.kernels import Stack
from daskmeans.moments import Moments, count_non_finite, moments
from daskmeans.samples import Block, Dropped, Region, Rows
from daskmeans.scan import Step

P = TypeVar("P")
Q = TypeVar("Q")
R = TypeVar("R")
S = TypeVar("S")

# Purposes of random words: the same seed gives independent words for each.
FOR_SAMPLE, FOR_UNIFORM, FOR_CORESET = 1, 2, 3
FOR_PARTITION, FOR_RECLUSTER, FOR_CANDIDATES, FOR_FROZEN = 2**20, 2**21, 2**22, 2**23


class RowSet(NamedTuple):
    """Some rows of the data.

    Attributes
    ----------
    row_ids : (n_rows,) int64.
    X : (n_rows, n_features) in the dtype of the data.
    weight : (n_rows,) float64, 1 where the data has no weights.
    """

    row_ids: Int64s
    X: Rows
    weight: Float64s

    @classmethod
    def of(cls, block: Block, rows: Int64s) -> RowSet:
        """Take the rows at these places of a block."""
        weight = np.ones(len(rows)) if block.weight is None else block.weight[rows]
        return cls(block.row_ids(rows), block.X[rows], weight)

    @classmethod
    def concatenate(cls, parts: Sequence[RowSet]) -> RowSet:
        """Put sets of rows one after another."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def distinct(self) -> RowSet:
        """Return the distinct rows in lexicographic order, each with the weight of all its copies."""
        X, first, copies = np.unique(self.X, axis=0, return_index=True, return_inverse=True)
        weight = np.bincount(copies.ravel(), self.weight).astype(np.float64)
        return RowSet(self.row_ids[first], X, weight)

    def take(self, rows: npt.NDArray[Any]) -> RowSet:
        """Take some of the rows."""
        return RowSet(self.row_ids[rows], self.X[rows], self.weight[rows])


@dataclass(frozen=True)
class Both(Generic[P, Q, R, S]):
    """Two Steps in one pass."""

    first: Step[P, R]
    second: Step[Q, S]

    def map(self, block: Block) -> tuple[P, Q]:
        """Map both."""
        return self.first.map(block), self.second.map(block)

    def merge(self, left: tuple[P, Q], right: tuple[P, Q]) -> tuple[P, Q]:
        """Merge both."""
        return self.first.merge(left[0], right[0]), self.second.merge(left[1], right[1])

    def finish(self, total: tuple[P, Q]) -> tuple[R, S]:
        """Finish both."""
        return self.first.finish(total[0]), self.second.finish(total[1])


@dataclass(frozen=True)
class Nothing:
    """Compute nothing: the Step beside it does."""

    def map(self, block: Block) -> None:
        """Compute nothing."""

    def merge(self, left: None, right: None) -> None:
        """Merge nothing."""

    def finish(self, total: None) -> None:
        """Finish nothing."""


# ---------------------------------------------------------------------------------------------------------------------
# The first look at the data


class Surveyed(NamedTuple):
    """What the first pass finds.

    Attributes
    ----------
    n_rows : rows, without those that were dropped.
    dropped : cells that are no rows, and why.
    n_eligible : rows that the sample is drawn from: those of positive weight.
    n_non_finite, first_non_finite : rows with a NaN or an infinity, and the id of the first; -1 if none.
    has_weights : whether rows have weights of their own.
    n_bad_weights, first_bad_weight : rows whose weight is negative, NaN or infinite, and the id of the first.
    moments, weighted : moments of the rows, unweighted and weighted.
    sample : uniform sample of the rows of positive weight, ordered by row id.
    """

    n_rows: int
    dropped: Dropped
    n_eligible: int
    n_non_finite: int
    first_non_finite: int
    has_weights: bool
    n_bad_weights: int
    first_bad_weight: int
    moments: Moments
    weighted: Moments
    sample: RowSet

    @property
    def n_dropped(self) -> int:
        """Number of cells that are no rows."""
        return self.dropped.total


@dataclass(frozen=True)
class Survey:
    """Count, check, take moments, and draw a uniform sample: the `sample_size` rows with the smallest random words.

    Attributes
    ----------
    n_samples : number of rows to draw from, at most, or None if unknown; it saves memory, since rows that cannot be in
        the sample are dropped at once.
    """

    sample_size: int
    seed: int
    n_samples: int | None

    def map(self, block: Block) -> tuple[Surveyed, list[RowSet], list[npt.NDArray[np.uint64]]]:
        """Survey one block."""
        row_ids = block.row_ids()
        n_bad, first_bad = count_non_finite(read_only(block.X))
        bad_weights = np.empty(0, dtype=np.int64)
        if block.weight is not None:
            bad_weights = np.flatnonzero(~(np.isfinite(block.weight) & (block.weight >= 0)))
        eligible = np.ones(block.n_rows, dtype=np.bool_) if block.weight is None else block.weight > 0
        plain = moments(block.X, None)
        counted = Surveyed(
            n_rows=block.n_rows,
            dropped=block.dropped,
            n_eligible=int(eligible.sum()),
            n_non_finite=n_bad,
            first_non_finite=int(row_ids[first_bad]) if n_bad else -1,
            has_weights=block.weight is not None,
            n_bad_weights=len(bad_weights),
            first_bad_weight=int(row_ids[bad_weights[0]]) if len(bad_weights) else -1,
            moments=plain,
            weighted=plain if block.weight is None else moments(block.X, block.weight),
            sample=RowSet.of(block, np.empty(0, dtype=np.int64)),
        )
        words = philox.random_words(self.seed, FOR_SAMPLE, row_ids)
        chosen = np.flatnonzero((words <= self._threshold()) & eligible)
        if len(chosen) > self.sample_size:
            chosen = np.sort(chosen[np.argpartition(words[chosen], self.sample_size)[: self.sample_size]])
        return counted, [RowSet.of(block, chosen)], [words[chosen]]

    def _threshold(self) -> np.uint64:
        """Return a word that the largest of the sample exceeds with a probability below 1e-9."""
        largest = np.iinfo(np.uint64).max
        if not self.n_samples:
            return np.uint64(largest)
        expected = self.sample_size + 6 * self.sample_size**0.5 + 20
        return np.uint64(min(int(largest), int(largest) * int(expected) // self.n_samples))

    def merge(self, left: Any, right: Any) -> Any:
        """Merge what two runs of blocks hold; draw the sample again when it grows too long."""
        (a, a_rows, a_words), (b, b_rows, b_words) = left, right
        counted = Surveyed(
            n_rows=a.n_rows + b.n_rows,
            dropped=a.dropped.plus(b.dropped),
            n_eligible=a.n_eligible + b.n_eligible,
            n_non_finite=a.n_non_finite + b.n_non_finite,
            first_non_finite=a.first_non_finite if a.n_non_finite else b.first_non_finite,
            has_weights=a.has_weights or b.has_weights,
            n_bad_weights=a.n_bad_weights + b.n_bad_weights,
            first_bad_weight=a.first_bad_weight if a.n_bad_weights else b.first_bad_weight,
            moments=a.moments.merge(b.moments),
            weighted=a.weighted.merge(b.weighted),
            sample=a.sample,
        )
        rows, words = a_rows + b_rows, a_words + b_words
        if sum(map(len, words)) > 2 * self.sample_size:
            drawn, drawn_words = self._draw(rows, words)
            rows, words = [drawn], [drawn_words]
        return counted, rows, words

    def _draw(self, rows: list[RowSet], words: list[npt.NDArray[np.uint64]]) -> tuple[RowSet, npt.NDArray[np.uint64]]:
        drawn, keys = RowSet.concatenate(rows), np.concatenate(words)
        order = np.lexsort((drawn.row_ids, keys))[: self.sample_size]
        return drawn.take(order), keys[order]

    def finish(self, total: Any) -> Surveyed:
        """Draw the sample, and order it by row id, so that it does not depend on blocks."""
        counted, rows, words = total
        drawn, _ = self._draw(rows, words)
        return counted._replace(sample=drawn.take(np.argsort(drawn.row_ids)))  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------------------------------
# Assigning rows to centers


class Far(NamedTuple):
    """The rows farthest from their centers, model after model, farthest first.

    Attributes
    ----------
    model : (n_far,) int64, whose centers they are far from.
    sq_dist : (n_far,) float64, unweighted.
    label : (n_far,) int32, the cluster each lies in.
    rows : the rows.
    """

    model: npt.NDArray[np.int64]
    sq_dist: Float64s
    label: npt.NDArray[np.int32]
    rows: RowSet

    def take(self, places: npt.NDArray[Any]) -> Far:
        """Return those at some places."""
        return Far(self.model[places], self.sq_dist[places], self.label[places], self.rows.take(places))

    def farthest(self, n: npt.NDArray[np.int64]) -> Far:
        """Return the farthest of each model, `n` (n_models,); of equal ones those with the lowest row ids."""
        order = np.lexsort((self.rows.row_ids, -self.sq_dist, self.model))
        model = self.model[order]
        rank = np.arange(len(order)) - np.searchsorted(model, model)
        return self.take(order[rank < n[model]])

    def merge(self, other: Far, n: npt.NDArray[np.int64]) -> Far:
        """Return the farthest of both."""
        return Far(
            np.concatenate([self.model, other.model]),
            np.concatenate([self.sq_dist, other.sq_dist]),
            np.concatenate([self.label, other.label]),
            RowSet.concatenate([self.rows, other.rows]),
        ).farthest(n)

    def of_model(self, m: int) -> Far:
        """Return those of one model."""
        return self.take(np.flatnonzero(self.model == m))


class Assigned(NamedTuple):
    """What assigning all rows to the nearest center of each model of a stack yields.

    Attributes
    ----------
    sums : (n_centers, n_features) float64, weighted sums of the rows of each cluster.
    counts : (n_centers,) float64, their weights.
    inertia : (n_centers,) float64, their weighted squared distances.
    far : for each model as many rows as it has clusters: where empty clusters move to; None where none is empty, or
        nobody has asked.
    outputs : what the sink returned for each block, in order.
    """

    sums: Float64s
    counts: Float64s
    inertia: Float64s
    far: Far | None
    outputs: list[Any]


class Sink(Protocol):
    """Where the labels of a pass go. Picklable; called in the worker, once for each block."""

    def put(self, region: Region, labels: npt.NDArray[np.int32]) -> Any:
        """Take the labels of a block in its shape, -1 where a cell was dropped; what is returned goes to the caller."""


@runtime_checkable
class RowSink(Sink, Protocol):
    """A sink that tells more of the rows than their labels."""

    def put_rows(self, block: Block, labels: npt.NDArray[np.int32], centers: Float64s) -> Any:
        """Take the rows of a block, their labels, (n_rows,), and the centers, (n_clusters, n_features)."""


@dataclass(frozen=True)
class Assign:
    """Assign rows to the nearest center of each model.

    Attributes
    ----------
    stack : the centers.
    offset : (n_features,) float64, a point in the middle of the data.
    sink : takes the labels of model `sink_model`.
    finds_far : whether to find where empty clusters move to.
    """

    stack: Stack
    offset: Float64s
    sink: Sink | None = None
    sink_model: int = 0
    finds_far: bool = True

    def map(self, block: Block) -> Assigned:
        """Assign the rows of one block."""
        return self.collect(block, self.run(block, with_labels=self.sink is not None))

    def run(self, block: Block, **wanted: bool) -> kernels.Assignment:
        """Run the kernel on one block."""
        return kernels.assign(block.X, block.weight, self.stack, self.offset, **wanted)

    def collect(self, block: Block, found: kernels.Assignment) -> Assigned:
        """Return what is summed up over blocks, and hand the labels to the sink."""
        outputs = []
        if self.sink is not None:
            outputs.append(self._hand_over(self.sink, block, found.labels[self.sink_model]))
        far = self._far(block, found) if self.finds_far else None
        return Assigned(found.sums, found.counts, found.inertia, far, outputs)

    def _hand_over(self, sink: Sink, block: Block, labels: npt.NDArray[np.int32]) -> Any:
        if isinstance(sink, RowSink):
            return sink.put_rows(block, labels, self.stack.centers[self.stack.of_model(self.sink_model)])
        return sink.put(block.region, block.on_grid(labels, -1))

    @property
    def _n_clusters(self) -> npt.NDArray[np.int64]:
        return np.diff(self.stack.starts)

    def _far(self, block: Block, found: kernels.Assignment) -> Far:
        filled = np.flatnonzero(found.far_sq_dist >= 0)
        model = np.repeat(np.arange(self.stack.n_models), self._n_clusters)
        rows = RowSet.of(block, found.far_row[filled])
        far = Far(model[filled], found.far_sq_dist[filled], found.far_label[filled], rows)
        return far.farthest(self._n_clusters)

    def merge(self, left: Assigned, right: Assigned) -> Assigned:
        """Add up."""
        far = None if left.far is None or right.far is None else left.far.merge(right.far, self._n_clusters)
        return Assigned(
            left.sums + right.sums,
            left.counts + right.counts,
            left.inertia + right.inertia,
            far,
            left.outputs + right.outputs,
        )

    def finish(self, total: Assigned) -> Assigned:
        """Nothing is left to do."""
        return total


def split(found: Assigned, stack: Stack) -> list[Assigned]:
    """Return the part of each model of the stack."""
    parts = []
    for m, own in ((m, stack.of_model(m)) for m in range(stack.n_models)):
        counts = found.counts[own]
        far = None if found.far is None or (counts > 0).all() else found.far.of_model(m)
        parts.append(Assigned(found.sums[own], counts, found.inertia[own], far, []))
    return parts


@dataclass(frozen=True)
class Gather:
    """A sink that returns the labels to the caller."""

    def put(self, region: Region, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return the labels of one block."""
        return labels

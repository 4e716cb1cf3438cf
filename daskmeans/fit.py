"""A fit from samples to centers: survey, seed, polish, iterate, settle. Reads as the list of its passes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning

from daskmeans import seeding
from daskmeans.active import Choice
from daskmeans.bounds import BOUND_BYTES
from daskmeans.covariance import Scatter, projection
from daskmeans.jit import Float64s
from daskmeans.lloyd import BOUNDED, PLAIN, Method, Model, State, Stop, advance, farthest, lloyd, settle
from daskmeans.memory import SAMPLE_MIN_ROWS, WEIGHT_BYTES
from daskmeans.moments import Moments, moments
from daskmeans.options import FitOptions, check_centers, rounded
from daskmeans.packed import packed_row_bytes
from daskmeans.samples import Dropped, Samples, Transform
from daskmeans.scan import PassReport, Scanner
from daskmeans.seeding import Polished, Seeds
from daskmeans.steps import Assigned, RowSet, Sink, Surveyed
from daskmeans.survey import chance_to_stay, check_surveyed, make_survey
from daskmeans.transforms import Chain, Normalize, Preparation, Standardize
from daskmeans.workers import one_blas_thread

# Iterations that active rows must be expected to last where passes cost arithmetic only.
MUST_LAST = 2.0

# Up to this many rows seeding does not depend on their order or on whether they are repeated or weighted: random
# numbers go to the distinct rows, sorted.
FEW_ROWS = 1024

# So many rows of a sample, for each candidate of k-means||, tell its weight; a pass need not.
KEPT_PER_CANDIDATE = 32

# Of rows that workers keep some may come into this process, this part of what the sample may take: then scans of them
# cost no task. On their way they take memory of the workers twice: with all of the sample's part one of two held up to
# 1015 MiB, with a fourth 933 MiB, without them 891 MiB.
SAMPLE_TO_BROUGHT = 4

# Blocks in memory are at least so many times as large as the sums of a pass, so that adding these up costs little.
BLOCK_TO_CENTERS = 4

# Below this many multiplications an iteration on the sample costs nothing, even where the sample is all the data.
TINY_ITERATION = 10**7


@dataclass(frozen=True)
class Fitted:
    """What a fit yields.

    Attributes
    ----------
    centers : (n_clusters, n_features) float64, in the input's units; where principal components were taken, the points
        of their subspace; for cosine, of length 1 unless features were scaled or projected before.
    scaled_centers : (n_clusters, n_scaled), where distances were measured.
    counts : (n_clusters,) float64, weight of each cluster.
    inertia_per_cluster : (n_clusters,) float64, weighted squared distances, where they were measured.
    n_iter : updates of the centers by passes over the data.
    moments : of the rows, weighted, in the input's units; for cosine without other preparation, of the directions.
    preparation : what was done to the features, the step to length 1 aside; None for nothing.
    outputs : what the sink returned for each block, in order.
    """

    centers: Float64s
    scaled_centers: Float64s
    counts: Float64s
    inertia_per_cluster: Float64s
    n_iter: int
    converged: bool
    n_rows: int
    dropped: Dropped
    moments: Moments
    preparation: Preparation | None
    history: list[PassReport]
    n_bytes: int
    outputs: list[Any] | None

    @property
    def inertia(self) -> float:
        """Weighted sum of squared distances to the nearest center, in scaled units."""
        return float(self.inertia_per_cluster.sum())


def fit(scanner: Scanner, options: FitOptions, sink: Sink | None = None, journal: Journal | None = None) -> Fitted:
    """Fit models of one number of clusters and return the best; `n_init` starts share every pass.

    Passes over the data: one to survey, which is the first iteration too where `init` is an array and features are
    taken as they are; one for k-means||, or those of `seeding.scalable`; at most one for each iteration; one for
    labels where a `sink` asks for them, else at most one for inertia: none after a look-ahead that has converged.
    """
    problem, models = solve(scanner, options, journal)
    best, outputs = settle(scanner, models, problem.offset, sink)
    return problem.fitted(best, scanner, outputs)


class Journal(Protocol):
    """Remembers how far an iteration has come, so that it can go on later, to the same bits."""

    @property
    def saved(self) -> State | None:
        """Where to go on; None to begin."""

    def surveyed(self, found: Surveyed) -> None:
        """Hear what the survey found, and raise if these are not the rows of the saved state."""

    def save(self, state: State) -> None:
        """Take note of the state after a pass."""


def solve(scanner: Scanner, options: FitOptions, journal: Journal | None) -> tuple[Problem, list[Model]]:
    """Survey, seed and iterate, all models in the same passes."""
    state = None if journal is None else journal.saved
    scanner.samples = scanner.samples.in_larger_blocks(BLOCK_TO_CENTERS * _centers_bytes(scanner.samples, options))
    if options.spherical and not options.prepares:
        scanner.transform(Normalize(scanner.samples.n_features))
    surveyed, scatter, found, kept = make_survey(scanner, options, resumes=state is not None)
    check_surveyed(surveyed, scanner.samples, max(options.n_clusters))
    if journal is not None:
        journal.surveyed(surveyed)
    preparation = _preparation(surveyed, scatter, options)
    problem = Problem.of(surveyed, preparation, options, scanner.samples.dtype)
    scanner.samples = replace(scanner.samples, n_samples=surveyed.n_rows + surveyed.n_dropped)
    if preparation is not None:
        scanner.transform(_transform(preparation, options))
        if kept is not None:
            kept.transform(_transform(preparation, options))
    if state is None:
        state = State(problem.start(scanner, found, kept))
        if journal is not None:
            journal.save(state)
    del kept  # active rows take its place
    save = None if journal is None else journal.save
    lloyd(scanner, state, problem.stop, problem.offset, problem.method(scanner), save)
    return problem, state.models


def _centers_bytes(samples: Samples, options: FitOptions) -> int:
    """Return the bytes of the sums of all models: what each block yields."""
    return 8 * sum(options.each_model) * samples.n_features


def _preparation(surveyed: Surveyed, scatter: Scatter | None, options: FitOptions) -> Preparation | None:
    """Return what is done to the features before rows are compared, by what the first pass has found of them."""
    if not options.prepares:
        return None
    features = Standardize.of(surveyed.weighted)
    if options.scale == "none":
        features = replace(features, scale=np.ones_like(features.scale))
    if options.pca is None or scatter is None:
        return features
    return projection(scatter, features, options.pca, whiten=options.whiten)


def _transform(preparation: Preparation, options: FitOptions) -> Transform:
    """Return what rows are seen through once they are known."""
    if not options.spherical:
        return preparation
    return Chain((preparation, Normalize(preparation.n_features_out)))


@dataclass(frozen=True)
class Problem:
    """What is known once the data has been surveyed, in the units that distances are measured in.

    Attributes
    ----------
    preparation : what is done to the features, if anything.
    sample : uniform sample of the rows.
    offset : (n_features,) float64, the mean of the rows, about.
    stop : when the iteration ends.
    """

    options: FitOptions
    surveyed: Surveyed
    preparation: Preparation | None
    sample: RowSet
    offset: Float64s
    stop: Stop
    dtype: np.dtype[Any]

    @classmethod
    def of(
        cls, surveyed: Surveyed, preparation: Preparation | None, options: FitOptions, dtype: np.dtype[Any]
    ) -> Problem:
        """State the problem."""
        offset, variance, sample = surveyed.moments.mean, surveyed.moments.variance, surveyed.sample
        if preparation is not None:
            sample = sample._replace(X=_transform(preparation, options).apply(sample.X))
            prepared = moments(sample.X, None)
            offset, variance = prepared.mean, prepared.variance
        if isinstance(preparation, Standardize) and not options.spherical:
            offset = (surveyed.moments.mean - preparation.mean) / preparation.scale
            variance = surveyed.moments.variance / preparation.scale**2
        stop = Stop(options.max_iter, options.tol * float(variance.mean()), options.spherical)
        return cls(options, surveyed, preparation, sample, offset, stop, dtype)

    def rounded(self, centers: npt.ArrayLike) -> Float64s:
        """Round centers to where they may lie, in the dtype of the rows."""
        return rounded(centers, self.dtype, spherical=self.options.spherical)

    def scaled(self, centers: Float64s) -> Float64s:
        """Bring centers from the input's units to those that distances are measured in."""
        return centers if self.preparation is None else self.preparation.apply(centers).astype(np.float64)

    def start(self, scanner: Scanner, found: list[Float64s] | Assigned | None, kept: Scanner | None) -> list[Model]:
        """Return the models where they start, given what the first pass has `found`, and `kept`, beside the survey."""
        if isinstance(found, Assigned):
            model = Model(self.rounded(np.asarray(self.options.init)))
            advance(model, found, self.stop, self.dtype)
            scanner.judge(model.total_inertia, model.sq_shift)
            if self.looks_ahead(scanner) and self.polishes and not model.converged:
                seeds = seeding.polish(self.sample, [[model.centers]], self.stop)
                ((centers, reach),) = self._polished_on_kept(scanner, seeds, kept)
                model.go_ahead(self.rounded(centers), to_better=model.total_inertia)
                model.reach = reach
            return [model]
        if found is None:
            with one_blas_thread():
                seeds = self._seeds(scanner, kept)
        else:
            seeds = [[self.scaled(centers)] for centers in found]
        if not self._seeds_are_polished and self.looks_ahead(scanner) and self.polishes:
            seeds = seeding.polish(self.sample, seeds, self.stop)
        polished = self._polished_on_kept(scanner, seeds, kept)
        return [Model(self.rounded(centers), reach=reach) for centers, reach in polished]

    def _polished_on_kept(self, scanner: Scanner, seeds: list[Seeds], kept: Scanner | None) -> list[Polished]:
        """Iterate further on the rows that are kept, if there are any, and return the best try of each model."""
        if kept is None:
            return [Polished(tries[0], None) for tries in seeds]
        rounded = [[self.rounded(centers) for centers in tries] for tries in seeds]
        share = chance_to_stay(scanner, self.options)
        rows = seeding.KeptRows(
            kept, share, self.surveyed.n_rows, self.options.budget.sample_bytes // SAMPLE_TO_BROUGHT
        )
        return seeding.polish_on_kept(rows, rounded, self.stop, self.offset)

    def _n_kept(self, scanner: Scanner) -> float:
        """Return about how many rows are kept beside the survey."""
        return chance_to_stay(scanner, self.options) * self.surveyed.n_rows

    def looks_ahead(self, scanner: Scanner) -> bool:
        """Whether to take the fewest passes, by whatever path, rather than plain Lloyd's trajectory."""
        algorithm = self.options.algorithm
        return algorithm == "lookahead" or (algorithm == "auto" and scanner.reads_each_pass)

    def _seeds(self, scanner: Scanner, kept: Scanner | None) -> list[Seeds]:
        """Return initial centers for each of the models; where they race, for each number of clusters."""
        options = self.options
        if not isinstance(options.init, str):
            return self._given_seeds()
        start = seeding.Start(
            options.each_model, self._seeding_sample(), self.surveyed.n_eligible, self.offset, options.seed
        )
        if options.init == "random":
            return seeding.random_rows(start)
        if options.init == "k-means||" and not self._all_sampled:
            if options.init_rounds != "auto":
                return self._joined(start.sample, self._scalable(scanner, start, kept))
            reads = scanner.reads_each_pass
            seeds, rows = seeding.on_coreset(
                scanner,
                start,
                oversampling_factor=options.oversampling_factor,
                kept=kept,
                stop=self.stop if reads or self.polishes else None,
                more_tries=seeding.CORESET_TRIES if reads else 0,
            )
            return seeding.join_starts(rows, seeds, self.offset) if options.race else seeds
        return self._joined(start.sample, seeding.plus_plus_on_sample(start))

    def _scalable(self, scanner: Scanner, start: seeding.Start, kept: Scanner | None) -> list[Seeds]:
        """Seed by k-means||, of as many rounds as were asked for."""
        options = self.options
        assert options.init_rounds != "auto"
        n_candidates = 1 + options.init_rounds * options.oversampling_factor * max(options.n_clusters)
        return seeding.scalable(
            scanner,
            start,
            oversampling_factor=options.oversampling_factor,
            rounds=options.init_rounds,
            kept=kept if self._n_kept(scanner) >= KEPT_PER_CANDIDATE * n_candidates else None,
        )

    def _joined(self, rows: RowSet, seeds: list[Seeds]) -> list[Seeds]:
        """Iterate from all tries on rows that stand for all, and let those of as many clusters race if asked for."""
        seeds = seeding.polish(rows, seeds, self.stop) if self.polishes else [tries[:1] for tries in seeds]
        return seeding.join_starts(rows, seeds, self.offset) if self.options.race else seeds

    @property
    def _seeds_are_polished(self) -> bool:
        init = self.options.init
        return isinstance(init, str) and init in ("k-means||", "k-means++")

    @property
    def _all_sampled(self) -> bool:
        """Whether the sample is all there is, and small: then k-means++ on it is what k-means|| approximates."""
        return len(self.sample.X) == self.surveyed.n_eligible <= FEW_ROWS

    def _seeding_sample(self) -> RowSet:
        """Return the sample; where it is all there is, so that a weight counts exactly as so many copies of a row."""
        return self.sample.distinct() if self._all_sampled else self.sample

    @property
    def polishes(self) -> bool:
        """Whether iterating on the sample is cheap beside iterating on the data."""
        n_sample = len(self.sample.X)
        products = n_sample * max(self.options.n_clusters) * self.sample.X.shape[1]
        return 2 * n_sample <= self.surveyed.n_rows or products <= TINY_ITERATION

    def method(self, scanner: Scanner) -> Method:
        """Return how to iterate: by active rows, within the budget, and ahead where each pass is a read."""
        if scanner.samples.in_memory:
            n_bytes = BOUND_BYTES * self.surveyed.n_rows * len(self.options.each_model)
            return BOUNDED if n_bytes <= self.options.budget.kept_bytes else PLAIN
        n_features, itemsize = self.sample.X.shape[1], self.dtype.itemsize
        row_bytes = n_features * itemsize + (WEIGHT_BYTES if self.surveyed.has_weights else 0)
        packed = packed_row_bytes(n_features, itemsize) / row_bytes
        share = self.options.budget.kept_bytes / (self.surveyed.n_rows * row_bytes)
        n_rows, reads, look_ahead = self.surveyed.n_rows, scanner.reads_each_pass, self.looks_ahead(scanner)
        n_sample = SAMPLE_MIN_ROWS if reads else min(SAMPLE_MIN_ROWS, n_rows // 32 + 1)
        sample = self.sample.X[:: -(-len(self.sample.X) // n_sample)]
        choice = Choice(sample, share, look_ahead, packed, must_last=0.0 if reads else MUST_LAST)
        return Method(
            choice,
            look_ahead,
            self.options.seed,
            farthest=farthest(min(1.0, share / packed)),
            settles=self.options.race,
        )

    def _given_seeds(self) -> list[Seeds]:
        """Return the centers that the caller gave, or those that the caller's function chooses from the sample."""
        init, n_features = self.options.init, self.sample.X.shape[1]
        if not callable(init):
            n_features = len(self.surveyed.moments.mean)
            return [[self.scaled(check_centers(init, self.options.n_clusters[0], n_features))]]
        random_state = np.random.RandomState(self.options.seed % 2**32)
        return [
            [check_centers(init(self.sample.X, k, random_state=random_state), k, n_features)]
            for k in self.options.each_model
        ]

    def fitted(self, model: Model, scanner: Scanner, outputs: list[Any] | None) -> Fitted:
        """Return what is told of a settled model."""
        assert model.inertia is not None
        assert model.counts is not None
        _warn_of_duplicates(model)
        return Fitted(
            centers=model.centers if self.preparation is None else self.preparation.inverse(model.centers),
            scaled_centers=model.centers,
            counts=model.counts,
            inertia_per_cluster=model.inertia,
            n_iter=model.n_iter,
            converged=bool(model.converged),
            n_rows=self.surveyed.n_rows,
            dropped=self.surveyed.dropped,
            moments=self.surveyed.weighted,
            preparation=self.preparation,
            history=scanner.history,
            n_bytes=scanner.n_bytes,
            outputs=outputs,
        )


def _warn_of_duplicates(model: Model) -> None:
    assert model.counts is not None
    n_clusters, n_distinct = len(model.counts), int((model.counts > 0).sum())
    if n_distinct < n_clusters:
        warnings.warn(
            f"Number of distinct clusters ({n_distinct}) found smaller than n_clusters ({n_clusters}). "
            f"Possibly due to duplicate points in X.",
            ConvergenceWarning,
            stacklevel=5,
        )

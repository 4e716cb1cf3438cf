"""A fit from samples to centers: survey, seed, polish, iterate, settle. Reads as the list of its passes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning

from daskmeans import seeding
from daskmeans.active import Choice
from daskmeans.errors import DataError
from daskmeans.kernels import Float64s, Moments, Stack
from daskmeans.lloyd import Method, Model, Stop, advance, lloyd, settle
from daskmeans.memory import ROW_OVERHEAD_BYTES, Budget
from daskmeans.samples import Rows, Samples
from daskmeans.scan import PassReport, Scanner
from daskmeans.steps import (
    FOR_PARTITION,
    Assign,
    Assigned,
    Both,
    RandomPartition,
    RowSet,
    Sink,
    Survey,
    Surveyed,
)

Init = str | npt.NDArray[Any] | Callable[..., npt.ArrayLike]
INIT_NAMES = ("k-means||", "k-means++", "random", "random-partition")

# With m rows for each cluster the inertia of centers fitted to the sample exceeds the optimum by about 1/m.
SAMPLE_ROWS_PER_CLUSTER = 2048
SAMPLE_MIN_ROWS = 2**16

AUTO_ROUNDS = 2

# More active rows than this share of all cost more arithmetic than they save.
MOST_ACTIVE = 0.25

# Below this many multiplications an iteration on the sample costs nothing, even where the sample is all the data.
TINY_ITERATION = 10**7


@dataclass(frozen=True)
class FitOptions:
    """What to fit; the words and their meaning are those of `KMeans`.

    Attributes
    ----------
    init : a name, centers (n_clusters, n_features) in the input's units, or a callable
        ``init(X, n_clusters, random_state)`` that is given the uniform sample.
    seed : of all random numbers.
    """

    n_clusters: int
    init: Init
    n_init: int
    max_iter: int
    tol: float
    seed: int
    oversampling_factor: float
    init_rounds: int | Literal["auto"]
    algorithm: Literal["lloyd", "lookahead", "auto"]
    budget: Budget
    scale: Literal["none", "standard"] = "none"


@dataclass(frozen=True)
class Fitted:
    """What a fit yields.

    Attributes
    ----------
    centers : (n_clusters, n_features) float64, in the input's units.
    scaled_centers : likewise, in the units that distances were measured in.
    counts : (n_clusters,) float64, weight of each cluster.
    inertia_per_cluster : (n_clusters,) float64, weighted squared distances, in scaled units.
    n_iter : updates of the centers by passes over the data.
    moments : of the rows, weighted, in the input's units.
    outputs : what the sink returned for each block, in order.
    """

    centers: Float64s
    scaled_centers: Float64s
    counts: Float64s
    inertia_per_cluster: Float64s
    n_iter: int
    converged: bool
    n_rows: int
    n_dropped: int
    moments: Moments
    scaling: Standardize | None
    history: list[PassReport]
    n_bytes: int
    outputs: list[Any] | None

    @property
    def inertia(self) -> float:
        """Weighted sum of squared distances to the nearest center, in scaled units."""
        return float(self.inertia_per_cluster.sum())


@dataclass(frozen=True)
class Standardize:
    """Scale each feature to mean 0 and variance 1.

    Attributes
    ----------
    mean, scale : (n_features,) float64.
    """

    mean: Float64s
    scale: Float64s

    @classmethod
    def of(cls, moments: Moments) -> Standardize:
        """Take mean and standard deviation; a constant feature is only shifted, as in scikit-learn."""
        scale = np.sqrt(moments.variance)
        rounding = 10 * np.finfo(np.float64).eps * np.abs(moments.mean)
        return cls(moments.mean, np.where(scale <= rounding, 1.0, scale))

    @property
    def n_features_out(self) -> int:
        """Number of features."""
        return len(self.mean)

    def apply(self, X: Rows) -> Rows:
        """Return scaled rows."""
        scaled: Rows = (X - self.mean.astype(X.dtype)) / self.scale.astype(X.dtype)
        return scaled

    def inverse(self, centers: Float64s) -> Float64s:
        """Return centers in the units of the input."""
        return centers * self.scale + self.mean


def sample_size(samples: Samples, n_clusters: int, budget: Budget) -> int:
    """Return how many rows the uniform sample has: enough for the clusters, within the budget."""
    row_bytes = samples.n_features * samples.dtype.itemsize + ROW_OVERHEAD_BYTES
    affordable = max(n_clusters, budget.sample_bytes // row_bytes)
    return min(max(SAMPLE_MIN_ROWS, SAMPLE_ROWS_PER_CLUSTER * n_clusters), affordable)


def fit(scanner: Scanner, options: FitOptions, sink: Sink | None = None) -> Fitted:
    """Fit one model; `n_init` starts share every pass.

    Passes over the data: one to survey, which is the first iteration too where `init` is an array and nothing is
    scaled; `init_rounds` + 1 to seed by k-means||; one for each iteration; one for inertia and labels.
    """
    surveyed, found = _survey(scanner, options)
    check_surveyed(surveyed, scanner.samples, options.n_clusters)
    scaling = Standardize.of(surveyed.weighted) if options.scale == "standard" else None
    if scaling is not None:
        scanner.transform(scaling)
    problem = Problem.of(surveyed, scaling, options, scanner.samples.dtype)
    if isinstance(found, Assigned):
        models = [Model(problem.rounded(np.asarray(options.init)))]
        _advance_by_survey(scanner, models[0], found, problem)
    else:
        seeds = found if found is not None else problem.seed(scanner)
        models = [Model(problem.rounded(centers)) for centers in seeds]
    lloyd(scanner, models, problem.stop, problem.offset, problem.method(scanner))
    best, outputs = settle(scanner, models, problem.offset, sink)
    assert best.inertia is not None
    assert best.counts is not None
    _warn(best, options)
    return Fitted(
        centers=best.centers if scaling is None else scaling.inverse(best.centers),
        scaled_centers=best.centers,
        counts=best.counts,
        inertia_per_cluster=best.inertia,
        n_iter=best.n_iter,
        converged=best.converged,
        n_rows=surveyed.n_rows,
        n_dropped=surveyed.n_dropped,
        moments=surveyed.weighted,
        scaling=scaling,
        history=scanner.history,
        n_bytes=scanner.n_bytes,
        outputs=outputs,
    )


def _survey(scanner: Scanner, options: FitOptions) -> tuple[Surveyed, list[Float64s] | Assigned | None]:
    """Make the first pass; it carries what needs nothing but the rows: a random partition, a first iteration."""
    samples, k = scanner.samples, options.n_clusters
    survey = Survey(sample_size(samples, k, options.budget), options.seed, samples.n_samples)
    if isinstance(options.init, str):
        if options.init != "random-partition":
            return scanner.scan(survey, "survey"), None
        purposes = tuple(FOR_PARTITION + i for i in range(options.n_init))
        partition = RandomPartition((k,) * options.n_init, purposes, options.seed)
        return scanner.scan(Both(survey, partition), "survey")
    if callable(options.init) or options.scale != "none":
        return scanner.scan(survey, "survey"), None
    centers = check_centers(options.init, k, samples.n_features).astype(samples.dtype)
    stack = Stack.of([centers.astype(np.float64)])
    assign = Assign(stack, stack.centers.mean(axis=0))
    return scanner.scan(Both(survey, assign), "survey and iteration")


def _advance_by_survey(scanner: Scanner, model: Model, found: Assigned, problem: Problem) -> None:
    """Make the iteration that the first pass has carried."""
    advance(model, found, problem.stop, problem.dtype)
    scanner.judge(model.total_inertia, model.sq_shift)


@dataclass(frozen=True)
class Problem:
    """What is known once the data has been surveyed, in the units that distances are measured in.

    Attributes
    ----------
    sample : uniform sample of the rows.
    offset : (n_features,) float64, the mean of the rows.
    stop : when the iteration ends.
    """

    options: FitOptions
    scaling: Standardize | None
    sample: RowSet
    n_rows: int
    offset: Float64s
    stop: Stop
    dtype: np.dtype[Any]

    @classmethod
    def of(
        cls,
        surveyed: Surveyed,
        scaling: Standardize | None,
        options: FitOptions,
        dtype: np.dtype[Any],
    ) -> Problem:
        """State the problem."""
        offset, variance, sample = surveyed.moments.mean, surveyed.moments.variance, surveyed.sample
        if scaling is not None:
            offset = (offset - scaling.mean) / scaling.scale
            variance = variance / scaling.scale**2
            sample = sample._replace(X=scaling.apply(sample.X))
        stop = Stop(options.max_iter, options.tol * float(variance.mean()))
        return cls(options, scaling, sample, surveyed.n_rows, offset, stop, dtype)

    def rounded(self, centers: npt.ArrayLike) -> Float64s:
        """Round centers to the dtype of the rows."""
        return np.asarray(centers).astype(self.dtype).astype(np.float64)

    def scaled(self, centers: Float64s) -> Float64s:
        """Bring centers from the input's units to those that distances are measured in."""
        return centers if self.scaling is None else self.scaling.apply(centers).astype(np.float64)

    def seed(self, scanner: Scanner) -> list[Float64s]:
        """Return initial centers for each of the models."""
        options = self.options
        if not isinstance(options.init, str):
            return self._given_seeds()
        n_clusters = (options.n_clusters,) * options.n_init
        start = seeding.Start(n_clusters, self.sample, self.offset, options.seed)
        if options.init == "random":
            return [tries[0] for tries in seeding.random_rows(start)]
        if options.init == "k-means++":
            seeds = seeding.plus_plus_on_sample(start)
        else:
            rounds = AUTO_ROUNDS if options.init_rounds == "auto" else options.init_rounds
            seeds = seeding.scalable(scanner, start, oversampling_factor=options.oversampling_factor, rounds=rounds)
        return seeding.polish(self.sample, seeds, self.stop) if self.polishes else [t[0] for t in seeds]

    @property
    def polishes(self) -> bool:
        """Whether iterating on the sample is cheap beside iterating on the data."""
        n_sample = len(self.sample.X)
        products = n_sample * self.options.n_clusters * self.sample.X.shape[1]
        return 2 * n_sample <= self.n_rows or products <= TINY_ITERATION

    def method(self, scanner: Scanner) -> Method:
        """Return how to iterate: by active rows, within the budget, and ahead where each pass is a read."""
        row_bytes = self.sample.X.shape[1] * self.dtype.itemsize + ROW_OVERHEAD_BYTES
        share = min(MOST_ACTIVE, self.options.budget.kept_bytes / (self.n_rows * row_bytes))
        every = -(-len(self.sample.X) // SAMPLE_MIN_ROWS)
        look_ahead = self.options.algorithm == "lookahead" or (
            self.options.algorithm == "auto" and scanner.reads_each_pass
        )
        return Method(Choice(self.sample.X[::every], share, sampled=look_ahead), look_ahead, self.options.seed)

    def _given_seeds(self) -> list[Float64s]:
        """Return the centers that the caller gave, or those that the caller's function chooses from the sample."""
        init, k = self.options.init, self.options.n_clusters
        n_features = self.sample.X.shape[1]
        if not callable(init):
            return [self.scaled(check_centers(init, k, n_features))]
        random_state = np.random.RandomState(self.options.seed % 2**32)
        return [
            check_centers(init(self.sample.X, k, random_state=random_state), k, n_features)
            for _ in range(self.options.n_init)
        ]


def check_centers(centers: Any, n_clusters: int, n_features: int) -> Float64s:
    """Return initial centers as float64, or raise ValueError if their shape is wrong."""
    given = np.asarray(centers, dtype=np.float64)
    if given.shape != (n_clusters, n_features):
        raise DataError(
            f"The shape of the initial centers {given.shape} does not match the number of clusters {n_clusters} and "
            f"the number of features of the data {n_features}."
        )
    if not np.isfinite(given).all():
        raise DataError("The initial centers contain NaN or infinity.")
    return given


def check_surveyed(surveyed: Surveyed, samples: Samples, n_clusters: int) -> None:
    """Raise DataError if the rows cannot be clustered."""
    source = samples.loader.source
    if surveyed.n_non_finite:
        raise DataError(
            f"Input X contains NaN or infinity in {surveyed.n_non_finite:,} of {surveyed.n_rows:,} rows, first in "
            f"{source.describe_row(surveyed.first_non_finite)}. Every value must be finite; drop such rows "
            f"(missing: drop in a configuration), or fill them."
        )
    if surveyed.n_bad_weights:
        raise DataError(
            f"{surveyed.n_bad_weights:,} weights are negative, NaN or infinite, first that of "
            f"{source.describe_row(surveyed.first_bad_weight)}. Weights must be finite and at least 0."
        )
    if surveyed.n_rows < n_clusters:
        dropped = f" ({surveyed.n_dropped:,} more were dropped as missing)" if surveyed.n_dropped else ""
        raise DataError(
            f"n_samples={surveyed.n_rows} should be >= n_clusters={n_clusters}{dropped}. "
            f"Ask for fewer clusters or give more data."
        )
    if not surveyed.weighted.weight > 0:
        raise DataError("All weights are 0. At least one row must have a positive weight.")


def _warn(model: Model, options: FitOptions) -> None:
    assert model.counts is not None
    n_distinct = int((model.counts > 0).sum())
    if n_distinct < options.n_clusters:
        warnings.warn(
            f"Number of distinct clusters ({n_distinct}) found smaller than n_clusters ({options.n_clusters}). "
            f"Possibly due to duplicate points in X.",
            ConvergenceWarning,
            stacklevel=4,
        )

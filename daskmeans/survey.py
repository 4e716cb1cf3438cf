"""The first pass: what it finds of the rows, what it carries beside, and whether rows can be clustered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from daskmeans.active import KeepUniform
from daskmeans.covariance import Covariance, Scatter
from daskmeans.drawing import RandomPartition
from daskmeans.errors import DataError
from daskmeans.jit import Float64s
from daskmeans.kernels import Stack
from daskmeans.memory import sample_size
from daskmeans.options import FitOptions, check_centers, rounded
from daskmeans.packed import packed_row_bytes
from daskmeans.samples import Samples
from daskmeans.scan import Scanner, Step
from daskmeans.steps import FOR_PARTITION, Assign, Assigned, Both, Nothing, Survey, Surveyed

# Less than this share of the sample that was asked for does not do.
ENOUGH_OF_SAMPLE = 0.25


class First(NamedTuple):
    """What the first pass finds.

    Attributes
    ----------
    scatter : of the rows, where they are to be projected.
    found : what the pass `carried` beside that, if it did.
    kept : a uniform sample of the rows, as large as active rows will be; None where passes need not read.
    """

    surveyed: Surveyed
    scatter: Scatter | None
    found: list[Float64s] | Assigned | None
    kept: Scanner | None


def make_survey(scanner: Scanner, options: FitOptions, *, resumes: bool) -> First:
    """Make the first pass; it carries what needs nothing but the rows."""
    samples = scanner.samples
    row_bytes = samples.n_features * samples.dtype.itemsize
    carried = _carried(options, samples)
    size = sample_size(row_bytes, max(options.n_clusters), options.budget)
    if isinstance(carried, Assign) and samples.in_memory and options.algorithm != "lookahead":
        size = 0  # there is nothing to seed, nor to look ahead from
    survey = Survey(size, options.seed, samples.n_samples)
    first = carried if carried is not None and not resumes else Nothing()
    beside: Step[Any, Any] = Both[Any, Any, Any, Any](Nothing() if options.pca is None else Covariance(), first)
    title = "survey and iteration" if isinstance(first, Assign) else "survey"
    step, chance, kept = Both(survey, beside), chance_to_stay(scanner, options), None
    if resumes or not chance:
        surveyed, (scatter, found) = scanner.scan(step, title)
    else:
        (surveyed, (scatter, found)), kept = scanner.scan_and_keep(KeepUniform(step, chance, options.seed), title)
    # Where the first pass carries more, there is no second survey; nor is there one when it is resumed.
    few = min(survey.sample_size, surveyed.n_eligible) * ENOUGH_OF_SAMPLE
    if carried is None and len(surveyed.sample.X) < few:
        # Most cells were dropped or weigh nothing, so that too few passed the threshold: now their number is known.
        surveyed = scanner.scan(replace(survey, n_samples=surveyed.n_eligible), "survey of few rows")
    return First(surveyed, scatter, found, kept)


def chance_to_stay(scanner: Scanner, options: FitOptions) -> float:
    """Return which part of the rows, packed, fits where active rows will be; 0 where nothing looks ahead on them."""
    samples = scanner.samples
    if options.algorithm == "lloyd" or not scanner.reads_each_pass or not samples.n_samples:
        return 0.0
    if options.spherical and options.prepares:
        return 0.0  # prepared rows may have no direction, which a pass over the rows themselves must find
    n_bytes = samples.n_samples * packed_row_bytes(samples.n_features, samples.dtype.itemsize)
    return min(1.0, options.budget.kept_bytes / n_bytes)


def _carried(options: FitOptions, samples: Samples) -> RandomPartition | Assign | None:
    """Return what the first pass can do beside the survey: a random partition, or a first iteration."""
    init = options.init
    if isinstance(init, str) or callable(init):
        if init != "random-partition":
            return None
        purposes = tuple(FOR_PARTITION + m for m in range(len(options.each_model)))
        return RandomPartition(options.each_model, purposes, options.seed)
    centers = check_centers(init, options.n_clusters[0], samples.n_features)
    if options.prepares:
        return None
    stack = Stack.of([rounded(centers, samples.dtype, spherical=options.spherical)])
    return Assign(stack, stack.centers.mean(axis=0))


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
        few = f"n_samples={surveyed.n_rows} should be >= n_clusters={n_clusters}"
        if surveyed.n_dropped:
            raise DataError(
                f"{few}: {surveyed.n_dropped:,} more were dropped ({surveyed.dropped}). Look at what is missing or "
                f"masked, or ask for fewer clusters."
            )
        raise DataError(f"{few}. Ask for fewer clusters or give more data.")
    if not surveyed.weighted.weight > 0:
        raise DataError("All weights are 0. At least one row must have a positive weight.")

"""Which number of clusters: models of several fitted in shared passes, scored, and compared."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from kneed import KneeLocator
from sklearn.metrics import adjusted_rand_score

from daskmeans import kernels
from daskmeans.errors import DataError
from daskmeans.estimator import KMeans
from daskmeans.fit import Fitted, Journal, solve
from daskmeans.inputs import resolve_budget, view
from daskmeans.kernels import Stack
from daskmeans.lloyd import Model, Stop
from daskmeans.metrics import measure, score_measured
from daskmeans.options import FitOptions
from daskmeans.scan import Scanner
from daskmeans.seeding import in_memory, plus_plus
from daskmeans.steps import FOR_RECLUSTER, RowSet
from daskmeans.validity import Gap, Scores, gap_of_sample

# Rows of the sample that the gap statistic clusters again and again, and sets of random rows that it compares with.
GAP_ROWS, GAP_REFERENCES = 1000, 10

# Purpose of the random numbers of `stability`: none that the fit uses.
FOR_STABILITY = FOR_RECLUSTER - 1


@dataclass(frozen=True)
class Selection:
    """Models of several numbers of clusters, and which number to take.

    Attributes
    ----------
    n_clusters : the numbers, ascending.
    fits : the best model of each.
    scores : of these.
    gap : the gap statistic, on a sample; of one cluster too where the numbers begin with 2.
    stability : for each number how alike the clusterings of a sample from several starts are, see `stability`.
    """

    n_clusters: tuple[int, ...]
    fits: list[Fitted]
    scores: list[Scores]
    gap: Gap
    stability: list[float]

    @property
    def suggestions(self) -> dict[str, int | None]:
        """What each criterion suggests; None where it does not decide.

        The silhouette of the sample has no vote of its own: it says what the simplified one says of all rows.
        """
        return {
            "knee of explained variation": knee(self.n_clusters, self._column("explained_variation")),
            "largest Calinski-Harabasz index": self._best("calinski_harabasz"),
            "smallest Davies-Bouldin index": self._best("davies_bouldin", -1),
            "largest simplified silhouette": self._best("simplified_silhouette"),
            "gap rule": self._gap_of_numbers.best,
        }

    @property
    def recommended(self) -> int:
        """What most criteria suggest; where as many suggest another, what the last of them does.

        Of blobs that overlap the gap rule tells the number best, and the knee worst: it comes early.
        """
        votes = Counter(k for k in reversed(self.suggestions.values()) if k is not None)
        return votes.most_common(1)[0][0] if votes else self.n_clusters[0]

    @property
    def reason(self) -> str:
        """Why this number is recommended, in a sentence."""
        named = {name: k for name, k in self.suggestions.items() if k is not None}
        if not named:
            return f"No criterion decides; {self.recommended} is the smallest number that was tried."
        agree = [name for name, k in named.items() if k == self.recommended]
        others = [f"{name}: {k}" for name, k in named.items() if k != self.recommended]
        rest = f" Others: {', '.join(others)}." if others else ""
        doubt = " By the gap rule there may be no clusters at all." if self.gap.best == 1 else ""
        return f"{len(agree)} of {len(named)} criteria suggest {self.recommended}: {', '.join(agree)}.{rest}{doubt}"

    @property
    def chosen(self) -> Fitted:
        """The best model of the recommended number."""
        return self.fits[self.n_clusters.index(self.recommended)]

    @property
    def table(self) -> pd.DataFrame:
        """All scores, a row for each number of clusters."""
        columns: dict[str, Any] = {
            name: self._column(name)
            for name in (
                "inertia",
                "explained_variation",
                "calinski_harabasz",
                "davies_bouldin",
                "simplified_silhouette",
                "silhouette",
                "silhouette_se",
            )
        }
        gap = self._gap_of_numbers
        columns |= {"gap": gap.gap, "gap_se": gap.error, "stability": self.stability}
        columns |= {name: [getattr(fitted, name) for fitted in self.fits] for name in ("n_iter", "converged")}
        return pd.DataFrame(columns, index=pd.Index(self.n_clusters, name="n_clusters"))

    @property
    def _gap_of_numbers(self) -> Gap:
        """The gap statistic of the numbers that were tried."""
        tried = slice(-len(self.n_clusters), None)
        return Gap(self.gap.n_clusters[tried], self.gap.gap[tried], self.gap.error[tried])

    def _column(self, name: str) -> list[float]:
        return [getattr(scores, name) for scores in self.scores]

    def _best(self, name: str, sign: int = 1) -> int | None:
        values = sign * np.array(self._column(name))
        return None if np.isnan(values).all() else self.n_clusters[int(np.nanargmax(values))]


def knee(n_clusters: Sequence[int], explained_variation: Sequence[float]) -> int | None:
    """Return where explained variation bends most (Satopaa et al. 2011), or None where it does not.

    It lies within the numbers that were tried, so that it is where the eye finds it on the curve: try one cluster too
    if two may be the answer.
    """
    ks, values = list(n_clusters), list(explained_variation)
    if len(ks) < 3 or not np.isfinite(values).all() or values[0] == values[-1]:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where there is no knee
        found = KneeLocator(ks, values, curve="concave", direction="increasing").knee
    return None if found is None else int(found)


def select(
    scanner: Scanner, options: FitOptions, *, sample_size: int, gap: bool = True, journal: Journal | None = None
) -> Selection:
    """Fit models of each of ``options.n_clusters``, score them, and compare.

    Where each pass reads the data, the starts of each number race on the sample of the fit and only the best goes on:
    so all the memory for active rows is for models that count.

    Passes over the data: those of the slowest model, one for inertia and scores, and one more where it is not known
    before what the means of the clusters are: active rows mostly tell, see `Model.means`.
    """
    ks = tuple(sorted(set(options.n_clusters)))
    race = options.race or scanner.reads_each_pass
    problem, models = solve(scanner, replace(options, n_clusters=ks, race=race), journal)
    centers, means = [model.centers for model in models], [model.means for model in models]
    measured = measure(scanner, centers, means=means, sample_size=sample_size, seed=options.seed)
    for model, spread in zip(models, measured.spreads, strict=True):
        model.inertia, model.counts, model.settled = spread.inertia, spread.counts, True
    best = [_best(models, k) for k in ks]
    scores = score_measured(scanner, measured.take(best), with_silhouette=True)
    sample = measured.surveyed.sample
    few = _part(sample, GAP_ROWS, options.seed)
    with_one = (1, *ks) if ks[0] == 2 else ks
    undecided = Gap(np.array(ks), np.full(len(ks), np.nan), np.full(len(ks), np.nan))
    return Selection(
        n_clusters=ks,
        fits=[problem.fitted(models[m], scanner, None) for m in best],
        scores=scores,
        gap=gap_of_sample(few, with_one, GAP_REFERENCES, options.seed) if gap else undecided,
        stability=stability(sample, ks, options.n_init, options.seed, spherical=options.spherical),
    )


def _best(models: Sequence[Model], k: int) -> int:
    """Return which model of `k` clusters has the lowest inertia."""
    return min((m for m, model in enumerate(models) if len(model.centers) == k), key=lambda m: models[m].total_inertia)


def _part(sample: RowSet, n_rows: int, seed: int) -> RowSet:
    """Return a uniform part of a sample."""
    if len(sample.X) <= n_rows:
        return sample
    return sample.take(np.sort(np.random.default_rng(seed).permutation(len(sample.X))[:n_rows]))


def stability(
    sample: RowSet, n_clusters: Sequence[int], n_init: int, seed: int, *, spherical: bool = False
) -> list[float]:
    """Fit `n_init` models of each number of clusters to a sample, and say how alike they are.

    Returns
    -------
    For each number the mean adjusted Rand index (Hubert & Arabie 1985) of each two models: 1 where all starts end
    alike; NaN for one start.
    """
    if n_init < 2:
        return [np.nan] * len(n_clusters)
    generator = np.random.Generator(np.random.Philox(key=[seed, FOR_STABILITY]))
    X = np.ascontiguousarray(sample.X)
    starts = [X[plus_plus(X, sample.weight, k, generator)] for k in n_clusters for _ in range(n_init)]
    models = in_memory(X, sample.weight, starts, Stop(100, 1e-4 * float(X.var(axis=0).mean()), spherical))
    stack = Stack.of([model.centers for model in models])
    labels = kernels.assign(X, None, stack, X.mean(axis=0, dtype=np.float64), with_labels=True).labels
    alike = []
    for begin in range(0, len(models), n_init):
        pairs = itertools.combinations(labels[begin : begin + n_init], 2)
        alike.append(float(np.mean([adjusted_rand_score(a, b) for a, b in pairs])))
    return alike


# ---------------------------------------------------------------------------------------------------------------------
# As its users meet it


@dataclass(frozen=True)
class Sweep:
    """What `sweep` found.

    Attributes
    ----------
    table : pandas DataFrame of all scores, indexed by ``n_clusters``.
    recommended : the number of clusters that most criteria suggest.
    reason : which do.
    suggestions : what each criterion suggests.
    models : the fitted `KMeans` of each number of clusters.
    scores : for each number the scores, those of each cluster among them.
    n_passes : passes over the data, in all.
    """

    table: pd.DataFrame
    recommended: int
    reason: str
    suggestions: dict[str, int | None]
    models: dict[int, KMeans]
    scores: dict[int, Scores]
    n_passes: int

    @property
    def best_model(self) -> KMeans:
        """The model of the recommended number of clusters."""
        return self.models[self.recommended]

    def plot(self) -> Any:
        """Draw the elbow and all scores, and return the axes, (2, 4)."""
        from daskmeans import plots

        return plots.sweep_scores(self)

    def __repr__(self) -> str:
        return f"{self.table.to_string(float_format='{:.6g}'.format)}\nRecommended: {self.recommended}. {self.reason}"


def sweep(
    X: Any,
    n_clusters: Sequence[int] = range(2, 13),
    *,
    n_init: int = 4,
    random_state: Any = 0,
    sample_weight: Any = None,
    sample_dims: Sequence[str] | None = None,
    sample_size: int = 4096,
    gap: bool = True,
    **parameters: Any,
) -> Sweep:
    """Fit models of several numbers of clusters to `X` in shared passes, score them, and recommend a number.

    Passes over the data: those that the slowest of the models takes, and one or two for the scores of all.

    Parameters
    ----------
    X, sample_weight, sample_dims : as for `KMeans.fit`.
    n_clusters : the numbers to try; the rule of the gap statistic compares neighbours, so give consecutive ones.
    n_init : starts of each; the best is scored. Where `X` is read again in each pass, they race on a sample. As many
        fits to a sample tell how stable each number is.
    random_state : seed.
    sample_size : rows of the uniform sample for silhouettes and stability; time grows by its square.
    gap : whether the gap statistic is computed, which clusters 1,000 rows many times.
    parameters : others of `KMeans`.

    Examples
    --------
    >>> import daskmeans
    >>> from sklearn.datasets import make_blobs
    >>> X, _ = make_blobs(300, centers=[[0, 0], [9, 0], [0, 9]], random_state=0)
    >>> found = daskmeans.sweep(X, range(2, 7))
    >>> found.recommended, found.best_model.n_clusters
    (3, 3)
    """
    ks = [int(k) for k in n_clusters]
    if not ks or min(ks) < 1:
        raise DataError(f"n_clusters is {ks}; expected numbers of clusters, each at least 1.")
    viewer = KMeans(max(ks), n_init=n_init, random_state=random_state, **parameters)
    viewer._validate_params()
    if not isinstance(viewer.init, str) and not callable(viewer.init):
        raise DataError("init is an array of centers, which cannot serve several numbers of clusters; name a seeding.")
    budget = resolve_budget(viewer.memory_budget)
    samples, X = view(viewer, X, sample_weight, budget, sample_dims=sample_dims, reset=True)
    scanner = Scanner.within(samples, budget)
    options = replace(viewer._options(samples.share(budget)), n_clusters=tuple(ks))
    found = select(scanner, options, sample_size=sample_size, gap=gap)
    models = {}
    for k, fitted in zip(found.n_clusters, found.fits, strict=True):
        models[k] = copy.copy(viewer).set_params(n_clusters=k)
        models[k]._adopt(fitted, samples.dtype, X)
    return Sweep(
        table=found.table,
        recommended=found.recommended,
        reason=found.reason,
        suggestions=found.suggestions,
        models=models,
        scores=dict(zip(found.n_clusters, found.scores, strict=True)),
        n_passes=scanner.n_passes,
    )

"""KMeans: scikit-learn's contract, on arrays in memory, Dask and Zarr. Owns the defaults and checks the parameters."""

from __future__ import annotations

import functools
import json
import numbers
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import fsspec
import numpy as np
import numpy.typing as npt
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
    clone,
)
from sklearn.cluster import KMeans as ScikitKMeans
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from daskmeans import inputs, kernels
from daskmeans.errors import DataError
from daskmeans.fit import Fitted, fit
from daskmeans.inputs import StaysLazy, finite_rows, resolve_budget
from daskmeans.jit import Float64s
from daskmeans.kernels import Stack
from daskmeans.labelled import centers_dataset, label_samples, labels_on_grid, measure_samples
from daskmeans.memory import Budget
from daskmeans.minibatch import Batched, Collect, rows_of
from daskmeans.options import INIT_NAMES, FitOptions
from daskmeans.samples import Rows, row_dtype, samples_from_array
from daskmeans.scan import PassReport, Scanner
from daskmeans.steps import Assign, Both, Gather, Survey
from daskmeans.stores import OpenedStore
from daskmeans.survey import check_surveyed
from daskmeans.transforms import Normalize, on_sphere

FORMAT = "daskmeans model, version 1"


class KMeans(
    StaysLazy,
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    ClusterMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """k-means for data that does not fit in memory, with scikit-learn's interface.

    Parameters
    ----------
    n_clusters : int
        Number of clusters.
    init : {"k-means||", "k-means++", "random", "random-partition"}, array or callable
        Where the iteration starts. ``"k-means||"``: Bahmani et al. 2012, over all rows; ``"k-means++"``: greedy, on a
        uniform sample in memory; both are followed by iterations on the sample, which cost no pass. ``"random"``:
        distinct rows; ``"random-partition"``: every row goes to a random cluster, the means are the centers. An array
        gives the centers, (n_clusters, n_features). A callable ``init(X, n_clusters, random_state)`` gets the sample.
    metric : {"euclidean", "cosine"}
        "cosine" is spherical k-means (Dhillon & Modha 2001), for embeddings: rows and centers are brought to length 1,
        so that only their directions count. Inertia and distances are those between points of the unit sphere: a
        squared distance is ``2 - 2 cos``, the inertia twice the weighted sum of ``1 - cos``. A row of zeros has no
        direction and raises a DataError.
    n_init : int or "auto"
        Number of starts; the one with the lowest inertia wins. All share each pass over the data. "auto" is 10
        for "random" and callables, else 1.
    max_iter : int
        Updates of the centers, at most.
    tol : float
        Stop when the squared shifts of the centers, summed over clusters, are at most `tol` times the mean variance
        of the features. 0 runs until no label changes.
    verbose : int
        Above 0, print a line for each pass.
    random_state : int, RandomState or None
        Seed. An int gives the same bits every time, on any number of workers.
    oversampling_factor : float
        For "k-means||": rows drawn in each round, as a multiple of `n_clusters`.
    init_rounds : int or "auto"
        For "k-means||": number of rounds, each a pass over the data, and one that weighs what they drew. "auto" is one
        pass: it draws the candidates of a round, and rows that stand for all, on which more starts are tried.
    algorithm : {"auto", "lloyd", "lookahead"}
        "lloyd" is plain Lloyd's trajectory, from fewer passes; "lookahead" takes the fewest passes to a fixed point of
        Lloyd's iteration, by another path; "auto" is "lloyd" where the rows are kept in memory, else "lookahead".
    memory_budget : int, str or None
        Bytes for all workers together, as a number or as in ``"2GiB"``. Above 128 MiB, up to 512 MiB of it are for
        Python and the libraries of one process; the rest is for rows. Input that fits in 5/8 of that is read once and
        kept; larger input is read in each pass, and the rows that can still change cluster are kept between passes.
        None takes a quarter of the memory of the workers, or of this machine.

    Attributes
    ----------
    cluster_centers_ : (n_clusters, n_features) array in the dtype of the rows.
    labels_ : (n_samples,) int32; NumPy for input in memory, else a lazy Dask array in the row chunks of the input.
    inertia_ : float, weighted sum of squared distances to the nearest center.
    inertia_per_cluster_ : (n_clusters,) float64.
    counts_ : (n_clusters,) float64, weight of each cluster.
    n_iter_ : int, updates of the centers by passes over the data; iterations on the sample are not counted.
    n_passes_ : int, passes over the data, seeding and the final one included.
    converged_ : bool, whether the last update met `tol`.
    history_ : a report for each pass: what it was for, bytes, seconds, inertia, center shift. It is not saved.
    n_features_in_ : int
    centers_ : for data with named dimensions, an xarray Dataset: the centers, by ``cluster`` and feature dimensions.
    n_dropped_ : for data with named dimensions: samples that were dropped as missing; their label is -1.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskmeans import KMeans
    >>> X = da.concatenate([da.zeros((500, 2)), da.ones((500, 2))])
    >>> model = KMeans(n_clusters=2, random_state=0).fit(X)
    >>> sorted(model.cluster_centers_[:, 0].tolist())
    [0.0, 1.0]
    >>> model.labels_
    dask.array<labels, shape=(1000,), dtype=int32, chunksize=(500,), chunktype=numpy.ndarray>
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_clusters": [Interval(numbers.Integral, 1, None, closed="left")],
        "init": [StrOptions(set(INIT_NAMES)), callable, "array-like"],
        "metric": [StrOptions({"euclidean", "cosine"})],
        "n_init": [StrOptions({"auto"}), Interval(numbers.Integral, 1, None, closed="left")],
        "max_iter": [Interval(numbers.Integral, 1, None, closed="left")],
        "tol": [Interval(numbers.Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "oversampling_factor": [Interval(numbers.Real, 0, None, closed="neither")],
        "init_rounds": [StrOptions({"auto"}), Interval(numbers.Integral, 0, None, closed="left")],
        "algorithm": [StrOptions({"auto", "lloyd", "lookahead"})],
        "memory_budget": [Interval(numbers.Integral, 1, None, closed="left"), str, None],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means||",
        metric: str = "euclidean",
        n_init: Any = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: Any = None,
        oversampling_factor: float = 2.0,
        init_rounds: Any = "auto",
        algorithm: str = "auto",
        memory_budget: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.metric = metric
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.oversampling_factor = oversampling_factor
        self.init_rounds = init_rounds
        self.algorithm = algorithm
        self.memory_budget = memory_budget

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, sample_dims: Sequence[str] | None = None
    ) -> Self:
        """Find the centers.

        Parameters
        ----------
        X : (n_samples, n_features) NumPy, Dask or Zarr array, or anything that NumPy makes an array of; or what
            `daskmeans.open_samples` returned, or an `xarray.DataArray` or `Dataset`. Then `labels_` is a DataArray
            on the sample dimensions, lazy unless `X` is in memory.
        y : ignored.
        sample_weight : (n_samples,) array, or None for 1. For xarray a DataArray, the name of a variable, or
            ``"cos_latitude"``.
        sample_dims : for xarray, the dimensions whose cells are the samples; all others make the features.

        Raises
        ------
        DataError
            Where `X` holds NaN or infinity, or fewer rows than clusters.
        """
        self._validate_params()
        budget = resolve_budget(self.memory_budget)
        samples, X = inputs.view(self, X, sample_weight, budget, sample_dims=sample_dims, reset=True)
        scanner = Scanner.within(samples, budget, _Printer() if self.verbose else None)
        fitted = fit(scanner, self._options(samples.share(budget)), Gather() if samples.in_memory else None)
        self._adopt(fitted, samples.dtype, X)
        return self

    def partial_fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, sample_dims: Sequence[str] | None = None
    ) -> Self:
        """Move the centers by a batch of rows, which is taken into memory (Sculley 2010); the first batch seeds them.

        Each center is the weighted mean of the rows that it has been given so far. Centers that get hardly any rows
        move to rows of the batch, as in scikit-learn's MiniBatchKMeans. After `fit` it goes on from there.
        `inertia_` and `labels_` are those of the batch, at the centers before they moved.

        Parameters
        ----------
        X : whatever `fit` takes, (n_samples, n_features); the first must have at least `n_clusters` rows.
        sample_weight, sample_dims : as for `fit`.
        """
        self._validate_params()
        begins = not hasattr(self, "cluster_centers_")
        budget = resolve_budget(self.memory_budget)
        samples, X = inputs.view(self, X, sample_weight, budget, sample_dims=sample_dims, reset=begins)
        samples = samples.with_transform(self._normalize)
        surveyed, blocks = Scanner(samples).scan(Both(Survey(1, 0, samples.n_samples), Collect()), "batch")
        check_surveyed(surveyed, samples, n_clusters=1)
        rows, weight = rows_of(blocks)
        if begins:
            self._begin(rows, weight)
        seen = Batched(self.cluster_centers_.astype(np.float64), self.counts_, getattr(self, "_since_reassigned", 0.0))
        scanner = Scanner(samples_from_array(rows, weight))
        found = scanner.scan(Assign(Stack.of([seen.centers]), rows.mean(axis=0, dtype=np.float64), Gather()))
        generator = np.random.default_rng([self._batch_seed, self.n_iter_])
        moved = seen.moved_by(found.sums, found.counts).reassigned(rows, weight, generator)
        if self.metric == "cosine":
            moved = moved._replace(centers=on_sphere(moved.centers, seen.centers))
        self.inertia_per_cluster_, self.labels_ = found.inertia, np.concatenate(found.outputs)
        if isinstance(X, OpenedStore):
            self.labels_ = labels_on_grid(X, blocks, self.labels_)
            self.centers_ = centers_dataset(X, moved.centers.astype(rows.dtype))
        self.cluster_centers_ = moved.centers.astype(rows.dtype)
        self.counts_, self._since_reassigned = moved.counts, moved.since_reassigned
        self.inertia_ = float(found.inertia.sum())
        self.n_iter_ += 1
        self.n_passes_ += 1
        self.converged_ = False
        return self

    cluster_centers_: npt.NDArray[Any]
    labels_: Any
    counts_: Float64s
    n_iter_: int
    n_passes_: int
    _batch_seed = 0

    def _begin(self, rows: Rows, weight: Float64s) -> None:
        """Seed the centers by the first batch."""
        start = clone(self).set_params(max_iter=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            start.fit(rows, sample_weight=weight)
        self.cluster_centers_, self.counts_ = start.cluster_centers_, np.zeros(self.n_clusters)
        self.n_iter_ = self.n_passes_ = 0
        self._batch_seed = seed_of(self.random_state)
        self._n_features_out = self.n_clusters

    def to_sklearn(self) -> Any:
        """Return the model as a fitted `sklearn.cluster.KMeans`, without labels of rows that are not in memory."""
        check_is_fitted(self)
        if self.metric != "euclidean":
            raise DataError(
                f"scikit-learn's KMeans knows no metric={self.metric!r}. Put its Normalizer before a KMeans with "
                "metric='euclidean' in a pipeline, which comes close."
            )
        model = ScikitKMeans(self.n_clusters, n_init=1, init=np.array(self.cluster_centers_), max_iter=self.max_iter)
        model.set_params(tol=self.tol, random_state=self.random_state)
        model.cluster_centers_ = np.array(self.cluster_centers_)
        model.inertia_, model.n_iter_, model.n_features_in_ = self.inertia_, self.n_iter_, self.n_features_in_
        model._n_threads, model._n_features_out = 1, len(self.cluster_centers_)
        for name in ("labels_", "feature_names_in_"):
            if isinstance(getattr(self, name, None), np.ndarray):
                setattr(model, name, getattr(self, name))
        return model

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """Return a model with the centers of a fitted `sklearn.cluster.KMeans` or `MiniBatchKMeans`.

        `counts_` are numbers of rows, since a KMeans keeps no weights; a MiniBatchKMeans does, and its are taken.
        """
        if not isinstance(model, (ScikitKMeans, MiniBatchKMeans)):
            raise DataError(f"Got a {type(model).__name__}; expected scikit-learn's KMeans or MiniBatchKMeans.")
        check_is_fitted(model)
        centers = np.array(model.cluster_centers_)
        found = cls(len(centers), init=centers, n_init=1, tol=model.tol, random_state=model.random_state)
        found.cluster_centers_, found.n_features_in_ = centers, centers.shape[1]
        found.inertia_, found.n_passes_ = float(model.inertia_), 0
        # A MiniBatchKMeans that was fitted batch by batch knows no n_iter_, and one without compute_labels no labels_.
        found.n_iter_ = int(getattr(model, "n_iter_", getattr(model, "n_steps_", 0)))
        if hasattr(model, "labels_"):
            found.labels_ = np.asarray(model.labels_, dtype=np.int32)
        if isinstance(model, MiniBatchKMeans):
            found.counts_ = np.array(model._counts, dtype=np.float64)
        else:
            found.counts_ = np.bincount(found.labels_, minlength=len(centers)).astype(np.float64)
        found.inertia_per_cluster_ = np.full(len(centers), np.nan)
        found.converged_ = hasattr(model, "n_iter_") and found.n_iter_ < model.max_iter
        found._n_features_out = len(centers)
        if hasattr(model, "feature_names_in_"):
            found.feature_names_in_ = model.feature_names_in_
        return found

    def _options(self, budget: Budget) -> FitOptions:
        named, n_init = isinstance(self.init, str), self.n_init
        if n_init == "auto":
            n_init = 10 if callable(self.init) or (named and self.init == "random") else 1
        if not named and not callable(self.init) and n_init > 1:
            warnings.warn(
                f"Explicit initial center position passed: performing only one init in KMeans instead of "
                f"n_init={n_init}.",
                RuntimeWarning,
                stacklevel=3,
            )
            n_init = 1
        return FitOptions(
            n_clusters=(self.n_clusters,),
            init=self.init,
            n_init=n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            seed=seed_of(self.random_state),
            oversampling_factor=self.oversampling_factor,
            init_rounds=self.init_rounds,
            algorithm=self.algorithm,  # type: ignore[arg-type]
            metric=self.metric,  # type: ignore[arg-type]
            budget=budget,
        )

    def _adopt(self, fitted: Fitted, dtype: np.dtype[Any], X: Any) -> None:
        """Take over what was fitted to `X`."""
        self.cluster_centers_ = fitted.centers.astype(dtype)
        self.inertia_ = fitted.inertia
        self.inertia_per_cluster_ = fitted.inertia_per_cluster
        self.counts_ = fitted.counts
        self.n_iter_ = fitted.n_iter
        self.n_passes_ = len(fitted.history)
        self.history_ = list(fitted.history)
        self.converged_ = fitted.converged
        self._n_features_out = len(self.cluster_centers_)
        if isinstance(X, OpenedStore):
            X.found["n_dropped"] = self.n_dropped_ = fitted.dropped.total
            self.centers_ = centers_dataset(X, self.cluster_centers_)
        self.labels_ = self._labels_of(X) if fitted.outputs is None else np.concatenate(fitted.outputs)

    # Sample and feature dimensions of the data with named dimensions that was fitted.
    _layout: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None)

    def predict(self, X: Any) -> Any:
        """Return the nearest center of each row, (n_samples,) int32.

        NumPy for input in memory; for Dask and Zarr a lazy Dask array with the row chunks of `X`; for data with named
        dimensions a DataArray on its sample dimensions. One pass.
        """
        check_is_fitted(self)
        X, _ = inputs.named(self, X, None, resolve_budget(self.memory_budget), reset=False)
        return self._labels_of(X)

    def _labels_of(self, X: Any) -> Any:
        """Return the labels of rows whose names, if they have any, have been checked."""
        if isinstance(X, OpenedStore):
            return label_samples(self._seen(X), self.cluster_centers_.astype(np.float64))
        if inputs.is_lazy(X):
            centers = self.cluster_centers_.astype(np.float64)
            nearest = functools.partial(_nearest, centers=centers, normalize=self._normalize)
            return inputs.map_lazily(self, X, nearest, None, np.int32, "labels")
        samples = samples_from_array(inputs.rows_in_memory(self, X, reset=False), None)
        samples = samples.with_transform(self._normalize)
        return np.concatenate(Scanner(samples).scan(self._assign(Gather())).outputs)

    def transform(self, X: Any) -> Any:
        """Return the distances to all centers, (n_samples, n_clusters), in the dtype of the rows; lazy as `predict`.

        What is lazy or has named dimensions stays so, whatever was asked of `set_output`.
        """
        check_is_fitted(self)
        X, _ = inputs.named(self, X, None, resolve_budget(self.memory_budget), reset=False)
        if isinstance(X, OpenedStore):
            return measure_samples(self._seen(X), self.cluster_centers_)
        measure = functools.partial(_distances, centers=self.cluster_centers_, normalize=self._normalize)
        if inputs.is_lazy(X):
            return inputs.map_lazily(self, X, measure, len(self.cluster_centers_), row_dtype(X.dtype), "distances")
        return measure(inputs.rows_in_memory(self, X, reset=False))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return minus the inertia of `X`, so that greater is better. One pass over the data."""
        check_is_fitted(self)
        budget = resolve_budget(self.memory_budget)
        samples, _ = inputs.view(self, X, sample_weight, budget, reset=False)
        inertia = float(Scanner(samples.with_transform(self._normalize)).scan(self._assign(None)).inertia.sum())
        if not np.isfinite(inertia):
            raise DataError("Input X contains NaN or infinity, or its weights do. Every value must be finite.")
        return -inertia

    @property
    def _normalize(self) -> Normalize | None:
        """What rows are seen through, if anything."""
        return Normalize(self.n_features_in_) if self.metric == "cosine" else None

    def _seen(self, opened: OpenedStore) -> OpenedStore:
        """Return the same data, its rows as they are compared with the centers."""
        return replace(opened, samples=opened.samples.with_transform(self._normalize))

    def _assign(self, sink: Gather | None) -> Assign:
        centers = self.cluster_centers_.astype(np.float64)
        return Assign(Stack.of([centers]), centers.mean(axis=0), sink)

    def save(self, path: str | Path, storage_options: Mapping[str, Any] | None = None) -> None:
        """Write the fitted model to a file of plain arrays and JSON: no pickle, and nothing of length n_samples.

        `path` may be a URL, for which `storage_options` are passed to fsspec.
        """
        check_is_fitted(self)
        arrays = {name: getattr(self, name) for name in _SAVED_ARRAYS}
        params = self.get_params()
        if not isinstance(self.init, str):
            params["init"] = None if callable(self.init) else np.asarray(self.init, np.float64).tolist()
        if not isinstance(self.random_state, numbers.Integral):
            params["random_state"] = None
        header = {
            "format": FORMAT,
            "params": params,
            **{name: getattr(self, name) for name in _SAVED_SCALARS},
            "feature_names_in_": getattr(self, "feature_names_in_", np.empty(0)).tolist(),
            "layout": self._layout,
        }
        with fsspec.open(str(path), "wb", **dict(storage_options or {})) as file:
            np.savez(file, header=np.array(json.dumps(header, default=_plain)), **arrays)


_SAVED_ARRAYS = ("cluster_centers_", "inertia_per_cluster_", "counts_")
_SAVED_SCALARS = ("inertia_", "n_iter_", "n_passes_", "converged_", "n_features_in_")


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's own, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot be written as JSON")


def load(path: str | Path, storage_options: Mapping[str, Any] | None = None) -> KMeans:
    """Return the model that `KMeans.save` wrote. Loading cannot run code: the file holds arrays and JSON only.

    `path` may be a URL, for which `storage_options` are passed to fsspec. Results of `daskmeans run` are for
    `open_results`.
    """
    try:
        with (
            fsspec.open(str(path), "rb", **dict(storage_options or {})) as file,
            np.lib.npyio.NpzFile(file, allow_pickle=False) as stored,
        ):
            header = json.loads(str(stored["header"]))
            if header["format"] == FORMAT:
                return _restored(header, {name: stored[name] for name in _SAVED_ARRAYS})
    except FileNotFoundError:
        raise DataError(f"No model at {path}.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is no model but a folder; results of `daskmeans run` are for open_results.") from None
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no model that KMeans.save wrote, or it is damaged: {error}") from error
    raise DataError(f"{path} holds {header['format']!r}; expected {FORMAT!r}.")


def _restored(header: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> KMeans:
    """Return the fitted model that a file describes."""
    params = header["params"]
    if params["init"] is None:
        del params["init"]
    elif not isinstance(params["init"], str):
        params["init"] = np.array(params["init"])
    model = KMeans(**params)
    for name, value in arrays.items():
        setattr(model, name, value)
    for name in _SAVED_SCALARS:
        setattr(model, name, header[name])
    if header["feature_names_in_"]:
        model.feature_names_in_ = np.array(header["feature_names_in_"], dtype=object)
    model._layout = tuple(header.get("layout", (None, None)))
    model._n_features_out = len(model.cluster_centers_)
    return model


def seed_of(random_state: Any) -> int:
    """Return the seed of a random state: an int is itself."""
    if isinstance(random_state, (int, np.integer)):
        check_random_state(random_state)
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _compared(X: npt.NDArray[Any], normalize: Normalize | None) -> Rows:
    """Return rows as they are compared with the centers, or raise DataError where they cannot be."""
    rows = finite_rows(X)
    return rows if normalize is None else normalize.apply(rows)


def _nearest(X: npt.NDArray[Any], *, centers: Float64s, normalize: Normalize | None) -> npt.NDArray[np.int32]:
    stack = Stack.of([centers])
    found = kernels.assign(_compared(X, normalize), None, stack, centers.mean(axis=0), with_labels=True)
    labels: npt.NDArray[np.int32] = found.labels[0]
    return labels


def _distances(X: npt.NDArray[Any], *, centers: npt.NDArray[Any], normalize: Normalize | None) -> npt.NDArray[Any]:
    rows = _compared(X, normalize)
    if not len(rows):  # scikit-learn measures no distances of an empty chunk
        return np.empty((0, len(centers)), dtype=rows.dtype)
    distances: npt.NDArray[Any] = euclidean_distances(rows, centers)
    return distances


class _Printer:
    """Prints a line for each pass."""

    def started(self, number: int, title: str, n_blocks: int) -> None:
        """Say nothing yet."""

    def advanced(self, n_blocks: int, n_bytes: int) -> None:
        """Say nothing yet."""

    def finished(self, report: PassReport) -> None:
        """Say what the pass was for."""
        print(f"Pass {report.number}, {report.title}: {report.elapsed_s:.2f} s.")

    def judged(self, report: PassReport) -> None:
        """Say what it found."""
        shift = "" if report.center_shift is None else f", squared center shift {report.center_shift:.6g}"
        print(f"Pass {report.number}, {report.title}: inertia {report.inertia:.9g}{shift}.")

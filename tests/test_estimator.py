"""KMeans as its users meet it: any input, any scheduler, clear errors, models that survive on disk."""

from __future__ import annotations

import json
import pickle
import zipfile

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from counting import counted
from sklearn.base import clone
from sklearn.cluster import KMeans as ScikitKMeans
from sklearn.cluster import kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

import daskmeans
from daskmeans import KMeans
from daskmeans.errors import DataError, SplitFeaturesWarning


@pytest.fixture(name="X")
def four_clusters(rng):
    """Four clusters that overlap a little, 600 x 3."""
    centers = rng.normal(scale=3, size=(4, 3))
    return centers[rng.integers(4, size=600)] + rng.normal(size=(600, 3))


def lazily(X, chunks=100):
    return da.from_array(X, chunks=(chunks, X.shape[1]))


# ---------------------------------------------------------------------------------------------------------------------
# The same answer everywhere


@pytest.mark.parametrize(
    ("init", "budget"),
    [("k-means||", "1GiB"), ("k-means||", 5000), ("k-means++", 5000), ("random-partition", "1GiB")],
)
def test_threads_processes_and_a_cluster_give_the_same_bits(X, client, init, budget):
    def centers_of(lazy):
        model = KMeans(4, init=init, n_init=2, max_iter=4, random_state=0, memory_budget=budget).fit(lazy)
        return model.cluster_centers_, model.inertia_, model.n_iter_

    lazy = lazily(X)
    with dask.config.set(scheduler="synchronous"):
        expected = centers_of(lazy)
    with dask.config.set(scheduler="threads"):
        found = [centers_of(lazy)]
    found.append(centers_of(lazy))
    client.wait_for_workers(1)  # one that was lost comes back
    with dask.annotate(workers=[next(iter(client.scheduler_info()["workers"]))], allow_other_workers=False):
        found.append(centers_of(lazy))
    for centers, inertia, n_iter in found:
        np.testing.assert_array_equal(centers, expected[0])
        assert (inertia, n_iter) == expected[1:]


def test_persisted_arrays_on_a_cluster_give_the_same_bits(X, client):
    expected = KMeans(4, random_state=0).fit(lazily(X))
    model = KMeans(4, random_state=0).fit(lazily(X).persist())
    np.testing.assert_array_equal(model.cluster_centers_, expected.cluster_centers_)
    np.testing.assert_array_equal(model.labels_, expected.labels_)


def test_kept_and_streamed_input_take_the_same_path(X):
    init = X[:4]
    kept, streamed = (KMeans(4, init=init, memory_budget=b, algorithm="lloyd").fit(lazily(X)) for b in ("1GiB", 2000))
    np.testing.assert_allclose(kept.cluster_centers_, streamed.cluster_centers_, rtol=1e-12)
    assert kept.n_iter_ == streamed.n_iter_


def test_an_array_in_memory_is_not_sent_to_the_cluster(X, client):
    def transitions():
        return client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)

    before = transitions()
    KMeans(4, random_state=0).fit(X)
    assert transitions() == before


@pytest.mark.parametrize("algorithm", ["lloyd", "auto"])
def test_a_streamed_pass_reads_each_chunk_once(X, algorithm):
    lazy, reads = counted(X, 100)
    with dask.config.set(scheduler="threads"):
        model = KMeans(4, random_state=0, memory_budget=2000, algorithm=algorithm).fit(lazy)
    assert len(reads) == 6
    assert set(reads.values()) == {model.n_passes_}


def test_input_that_fits_is_read_once_in_all(X):
    lazy, reads = counted(X, 100)
    with dask.config.set(scheduler="threads"):
        model = KMeans(4, random_state=0, memory_budget="1GiB").fit(lazy)
    assert model.n_passes_ > 2
    assert set(reads.values()) == {1}


def test_labels_of_dask_input_are_not_computed_by_fit(X):
    lazy, reads = counted(X, 100)
    model = KMeans(4, random_state=0).fit(lazy)
    assert model.labels_.chunks == lazy.chunks[:1]
    assert set(reads.values()) == {1}
    np.testing.assert_array_equal(model.labels_, KMeans(4, init=model.cluster_centers_, max_iter=1).fit(X).labels_)


# ---------------------------------------------------------------------------------------------------------------------
# Any input


def test_input_is_left_alone(X):
    before = X.copy()
    X.flags.writeable = False
    KMeans(4, random_state=0).fit(X)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("dtype", "expected"), [("f4", "f4"), ("f8", "f8"), ("f2", "f8"), ("i2", "f8"), ("u1", "f8")])
def test_dtypes_and_orders(X, order, dtype, expected):
    given = np.asarray(np.round(np.abs(X)), dtype=dtype, order=order)
    init = np.unique(given, axis=0)[:4]
    models = [KMeans(4, init=init).fit(x) for x in (given, lazily(given, 77))]
    for model in models:
        assert model.cluster_centers_.dtype == expected
        np.testing.assert_array_equal(model.labels_, models[0].labels_)
    assert models[0].inertia_ == pytest.approx(ScikitKMeans(4, init=init, n_init=1).fit(given).inertia_, rel=1e-5)


def test_a_zarr_array_gives_what_the_same_chunks_of_dask_give(X, tmp_path):
    stored = zarr.create_array(str(tmp_path / "x.zarr"), shape=X.shape, chunks=(100, 3), dtype=X.dtype)
    stored[:] = X
    weight = np.arange(600.0)
    model = KMeans(4, init=X[:4]).fit(stored, sample_weight=weight)
    expected = KMeans(4, init=X[:4]).fit(X, sample_weight=weight)
    np.testing.assert_allclose(model.cluster_centers_, expected.cluster_centers_, rtol=1e-12)
    assert isinstance(model.labels_, da.Array)
    np.testing.assert_array_equal(model.labels_, expected.labels_)
    np.testing.assert_array_equal(model.predict(stored), expected.labels_)
    np.testing.assert_allclose(model.transform(stored), expected.transform(X))
    assert model.score(stored, sample_weight=weight) == pytest.approx(-expected.inertia_)


@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_of_unknown_length_and_empty_ones(X, weighted):
    lazy = lazily(X)
    here = lazy[:, 0] > np.median(X[:, 0])
    part = X[X[:, 0] > np.median(X[:, 0])]
    weight = part[:, 1] ** 2 if weighted else None
    lazy_weight = lazy[here][:, 1] ** 2 if weighted else None
    model = KMeans(4, init=part[:4], algorithm="lloyd").fit(lazy[here], sample_weight=lazy_weight)
    expected = KMeans(4, init=part[:4]).fit(part, sample_weight=weight)
    np.testing.assert_allclose(model.cluster_centers_, expected.cluster_centers_, rtol=1e-9)
    np.testing.assert_array_equal(model.labels_.compute(), expected.labels_)


def test_chunks_without_rows(X):
    lazy = da.concatenate([lazily(X[:0], 1), lazily(X), lazily(X[:0], 1)])
    model = KMeans(4, init=X[:4]).fit(lazy)
    np.testing.assert_array_equal(model.labels_, KMeans(4, init=X[:4]).fit(X).labels_)
    np.testing.assert_array_equal(model.transform(lazy), model.transform(X))


def test_chunks_that_split_features_are_merged_with_a_warning(X):
    with pytest.warns(SplitFeaturesWarning, match="cut each row into 2 pieces"):
        model = KMeans(4, init=X[:4]).fit(da.from_array(X, chunks=(100, 2)))
    np.testing.assert_allclose(model.cluster_centers_, KMeans(4, init=X[:4]).fit(X).cluster_centers_)


def test_weights_equal_repetition(X):
    weight = np.random.default_rng(0).integers(0, 4, size=len(X))
    repeated = KMeans(4, init=X[:4]).fit(np.repeat(X, weight, axis=0))
    weighted = KMeans(4, init=X[:4]).fit(X, sample_weight=weight)
    np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_, rtol=1e-3)
    assert weighted.counts_.sum() == weight.sum()


@pytest.mark.parametrize("kind", [list, np.asarray, lambda w: da.from_array(w, chunks=250)])
def test_weights_of_any_kind(X, kind):
    weight = np.linspace(0, 1, len(X))
    expected = KMeans(4, init=X[:4]).fit(X, sample_weight=weight).cluster_centers_
    model = KMeans(4, init=X[:4]).fit(lazily(X), sample_weight=kind(weight))
    np.testing.assert_allclose(model.cluster_centers_, expected, rtol=1e-12)


def test_a_callable_init_chooses_from_the_sample(X):
    def init(sample, n_clusters, random_state):
        return kmeans_plusplus(sample, n_clusters, random_state=random_state)[0]

    model = KMeans(4, init=init, n_init=3, random_state=0).fit(lazily(X))
    assert model.inertia_ == pytest.approx(KMeans(4, n_init=3, random_state=0).fit(X).inertia_, rel=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# Attributes and methods


@pytest.mark.parametrize("make", [np.asarray, lazily])
def test_attributes_agree_with_each_other(X, make):
    x = make(X)
    model = KMeans(4, n_init=2, random_state=0).fit(x)
    assert model.inertia_ == pytest.approx(model.inertia_per_cluster_.sum())
    np.testing.assert_array_equal(model.counts_, np.bincount(model.labels_, minlength=4))
    np.testing.assert_array_equal(model.predict(x), model.labels_)
    np.testing.assert_array_equal(np.argmin(model.transform(x), axis=1), model.labels_)
    assert model.score(x) == pytest.approx(-model.inertia_)
    assert model.labels_.dtype == np.int32
    assert model.converged_
    assert model.n_features_in_ == 3
    assert list(model.get_feature_names_out()) == ["kmeans0", "kmeans1", "kmeans2", "kmeans3"]


def test_more_starts_are_never_worse(X):
    one, many = (KMeans(8, init="random", n_init=n, random_state=0).fit(X) for n in (1, 6))
    assert many.inertia_ <= one.inertia_


def test_verbose_prints_a_line_for_each_pass(X, capsys):
    model = KMeans(4, random_state=0, verbose=1).fit(lazily(X))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Pass 1, survey: ")
    assert any(line.startswith(f"Pass {model.n_passes_}, ") for line in lines)
    assert any("inertia" in line and "shift" in line for line in lines)


def test_silent_by_default(X, capsys):
    KMeans(4, random_state=0).fit(X)
    assert capsys.readouterr().out == ""


def test_models_are_cloned_and_pickled(X):
    model = KMeans(4, random_state=0, memory_budget="1GiB").fit(X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.labels_)
    assert clone(model).get_params() == model.get_params()


# ---------------------------------------------------------------------------------------------------------------------
# Clear errors


@pytest.mark.parametrize("make", [np.asarray, lazily])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("init", ["k-means||", "random-partition", "array"])
def test_missing_values_are_counted_and_the_first_is_named(X, make, bad, init):
    X[[140, 141, 599], [0, 1, 2]] = bad
    init = np.zeros((4, 3)) if init == "array" else init
    with pytest.raises(DataError, match=r"NaN or infinity in 3 of 600 rows, first in row 140\b"):
        KMeans(4, init=init).fit(make(X))


def test_missing_values_in_a_chunk_of_unknown_length_are_named(X):
    X[250, 1] = np.nan
    lazy = lazily(X)
    with pytest.raises(DataError, match="first in row 50 of chunk 2"):
        KMeans(4).fit(lazy[lazy[:, 0] == lazy[:, 0]])


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_weights_are_counted_on_dask_input(X, bad):
    weight = np.ones(600)
    weight[[7, 300]] = bad
    with pytest.raises(DataError, match=r"2 weights are negative, NaN or infinite, first that of row 7\b"):
        KMeans(4).fit(lazily(X), sample_weight=weight)


def test_negative_weights_are_refused(X):
    with pytest.raises(ValueError, match="weights are negative"):
        KMeans(4).fit(X, sample_weight=np.full(600, -1.0))


def test_weights_that_are_all_zero_are_refused(X):
    with pytest.raises(ValueError, match="All weights are 0"):
        KMeans(4).fit(lazily(X), sample_weight=np.zeros(600))


@pytest.mark.parametrize("make", [np.asarray, lazily])
def test_weights_of_the_wrong_length_are_refused(X, make):
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(599,\), expected \(600,\)"):
        KMeans(4).fit(make(X), sample_weight=np.ones(599))


@pytest.mark.parametrize("make", [np.asarray, lazily])
def test_more_clusters_than_rows_are_refused(X, make):
    with pytest.raises(ValueError, match="n_samples=3 should be >= n_clusters=4"):
        KMeans(4).fit(make(X[:3]))


@pytest.mark.parametrize("make", [np.asarray, lazily])
@pytest.mark.parametrize("init", ["k-means||", "k-means++", "random", "random-partition"])
def test_fewer_distinct_rows_than_clusters_warn(make, init):
    X = np.repeat([[0.0], [1.0], [5.0]], 40, axis=0)
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(3\) found smaller than n_clusters \(5\)"):
        model = KMeans(5, init=init, n_init=2, random_state=0).fit(make(X))
    assert model.inertia_ == 0.0
    assert {0.0, 1.0, 5.0} <= set(model.cluster_centers_.ravel())


@pytest.mark.parametrize("method", ["predict", "transform", "score"])
@pytest.mark.parametrize("make", [np.asarray, lazily])
def test_another_number_of_features_is_refused(X, method, make):
    model = KMeans(4, random_state=0).fit(X)
    with pytest.raises(ValueError, match="X has 2 features, but KMeans is expecting 3 features as input"):
        getattr(model, method)(make(X[:, :2]))


def test_missing_values_in_predict_are_refused(X):
    model = KMeans(4, random_state=0).fit(X)
    X[250, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.predict(X)
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 rows of a chunk, first in its row 50\b"):
        model.predict(lazily(X)).compute()


def test_methods_need_a_fit(X):
    for method in ("predict", "transform", "score"):
        with pytest.raises(NotFittedError):
            getattr(KMeans(), method)(X)


def test_arrays_that_are_no_matrix_are_refused():
    with pytest.raises(ValueError, match="Expected 2D array, got 3D"):
        KMeans(2).fit(da.zeros((4, 4, 4)))
    with pytest.raises(DataError, match="number of features of X is unknown"):
        KMeans(2).fit(da.zeros((4, 2), chunks=2).map_blocks(lambda rows: rows, chunks=((2, 2), (np.nan,))))
    with pytest.raises(ValueError, match="complex"):
        KMeans(2).fit(da.zeros((4, 4), dtype=complex))


def test_arrays_without_rows_or_features_are_refused():
    with pytest.raises(ValueError, match="n_samples=0 should be >= n_clusters=2"):
        KMeans(2).fit(da.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"Found array with 0 feature\(s\)"):
        KMeans(2).fit(da.zeros((10, 0)))


@pytest.mark.parametrize(("rows", "columns"), [(100, 2), (100, 4), (50, 3)])
def test_chunks_of_another_shape_than_announced_are_refused(X, rows, columns):
    lazy = lazily(X).map_blocks(lambda _: np.ones((rows, columns)), dtype=X.dtype, meta=np.empty((0, 0)))
    with pytest.raises(DataError, match=r"rows \d+ to \d+ of X were computed with shape .* expected \(100, 3\)"):
        KMeans(4).fit(lazy)


def test_masked_values_are_missing(X):
    lazy = da.ma.masked_greater(lazily(X), X.max() - 1e-9)
    with pytest.raises(DataError, match="NaN or infinity in 1 of 600 rows"):
        KMeans(4).fit(lazy)


@pytest.mark.parametrize(
    "params",
    [
        {"n_clusters": 0},
        {"init": "kmeans"},
        {"n_init": 0},
        {"max_iter": 0},
        {"tol": -1.0},
        {"oversampling_factor": 0},
        {"init_rounds": -1},
        {"algorithm": "elkan"},
        {"memory_budget": 0},
    ],
    ids=lambda params: next(iter(params)),
)
def test_invalid_parameters_are_refused(X, params):
    (name,) = params
    with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of KMeans must be"):
        KMeans(**params).fit(X)


def test_a_budget_that_is_no_size_is_refused(X):
    with pytest.raises(ValueError, match="'plenty' is not a size"):
        KMeans(4, memory_budget="plenty").fit(X)


@pytest.mark.parametrize("budget", [10**8, "100MB", "1.5 GiB", "64 kib"])
def test_budgets_are_numbers_or_sizes(X, budget):
    KMeans(4, memory_budget=budget, random_state=0).fit(lazily(X))


@pytest.mark.parametrize(
    ("init", "message"), [(np.zeros((3, 3)), "does not match the number of clusters"), (np.full((4, 3), np.nan), "NaN")]
)
def test_bad_initial_centers_are_refused(X, init, message):
    with pytest.raises(ValueError, match=message):
        KMeans(4, init=init).fit(X)


def test_initial_centers_need_one_start(X):
    with pytest.warns(RuntimeWarning, match="performing only one init"):
        KMeans(4, init=X[:4], n_init=3).fit(X)


# ---------------------------------------------------------------------------------------------------------------------
# Models on disk


def test_a_saved_model_comes_back(X, tmp_path):
    path = tmp_path / "model"
    model = KMeans(np.int64(4), random_state=np.int64(3), tol=np.float32(0.5), memory_budget="1GiB").fit(X)
    model.save(path)
    loaded = daskmeans.load(path)
    assert loaded.get_params() == model.get_params()
    for name in ("cluster_centers_", "inertia_per_cluster_", "counts_", "inertia_", "n_iter_", "n_passes_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
    assert loaded.cluster_centers_.dtype == model.cluster_centers_.dtype
    np.testing.assert_array_equal(loaded.predict(X), model.labels_)
    assert not hasattr(loaded, "labels_"), "a file as long as the data is not a model"


def test_a_saved_model_holds_no_pickle(X, tmp_path):
    KMeans(4, init=X[:4]).fit(X).save(tmp_path / "model")
    with np.load(tmp_path / "model", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored)
    np.testing.assert_array_equal(daskmeans.load(tmp_path / "model").init, X[:4])


def test_a_damaged_model_is_refused(X, tmp_path):
    path = tmp_path / "model"
    KMeans(4).fit(X).save(path)
    good = path.read_bytes()
    middle = good.find(b"NUMPY", 1000) + 200
    for damaged in (b"", b"hello", good[: len(good) // 2], good[:middle] + b"\xff\xff\xff" + good[middle + 3 :]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"no model that KMeans.save wrote, or it is damaged"):
            daskmeans.load(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="No model at"):
        daskmeans.load(tmp_path / "nothing")
    with pytest.raises(DataError, match="no model"):
        daskmeans.load(tmp_path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(DataError, match="no model"):
        daskmeans.load(tmp_path / "array.npy")
    (tmp_path / "pickle").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="no model"):
        daskmeans.load(tmp_path / "pickle")
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match="no model"):
        daskmeans.load(tmp_path / "archive")


@pytest.mark.parametrize(
    "header", [{"format": "daskmeans model, version 99"}, {"format": "daskmeans model, version 1"}]
)
def test_a_model_of_another_version_or_without_its_header_is_refused(tmp_path, header):
    arrays = {name: np.zeros((2, 2)) for name in ("cluster_centers_", "inertia_per_cluster_", "counts_")}
    with (tmp_path / "model").open("wb") as file:
        np.savez(file, header=np.array(json.dumps(header)), **arrays)
    with pytest.raises(DataError):
        daskmeans.load(tmp_path / "model")

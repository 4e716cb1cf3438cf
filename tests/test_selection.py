"""Which number of clusters: sweeps find it, say why, and read the data about as often as one fit."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, davies_bouldin_score

import daskmeans
from daskmeans import KMeans, metrics
from daskmeans.errors import DataError
from daskmeans.selection import Selection, knee
from daskmeans.validity import Gap

CENTERS = [[0, 0], [8, 0], [0, 8], [8, 8]]


@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
def test_a_sweep_finds_the_blobs_and_says_why(lazy):
    X, y = make_blobs(800, centers=CENTERS, random_state=0)
    data = da.from_array(X, chunks=((500, 250, 50), 2)) if lazy else X
    found = daskmeans.sweep(data, range(2, 8), n_init=3)
    assert found.recommended == 4
    assert found.reason.startswith("5 of 5 criteria suggest 4: knee of explained variation, ")
    assert adjusted_rand_score(np.asarray(found.best_model.labels_), y) > 0.99
    assert found.table.index.tolist() == [2, 3, 4, 5, 6, 7]
    assert found.table.loc[4, "stability"] > 0.999 > found.table.loc[7, "stability"]
    assert (found.table["explained_variation"].diff()[1:] > 0).all()
    assert "Recommended: 4." in repr(found)
    model = found.models[5]
    assert (model.n_clusters, model.cluster_centers_.shape, model.n_features_in_) == (5, (5, 2), 2)
    np.testing.assert_allclose(found.table.loc[5, "inertia"], -model.score(data), rtol=1e-12)
    expected = davies_bouldin_score(X, np.asarray(model.labels_))
    np.testing.assert_allclose(found.table.loc[5, "davies_bouldin"], expected, rtol=1e-9)


class CountedReads(zarr.storage.WrapperStore):
    """Counts the chunks that are read."""

    n_chunks = 0

    async def get(self, key, *args, **kwargs):
        type(self).n_chunks += "/c/" in f"/{key}"
        return await super().get(key, *args, **kwargs)


def chunks_read(function):
    CountedReads.n_chunks = 0
    result = function()
    return CountedReads.n_chunks, result


def overlapping(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(12, 6))[rng.integers(12, size=4000)] * 2 + rng.normal(size=(4000, 6))


DATA = {
    "overlapping 0": overlapping(0),
    "overlapping 1": overlapping(1),
    "overlapping 2": overlapping(2),
    "blobs": make_blobs(4000, n_features=8, centers=20, random_state=0)[0],
}


@pytest.mark.parametrize("name", DATA)
def test_a_sweep_reads_a_store_as_often_as_its_slowest_fit_and_twice_more(name):
    X = DATA[name].astype("f4")
    store = CountedReads(zarr.storage.MemoryStore())
    array = zarr.create_array(store, name="X", shape=X.shape, chunks=(500, X.shape[1]), dtype="f4")
    array[:] = X
    options = {"random_state": 0, "memory_budget": int(1.05 * X.nbytes), "n_init": 4}
    ks = range(2, 13)
    alone = max(chunks_read(lambda k=k: KMeans(k, **options).fit(array))[0] for k in ks)
    together, found = chunks_read(lambda: daskmeans.sweep(array, ks, **options, sample_size=200, gap=False))
    assert alone >= 3 * 8  # the store, of 8 chunks, is read in each pass
    assert together <= alone + 2 * 8
    assert found.n_passes == together / 8
    for k in (2, 12):  # what was known without a pass of its own is what such a pass finds
        (scores,) = metrics.scores(X, [found.models[k]], sample_size=0)
        assert found.table.loc[k, "davies_bouldin"] == pytest.approx(scores.davies_bouldin, rel=1e-9)
        labels = found.models[k].predict(X)
        assert scores.davies_bouldin == pytest.approx(davies_bouldin_score(X.astype(float), labels), rel=1e-9)


def test_where_there_are_no_clusters_the_reason_says_so(rng):
    found = daskmeans.sweep(rng.random((600, 3)), range(2, 6), n_init=1, sample_size=200)
    assert found.reason.endswith("By the gap rule there may be no clusters at all.")
    assert found.table.index.tolist() == [2, 3, 4, 5]


def test_where_criteria_are_divided_the_gap_rule_counts_most(monkeypatch):
    suggestions = {"knee": 3, "index": 4, "silhouette": 3, "another": 5, "gap rule": 4}
    monkeypatch.setattr(Selection, "suggestions", suggestions)
    assert Selection((3, 4, 5), [], [], Gap(*np.zeros((3, 3))), []).recommended == 4


@pytest.mark.parametrize("n_blobs", [3, 5, 8])
def test_blobs_that_lie_in_groups_are_told_apart(n_blobs):
    X, _ = make_blobs(200 * n_blobs, centers=n_blobs, n_features=3, random_state=4)
    assert daskmeans.sweep(X, range(2, 11), n_init=2, sample_size=500).recommended == n_blobs


def test_as_many_clusters_as_rows_are_no_candidate_of_what_compares_clusters(rng):
    found = daskmeans.sweep(rng.normal(size=(8, 2)), range(2, 9), n_init=2)
    undefined = ["calinski_harabasz", "davies_bouldin", "simplified_silhouette", "silhouette", "gap", "gap_se"]
    assert found.table.loc[8, undefined].isna().all()
    assert found.table.loc[:7, undefined].notna().all(axis=None)
    assert found.table.loc[8, "explained_variation"] == 1
    assert 8 not in found.suggestions.values()


def test_knees():
    assert knee([2, 3, 4, 5, 6], [0.5, 0.7, 0.9, 0.91, 0.92]) == 4
    assert knee([1, 2, 3, 4, 5], [0, 0.5, 0.9, 0.91, 0.92]) == 3
    assert knee([2, 3, 4], [0.3, 0.6, 0.9]) is None
    assert knee([2], [0.3]) is None


def test_what_a_sweep_cannot_do_is_refused(rng):
    X = rng.normal(size=(20, 2))
    with pytest.raises(DataError, match=r"n_clusters is \[0, 2\]; expected"):
        daskmeans.sweep(X, [0, 2])
    with pytest.raises(DataError, match="init is an array of centers"):
        daskmeans.sweep(X, [2, 3], init=X[:2])

"""Where the iteration starts: good enough that a few passes suffice, and the same everywhere."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
from sklearn.cluster import KMeans as ScikitKMeans
from threadpoolctl import threadpool_limits

from daskmeans import KMeans, seeding
from daskmeans.active import AssignKept, KeepUniform
from daskmeans.fit import fit
from daskmeans.kernels import Stack
from daskmeans.lloyd import Stop
from daskmeans.memory import Budget
from daskmeans.samples import samples_from_array, samples_from_chunks
from daskmeans.scan import Scanner
from daskmeans.steps import Assign, Nothing, RowSet, Survey

N_RUNS = 11


def gauss_mixture(variance, seed, n=10_000, d=15, k=50):
    """Bahmani et al. 2012, section 4.1: centers from a Gaussian of this variance, unit Gaussians around them."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(scale=np.sqrt(variance), size=(k, d))
    return centers[rng.integers(k, size=n)] + rng.normal(size=(n, d))


def cost(X, centers):
    step = Assign(Stack.of([centers]), centers.mean(axis=0))
    return float(Scanner(samples_from_array(X, None)).scan(step).inertia.sum())


def start_of(scanner, k, seed=0, sample_size=2**16):
    surveyed = scanner.scan(Survey(sample_size, seed, scanner.samples.n_samples))
    return seeding.Start((k,), surveyed.sample, surveyed.n_eligible, surveyed.moments.mean, seed)


def row_set(X, weight=None):
    return RowSet(np.arange(len(X)), X, np.ones(len(X)) if weight is None else np.asarray(weight, dtype=np.float64))


# The paper's table 1 for l = 2k, r = 5, in units of 1e4; finals are those of scikit-learn on such draws.
@pytest.mark.parametrize(("variance", "seed_cost", "final_cost"), [(1, 17, 14.3), (10, 27, 16.5), (100, 16, 14.9)])
def test_k_means_parallel_is_as_good_as_in_its_paper(variance, seed_cost, final_cost):
    seeded, fitted, theirs = [], [], []
    for seed in range(N_RUNS):
        X = gauss_mixture(variance, seed)
        scanner = Scanner(samples_from_array(X, None))
        ((best, *_),) = seeding.scalable(scanner, start_of(scanner, 50, seed), oversampling_factor=2.0, rounds=5)
        seeded.append(cost(X, best) / 1e4)
        fitted.append(KMeans(50, init_rounds=5, random_state=seed).fit(X).inertia_ / 1e4)
        with threadpool_limits(1):
            theirs.append(ScikitKMeans(50, n_init=1, random_state=seed).fit(X).inertia_ / 1e4)
    assert np.median(seeded) <= seed_cost
    assert np.median(fitted) <= 1.01 * final_cost
    assert np.median(fitted) <= 1.01 * np.median(theirs)


def test_candidates_do_not_depend_on_chunks(rng):
    X = rng.normal(size=(1000, 4))
    seeds = []
    for chunks in (1000, 130, (1, 499, 500)):
        scanner = Scanner(samples_from_chunks([da.from_array(X, chunks=(chunks, 4))], dtype=X.dtype))
        start = start_of(scanner, 5, sample_size=500)
        seeds.append(seeding.scalable(scanner, start, oversampling_factor=2.0, rounds=3)[0][0])
        assert scanner.n_passes == 1 + 3 + 1, "a pass to survey, one for each round, one to weigh"
    for others in seeds[1:]:
        np.testing.assert_allclose(others, seeds[0])


def streamed(X, n_chunks=10):
    return Scanner(samples_from_chunks([da.from_array(X, chunks=(len(X) // n_chunks, X.shape[1]))], dtype=X.dtype))


def test_a_sample_kept_by_the_survey_weighs_candidates_without_a_pass():
    X = gauss_mixture(10, 0)
    titles = {}
    for name, n_bytes in {"large": X.nbytes // 4, "small": X.nbytes // 400}.items():
        budget = Budget(n_bytes)
        scanner = streamed(X)
        fit(scanner, KMeans(10, init_rounds=2, random_state=0)._options(budget))
        titles[name] = [report.title for report in scanner.history]
        assert all(report.n_bytes == X.nbytes for report in scanner.history)
    assert titles["large"][:4] == ["survey", "k-means|| 1/2", "k-means|| 2/2", "iteration"]
    assert titles["small"][:5] == ["survey", "k-means|| 1/2", "k-means|| 2/2", "k-means|| weights", "iteration"]


@pytest.mark.parametrize("share", [4, 400])
def test_seeding_takes_one_pass(share):
    X = gauss_mixture(10, 0)
    scanner = streamed(X)
    fit(scanner, KMeans(10, random_state=0)._options(Budget(X.nbytes // share)))
    assert [report.title for report in scanner.history][:3] == ["survey", "k-means|| 1/1", "iteration"]
    assert scanner.history[1].inertia > 0


def far_and_few(rng, n=20_000):
    """Ten clusters side by side, and four of eight rows each, far away: a sample may miss these."""
    many = (rng.normal(size=(10, 3)) * 8)[rng.integers(10, size=n)] + rng.normal(size=(n, 3))
    few = (rng.normal(size=(4, 3)) * 300).repeat(8, axis=0) + rng.normal(size=(32, 3))
    return rng.permutation(np.concatenate([many, few])), few


def coreset_of(scanner, k, seed, sample_size):
    start = start_of(scanner, k, seed, sample_size)
    found = seeding.on_coreset(scanner, start, oversampling_factor=2.0, kept=None, stop=None)
    return found[1]


def test_a_coreset_stands_for_all_rows(rng):
    X, few = far_and_few(rng)
    centers = [X[rng.choice(len(X), 14)] for _ in range(5)] + [few[::8].repeat(2, axis=0)]
    costs, counts = [], []
    for seed in range(20):
        scanner = streamed(X)
        rows = coreset_of(scanner, 14, seed, 1500)
        assert scanner.n_passes == 2, "the survey, and one that draws"
        assert len(rows.X) <= 1500
        found = np.array([(row == rows.X).all(axis=1).any() for row in few])
        assert found.reshape(4, 8).any(axis=1).all(), (
            "clusters that a uniform sample of this size misses every other time"
        )
        counts.append(rows.weight.sum())
        step = [Assign(Stack.of([of]), X.mean(axis=0)) for of in centers]
        costs.append([Scanner(samples_from_array(rows.X, rows.weight)).scan(one).inertia.sum() for one in step])
    exact = np.array([cost(X, of) for of in centers])
    assert np.mean(counts) == pytest.approx(len(X), rel=0.01)
    np.testing.assert_allclose(np.mean(costs, axis=0), exact, rtol=0.02)
    np.testing.assert_allclose(costs, np.broadcast_to(exact, (20, 6)), rtol=0.5)


def test_a_coreset_does_not_depend_on_chunks_and_follows_the_weights(rng):
    X, _ = far_and_few(rng, 3000)
    weight = rng.integers(0, 3, len(X)).astype(float)
    drawn = []
    for chunk in (len(X), 130, 999):
        arrays = [da.from_array(X, chunks=(chunk, 3)), da.from_array(weight, chunks=chunk)]
        drawn.append(coreset_of(Scanner(samples_from_chunks(arrays, dtype=X.dtype)), 5, 0, 700))
    for rows in drawn:
        np.testing.assert_array_equal(rows.row_ids, drawn[0].row_ids)
        np.testing.assert_allclose(rows.weight, drawn[0].weight)
        assert weight[rows.row_ids].min() > 0
    assert drawn[0].weight.sum() == pytest.approx(weight.sum(), rel=0.1)


def test_clusters_of_a_few_rows_far_away_are_found(rng):
    X, few = far_and_few(rng)
    best = ScikitKMeans(14, n_init=20, random_state=0).fit(X).inertia_
    for data, budget in {"memory": (X, None), "streamed": (da.from_array(X, chunks=(2000, 3)), X.nbytes // 8)}.values():
        found = [KMeans(14, random_state=seed, memory_budget=budget).fit(data) for seed in range(3)]
        for model in found:
            apart = np.linalg.norm(few[::8, None] - model.cluster_centers_, axis=2).min(axis=1)
            assert (apart < 5).all()
        assert np.median([model.inertia_ for model in found]) < 1.05 * best


def test_where_rows_are_equal_a_coreset_is_the_sample():
    X = np.repeat([[1.0, 2.0], [3.0, 4.0]], 2000, axis=0)
    model = KMeans(2, random_state=0, memory_budget=X.nbytes // 8).fit(da.from_array(X, chunks=(500, 2)))
    assert sorted(model.cluster_centers_[:, 0]) == [1.0, 3.0]


def test_seeds_weighed_by_a_kept_sample_are_as_good():
    costs = {"pass": [], "kept": []}
    for seed in range(N_RUNS):
        X = gauss_mixture(10, seed)
        scanner = streamed(X)
        start = start_of(scanner, 50, seed, sample_size=5000)
        _, kept = scanner.scan_and_keep(KeepUniform(Nothing(), 0.3, seed), "survey")
        for name, by in {"pass": None, "kept": kept}.items():
            before = scanner.n_passes
            ((best, *_),) = seeding.scalable(scanner, start, oversampling_factor=2.0, rounds=2, kept=by)
            assert scanner.n_passes - before == (3 if by is None else 2)
            costs[name].append(cost(X, best))
    assert np.median(costs["kept"]) <= 1.03 * np.median(costs["pass"])


def test_seeding_reads_nothing_where_the_sample_is_all_rows():
    X = gauss_mixture(10, 0)
    scanner = streamed(X)
    for rounds in (2, 5):
        seeding.scalable(scanner, start_of(scanner, 10), oversampling_factor=2.0, rounds=rounds)
    assert [report.title for report in scanner.history] == ["scan", "scan"], "the two surveys"


def test_a_kept_sample_polishes_without_a_pass():
    X = gauss_mixture(10, 0)
    scanner = streamed(X)
    surveyed, kept = scanner.scan_and_keep(KeepUniform(Survey(1, 0, len(X)), 0.3, 0), "survey")
    rows = seeding.KeptRows(kept, 0.3, len(X), 10**9)
    (polished,) = seeding.polish_on_kept(rows, [[X[:50]]], Stop(300, 1e-4), surveyed.moments.mean)
    whole = ScikitKMeans(50, init=X[:50], n_init=1).fit(X)
    assert scanner.n_passes == 1
    assert cost(X, polished.centers) <= 1.05 * whole.inertia_ < 0.8 * cost(X, X[:50])


@pytest.mark.parametrize("n_features", [2, 16])
def test_how_far_all_rows_lead_is_foreseen_from_a_part_of_the_sample(rng, n_features):
    centers = 4 * rng.normal(size=(8, n_features))
    X = centers[rng.integers(8, size=20_000)] + rng.normal(size=(20_000, n_features))
    foreseen, moved = [], []
    for seed in range(10):
        scanner = streamed(X)
        surveyed, kept = scanner.scan_and_keep(KeepUniform(Survey(1, 0, len(X)), 0.2, seed), "survey")
        rows = seeding.KeptRows(kept, 0.2, len(X), 10**9)
        (polished,) = seeding.polish_on_kept(rows, [[centers]], Stop(300, 1e-10), surveyed.moments.mean)
        whole = ScikitKMeans(8, init=polished.centers, n_init=1, tol=0).fit(X).cluster_centers_
        foreseen.append(polished.reach.mean() / seeding.SURELY)
        moved.append(np.linalg.norm(whole - polished.centers, axis=1).mean())
    assert np.mean(foreseen) == pytest.approx(np.mean(moved), rel=0.3)


def test_nothing_is_foreseen_of_several_models_nor_of_rows_that_lead_far(rng):
    X = rng.random((60_000, 8))
    scanner = streamed(X)
    surveyed, kept = scanner.scan_and_keep(KeepUniform(Survey(1, 0, len(X)), 0.5, 0), "survey")
    rows = seeding.KeptRows(kept, 0.5, len(X), 10**9)
    how = Stop(300, 1e-7), surveyed.moments.mean
    for seeds in ([[X[:2]], [X[:3]]], [[X[:12]]]):
        assert all(polished.reach is None for polished in seeding.polish_on_kept(rows, seeds, *how))


def test_tries_race_on_a_kept_sample():
    X = gauss_mixture(10, 0)
    scanner = streamed(X)
    surveyed, kept = scanner.scan_and_keep(KeepUniform(Survey(1, 0, len(X)), 0.3, 0), "survey")
    how = Stop(300, 1e-4), surveyed.moments.mean
    rows, rng = seeding.KeptRows(kept, 0.3, len(X), 10**9), np.random.default_rng(0)
    tries = [X[rng.choice(len(X), 50, replace=False)] for _ in range(8)]
    alone = [cost(X, seeding.polish_on_kept(rows, [[centers]], *how)[0].centers) for centers in tries]
    race, other = seeding.polish_on_kept(rows, [tries, tries[:1]], *how)
    assert cost(X, race.centers) <= np.sort(alone)[1] < 0.99 * np.median(alone), "the first or the second of eight wins"
    np.testing.assert_array_equal(other.centers, seeding.polish_on_kept(rows, [tries[:1]], *how)[0].centers)


@pytest.mark.parametrize("n_tries", [16, 40])
def test_a_race_begins_on_few_rows_and_ends_on_all(monkeypatch, n_tries):
    X = gauss_mixture(10, 0)
    scanner = streamed(X)
    surveyed, kept = scanner.scan_and_keep(KeepUniform(Survey(1, 0, len(X)), 0.5, 0), "survey")
    scan, seen = Scanner.scan, []

    def watched(self, step):
        seen.append((step.assign.stack.n_models, self._kept.groups[0][0].sample.every))
        return scan(self, step)

    monkeypatch.setattr(seeding, "greedy_rows", lambda k: len(X) // 128)
    monkeypatch.setattr(Scanner, "scan", watched)
    tries = [X[begin : begin + 50] for begin in range(0, 50 * n_tries, 50)]
    rows = seeding.KeptRows(kept, 0.5, len(X), 10**9)
    ((polished, _),) = seeding.polish_on_kept(rows, [tries], Stop(300, 0.0), surveyed.moments.mean)
    while seen[-1][1] > 1:
        seen.pop()  # on a part of the rows again, to estimate the reach
    stages = list(dict.fromkeys(every for _, every in seen))
    assert stages == [8, 4, 2, 1]
    assert [max(n for n, of in seen if of == every) for every in stages] == [n_tries // n for n in (1, 2, 4, 8)]
    assert [sum(of == every for _, of in seen) for every in stages[:2]] == [5, 5]
    again = scan(kept, AssignKept(Assign(Stack.of([polished]), surveyed.moments.mean), with_sample=True))
    full = again.counts > 0
    means = again.sums[full] / again.counts[full, None]
    np.testing.assert_allclose(means, polished[full], atol=1e-9, err_msg="at rest on all rows")


def test_a_race_has_the_same_bits_on_workers_and_where_its_rows_are_brought(client, monkeypatch):
    monkeypatch.setattr(seeding, "greedy_rows", lambda k: 32)
    X = gauss_mixture(10, 0)
    tries = [X[begin : begin + 50] for begin in range(0, 800, 50)]
    n_tasks = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)
    polished, work = [], []
    for where, room in (({"scheduler": "threads"}, 0), ({}, 0), ({}, 10**9)):
        with dask.config.set(where):
            scanner = streamed(X)
            surveyed, kept = scanner.scan_and_keep(KeepUniform(Survey(1, 0, len(X)), 0.5, 0), "survey")
            rows = seeding.KeptRows(kept, 0.5, len(X), room)
            polished.append(seeding.polish_on_kept(rows, [tries], Stop(300, 0.0), surveyed.moments.mean)[0].centers)
        before = n_tasks
        n_tasks = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)
        work.append(n_tasks - before)
    for other in polished[1:]:
        np.testing.assert_array_equal(polished[0], other)
    assert work[0] < work[2] < work[1] / 2


@pytest.mark.parametrize("n", [10_000, 100])
def test_tries_far_behind_are_dropped_where_rows_are_many(n):
    X = np.repeat([[0.0], [1.0], [10.0], [11.0], [20.0], [21.0]], n, axis=0)
    tries = [np.array([[0.0], [1.0], [15.0]]), np.array([[0.0], [10.0], [20.0]])]
    ((best, *others),) = seeding.polish(row_set(X), [tries], Stop(100, 0.0))
    assert best.ravel() == pytest.approx([0.5, 10.5, 20.5])
    assert len(others) == (n == 100)


def test_a_center_whose_rows_a_sample_has_missed_stays(rng):
    X = rng.normal(size=(5000, 2))
    rare = np.array([1000.0, 0.0])
    tries = [[np.array([[0.1, 0.0], rare])]]
    ((polished,),) = seeding.polish(row_set(X), tries, Stop(100, 0.0))
    scanner = streamed(X)
    _, kept = scanner.scan_and_keep(KeepUniform(Survey(1, 0, len(X)), 0.3, 0), "survey")
    rows = seeding.KeptRows(kept, 0.3, len(X), 10**9)
    ((on_kept, _),) = seeding.polish_on_kept(rows, tries, Stop(100, 0.0), np.zeros(2))
    np.testing.assert_array_equal([polished[1], on_kept[1]], [rare, rare])
    np.testing.assert_allclose(polished[0], X.mean(axis=0))


def test_starts_of_as_many_clusters_are_joined_the_best_first():
    X = np.array([[0.0], [1.0], [10.0], [11.0], [20.0], [21.0]])
    two, bad, good = np.array([[5.5], [20.5]]), np.array([[0.0], [1.0], [15.0]]), np.array([[0.5], [10.5], [20.5]])
    joined = seeding.join_starts(row_set(X), [[two], [bad], [good]], np.zeros(1))
    assert [[len(centers) for centers in tries] for tries in joined] == [[2], [3, 3]]
    np.testing.assert_array_equal(joined[1], [good, bad])


def test_several_starts_of_a_model_share_the_tries():
    X = np.zeros((1000, 2))
    start = seeding.Start((3, 3, 3, 3, 5), row_set(X), 1000, np.zeros(2), 0)
    assert (start.n_tries(3), start.n_tries(5)) == (2, 8)
    assert start.n_tries(10**6) == 1, "where an iteration costs much"


def test_a_candidate_that_a_kept_sample_has_missed_is_not_lost(rng):
    X = np.concatenate([rng.normal(size=(5000, 2)), [[1e6, 1e6]]])
    scanner = streamed(X, 1)
    _, kept = scanner.scan_and_keep(KeepUniform(Nothing(), 0.05, 0), "survey")
    centers = Stack.of([np.array([[1e6, 1e6], [0.0, 0.0]])])
    assert kept.scan(AssignKept(Assign(centers, X.mean(axis=0)), with_sample=True)).counts[0] == 0, "it was missed"
    ((best, *_),) = seeding.scalable(scanner, start_of(scanner, 2), oversampling_factor=2.0, rounds=2, kept=kept)
    assert (np.abs(best - 1e6).max(axis=1) < 1).sum() == 1


@pytest.mark.parametrize("init", ["k-means||", "k-means++", "random", "random-partition"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_start_finds_clusters_far_apart(init, dtype):
    X = gauss_mixture(100, 0, n=3000, d=3, k=4).astype(dtype)
    best = ScikitKMeans(4, n_init=10, random_state=0).fit(X).inertia_
    model = KMeans(4, init=init, n_init=5, random_state=0).fit(da.from_array(X, chunks=(700, 3)))
    assert model.inertia_ == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("init", ["k-means||", "k-means++", "random"])
def test_seeding_survives_an_offset_that_dwarfs_the_spread(init):
    X = (1e5 + gauss_mixture(100, 0, n=3000, d=3, k=4)).astype(np.float32)
    model = KMeans(4, init=init, n_init=5, random_state=0).fit(X)
    assert model.inertia_ == pytest.approx(ScikitKMeans(4, n_init=10, random_state=0).fit(X).inertia_, rel=1e-3)


def test_plus_plus_takes_far_rows_and_none_twice(rng):
    X = np.repeat(10.0 * np.arange(6), 20)[:, None] + rng.normal(scale=0.1, size=(120, 1))
    chosen = seeding.plus_plus(X, np.ones(120), 6, np.random.default_rng(0))
    assert sorted(chosen // 20) == list(range(6))


def test_plus_plus_never_takes_rows_without_weight(rng):
    weight = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    for seed in range(20):
        chosen = seeding.plus_plus(rng.normal(size=(5, 2)), weight, 3, np.random.default_rng(seed))
        assert sorted(chosen) == [1, 3, 4]


def test_plus_plus_repeats_rows_where_too_few_are_distinct():
    chosen = seeding.plus_plus(np.array([[1.0], [1.0], [2.0]]), np.ones(3), 3, np.random.default_rng(0))
    assert {0, 2} <= set(chosen) or {1, 2} <= set(chosen)


def test_weighted_choice_is_proportional_to_mass():
    chosen = seeding.weighted_choice(np.array([0.0, 1.0, 3.0, 0.0]), 4000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(chosen, minlength=4) / 4000, [0, 0.25, 0.75, 0], atol=0.03)


def test_random_rows_are_distinct():
    X = np.repeat(np.arange(5.0), 10)[:, None]
    start = seeding.Start((5, 3), row_set(X), len(X), np.zeros(1), 0)
    (five,), (three,) = seeding.random_rows(start)
    assert sorted(five.ravel()) == [0, 1, 2, 3, 4]
    assert len(set(three.ravel())) == 3


def test_recluster_follows_the_weights():
    points = np.array([[0.0], [1.0], [10.0]])
    best, *_ = seeding.recluster(points, np.array([9.0, 1.0, 1.0]), 2, 1, np.random.default_rng(0))
    assert sorted(best.ravel()) == pytest.approx([0.1, 10.0])


def test_polish_returns_what_may_be_the_best_the_best_first():
    X = np.array([[0.0], [10.0], [20.2]])
    best, second, same = np.array([[4.0], [20.0]]), np.array([[0.0], [14.0]]), np.array([[6.0], [19.0]])
    (tries,) = seeding.polish(row_set(X), [[second, best, same]], Stop(100, 0.0))
    assert [centers.ravel().tolist() for centers in tries] == [[5.0, 20.2], [0.0, pytest.approx(15.1)]]


def test_seeds_do_not_depend_on_the_threads_of_blas():
    X = gauss_mixture(1, 3, n=20_000)
    chosen = []
    for limit in (1, 2):
        with threadpool_limits(limit, user_api="blas"):
            chosen.append(seeding.plus_plus(X, np.ones(len(X)), 30, np.random.default_rng(0)))
    np.testing.assert_array_equal(*chosen)


@pytest.mark.parametrize("init", ["k-means||", "k-means++"])
def test_seeding_works_where_few_rows_have_weight(init):
    X = np.random.default_rng(0).normal(size=(100_000, 1))
    weight = np.zeros(len(X))
    weight[[5, 99_000]] = 1.0
    model = KMeans(2, init=init, n_init=1, random_state=0, memory_budget=10**6).fit(X, sample_weight=weight)
    assert sorted(model.cluster_centers_.ravel()) == sorted(X[[5, 99_000], 0])


@pytest.mark.parametrize("oversampling_factor", [0.1, 1.0])
def test_too_few_candidates_still_give_all_clusters(rng, oversampling_factor):
    X = rng.normal(size=(500, 2))
    model = KMeans(10, oversampling_factor=oversampling_factor, init_rounds=1, random_state=0).fit(X)
    assert (model.counts_ > 0).all()


@pytest.mark.parametrize("init", ["k-means||", "k-means++", "random"])
def test_weights_equal_repetition_and_order_does_not_matter_where_rows_are_few(rng, init):
    X = rng.normal(size=(40, 3))
    weight = rng.integers(0, 5, 40)
    order = rng.permutation(40)
    for seed in range(5):
        weighted = KMeans(6, init=init, random_state=seed).fit(X[order], sample_weight=weight[order])
        repeated = KMeans(6, init=init, random_state=seed).fit(X.repeat(weight, axis=0))
        np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_, rtol=1e-9)

"""Pictures: what they show is what was computed; each draws on given axes or on its own."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from sklearn.datasets import make_blobs

import daskmeans
from daskmeans import KMeans, metrics, plots, sweep
from daskmeans.errors import DataError

CUT = Path(__file__).parent / "data" / "eraint_cut.zarr"
X, _ = make_blobs(400, centers=4, n_features=3, random_state=0)


@pytest.fixture(autouse=True)
def _no_window():
    mpl.use("agg")
    yield
    plt.close("all")


def heights(ax):
    return [bar.get_height() for bar in ax.patches]


def test_sizes_and_silhouettes_are_those_of_the_model():
    model = KMeans(4, random_state=0).fit(X)
    np.testing.assert_allclose(heights(plots.cluster_sizes(model)), 100 * model.counts_ / len(X))
    found = [bar.get_width() for bar in plots.silhouettes(model, X).patches]
    (expected,) = metrics.scores(X, [model], sample_size=0)
    np.testing.assert_allclose(found, expected.simplified_silhouette_per_cluster)


def test_a_sweep_draws_its_elbow_and_every_score():
    found = daskmeans.sweep(X, range(2, 6), n_init=1)
    axes = found.plot()
    assert axes.shape == (2, 4)
    np.testing.assert_array_equal(axes[0, 0].lines[0].get_ydata(), found.table["inertia"])
    assert axes[0, 0].get_title() == f"recommended: {found.recommended}"
    rings = [(ax.lines[-1].get_xdata(), ax.lines[-1].get_ydata()) for ax in axes.flat[1:5]]
    suggested = list(found.suggestions.values())[:4]
    assert [int(np.squeeze(x)) for x, _ in rings] == suggested
    assert np.squeeze(rings[1][1]) == found.table.loc[suggested[1], "calinski_harabasz"]
    assert axes[1, 3].texts[0].get_text() == "not computed"  # one start each is not compared


def test_few_features_are_profiles_and_many_a_heat_map():
    given = plt.subplots()[1]
    few = plots.centers(KMeans(4, random_state=0).fit(X), given)
    assert few is given
    assert len(few.lines) == 4
    opened = daskmeans.open_samples(str(CUT), variables=["z", "u", "v"], feature_dims=["level"])
    model = KMeans(3, random_state=0).fit(opened)
    many = plots.centers(model, standardize=True)
    assert many.images[0].get_array().shape == (3, 9)
    assert many.get_xticklabels()[0].get_text() == "z[level=200]"
    assert "principal component 1 (" in plots.projection(model, opened, sample_size=200).get_xlabel()


def test_many_clusters_are_a_heat_map_with_numbers_that_can_be_read():
    model = KMeans(25, random_state=0).fit(X)
    assert plots.centers(model).images[0].get_array().shape == (25, 3)
    ticks = plots.cluster_sizes(model).get_xticks()
    assert set(ticks) < set(range(25))
    assert len(ticks) <= 13


def test_data_with_named_dimensions_is_seen_as_it_was_fitted():
    grid = xr.DataArray(X.reshape(20, 20, 3), dims=("lat", "lon", "feature"))
    model, plain = KMeans(4, random_state=0).fit(grid, sample_dims=["lat", "lon"]), KMeans(4, random_state=0).fit(X)
    ax = plots.projection(model, grid, sample_size=100)
    assert len(ax.collections[0].get_offsets()) == 100
    widths = [[bar.get_width() for bar in plots.silhouettes(*of).patches] for of in ((model, grid), (plain, X))]
    np.testing.assert_allclose(*widths)
    with pytest.raises(ValueError, match="X has 2 features, but KMeans is expecting 3"):
        plots.projection(plain, X[:, :2])


def test_convergence_of_a_sweep_does_not_rise_when_the_best_model_rests():
    rows = make_blobs(20_000, centers=5, n_features=4, random_state=3)[0].astype(np.float32)
    found = sweep(rows, n_clusters=range(2, 13), random_state=0, gap=False)
    drawn = plots.convergence(found.models[12]).lines[-1].get_ydata()
    assert len(drawn) > 2
    assert (np.diff(drawn) <= 1e-9 * drawn[0]).all()
    assert drawn[-1] == pytest.approx(found.models[12].inertia_)


@pytest.mark.parametrize("n_features", [1, 2, 3])
def test_a_projection_shows_sample_and_centers(n_features):
    model = KMeans(4, random_state=0).fit(X[:, :n_features])
    ax = plots.projection(model, X[:, :n_features], sample_size=100)
    assert [len(part.get_offsets()) for part in ax.collections] == [100, 4]


def test_convergence_shows_the_inertia_of_each_pass():
    model = KMeans(4, init=X[:4], tol=0, algorithm="lloyd").fit(X)
    ax = plots.convergence(model)
    drawn = np.concatenate([line.get_ydata() for line in ax.lines])
    assert drawn[-1] == pytest.approx(model.inertia_)
    assert (np.diff(drawn) <= 1e-9).all()
    assert plots.convergence([{"number": 1, "title": "iteration", "inertia": 2.0}]).lines
    assert not plots.convergence([{"number": 1, "title": "survey", "inertia": None}]).lines
    with pytest.raises(DataError, match="The model has no history"):
        plots.convergence(KMeans(2).partial_fit(X))

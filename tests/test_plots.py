"""Pictures: what they show is what was computed; each draws on given axes or on its own."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.datasets import make_blobs

import daskmeans
from daskmeans import KMeans, metrics, plots

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

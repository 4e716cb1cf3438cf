"""The page that is sent to a colleague: it says what there is to say, of any data, and opens without a network."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import types
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import xarray as xr
import zarr
from era import CUT
from era import run_folder as run

from daskmeans.blocking import RepeatedReadsWarning
from daskmeans.job import charts, report, views
from daskmeans.job.notes import Projection
from daskmeans.job.report import MOST_ROWS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


pytestmark = pytest.mark.usefixtures("era_job")


def picture(uri):
    """Return the pixels of a data URI."""
    Path("picture.png").write_bytes(base64.b64decode(uri.removeprefix("data:image/png;base64,")))
    return (matplotlib.image.imread("picture.png")[..., :3] * 255).round().astype(int)


def pictures(page):
    return re.findall(r'src="(data:image/png[^"]+)"', page)


def test_every_run_leaves_a_page_that_needs_nothing_else():
    page = (run() / "report.html").read_text()
    for words in ("eraint_cut.zarr", "6,560", "u[level=200]", "month=1", "Converged", "n_clusters: 4", "xarray"):
        assert words in page
    assert not re.search(r"(src|href)=.?(?!.?data:)|https?://|@import|url\(", page)
    assert len(page) < 2_000_000


def test_map_shows_the_labels_north_up():
    labels = xr.open_zarr(run() / "result.zarr")["labels"].load()
    page = Path("out/report.html").read_text()
    assert len(pictures(page)) == labels.sizes["month"]
    shown = picture(pictures(page)[1])
    north_up = labels.isel(month=1).sortby("latitude", ascending=False).values
    palette = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in charts.cluster_colors(4)])
    np.testing.assert_array_equal(shown, palette[north_up])


def test_labels_of_a_huge_store_are_sampled(monkeypatch):
    monkeypatch.setattr(views, "MOST_CELLS", 10_000)
    array = zarr.create_array("big.zarr", shape=(50, 4000, 5000), chunks=(1, 100, 100), dtype="i4", fill_value=-1)
    assert array.nchunks == 100_000
    labels = xr.DataArray(xr.Variable(("time", "y", "x"), _Lazy(array)))
    found = views.label_views(labels)
    assert len(found) == 1
    assert found[0].labels.size <= 10_000
    assert _Lazy.cells <= 10_000


class _Lazy(xr.backends.BackendArray):
    """A Zarr array whose cells are counted as they are read."""

    cells = 0

    def __new__(cls, array):
        lazy = object.__new__(cls)
        lazy.array, lazy.shape, lazy.dtype = array, array.shape, array.dtype
        return xr.core.indexing.LazilyIndexedArray(lazy)

    def __getitem__(self, key):
        def read(place):
            values = self.array[place]
            _Lazy.cells += values.size
            return values

        return xr.core.indexing.explicit_indexing_adapter(key, self.shape, xr.core.indexing.IndexingSupport.BASIC, read)


def write(name, dims, values, **coords):
    xr.Dataset({"a": (dims, values)}, coords=coords).to_zarr(name, consolidated=False)


@pytest.mark.parametrize("n_clusters", [2, 1])
def test_weather_regimes_show_each_center_as_a_map(rng, n_clusters):
    y, x = np.linspace(60, -60, 7), np.linspace(0, 350, 9)
    write("maps.zarr", ("time", "latitude", "longitude"), rng.normal(size=(40, 7, 9)), latitude=y, longitude=x)
    words = ["input.variables=[a]", "input.sample_dims=[time]", "input.feature_dims=[latitude, longitude]"]
    folder = run("input.store=maps.zarr", *words, f"model.n_clusters={n_clusters}")
    page = (folder / "report.html").read_text()
    assert page.count('alt="center') == n_clusters
    assert "Along the samples" in page


def test_many_clusters_of_many_features_stay_on_one_page(rng):
    zarr.create_array("X.zarr", data=rng.normal(size=(3000, 300)).astype("f4"), chunks=(500, 300))
    Path("job.yaml").write_text("input: {store: X.zarr}\nmodel: {n_clusters: 300, max_iter: 1}\noutput: {path: out}\n")
    page = (run() / "report.html").read_text()
    assert f"The {MOST_ROWS} largest of 300 clusters" in page
    assert "not converged" in page.lower()
    assert len(page) < 500_000


def test_what_was_dropped_is_said_and_results_without_labels_have_a_page():
    cut = xr.open_zarr(CUT, consolidated=False).load().drop_encoding()
    cut["u"][1, 2, 3, 4] = np.nan
    cut.to_zarr("holes.zarr", consolidated=False)
    folder = run("input.store=holes.zarr", "input.missing=drop")
    assert "1 of 6,560 samples (0.0%) were dropped" in (folder / "report.html").read_text()
    assert not pictures((run("output.labels=false", "output.path=bare") / "report.html").read_text())


def test_numbers_of_clusters_that_were_tried_are_compared():
    folder = run("model.n_clusters=[2, 3, 4]")
    page = (folder / "report.html").read_text()
    sweep = json.loads((folder / "summary.json").read_text())["sweep"]
    assert "How many clusters" in page
    assert sweep["reason"] in page
    elbow = page.split('aria-label="inertia against clusters"')[1].split("</svg>")[0]
    mark = float(re.search(r'd="M([\d.]+) [^"]*" [^>]*stroke-dasharray', elbow)[1])
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', elbow)]
    assert mark == dots[[2, 3, 4].index(sweep["recommended"])]
    for row in sweep["table"]:
        cell = str(row["n_clusters"])
        cell = f"<b>{cell}</b>" if row["n_clusters"] == sweep["recommended"] else cell
        assert f'<tr><td class="n" data-name="clusters">{cell}</td>' in page


def test_sizes_are_told_beside_weights():
    folder = run("input.weights=cos_latitude")
    result = xr.open_zarr(folder / "result.zarr").load()
    np.testing.assert_array_equal(result["sizes"], np.bincount(result["labels"].values.ravel()))
    page = (folder / "report.html").read_text()
    assert '<th class="n">samples</th><th class="n">weight</th>' in page
    for size in result["sizes"].values:
        assert f'data-name="samples">{size:,}</td>' in page
    assert ">weight</th>" not in (run("output.path=plain") / "report.html").read_text()


def test_what_was_warned_of_is_told(rng):
    for name, chunk in (("a", 10), ("b", 7)):
        part = xr.Dataset({name: ("t", rng.normal(size=700))})
        part.to_zarr("uneven.zarr", mode="a", consolidated=False, encoding={name: {"chunks": (chunk,)}})
    words = ["input={store: uneven.zarr, variables: [a, b], sample_dims: [t]}", "model.memory_budget=20kB"]
    with pytest.warns(RepeatedReadsWarning):
        folder = run(*words)
    assert re.search(
        r"<h2>Mind</h2>.*reads the chunks of &#x27;b&#x27; 1\.\d+ times", (folder / "report.html").read_text()
    )
    assert json.loads((run("output.path=quiet") / "summary.json").read_text())["warnings"] == []


@pytest.mark.parametrize("shape", [(50, 7), (7, 50), (2, 2), (30, 2)])
def test_a_sample_is_projected_on_the_plane_in_which_it_varies_most(rng, shape):
    X = rng.normal(size=shape) * np.arange(1, shape[1] + 1) + 100
    centers = X[:2] + 0.1
    found = Projection.of(X, centers, None)
    _, singular, axes = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    explained = singular**2 / (singular**2).sum()
    np.testing.assert_allclose(found.explained, explained[:2], atol=1e-9)
    for places, rows in ((found.rows, X), (found.centers, centers)):
        expected = (rows - X.mean(axis=0)) @ axes[:2].T * (explained[:2] > 1e-9)
        np.testing.assert_allclose(np.abs(places), np.abs(expected), rtol=2e-3, atol=1e-2)
    distances = np.linalg.norm(X[:, None] - centers, axis=2)
    np.testing.assert_array_equal(found.labels, distances.argmin(axis=1))


def test_the_projection_is_of_the_rows_as_they_were_compared():
    folder = run()
    lie = Projection.read(folder)
    assert len(lie.rows) == len(lie.labels) == 1000
    result = xr.open_zarr(folder / "result.zarr").load()
    share = np.bincount(lie.labels) / 1000
    np.testing.assert_allclose(share, result["sizes"] / result["sizes"].sum(), atol=0.06)
    assert np.abs(lie.rows).max() < 20  # in standard deviations, not in metres
    page = (folder / "report.html").read_text()
    assert "How the samples lie" in page
    assert page.count("h0M") > 900


def test_names_are_text_not_markup():
    shutil.copytree(CUT, "<b>&.zarr")
    page = (run("input.store=<b>&.zarr") / "report.html").read_text()
    assert "&lt;b&gt;&amp;.zarr" in page
    assert "<b>&.zarr" not in page


def test_ticks_differ_from_their_neighbours():
    axis = charts._Axis(460_070.0, 460_160.0, 0.0, 1.0)
    words = [text for _, text in axis.ticks(5)]
    assert len(set(words)) == len(words) > 3


def test_features_that_are_no_grid_are_laid_out_flat():
    (found,) = views.parse_features([f"a[x={i}, y={i}]" for i in range(50)])
    assert found.dims == ("column",)
    (found,) = views.parse_features(["a[x=2, y=1]", "a[x=2, y=3]", "a[x=10, y=3]"])
    np.testing.assert_array_equal(found.on_grid(np.arange(3.0)), [[0, 1], [np.nan, 2]])
    times = views.parse_features(["t[time=2008-01-01]", "t[time=2008-07-02]"])[0].coordinate()
    np.testing.assert_allclose(times, [2008, 2008.5], atol=0.01)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_the_page_without_sideways_scrolling(tmp_path, width):
    page = (run("model.n_clusters=[4, 5]") / "report.html").read_text()
    n_clusters = xr.open_zarr("out/result.zarr").sizes["cluster"]
    measure = (
        "<script>onload = () => parent.postMessage([document.documentElement.scrollWidth, innerWidth], '*')</script>"
    )
    Path("measured.html").write_text(page.replace("</head>", measure + "</head>"))
    # Chromium's windows are 500 wide at least, a frame in one is as narrow as a phone.
    frame = (
        f'<body style="margin:0"><iframe src="measured.html" style="border:0;width:{width}px;height:5000px"></iframe>'
    )
    Path("frame.html").write_text(f"<script>onmessage = told => {{ document.title = told.data }}</script>{frame}")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 500)},5000"]
    url = f"file://{tmp_path / 'frame.html'}"
    shot = subprocess.run(
        [*command, "--screenshot=shot.png", url], capture_output=True, timeout=60, cwd=tmp_path, check=True
    )
    assert b"written to file" in shot.stderr + shot.stdout
    pixels = matplotlib.image.imread("shot.png")[:, :width]
    colors = {tuple((color * 255).round().astype(int)) for color in np.unique(pixels[..., :3].reshape(-1, 3), axis=0)}
    shown = charts.cluster_colors(n_clusters)
    assert {tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in shown} <= colors
    dom = subprocess.run([*command, "--dump-dom", url], capture_output=True, timeout=60, cwd=tmp_path, check=True)
    scroll_width, inner_width = map(int, re.search(rb"<title>(\d+),(\d+)</title>", dom.stdout).groups())
    assert scroll_width <= inner_width == width


def grid_of(shape, y, x):
    return xr.DataArray(np.zeros(shape, int), dims=("latitude", "longitude"), coords={"latitude": y, "longitude": x})


def test_maps_have_round_numbers_at_their_sides_where_these_belong():
    (view,) = views.label_views(grid_of((19, 36), np.linspace(90, -90, 19), np.arange(-180.0, 180, 10)))
    assert [text for _, text in view.y_ticks] == ["-90", "-45", "0", "45", "90"]
    np.testing.assert_allclose([at * 19 for at, _ in view.y_ticks], [18.5, 14, 9.5, 5, 0.5])
    assert view.x_ticks[0] == (0.5 / 36, "-180")
    assert (18.5 / 36, "0") in view.x_ticks
    (small,) = views.label_views(grid_of((3, 3), np.array([0.0, 0.1, 0.2]), np.array([1.0, 3.0, 2.0])))
    assert [text for _, text in small.y_ticks] == ["0", "0.05", "0.1", "0.15", "0.2"]
    assert small.x_ticks == ()
    (far,) = views.label_views(grid_of((3, 2), np.array([0.0, 1.0, np.inf]), np.array([4_300_505.0, 4_300_515.0])))
    assert far.y_ticks == ()
    assert [text for _, text in far.x_ticks] == ["4300506", "4300508", "4300510", "4300512", "4300514"]


def test_a_thin_map_is_drawn_high_enough_to_be_seen_and_says_so():
    labels = grid_of((2, 60), np.array([0.0, 1.0]), np.arange(60.0))
    found = types.SimpleNamespace(colors=charts.cluster_colors(2), n_clusters=2, largest_first=lambda most: [0, 1])
    (section,) = report._label_maps(labels, found)
    assert "--ratio:4" in section
    assert "not to scale" in section


def test_where_clusters_are_many_alike_centers_have_alike_colors(rng):
    centers = np.arange(20.0)[rng.permutation(20), None] * np.ones(3)
    shown = np.array(report._colors_by_likeness(centers))[np.argsort(centers[:, 0])].tolist()
    assert shown in (charts.cluster_colors(20), charts.cluster_colors(20)[::-1])
    assert len(set(charts.cluster_colors(1000))) <= 254
    assert picture(charts.labels_png(np.array([[-1, 999]]), charts.cluster_colors(1000))).shape == (1, 2, 3)

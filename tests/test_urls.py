"""Results at URLs: what workers and client write there is what a folder would hold, and appears whole or not at all."""

from __future__ import annotations

import errno
import json
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
from era import CUT, kill_while_it_writes
from rich.console import Console
from test_remote import credentials, s3_server  # noqa: F401
from typer.testing import CliRunner

from daskmeans import KMeans, load, open_results
from daskmeans.cli import app
from daskmeans.errors import ConfigError, DataError
from daskmeans.job import places, results
from daskmeans.job.configfile import load_config
from daskmeans.job.places import UNFINISHED, Place
from daskmeans.job.predict import predict_job
from daskmeans.job.run import run_job
from daskmeans.job.status import status_lines

REPOSITORY = Path(__file__).parents[1]
QUIET = Console(quiet=True)
JOB = f"""\
input: {{store: {CUT}, variables: [z, u, v], sample_dims: [month, latitude, longitude], feature_dims: [level]}}
preprocess: {{scale: standard}}
model: {{n_clusters: 4, memory_budget: 300kB, max_iter: 2, init: k-means++}}
output: {{path: local, distances: true}}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    Path("job.yaml").write_text(JOB)


@pytest.fixture(name="url")
def somewhere():
    """A URL in memory where nothing is yet."""
    return f"memory://{uuid.uuid4().hex}/out"


def run(*overrides):
    return run_job(load_config("job.yaml", overrides), QUIET)


def files_of(url, **options):
    files, root = fsspec.url_to_fs(url, **options)
    files.invalidate_cache()
    return sorted(name.split(root.strip("/"), 1)[1].strip("/") for name in files.find(root))


def left_in(folder):
    return [place.name for place in Path(folder).rglob("*") if not place.is_dir()] if Path(folder).exists() else []


def test_a_url_holds_what_a_folder_does(url):
    local = run()
    run(f"output.path={url}")
    assert files_of(url) == sorted(place.relative_to(local).as_posix() for place in local.rglob("*") if place.is_file())
    there = xr.open_zarr(f"{url}/result.zarr").load()
    xr.testing.assert_identical(there, xr.open_zarr(local / "result.zarr").load())
    assert there["labels"].min() == 0  # not the fill value of labels that are elsewhere
    page = fsspec.open(f"{url}/report.html", "rt").open().read()
    maps = [line for line in page.splitlines() if "Where they lie" in line]
    assert maps
    assert maps == [line for line in (local / "report.html").read_text().splitlines() if "Where they lie" in line]
    assert left_in("state") == []


def test_results_at_a_url_predict_and_tell_their_state(url):
    run(f"output.path={url}")
    assert dict(status_lines(url))["state"] == f"finished: {url}"
    assert "done" in CliRunner().invoke(app, ["logs", url]).stdout
    predict_job(url, str(CUT), f"{url}-labels.zarr", [], False, QUIET)
    found = xr.open_zarr(f"{url}-labels.zarr").load()
    xr.testing.assert_equal(found, xr.open_zarr(f"{url}/result.zarr")[["labels", "distances"]].load())
    with pytest.raises(ConfigError, match=r"OUTPUT: .*labels.zarr exists; choose another path"):
        predict_job(url, str(CUT), f"{url}-labels.zarr", [], False, QUIET)
    predict_job(url, str(CUT), f"{url}-labels.zarr", ["input.select={month: 1}"], True, QUIET)
    assert xr.open_zarr(f"{url}-labels.zarr")["labels"].sizes["month"] == 1
    with pytest.raises(ConfigError, match="holds no results of a finished run"):
        predict_job(f"{url}-none", str(CUT), "labels.zarr", [], False, QUIET)


def test_only_earlier_results_are_replaced(url):
    run(f"output.path={url}")
    with pytest.raises(ConfigError, match=r"output.path: memory://.* exists; choose another path"):
        run(f"output.path={url}")
    run(f"output.path={url}", "output.overwrite=true", "output.distances=false")
    assert "distances" not in xr.open_zarr(f"{url}/result.zarr")
    assert not [name for name in files_of(url) if "distances" in name]
    with fsspec.open(f"{url}-other/mine.txt", "wt") as file:
        file.write("precious")
    with pytest.raises(ConfigError, match=r"holds no earlier results \(no summary.json in it\)"):
        run(f"output.path={url}-other", "output.overwrite=true")
    assert files_of(f"{url}-other") == ["mine.txt"]


BEFORE, AFTER = "output.distances=false", "output.distances=true"


def replaced(url, *more):
    return run(f"output.path={url}", "output.overwrite=true", AFTER, *more)


def spoil(monkeypatch, method, of, after=0):
    """Let a method fail on what `of` names, after so many calls; return the method as it was."""
    whole, calls = getattr(Place, method), []

    def fail(self, *args, **kwargs):
        calls.append(None)
        if of in self.name and len(calls) > after:
            raise OSError(errno.EACCES, "no more")
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(Place, method, fail)
    return whole


def test_earlier_results_stay_until_the_new_ones_are_whole(url, monkeypatch):
    run(f"output.path={url}", BEFORE)
    files, root = fsspec.url_to_fs(url)
    before = {name: files.cat_file(f"{root}/{name}") for name in files_of(url)}
    seen = []
    publish = Place.publish

    def look(self, *args, **kwargs):
        seen.append({name: files.cat_file(f"{root}/{name}") for name in files_of(url)})
        publish(self, *args, **kwargs)

    monkeypatch.setattr(Place, "publish", look)
    replaced(url)
    assert seen == [before]
    assert "distances" in xr.open_zarr(f"{url}/result.zarr").load()
    assert files_of(f"{url.removesuffix('/out')}/.out.new") == []


@pytest.mark.parametrize(("method", "after"), [("upload", 1), ("upload", 2)])
def test_a_replacement_that_fails_leaves_the_earlier_results(url, monkeypatch, method, after):
    run(f"output.path={url}", BEFORE)
    spoil(monkeypatch, method, ".out.new", after)
    with pytest.raises((ConfigError, OSError)):
        replaced(url)
    assert "distances" not in open_results(url).load()
    assert files_of(f"{url.removesuffix('/out')}/.out.new") == []


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_replacement_that_is_killed_while_it_is_copied_is_completed(url, monkeypatch, after):
    run(f"output.path={url}", BEFORE)
    monkeypatch.setattr(places, "COPIED_AT_ONCE", 3)
    copy = spoil(monkeypatch, "_copy", url, after)
    with pytest.raises(ConfigError, match="no more"):
        replaced(url, "output.labels=true")
    with pytest.raises(ConfigError, match="holds no results of a finished run"):
        open_results(url)
    monkeypatch.setattr(Place, "_copy", copy)
    with pytest.raises(ConfigError, match="exists; choose another path"):  # the new ones, which are there now
        run(f"output.path={url}")
    assert "distances" in open_results(url).load()
    assert files_of(f"{url.removesuffix('/out')}/.out.new") == []
    local = run("output.path=here", AFTER)
    assert files_of(url) == sorted(place.relative_to(local).as_posix() for place in local.rglob("*") if place.is_file())


def test_what_others_have_where_a_replacement_is_made_is_left_alone(url):
    run(f"output.path={url}")
    with fsspec.open(f"{url.removesuffix('/out')}/.out.new/mine.txt", "wt") as file:
        file.write("precious")
    with pytest.raises(ConfigError, match=r"output.path: .*/.out.new is needed for new results"):
        replaced(url)
    assert files_of(f"{url.removesuffix('/out')}/.out.new") == ["mine.txt"]
    assert dict(status_lines(url))["state"].startswith("finished")


def test_results_and_models_at_urls_are_opened_from_python(url):
    local = run()
    run(f"output.path={url}")
    xr.testing.assert_identical(open_results(url).load(), open_results(local).load())
    assert open_results(url)["labels"].chunks is not None
    model = KMeans(2, random_state=0).fit(np.arange(20.0).reshape(10, 2))
    model.save(f"{url}-model.npz")
    np.testing.assert_array_equal(load(f"{url}-model.npz").cluster_centers_, model.cluster_centers_)
    with pytest.raises(DataError, match="No model at memory://"):
        load(f"{url}-none.npz")
    with pytest.raises(DataError, match="results of `daskmeans run` are for open_results"):
        load(local)
    with pytest.raises(ConfigError, match="holds no results"):
        open_results(f"{url}-none")


def test_a_run_that_fails_leaves_nothing_at_its_url(url):
    cut = xr.open_zarr(CUT, consolidated=False).load().drop_encoding()
    cut["u"][1, 2, 3, 4] = np.nan
    cut.to_zarr("holes.zarr", consolidated=False, encoding={name: {"chunks": (1, 3, 21, 40)} for name in "zuv"})
    with pytest.raises(DataError, match="NaN"):
        run(f"output.path={url}", "input.store=holes.zarr")
    assert files_of(url) == []
    run(f"output.path={url}")
    with pytest.raises(ConfigError, match="no variable 'w'"):
        run(f"output.path={url}", "output.overwrite=true", "input.variables=[w]")
    assert dict(status_lines(url))["state"] == f"finished: {url}"  # what is refused destroys nothing


def test_labels_that_cannot_be_written_say_so(url):
    with pytest.raises(DataError, match="labels cannot be written"):
        results.LabelSink(Place.of(f"{url}-gone").location("result.zarr", ""), results.nullcontext(), False).put(
            (slice(0, 1),), np.zeros(1, np.int32)
        )


def test_places_that_cannot_be_written_are_refused_before_anything_is_read(monkeypatch):
    with pytest.raises(ConfigError, match="is the memory of one process, and workers of local are others"):
        run("output.path=memory://x/out", "cluster={type: local, options: {n_workers: 1}}")
    with pytest.raises(ConfigError, match=r"output.path: http://127.0.0.1:9/out cannot be written"):
        run("output.path=http://127.0.0.1:9/out")
    with pytest.raises(ConfigError, match=r"output.path: .*nonsense"):
        run("output.path=nonsense://x/out")


# -- a real server ---------------------------------------------------------------------------------

RUN = """
from daskmeans.job import configfile, run
run.run_job(configfile.load_config("job.yaml", sys.argv[1:]), QUIET)
"""


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_processes_read_from_s3_and_write_to_it(endpoints):
    options = credentials(endpoints[0])
    given = json.dumps(options)
    url = f"s3://weather/{uuid.uuid4().hex}"
    expected = xr.open_zarr(run() / "result.zarr").load()
    remote = ["input.store=s3://weather/era.zarr", f"input.storage_options={given}"]
    remote += [f"output.path={url}", f"output.storage_options={given}"]
    processes = "cluster={type: local, options: {n_workers: 2, threads_per_worker: 1, memory_limit: 1GiB}}"
    # A run that is killed while it writes leaves nothing that looks like results ...
    kill_while_it_writes(RUN, *remote)
    left = files_of(url, **options)
    assert UNFINISHED in left
    assert [name for name in left if "/c/" in name]
    assert not {"result.zarr/zarr.json", "summary.json"} & {*left}
    with pytest.raises(FileNotFoundError):
        xr.open_zarr(f"{url}/result.zarr", storage_options=options)
    # ... and is gone on with by the same command.
    run(*remote, processes)
    xr.testing.assert_identical(xr.open_zarr(f"{url}/result.zarr", storage_options=options).load(), expected)
    files = fsspec.filesystem("s3", **options)
    for name in ("config.yaml", "summary.json", "report.html", "log.jsonl"):
        text = files.cat_file(f"{url}/{name}").decode()
        assert "hush-hush" not in text
        assert "somebody" not in text
    assert UNFINISHED not in files_of(url, **options)
    # Others get at it as the run did; what replaces it does so by copies that the server makes.
    xr.testing.assert_identical(open_results(url, options).load(), expected)
    predict_job(url, str(CUT), "labels.zarr", [f"output.storage_options={given}"], False, QUIET)
    assert xr.open_zarr("labels.zarr")["labels"].load().equals(expected["labels"])
    run(*remote, "output.overwrite=true", "output.distances=false")
    xr.testing.assert_identical(open_results(url, options).load(), expected.drop_vars("distances"))
    assert files_of(f"{url.rpartition('/')[0]}/.{url.rpartition('/')[2]}.new", **options) == []


def test_what_may_be_secret_is_in_no_message():
    place = Place.of("s3://bucket/out", {"secret": "hush-hush"})
    sink = results.LabelSink(place.location("result.zarr", ""), results.nullcontext(), False)
    assert "hush-hush" not in f"{place} {sink}"
    assert "bucket" in f"{place} {sink}"

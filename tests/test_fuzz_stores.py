"""Stores that are damaged at random: a run says so, or its result is the right one, wherever damage can be seen at all.

DASKMEANS_FUZZ=2000 pytest tests/test_fuzz_stores.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from rich.console import Console
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from daskmeans import open_samples
from daskmeans.errors import DaskMeansError, DataError
from daskmeans.job.configfile import load_config
from daskmeans.job.run import run_job

N_STORES = int(os.environ.get("DASKMEANS_FUZZ", "56"))

LAYOUTS = {
    "v3-zstd": {},
    "v3-zstd-checksum": {"compressors": ZstdCodec(checksum=True)},
    "v3-crc32c": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "v3-gzip": {"compressors": GzipCodec()},
    "v3-blosc": {"compressors": BloscCodec(clevel=0)},  # which leaves bytes as they are, as it does with noise
    "v3-raw": {"compressors": None},
    "v3-shards": {"shards": (60, 3)},
    "v2-zstd": {"zarr_format": 2},
    "v2-zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib()},
    "v2-blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc(clevel=0)},
    "v2-raw": {"zarr_format": 2, "compressors": None},
}
# Those whose chunks carry a checksum. In all others a flipped bit is a value like any other.
CHECKED = {"v3-zstd-checksum", "v3-crc32c", "v3-gzip", "v2-zlib"}
RAW = {"v3-raw", "v2-raw", "v3-blosc", "v2-blosc"}

GROUPS = {"group-v3": 3, "group-v2": 2}

WORDS = [None, 0, -1, 7, 10**12, "x", "f8", "<i4", "float64", "zstd", [], {}, [20], [60, 4], "NaN", 3.5, True]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A folder with a whole store of each layout."""
    folder = tmp_path_factory.mktemp("stores")
    rng = np.random.default_rng(0)
    X = (rng.random((120, 3)) + 5 * rng.integers(0, 3, (120, 1))).astype("f4")
    for name, layout in LAYOUTS.items():
        zarr.create_array(folder / name, shape=X.shape, chunks=(20, 3), dtype="f4", **layout)[:] = X
    fields = {name: (("t", "y"), X[:, i].reshape(12, 10)) for i, name in enumerate("uv")}
    for name, version in GROUPS.items():
        xr.Dataset(fields, coords={"t": np.arange(12.0)}).chunk(t=3).to_zarr(
            folder / name, zarr_format=version, consolidated=False
        )
    np.save(folder / "matrix.npy", X)
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(store, *overrides):
    layout = ", variables: [u, v], sample_dims: [t, y]" if (Path(store) / "u").exists() else ""
    Path("job.yaml").write_text(
        f"input: {{store: {store}{layout}}}\nmodel: {{n_clusters: 3, memory_budget: 100kB, max_iter: 5}}\n"
        "output: {path: out, overwrite: true}\n"
    )
    folder = run_job(load_config("job.yaml", overrides), Console(quiet=True))
    return xr.open_zarr(folder / "result.zarr").load()


def edit(content, chance):
    """Change a value in metadata, or remove it."""
    tree = json.loads(content)
    found = list(items(tree))
    if found:
        container, key = chance.choice(found)
        if chance.random() < 0.3:
            del container[key]
        else:
            container[key] = chance.choice(WORDS)
    return json.dumps(tree).encode()


def items(tree):
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from items(tree[key])


def flip(content, chance):
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]


WAYS = {
    "cut": lambda content, chance: content[: chance.randrange(len(content))],
    "flip": flip,
    "empty": lambda content, chance: b"",
    "noise": lambda content, chance: chance.randbytes(len(content)),
    "append": lambda content, chance: content + chance.randbytes(9),
    "remove": lambda content, chance: None,
}


def damage(store, chance):
    """Damage one file of a store, and return which way."""
    files = [file for file in sorted(store.rglob("*")) if file.is_file()] or [store]
    metadata = [file for file in files if file.name[0] == "." or file.suffix == ".json"]
    file = chance.choice(metadata if metadata and chance.random() < 0.4 else files)
    if file in metadata and chance.random() < 0.5:
        file.write_bytes(edit(file.read_bytes(), chance))
        return "edit"
    way = chance.choice(list(WAYS))
    content = WAYS[way](file.read_bytes(), chance)
    file.unlink() if content is None else file.write_bytes(content)
    return "edit" if file in metadata else way


def can_be_unseen(way, name, warned):
    """Return whether a difference to the undamaged result can go without an error."""
    if way == "edit":  # metadata that are as valid as before, but other ones
        return True
    if way == "remove":
        return any("not stored" in str(warning.message) for warning in warned)
    return name not in CHECKED and (way == "flip" or (way == "noise" and name in {*RAW, "matrix.npy"}))


def outcome(store):
    """Return the result of a run on a damaged store, None where it is refused with reasons, and its warnings."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            return run(str(store)), warned
        except DaskMeansError:
            return None, warned


def chunks_of(store):
    """Return the files of the chunks of the data."""
    files = sorted(file for file in Path(store).rglob("*") if file.is_file())
    return [file for file in files if file.name[0] != "." and file.suffix != ".json" and "t" not in file.parts]


@pytest.mark.parametrize("name", [*LAYOUTS, *GROUPS, "matrix.npy"])
def test_damage_is_named_or_changes_nothing(stores, name):
    expected = run(str(stores / name))
    for seed in range(-(-N_STORES // (len(LAYOUTS) + 3))):
        chance = random.Random(f"{name} {seed}")
        store = Path("damaged") / name
        shutil.rmtree("damaged", ignore_errors=True)
        Path("damaged").mkdir()
        shutil.copytree(stores / name, store) if (stores / name).is_dir() else shutil.copy(stores / name, store)
        way = damage(store, chance)
        try:
            found, warned = outcome(store)
        except Exception as error:
            raise AssertionError(f"{name} {seed}: {way}") from error
        assert found is None or found.identical(expected) or can_be_unseen(way, name, warned), (name, seed, way)


@pytest.mark.parametrize("name", ["v3-zstd", "v2-zlib", "v3-shards"])
def test_missing_chunks_are_counted(stores, name):
    shutil.copytree(stores / name, "gaps")
    chunk = chunks_of("gaps")[0]
    chunk.unlink()
    with pytest.warns(
        UserWarning, match=rf"1 of \d chunks of variable '[Xuv\w]+' are not stored, {chunk.absolute()} the"
    ):
        run("gaps")
    with pytest.raises(DataError, match=r"are not stored, .* set input.missing_chunks to fill"):
        run("gaps", "input.missing_chunks=error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("gaps", "input.missing_chunks=fill")


def test_only_chunks_of_the_selection_count(stores):
    shutil.copytree(stores / "group-v3", "gaps")
    Path("gaps/u/c/3/0").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("gaps", "input.select={t: [0, 8]}")


@pytest.mark.parametrize("name", ["v2-blosc", "v3-blosc", "v3-shards"])
def test_chunks_that_codecs_would_take_as_they_are(stores, name):
    shutil.copytree(stores / name, "short")
    chunk = chunks_of("short")[0]
    chunk.write_bytes(chunk.read_bytes()[: 0 if name == "v3-shards" else 100])
    with pytest.raises(DataError, match=rf"{chunk.absolute()} is damaged: \d+ of \d+ bytes; write this chunk again"):
        run("short")


@pytest.mark.parametrize("attributes", [[1, 2], 5, "text"])
def test_attributes_that_are_no_mapping_are_named(tmp_path, attributes):
    zarr.create_array(tmp_path / "X.zarr", shape=(10, 3), chunks=(5, 3), dtype="f4")[:] = 1
    metadata = tmp_path / "X.zarr/zarr.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "attributes": attributes}))
    with pytest.raises(DataError, match=r"X\.zarr is damaged: the attributes"):
        open_samples(tmp_path / "X.zarr")

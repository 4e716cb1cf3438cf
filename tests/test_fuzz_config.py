"""Configurations made at random from the schema, and broken at random: what is wrong is always said, and where.

DASKMEANS_FUZZ=10000 pytest tests/test_fuzz_config.py
"""

from __future__ import annotations

import contextlib
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr
from rich.console import Console

from daskmeans.errors import DaskMeansError
from daskmeans.job.config import JobConfig
from daskmeans.job.configfile import dump_config, load_config
from daskmeans.job.run import plan_job

N_CONFIGS = int(os.environ.get("DASKMEANS_FUZZ", "600"))
BATCH = 100

SCHEMA = JobConfig.model_json_schema()
WORDS = [
    "X",
    "X.zarr",
    "u",
    "sample",
    "feature",
    "cos_latitude",
    "local",
    "SLURMCluster",
    "2GiB",
    "a.b",
    "é☃",
    " ",
    "~x",
]
JUNK = [
    *(None, True, False, 0, -1, 10**30, -(10**400), 1.5, 1e308, float("nan"), float("inf"), -0.0),
    *(
        "",
        "null",
        "\t",
        "\n",
        "\0",
        "🦆",
        "2001-12-14",
        "1e999",
        "0x1F",
        "*a",
        "&a",
        "<<",
        "{",
        "x" * 5000,
        "%s {0} {x!r}",
    ),
    *(
        [],
        {},
        [[]],
        {"": None},
        [[1], [2, 3]],
        [{}],
        {"a": {"b": {"c": []}}},
        {"x": [None, 1]},
        [1, 10**400],
        ["u", "u"],
    ),
]
# Lines and words of YAML that mean more, or other things, than they seem to.
SNIPPETS = [
    *("\t", "\0", "\r", "﻿", " ", "\x85", "\x1b[31m", "🦆", "\\", '"', "'", "|", ">", "%YAML 1.1\n", "---\n", "...\n"),
    *(
        "&a ",
        "*a",
        "<<: *a\n",
        "<<: {type: local}\n",
        "? [a, b]\n: c\n",
        "? {a: b}\n: c\n",
        "!!binary aGk=",
        "!!set {a}",
    ),
    *("!!python/object/apply:os.system [ls]", "!!timestamp 2001-12-14", "!!int x", "!!float x", "!!bool x", "!!null x"),
    *("!unknown x", "!!omap [a: b]", "!!str", "!!map", "!!seq x", "!!merge <<", "[" * 600, "{a: " * 600, "- " * 600),
    *(
        "9" * 5000,
        "-" + "9" * 5000,
        "0o17",
        "1_000",
        ".inf",
        ".nan",
        "1e400",
        "12:30:45",
        "=",
        "~",
        "key: key: key",
        "#",
    ),
    *("input: {store: X.zarr}\n", "model:\n", "  n_clusters: 3\n", "output: [", "null: 1\n", "1: 2\n", "true: 3\n"),
]


def drawn(schema, chance):
    """Return a value that the schema allows."""
    if "$ref" in schema:
        return drawn(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], chance)
    if "anyOf" in schema:
        return drawn(chance.choice(schema["anyOf"]), chance)
    if "const" in schema or "enum" in schema:
        return chance.choice(schema.get("enum", [schema.get("const")]))
    kinds = schema.get("type", ["number", "string", "null", "boolean", "array"])
    return BY_TYPE[chance.choice(kinds) if isinstance(kinds, list) else kinds](schema, chance)


def drawn_object(schema, chance):
    if "properties" not in schema:
        inner = schema.get("additionalProperties")
        inner = inner if isinstance(inner, dict) else {}
        return {chance.choice(WORDS): drawn(inner, chance) for _ in range(chance.randrange(3))}
    required = schema.get("required", ())
    share = chance.choice([0.05, 0.1, 0.3])
    return {
        key: drawn(inner, chance)
        for key, inner in schema["properties"].items()
        if key in required or chance.random() < share
    }


def drawn_integer(schema, chance):
    low = max(schema.get("minimum", -(10**6)), schema.get("exclusiveMinimum", -(10**6)))
    return chance.choice([low + 1, low + chance.randrange(10), chance.randrange(max(low, 0), 10**6)])


BY_TYPE = {
    "object": drawn_object,
    "array": lambda schema, chance: [
        drawn(schema.get("items", {}), chance)
        for _ in range(chance.randint(schema.get("minItems", 0), schema.get("maxItems", 3)))
    ],
    "integer": drawn_integer,
    "number": lambda schema, chance: chance.choice(
        [1.5, 10.0 ** chance.randint(-300, 300), drawn_integer(schema, chance)]
    ),
    "string": lambda schema, chance: chance.choice(WORDS),
    "boolean": lambda schema, chance: chance.random() < 0.5,
    "null": lambda schema, chance: None,
}


def places(tree, path=()):
    """Yield each container in a tree, with the keys of what it holds."""
    if isinstance(tree, dict | list) and tree:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        yield tree, keys
        for key in keys:
            yield from places(tree[key], (*path, key))


def break_tree(tree, chance):
    """Spoil one value or key."""
    container, keys = chance.choice(list(places(tree)))
    key = chance.choice(keys)
    way = chance.randrange(5)
    if way == 0:
        container[key] = chance.choice(JUNK)
    elif way == 1:
        container[key] = [container[key]]
    elif way == 2:
        del container[key]
    elif isinstance(container, dict) and way == 3:
        container[misspelt(str(key), chance)] = container.pop(key)
    elif isinstance(container, dict):
        container[chance.choice([*WORDS, *SCHEMA["properties"], "tol", 3, None, True])] = chance.choice(JUNK)


def misspelt(word, chance):
    place = chance.randrange(len(word) + 1)
    return word[:place] + chance.choice(["", "x", "_", "É"]) + word[place + 1 :]


def break_text(text, chance):
    """Spoil the text somewhere."""
    begin, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
    way = chance.randrange(6)
    if way == 0:
        return text[:begin] + chance.choice(SNIPPETS) + text[begin:]
    if way == 1:
        return text[:begin] + text[end:]
    if way == 2:
        return text[:end] + text[begin:]
    lines = text.splitlines(keepends=True) or [""]
    line = chance.randrange(len(lines))
    if way == 3:
        lines.insert(chance.randrange(len(lines) + 1), lines[line])
    elif way == 4:
        lines[line] = chance.choice([" ", "\t", "- ", "  "]) + lines[line]
    else:
        lines[line] = lines[line].rstrip("\n") + " " + chance.choice(SNIPPETS) + "\n"
    return "".join(lines)


def break_bytes(content, chance):
    """Spoil some bytes."""
    spoilt = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        if spoilt:
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
    return bytes(spoilt[: chance.randrange(len(spoilt) + 1)] if chance.random() < 0.3 else spoilt)


def configuration(seed):
    """Return the content of a file: a valid configuration, or one that is broken in one or more ways."""
    chance = random.Random(seed)
    tree = drawn(SCHEMA, chance)
    for _ in range(chance.choice([0, 0, 1, 1, 2, 5])):
        if tree:
            break_tree(tree, chance)
    text = yaml.safe_dump(tree, default_flow_style=chance.choice([True, False, None]), allow_unicode=True)
    for _ in range(chance.choice([0, 0, 0, 1, 2, 4])):
        text = break_text(text, chance)
    content = text.encode("utf-8", "surrogatepass")
    return break_bytes(content, chance) if chance.random() < 0.1 else content


# Where no key is there to point at: the file as a whole, or a section that it lacks.
WHOLE_FILE = r"job\.yaml: (the file is empty|not a text file|not YAML|not a configuration|(input|output): missing)"


def check_complaint(error):
    """Check that each line of a message names the file, and the line and the key in it."""
    for line in str(error).split("\n"):
        assert re.match(rf"job\.yaml:\d+:\d+: \S|{WHOLE_FILE}", line), line
        assert len(line) < 1000


@pytest.fixture
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("daskmeans.job.cluster.CONNECT_TIMEOUT_S", 0.05)
    rng = np.random.default_rng(0)
    zarr.create_array("X.zarr", shape=(60, 2), chunks=(20, 2), dtype="f4")[:] = rng.random((60, 2))


def loaded(seed):
    """Return a configuration that loads, None where it is refused with reasons."""
    Path("job.yaml").write_bytes(configuration(seed))
    try:
        return load_config("job.yaml")
    except DaskMeansError as error:
        check_complaint(error)
        return None


def check_round_trip(config):
    """Check that what is written to the results is the same configuration, but for secrets."""
    Path("resolved.yaml").write_text(dump_config(config), encoding="utf-8")
    again = load_config("resolved.yaml")
    for name in ("input", "output"):
        section, given = getattr(again, name), getattr(config, name).storage_options
        again = again.model_copy(update={name: section.model_copy(update={"storage_options": given})})
    assert again == config


def check_plan(config):
    """Check that a plan is made, or refused with a reason, whatever the store has to do with the configuration."""
    store = config.input.model_copy(
        update={"store": "X.zarr", "variables": None, "array": None, "storage_options": None}
    )
    for place in (config.input, store):
        with contextlib.suppress(DaskMeansError):
            plan_job(config.model_copy(update={"input": place}), Console(quiet=True))


@pytest.mark.usefixtures("_here")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch", range(-(-N_CONFIGS // BATCH)))
def test_configurations_load_and_plan_or_say_what_is_wrong(batch):
    n_loaded = 0
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        try:
            config = loaded(seed)
            if config is not None:
                check_round_trip(config)
                check_plan(config)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {Path('job.yaml').read_bytes()!r}") from error
        n_loaded += config is not None
    assert 0 < n_loaded < BATCH

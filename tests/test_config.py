"""What a person who mistypes a configuration reads, and that what is valid means what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daskmeans.errors import ConfigError
from daskmeans.job.config import JobConfig, config_reference, sections
from daskmeans.job.configfile import dump_config, load_config

MINIMAL = """\
input: {store: a.zarr}
output: {path: results}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file `job.yaml` in the current directory."""
    monkeypatch.chdir(tmp_path)

    def write_text(text: str) -> str:
        Path("job.yaml").write_text(text, encoding="utf-8")
        return "job.yaml"

    return write_text


def complaint(path: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_minimal_config_gets_the_defaults(write):
    config = load_config(write(MINIMAL))
    assert config.model.n_clusters == 8
    assert config.model.init == "k-means||"
    assert config.cluster.type == "threads"
    assert config.output.labels is True


def test_whole_config_of_the_documentation(write):
    config = load_config(
        write(
            """
input:
  store: path/or/url.zarr
  variables: [u, v]
  sample_dims: [month, latitude, longitude]
  feature_dims: [level]
  select: {month: 1, latitude: [60, 30], time: 2020-01-01}
  weights: cos_latitude
  missing: drop
preprocess: {scale: standard}
model: {n_clusters: 2, init: [[1, 2], [3, 4.5]], n_init: 1, max_iter: 300, tol: 1e-4,
        random_state: 0, memory_budget: 2GiB, init_rounds: 5}
cluster: {type: local, options: {n_workers: 2, threads_per_worker: 1, memory_limit: 1GiB}}
output: {path: results/run1, labels: no, overwrite: yes}
"""
        )
    )
    assert config.input.select == {"month": 1, "latitude": (60, 30), "time": "2020-01-01"}
    assert config.model.tol == 1e-4
    assert config.model.memory_budget == 2 * 2**30
    assert config.model.init == ((1.0, 2.0), (3.0, 4.5))
    assert config.output.labels is False
    assert config.output.overwrite is True


def test_resolved_config_loads_again(write):
    text = MINIMAL.replace("a.zarr", "a.zarr, select: {level: [1, null], lat: [60, 30]}")
    overrides = ["model.memory_budget=500MB", "model.tol=1e-7", "model.n_clusters=1"]
    config = load_config(write(text), [*overrides, "model.init=[[1, 2.5]]"])
    assert load_config(write(dump_config(config))) == config


def test_words_are_not_taken_for_other_things(write):
    # YAML 1.1 would make these False, 720 and a date.
    text = MINIMAL.replace("a.zarr", "a.zarr, variables: [no, on, 12:00, 2001-12-14]")
    assert load_config(write(text)).input.variables == ("no", "on", "12:00", "2001-12-14")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "model: {n_cluster: 3}",
            "job.yaml:3:9: model.n_cluster: unknown key; did you mean 'n_clusters'?",
        ),
        (
            "modle: {n_clusters: 3}",
            "job.yaml:3:1: modle: unknown key; did you mean 'model'?",
        ),
        (
            "n_clusters: 3",
            "job.yaml:3:1: n_clusters: unknown key; it belongs in the section 'model'",
        ),
        (
            "model: {n_clusters: eight}",
            "job.yaml:3:9: model.n_clusters: expected a whole number, got 'eight'",
        ),
        (
            "model: {n_clusters: true}",
            "job.yaml:3:9: model.n_clusters: expected a number, got true",
        ),
        (
            "model: {n_clusters: 0}",
            "job.yaml:3:9: model.n_clusters: expected greater than or equal to 1, got 0",
        ),
        (
            "model: {n_clusters:}",
            "job.yaml:3:9: model.n_clusters: expected a whole number, got nothing (null)",
        ),
        (
            "model: {algorithm: loyd}",
            "job.yaml:3:9: model.algorithm: expected 'auto', 'lloyd' or 'lookahead', got 'loyd'; did you mean 'lloyd'?",
        ),
        (
            "model: {init: kmeans++}",
            (
                "job.yaml:3:9: model.init: expected 'k-means||', 'k-means++', 'random', "
                "'random-partition' or a list of centers, got 'kmeans++'; did you mean 'k-means++'?"
            ),
        ),
        (
            "model: {n_clusters: 3, init: [[1], [2]]}",
            "job.yaml:3:24: model.init: expected n_clusters = 3 centers, got 2",
        ),
        (
            "model: {n_clusters: 2, init: [[1, 2], [2, .nan]]}",
            "job.yaml:3:24: model.init: expected a list of numbers as center 1, got nan in it",
        ),
        (
            "model: {memory_budget: 2 Gobs}",
            (
                "job.yaml:3:9: model.memory_budget: '2 Gobs' is not a size; write a number and a "
                "unit, such as 2GiB or 500MB"
            ),
        ),
        (
            "preprocess: [standard]",
            "job.yaml:3:1: preprocess: expected keys with values, got ['standard']",
        ),
        (
            "cluster: {type: local, options: {n_worker: 2}}",
            "job.yaml:3:34: cluster.options.n_worker: unknown option; did you mean 'n_workers'?",
        ),
        (
            "cluster: {type: local, options: {memory_limit: 1 Gob}}",
            ("job.yaml:3:34: cluster.options.memory_limit: expected a size such as 2GiB, or auto, got '1 Gob'"),
        ),
        (
            "cluster: {type: address}",
            ("job.yaml:3:1: cluster.options: expected the scheduler's address, such as {address: tcp://10.0.0.1:8786}"),
        ),
        (
            "output: {path: other}",
            "job.yaml:3:1: output: written twice, first at job.yaml:2:1; remove one",
        ),
        ("3: 4", "job.yaml:3:1: 3: expected text as a key; put it in quotes"),
        ("model: [1, 2", "job.yaml:4:1: not YAML: while parsing a flow sequence"),
        ("model: {tol: *a}", "job.yaml:3:14: not YAML: aliases (*a) are not supported"),
        ("model: !!python/object:os.system {}", "job.yaml:3:8: not YAML: could not determine"),
        ("model: {tol: !!float x}", "job.yaml:3:14: not YAML: could not convert string to float: 'x'"),
        ("model: {tol: !!timestamp 2001-12-14}", "job.yaml:3:14: not YAML: could not determine"),
        (f"model: {{n_clusters: {'9' * 5000}}}", "job.yaml:3:21: not YAML: Exceeds the limit"),
        ("model: {memory_budget: '" + "9" * 400 + "'}", "job.yaml:3:9: model.memory_budget: '999"),
        ('model: {}\npreprocess: {scale: "a\\0b"}', "job.yaml:4:14: preprocess.scale: expected 'none'"),
        ("cluster: {adapt: {}}", "job.yaml:3:11: cluster.adapt.maximum: missing; expected Most workers"),
        (
            "cluster: {adapt: {max: 3, maximum: 4}}",
            "job.yaml:3:19: cluster.adapt.max: unknown key; did you mean 'maximum'?",
        ),
        ('" ": 3', "job.yaml:3:1: ' ': unknown key; there is: input"),
    ],
)
def test_mistake_is_named_with_its_place(write, line, message):
    assert complaint(write(MINIMAL + line + "\n")).startswith(message)


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(write):
    text = "model:\n  tol: -1\n  max_itre: 3\ninput: {array: X, variables: [u]}\n"
    assert complaint(write(text), "preprocess.scale=std").splitlines() == [
        "job.yaml:2:3: model.tol: expected greater than or equal to 0, got -1",
        "job.yaml:3:3: model.max_itre: unknown key; did you mean 'max_iter'?",
        (
            "job.yaml:4:1: input.store: missing; expected Path (relative to the current directory) "
            "or URL of a Zarr store, v2 or v3; or path of a .zip file with one in it, or of a .npy file"
        ),
        "--set preprocess.scale=std: preprocess.scale: expected 'none' or 'standard', got 'std'",
        "job.yaml: output: missing; expected a section with the key path",
    ]


def test_array_and_variables_exclude_each_other(write):
    message = complaint(write(MINIMAL.replace("a.zarr", "a.zarr, array: X, variables: [u]")))
    assert message == ("job.yaml:1:1: input: expected either array or variables, got both; remove one of them")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "job.yaml: the file is empty; expected the sections input, preprocess, model"),
        (b"# nothing\n", "job.yaml: the file is empty"),
        (b"- a\n- b\n", "job.yaml:1:1: expected the sections input"),
        (b"just words", "job.yaml:1:1: expected the sections input"),
        (b"\xff\xfe\x00a", "job.yaml: not a text file in UTF-8 (byte 0)"),
        (b"input:\n\tstore: a\n", "job.yaml:2:1: not YAML"),
        (b"a: \x00", "job.yaml:1:4: not YAML: the character '\\x00' is not allowed; remove it"),
        (b"[" * 5000, "job.yaml: not a configuration: nested too deeply"),
    ],
)
def test_file_that_is_no_configuration(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_bytes(content)
    assert complaint("job.yaml").startswith(message)


def test_file_that_is_not_there(write):
    write(MINIMAL)
    assert complaint("jobb.yaml") == "jobb.yaml: no such file; did you mean 'job.yaml'?"
    assert complaint(".") == ".: a folder; expected a YAML file"


def test_overrides_win_and_their_mistakes_name_the_option(write):
    path = write(MINIMAL + "model: {n_clusters: 3}\npreprocess:\n")
    config = load_config(path, ["model.n_clusters=12", "preprocess.scale=standard"])
    assert config.model.n_clusters == 12
    assert config.preprocess.scale == "standard"
    assert complaint(path, "model.n_cluster=12") == (
        "--set model.n_cluster=12: model.n_cluster: unknown key; did you mean 'n_clusters'?"
    )
    assert complaint(path, "n_clusters") == ("--set n_clusters: expected KEY=VALUE, such as model.n_clusters=12")
    assert complaint(path, "model.tol.x=1") == ("--set model.tol.x=1: model.tol: expected a number, got {'x': 1}")
    assert complaint(path, "model.n_clusters.x=1") == (
        "--set model.n_clusters.x=1: model.n_clusters has no keys below it"
    )
    assert complaint(path, "model.init=[1").startswith("--set model.init=[1: the value is not YAML: ")


def test_every_key_is_described_and_stands_in_the_reference():
    reference = config_reference()
    for _, model in sections():
        for key, field in model.model_fields.items():
            assert field.description
            assert f"| `{key}` |" in reference
    assert json.loads(json.dumps(JobConfig.model_json_schema()))["additionalProperties"] is False

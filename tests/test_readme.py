"""What the README says, a reader can do: its examples run, its commands work, its tables are those of the code."""

from __future__ import annotations

import contextlib
import re
import runpy
import shlex
import subprocess
import tomllib
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from daskmeans.cli import app
from daskmeans.memory import GIB, MIB, PROCESS_BYTES, ROWS_ONLY, Budget

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


def commands(program):
    """Return the lines of all shell blocks that run `program`, without their comments."""
    lines = [line.split(" #")[0].strip() for text in blocks("bash") for line in text.splitlines()]
    return [line for line in lines if line.split()[:1] == [program]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run the commands for `job.yaml`, in a folder that looks like the checkout to them, and return it."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("tests", "configs", "scripts"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "job.yaml").write_text(blocks("yaml")[0])
    with contextlib.chdir(folder):
        for command in commands("daskmeans"):
            words = shlex.split(command)
            target = words.index(">") if ">" in words else len(words)
            done = CliRunner().invoke(app, words[1:target])
            assert done.exit_code == 0, f"{command}: {done.output}"
            for place in words[target + 1 :]:
                Path(place).write_text(done.stdout)
    return folder


def test_commands_do_what_is_said(folder):
    assert len(commands("daskmeans")) == 8
    for name in ("winds/result.zarr", "winds/summary.json", "winds/config.yaml", "winds12", "labels.zarr"):
        assert (folder / "results" / name).exists()
    assert '"JobConfig"' in (folder / "job.schema.json").read_text()


@pytest.mark.parametrize("example", blocks("python"), ids=range(len(blocks("python"))))
def test_python_examples_run(folder, monkeypatch, example):
    monkeypatch.chdir(folder)
    exec(compile(example, "README.md", "exec"), {})


def test_the_first_examples_are_as_short_as_they_say():
    assert len(blocks("python")[0].replace("\n\n", "\n").splitlines()) <= 6
    assert len(blocks("yaml")[0].splitlines()) == 10


def test_scripts_that_take_minutes_exist_and_are_no_gibberish():
    scripts = {line.split()[1] for line in commands("bash")}
    assert scripts == {"scripts/quickstart.sh", "scripts/test.sh"}
    for script in scripts:
        subprocess.run(["bash", "-n", REPOSITORY / script], check=True)
    for line in commands("python"):
        assert (REPOSITORY / line.split()[1]).is_file()


def test_what_the_quickstart_is_said_to_print_is_what_is_printed():
    config = yaml.safe_load((REPOSITORY / "configs" / "quickstart.yaml").read_text())
    assert f"into {config['model']['n_clusters']} clusters" in README
    assert f"Look at {config['output']['path']}/clusters.png" in README


def test_the_reference_is_that_of_the_code():
    updated = runpy.run_path(str(REPOSITORY / "scripts" / "update_readme.py"))["updated"]
    assert updated(README) == README, "run scripts/update_readme.py"


def test_the_shares_of_the_budget_are_those_of_the_code():
    small, large = Budget(16 * MIB), Budget(1024 * GIB)
    for share, most in (("block_bytes", " 16 MiB"), ("sample_bytes", " 256 MiB"), ("kept_bytes", None)):
        part = Fraction(getattr(small, share), small.total_bytes)
        assert f"| {part}{f', at most{most}' if most else ''} |" in README
        if most:
            assert getattr(large, share) == int(most.split()[0]) * MIB
    assert f"Above {ROWS_ONLY // MIB} MiB, up to {PROCESS_BYTES // MIB} MiB of it are set\napart" in README
    assert [Budget(n * MIB).row_bytes // MIB for n in (16, 128, 512, 640, 1024)] == [16, 128, 128, 128, 512]
    assert all(Budget.for_rows(n * MIB).row_bytes == n * MIB for n in (1, 128, 129, 5000))


def test_each_dependency_is_explained():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[><=]", requirement)[0] for requirement in project["dependencies"]}
    section = README.split("## Dependencies")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\S+) \|", section, flags=re.MULTILINE)
    assert set(rows) - {"package", "---"} == names


def test_each_module_has_its_place_in_the_architecture():
    section = README.split("## Architecture")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)/?`", section))
    modules = {place.stem for place in (REPOSITORY / "daskmeans").iterdir() if not place.name.startswith(("_", "py."))}
    assert modules - named == set()


def test_links_lead_somewhere():
    headings = {re.sub(r"\W+", "-", line.lower()) for line in re.findall(r"^##+ (.*)$", README, flags=re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]*)\)", README):
        assert target.removeprefix("#") in headings if target.startswith("#") else (REPOSITORY / target).exists()

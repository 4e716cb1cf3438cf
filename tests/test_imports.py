"""Who may know of whom: imports point downwards, and each trade has one house."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import daskmeans

PACKAGE = Path(__file__).parents[1] / "daskmeans"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the top down; a module may import those below it, and those beside it in its own layer.
LAYERS = [
    {"__init__", "__main__", "cli"},
    {"job"},
    {"selection", "plots"},
    {"metrics", "preprocessing"},
    {"estimator"},
    {"fit", "validity", "minibatch", "inputs"},
    {"survey"},
    {"options", "seeding"},
    {"lloyd"},
    {"bounds"},
    {"active"},
    {"drawing"},
    {"steps", "labelled", "frames", "covariance"},
    {"scan"},
    {"tasks"},
    {"workers"},
    {"stores", "transforms", "spreads", "freezing", "reassigning"},
    {"resolve"},
    {"blocking"},
    {"gridded", "handles", "kernels", "moments", "packed", "philox"},
    {"cells", "quantized"},
    {"products"},
    {"jit", "vectors"},
    {"ome", "nodes"},
    {"samples"},
    {"memory"},
    {"errors", "inline", "retry"},
]
HEIGHT = {name: -depth for depth, names in enumerate(LAYERS) for name in names}


def imported(path):
    """Yield each module and name that a file imports, whatever the place, but for those that only type checkers see."""
    hidden = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            hidden.update(id(inner) for inner in ast.walk(node))
        elif isinstance(node, ast.Import) and id(node) not in hidden:
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and id(node) not in hidden:
            yield from ((node.module or "", alias.name) for alias in node.names)


def own_name(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own_imports(path):
    """Return the names of the package's modules that a file imports."""
    for module, name in imported(path):
        if module == "daskmeans" and name is not None and not name.startswith("__"):
            yield name
        elif module.startswith("daskmeans."):
            yield module.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    here = own_name(path)
    assert here in HEIGHT, f"give {here} a place in LAYERS"
    upwards = [name for name in own_imports(path) if HEIGHT[name] > HEIGHT[here]]
    assert not upwards, f"{here} imports {upwards}, which lie above it"


def importers(*libraries, names=()):
    """Return the modules that import from one of `libraries`, and from it one of `names` if given."""
    found = set()
    for path in MODULES:
        for module, name in imported(path):
            known = any(module == library or module.startswith(f"{library}.") for library in libraries)
            if known and (not names or name in names):
                found.add(own_name(path))
    return found


def test_only_tasks_build_graphs():
    graphs = ("dask._task_spec", "dask.delayed", "dask.highlevelgraph", "dask.base", "dask")
    assert importers(*graphs, names=("Task", "TaskRef", "List", "Delayed", "delayed", "HighLevelGraph")) == {"tasks"}


def test_only_kernels_compile():
    assert importers("numba") == {"jit", "vectors"}


def test_only_the_stores_and_what_writes_results_open_zarr_and_xarray():
    assert importers("zarr", "xarray") <= {
        "stores",
        "resolve",
        "gridded",
        "handles",
        "nodes",
        "inline",
        "ome",
        "blocking",
        "labelled",
        "job",
        "inputs",
    }


LOOPS = {"kernels", "freezing", "reassigning", "cells", "moments", "spreads"}


@pytest.mark.parametrize("name", sorted(LOOPS | {"samples", "memory", "errors", "steps", "lloyd", "seeding"}))
def test_arithmetic_knows_neither_dask_nor_zarr(name):
    path = PACKAGE / f"{name}.py"
    foreign = {module.split(".")[0] for module, _ in imported(path)} & {"dask", "distributed", "zarr", "xarray"}
    assert not foreign


def test_budgets_are_pure_integers():
    assert not {module for module, _ in imported(PACKAGE / "memory.py")} & {"numpy", "dask", "zarr"}


@pytest.mark.parametrize("name", ["metrics", "plots", "preprocessing"])
def test_modules_for_users_are_at_hand(name):
    assert daskmeans.__getattr__(name) is importlib.import_module(f"daskmeans.{name}")

"""Imports run one way: between packages along the edges listed here, and between modules without a circle."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from graphlib import TopologicalSorter

import pytest

from tests.support.launching import ROOT

SHARDS = {
    "common": "",
    "order": "",
    "format": "common",
    "sources": "common format",
    "storage": "common format",
    "loading": "common format order storage",
    "building": "common format order sources",
    "check": "common format loading storage",
}
TRAINER = {
    "errors": "",
    "recipe": "",
    "config": "recipe",
    "data": "config",
    "flags": "config",
    "presets": "config flags recipe",
    "gan": "config",
    "samples": "gan",
    "folder": "config errors gan",
    "ranks": "config errors gan",
    "watch": "config folder",
    "cli": "errors",
    "hub": "config gan",
    "export": "cli folder gan hub",
    "evaluate": "cli config data folder gan samples status",
    "explore": "cli data evaluate folder gan samples",
    "report": "cli config folder presets status",
    "represent": "cli folder gan",
    "status": "cli config folder watch",
    "train": "config data errors evaluate export folder gan presets ranks samples watch",
    "run": "config errors presets ranks train",
}
"""Each package, or module beside the packages, and what it imports."""

FILES = [path for name in ("shards", "trainer") for path in sorted((ROOT / name).rglob("*.py"))]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def imports_of(name: str) -> set[str]:
    """The modules of ours that ``name`` imports, anywhere in its text."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inside & MODULES.keys()) or {node.module}
    return names & MODULES.keys()


IMPORTS = {name: imports_of(name) for name in MODULES}


def room(module: str) -> str:
    """The package of ``module``, or the module itself beside the packages: ``gan`` of ``trainer.gan.kernels.x``."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize(("top", "allowed"), [("shards", SHARDS), ("trainer", TRAINER)])
def test_packages_import_what_the_list_says(top: str, allowed: dict[str, str]) -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for module, imported in IMPORTS.items():
        if module.startswith(f"{top}.") and room(module) != "__main__":
            found[room(module)] |= {room(other) for other in imported if other.startswith(f"{top}.")} - {room(module)}
    assert {name: " ".join(sorted(names)) for name, names in found.items()} == allowed
    TopologicalSorter({name: edges.split() for name, edges in allowed.items()}).prepare()


def test_modules_import_no_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()


def test_shards_know_nothing_of_the_trainer() -> None:
    assert {module: names for module, names in IMPORTS.items() if module.startswith("shards")
            and any(name.startswith("trainer") for name in names)} == {}  # fmt: skip


def test_no_package_hides_a_standard_module() -> None:
    """``trainer/run.py``, started as a script, has ``trainer/`` first on ``sys.path``."""
    assert {room(module) for module in MODULES if module.startswith("trainer.")} & sys.stdlib_module_names == set()

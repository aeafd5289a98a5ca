"""Imports run one way: a module imports from its own row or from those below, never upwards."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from conftest import REPOSITORY

PACKAGE = REPOSITORY / "rosita"
ROWS = (  # from the top; a wing stands for all that is in it
    ("api",),  # and all scripts, which nothing in rosita/ imports
    ("stages",),
    ("training", "augmentation", "budget"),
    ("deploy", "distillation", "runtime"),
    ("checkpoint", "evaluation", "config", "config_file", "report"),
    ("pruning", "data", "labels", "description"),
    ("tokenizer", "provenance", "tasks", "fetch"),
    ("files", "cli"),
    ("model", "backbones", "errors", "progress", "tables", "templating"),
)
ROW = {wing: number for number, row in enumerate(ROWS) for wing in row}


def modules() -> dict[str, Path]:
    """Name below rosita, such as `pruning.shape` -> file; the empty __init__.py are left out."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            found[".".join(path.relative_to(PACKAGE).with_suffix("").parts)] = path
    return found


MODULES = modules()


def imported(tree: ast.AST) -> Iterator[str]:
    """All modules that code imports, wherever it does; what only type checkers see is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        yield from imported(node)


def below_rosita(path: Path) -> set[str]:
    """The modules of rosita that a file imports."""
    names = imported(ast.parse(path.read_text(encoding="utf-8")))
    return {name.removeprefix("rosita.") for name in names} & MODULES.keys()


IMPORTS = {module: below_rosita(path) for module, path in MODULES.items()}


def wing(module: str) -> str:
    return module.split(".")[0]


def test_every_module_has_its_row():
    assert set(map(wing, MODULES)) == ROW.keys()


def test_no_module_imports_upwards():
    upwards = [
        f"{module} -> {other}"
        for module, others in IMPORTS.items()
        for other in sorted(others)
        if ROW[wing(other)] < ROW[wing(module)]
    ]
    assert not upwards


def test_no_imports_go_in_a_circle_be_it_of_modules_or_of_wings():
    wings: dict[str, set[str]] = {}
    for module, others in IMPORTS.items():
        wings.setdefault(wing(module), set()).update(set(map(wing, others)) - {wing(module)})
    for graph in (IMPORTS, wings):
        TopologicalSorter(graph).prepare()  # names those of a circle in its error


def test_the_package_and_its_wings_import_nothing_of_rosita():
    for path in PACKAGE.rglob("__init__.py"):
        assert not below_rosita(path), path


def test_the_modelling_file_stands_alone():
    """It travels with an export, to where this package is not installed."""
    names = set(imported(ast.parse(MODULES["model"].read_text(encoding="utf-8"))))
    assert not {name for name in names if name.split(".")[0] == "rosita"}

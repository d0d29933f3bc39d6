"""Imports between modules, those for type checkers and those within functions included: no circles, none upward."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

import ensemw2s

FACE = "ensemw2s"
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"

Graph = dict[str, set[str]]


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Imported modules by module; the package itself, which re-exports from all over, imports nothing here."""
    found = grimp.build_graph(FACE, exclude_type_checking_imports=False, cache_dir=None)
    imports = {name: found.find_modules_directly_imported_by(name) for name in found.modules - {FACE}}
    for name, imported in imports.items():
        if FACE in imported:
            lines = [detail["line_contents"] for detail in found.get_import_details(importer=name, imported=FACE)]
            if all(re.search(r"\b_native\b", line) for line in lines):  # the extension, no Python module
                imported.discard(FACE)
    return imports


def circles(graph: Graph) -> list[set[str]]:
    """Strongly connected components of more than one module."""
    names = sorted(graph)
    place = {name: at for at, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), dtype=bool)
    for name, imported in graph.items():
        matrix[place[name], [place[other] for other in imported if other in place]] = True
    count, label = connected_components(matrix, connection="strong")
    found = [{names[at] for at in np.flatnonzero(label == k)} for k in range(count)]
    return [circle for circle in found if len(circle) > 1]


def floors() -> list[str]:
    """Top-level modules in the order of the page's table: down the rows, and from left to right within one."""
    table = PAGE.read_text(encoding="utf-8").split("| room |")[1].split("\n\n")[0]
    rooms = [word for row in table.splitlines() for word in re.findall(r"`([^`]+)`", row.split("|")[1])]
    return [room.removeprefix("ensemw2s/").rstrip("/") for room in rooms if not room.startswith("ensemw2s.")]


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "x"}, "c": {"a"}, "d": {"a", "x"}, "x": {"outside"}}
    assert circles(graph) == [{"a", "b", "c"}]


def test_no_modules_import_one_another_in_a_circle(graph: Graph) -> None:
    assert len(graph) > 200
    assert [sorted(circle) for circle in circles(graph)] == []


def test_no_module_imports_the_face_of_the_package(graph: Graph) -> None:
    assert {name for name, imported in graph.items() if FACE in imported} == set()


def test_no_module_imports_from_above(graph: Graph) -> None:
    """Modules that the table leaves out (errors, seeds, text, …) are below all of it."""
    order = floors()
    rank = {room: at for at, room in enumerate(order)}
    assert set(order) - {"csrc"} <= {name.split(".")[1] for name in graph}

    def floor(module: str) -> int:
        room = module.split(".")[1]
        return -1 if room == "__main__" else rank.get(room, len(order))

    pairs = [(name, other) for name, imported in graph.items() for other in imported - {FACE}]
    assert [f"{name} imports {other}" for name, other in pairs if floor(name) > floor(other)] == []
    assert {floor(name) for name in graph} >= set(range(20))


def test_imports_for_type_checkers_count_in_the_contracts(tmp_path: Path) -> None:
    """A copy of the package with an upward one in several rooms breaks the contracts of these rooms, and no other."""
    upward = {
        "cli/dashboard/model/upward.py": "ensemw2s.cli.dashboard.drawing",
        "ensemble/hf/upward.py": "ensemw2s.ensemble.saving.save",
        "models/loading/upward.py": "ensemw2s.models.training.finetune",
        "runs/upward.py": "ensemw2s.pipeline.plan",
    }
    package = tmp_path / FACE
    for folder in ensemw2s.__path__:
        shutil.copytree(folder, package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for file, module in upward.items():
        (package / file).write_text(f"from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import {module}\n")
    program = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command(sys.argv[1:])"
    command = [sys.executable, "-P", "-c", program, "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    broken = {line.split(" BROKEN")[0] for line in done.stdout.splitlines() if " BROKEN" in line}
    assert broken == {
        "One direction, from the command line down to the arithmetic",
        "Fine-tuning and inference build on loading, never on each other",
        "An ensemble's specification is below scoring, answering and saving",
        "The dashboard: from the application down to what it knows of a run",
    }
    for file, module in upward.items():
        assert f"ensemw2s.{file.removesuffix('.py').replace('/', '.')} -> {module}" in done.stdout

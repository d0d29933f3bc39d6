"""Names in the documentation: commands and variables in ``docs/cli.md``, Python objects everywhere."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from ensemw2s.cli.main import app
from ensemw2s.config.composition import ENVIRONMENT
from ensemw2s.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
PAGES = "\n".join(
    page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
)
OBJECTS = sorted(set(re.findall(r"`(ensemw2s(?:\.\w+)+)(?:\([^`]*\))?`", PAGES)))
IMPORTS = sorted(
    {
        (package, name)
        for package, names in re.findall(r"^\s*from (ensemw2s[.\w]*) import (.+)$", PAGES, re.M)
        for name in names.split(", ")
    }
)


def _leaves(group: Any, path: str) -> list[str]:
    commands = getattr(group, "commands", None)
    if commands is None:
        return [path]
    return [leaf for name, command in commands.items() for leaf in _leaves(command, f"{path} {name}")]


def test_every_command_is_documented() -> None:
    for command in _leaves(typer.main.get_command(app), "ew2s"):
        assert f"`{command.removesuffix(' list')}" in TEXT, command


def test_documented_commands_exist() -> None:
    leaves = _leaves(typer.main.get_command(app), "ew2s")
    for command in re.findall(r"^\| `(ew2s [a-z -]+)` \|", TEXT, re.M):
        assert any(leaf.startswith(command) for leaf in leaves), command


def test_variables_and_exit_codes() -> None:
    documented = dict(re.findall(r"^\| `(EW2S_[A-Z]+)` \| `([a-z.]+)` \|", TEXT, re.M))
    assert documented == ENVIRONMENT
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.M)]
    assert codes == [EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED]


def _object(path: str) -> Any:
    """What a dotted name means: the longest module of it, then attributes."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AssertionError(path)


def test_python_names_are_found() -> None:
    assert {"ensemw2s.evaluation.Results.read", "ensemw2s.runs.EventReader"} <= set(OBJECTS)
    with pytest.raises(AttributeError):
        _object("ensemw2s.evaluation.Resultz")


def test_references_in_docstrings_are_found() -> None:
    found = set()
    for folder in ("ensemw2s", "cli", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(re.findall(r":\w+:`~?(ensemw2s[.\w]+)`", path.read_text(encoding="utf-8")))
    assert len(found) > 30
    for name in sorted(name for name in found if not name.startswith("ensemw2s.kernels.gpu")):  # needs Triton
        assert _object(name) is not None


@pytest.mark.parametrize("path", OBJECTS)
def test_documented_objects_exist(path: str) -> None:
    assert _object(path) is not None


@pytest.mark.parametrize(("package", "name"), IMPORTS)
def test_documented_imports_work(package: str, name: str) -> None:
    assert _object(f"{package}.{name}") is not None


@pytest.mark.parametrize(
    "path",
    [
        "boosting.AlphaRule",
        "boosting.Learner",
        "config.RunConfig",
        "config.compose",
        "ensemble.check_compatibility",
        "evaluation.Results",
        "kernels.philox4x32",
        "pipeline.execute",
        "pipeline.planned_stages",
        "runs.EventReader",
    ],
)
def test_public_names_of_packages(path: str) -> None:
    assert _object(f"ensemw2s.{path}") is not None

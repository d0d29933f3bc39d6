"""``docs/cli.md`` names every command, option and variable that there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from ensemw2s.cli.main import app
from ensemw2s.config.composition import ENVIRONMENT
from ensemw2s.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE

TEXT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


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

"""Help: examples first, 80 columns, fast and light."""

from __future__ import annotations

import os
import resource
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer

from ensemw2s.cli.main import app, hoist_global_options

Command = Callable[..., Any]


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from _commands(command, (*path, name))


COMMANDS = list(_commands(typer.main.get_command(app)))


def test_every_promised_command_is_there() -> None:
    promised = [
        *("run", "train-experts", "label", "train-student", "evaluate", "report", "score", "generate", "doctor"),
        *("data check", "presets", "presets list", "presets show", "config show", "config validate", "runs list"),
    ]
    assert {tuple(command.split()) for command in promised} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_begins_with_examples_and_fits_80_columns(ew2s: Command, path: tuple[str, ...]) -> None:
    done = ew2s(*path, "--help")
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\b" not in done.out
    assert "Examples:" in lines[4]
    assert done.out.index("Examples:") < done.out.index("Options:")
    assert not any(line.rstrip().endswith("...") for line in lines if line.startswith("  ") and "Usage" not in line)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_examples_name_real_commands_and_options(ew2s: Command, path: tuple[str, ...]) -> None:
    examples = [line.strip() for line in ew2s(*path, "--help").out.splitlines() if line.strip().startswith("ew2s ")]
    assert examples or path == ("score",)
    for example in examples:
        words = shlex.split(example, comments=True)[1:]
        command: Any = typer.main.get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        if command.context_settings.get("ignore_unknown_options"):
            continue  # its options are another program's
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, example


def test_the_help_names_all_kernel_backends(ew2s: Command) -> None:
    from ensemw2s.registry import KERNEL_BACKENDS

    text = " ".join(ew2s("run", "--help").out.replace("│", " ").split())
    assert f"Kernel that combines experts: {', '.join(('auto', *KERNEL_BACKENDS.own_names()))}." in text


def test_without_a_command_the_help_is_printed(process: Command) -> None:
    done = process()
    assert done.code == 2
    assert "Usage: ew2s" in done.out + done.err


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ensemw2s.cli.main import main\ncode = main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pydantic', 'yaml', 'rich', 'textual', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\nsys.exit(code)"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.stderr.strip() == "[]"
    assert statistics.median(seconds) < 0.5  # processor time, so that a busy machine does not matter


def test_the_library_imports_no_command_line() -> None:
    code = (
        "import sys, pkgutil, importlib, ensemw2s\n"
        "rooms = [m.name for m in pkgutil.iter_modules(ensemw2s.__path__) if m.name not in ('cli', '__main__')]\n"
        "for room in rooms:\n"
        "    module = importlib.import_module('ensemw2s.' + room)\n"
        "    for part in pkgutil.iter_modules(getattr(module, '__path__', [])):\n"
        "        importlib.import_module(module.__name__ + '.' + part.name)\n"
        "print(sorted({'typer', 'textual', 'ensemw2s.cli'} & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_version(process: Command) -> None:
    from ensemw2s import __version__

    done = process("--version")
    assert (done.code, done.out, done.err) == (0, f"ew2s {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--debug"], ["--debug", "run"]),
        (["run", "-q", "--no-color", "--set", "a=1"], ["--quiet", "--no-color", "run", "--set", "a=1"]),
        (["generate", "r", "--", "--debug"], ["generate", "r", "--", "--debug"]),
        (["--debug", "run", "--debug"], ["--debug", "--debug", "run"]),
        ([], []),
    ],
)
def test_global_options_work_behind_the_command(words: list[str], expected: list[str]) -> None:
    assert hoist_global_options(words) == expected

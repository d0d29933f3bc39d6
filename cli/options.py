"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensemw2s.errors import InputError, shortened
from ensemw2s.registry import KERNEL_BACKENDS

if TYPE_CHECKING:
    from ensemw2s.config.composition import Composed
    from ensemw2s.config.data import SourceConfig
    from ensemw2s.config.training import ComputeConfig

Preset = Annotated[
    str | None, typer.Option("--preset", "-p", metavar="NAME", help="Preset to start from (ew2s presets lists them).")
]
ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", metavar="FILE", help="YAML file; repeatable, later files override earlier ones."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Set a key: boosting.rounds=8.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Random seed of the run.")]
Name = Annotated[
    str | None, typer.Option("--name", metavar="TEXT", help="Short name, part of the run directory's name.")
]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", help="Threads of torch on the CPU.")]
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help=f"Kernel that combines experts: {', '.join(('auto', *KERNEL_BACKENDS.own_names()))}.",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the ensemble's models.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Run directory; by default runs/<date>-<name> or one to continue."),
]
ForceNew = Annotated[bool, typer.Option("--force-new", help="Make a new run directory in any case.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and its settings; run nothing.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of text.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="FIELD=NAME",
        help="Which column holds what: prompt=question, answer=label, choices=options (or a,b,c,d), id=key … "
        "answer_is=index says how answers are read: text, label, letter, index (from 0), index1.",
    ),
]
Kind = Annotated[
    str, typer.Option("--kind", metavar="KIND", help="Format of the files: file (columns), arc, sciq, gsm8k, boolq …")
]

#: Flags that stand for a key of the configuration.
FLAGS = {
    "seed": "seed",
    "name": "name",
    "device": "compute.device",
    "threads": "compute.threads",
    "backend": "compute.backend",
}


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0,1,2`` or ``0-4`` as numbers.

    Raises:
        InputError: anything else, or a seed twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and (not last.isdecimal() or int(last) < int(first))):
            raise InputError(f"--seeds {text!r} is not a list of numbers.", hint="For example: --seeds 0,1,2 or 0-4")
        seeds += range(int(first), int(last or first) + 1)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text!r} names a seed twice.", hint="Repeating a seed gives the same run.")
    return tuple(seeds)


def flag_values(**flags: Any) -> dict[str, tuple[str, Any]]:
    """Flags as ``compose`` takes them: flag → (key, value), without those that were not given (None)."""
    return {f"--{name}": (FLAGS[name], value) for name, value in flags.items() if value is not None}


def compose_options(
    preset: str | None, files: Iterable[Path] | None, sets: Iterable[str] | None, **flags: Any
) -> Composed:
    """The configuration of a command: preset < files < environment < ``--set`` < flags (names of :data:`FLAGS`)."""
    from ensemw2s.config.composition import compose

    return compose(preset, files or (), sets or (), os.environ, flags=flag_values(**flags))


def compute_options(device: str | None, threads: int | None, backend: str | None) -> ComputeConfig:
    """Device, threads and backend for commands that use a trained ensemble; the environment counts too."""
    return compose_options(None, None, None, device=device, threads=threads, backend=backend).config.compute


def source_options(files: Iterable[str], kind: str, columns: Iterable[str] | None) -> SourceConfig:
    """The data source that files and ``--column`` describe.

    Columns named like the fields (``choices``, ``id``, ``difficulty``, ``group``) are found by themselves.

    Raises:
        InputError: ``--column`` is not of the form field=name.
        ConfigError: an unknown kind or field.
    """
    from ensemw2s.config.composition import compose

    paths = list(files)
    chosen: dict[str, Any] = {}
    for column in columns or ():
        field, equals, name = column.partition("=")
        if not equals or not field or not name:
            raise InputError(
                f"--column {shortened(repr(column))} is not of the form field=name.",
                hint="For example: --column prompt=question",
            )
        several = field == "distractors" or (field == "choices" and "," in name)
        chosen[field] = [part.strip() for part in name.split(",")] if several else name
    if kind == "file":
        chosen = _found_columns(paths, chosen) | chosen
    flags = {"FILE": ("data.source.path", paths), "--kind": ("data.source.kind", kind)}
    flags |= {f"--column {field}": (f"data.source.columns.{field}", name) for field, name in chosen.items()}
    return compose(flags=flags).config.data.source


def split_source(file: str) -> SourceConfig:
    """A split that a run has prepared: its answers are texts."""
    return source_options([file], "file", ["answer_is=text"])


def _found_columns(paths: list[str], chosen: dict[str, Any]) -> dict[str, str]:
    """Optional fields whose own name is a column of the first row."""
    from ensemw2s.data.files import SUFFIXES, find_files, read_rows

    optional = {"choices", "difficulty", "id", "group"} - ({"choices"} if "distractors" in chosen else set())
    for file in find_files(paths, [f"*{suffix}" for suffix in SUFFIXES], "file", lambda problem: None):
        for row in read_rows(file, lambda problem: None):
            return {field: field for field in sorted(optional) if field in row.data}
    return {}

"""Choice of the run directory: a named one, one to continue, or a new one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ensemw2s.errors import ConfigError, InputError

if TYPE_CHECKING:
    from ensemw2s.config.schema import RunConfig
    from ensemw2s.runs.describe import RunInfo

Kind = Literal["new", "continue", "finished"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A run directory and what there is in it. ``path`` is None for one that is still to be made."""

    kind: Kind
    path: Path | None


def runs_root() -> Path:
    """Default folder of runs: ``$EW2S_RUNS_DIR``, or ``runs`` in the current directory."""
    return Path(os.environ.get("EW2S_RUNS_DIR") or "runs")


def choose_run(config: RunConfig, out: Path | None, force_new: bool) -> Choice:
    """The directory of a single run.

    A directory that was named is continued whatever is in it. Otherwise the latest run of the same configuration is
    continued, or reported as finished; without one, or with ``force_new``, a new directory is made.

    Raises:
        InputError: ``force_new`` with a directory that holds a run.
    """
    from ensemw2s.config.dump import config_fingerprint
    from ensemw2s.runs.listing import list_runs

    if out is not None:
        return _named(out, force_new)
    if force_new:
        return Choice("new", None)
    wanted = config_fingerprint(config)
    same = [run for run in list_runs(runs_root(), depth=1) if _fingerprint(run) == wanted]
    for run in same:
        if run.state != "finished":
            return Choice("continue", run.path)
    return Choice("finished", same[0].path) if same else Choice("new", None)


def choose_seeds(config: RunConfig, seeds: Sequence[int], out: Path | None, force_new: bool) -> Choice:
    """The directory of a run over several seeds; the rules of :func:`choose_run`."""
    from ensemw2s.config.dump import config_fingerprint
    from ensemw2s.runs.listing import is_run, list_runs

    if out is not None:
        if out.is_dir() and is_run(out):
            raise InputError(f"{out} holds a single run, not one of several seeds.", hint="Name another directory.")
        return _named(out, force_new)
    root = runs_root()
    if force_new or not root.is_dir():
        return Choice("new", None)
    wanted = {f"seed-{seed}": config_fingerprint(config.model_copy(update={"seed": seed})) for seed in seeds}
    for folder in sorted((entry for entry in root.iterdir() if entry.is_dir()), reverse=True):
        found = {run.name: run for run in list_runs(folder, depth=1)}
        if found and found.keys() <= wanted.keys() and all(_fingerprint(run) == wanted[n] for n, run in found.items()):
            done = len(found) == len(wanted) and all(run.state == "finished" for run in found.values())
            return Choice("finished" if done and (folder / "aggregate.json").exists() else "continue", folder)
    return Choice("new", None)


def _named(out: Path, force_new: bool) -> Choice:
    used = out.is_dir() and any(out.iterdir())
    if used and force_new:
        raise InputError(f"{out} exists already, and --force-new wants a new directory.", hint="Name another one.")
    return Choice("continue" if used else "new", out)


def _fingerprint(run: RunInfo) -> str | None:
    """Of the configuration of a run; from its ``config.yaml`` where it was killed before it could say it."""
    if run.fingerprint is not None:
        return run.fingerprint
    from ensemw2s.config.composition import load_config
    from ensemw2s.config.dump import config_fingerprint

    try:
        return config_fingerprint(load_config(run.path / "config.yaml"))
    except ConfigError:
        return None


def make_directory(choice: Choice, name: str) -> Path:
    """The directory of a choice, made where it is new."""
    from ensemw2s.runs.directory import new_run_directory

    return new_run_directory(runs_root(), name) if choice.path is None else choice.path


def latest_results(given: Path | None) -> Path:
    """The directory that was named, or the latest one with results, of one run or of several seeds.

    Raises:
        InputError: there is none.
    """
    if given is not None:
        if not given.exists():
            raise InputError(f"There is no run directory {given}.", hint="List the runs with: ew2s runs list")
        return given
    root = runs_root()
    files = [file for name in ("results.json", "aggregate.json") for file in root.glob(f"*/{name}")]
    if not files:
        raise InputError(f"There are no finished runs in {root}.", hint="Begin with: ew2s run --preset tiny")
    return max(files, key=_modified).parent


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # gone since, or a link in a circle
        return 0.0

"""Lists runs and sweeps with their status, from their files alone."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ensemw2s.files import read_json
from ensemw2s.runs.describe import RunInfo, RunState, describe_run
from ensemw2s.runs.directory import MARKERS
from ensemw2s.runs.heartbeat import pid_alive

#: Folder of a sweep that holds a folder for each cell, with a run for each seed.
CELLS = "cells"

#: Bytes that are read of what a sweep says.
_MOST_SWEEP = 1 << 26


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is a run directory."""
    return any(os.path.lexists(folder / marker) for marker in MARKERS)


def is_sweep(folder: Path) -> bool:
    """Whether ``folder`` is the directory of a sweep."""
    return (folder / CELLS).is_dir() and not is_run(folder)


def sweep_of(run: Path) -> Path | None:
    """The directory of the sweep that a run directory belongs to."""
    parts = run.absolute().parents
    return parts[2] if len(parts) > 2 and parts[1].name == CELLS else None


def _sweep_name(sweep: Path, root: Path, label: str | None) -> str:
    name = Path(os.path.relpath(sweep, root.absolute())).as_posix()
    return (label or sweep.name) if name.startswith(".") else name


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def run_folders(root: Path, *, depth: int = 2, sweeps: bool = True) -> list[Path]:
    """The run directories below ``root``, by name; those of sweeps, which lie deeper still, with ``sweeps``.

    ``depth`` levels of folders are looked through; runs repeated over seeds lie one level deeper.
    A folder that does not exist holds none.
    """
    if is_sweep(root):
        return [run for cell in _folders(root / CELLS) for run in _folders(cell) if is_run(run)] if sweeps else []
    found: list[Path] = []
    for entry in _folders(root):
        if is_run(entry) or not os.access(entry, os.X_OK):
            found.append(entry)
        elif is_sweep(entry) or depth > 1:
            found += run_folders(entry, depth=depth - 1, sweeps=sweeps)
    return found


def list_runs(root: Path, *, depth: int = 2, sweeps: bool = False) -> list[RunInfo]:
    """The runs below ``root``, the most recently active first; see :func:`run_folders`."""
    return newest_first(in_place(describe_run(f), root) for f in run_folders(root, depth=depth, sweeps=sweeps))


def newest_first(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """The most recently active first."""
    return sorted(runs, key=lambda run: run.updated or 0.0, reverse=True)


def by_name(run: RunInfo) -> list[tuple[int, str]]:
    """A key to sort by name, with ``seed-10`` behind ``seed-9``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", run.name)]


def in_place(run: RunInfo, root: Path, label: str | None = None) -> RunInfo:
    """The run as it is called below the listed folder ``root``, with the sweep that it belongs to.

    ``label`` names ``root``, where that is a sweep itself; by default its folder does.
    """
    name = Path(os.path.relpath(run.path, root)).as_posix()
    sweep = sweep_of(run.path)
    if sweep is None:
        return replace(run, name=name)
    return replace(run, name=name, sweep=_sweep_name(sweep, root, label), cell=run.path.parent.name)


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that ``sweep.json`` names: its directory, and whether it failed when that was written."""

    directory: Path
    failed: bool


def planned_runs(sweep: Path) -> list[PlannedRun] | None:
    """The runs of a sweep that can begin, from its ``sweep.json``; None where there is none yet.

    Cells whose configuration is not valid are left out: nothing was ever ordered for them.
    """
    value = read_json(sweep / "sweep.json", _MOST_SWEEP)
    cells = value.get("cells") if isinstance(value, dict) else None
    if not isinstance(cells, list):
        return None
    found = []
    for job in (job for cell in cells if isinstance(cell, dict) for job in _jobs(cell)):
        parts = PurePosixPath(str(job.get("directory"))[:1000]).parts
        if len(parts) != 3 or parts[0] != CELLS or ".." in parts:  # not one of its runs
            continue
        directory, failed = sweep.joinpath(*parts), job.get("state") == "failed"
        if not failed or any(map(os.path.lexists, (directory, directory.with_name(f"{directory.name}.json")))):
            found.append(PlannedRun(directory, failed))
    return found


def _jobs(cell: dict[str, Any]) -> list[dict[str, Any]]:
    jobs = cell.get("jobs")
    return [job for job in jobs if isinstance(job, dict)] if isinstance(jobs, list) else []


@dataclass(frozen=True, slots=True)
class SweepInfo:
    """One sweep.

    Attributes:
        path: its directory.
        name: its path relative to the listed folder.
        state: ``running``, ``finished`` (all runs are), ``failed`` (some failed and none is at work) or ``incomplete``.
        runs: those that have begun, the most recently active first.
        waiting: runs that have not begun; 0 before ``sweep.json`` tells them.
        lost: runs that failed before they had a directory.
    """

    path: Path
    name: str
    state: RunState
    runs: list[RunInfo]
    waiting: int = 0
    lost: int = 0

    @property
    def total(self) -> int:
        """All runs, as far as they are known."""
        return len(self.runs) + self.waiting + self.lost

    @property
    def failed(self) -> int:
        """Runs that failed, died or cannot be read."""
        return self.count("failed", "dead", "unreadable") + self.lost

    @property
    def updated(self) -> float | None:
        """Unix seconds of the last sign of life of any run."""
        return max((run.updated for run in self.runs if run.updated is not None), default=None)

    def count(self, *states: RunState) -> int:
        """Runs in these states."""
        return sum(run.state in states for run in self.runs)

    @property
    def progress(self) -> str:
        """``7/12 done, 1 failed, 2 running``."""
        parts = [f"{self.count('finished')}/{self.total} done"]
        for number, what in ((self.failed, "failed"), (self.count("running"), "running")):
            parts += [f"{number} {what}"] if number else []
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Counts and all runs as JSON."""
        return {
            "path": str(self.path),
            "name": self.name,
            "state": self.state,
            "total": self.total,
            "finished": self.count("finished"),
            "failed": self.failed,
            "running": self.count("running"),
            "waiting": self.waiting,
            "updated": self.updated,
            "runs": [run.to_json() for run in self.runs],
        }


def describe_sweep(path: Path, name: str, runs: list[RunInfo], planned: list[PlannedRun] | None) -> SweepInfo:
    """Status of a sweep, from its runs that have begun and all of them (:func:`planned_runs`), if they are known."""
    begun = {run.path.absolute() for run in runs}
    missing = [run for run in planned or () if run.directory.absolute() not in begun]
    lost = sum(run.failed for run in missing)
    waiting = len(missing) - lost
    state: RunState = "incomplete"
    if _at_work(path) or any(run.state == "running" for run in runs):
        state = "running"
    elif lost or any(run.state in ("failed", "dead", "unreadable") for run in runs):
        state = "failed"
    elif runs and not waiting and planned is not None and all(run.state == "finished" for run in runs):
        state = "finished"
    return SweepInfo(path, name, state, newest_first(runs), waiting, lost)


def _at_work(sweep: Path) -> bool:
    """Whether the process that signed the sweep's lock lives, as far as this machine can tell."""
    owner = read_json(sweep / "run.lock", 4096)
    return isinstance(owner, dict) and owner.get("host") == platform.node() and pid_alive(owner.get("pid"))


def list_sweeps(root: Path, *, depth: int = 2) -> list[SweepInfo]:
    """The sweeps below ``root`` (or ``root`` itself) with their runs, the most recently active first."""
    groups: dict[Path, list[RunInfo]] = {}
    for run in list_runs(root, depth=depth, sweeps=True):
        sweep = sweep_of(run.path)
        if sweep is not None:
            groups.setdefault(sweep, []).append(run)
    sweeps = [
        describe_sweep(path, runs[0].sweep or path.name, runs, planned_runs(path)) for path, runs in groups.items()
    ]
    return sorted(sweeps, key=lambda sweep: sweep.updated or 0.0, reverse=True)

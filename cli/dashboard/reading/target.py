"""Resolves the path on the command line to the run that is followed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ensemw2s.cli.dashboard.reading.follow import run_files
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.errors import InputError
from ensemw2s.runs.describe import RunInfo, describe_run
from ensemw2s.runs.heartbeat import read_heartbeat
from ensemw2s.runs.listing import (
    PlannedRun,
    SweepInfo,
    describe_sweep,
    in_place,
    is_run,
    newest_first,
    planned_runs,
    run_folders,
    sweep_of,
)
from ensemw2s.text import printable

_REMOTE = re.compile(r"(?P<host>[^\s/:@]+@[^\s/:]+|[^\s/:@\\]{2,}):(?P<path>.*)", re.DOTALL)
# what ssh takes for a user and a host, and what no configuration of its that uses them can misread
_HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Remote:
    """A folder on another machine, reached by ``ssh``."""

    host: str
    path: str


def parse_remote(text: str) -> Remote | None:
    """``user@host:path`` or ``host:path``; None for what is a path here.

    Raises:
        InputError: it has that form, but no host and path that can be handed to ``ssh``.
    """
    match = _REMOTE.fullmatch(text)
    if match is None or os.path.lexists(text):
        return None
    host, path = match["host"], match["path"] or "."
    if not _HOST.fullmatch(host) or len(host) > 255:
        raise InputError(
            f"{host!r} is no host for ssh: expected letters, digits and . _ -, with user@ in front if need be.",
            hint=f"Is it a folder of this machine? Then write ./{text}",
        )
    if printable(path) != path or len(path) > _LONGEST_PATH:
        raise InputError(f"The path behind {host}: has control characters, or more than {_LONGEST_PATH} characters.")
    return Remote(host, path)


def _alive(folder: Path) -> bool:
    beat = read_heartbeat(folder)
    return beat is not None and beat.alive


class Target:
    """A run directory, or a folder with runs of which the latest one is shown.

    The screen's thread writes only ``chosen``, the reading one only ``_latest``, so that no choice gets lost.

    Args:
        path: need not exist yet.

    Attributes:
        chosen: the run that the user opened; None: the latest one, and newer ones as they begin.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chosen: Path | None = None
        self._latest: Path | None = None
        self._index = RunIndex()

    @property
    def label(self) -> str:
        """Label for the user."""
        return str(self.path)

    @property
    def root(self) -> Path:
        """The folder whose runs are listed; for a run of a sweep, the sweep."""
        return (sweep_of(self.path) or self.path.parent) if is_run(self.path) else self.path

    def source(self, run: Path) -> Source:
        """The files of a run."""
        return Source(run)

    def list_runs(self) -> list[RunInfo]:
        """The runs below the root, the most recently active first."""
        return self._index.refresh(self.root)

    @property
    def sweeps(self) -> list[SweepInfo]:
        """The sweeps that the listed runs belong to."""
        return self._index.sweeps

    def look_again(self) -> None:
        """Do not wait until the next look is due."""

    def problem(self) -> str:
        """Why it cannot be read at present; empty if it can."""
        return ""

    def close(self) -> None:
        """Release what was opened."""

    def current(self) -> Path | None:
        """The run to show now; None while there is none.

        With a folder of runs it is the latest. A run that is shown is left for a newer one only when it is not running
        any more and the newer one is.
        """
        chosen = self.chosen
        self._latest = None if chosen is not None else self._find_latest()
        return chosen or self._latest

    def _find_latest(self) -> Path | None:
        if is_run(self.path):
            return self.path
        runs, shown = run_folders(self.path), self._latest
        if shown in runs and shown is not None and _alive(shown):
            return shown
        return self._latest_of(sorted(runs, key=run_files, reverse=True), _alive)

    def _latest_of(self, runs: list[Path], alive: Callable[[Path], bool]) -> Path | None:
        """The latest of ``runs``, the newest first; the shown one, unless it is over and another one is not."""
        shown = self._latest
        first = [shown] if shown is not None and shown in runs else []
        return next(filter(alive, [*first, *runs]), None) or next(iter([*first, *runs]), shown)


class RunIndex:
    """The runs below a folder; a run is read again only when its files changed.

    Attributes:
        sweeps: those that the runs belong to.
    """

    def __init__(self) -> None:
        self.sweeps: list[SweepInfo] = []
        self._known: dict[Path, tuple[tuple[float, int], RunInfo]] = {}
        self._planned: dict[Path, tuple[tuple[float, int], list[PlannedRun] | None]] = {}

    def refresh(self, root: Path, label: str | None = None) -> list[RunInfo]:
        """The runs, the most recently active first; ``label`` is the root's name where that is a sweep."""
        found: dict[Path, tuple[tuple[float, int], RunInfo]] = {}
        for folder in run_folders(root):
            stamp = run_files(folder)
            old = self._known.get(folder)
            if old is not None and old[0] == stamp and old[1].state != "running":
                found[folder] = old
            else:
                found[folder] = (stamp, in_place(describe_run(folder), root, label))
        self._known = found
        runs = newest_first(info for _, info in found.values())
        self._group(runs)
        return runs

    def _group(self, runs: list[RunInfo]) -> None:
        groups: dict[Path, list[RunInfo]] = {}
        for run in runs:
            if run.sweep is not None and (path := sweep_of(run.path)) is not None:
                groups.setdefault(path, []).append(run)
        self._planned = {path: self._plan(path) for path in groups}
        self.sweeps = [
            describe_sweep(path, members[0].sweep or path.name, members, self._planned[path][1])
            for path, members in groups.items()
        ]

    def _plan(self, sweep: Path) -> tuple[tuple[float, int], list[PlannedRun] | None]:
        try:
            status = (sweep / "sweep.json").stat()
        except OSError:
            return (0.0, 0), None
        stamp = (status.st_mtime, status.st_size)
        old = self._planned.get(sweep)
        return old if old is not None and old[0] == stamp else (stamp, planned_runs(sweep))

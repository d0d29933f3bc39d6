"""What the user asked to see, and which run that is at present."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ensemw2s.cli.dashboard.follow import run_files
from ensemw2s.cli.dashboard.source import LocalSource, Source
from ensemw2s.runs import RunInfo, describe_run, read_heartbeat
from ensemw2s.runs.listing import is_run

_REMOTE = re.compile(r"^(?P<host>[^\s/:@]+@[^\s/:]+|[^\s/:@\\]{2,}):(?P<path>.*)$")


@dataclass(frozen=True)
class Remote:
    """A folder on another machine, reached by ``ssh``."""

    host: str
    path: str


def parse_remote(text: str) -> Remote | None:
    """``user@host:path`` or ``host:path``; None for what is a path here."""
    match = _REMOTE.match(text)
    if match is None or Path(text).exists():
        return None
    return Remote(match["host"], match["path"] or ".")


def run_folders(root: Path, depth: int = 2) -> list[Path]:
    """The run directories below ``root``; runs over several seeds lie one level deeper."""
    found: list[Path] = []
    try:
        entries = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
    for entry in entries:
        if is_run(entry):
            found.append(entry)
        elif depth > 1:
            found += run_folders(entry, depth - 1)
    return found


def _alive(folder: Path) -> bool:
    beat = read_heartbeat(folder)
    return beat is not None and beat.alive


class Target:
    """A run directory, or a folder with runs of which the latest one is shown.

    Args:
        path: need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chosen: Path | None = None
        self.follow_latest = True
        self._index = RunIndex()

    @property
    def label(self) -> str:
        """How to call it to the user."""
        return str(self.path)

    @property
    def root(self) -> Path:
        """The folder whose runs are listed."""
        return self.path.parent if is_run(self.path) else self.path

    def choose(self, run: Path) -> None:
        """Stay with one run."""
        self.chosen = run
        self.follow_latest = False

    def source(self, run: Path) -> Source:
        """The files of a run."""
        return LocalSource(run)

    def list_runs(self) -> list[RunInfo]:
        """The runs below the root, the most recently active first."""
        return self._index.refresh(self.root)

    def look_again(self) -> None:
        """Every look is a new one here."""

    def problem(self) -> str:
        """A local folder is always reachable."""
        return ""

    def close(self) -> None:
        """Nothing is open."""

    def current(self) -> Path | None:
        """The run to show now; None while there is none.

        With a folder of runs it is the latest. A run that is shown is left for a newer one only when it is not running
        any more and the newer one is.
        """
        if is_run(self.path) and self.follow_latest:
            self.chosen = self.path
            return self.chosen
        if not self.follow_latest:
            return self.chosen
        folders = run_folders(self.path)
        if not folders:
            return self.chosen
        if self.chosen in folders:
            if self.chosen is not None and _alive(self.chosen):
                return self.chosen
            alive = [folder for folder in folders if folder != self.chosen and _alive(folder)]
            if alive:
                self.chosen = max(alive, key=run_files)
            return self.chosen
        self.chosen = max(folders, key=lambda folder: (_alive(folder), run_files(folder)))
        return self.chosen


class RunIndex:
    """The runs below a folder; a run is read again only when its files changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[float, int], RunInfo]] = {}

    def refresh(self, root: Path) -> list[RunInfo]:
        """The runs, the most recently active first."""
        fresh: dict[Path, tuple[tuple[float, int], RunInfo]] = {}
        for folder in run_folders(root):
            stamp = run_files(folder)
            old = self._known.get(folder)
            if old is not None and old[0] == stamp and old[1].state != "running":
                fresh[folder] = old
            else:
                fresh[folder] = (stamp, describe_run(folder, os.path.relpath(folder, root)))
        self._known = fresh
        return sorted((info for _, info in fresh.values()), key=lambda info: info.updated or 0.0, reverse=True)

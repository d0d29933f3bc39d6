"""The runs of another machine: which there are, how they stand, and which one to show."""

from __future__ import annotations

import posixpath
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemw2s.cli.dashboard.remote import RETRY_AFTER, OtherClock, RemoteSource, moved_beat
from ensemw2s.cli.dashboard.source import Source
from ensemw2s.cli.dashboard.ssh import Shell, SshError, remote_path
from ensemw2s.cli.dashboard.target import Remote, RunIndex
from ensemw2s.errors import InputError
from ensemw2s.files import write_json, write_text
from ensemw2s.runs import RunInfo
from ensemw2s.runs.listing import CELLS, SweepInfo

SCAN_EVERY = 5.0
#: Only so many runs are looked at, the most recently written ones.
MOST_RUNS = 200
#: A run whose beat is older is not at work.
ALIVE_WITHIN = 15.0

_SCAN = """
date +%s
e=events.jsonl
ls -td */$e */*/$e cells/*/*/$e */cells/*/*/$e 2>/dev/null | head -n {most} | while IFS= read -r e; do
d=${{e%/events.jsonl}}; echo "$d"; wc -c < "$e"
[ -f "$d/results.json" ] && echo results || echo -
[ -f "$d/heartbeat" ] && tr -d '\\n' < "$d/heartbeat"; echo
done
"""


@dataclass
class _Found:
    """A run there: its folder below the root, bytes of its events, whether it has results, its beat."""

    name: str
    size: int
    results: bool
    beat: dict[str, Any] | None

    @property
    def alive(self) -> bool:
        beat = self.beat or {}
        return beat.get("state") == "running" and time.time() - float(beat.get("time", 0.0)) < ALIVE_WITHIN


class RemoteTarget:
    """A run directory on another machine, or a folder with runs; the interface of ``Target``.

    The folder of a run is its place in a mirror that holds what the list of runs needs.
    """

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.follow_latest = True
        self.chosen: Path | None = None
        self.root = Path(tempfile.mkdtemp(prefix="ew2s-dashboard-"))
        self._shell = Shell(remote.host)
        self._base = ""
        self._single: str | None = None
        self._found: list[_Found] = []
        self._sizes: dict[str, int] = {}
        self._stamps: dict[str, bytes] = {}
        self._index = RunIndex()
        self._clock = OtherClock()
        self._next = float("-inf")
        self._problem = ""

    @property
    def label(self) -> str:
        """How to call it to the user."""
        return f"{self.remote.host}:{self.remote.path}"

    def problem(self) -> str:
        """Why the other machine cannot be read at present."""
        return self._problem

    def connect(self) -> None:
        """Look for the first time.

        Raises:
            InputError: the other machine cannot be reached, or has no such folder.
        """
        self._scan()
        if self._problem:
            raise InputError(
                f"{self.label} cannot be read: {self._problem}",
                hint=f"Try: ssh {self.remote.host} ls {self.remote.path}",
            )

    def current(self) -> Path | None:
        """The run to show now, by the same rule as for a folder of this machine."""
        if not self.follow_latest:
            return self.chosen
        self._scan()
        if self._single is not None:
            self.chosen = self.root / self._single
        elif self._found:
            shown = next((run for run in self._found if self.chosen == self.root / run.name), None)
            if shown is None or not shown.alive:
                alive = [run for run in self._found if run.alive and run is not shown]
                newest = alive[0] if alive else None if shown is not None else self._found[0]
                self.chosen = self.chosen if newest is None else self.root / newest.name
        return self.chosen

    def choose(self, run: Path) -> None:
        """Stay with one run."""
        self.chosen = run
        self.follow_latest = False

    def source(self, run: Path) -> Source:
        """The files of a run."""
        return RemoteSource(self._shell, posixpath.join(self._base, run.relative_to(self.root).as_posix()))

    def list_runs(self) -> list[RunInfo]:
        """The runs there, the most recently active first."""
        self._scan()
        try:
            self._mirror()
            self._mirror_sweeps()
        except SshError as error:
            self._problem = f"{self.remote.host}: {error}"
        return self._index.refresh(self.root, posixpath.basename(self._base.rstrip("/")))

    @property
    def sweeps(self) -> list[SweepInfo]:
        """The sweeps that the listed runs belong to."""
        return self._index.sweeps

    def look_again(self) -> None:
        """Do not wait until the next look is due."""
        self._next = float("-inf")

    def _scan(self) -> None:
        if time.monotonic() < self._next:
            return
        try:
            self._locate()
            self._found = self._runs()
            self._problem = ""
            self._next = time.monotonic() + SCAN_EVERY
        except SshError as error:
            self._problem = f"{self.remote.host}: {error}"
            self._next = time.monotonic() + RETRY_AFTER

    def _locate(self) -> None:
        """Whether the path is a run or a folder with runs."""
        path = remote_path(self.remote.path)
        answer = self._shell.ask(
            f"(if cd {path} 2>/dev/null; then "
            "if [ -e events.jsonl ] || [ -e config.yaml ]; then pwd; else echo folder; fi; else echo missing; fi)"
        )
        said = answer.decode("utf-8", "replace").strip()
        if said == "missing":
            raise SshError(f"there is no folder {self.remote.path}")
        if said == "folder":
            self._base, self._single = self.remote.path, None
        elif self._single is None:
            self._base, self._single = posixpath.split(self.remote.path.rstrip("/"))
            if self._single in ("", ".", "..", "~"):
                self._base, self._single = posixpath.split(said)
            self._base = self._base or "."

    def _runs(self) -> list[_Found]:
        script = f"(cd {remote_path(self._base)} && {{ {_SCAN.format(most=MOST_RUNS)} }})"
        now, *lines = self._shell.ask(script).decode("utf-8", "replace").splitlines()
        found = []
        for name, size, results, beat in zip(*(lines[k::4] for k in range(4)), strict=False):
            if size.strip().isdigit() and ".." not in name.split("/"):
                moved = moved_beat(beat, now, self.remote.host, self._clock)
                found.append(_Found(name, int(size), results == "results", moved))
        return found

    def _mirror(self) -> None:
        """Bring what is new of every run's events, and what tells its state."""
        for run in self._found:
            folder = self.root / run.name
            folder.mkdir(parents=True, exist_ok=True)
            have = self._sizes.get(run.name, 0)
            if run.size != have:
                have = 0 if run.size < have else have
                path = f"{remote_path(posixpath.join(self._base, run.name))}/events.jsonl"
                data = self._shell.ask(f"tail -c +{have + 1} -- {path} | head -c {run.size - have}")
                with (folder / "events.jsonl").open("ab" if have else "wb") as file:
                    file.write(data)
                self._sizes[run.name] = have + len(data)
            if run.beat is not None:
                write_json(folder / "heartbeat", run.beat)
            if run.results:
                write_json(folder / "results.json", {})
            else:
                (folder / "results.json").unlink(missing_ok=True)
        wanted = {run.name for run in self._found}
        for name in [name for name in self._sizes if name not in wanted]:
            del self._sizes[name]
            shutil.rmtree(self.root / name, ignore_errors=True)

    def _mirror_sweeps(self) -> None:
        """What sweeps tell of the runs that have not begun."""
        sweeps = {"/".join(parts[:-3]) for run in self._found if (parts := run.name.split("/"))[-3:-2] == [CELLS]}
        for sweep in sorted(sweeps):
            path = remote_path(posixpath.join(self._base, sweep, "sweep.json"))
            stamp = self._shell.ask(f"cksum < {path} 2>/dev/null; true")
            if stamp != self._stamps.get(sweep):
                data = self._shell.ask(f"cat -- {path} 2>/dev/null; true")
                write_text(self.root / sweep / "sweep.json", data.decode("utf-8", "replace"))
                self._stamps[sweep] = stamp

    def close(self) -> None:
        """End the connection and remove the mirror."""
        self._shell.close()
        shutil.rmtree(self.root, ignore_errors=True)

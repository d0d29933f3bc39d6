"""The runs of another machine: which there are, how they stand, and which one to show."""

from __future__ import annotations

import posixpath
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemw2s.cli.dashboard.reading.mirror import Mirror, count_in, is_part, is_run_name
from ensemw2s.cli.dashboard.reading.remote import (
    BEAT_BYTES,
    EVENTS_BYTES,
    MOST_BYTES,
    RETRY_AFTER,
    OtherClock,
    RemoteSource,
    moved_beat,
)
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.cli.dashboard.reading.ssh import Shell, SshError, remote_path
from ensemw2s.cli.dashboard.reading.target import Remote, Target
from ensemw2s.errors import InputError
from ensemw2s.files import dump_json
from ensemw2s.runs.describe import RunInfo
from ensemw2s.runs.listing import CELLS

SCAN_EVERY = 5.0
#: Only so many runs are looked at, the most recently written ones.
MOST_RUNS = 200
#: A run whose beat is older is not at work.
ALIVE_WITHIN = 15.0

_SCAN_BYTES = 1 << 22
_SWEEP_BYTES = 1 << 22

_SCAN = """
date +%s
e=events.jsonl
ls -td ./*/$e ./*/*/$e ./cells/*/*/$e ./*/cells/*/*/$e 2>/dev/null | head -n {most} | while IFS= read -r e; do
[ -f "$e" ] || continue
d=${{e%/events.jsonl}}; printf 'run %s\\n' "${{d#./}}"; printf 'size %s\\n' "$(wc -c < "$e")"
[ -f "$d/results.json" ] && echo results
[ -f "$d/heartbeat" ] && {{ printf 'beat '; head -c {beat} "$d/heartbeat" | tr -d '\\n'; echo; }}
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


class RemoteTarget(Target):
    """A run directory on another machine, or a folder with runs.

    The folder of a run is its place in a mirror that holds what the list of runs needs.
    """

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self._mirror = Mirror()
        super().__init__(self._mirror.folder)
        self._shell = Shell(remote.host)
        self._base = ""
        self._single: str | None = None
        self._found: list[_Found] = []
        self._sizes: dict[str, int] = {}
        self._stamps: dict[str, bytes] = {}
        self._clock = OtherClock()
        self._next = float("-inf")
        self._problem = ""

    @property
    def label(self) -> str:
        """Label for the user."""
        return f"{self.remote.host}:{self.remote.path}"

    @property
    def root(self) -> Path:
        """The mirror."""
        return self._mirror.folder

    def problem(self) -> str:
        """Why the other machine cannot be read at present; empty if it can."""
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

    def _find_latest(self) -> Path | None:
        self._scan()
        if self._single is not None:
            return self.root / self._single
        alive = {self.root / run.name: run.alive for run in self._found}
        return self._latest_of(list(alive), lambda run: alive[run])

    def source(self, run: Path) -> Source:
        """The files of a run."""
        return RemoteSource(self._shell, posixpath.join(self._base, run.relative_to(self.root).as_posix()))

    def list_runs(self) -> list[RunInfo]:
        """The runs there, the most recently active first."""
        self._scan()
        try:
            self._copy_runs()
            self._copy_sweeps()
        except (SshError, OSError) as error:
            self._problem = f"{self.remote.host}: {error}"
        return self._index.refresh(self.root, posixpath.basename(self._base.rstrip("/")))

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
        said = answer.decode("utf-8", "surrogateescape").removesuffix("\n")
        if said == "missing":
            raise SshError(f"there is no folder {self.remote.path}")
        if said == "folder":
            self._base, self._single = self.remote.path, None
        elif self._single is None:
            base, name = posixpath.split(self.remote.path.rstrip("/"))
            if name in ("", ".", "..", "~"):
                base, name = posixpath.split(said)
            if not is_part(name):
                raise SshError("the run there has a name that cannot be shown")
            self._base, self._single = base or ("/" if self.remote.path.startswith("/") else "."), name

    def _runs(self) -> list[_Found]:
        scan = _SCAN.format(most=MOST_RUNS, beat=BEAT_BYTES)
        answer = self._shell.ask(f"(cd {remote_path(self._base)} && {{ {scan} }})", limit=_SCAN_BYTES)
        now, *lines = answer.split(b"\n")
        found: dict[str, _Found] = {}
        run: _Found | None = None
        for line in lines:
            what, _, value = line.partition(b" ")
            if what == b"run":
                name = value.decode("utf-8", "surrogateescape")
                run = _Found(name, 0, False, None) if is_run_name(name) and len(found) < MOST_RUNS else None
            elif run is None:
                continue
            elif what == b"size" and (size := count_in(value)) is not None:
                run.size = size
                found[run.name] = run
            elif line == b"results":
                run.results = True
            elif what == b"beat":
                run.beat = moved_beat(value, now, self.remote.host, self._clock)
        return list(found.values())

    def _copy_runs(self) -> None:
        """Bring what is new of every run's events, and what tells its state."""
        wanted = {run.name for run in self._found}
        for name in [name for name in self._sizes if name not in wanted]:
            del self._sizes[name]
            self._mirror.forget(name)
        for run in self._found:
            self._sizes.setdefault(run.name, 0)
            self._copy_events(run)
            if run.beat is not None:
                self._mirror.put(run.name, "heartbeat", dump_json(run.beat).encode("utf-8", "replace"))
            if run.results:
                self._mirror.put(run.name, "results.json", b"{}")
            else:
                self._mirror.drop(run.name, "results.json")

    def _copy_events(self, run: _Found) -> None:
        have, name = self._sizes[run.name], "events.jsonl"
        if run.size < have:
            self._mirror.drop(run.name, name)
            have = 0
        path = f"{remote_path(posixpath.join(self._base, run.name))}/{name}"
        end = min(run.size, EVENTS_BYTES)
        while have < end:
            count = min(MOST_BYTES, end - have)
            self._mirror.add(run.name, name, have, self._shell.read(path, have, count))
            have += count
            self._sizes[run.name] = have
        self._sizes[run.name] = have

    def _copy_sweeps(self) -> None:
        """Copy the sweeps' records of runs that have not begun."""
        sweeps = {"/".join(parts[:-3]) for run in self._found if (parts := run.name.split("/"))[-3:-2] == [CELLS]}
        for sweep in sorted(sweeps):
            path = remote_path(posixpath.join(self._base, sweep, "sweep.json"))
            data = f"[ -f {path} ] && head -c {_SWEEP_BYTES} -- {path}"
            stamp = self._shell.ask(f"{data} | cksum; true")
            if stamp != self._stamps.get(sweep):
                self._mirror.put(sweep, "sweep.json", self._shell.ask(f"{data}; true", limit=_SWEEP_BYTES))
                self._stamps[sweep] = stamp

    def close(self) -> None:
        """End the connection and remove the mirror."""
        self._shell.close()
        self._mirror.close()

"""A run on another machine, mirrored over ``ssh`` into a temporary folder; nothing is written there.

One ``ssh`` process stays open and is asked small questions in plain ``sh``: the size of a file, some of its bytes
(``tail -c +OFFSET | head -c COUNT``). The mirror of a long log is sparse: its end comes first, older parts when the
history is read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from ensemw2s.cli.dashboard.ssh import Shell, SshError, remote_path
from ensemw2s.files import write_json

_LOGS = ("events.jsonl", "metrics.jsonl")
_SMALL = ("results.json", "config.yaml")
TAIL_BYTES = 1 << 20
MOST_BYTES = 1 << 22
SYNC_EVERY = 1.0
RETRY_AFTER = 5.0
CLOCK_SLACK = 2.5


class RemoteSource:
    """Mirrors a run of another machine into a temporary folder; the interface of ``Source``.

    Args:
        shell: on the other machine; left open at the end.
        run: the run directory there.
    """

    def __init__(self, shell: Shell, run: str) -> None:
        self.label = f"{shell.host}:{run}"
        self.folder = Path(tempfile.mkdtemp(prefix="ew2s-dashboard-"))
        self._shell = shell
        self._run = run
        self._known: dict[str, tuple[str, int]] = {}
        self._floor: dict[str, int] = {}
        self._clock = OtherClock()
        self._problem = ""
        self._next = float("-inf")

    def problem(self) -> str:
        """Why the other machine cannot be read at present."""
        return self._problem

    def sync(self) -> None:
        """Bring what is new; at most once a second, and not at once again after a failure."""
        now = time.monotonic()
        if now < self._next:
            return
        try:
            self._sync()
            self._problem = ""
            self._next = time.monotonic() + SYNC_EVERY
        except SshError as error:
            self._problem = f"{self._shell.host}: {error}"
            self._next = time.monotonic() + RETRY_AFTER

    def _sync(self) -> None:
        sizes = self._sizes()
        for name in _LOGS:
            if name in sizes:
                self._log(name, *sizes[name])
            else:
                (self.folder / name).unlink(missing_ok=True)
                self._known.pop(name, None)
        for name in _SMALL:
            if name in sizes and self._known.get(name) != sizes[name]:
                data = self._bytes(name, 0, sizes[name][1])
                (self.folder / name).write_bytes(data)
                self._known[name] = sizes[name]
        self._heartbeat()

    def _sizes(self) -> dict[str, tuple[str, int]]:
        """Name → (inode, bytes) of the files that are there."""
        names = " ".join((*_LOGS, *_SMALL))
        # in a subshell: the next relative path counts from where the shell began
        command = f"(cd {remote_path(self._run)} && for f in {names}; do [ -f $f ] && "
        command += "echo $f $(ls -i -- $f | { read -r i r; echo $i; }) $(wc -c < $f); done)"
        found: dict[str, tuple[str, int]] = {}
        for line in self._shell.ask(command).decode("utf-8", "replace").splitlines():
            parts = line.split()
            if len(parts) == 3 and parts[2].isdigit():
                found[parts[0]] = (parts[1], int(parts[2]))
        return found

    def _bytes(self, name: str, start: int, count: int) -> bytes:
        path = f"{remote_path(self._run)}/{name}"
        data = self._shell.ask(f"tail -c +{start + 1} -- {path} | head -c {count}")
        if len(data) != count:
            raise SshError(f"{name} changed while it was read")
        return data

    def _log(self, name: str, inode: str, size: int) -> None:
        path = self.folder / name
        old = self._known.get(name)
        have = old[1] if old is not None else 0
        if old is None or old[0] != inode or size < have:
            path.unlink(missing_ok=True)  # a new file here, so that the reader sees another one, too
            have = max(0, size - TAIL_BYTES) if name == "metrics.jsonl" else 0
            self._floor[name] = have
            path.touch()
        while have < size:
            part = self._bytes(name, have, min(MOST_BYTES, size - have))
            self._write(path, have, part)
            have += len(part)
            self._known[name] = (inode, have)
        self._known[name] = (inode, have)

    @staticmethod
    def _write(path: Path, start: int, data: bytes) -> None:
        with path.open("r+b") as file:
            file.seek(start)
            file.write(data)

    def floor(self, name: str) -> int:
        """Where the mirrored part of a log begins."""
        return self._floor.get(name, 0)

    def ensure(self, name: str, start: int, end: int) -> None:
        """Bring an older part of a log into its hole."""
        floor = self._floor.get(name, 0)
        if start >= floor:
            return
        begin = max(0, min(start, floor - MOST_BYTES // 4))
        try:
            self._write(self.folder / name, begin, self._bytes(name, begin, floor - begin))
            self._floor[name] = begin
        except (SshError, OSError) as error:
            self._problem = f"{self._shell.host}: {error}"

    def _heartbeat(self) -> None:
        text = self._shell.ask(f"date +%s; cat -- {remote_path(self._run)}/heartbeat 2>/dev/null")
        now, _, beat = text.decode("utf-8", "replace").partition("\n")
        value = moved_beat(beat, now, self._shell.host, self._clock)
        if value is not None:
            write_json(self.folder / "heartbeat", value)

    def close(self) -> None:
        """Remove the mirror."""
        shutil.rmtree(self.folder, ignore_errors=True)


class OtherClock:
    """How far another machine's clock is behind this one's; small differences are only the whole seconds it tells."""

    def __init__(self) -> None:
        self.behind: float | None = None

    def tell(self, now: str) -> float:
        """Seconds to add to its times.

        Args:
            now: unix seconds there, as it says.

        Raises:
            ValueError: it says something else.
        """
        behind = time.time() - float(now)
        if self.behind is None or abs(behind - self.behind) > CLOCK_SLACK:
            self.behind = behind
        return self.behind


def moved_beat(beat: str, now: str, host: str, clock: OtherClock) -> dict[str, Any] | None:
    """A heartbeat of another machine, moved to this one's clock, under a host name that is not this machine's.

    Args:
        beat: the file's text.
        now: unix seconds there.
        host: how that machine is called here.
        clock: what is known of its clock.
    """
    try:
        value: dict[str, Any] = json.loads(beat)
        value["time"] = min(time.time(), float(value["time"]) + clock.tell(now))
        value["host"] = f"{host}:{value['host']}"
    except (ValueError, KeyError, TypeError):
        return None
    return value

"""A run on another machine, mirrored over ``ssh`` into a temporary folder; nothing is written there.

One ``ssh`` process stays open and is asked small questions in plain ``sh``: the size of a file, some of its bytes
(``tail -c +OFFSET | head -c COUNT``). The mirror of a long log is sparse: its end comes first, older parts when the
history is read. What that machine answers is taken for data: names come from a list here, and everything has a limit.
"""

from __future__ import annotations

import time
from typing import Any

from ensemw2s.cli.dashboard.reading.mirror import Mirror, count_in
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.cli.dashboard.reading.ssh import Shell, SshError, remote_path
from ensemw2s.files import dump_json, parse_json
from ensemw2s.runs.heartbeat import parse_beat

_LOGS = ("events.jsonl", "metrics.jsonl")
#: Files that are brought whole, up to so many bytes.
_SMALL = {"results.json": 1 << 24, "config.yaml": 1 << 20}
BEAT_BYTES = 1 << 12
TAIL_BYTES = 1 << 20
MOST_BYTES = 1 << 22
#: A log that says to be larger is none; milestones are brought whole, up to so many bytes.
MOST_LOG = 1 << 40
EVENTS_BYTES = 1 << 28
SYNC_EVERY = 1.0
RETRY_AFTER = 5.0
CLOCK_SLACK = 2.5


class RemoteSource(Source):
    """Mirrors a run of another machine into a temporary folder.

    Args:
        shell: on the other machine; left open at the end.
        run: the run directory there.
    """

    def __init__(self, shell: Shell, run: str) -> None:
        self._mirror = Mirror()
        super().__init__(self._mirror.folder, f"{shell.host}:{run}")
        self._shell = shell
        self._run = run
        self._known: dict[str, tuple[bytes, int]] = {}
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
        except (SshError, OSError) as error:
            self._problem = f"{self._shell.host}: {error}"
            self._next = time.monotonic() + RETRY_AFTER

    def _sync(self) -> None:
        sizes = self._sizes()
        for name in _LOGS:
            if name in sizes:
                self._log(name, *sizes[name])
            else:
                self._mirror.drop("", name)
                self._known.pop(name, None)
        for name, most in _SMALL.items():
            if name in sizes and self._known.get(name) != sizes[name] and sizes[name][1] <= most:
                self._mirror.put("", name, self._bytes(name, 0, sizes[name][1]))
                self._known[name] = sizes[name]
        self._heartbeat()

    def _sizes(self) -> dict[str, tuple[bytes, int]]:
        """Name → (inode, bytes) of the files that are there."""
        names = (*_LOGS, *_SMALL)
        # in a subshell: the next relative path counts from where the shell began
        command = f"(cd {remote_path(self._run)} && for f in {' '.join(names)}; do [ -f $f ] && "
        command += "echo $f $(ls -i -- $f | { read -r i r; echo $i; }) $(wc -c < $f); done)"
        found: dict[str, tuple[bytes, int]] = {}
        for line in self._shell.ask(command).split(b"\n"):
            parts = line.split(b" ")
            for name in names:
                if parts[0] == name.encode() and len(parts) == 3 and (size := count_in(parts[2])) is not None:
                    found[name] = (parts[1], size)
        return found

    def _bytes(self, name: str, start: int, count: int) -> bytes:
        return self._shell.read(f"{remote_path(self._run)}/{name}", start, count)

    def _log(self, name: str, inode: bytes, size: int) -> None:
        if size > MOST_LOG:
            raise SshError(f"{name} has {size} bytes")
        size = min(size, EVENTS_BYTES) if name == "events.jsonl" else size
        old = self._known.get(name)
        have = old[1] if old is not None else 0
        if old is None or old[0] != inode or size < have:
            self._mirror.drop("", name)  # a new file here, so that the reader sees another one, too
            have = max(0, size - TAIL_BYTES) if name == "metrics.jsonl" else 0
            self._floor[name] = have
            self._mirror.add("", name, 0, b"")
        while have < size:
            part = self._bytes(name, have, min(MOST_BYTES, size - have))
            self._mirror.add("", name, have, part)
            have += len(part)
            self._known[name] = (inode, have)
        self._known[name] = (inode, have)

    def floor(self, name: str) -> int:
        """Offset at which the mirrored part of a log begins."""
        return self._floor.get(name, 0)

    def ensure(self, name: str, start: int) -> None:
        """Bring an older part of a log into its hole."""
        floor = self._floor.get(name, 0)
        if start >= floor:
            return
        begin = max(0, min(start, floor - MOST_BYTES // 4))
        try:
            self._mirror.add("", name, begin, self._bytes(name, begin, floor - begin))
            self._floor[name] = begin
        except (SshError, OSError) as error:
            self._problem = f"{self._shell.host}: {error}"

    def _heartbeat(self) -> None:
        path = f"{remote_path(self._run)}/heartbeat"
        text = self._shell.ask(f"date +%s; [ -f {path} ] && head -c {BEAT_BYTES} -- {path}; true")
        now, _, beat = text.partition(b"\n")
        value = moved_beat(beat, now, self._shell.host, self._clock)
        if value is not None:
            self._mirror.put("", "heartbeat", dump_json(value).encode("utf-8", "replace"))

    def close(self) -> None:
        """Remove the mirror."""
        self._mirror.close()


class OtherClock:
    """Offset of another machine's clock behind this one's; it tells whole seconds, so small differences are none."""

    def __init__(self) -> None:
        self.behind: float | None = None

    def tell(self, now: bytes) -> float:
        """Seconds to add to its times.

        Args:
            now: unix seconds there, as ``date`` says.

        Raises:
            ValueError: it says something else.
        """
        seconds = count_in(now)
        if seconds is None:
            raise ValueError("no unix seconds")
        behind = time.time() - seconds
        if self.behind is None or abs(behind - self.behind) > CLOCK_SLACK:
            self.behind = behind
        return self.behind


def moved_beat(beat: bytes, now: bytes, host: str, clock: OtherClock) -> dict[str, Any] | None:
    """A heartbeat of another machine, moved to this one's clock, under a host name that is not this machine's.

    Args:
        beat: the file's text.
        now: unix seconds there.
        host: how that machine is called here.
        clock: what is known of its clock.
    """
    try:
        found = parse_beat(parse_json(beat))
        when = min(time.time(), max(0.0, found.time + clock.tell(now)))
    except ValueError:
        return None
    return {"pid": found.pid, "host": f"{host}:{found.host}"[:255], "time": when, "state": found.state}

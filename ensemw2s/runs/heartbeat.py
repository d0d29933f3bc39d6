"""Heartbeat file of a run: tells a live process from a dead one."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ensemw2s.files import load_json, write_json

#: Seconds between two beats, and the age at which a beat no longer counts.
HEARTBEAT_EVERY = 2.0
HEARTBEAT_LOST = 15.0

BeatState = Literal["running", "finished", "failed", "incomplete"]

#: No system has larger process ids; times beyond it (the year 5138) are no times; a longer file is none of ours.
_PID_MAX, TIME_MAX, _LONGEST = 2**31 - 1, 1e11, 1 << 16


@dataclass(frozen=True, slots=True)
class Beat:
    """The content of the file ``heartbeat``."""

    pid: int
    host: str
    time: float
    state: str

    @property
    def age(self) -> float:
        """Seconds since the beat, by this machine's clock; never negative."""
        return max(0.0, time.time() - self.time)

    @property
    def alive(self) -> bool:
        """Whether the writer lives: it says that it runs, the beat is fresh, and on this host its process exists."""
        if self.state != "running" or self.age > HEARTBEAT_LOST:
            return False
        return self.host != platform.node() or pid_alive(self.pid)


def pid_alive(pid: object) -> bool:
    """Whether a process with this id exists on this machine (a zombie counts as dead where that can be seen)."""
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid <= _PID_MAX:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists but is not ours
        return True
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[:1] != ["Z"]


def parse_beat(value: Any) -> Beat:
    """The beat in the JSON of a file ``heartbeat``.

    Raises:
        ValueError: it is none; names the field.
    """
    found = value if isinstance(value, dict) else {}
    pid, host, when, state = (found.get(name) for name in ("pid", "host", "time", "state"))
    checks = {
        "pid": isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid <= _PID_MAX,
        "host": isinstance(host, str) and len(host) <= 255,
        "time": isinstance(when, int | float) and not isinstance(when, bool) and 0 <= when <= TIME_MAX,
        "state": isinstance(state, str) and state in get_args(BeatState),
    }
    for name, good in checks.items():
        if not good:
            raise ValueError(f"`{name}` is {_brief(found.get(name))}")
    return Beat(found["pid"], found["host"], float(found["time"]), found["state"])


def _brief(value: Any) -> str:
    if value is None or isinstance(value, str | float):
        text = repr(value)
        return text if len(text) <= 40 else text[:39] + "…"
    return "out of range" if isinstance(value, int) and not isinstance(value, bool) else f"a {type(value).__name__}"


def load_heartbeat(folder: Path) -> Beat | None:
    """The last beat of a run directory; None if there is none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no beat.
    """
    try:
        return parse_beat(load_json(folder / "heartbeat", _LONGEST))
    except FileNotFoundError:
        return None


def read_heartbeat(folder: Path) -> Beat | None:
    """As :func:`load_heartbeat`, but None where it is unreadable."""
    try:
        return load_heartbeat(folder)
    except (OSError, ValueError):
        return None


class Heartbeat:
    """Writes the file ``heartbeat`` of a run directory from a daemon thread.

    ``on_beat``, which must not raise, is called after every beat but the first and the last.
    """

    def __init__(
        self, folder: Path, *, every: float = HEARTBEAT_EVERY, on_beat: Callable[[], None] | None = None
    ) -> None:
        self._path = folder / "heartbeat"
        self._every = every
        self._on_beat = on_beat
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Beat now and from then on."""
        self._stop.clear()
        self._write("running")
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self, state: BeatState) -> None:
        """End the thread and leave ``state`` in the file."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._write(state)

    def _loop(self) -> None:
        while not self._stop.wait(self._every):
            with suppress(MemoryError):  # a file is read within a limit: the next beat will do
                self._write("running")
                if self._on_beat is not None:
                    self._on_beat()

    def _write(self, state: BeatState) -> None:
        beat = {"pid": os.getpid(), "host": platform.node(), "time": time.time(), "state": state}
        try:
            write_json(self._path, beat)
        except OSError:
            # A beat that cannot be written is simply missing: readers then see its age. Training goes on.
            return

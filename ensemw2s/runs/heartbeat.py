"""A sign of life beside the log: readers can tell a running process from one that died."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ensemw2s.files import read_json, write_json

#: Seconds between two beats, and the age at which a beat no longer counts.
HEARTBEAT_EVERY = 2.0
HEARTBEAT_LOST = 15.0

BeatState = Literal["running", "finished", "failed", "incomplete"]


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
    if not isinstance(pid, int) or pid <= 0:
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


def read_heartbeat(folder: Path) -> Beat | None:
    """The last beat of a run directory; None if there is none or it is unreadable."""
    value: Any = read_json(folder / "heartbeat")
    try:
        return Beat(int(value["pid"]), str(value["host"]), float(value["time"]), str(value["state"]))
    except (TypeError, KeyError, ValueError):
        return None


class Heartbeat:
    """Writes the file ``heartbeat`` of a run directory from a daemon thread.

    Args:
        folder: the run directory.
        every: seconds between beats.
        on_beat: called after every beat in the thread, for example to sample the system load; must not raise.
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

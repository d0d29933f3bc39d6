"""A run that is started together with the dashboard, in its own process group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ensemw2s.files import open_in_place

#: Seconds that a run gets to end tidily after it was asked to stop.
GRACE = 20.0


class BackgroundRun:
    """A process that goes on when the terminal is closed, unless it is stopped.

    Args:
        command: its command line.
        log: file for its output; outside of what the dashboard shows.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        self._file: IO[bytes] = os.fdopen(open_in_place(log, os.O_WRONLY | os.O_APPEND), "ab")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._file, stderr=subprocess.STDOUT, start_new_session=True
        )

    @classmethod
    def ew2s(cls, arguments: Sequence[str], log: Path) -> BackgroundRun:
        """Start ``ew2s`` with these arguments."""
        return cls([sys.executable, "-m", "ensemw2s", *arguments], log)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self.poll() is None

    def stop(self) -> int:
        """Interrupt it as Ctrl-C does, kill it if it does not end in time; returns its exit code."""
        if self.running:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def tail(self, lines: int = 20) -> str:
        """The last lines of its output."""
        try:
            text = self.log.read_bytes()[-20_000:].decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """Leave it alone; it is not stopped."""
        self._file.close()
        if self.running:
            self._process.returncode = 0  # it outlives this process on purpose: no warning that it was not waited for

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


class RunBeside:
    """A process that goes on when the terminal is closed, unless it is stopped.

    Args:
        command: its command line.
        log: file for its output; outside of what the dashboard shows.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command = list(command)
        self.log = log
        self._file: IO[bytes] = os.fdopen(open_in_place(log, os.O_WRONLY | os.O_APPEND), "ab")
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self._file, stderr=subprocess.STDOUT, start_new_session=True
        )

    @classmethod
    def ew2s(cls, arguments: Sequence[str], log: Path) -> RunBeside:
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
        """Interrupt it as Ctrl-C does, wait, and end it if it does not end; returns its exit code."""
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
        """Forget it; it is not stopped."""
        self._file.close()
        if self.running:
            # it outlives us on purpose, so its exit code is nobody's business
            self._process.returncode = 0


def run_and_watch(arguments: Sequence[str], folder: Path, *, dark: bool = True) -> int:
    """Start ``ew2s`` with these arguments in the background, and watch its run directory until the user leaves.

    Args:
        arguments: a command that writes into ``folder`` (``run … --out folder``).
        folder: the run directory; it may be new.
        dark: the theme at first.

    Returns:
        The run's exit code; 0 where it goes on in the background, 130 where the user stopped it.
    """
    from ensemw2s.cli.dashboard.app.app import Dashboard
    from ensemw2s.cli.dashboard.reading.target import Target
    from ensemw2s.cli.dashboard.reading.watch import Watcher
    from ensemw2s.cli.terminal import shell_path, terminal
    from ensemw2s.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK

    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = RunBeside.ew2s(arguments, folder.with_name(folder.name + ".log"))
    try:
        answer = Dashboard(Watcher(Target(folder)), beside=beside, dark=dark).run()
        if beside.running and answer == "stop":
            beside.stop()
            terminal.say("The run was stopped; the same command continues it.")
            return EXIT_INTERRUPTED
        if beside.running:
            terminal.say(f"The run goes on as process {beside.pid}; its output is in {beside.log}.")
            terminal.next(f"ew2s dashboard {shell_path(folder)}", f"kill -INT {beside.pid}")
            return EXIT_OK
        code = beside.poll()
        if code:
            terminal.say(beside.tail())
        return EXIT_FAILED if code is None else code
    finally:
        beside.close()

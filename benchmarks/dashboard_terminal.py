"""A terminal for a program under test: a pseudo-terminal, and as much of a screen as the dashboard draws on."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.cells import get_character_cell_size

_TOKEN = re.compile(
    r"\x1b\[([0-9;?<>=$!]*)([a-zA-Z@`~])|\x1b[P\]_^].*?(?:\x1b\\|\x07)|\x1b[()][A-Z0-9]|\x1b.|([^\x1b]+)", re.S
)


class Screen:
    """What is on a terminal: characters, and the style that each was written with."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.chars = [[" "] * width for _ in range(height)]
        self.styles = [[""] * width for _ in range(height)]
        self._row = self._column = 0
        self._style = ""
        self._rest = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> None:
        """Take in what the program wrote; an escape sequence that is not complete waits for its end."""
        text = self._rest + self._decoder.decode(data)
        last = text.rfind("\x1b")
        cut = (
            last
            if last >= 0 and not re.match(r"\x1b(?:\[[0-9;?<>=$!]*[a-zA-Z@`~]|[^\[P\]_^])", text[last:])
            else len(text)
        )
        text, self._rest = text[:cut], text[cut:]
        for parameters, final, plain in _TOKEN.findall(text):
            if plain:
                self._write(plain)
            elif final == "m":
                self._style = parameters
            elif final in "Hf":
                row, _, column = parameters.partition(";")
                self._row, self._column = int(row or 1) - 1, int(column or 1) - 1

    def _write(self, text: str) -> None:
        for char in text:
            if char == "\n":
                self._row, self._column = self._row + 1, 0
            elif char == "\r":
                self._column = 0
            elif char >= " " and 0 <= self._row < self.height:
                if 0 <= self._column < self.width:
                    self.chars[self._row][self._column] = char
                    self.styles[self._row][self._column] = self._style
                self._column += get_character_cell_size(char)

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join("".join(row) for row in self.chars)

    def style(self, row: int, column: int) -> str:
        """How a character was written."""
        return self.styles[row][column]


class Terminal:
    """A program that runs in a terminal of its own.

    Args:
        command: its command line.
        width: in columns.
        height: in lines.
        environment: variables that differ from this process's.
    """

    def __init__(
        self, command: Sequence[str], width: int, height: int, environment: dict[str, str] | None = None
    ) -> None:
        self.screen = Screen(width, height)
        self.started = time.perf_counter()
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.pop("NO_COLOR", None)
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", **(environment or {}))
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
                os.execv(command[0], list(command))
            finally:
                os._exit(127)

    def resize(self, width: int, height: int) -> None:
        """Another size; the program is told by the usual signal."""
        self.screen = Screen(width, height)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def send(self, text: str) -> float:
        """Type something; returns the moment (``time.perf_counter``)."""
        now = time.perf_counter()
        os.write(self._fd, text.encode())
        return now

    def until(self, condition: Callable[[Screen], bool], seconds: float) -> float | None:
        """The moment at which the output that made the condition true arrived; None if it never did."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if not select.select([self._fd], [], [], left)[0]:
                break
            try:
                data = os.read(self._fd, 1 << 18)
            except OSError:
                return None
            arrived = time.perf_counter()
            if not data:
                return None
            self.screen.feed(data)
            if condition(self.screen):
                return arrived
        return None

    def watch(self, seconds: float) -> None:
        """Look on for a while."""
        self.until(lambda screen: False, seconds)

    def cpu(self) -> float:
        """Seconds of processor time that the program has used."""
        if sys.platform != "linux":
            return float("nan")
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ran(self) -> float:
        """Seconds that all its threads have run, to the nanosecond where the kernel counts so."""
        total = 0.0
        for thread in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(thread.read_text().split()[0]) / 1e9
        return total

    def memory(self) -> tuple[float, float]:
        """Resident memory in MB, now and at most."""
        found = {}
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("VmRSS", "VmHWM"):
                found[name] = int(value.split()[0]) / 1000
        return found.get("VmRSS", float("nan")), found.get("VmHWM", float("nan"))

    def close(self) -> None:
        """Leave with ``q``, and end the program if it does not."""
        self.send("q")
        end = time.perf_counter() + 5.0
        while time.perf_counter() < end:
            self.watch(0.05)
            if os.waitpid(self.pid, os.WNOHANG)[0] == self.pid:
                break
        else:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

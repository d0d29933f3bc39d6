"""The dashboard as a process in a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import sys
import time
from pathlib import Path

import pytest

from ensemw2s.cli.dashboard.command import interactive

if sys.platform == "win32":
    pytest.skip("needs pseudo-terminals", allow_module_level=True)

import fcntl
import termios


class Terminal:
    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", **environment)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
            os.execv(sys.executable, [sys.executable, "-m", "ensemw2s", "dashboard", str(path)])

    def until(self, words: str, seconds: float = 30.0) -> tuple[str, float]:
        """Everything up to the words, and the seconds that it took."""
        began, text = time.monotonic(), ""
        while words not in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text):
            assert time.monotonic() - began < seconds, f"never came: {words!r}"
            if select.select([self.descriptor], [], [], 0.2)[0]:
                text += os.read(self.descriptor, 1 << 16).decode("utf-8", "replace")
        return text, time.monotonic() - began

    def send(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def leave(self) -> int:
        """Press q; the exit status."""
        self.send("q")
        end = time.monotonic() + 20.0
        while time.monotonic() < end:
            if select.select([self.descriptor], [], [], 0.05)[0]:
                try:
                    os.read(self.descriptor, 1 << 16)
                except OSError:
                    break
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_in_a_terminal(recorded: Path, environment: dict[str, str]) -> None:
    terminal = Terminal(recorded, environment)
    text, _ = terminal.until("boosted ensemble")
    assert "\x1b[?1049h" in text
    terminal.send("?")
    terminal.until("Esc closes")
    terminal.send("\x1b")
    terminal.until("boosted ensemble")
    terminal.send("2")
    text, _ = terminal.until("Expert weight")
    coloured = {match for match in re.findall(r"38;2;(\d+;\d+;\d+)", text) if len(set(match.split(";"))) > 1}
    assert bool(coloured) is not bool(environment)
    assert terminal.leave() == 0


def test_a_browser_is_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not interactive()
    monkeypatch.setenv("TEXTUAL_DRIVER", "textual.drivers.web_driver:WebDriver")
    assert interactive()

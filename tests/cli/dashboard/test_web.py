"""The dashboard behind a server that goes away, and keys behind a Textual that changes."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from ensemw2s.cli.dashboard.app import escape_key as escape
from ensemw2s.runs.heartbeat import pid_alive

if sys.platform == "win32":
    pytest.skip("needs signals", allow_module_level=True)

#: Starts a command as ``textual-serve`` does, and takes what it draws until it is killed.
SERVER = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
drawn = b""
while b"recorded" not in drawn and b"tiny" not in drawn:
    drawn += os.read(child.stdout.fileno(), 1 << 16)
print(child.pid, flush=True)
while os.read(child.stdout.fileno(), 1 << 16):
    pass
"""


@pytest.mark.parametrize(("how", "shell"), [(signal.SIGKILL, True), (signal.SIGTERM, False)])
def test_it_ends_with_its_server(recorded: Path, how: signal.Signals, shell: bool) -> None:
    command = [sys.executable, "-m", "ensemw2s", "dashboard", str(recorded)]
    # behind a shell the process that started it stays, and only the pipes tell
    command = ["sh", "-c", '"$@"; true', "sh", *command] if shell else command
    environment = {**os.environ, "TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver"}
    server = subprocess.Popen([sys.executable, "-c", SERVER, *command], stdout=subprocess.PIPE, env=environment)
    assert server.stdout is not None
    child = int(server.stdout.readline())
    assert pid_alive(child)
    os.kill(server.pid, how)
    server.communicate()
    end = time.monotonic() + 10.0
    while pid_alive(child):
        assert time.monotonic() < end, "it goes on drawing for nobody"
        time.sleep(0.02)


def test_escape_needs_nothing_of_textual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESCDELAY", "20")
    escape.quicken("textual.drivers.there_is_no_such_driver")
    reads_otherwise = ModuleType("reads_otherwise")
    monkeypatch.setitem(sys.modules, "reads_otherwise", reads_otherwise)
    escape.quicken("reads_otherwise")
    assert "selectors" not in vars(reads_otherwise)
    vars(reads_otherwise)["selectors"] = own = SimpleNamespace(SelectSelector=None)
    escape.quicken("reads_otherwise")
    assert vars(reads_otherwise)["selectors"] is own


def test_escape_leaves_the_rest_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESCDELAY", "20")
    driver = ModuleType("some_driver")
    vars(driver)["selectors"] = selectors
    monkeypatch.setitem(sys.modules, "some_driver", driver)
    escape.quicken("some_driver")
    found = vars(driver)["selectors"]
    assert found is not selectors
    assert issubclass(found.SelectSelector, selectors.SelectSelector)
    # whatever a later Textual takes from it is there
    for name in ("DefaultSelector", "EVENT_READ", "EVENT_WRITE", "SelectorKey"):
        assert getattr(found, name) is getattr(selectors, name)
    assert not hasattr(found, "NoSuchThing")

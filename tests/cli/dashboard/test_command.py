from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from ensemw2s.cli.dashboard import command
from ensemw2s.cli.dashboard.app.background_run import BackgroundRun
from ensemw2s.cli.dashboard.app.web import serve_command
from ensemw2s.errors import InputError

Simulate = Callable[..., Any]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs ``dashboard`` with arguments and returns what is on stdout."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.callback()
    def main() -> None: ...

    command.register(app)

    def call(*arguments: str) -> str:
        capsys.readouterr()
        app(["dashboard", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_once_and_json(run: Callable[..., str], recorded: Path) -> None:
    text = run(str(recorded), "--once")
    assert text.startswith("✓ finished · tiny")
    assert "boosted ensemble" in text
    assert "\x1b" not in text
    data = json.loads(run(str(recorded), "--json"))
    assert data["state"] == "finished"
    assert data["arms"]["ceiling"]["hard_test"]["n"] > 0
    assert data["arms"]["student_ensemble"]["pgr"]


def test_without_a_terminal_the_status_is_printed(run: Callable[..., str], recorded: Path) -> None:
    assert run(str(recorded.parent)).startswith("✓ finished")
    assert run(str(recorded), "--replay").startswith("✓ finished")


def test_the_latest_run_of_the_default_folder(
    run: Callable[..., str], recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EW2S_RUNS_DIR", str(recorded.parent))
    assert str(recorded) in run("--once")


def test_a_run_at_work(run: Callable[..., str], simulate: Simulate) -> None:
    sim = simulate()
    sim.begin()
    sim.data()
    sim.log.event("stage_started", stage="experts/round-01")
    sim.train("experts/round-01", until=50)
    sim.beat()
    assert "experts/round-01 50 %" in run(str(sim.folder), "--once")
    assert json.loads(run(str(sim.folder), "--json"))["stage"]["done"] == 50


@pytest.mark.parametrize("arguments", [("nowhere", "--once"), ("nowhere", "--json"), ("nowhere", "--replay")])
def test_no_run_is_one_clear_error(run: Callable[..., str], arguments: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="There is no run in nowhere"):
        run(*arguments)


def test_a_remote_replay_is_refused(run: Callable[..., str]) -> None:
    with pytest.raises(InputError, match="cannot be replayed"):
        run("me@box:runs", "--replay")


def test_the_browser_needs_a_package(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    with pytest.raises(InputError, match="textual-serve"):
        run("--web")


def test_the_browser_gets_the_same_command(monkeypatch: pytest.MonkeyPatch, run: Callable[..., str]) -> None:
    pytest.importorskip("aiohttp")
    calls: list[Any] = []

    class Server:
        def __init__(self, command: str, **settings: Any) -> None:
            calls.append((command, settings))
            self.host, self.port = settings["host"], settings["port"]

        async def _make_app(self) -> None:
            return None

    monkeypatch.setitem(sys.modules, "textual_serve.server", type("Module", (), {"Server": Server}))
    monkeypatch.setattr("aiohttp.web.run_app", lambda app, **settings: app.close())
    run("my runs", "--web", "--replay", "--light")
    assert calls[0][0] == serve_command("my runs", replay=True, speed=20.0, light=True, allow_save=False)
    assert "--replay --speed 20 --light -- 'my runs'" in calls[0][0]
    assert "--allow-save" in serve_command(None, replay=False, speed=20.0, light=False, allow_save=True)
    assert calls[0][1]["host"] == "127.0.0.1"
    assert calls[0][1]["port"] == 8000


def test_textual_is_not_loaded_for_a_plain_status(recorded: Path) -> None:
    import subprocess

    code = (
        "import sys; from ensemw2s.cli.dashboard import command; "
        "command.dashboard(sys.argv[1], True, False, False, 20.0, False, False, '', 1); "
        "print([m for m in sys.modules if m.split('.')[0] in ('textual', 'torch', 'scipy')])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(recorded)], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_a_run_beside_the_dashboard(tmp_path: Path) -> None:
    script = "import sys, time\nprint('begun', flush=True)\ntry:\n    time.sleep(60)\n"
    script += "except KeyboardInterrupt:\n    sys.exit(130)"
    beside = BackgroundRun([sys.executable, "-c", script], tmp_path / "run.log")
    while "begun" not in beside.tail():
        assert beside.running
    assert beside.stop() == 130
    assert not beside.running
    assert beside.tail() == "begun"
    beside.close()


def test_a_run_beside_may_go_on(tmp_path: Path) -> None:
    import os

    beside = BackgroundRun([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "run.log")
    pid = beside.pid
    beside.close()
    os.kill(pid, 0)  # it lives
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

"""Sweeps in the list of runs, on the command line and in the dashboard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from textual.pilot import Pilot

from ensemw2s.cli.commands import doctor, runs
from ensemw2s.cli.dashboard.app.app import Dashboard
from ensemw2s.cli.dashboard.drawing.text import plain
from ensemw2s.cli.dashboard.panels.text_panel import LinesPanel
from ensemw2s.cli.dashboard.reading.remote_target import RemoteTarget
from ensemw2s.cli.dashboard.reading.target import Target, parse_remote
from ensemw2s.runs.listing import SweepInfo, list_runs, list_sweeps
from ensemw2s.runs.lock import RunLock

Desk = Any


def _one(root: Path) -> SweepInfo:
    (sweep,) = list_sweeps(root)
    return sweep


def test_a_sweep_is_described(sweep: Path) -> None:
    found = _one(sweep.parent)
    assert (found.name, found.state, found.total, found.waiting) == ("levels", "running", 4, 1)
    assert found.progress == "1/4 done, 1 failed, 1 running"
    assert {run.cell for run in found.runs} == {"level=example", "level=token"}
    assert {run.name for run in found.runs} == {
        "levels/cells/level=example/seed-0", "levels/cells/level=example/seed-1", "levels/cells/level=token/seed-0",
    }  # fmt: skip
    assert _one(sweep).name == "levels"
    # what repeats a command must not take up a run of a sweep
    assert list_runs(sweep.parent) == []
    assert len(list_runs(sweep.parent, sweeps=True)) == 3


def test_states_of_a_sweep(sweep: Path) -> None:
    shutil.rmtree(sweep / "cells" / "level=token")
    assert _one(sweep).state == "failed"
    with RunLock(sweep):  # between two runs nothing else tells that it is at work
        assert _one(sweep).state == "running"
    shutil.rmtree(sweep / "cells" / "level=example" / "seed-1")
    assert (_one(sweep).state, _one(sweep).waiting) == ("incomplete", 3)
    (sweep / "sweep.json").unlink()  # before the first run has finished the plan is not known
    assert (_one(sweep).state, _one(sweep).progress) == ("incomplete", "1/1 done")
    for broken in ("[1, 2", '{"cells": [3, {"jobs": 4}, {"jobs": [5]}]}', '{"cells": null}'):
        (sweep / "sweep.json").write_text(broken)
        assert _one(sweep).total == 1


def test_a_run_that_died_before_its_directory_is_failed(sweep: Path) -> None:
    job = {"seed": 1, "state": "failed", "directory": "cells/level=token/seed-1", "error": "killed"}
    (sweep / "sweep.json").write_text(json.dumps({"cells": [{"name": "level=token", "jobs": [job]}]}))
    assert _one(sweep).failed == 1
    (sweep / "cells" / "level=token" / "seed-1.json").write_text("{}")
    assert (_one(sweep).failed, _one(sweep).waiting) == (2, 0)


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """What ``runs list`` says to stdout and to stderr."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    runs.register(app)

    def call(*arguments: object) -> tuple[str, str]:
        capsys.readouterr()
        app(["runs", "list", *map(str, arguments)], standalone_mode=False)
        said = capsys.readouterr()
        return said.out, said.err

    return call


def test_runs_list(sweep: Path, recorded: Path, listed: Callable[..., tuple[str, str]]) -> None:
    text, hint = listed(sweep.parent)
    assert "sweep levels" in text
    assert "1/4 done, 1 failed, 1 running" in " ".join(text.split())
    assert "recorded" in text
    assert "seed-1" not in text
    assert f"ew2s runs list {sweep}" in " ".join(hint.split())
    text, hint = listed(sweep)
    assert [line.split()[0] for line in text.splitlines() if "seed-" in line] == [
        "level=example/seed-0", "level=example/seed-1", "level=token/seed-0",
    ]  # fmt: skip
    assert f"ew2s report {sweep}" in " ".join(hint.split())
    entries = {entry["name"]: entry for entry in json.loads(listed(sweep.parent, "--json")[0])}
    assert {name: entry["kind"] for name, entry in entries.items()} == {"levels": "sweep", "recorded": "run"}
    whole = entries["levels"]
    assert (whole["state"], whole["total"], whole["finished"], whole["failed"]) == ("running", 4, 1, 1)
    assert {run["cell"] for run in whole["runs"]} == {"level=example", "level=token"}


def test_doctor_counts_runs_and_sweeps(sweep: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EW2S_RUNS_DIR", str(sweep.parent))
    found = doctor.found_runs()
    assert (found["runs"], found["running"], found["sweeps"][0]["total"]) == (1, 0, 4)
    assert doctor.run_rows(found) == [
        ("Runs", f"1 run in {sweep.parent}"),
        ("Sweep", f"{sweep}: running, 1/4 done, 1 failed"),
    ]


def test_a_sweep_is_a_root(sweep: Path) -> None:
    at_work = sweep / "cells" / "level=token" / "seed-0"
    assert Target(sweep).current() == at_work
    assert Target(sweep.parent).current() == at_work
    assert Target(at_work).root == sweep
    assert len(Target(at_work).list_runs()) == 3
    target = Target(sweep)
    assert [run.sweep for run in target.list_runs()] == ["levels"] * 3
    assert [found.total for found in target.sweeps] == [4]


@pytest.mark.parametrize(("size", "below"), [((80, 24), False), ((120, 40), True)])
def test_the_runs_view_groups_a_sweep(
    sweep: Path, recorded: Path, desk: Desk, size: tuple[int, int], below: bool
) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("6")
        panel = app.query_one("#run-list", LinesPanel)
        await desk.until(lambda: panel.item_count == (4 if below else 3), pilot, "the runs")
        lines = [line for line in map(plain, panel.lines) if "recorded" not in line]
        assert "sweep levels" in lines[1]
        assert "1/4 done, 1 failed, 1 running" in lines[1]
        assert [[word for word in line.split() if word.startswith("level=")] for line in lines[2:5]] == [
            ["level=example"], ["level=example"], ["level=token"],
        ]  # fmt: skip
        assert panel.items.count(None) == 2  # neither the names of the columns nor a sweep can be chosen
        if below:
            await pilot.press("slash", *"failed")
            assert panel.item_count == 1

    desk.play(sweep.parent if below else sweep, script, size)


@pytest.mark.parametrize("path", ["runs", "runs/levels"])
def test_a_sweep_on_another_machine(fake_ssh: Path, sweep: Path, path: str) -> None:
    shutil.copytree(sweep.parent, fake_ssh / "runs")
    remote = parse_remote(f"me@box:{path}")
    assert remote is not None
    target = RemoteTarget(remote)
    try:
        target.connect()
        assert {run.sweep for run in target.list_runs()} == {"levels"}
        (found,) = target.sweeps
        assert found.progress == "1/4 done, 1 failed, 1 running"
        current = target.current()
        assert current is not None
        assert current.parts[-3:] == ("cells", "level=token", "seed-0")
    finally:
        target.close()

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from ensemw2s.cli.dashboard.app.app import Dashboard
from ensemw2s.cli.dashboard.app.screen import Changed
from ensemw2s.cli.dashboard.drawing.text import plain
from ensemw2s.cli.dashboard.reading.replay import ReplayFollower
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.cli.dashboard.reading.watch import Watcher

Simulate = Callable[..., Any]
Desk = Any


def test_a_run_is_followed_from_before_its_start(simulate: Simulate, tmp_path: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        assert "waiting" in plain(app.head.line)
        sim = simulate("later", rounds=2)
        sim.begin()
        sim.beat()
        app.watcher.poke()
        await desk.until(lambda: app.watcher.model.life == "running", pilot, "it runs")
        sim.weak_side()
        await desk.until(lambda: "boosted ensemble" in desk.lines(app, "comparison"), pilot, "results")
        sim.beat("finished")
        sim.log.event("run_finished", seconds=1.0)
        await desk.until(lambda: "finished" in plain(app.head.line), pilot, "its end")
        shutil.rmtree(sim.folder)
        await desk.until(lambda: "gone" in plain(app.head.line), pilot, "that it is gone")
        second = simulate("newer", rounds=2)
        second.begin()
        second.beat()
        app.watcher.poke()
        await desk.until(lambda: app.watcher.model.path.endswith("newer"), pilot, "the newer run")

    desk.play(tmp_path / "runs", script)


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"rounds": 60, "steps": 20}, {"rounds": 2, "wide": True}])
def test_odd_runs(simulate: Simulate, settings: dict[str, Any], desk: Desk) -> None:
    sim = simulate(**settings)
    sim.begin()
    sim.data()
    for t in range(1, settings["rounds"] + 1):
        sim.round(t)
    sim.log.event("message", level="error", text="\x1b[2J\u202eevil [bold]markup[/] 日本語" * 5)

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        for place in (*range(1, 8), 1):
            await pilot.press(str(place))
        await desk.until(lambda: "日本語" in desk.lines(app, "messages"), pilot, "the message")
        assert "\x1b[2J" not in desk.lines(app, "messages")

    desk.play(sim.folder, script, (80, 24))


def test_notices_coalesce() -> None:
    assert Changed().can_replace(Changed())


def test_replay_keys(simulate: Simulate, desk: Desk) -> None:
    folder = simulate(rounds=2).whole().folder
    app = Dashboard(Watcher(None, ReplayFollower(Source(folder), 5.0), sample_machine=False))

    async def main() -> None:
        async with app.run_test(size=(120, 40)) as pilot:
            await desk.until(lambda: "replay ×5" in plain(app.head.line), pilot, "the replay plays")
            await pilot.press("p", "greater_than_sign")
            assert app.replay is not None
            assert app.replay.paused
            assert app.replay.speed == 10.0
            await desk.until(lambda: "paused" in plain(app.head.line), pilot, "the pause")
            app.replay.speed = 1e4
            await pilot.press("p")
            await desk.until(lambda: "end of the replay" in plain(app.head.line), pilot, "its end")
            assert "ceiling" in desk.lines(app, "comparison")

    asyncio.run(main())


class Beside:
    """A run that was started together with the dashboard."""

    running = True

    def poll(self) -> None:
        return None


@pytest.mark.parametrize(("key", "answer"), [("s", "stop"), ("b", "leave")])
def test_leaving_asks_what_becomes_of_the_run(recorded: Path, key: str, answer: str, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("q")
        assert app.leaving.is_open
        await pilot.press("escape")
        assert not app.leaving.is_open
        await pilot.press("q", key)

    app = desk.play(recorded, script, background_run=Beside())
    assert app.return_value == answer


def test_leaving_needs_no_question_otherwise(recorded: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("q")

    assert desk.play(recorded, script).return_value == "leave"


def test_the_waiting_screen_says_what_to_do(tmp_path: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        text = desk.lines(app, "stages")
        assert f"norunin{tmp_path / 'runs'}yet." in "".join(text.split())
        assert "ew2s run --preset tiny" in text
        for place in range(1, 8):
            await pilot.press(str(place))

    desk.play(tmp_path / "runs", script)


def test_results_are_there_before_they_are_final(simulate: Simulate, desk: Desk) -> None:
    sim = simulate(rounds=3)
    sim.begin()
    sim.data()
    sim.round(1)
    sim.round(2)
    sim.beat()

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        text = desk.lines(app, "comparison")
        assert re.search(r"boosted ensemble +68\.5 +52\.5", text)
        assert re.search(r"expert 2 +53\.5", text)
        assert "±" not in text
        assert "Round 2: ε 55.0 %, α 1.5" in desk.lines(app, "messages")

    desk.play(sim.folder, script)

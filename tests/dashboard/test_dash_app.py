from __future__ import annotations

import asyncio
import csv
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from ensemw2s.cli.dashboard.app import Changed, Dashboard
from ensemw2s.cli.dashboard.chart import Chart
from ensemw2s.cli.dashboard.dialogs import HelpScreen, QuitScreen
from ensemw2s.cli.dashboard.panel import LinesPanel, TextPanel
from ensemw2s.cli.dashboard.plot import Look
from ensemw2s.cli.dashboard.replay import ReplayFollower
from ensemw2s.cli.dashboard.source import LocalSource
from ensemw2s.cli.dashboard.target import Target
from ensemw2s.cli.dashboard.watch import Watcher

Simulate = Callable[..., Any]
Play = Callable[[Dashboard, Pilot[str]], Awaitable[None]]
VIEWS = ("Overview", "Boosting", "Tokens", "Labelling", "Student", "Runs", "System")


async def until(condition: Callable[[], object], pilot: Pilot[str], what: str = "") -> None:
    """Wait for a condition, not for a clock."""
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        await asyncio.sleep(0.01)
    await pilot._wait_for_screen()


def play(path: Path, script: Play, size: tuple[int, int] = (120, 40), **settings: Any) -> Dashboard:
    """Run the dashboard on a path with a script of keys."""
    app = Dashboard(Watcher(Target(path), sample_machine=False), **settings)

    async def main() -> None:
        async with app.run_test(size=size) as pilot:
            await until(
                lambda: app.watcher.first_read.is_set() and app.watcher.model.history >= 1.0, pilot, "first read"
            )
            await until(lambda: app.updates > 0, pilot, "a notice")
            await script(app, pilot)

    asyncio.run(main())
    return app


def lines_of(app: Dashboard, panel: str) -> str:
    found = app.query_one(f"#{panel}")
    assert isinstance(found, LinesPanel | Chart)
    return "\n".join(found.plain_lines())


def test_every_view_shows_the_run(recorded: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        expected = {
            "stages": "experts", "comparison": "boosted ensemble", "messages": "chosen on validation",
            "accuracy-id": "✕", "epsilon": "●", "alpha": "■", "concentration": "▲", "loss": "⠂",
            "token-list": "wrong", "token-detail": "answer", "teachers": "boosted ensemble", "confidence": "█",
            "label-samples": "✓", "student-loss": "◆", "student-id": "★ ceiling", "run-list": "recorded",
            "gauges": "tokens a second", "cpu": "0",
        }  # fmt: skip
        seen = {}
        for place, name in enumerate(VIEWS, start=1):
            await pilot.press(str(place))
            assert app.view.name_ == name
            if name == "Runs":
                await until(lambda: app.watcher.runs, pilot, "runs")
                await until(lambda: "recorded" in lines_of(app, "run-list"), pilot, "the run in the list")
            for panel in app.view.query("LinesPanel, Chart"):
                if panel.id is not None and panel.size.width > 0:
                    seen[panel.id] = lines_of(app, panel.id)
        for panel_id, words in expected.items():
            if panel_id == "loss":
                assert re.search("[⠁-⣿]", seen[panel_id])
            else:
                assert words in seen[panel_id], panel_id
        assert "finished" in app.head.text
        assert "tiny" in app.head.text

    play(recorded, script)


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (60, 15), (40, 12), (1, 1)])
def test_every_size(recorded: Path, size: tuple[int, int]) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        for place in range(1, 8):
            await pilot.press(str(place), "m", "f", "f")
        if size[0] < 60:
            assert "need 60×15" in str(app.small_text.render())
            assert app.screen.has_class("-small")
        else:
            assert not app.screen.has_class("-small")

    play(recorded, script, size)


def test_resized_while_it_runs(recorded: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("2")
        for size in ((80, 24), (40, 12), (200, 60), (61, 16), (120, 40)):
            await pilot.resize_terminal(*size)
            assert app.screen.has_class("-small") == (size[0] < 60)
            if size[0] >= 60:
                chart = app.query_one("#loss", Chart)
                assert len(chart.picture().lines) == chart.content_size.height > 2

    play(recorded, script)


def test_charts_zoom_smooth_and_log(recorded: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("2")
        chart, other = app.query_one("#loss", Chart), app.query_one("#alpha", Chart)
        assert app.focused is chart
        await pilot.press("m", "plus")
        assert (chart.look.smoothing, chart.look.end - chart.look.start) == (0.6, 0.5)
        assert other.look == Look()
        await pilot.press("right", "y")
        assert chart.look.start > 0.25
        assert chart.look.log
        assert chart.look.smoothing == 0.6
        assert "zoom ×2" in str(chart.border_subtitle)
        assert "smoothed 0.6" in str(chart.border_subtitle)
        await pilot.press("0")
        assert chart.look == Look(smoothing=0.6, log=True)
        await pilot.press("minus", "y", "m", "m", "m", "m")
        assert chart.look == Look()

    play(recorded, script)


def test_full_screen_and_back(recorded: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("2", "tab", "f")
        chart = app.query_one("#accuracy-id", Chart)
        assert app.view.solo is chart
        await until(lambda: chart.size.width > 110 and chart.size.height > 30, pilot, "full size")
        assert app.query_one("#loss").size.width == 0
        await pilot.press("escape")
        assert app.view.solo is None
        await until(lambda: chart.size.width < 60, pilot, "small again")
        await pilot.press("3", "f")
        assert app.view.solo is app.query_one("#token-list")
        await pilot.press("f")
        assert app.view.solo is None

    play(recorded, script)


def test_tokens_search_sort_and_rounds(simulate: Simulate) -> None:
    folder = simulate(rounds=4).whole().folder

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("3")
        panel = app.query_one("#token-list", LinesPanel)
        assert panel.item_count == 20
        await pilot.press("down", "down")
        second = app.context.choices.token_example
        assert panel.cursor == 2
        assert second in lines_of(app, "token-detail")
        await pilot.press("left_square_bracket")
        assert app.context.choices.round == 3
        await until(lambda: "round 3" in str(panel.border_title), pilot, "round 3")
        await pilot.press("right_square_bracket")
        assert app.context.choices.round is None
        for order in ("wrong", "growth", "prompt", "weight"):
            await pilot.press("o")
            assert app.context.choices.token_sort == order
        await pilot.press("slash", *"reverse")
        assert isinstance(app.focused, Input)
        assert app.context.choices.token_search == "reverse"
        assert 0 < panel.item_count < 20
        assert "sort" not in lines_of(app, "token-list")
        await pilot.press("enter")
        assert app.focused is panel
        await pilot.press("escape")
        assert app.context.choices.token_search == ""
        assert panel.item_count == 20
        detail = lines_of(app, "token-detail")
        assert "answer" in detail
        assert "r4" in detail
        assert "✕" in detail

    play(folder, script)


def test_labelling_teachers_and_search(recorded: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("4")
        await pilot.press("left_square_bracket")
        assert app.context.choices.teacher == "bagging"
        await pilot.press("slash", *"wrong")
        shown = lines_of(app, "label-samples")
        assert "✕" in shown
        assert "✓" not in shown

    play(recorded, script)


def test_runs_open_mark_compare_and_filter(simulate: Simulate, tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        simulate(name, rounds=2, seed=len(name)).whole()

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("6")
        panel = app.query_one("#run-list", LinesPanel)
        await until(lambda: panel.item_count == 3, pilot, "three runs")
        await pilot.press("space", "down", "space")
        assert len(app.context.choices.marked) == 2
        await until(lambda: len(app.watcher.others) == 2, pilot, "both are read")
        await until(lambda: "difference" in lines_of(app, "compared"), pilot, "numbers side by side")
        assert "ceiling" in lines_of(app, "compared")
        assert "●" in lines_of(app, "compare-test")
        assert "✕" in lines_of(app, "compare-test")
        await pilot.press("space")
        assert len(app.context.choices.marked) == 1
        shown = app.watcher.model.path
        other = next(run for run in app.watcher.runs if str(run.path) != shown)
        panel.move_to([run.path for run in app.watcher.runs].index(other.path))
        await pilot.press("enter")
        await until(lambda: app.watcher.model.path == str(other.path), pilot, "another run is shown")
        await pilot.press("slash", *"third")
        assert panel.item_count == 1
        await pilot.press("escape", "l")
        assert app.watcher.target is not None
        assert app.watcher.target.follow_latest

    play(tmp_path / "runs", script)


def test_pictures_and_data_are_saved_here(recorded: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("s", "e", "2", "tab", "e")

    app = play(recorded, script)
    svg, everything, chart = app.saved
    assert svg.parent == Path.cwd()
    assert svg.suffix == ".svg"
    text = svg.read_text()
    assert text.startswith("<svg")
    assert "font-face" not in text
    assert "Comparison" in text
    rows = list(csv.DictReader(everything.read_text().splitlines()))
    assert {row["panel"] for row in rows} == {"stages"}  # the panel with the focus
    points = list(csv.DictReader(chart.read_text().splitlines()))
    assert {row["panel"] for row in points} == {"accuracy-id"}
    assert {row["series"] for row in points} >= {"expert", "ensemble", "weak base"}
    assert not [path for path in recorded.iterdir() if path.name.startswith("ew2s")]


def test_a_folder_that_cannot_be_written_is_said(recorded: Path, tmp_path: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("s")
        assert [n.severity for n in app._notifications] == ["error"]

    play(recorded, script, folder=tmp_path / "missing" / "folder")


def test_help_palette_and_theme(recorded: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("3", "question_mark")
        assert isinstance(app.screen, HelpScreen)
        assert "Tokens" in app.screen.text().plain
        assert "smoothing" in app.screen.text().plain
        await pilot.press("escape")
        assert not isinstance(app.screen, HelpScreen)
        await pilot.press("d")
        assert app.theme == "ew2s-light"
        assert not app.context.dark
        await pilot.press("ctrl+p")
        await until(lambda: len(app.screen_stack) == 2, pilot, "the palette")
        await pilot.press(*"Boost")
        await until(lambda: app.screen.query("OptionList"), pilot, "hits")
        await pilot.press("down", "enter")
        await until(lambda: app.view.name_ == "Boosting", pilot, "the command ran")

    play(recorded, script)


def test_mouse(recorded: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.click("#nav", offset=(16, 0))
        assert app.view.name_ == "Boosting"
        await pilot.click("#alpha")
        assert app.focused is app.query_one("#alpha")
        await pilot.hover("#alpha", offset=(20, 6))
        assert "α_t" in str(app.query_one("#alpha", Chart).border_subtitle)
        await pilot.press("3")
        await pilot.click("#token-list", offset=(8, 6))
        assert app.query_one("#token-list", LinesPanel).cursor == 2
        await pilot.click("#keys", offset=(1, 0))
        assert isinstance(app.screen, HelpScreen)

    play(recorded, script)


def test_keys_name_what_counts(recorded: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        def names() -> set[str]:
            return {what for _, what, _ in app.key_bar.entries}

        await pilot.press("3")
        await until(lambda: {"Search", "Sort", "Before, after"} <= names(), pilot, "keys of Tokens")
        await pilot.press("4")
        await until(lambda: "Sort" not in names() and "Search" in names(), pilot, "keys of Labelling")
        assert "Pause" not in names()
        assert "Quit" in names()

    play(recorded, script)


@pytest.mark.parametrize("dark", [True, False])
def test_without_colour(recorded: Path, monkeypatch: pytest.MonkeyPatch, dark: bool) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        for place in range(1, 8):
            await pilot.press(str(place))
        for colour in re.findall(r"-r\d+ \{ fill: (#(?!c5c8c6)[0-9a-f]{6})", app.export_screenshot()):
            assert colour[1:3] == colour[3:5] == colour[5:7]

    play(recorded, script, dark=dark)


def test_a_run_is_followed_from_before_its_start(simulate: Simulate, tmp_path: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        assert "waiting" in app.head.text
        sim = simulate("later", rounds=2)
        sim.begin()
        sim.beat()
        app.watcher.poke()
        await until(lambda: app.watcher.model.life == "running", pilot, "it runs")
        sim.weak_side()
        await until(lambda: "boosted ensemble" in lines_of(app, "comparison"), pilot, "results")
        sim.beat("finished")
        sim.log.event("run_finished", seconds=1.0)
        await until(lambda: "finished" in app.head.text, pilot, "its end")
        shutil.rmtree(sim.folder)
        await until(lambda: "gone" in app.head.text, pilot, "that it is gone")
        second = simulate("newer", rounds=2)
        second.begin()
        second.beat()
        app.watcher.poke()
        await until(lambda: app.watcher.model.path.endswith("newer"), pilot, "the newer run")

    play(tmp_path / "runs", script)


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"rounds": 60, "steps": 20}, {"rounds": 2, "wide": True}])
def test_odd_runs(simulate: Simulate, settings: dict[str, Any]) -> None:
    sim = simulate(**settings)
    sim.begin()
    sim.data()
    for t in range(1, settings["rounds"] + 1):
        sim.round(t)
    sim.log.event("message", level="error", text="\x1b[2J\u202eevil [bold]markup[/] 日本語" * 5)

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        for place in range(1, 8):
            await pilot.press(str(place))
        assert "\x1b[2J" not in lines_of(app, "messages")
        assert "日本語" in lines_of(app, "messages")

    play(sim.folder, script, (80, 24))


def test_notices_coalesce() -> None:
    assert Changed().can_replace(Changed())


def test_replay_keys(simulate: Simulate) -> None:
    folder = simulate(rounds=2).whole().folder
    app = Dashboard(Watcher(None, ReplayFollower(LocalSource(folder), 5.0), sample_machine=False))

    async def main() -> None:
        async with app.run_test(size=(120, 40)) as pilot:
            await until(lambda: "replay ×5" in app.head.text, pilot, "the replay plays")
            await pilot.press("p", "greater_than_sign")
            assert app.replay is not None
            assert app.replay.paused
            assert app.replay.speed == 10.0
            await until(lambda: "paused" in app.head.text, pilot, "the pause")
            app.replay.speed = 1e4
            await pilot.press("p")
            await until(lambda: "end of the replay" in app.head.text, pilot, "its end")
            assert "ceiling" in lines_of(app, "comparison")

    asyncio.run(main())


class Beside:
    """A run that was started together with the dashboard."""

    running = True

    def poll(self) -> None:
        return None


@pytest.mark.parametrize(("key", "answer"), [("s", "stop"), ("b", "leave")])
def test_leaving_asks_what_becomes_of_the_run(recorded: Path, key: str, answer: str) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("q")
        assert isinstance(app.screen, QuitScreen)
        await pilot.press("escape")
        assert not isinstance(app.screen, QuitScreen)
        await pilot.press("q", key)

    app = play(recorded, script, beside=Beside())
    assert app.return_value == answer


def test_leaving_needs_no_question_otherwise(recorded: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("q")

    assert play(recorded, script).return_value == "leave"


def test_only_what_changed_is_redrawn(recorded: Path) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        panel = app.query_one("#comparison", TextPanel)
        built: list[int] = []
        original = panel.rebuild
        panel.rebuild = lambda context: (built.append(1), original(context))[1]  # type: ignore[method-assign]
        with app.watcher.model.lock:
            app.watcher.model.touch("messages")
        app.refresh_all()
        assert not built
        app.watcher.model.touch("arms")
        app.refresh_all()
        assert built == [1]

    play(recorded, script)

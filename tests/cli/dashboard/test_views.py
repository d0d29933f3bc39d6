from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot
from textual.widgets import Input

from ensemw2s.cli.dashboard.app.app import Dashboard
from ensemw2s.cli.dashboard.drawing.plot import Look
from ensemw2s.cli.dashboard.drawing.text import plain
from ensemw2s.cli.dashboard.panels.chart import Chart
from ensemw2s.cli.dashboard.panels.text_panel import LinesPanel
from ensemw2s.cli.dashboard.views.lists import RunList

Simulate = Callable[..., Any]
Desk = Any


def test_charts_zoom_smooth_and_log(recorded: Path, desk: Desk) -> None:
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
        assert "zoom ×2" in plain(chart.note_line())
        assert "smoothed 0.6" in plain(chart.note_line())
        await pilot.press("0")
        assert chart.look == Look(smoothing=0.6, log=True)
        await pilot.press("minus", "y", "m", "m", "m", "m")
        assert chart.look == Look()

    desk.play(recorded, script)


def test_full_screen_and_back(recorded: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("2", "tab", "f")
        chart = app.query_one("#accuracy-id", Chart)
        assert app.view.solo is chart
        await desk.until(lambda: chart.size.width > 110 and chart.size.height > 30, pilot, "full size")
        assert app.query_one("#loss").size.width == 0
        await pilot.press("escape")
        assert app.view.solo is None
        await desk.until(lambda: chart.size.width < 60, pilot, "small again")
        await pilot.press("3", "f")
        assert app.view.solo is app.query_one("#token-list")
        await pilot.press("f")
        assert app.view.solo is None

    desk.play(recorded, script)


def test_tokens_search_sort_and_rounds(simulate: Simulate, desk: Desk) -> None:
    folder = simulate(rounds=4).whole().folder

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("3")
        panel = app.query_one("#token-list", LinesPanel)
        assert panel.item_count == 20
        await pilot.press("down", "down")
        second = app.context.choices.token_example
        assert panel.cursor == 2
        assert second in desk.lines(app, "token-detail")
        await pilot.press("left_square_bracket")
        assert app.context.choices.round == 3
        await desk.until(lambda: "round 3" in plain(panel.title_line()), pilot, "round 3")
        await pilot.press("right_square_bracket")
        assert app.context.choices.round is None
        for order in ("wrong", "growth", "prompt", "weight"):
            await pilot.press("o")
            assert app.context.choices.token_sort == order
        await pilot.press("slash", *"reverse")
        assert isinstance(app.focused, Input)
        assert app.context.choices.token_search == "reverse"
        assert 0 < panel.item_count < 20
        assert "sort" not in desk.lines(app, "token-list")
        await pilot.press("enter")
        assert app.focused is panel
        await pilot.press("escape")
        assert app.context.choices.token_search == ""
        assert panel.item_count == 20
        detail = desk.lines(app, "token-detail")
        assert "answer" in detail
        assert "r4" in detail
        assert "✕" in detail

    desk.play(folder, script)


def test_labelling_teachers_and_search(recorded: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("4")
        await pilot.press("left_square_bracket")
        assert app.context.choices.teacher == "bagging"
        await pilot.press("slash", *"wrong")
        shown = desk.lines(app, "label-samples")
        assert "✕" in shown
        assert "✓" not in shown

    desk.play(recorded, script)


def test_runs_open_mark_compare_and_filter(simulate: Simulate, tmp_path: Path, desk: Desk) -> None:
    for name in ("first", "second", "third"):
        simulate(name, rounds=2, seed=len(name)).whole()

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("6")
        panel = app.query_one("#run-list", RunList)
        await desk.until(lambda: panel.item_count == 3, pilot, "three runs")
        await pilot.press("space", "down", "space")
        assert len(app.context.choices.marked) == 2
        await desk.until(lambda: len(app.watcher.others) == 2, pilot, "both are read")
        await desk.until(lambda: "difference" in desk.lines(app, "compared"), pilot, "numbers side by side")
        assert "ceiling" in desk.lines(app, "compared")
        assert "●" in desk.lines(app, "compare-test")
        assert "✕" in desk.lines(app, "compare-test")
        await pilot.press("space")
        assert len(app.context.choices.marked) == 1
        shown = app.watcher.model.path
        other = next(run for run in app.watcher.runs if str(run.path) != shown)
        panel.move_to([run.path for run in panel.listed].index(other.path))
        await pilot.press("enter")
        await desk.until(lambda: app.watcher.model.path == str(other.path), pilot, "another run is shown")
        await pilot.press("slash", *"third")
        assert panel.item_count == 1
        await pilot.press("escape", "l")
        assert app.watcher.target is not None
        assert app.watcher.target.chosen is None

    desk.play(tmp_path / "runs", script)

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from ensemw2s.cli.dashboard.app.app import Dashboard
from ensemw2s.cli.dashboard.drawing.text import plain
from ensemw2s.cli.dashboard.panels.chart import Chart
from ensemw2s.cli.dashboard.panels.text_panel import HighPanel, LinesPanel

Simulate = Callable[..., Any]
Desk = Any
VIEWS = ("Overview", "Boosting", "Tokens", "Labelling", "Student", "Runs", "System")


def test_every_view_shows_the_run(recorded: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        expected = {
            "stages": "experts", "comparison": "boosted ensemble", "messages": "chosen on validation",
            "accuracy-id": "✕", "epsilon": "●", "alpha": "■", "concentration": "▲", "loss": "⠂",
            "token-list": "✕", "token-detail": "answer", "teachers": "boosted ensemble", "confidence": "█",
            "label-samples": "✓", "student-loss": "◆", "student-id": "★ ceiling", "run-list": "recorded",
            "gauges": "tokens a second", "cpu": "0",
        }  # fmt: skip
        seen = {}
        for place, name in enumerate(VIEWS, start=1):
            await pilot.press(str(place))
            assert app.view.name_ == name
            if name == "Runs":
                await desk.until(lambda: app.watcher.runs, pilot, "runs")
                await desk.until(lambda: "recorded" in desk.lines(app, "run-list"), pilot, "the run in the list")
            for panel in app.view.query("LinesPanel, Chart"):
                if panel.id is not None and panel.size.width > 0:
                    seen[panel.id] = desk.lines(app, panel.id)
        for panel_id, words in expected.items():
            if panel_id == "loss":
                assert re.search("[⠁-⣿]", seen[panel_id])
            else:
                assert words in seen[panel_id], panel_id
        assert "finished" in plain(app.head.line)
        assert "tiny" in plain(app.head.line)

    desk.play(recorded, script)


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (60, 15), (40, 12), (1, 1)])
def test_every_size(recorded: Path, size: tuple[int, int], desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        for place in range(1, 8):
            await pilot.press(str(place), "m", "f", "f")
        if size[0] < 60:
            assert "need 60×15" in str(app.small_text.render())
            assert app.screen.has_class("-small")
        else:
            assert not app.screen.has_class("-small")

    desk.play(recorded, script, size)


def test_resized_while_it_runs(recorded: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("2")
        for size in ((80, 24), (40, 12), (200, 60), (61, 16), (120, 40)):
            await pilot.resize_terminal(*size)
            assert app.screen.has_class("-small") == (size[0] < 60)
            if size[0] >= 60:
                chart = app.query_one("#loss", Chart)
                assert len(chart.picture().lines) == chart.inner[1] > 2

    desk.play(recorded, script)


def test_pictures_and_data_are_saved_here(recorded: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("s", "e", "2", "tab", "e")

    app = desk.play(recorded, script)
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


def test_a_folder_that_cannot_be_written_is_said(recorded: Path, tmp_path: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("s")
        assert [n.severity for n in app._notifications] == ["error"]

    desk.play(recorded, script, folder=tmp_path / "missing" / "folder")


def test_help_palette_and_theme(recorded: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("3", "question_mark")
        assert app.help_box.is_open
        assert app.focused is app.help_box
        text = "\n".join(map(plain, app.help_box.lines))
        assert "Tokens" in text
        assert "smoothing" in text
        await pilot.press("escape")
        assert not app.help_box.is_open
        await pilot.press("d")
        assert not app.context.dark
        await desk.until(lambda: app.theme == "ew2s-light", pilot, "Textual's own theme follows")
        await pilot.press("ctrl+p")
        await desk.until(lambda: len(app.screen_stack) == 2, pilot, "the palette")
        await pilot.press(*"Boost")
        await desk.until(lambda: app.screen.query("OptionList"), pilot, "hits")
        await pilot.press("down", "enter")
        await desk.until(lambda: app.view.name_ == "Boosting", pilot, "the command ran")

    desk.play(recorded, script)


def test_mouse(recorded: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.click("#nav", offset=(16, 0))
        assert app.view.name_ == "Boosting"
        await pilot.click("#alpha")
        assert app.focused is app.query_one("#alpha")
        await pilot.hover("#alpha", offset=(20, 6))
        assert "α_t" in plain(app.query_one("#alpha", Chart).note_line())
        await pilot.press("3")
        await pilot.click("#token-list", offset=(8, 6))
        assert app.query_one("#token-list", LinesPanel).cursor == 2
        await pilot.click("#keys", offset=(1, 0))
        assert app.help_box.is_open

    desk.play(recorded, script)


def test_keys_name_what_counts(recorded: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        def names() -> set[str]:
            return {what for _, what, _ in app.key_bar.entries}

        await pilot.press("3")
        await desk.until(lambda: {"Search", "Sort", "Before, after"} <= names(), pilot, "keys of Tokens")
        await pilot.press("4")
        await desk.until(lambda: "Sort" not in names() and "Search" in names(), pilot, "keys of Labelling")
        assert "Pause" not in names()
        assert "Quit" in names()

    desk.play(recorded, script)


@pytest.mark.parametrize("dark", [True, False])
def test_without_colour(recorded: Path, monkeypatch: pytest.MonkeyPatch, dark: bool, desk: Desk) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        for place in range(1, 8):
            await pilot.press(str(place))
        for colour in re.findall(r"-r\d+ \{ fill: (#(?!c5c8c6)[0-9a-f]{6})", app.export_screenshot()):
            assert colour[1:3] == colour[3:5] == colour[5:7]

    desk.play(recorded, script, dark=dark)


def test_only_what_changed_is_redrawn(recorded: Path, desk: Desk) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        panel = app.query_one("#comparison", HighPanel)
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

    desk.play(recorded, script)

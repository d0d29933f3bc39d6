"""Every key in every view, on the log of a real run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Input

from ensemw2s.cli.dashboard.app.app import Dashboard
from ensemw2s.cli.dashboard.drawing.text import plain
from ensemw2s.cli.dashboard.panels import keys
from ensemw2s.cli.dashboard.panels.chart import Chart
from ensemw2s.cli.dashboard.panels.text_panel import LinesPanel
from ensemw2s.cli.dashboard.views import VIEWS

Desk = Any

PANEL_KEYS = ("j", "k", "down", "up", "left", "right", "pagedown", "pageup", "home", "end", "tab", "shift+tab", "space")


def pressed(key: str) -> tuple[Callable[[Dashboard, Path], object], Callable[[object, object, str], bool]]:
    """What a key changes: how to look at it, and whether before and after are right for a view."""

    def looks(app: Dashboard) -> list[Any]:
        return [chart.look for chart in app.view.query(Chart)]

    def only_in(action: str, charts: bool = False) -> Callable[[object, object, str], bool]:
        return lambda before, after, view: (
            (before != after)
            == (bool(before) if charts else keys.counts(action, view, charts=True, replay=False, saves=True))
        )

    always: Callable[[object, object, str], bool] = lambda before, after, view: before != after  # noqa: E731
    return {
        "question_mark": (lambda app, place: app.help_box.is_open, always),
        "f": (lambda app, place: app.view.solo, always),
        "d": (lambda app, place: app.theme, always),
        "s": (lambda app, place: sorted(place.rglob("*.svg")), always),
        "m": (lambda app, place: looks(app), only_in("chart", charts=True)),
        "y": (lambda app, place: looks(app), only_in("chart", charts=True)),
        "plus": (lambda app, place: looks(app), only_in("chart", charts=True)),
        "slash": (lambda app, place: isinstance(app.focused, Input), only_in("search")),
    }.get(key, (lambda app, place: app.view.name_, lambda before, after, view: before == after == view))


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(VIEWS)), ids=[view.name_ for view in VIEWS])
def test_every_key_in_every_view(
    recorded: Path, desk: Desk, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = VIEWS[place].name_
    bound = [part for binding in Dashboard.BINDINGS if isinstance(binding, Binding) for part in binding.key.split(",")]
    used = [key for key in bound if key != "q" and not key.isdigit()] + list(PANEL_KEYS)

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        for key in used:
            await pilot.press(str(place + 1))
            look, right = pressed(key)
            before = look(app, tmp_path)
            await pilot.press(key)
            await pilot.pause()
            what = f"{key} in {name} does what it should"
            await desk.until(lambda: right(before, look(app, tmp_path), name), pilot, what)  # noqa: B023
            if key in ("f", "d", "y"):
                await pilot.press(key)
                await desk.until(lambda: look(app, tmp_path) == before, pilot, f"{key} twice in {name}")  # noqa: B023
            elif key in ("plus", "equals_sign"):
                await pilot.press("0")
            elif key in ("question_mark", "slash"):
                await pilot.press("escape")
            assert (app.help_box.is_open, len(app.screen_stack), app.view.name_) == (False, 1, name), key
        shown = [text for panel in app.view.query(LinesPanel) for text in map(plain, panel.lines)]
        assert app.is_running
        assert shown or list(app.view.query(Chart))

    desk.play(recorded, script, (100, 30))

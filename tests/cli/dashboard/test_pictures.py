"""The screens as text, compared with pictures that were looked at. EW2S_UPDATE_PICTURES=1 writes them anew."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from ensemw2s.cli.dashboard.app.app import Dashboard
from ensemw2s.cli.dashboard.panels import overview as overview_lines
from ensemw2s.cli.dashboard.panels import runs as run_lines
from ensemw2s.cli.dashboard.reading.machine import Gpu, Sample
from ensemw2s.cli.dashboard.reading.target import Target
from ensemw2s.cli.dashboard.reading.watch import Watcher

PICTURES = Path(__file__).parent / "pictures"
GPU = Gpu("NVIDIA H100 80GB HBM3", 97.0, 61e9, 80e9, 63.0)
MACHINE = Sample(41.0, [80.0, 2.0], 9.5e9, 16e9, 0.0, 1.5, [GPU], "")


def screen_text(app: Dashboard) -> list[str]:
    """Everything between the bar of views and the keys."""
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()][2:-1]


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
def test_pictures(recorded: Path, sweep: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    # what is shown of a time depends on the time zone and on the present
    monkeypatch.setattr(overview_lines, "moment", lambda t: time.strftime("%H:%M:%S", time.gmtime(t)))
    monkeypatch.setattr(run_lines, "ago", lambda seconds: "3 min")
    app = Dashboard(Watcher(Target(recorded), sample_machine=False))
    app.watcher.samples.append((0.0, MACHINE))
    found: dict[str, list[str]] = {}

    async def main() -> None:
        async with app.run_test(size=size) as pilot:
            while app.refresher.rounds == 0 or not app.watcher.first_read.is_set() or app.watcher.model.history < 1.0:
                await asyncio.sleep(0.01)
            for place, view in enumerate(app.views):
                app.action_view(place)
                while view.name_ == "Runs" and len(app.watcher.runs) < 4:
                    await asyncio.sleep(0.01)
                app.refresh_all()
                app.set_focus(None)
                await pilot.pause()
                await pilot.pause()
                found[view.name_] = screen_text(app)

    asyncio.run(main())
    for name, lines in found.items():
        file = PICTURES / f"{name.lower()}-{size[0]}x{size[1]}.txt"
        text = "\n".join(lines) + "\n"
        if os.environ.get("EW2S_UPDATE_PICTURES"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8"), f"{file.name}: look at it, then EW2S_UPDATE_PICTURES=1"

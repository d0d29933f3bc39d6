from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from ensemw2s.cli.dashboard.app.app import Dashboard
from ensemw2s.cli.dashboard.drawing.text import plain

Simulate = Callable[..., Any]
Desk = Any
START = 1_760_000_000.0


def line(kind: str, **fields: Any) -> str:
    return json.dumps({"v": 1, "t": START + 50.0, "kind": kind, **fields}) + "\n"


def append(folder: Path, text: str | bytes, name: str = "events.jsonl") -> None:
    with (folder / name).open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def torn(folder: Path) -> None:
    append(folder, b'{"v":1,"t":1,"kind":"message","level":"info","text":"\xe6\x97')
    append(folder, b'{"v":1,"t":1,"kind":"trai', "metrics.jsonl")


def torn_and_continued(folder: Path) -> None:
    append(folder, b'{"v":1,"t":1,"kind":"mess\xff\n' + line("message", level="info", text="after").encode())


def unknown(folder: Path) -> None:
    append(folder, line("a_kind_of_tomorrow", round="x") + line("message", level="shout", text="after", more=[1]))


def clock_back(folder: Path) -> None:
    early = json.loads(line("message", level="info", text="after")) | {"t": -5.0}
    append(folder, json.dumps(early) + "\n" + line("stage_started", stage="ceiling", t=START - 1e9))


def future(folder: Path) -> None:
    append(folder, '{"v":99,"t":1,"kind":"arm_result","arm":"single","split":"test","accuracy":2.0}\n')
    append(folder, line("message", level="info", text="after"))


def not_a_number(folder: Path) -> None:
    for value in (None, math.nan, math.inf, 1e308, -1e308, 2**64, 10**400, "0.5", True, [1], {"a": 1}):
        append(folder, line("round_finished", round=2, epsilon=value, alpha=value, n_eff=value, top1_share=value))
        append(folder, line("arm_result", arm="single", split="test", accuracy=value, low=value, high=value, n=value))
        append(folder, line("hard_tokens", round=2, examples=[{"tokens": value, "weights": value, "wrong": value}]))
        append(folder, line("label_sample", teacher="single", prompt=value, label=value, confidence=value))
        append(folder, line("train", tag="ceiling", step=value, steps=value, loss=value), "metrics.jsonl")
        append(folder, line("label", teacher="bagging", done=value, total=value, confidences=value), "metrics.jsonl")
    append(folder, line("message", level="info", text="after"))


def not_objects(folder: Path) -> None:
    append(folder, "[]\n3\nnull\n\n{}\n" + line("message", level="info", text="after"))


@pytest.mark.parametrize(
    ("damage", "skipped", "after"),
    [
        (torn, 0, False), (torn_and_continued, 1, True), (unknown, 0, True), (clock_back, 0, True), (future, 1, True),
        (not_a_number, 0, True), (not_objects, 4, True),
    ],
)  # fmt: skip
def test_broken_logs_on_every_screen(
    simulate: Simulate, desk: Desk, damage: Callable[[Path], None], skipped: int, after: bool
) -> None:
    folder = simulate(rounds=3).whole().folder
    damage(folder)

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        for place in range(1, 8):
            await pilot.press(str(place), "m", "y", "e")
        await pilot.press("1")
        assert app.watcher.failure == ""
        assert app.watcher.model.unreadable == skipped
        assert ("after" in [m.text for m in app.watcher.model.messages]) is after
        assert "boosted ensemble" in desk.lines(app, "comparison")
        assert "finished" in plain(app.head.line)

    desk.play(folder, script, (80, 24))


def test_ten_thousand_steps(simulate: Simulate, desk: Desk) -> None:
    sim = simulate(rounds=1, steps=10_000, every=1)
    sim.begin()
    sim.weak_side()

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        curve = app.watcher.model.curves["experts/round-01"]
        assert curve.step == 10_000
        assert 4_000 < len(curve.loss) <= 8_192
        x, y = curve.loss.arrays()
        assert x[0] < 10
        assert abs(y[-1000:].mean() - 1.0) < 0.1
        await pilot.press("2", "plus", "m", "m", "y", "0")
        assert "⠉" in desk.lines(app, "loss") or "⣀" in desk.lines(app, "loss")

    desk.play(sim.folder, script)

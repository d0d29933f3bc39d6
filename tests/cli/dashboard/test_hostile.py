"""Text of a stranger in every field of a run, on every screen and in everything that is written."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from ensemw2s.cli import main as cli
from ensemw2s.cli.dashboard.app.app import Dashboard
from ensemw2s.cli.dashboard.model.status_text import status_text
from ensemw2s.cli.dashboard.panels.panel import BoxPanel
from ensemw2s.cli.dashboard.reading.follow import load_run
from ensemw2s.cli.dashboard.reading.source import Source

Simulate = Callable[..., Any]
Desk = Any

BAD = "\x1b]52;c;eA==\x07\x9b2J\u202e\u2028\r\x00\ud800=1 [red]x[/red][link=http://x]y[/link][/nope]"
KINDS = ("Cc", "Cf", "Cs", "Zl", "Zp")


def harmless(text: str) -> None:
    found = {hex(ord(char)) for char in text if char != "\n" and unicodedata.category(char) in KINDS}
    assert found == set()


def spoiled(value: Any) -> Any:
    """A record with the bad text at the beginning of every text in it."""
    if isinstance(value, dict):
        return {name: item if name in ("kind", "level") else spoiled(item) for name, item in value.items()}
    if isinstance(value, list):
        return [spoiled(item) for item in value]
    return BAD + value if isinstance(value, str) else value


@pytest.fixture
def hostile(simulate: Simulate) -> Path:
    """A finished run whose every text is bad, each also as it is so that the screens have something to show."""
    folder: Path = simulate("run\x1b[31m", rounds=2).whole().folder
    for name in ("events.jsonl", "metrics.jsonl"):
        lines = []
        for line in (folder / name).read_text().splitlines():
            record = json.loads(line)
            lines += [record, spoiled(record)]
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in lines))
    with (folder / "events.jsonl").open("a") as file:
        for kind, more in (("message", {"level": "error", "text": BAD}), ("run_failed", {"error": BAD, "stage": BAD})):
            file.write(json.dumps({"v": 1, "t": 1_760_000_900.0, "kind": kind, **more}) + "\n")
    beat = json.loads((folder / "heartbeat").read_text()) | {"state": "failed", "host": BAD}
    (folder / "heartbeat").write_text(json.dumps(beat))
    return folder


@pytest.mark.parametrize("size", [(80, 24), (140, 50), (50, 10)])
def test_every_screen(hostile: Path, desk: Desk, size: tuple[int, int]) -> None:
    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        app.watcher.failure = ""
        for place in range(1, 8):
            await pilot.press(str(place), "e")
            if place == 6:
                await desk.until(lambda: app.watcher.runs, pilot, "the list of runs")
            for panel in app.query(BoxPanel):
                for strip in panel.painted() if panel.size else ():
                    assert strip.cell_length == sum(segment.cell_length for segment in strip)
                    harmless("".join(segment.text for segment in strip))
            await pilot.press("s")
        app.notify(BAD)
        await pilot.pause()
        for strip in app.screen._compositor.render_strips():
            harmless("".join(segment.text for segment in strip))
        assert app.watcher.failure == ""
        assert app.saved
        for path in app.saved:
            text = path.read_bytes().decode()
            if path.suffix == ".csv":
                for row in csv.reader(io.StringIO(text, newline="")):
                    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in row)
            else:
                harmless(text)
                assert "<script" not in text

    desk.play(hostile, script, size)


def test_the_plain_status(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = status_text(load_run(Source(hostile)))
    harmless(text)
    assert "[red]x[/red]" in text
    assert not any(line.startswith(("=1", "[red]")) for line in text.split("\n"))
    assert cli.main(["dashboard", str(hostile), "--once"]) == 0
    assert cli.main(["runs", "list", str(hostile.parent)]) == 0
    said = capsys.readouterr()
    harmless(said.out + said.err)
    assert "run␛" in said.out


def test_json_has_the_text_itself(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["dashboard", str(hostile), "--json"], ["runs", "list", str(hostile.parent), "--json"]):
        assert cli.main(words) == 0
        out = capsys.readouterr().out
        harmless(out)
        assert "\x1b[31m" in json.dumps(json.loads(out), ensure_ascii=False).replace("\\u001b", "\x1b")


@pytest.mark.parametrize(
    "words",
    [
        ["{}"], ["--{}"], ["run", "--preset", "{}"], ["run", "--preset", "tiny", "--set", "a{}=1"], ["evaluate", "{}"],
        ["--debug", "evaluate", "{}"], ["score", "{}", "f"], ["runs", "list", "{}"], ["dashboard", "{}", "--once"],
        ["config", "validate", "{}.yaml"], ["data", "check", "{}.csv"], ["sweep", "{}.yaml"], ["report", "{}"],
    ],
)  # fmt: skip
def test_arguments_that_an_error_repeats(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    bad = "x\x1b]52;c;eA==\x07\u202e\x9b2J"
    cli.main([word.replace("{}", bad) for word in words])
    said = capsys.readouterr()
    harmless(said.out + said.err)
    assert "52;c;eA" in said.out + said.err

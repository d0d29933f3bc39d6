"""Progress: plain lines for logs, bars for terminals, nothing when quiet."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ensemw2s.cli.progress import BarProgress, PlainProgress, Plan, QuietProgress, duration, progress_sink
from ensemw2s.cli.terminal import Terminal


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def _events(sink: Any) -> None:
    sink.event("run_started", name="tiny", seed=0, resumed=False)
    stages = ["data", "experts/round-01", "experts/round-02", "experts/round-03", "ceiling"]
    rounds = [None, 1, 2, 3, None]
    records = [{"name": name, "round": number} for name, number in zip(stages, rounds, strict=True)]
    sink.event("plan", stages=stages, records=records)
    sink.event("stage_finished", stage="data", seconds=0.2, cached=True)
    notes = {"dropped_duplicates": {"exact": 1, "near": 1, "contradictions": 59}, "unused_easy": 0}
    notes |= {"label_noise": 4, "sizes": {"train": 19}}
    sink.event("data_ready", counts={"train": 19, "test": 6}, tokens=40, notes=notes)
    sink.event("stage_started", stage="experts/round-01")


def test_plain_lines_come_at_the_ends_of_stages_and_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with PlainProgress(Terminal(), clock=lambda: now[0]) as sink:
        _events(sink)
        for step in range(1, 301):
            now[0] = step / 10
            sink.progress("experts/round-01", step, 300)
        sink.event("stage_finished", stage="experts/round-01", seconds=30.0, cached=False)
        sink.event("stage_finished", stage="data", seconds=0.2, cached=True)
        sink.event("round_finished", round=1, epsilon=0.25, alpha=1.5, kept=True)
        sink.event("boosting_stopped", reason="α ≤ 0", rounds=1, selected_rounds=1)
        sink.event("message", level="warning", text="odd")
        sink.metric("train", loss=1.0)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Starting tiny with seed 0",
        "[1/5] data: kept from before",
        "Data: train 19, test 6; left out: 2 ask an earlier question again, "
        "59 contradict an earlier answer to the same question; "
        "label noise: 4 of 19 training answers are false on purpose",
        "[1/5] experts/round-01: started",
        "[1/5] experts/round-01: 101/300 (33 %), about 20 s left",
        "[1/5] experts/round-01: 201/300 (67 %), about 9.9 s left",
        "[2/5] experts/round-01: done in 30 s",
        "Round 1: ε 0.250, α 1.500",
        "Boosting stopped: α ≤ 0. The ensemble uses 1 expert.",
        "Warning: odd",
    ]
    assert sink.plan.stages == ["data", "experts/round-01", "ceiling"]


def test_the_plan_follows_what_comes() -> None:
    plan = Plan()
    rounds = {"data": None, "experts/round-01": 1, "a": 2, "b": 2, "labels/single": None, "ceiling": None}
    plan.begin(list(rounds), [{"name": name, "round": number} for name, number in rounds.items()])
    for stage in ("data", "experts/round-01"):
        plan.finish(stage)
    plan.finish("joint/bagging")  # nobody planned it
    assert plan.position == "3/7"
    assert plan.stages[2] == "joint/bagging"
    plan.stop_boosting(1)
    assert plan.stages == ["data", "experts/round-01", "joint/bagging", "labels/single", "ceiling"]
    plan.finish("ceiling")  # the labels were passed over
    assert plan.position == "4/4"


def test_bars_move_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    terminal = Terminal()
    monkeypatch.setattr(
        terminal, "console", lambda stream: Console(file=screen, force_terminal=True, width=80, legacy_windows=False)
    )
    with BarProgress(terminal) as sink:
        _events(sink)
        sink.progress("experts/round-01", 150, 300)
        sink.bars.refresh()  # type: ignore[union-attr]
        sink.event("message", level="warning", text="odd")
        sink.progress("experts/round-01", 300, 300)
    text = screen.getvalue()
    assert "150/300" in text
    assert "ETA" in text
    assert "1/5" in text
    assert "Warning: odd" in text
    assert sink._tasks == {}


def test_quiet_keeps_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.quiet = True
    with progress_sink(terminal) as sink:
        assert isinstance(sink, QuietProgress)
        _events(sink)
        sink.event("message", level="warning", text="odd")
    assert capsys.readouterr().err == "Warning: odd\n"


def test_the_sink_fits_where_stderr_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress_sink(Terminal()), PlainProgress)
    monkeypatch.setattr("sys.stderr", Screen())
    assert isinstance(progress_sink(Terminal()), BarProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_sink(Terminal()), PlainProgress)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (125, "2 min 05 s"), (11520, "3 h 12 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text

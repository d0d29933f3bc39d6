"""Simulated runs: realistic logs, written through the run directory's own log, with a clock of their own."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import os
import platform
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.pilot import Pilot

from ensemw2s.cli.dashboard.app.app import Dashboard
from ensemw2s.cli.dashboard.drawing.text import plain
from ensemw2s.cli.dashboard.panels.chart import Chart
from ensemw2s.cli.dashboard.panels.text_panel import LinesPanel
from ensemw2s.cli.dashboard.reading.target import Target
from ensemw2s.cli.dashboard.reading.watch import Watcher
from ensemw2s.runs.log import LogSink

Script = Callable[[Dashboard, Pilot[str]], Awaitable[None]]

START = 1_760_000_000.0
WORDS = ("reverse", "sort", "sum of", "count 3 in", "largest of", "rotate", "keep large in", "next of")


@dataclass
class Clock:
    """Seconds that pass only when told to."""

    now: float = START

    def __call__(self) -> float:
        return self.now


class Simulator:
    """Writes the log of a run step by step.

    Args:
        folder: the run directory.
        rounds: boosting rounds.
        steps: optimiser steps of every training; a metric every ``every`` steps.
    """

    def __init__(
        self, folder: Path, *, rounds: int = 3, steps: int = 100, every: int = 10, seed: int = 0, wide: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.rounds, self.steps, self.every, self.wide = folder, rounds, steps, every, wide
        self.clock = Clock()
        self.log = LogSink(folder, clock=self.clock)
        self.rng = np.random.default_rng(seed)
        self.seed = seed

    def begin(self, *, resumed: bool = False, fingerprint: str = "f0") -> None:
        stages = ["data", "baselines/zero-shot-strong", "baselines/zero-shot-weak"]
        stages += [f"experts/round-{t:02d}" for t in range(1, self.rounds + 1)]
        stages += [f"baselines/bagging/member-{t:02d}" for t in range(2, self.rounds + 1)]
        stages += ["labels/plain", "labels/bagging", "labels/ensemble"]
        stages += ["student/plain", "student/bagging", "student/ensemble", "ceiling"]
        self.log.event(
            "run_started", name="simulated", seed=self.seed, task="choice", preset="tiny", resumed=resumed,
            config_fingerprint=fingerprint, versions={"ensemw2s": "0"}, host=platform.node(),
        )  # fmt: skip
        self.log.event("plan", stages=stages)

    def beat(self, state: str = "running", pid: int | None = None, age: float = 0.0) -> None:
        beat = {"pid": pid or os.getpid(), "host": platform.node(), "time": time.time() - age, "state": state}
        (self.folder / "heartbeat").write_text(json.dumps(beat))

    def stage(self, name: str, seconds: float = 2.0, *, train: bool = False, cached: bool = False) -> None:
        if cached:
            self.log.event("stage_finished", stage=name, seconds=seconds, cached=True)
            return
        self.log.event("stage_started", stage=name)
        if train:
            self.train(name)
        else:
            self.clock.now += seconds
        self.log.event("stage_finished", stage=name, seconds=seconds, cached=False)

    def train(self, tag: str, until: int | None = None) -> None:
        for step in range(self.every, (until or self.steps) + 1, self.every):
            self.clock.now += 0.05 * self.every
            loss = 1.0 + 6.0 * math.exp(-step / (0.2 * self.steps)) + 0.1 * float(self.rng.normal())
            self.log.metric(
                "train", tag=tag, step=step, steps=self.steps, loss=loss, learning_rate=1e-3 * (1 - step / self.steps),
                tokens_per_second=9000.0,
            )  # fmt: skip
            self.log.progress(tag, step, self.steps)
            if step % (self.every * 5) == 0:
                self.log.metric("system", cpu=93.0, rss=700_000_000)

    def data(self) -> None:
        self.stage("data", 1.0)
        self.log.event("data_ready", counts={"train": 400, "test": 200, "hard_pool": 300}, tokens=1600, notes={})

    def arm(self, name: str, easy: float, hard: float) -> None:
        for split, value in (("test", easy), ("hard_test", hard)):
            half = 1.96 * math.sqrt(value * (1 - value) / 600)
            self.log.event(
                "arm_result", arm=name, split=split, accuracy=value, low=value - half, high=value + half, n=600,
                token_accuracy=value,
            )  # fmt: skip

    def round(self, t: int, *, finish: bool = True) -> None:
        self.log.event("round_started", round=t, rounds=self.rounds)
        self.stage(f"experts/round-{t:02d}", 0.05 * self.steps, train=True)
        if not finish:
            return
        for split, base in (("validation", 0.66), ("test", 0.66), ("hard_test", 0.5)):
            base += 0.005 * self.seed
            own, both = base - 0.25 * (1 - 1 / t), base + 0.05 * (1 - 1 / t)
            self.log.event(
                "round_scored", round=t, arm="boosting", split=split, expert_accuracy=own, ensemble_accuracy=both,
                expert_token_accuracy=own, ensemble_token_accuracy=both,
            )  # fmt: skip
        self.log.event("hard_tokens", round=t, examples=[self.example(i, t) for i in range(20)])
        self.log.event(
            "round_finished", round=t, epsilon=0.3 + 0.5 * (1 - 1 / t), epsilon_raw=0.3, epsilon_prior=0.9,
            alpha=3.0 / t, kept=True, errors_from="train", n_eff=1600 / t, top1_share=0.01 * t, validation=0.6,
        )  # fmt: skip

    def example(self, i: int, t: int) -> dict[str, Any]:
        digits = f"{(i * 7919 + 12345) % 100000:05d}"
        tokens = ["日", "本", " e\u0301", "🙂", "\n"] if self.wide else list(digits)
        weights = [(1 + (t - 1) * (j % 3) * (20 - i) / 20) / 1600 for j in range(5)]
        wrong = [float((j + i + t) % 3 == 0) for j in range(5)]
        said = ["語" if w and self.wide else "9" if w else tokens[j] for j, w in enumerate(wrong)]
        prompt = f"並べ替え {digits} {WORDS[i % 8]}" if self.wide else f"{WORDS[i % 8]} {digits}"
        return {
            "id": f"ex-{(i + t * (i % 4)) % 40:03d}", "prompt": prompt, "tokens": tokens, "weights": weights,
            "wrong": wrong, "predicted": said,
        }  # fmt: skip

    def labels(self, teacher: str) -> None:
        self.log.event("stage_started", stage=f"labels/{teacher}")
        for done in range(50, 301, 50):
            self.clock.now += 1.0
            self.log.metric(
                "label", teacher=teacher, done=done, total=300, per_second=50.0,
                confidences=[float(c) for c in self.rng.beta(4, 2, 50)],
            )  # fmt: skip
        for i in range(20):
            self.log.event(
                "label_sample", teacher=teacher, prompt=f"{WORDS[i % 8]} {i * 37:06d}", label=str(i * 11),
                confidence=0.2 + 0.04 * i, agreement=(i % 5) / 4, correct=None if i == 3 else i % 3 != 0,
            )  # fmt: skip
        self.log.event(
            "labels_done", teacher=teacher, n=300, kept=290, mean_confidence=0.61, mean_agreement=0.8, accuracy=0.66
        )
        self.log.event("stage_finished", stage=f"labels/{teacher}", seconds=6.0, cached=False)

    def weak_side(self) -> None:
        self.data()
        self.stage("baselines/zero-shot-strong")
        self.stage("baselines/zero-shot-weak")
        self.arm("weak_zero_shot", 0.26, 0.24)
        self.arm("strong_zero_shot", 0.31, 0.25)
        for t in range(1, self.rounds + 1):
            self.round(t)
            self.arm("plain" if t == 1 else f"expert_{t}", 0.66 - 0.3 * (1 - 1 / t), 0.5 - 0.2 * (1 - 1 / t))
        self.log.event("boosting_stopped", reason=f"all {self.rounds} rounds done", rounds=self.rounds,
                       selected_rounds=max(1, self.rounds - 1))  # fmt: skip
        for t in range(2, self.rounds + 1):
            self.stage(f"baselines/bagging/member-{t:02d}", 4.0)
        self.arm("bagging", 0.675, 0.53)
        self.arm("ensemble", 0.71, 0.55)

    def whole(self) -> Simulator:
        """A finished run."""
        self.begin()
        self.weak_side()
        for teacher in ("plain", "bagging", "ensemble"):
            self.labels(teacher)
        for place, teacher in enumerate(("plain", "bagging", "ensemble")):
            self.stage(f"student/{teacher}", 5.0, train=True)
            self.arm(f"student_{teacher}", 0.69 + 0.01 * place, 0.66 + 0.015 * place)
        self.stage("ceiling", 5.0, train=True)
        self.arm("ceiling", 0.78, 0.8)
        self.log.event("message", level="warning", text="A warning with [brackets] and a \x1b[31mcolour\x1b[0m code")
        self.log.event("run_finished", seconds=self.clock.now - START)
        results = {
            "config_fingerprint": "f0",
            "weak": "plain",
            "pgr": {"student_ensemble": {"hard_test": {"value": 0.7, "low": 0.5, "high": 0.9, "kind": "interval"}}},
        }
        (self.folder / "results.json").write_text(json.dumps(results))
        self.beat("finished")
        return self


@pytest.fixture
def simulate(tmp_path: Path) -> Callable[..., Simulator]:
    """Makes simulators: ``simulate("name", rounds=…)`` below ``tmp_path / "runs"``."""

    def make(name: str = "run", **settings: Any) -> Simulator:
        return Simulator(tmp_path / "runs" / name, **settings)

    return make


@pytest.fixture
def sweep(simulate: Callable[..., Simulator], tmp_path: Path) -> Path:
    """A sweep of four runs at work: one is finished, one failed, one runs, one has not begun."""
    root = tmp_path / "runs" / "levels"
    jobs = {"level=example": [0, 1], "level=token": [0, 1]}
    planned = [
        {"name": cell, "jobs": [
            {"seed": s, "state": "waiting", "directory": f"cells/{cell}/seed-{s}", "error": None} for s in seeds
        ]}
        for cell, seeds in jobs.items()
    ]  # fmt: skip
    invalid = {"seed": 0, "state": "failed", "directory": "cells/level=nothing/seed-0", "error": "no such level"}
    planned.append({"name": "level=nothing", "jobs": [invalid]})
    simulate("levels/cells/level=example/seed-0", rounds=2, seed=0).whole()
    failed = simulate("levels/cells/level=example/seed-1", rounds=2, seed=1)
    failed.begin()
    failed.log.event("run_failed", error="no room", stage="data")
    failed.beat("failed", age=40.0)
    running = simulate("levels/cells/level=token/seed-0", rounds=2, seed=0)
    running.begin()
    running.data()
    running.round(1)
    running.beat(age=-3600.0)  # however long the test takes
    (root / "sweep.json").write_text(json.dumps({"name": "levels", "cells": planned}))
    return root


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and CSV files of tests go to a temporary folder; colours do not depend on the caller's terminal."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("NO_COLOR", "TEXTUAL_THEME", "EW2S_RUNS_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """The log of a real run of the preset ``tiny``, in a folder of runs."""
    folder = tmp_path / "runs" / "recorded"
    folder.mkdir(parents=True)
    for file in sorted((Path(__file__).parent / "data").glob("*.gz")):
        (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    beat = {"pid": 1, "host": "elsewhere", "time": time.time() - 60, "state": "finished"}
    (folder / "heartbeat").write_text(json.dumps(beat))
    return folder


class Desk:
    """The dashboard with somebody at its keys."""

    async def until(self, condition: Callable[[], object], pilot: Pilot[str], what: str = "") -> None:
        """Wait for a condition, not for a clock, and then for all panels: they are redrawn one after the other."""
        end = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < end, f"never happened: {what}"
            await asyncio.sleep(0.01)
        assert isinstance(pilot.app, Dashboard)
        refresher = pilot.app.refresher
        for _ in range(2):  # the first round may have begun before
            rounds = refresher.rounds
            refresher.want(soon=True)
            while refresher.rounds == rounds and pilot.app.is_running:
                assert time.monotonic() < end + 20.0, "the panels are never all drawn"
                await asyncio.sleep(0.001)
        await pilot._wait_for_screen()

    def play(self, path: Any, script: Script, size: tuple[int, int] = (120, 40), **settings: Any) -> Dashboard:
        """Run the dashboard on a path (or a target) with a script of keys."""
        target = Target(path) if isinstance(path, Path) else path
        app = Dashboard(Watcher(target, sample_machine=False), **settings)

        async def main() -> None:
            async with app.run_test(size=size) as pilot:
                read = app.watcher.first_read.is_set
                await self.until(lambda: read() and app.watcher.model.history >= 1.0, pilot, "first read")
                await self.until(lambda: app.refresher.rounds > 0, pilot, "a notice")
                await script(app, pilot)

        asyncio.run(main())
        return app

    def lines(self, app: Dashboard, panel: str) -> str:
        """What a panel shows, as plain text."""
        found = app.query_one(f"#{panel}")
        assert isinstance(found, LinesPanel | Chart)
        return "\n".join(map(plain, found.lines if isinstance(found, LinesPanel) else found.picture().lines))


@pytest.fixture
def desk() -> Desk:
    """Plays the dashboard with a script of keys."""
    return Desk()


#: ``ssh`` to the only machine that there is, whose home is ``$FAKE_HOME``.
FAKE_SSH = """#!/bin/sh
while [ "$1" != "--" ]; do shift; done
shift
[ "$1" = "me@box" ] || { echo "ssh: Could not resolve hostname $1" >&2; exit 255; }
shift
cd "$FAKE_HOME" && HOME="$FAKE_HOME" exec sh -c "$*"
"""


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of another machine, reached by the ``ssh`` that is found first."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(FAKE_SSH)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_HOME", str(home))
    return home

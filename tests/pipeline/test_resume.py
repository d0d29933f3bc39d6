"""A run killed again and again ends with the numbers of one that was left alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.config import RunConfig
from ensemw2s.sink import NullSink

_PRELOAD = [
    "ensemw2s.pipeline.run",
    "ensemw2s.models.finetune",
    "ensemw2s.models.scoring",
    "ensemw2s.report",
    "transformers",
]


class Killer(NullSink):
    """Kills its own process with SIGKILL at the n-th thing it hears of; 0 lives."""

    def __init__(self, at: int, counter: Path | None = None) -> None:
        self.at = at
        self.heard = 0
        self.counter = counter

    def _hear(self) -> None:
        self.heard += 1
        if self.heard == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.counter is not None:
            self.counter.write_text(str(self.heard))

    def event(self, kind: str, **fields: Any) -> None:
        self._hear()

    def metric(self, kind: str, **fields: Any) -> None:
        self._hear()

    def progress(self, task: str, done: int, total: int) -> None:
        self._hear()


def _run(config: RunConfig, folder: Path, at: int, counter: Path | None = None) -> None:
    from ensemw2s.pipeline.run import execute

    execute(config, folder, sink=Killer(at, counter))


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def _in_process(processes, *args) -> int:
    process = processes.Process(target=_run, args=args)
    process.start()
    process.join(timeout=240)
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize("checkpoint", [None, 5], ids=["plain", "trainer-checkpoints"])
def test_kill_anywhere_and_repeat(processes, tmp_path, mini_config, read_numbers, checkpoint):
    settings = {"boosting.rounds": 2, "arms.plain": False, "arms.students": ["single", "ensemble"]}
    if checkpoint is not None:
        for role in ("expert", "student"):
            settings[f"training.{role}.checkpoint_steps"] = checkpoint
    config = mini_config(**settings)
    calm = tmp_path / "calm"
    counter = tmp_path / "heard"
    assert _in_process(processes, config, calm, 0, counter) == 0
    heard = int(counter.read_text())
    hunted = tmp_path / "hunted"
    # Every start gets a little further than the last one before it is killed.
    kills = 0
    for at in [heard // 9 * k + k for k in range(1, 8)]:
        code = _in_process(processes, config, hunted, at)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        assert not (hunted / "results.json").exists()
    assert kills >= 4
    assert _in_process(processes, config, hunted, 0) == 0
    assert read_numbers(hunted) == read_numbers(calm)
    assert not list(hunted.rglob("*.partial"))

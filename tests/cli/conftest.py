from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.cli import main as cli_main
from ensemw2s.cli.terminal import terminal
from ensemw2s.config.dump import config_fingerprint
from ensemw2s.config.schema import RunConfig
from ensemw2s.evaluation.metrics import summarise
from ensemw2s.evaluation.results import Results
from ensemw2s.runs.directory import RunDirectory


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(autouse=True)
def plain_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty current directory, no settings from outside, a terminal of 80 columns, and default output."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("EW2S_") or name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(cli_main.signal, "signal", lambda *_: None)
    monkeypatch.setattr(terminal, "quiet", False)
    monkeypatch.setattr(terminal, "color", True)
    monkeypatch.setattr(terminal, "debug", False)


@pytest.fixture
def ew2s(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process."""

    def call(*words: object) -> Done:
        capsys.readouterr()
        code = cli_main.main([str(word) for word in words])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **(extra or {})}


@pytest.fixture
def process(tmp_path: Path) -> Command:
    """Runs the real console entry in a process of its own."""

    def call(*words: object, stdin: str = "", env: Mapping[str, str] | None = None) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "ensemw2s", *map(str, words)],
            input=stdin,
            cwd=tmp_path,
            env=child_environment(env),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return call


class FakePipeline:
    """Stands in for the pipeline: writes what a run leaves behind, and remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.fail: BaseException | None = None
        self.changed: list[str] = []

    def changed_inputs(self, config: RunConfig, run_dir: Path) -> list[str]:
        return self.changed

    def execute(self, config: RunConfig, run_dir: Path, *, sink: Any, until: str | None = None, **rest: Any) -> Any:
        self.calls.append({"config": config, "run_dir": run_dir, "until": until, **rest})
        run = RunDirectory.create(run_dir)
        with run.writing() as log:
            run.save_config(config, rest["provenance"], rest["preset"])
            mark = config_fingerprint(config)
            fields: dict[str, Any] = {"name": config.name, "seed": config.seed, "task": config.task}
            fields |= {"preset": rest["preset"], "config_fingerprint": mark, "resumed": False}
            log.event("run_started", **fields, versions={}, host="here")
            sink.event("run_started", **fields, versions={}, host="here")
            if self.fail is not None:
                raise self.fail
            if until is None:
                arm = {"test": summarise([True, False]), "hard_test": summarise([True, False, False])}
                results = Results(
                    name=config.name, seed=config.seed, task=config.task, config_fingerprint=mark, arms={"single": arm}
                )
                results.write(run.results_path)
                log.event(
                    "arm_result", arm="single", split="test", accuracy=0.5, low=0, high=1, n=2, token_accuracy=None
                )
            log.event("run_finished", seconds=0.1)
        return {"ensemble": "e"}

    def execute_seeds(self, config: RunConfig, root: Path, seeds: list[int], *, sink: Any, **rest: Any) -> Any:
        from ensemw2s.evaluation.over_seeds import aggregate
        from ensemw2s.sweeps.seeds import seed_directory

        for seed in seeds:
            self.execute(config.model_copy(update={"seed": seed}), root / f"seed-{seed}", sink=sink, **rest)
        found = aggregate([Results.read(root / f"seed-{seed}" / "results.json") for seed in seeds], config.name)
        found.write(root / "aggregate.json")
        assert seed_directory(root, 0) == root / "seed-0"
        return found.to_json()


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    import ensemw2s.pipeline.data
    import ensemw2s.pipeline.run
    import ensemw2s.sweeps.seeds

    fake = FakePipeline()
    monkeypatch.setattr(ensemw2s.pipeline.run, "execute", fake.execute)
    monkeypatch.setattr(ensemw2s.sweeps.seeds, "execute_seeds", fake.execute_seeds)
    monkeypatch.setattr(ensemw2s.pipeline.data, "changed_inputs", fake.changed_inputs)
    return fake

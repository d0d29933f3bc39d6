"""``training.report_to``: the trainer's trackers, where they are installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemw2s.config.training import ComputeConfig, ModelConfig, TrainingConfig
from ensemw2s.models.training.finetune import finetune
from ensemw2s.models.training.training_set import TrainingSet

CPU = ComputeConfig(device="cpu", threads=1)
Train = Callable[[str, str, Path], Path]


@pytest.fixture
def train(model_folders: list[Path]) -> Train:
    def call(tracker: str, tag: str, root: Path) -> Path:
        rng = np.random.default_rng(0)
        rows = [rng.integers(2, 30, size=6).astype(np.int32) for _ in range(8)]
        data = TrainingSet.from_sequences([row[:3] for row in rows], [row[3:] for row in rows], eos_id=1)
        settings = TrainingConfig(steps=4, batch_size=2, log_steps=2, report_to=[tracker])
        out = root / tag
        finetune(ModelConfig(path=str(model_folders[0])), data, settings, out, seed=0, compute=CPU, tag=tag)
        return out

    return call


def test_tensorboard_has_the_loss(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for tag in ("round-01", "round-02"):
        folder = train("tensorboard", tag, tmp_path)
        (log,) = (folder / "tensorboard").iterdir()
        events = EventAccumulator(str(log))
        events.Reload()
        losses = events.Scalars("train/loss")
        assert [loss.step for loss in losses] == [2, 4]
        assert all(loss.value > 0 for loss in losses)


@pytest.mark.filterwarnings("default")
def test_wandb_has_a_run_for_each_fine_tuning(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb: Any = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for tag in ("round-01", "round-02"):
        train("wandb", tag, tmp_path)
        assert wandb.run is None
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


@pytest.mark.filterwarnings("default")
def test_trackio_runs_are_called_by_their_stage(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    train("trackio", "round-01", tmp_path)
    assert "round-01" in capfd.readouterr().out

"""Fine-tuning that is interrupted, and what is in its folder meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fine_tuning import CPU, LIMIT, assert_equal, make_data, training, weights_of

from ensemw2s.config.training import LoraConfig, ModelConfig
from ensemw2s.models.training.finetune import finetune


class StopError(Exception):
    """Raised by a sink in the middle of a fine-tuning."""


class StoppingSink:
    def __init__(self, step: int) -> None:
        self.step = step

    def event(self, kind: str, **fields) -> None: ...

    def progress(self, task: str, done: int, total: int) -> None: ...

    def metric(self, kind: str, **fields) -> None:
        if fields["step"] >= self.step:
            raise StopError


@pytest.mark.parametrize("lora", [None, LoraConfig(r=2, dropout=0.3)])
def test_resuming_is_bit_identical(base: ModelConfig, tmp_path: Path, recorder, lora: LoraConfig | None) -> None:
    data = make_data()
    limit = LIMIT if lora is None else 0.01
    cfg = training(steps=9, log_steps=2, checkpoint_steps=3, lora=lora, max_grad_norm=limit)
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    whole = finetune(base, data, cfg, tmp_path / "whole", seed=2, compute=CPU)
    out = tmp_path / "interrupted"
    with pytest.raises(StopError):
        finetune(base, data, cfg, out, seed=2, compute=CPU, sink=StoppingSink(8))
    assert sorted(p.name for p in (out / "trainer").iterdir()) == ["checkpoint-3", "checkpoint-6"]
    (out / "trainer" / "checkpoint-7").mkdir()  # cut off while it was written
    resumed = finetune(base, data, cfg, out, seed=2, compute=CPU, sink=recorder)
    assert recorder.metrics[0]["step"] == 8
    assert_equal(weights_of(tmp_path / "whole", name), weights_of(out, name))
    assert (resumed.final_loss, resumed.tokens, resumed.steps) == (whole.final_loss, whole.tokens, whole.steps)
    assert resumed.clipped == whole.clipped > 0
    assert not (out / "trainer").exists()


#: Long enough for checkpoints at steps 3 and 6.
RESUMED = training(steps=9, log_steps=2, checkpoint_steps=3)


@pytest.mark.parametrize(("damaged", "first"), [([6], 3), ([3], 6), ([3, 6], 0)])
@pytest.mark.parametrize("kind", ["bit", "shorter", "missing", "marker"])
def test_a_damaged_checkpoint_is_named_and_not_continued(
    interrupted: Path,
    whole: Path,
    base: ModelConfig,
    tmp_path: Path,
    recorder,
    damaged: list[int],
    first: int,
    kind: str,
) -> None:
    out = Path(shutil.copytree(interrupted, tmp_path / "out"))
    files = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
    for step in damaged:
        folder = out / "trainer" / f"checkpoint-{step}"
        assert {*files, "complete.json"} <= {p.name for p in folder.iterdir()}
        file = folder / ("complete.json" if kind == "marker" else files[(step + len(kind)) % len(files)])
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 16
        file.write_bytes(data[: len(data) // 2] if kind == "shorter" else data)
        if kind == "missing":
            file.unlink()
    finetune(base, make_data(), RESUMED, out, seed=2, compute=CPU, sink=recorder)
    assert recorder.metrics[0]["step"] == first + 2 - first % 2
    told = [event["text"] for event in recorder.events if event["kind"] == "message"]
    assert sorted(text.split()[2] for text in told) == [f"checkpoint-{step}" for step in damaged]
    assert_equal(weights_of(whole), weights_of(out))


@pytest.fixture(scope="module")
def interrupted(model_folders: list[Path], tmp_path_factory) -> Path:
    """A fine-tuning with checkpoints at steps 3 and 6, killed at 8."""
    out = tmp_path_factory.mktemp("interrupted") / "model"
    with pytest.raises(StopError):
        finetune(
            ModelConfig(path=str(model_folders[0])),
            make_data(),
            RESUMED,
            out,
            seed=2,
            compute=CPU,
            sink=StoppingSink(8),
        )
    return out


@pytest.fixture(scope="module")
def whole(model_folders: list[Path], tmp_path_factory) -> Path:
    """The same, undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "model"
    finetune(ModelConfig(path=str(model_folders[0])), make_data(), RESUMED, out, seed=2, compute=CPU)
    return out


def test_a_checkpoint_of_another_fine_tuning_is_not_continued(base: ModelConfig, tmp_path: Path, recorder) -> None:
    cfg = training(checkpoint_steps=2)
    with pytest.raises(StopError):
        finetune(base, make_data(0), cfg, tmp_path / "a", seed=2, compute=CPU, sink=StoppingSink(4))
    finetune(base, make_data(1), cfg, tmp_path / "a", seed=2, compute=CPU, sink=recorder)
    assert recorder.metrics[0]["step"] == 2
    finetune(base, make_data(1), cfg, tmp_path / "b", seed=2, compute=CPU)
    assert_equal(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))


def test_files_of_a_tracker_outlive_the_trainer_folder(base: ModelConfig, tmp_path: Path) -> None:
    class Writing(StoppingSink):
        def metric(self, kind: str, **fields) -> None:
            file = tmp_path / "trainer" / "runs" / "host" / "events"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(fields["step"]))

    finetune(base, make_data(), training(), tmp_path, seed=0, compute=CPU, sink=Writing(0))
    assert (tmp_path / "tensorboard" / "host" / "events").read_text() == "6"
    assert not (tmp_path / "trainer").exists()

"""Early stopping of a fine-tuning: which weights stay, what it costs, and that an interrupted one gives the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fine_tuning import CPU, assert_equal, make_data, training, weights_of

from ensemw2s.config.training import LoraConfig, ModelConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.models.inference.scoring import score_split
from ensemw2s.models.loading.load import LoadedModel
from ensemw2s.models.training.early_stopping import Watch
from ensemw2s.models.training.finetune import draw_order, finetune
from ensemw2s.models.trunk.store import TrunkStore

#: Ten steps; by a look every other step and a patience of two it ends after step 8, and step 4 was the best.
AGREEMENT = {2: 0.3, 4: 0.6, 6: 0.6, 8: 0.5, 10: 0.9}


class Looks:
    """Given agreements. It runs the model all the same, and remembers its weights; at one step it is interrupted."""

    def __init__(self, given: dict[int, float], interrupted_at: int = 0) -> None:
        self.given = given
        self.interrupted_at = interrupted_at
        self.step = 0
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        rng = np.random.default_rng(1)
        self.enc = EncodedSplit(
            ids=["a", "b"], prompts=[np.array([3, 4], np.int32), np.array([5, 6, 7], np.int32)],
            options=[[rng.integers(2, 30, size=2).astype(np.int32) for _ in range(3)] for _ in range(2)],
            option_texts=[["x", "y", "z"]] * 2, answer_index=np.array([-1, -1]), eos_id=1, vocab_size=30, task="choice",
        )  # fmt: skip

    def __call__(self, loaded: LoadedModel) -> float:
        assert not loaded.model.training
        score_split(loaded, self.enc, compute=CPU)
        self.step = min(step for step in self.given if step > self.step)
        if self.step == self.interrupted_at:
            raise KeyboardInterrupt
        self.weights[self.step] = {name: w.detach().clone() for name, w in loaded.model.named_parameters()}
        return self.given[self.step]


def watch(looks: Looks, patience: int = 2) -> Watch:
    return Watch(every=2, patience=patience, agreement=looks, mark="held out")


def test_patience_ends_it_and_the_best_weights_stay(base: ModelConfig, tmp_path: Path, recorder) -> None:
    data, cfg = make_data(), training(steps=10, log_steps=100)
    looks = Looks(AGREEMENT)
    result = finetune(base, data, cfg, tmp_path, seed=3, watch=watch(looks), compute=CPU, sink=recorder)
    assert (result.steps, result.kept) == (8, 4)
    assert result.looks == ((2, 0.3), (4, 0.6), (6, 0.6), (8, 0.5))
    assert result.tokens == data.lengths[draw_order(data, cfg, 3)[: 8 * cfg.batch_size]].sum()
    assert result.final_loss == recorder.metrics[-1]["loss"]
    assert recorder.metrics[-1]["step"] == 8
    saved = weights_of(tmp_path)
    for name, weight in looks.weights[4].items():
        assert torch.equal(saved[name], weight), name
    assert any(not torch.equal(saved[name], weight) for name, weight in looks.weights[8].items())


@pytest.mark.parametrize(
    ("given", "patience"),
    [
        ({2: 0.9, 4: 0.1, 6: 0.1, 8: 0.1, 10: 0.1}, 5),
        ({2: 0.1, 4: 0.1, 6: 0.2, 8: 0.2, 10: 0.3}, 2),
        ({2: 0.0, 4: 0.0, 6: 0.0, 8: 0.1, 10: 0.0}, 2),
    ],
    ids=["patient", "rising", "nothing agrees yet"],
)
def test_a_training_that_is_not_ended_is_the_one_without(
    base: ModelConfig, tmp_path: Path, recorder, given: dict[int, float], patience: int
) -> None:
    data, cfg = make_data(), training(steps=10, log_steps=1)
    result = finetune(
        base, data, cfg, tmp_path / "watched", seed=3, watch=watch(Looks(given), patience), compute=CPU, sink=recorder
    )
    plain = finetune(base, data, cfg, tmp_path / "plain", seed=3, compute=CPU, sink=recorder)
    assert_equal(weights_of(tmp_path / "watched"), weights_of(tmp_path / "plain"))
    losses = [metric["loss"] for metric in recorder.metrics]
    assert losses[:10] == losses[10:]
    assert (result.steps, result.kept, result.tokens) == (plain.steps, plain.kept, plain.tokens)
    assert (len(result.looks), plain.looks) == (5, ())


def test_looks_from_kept_states_do_not_disturb_dropout(base: ModelConfig, tmp_path: Path) -> None:
    """A look reads through the trunk that the training itself starts from."""
    data, cfg = make_data(), training(steps=10, lora=LoraConfig(r=2, dropout=0.3, last_layers=1))
    store, looks = TrunkStore(tmp_path / "trunk", 10**9), Looks(AGREEMENT)

    def agreement(loaded: LoadedModel) -> float:
        score_split(loaded, looks.enc, compute=CPU, trunk=store)
        return looks(loaded)

    seen = Watch(every=2, patience=9, agreement=agreement, mark="held out")
    result = finetune(base, data, cfg, tmp_path / "watched", seed=3, watch=seen, compute=CPU, trunk=store)
    assert len(result.looks) == 5
    finetune(base, data, cfg, tmp_path / "plain", seed=3, compute=CPU, trunk=TrunkStore(tmp_path / "other", 10**9))
    name = "adapter_model.safetensors"
    assert_equal(weights_of(tmp_path / "watched", name), weights_of(tmp_path / "plain", name))


@pytest.mark.parametrize("lora", [None, LoraConfig(r=2, dropout=0.1)], ids=["full", "lora"])
@pytest.mark.parametrize("at", [4, 6, 8])
def test_an_interrupted_one_ends_the_same(base: ModelConfig, tmp_path: Path, lora: LoraConfig | None, at: int) -> None:
    """Interrupted before the best look, after it, and at the look that ends it; a checkpoint every third step."""
    data, cfg = make_data(), training(steps=10, lora=lora, checkpoint_steps=3)
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    whole = finetune(base, data, cfg, tmp_path / "whole", seed=3, watch=watch(Looks(AGREEMENT)), compute=CPU)
    looks = Looks(AGREEMENT, interrupted_at=at)
    with pytest.raises(KeyboardInterrupt):
        finetune(base, data, cfg, tmp_path / "cut", seed=3, watch=watch(looks), compute=CPU)
    checkpoint = (at - 1) // 3 * 3
    looks.interrupted_at, looks.step = 0, checkpoint // 2 * 2
    looks.weights.clear()
    again = finetune(base, data, cfg, tmp_path / "cut", seed=3, watch=watch(looks), compute=CPU)
    assert min(looks.weights) > checkpoint  # looks before the checkpoint were not taken again
    assert (again.steps, again.kept, again.looks, again.tokens) == (8, 4, whole.looks, whole.tokens)
    assert_equal(weights_of(tmp_path / "whole", name), weights_of(tmp_path / "cut", name))
    names = [{file.name for file in (tmp_path / folder).iterdir()} for folder in ("whole", "cut")]
    assert names[0] == names[1]


def test_a_checkpoint_belongs_to_its_watch(base: ModelConfig, tmp_path: Path) -> None:
    data, cfg = make_data(), training(steps=10, checkpoint_steps=3)
    with pytest.raises(KeyboardInterrupt):
        finetune(base, data, cfg, tmp_path, seed=3, watch=watch(Looks(AGREEMENT, interrupted_at=8)), compute=CPU)
    looks = Looks(AGREEMENT)
    result = finetune(base, data, cfg, tmp_path, seed=3, watch=watch(looks, patience=1), compute=CPU)
    assert (result.steps, result.kept) == (6, 4)
    assert min(looks.weights) == 2

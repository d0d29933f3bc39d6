"""Hidden states below the adapters that are computed once and kept."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from deep_models import DECODERS, DEPTH, deep_model, split_of
from fine_tuning import CPU, assert_close, assert_equal, make_data, training, weights_of

from ensemw2s.config.training import LoraConfig, ModelConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.models.forward import padded
from ensemw2s.models.inference.score_table import ScoreTable
from ensemw2s.models.inference.scoring import score_split
from ensemw2s.models.loading.layers import decoder_layers
from ensemw2s.models.loading.load import load_model
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.training.adapter import forbidden_layers, with_adapter
from ensemw2s.models.training.finetune import finetune
from ensemw2s.models.training.training_set import TrainingSet
from ensemw2s.models.trunk.injection import Trunk
from ensemw2s.models.trunk.kept import text_of
from ensemw2s.models.trunk.store import TrunkStore, bits_of, tensor_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
    pytest.mark.filterwarnings("ignore:The following .* keys did not match"),
]

ADAPTER = "adapter_model.safetensors"
PLENTY = 10**9
SOME = [kind if kind in ("gpt2", "gemma3") else pytest.param(kind, marks=pytest.mark.slow) for kind in DECODERS]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every text whose states are computed, trials left out."""
    from ensemw2s.models.trunk.kept import KeptTrunk

    tokens = []
    real = KeptTrunk._computed
    monkeypatch.setattr(KeptTrunk, "_computed", lambda self, text: tokens.append(text.length) or real(self, text))
    return tokens


def saved(kind: str, folder: Path, tokenizer: Any, **changes: Any) -> ModelConfig:
    with quiet_transformers():
        deep_model(kind, **changes).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return ModelConfig(path=str(folder))


def tuned(base: ModelConfig, out: Path, store: TrunkStore | None, **changes: Any) -> dict[str, torch.Tensor]:
    given = {key: changes.pop(key) for key in ("start", "data") if key in changes}
    count = changes.pop("last_layers", 2)
    cfg = training(**{"steps": 4, "lora": LoraConfig(r=2, last_layers=count), **changes})
    finetune(base, given.pop("data", make_data()), cfg, out, seed=0, compute=CPU, trunk=store, **given)
    return weights_of(out, ADAPTER)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", [*DECODERS, "falcon_h1", "mamba"])
def test_last_layers_on_given_states_are_the_whole_model(kind: str, depth: int) -> None:
    """A padded batch, its states from single texts: logits, and gradients of every adapter."""
    with quiet_transformers():
        base, lora = deep_model(kind), LoraConfig(r=2, last_layers=DEPTH - depth)
        model = with_adapter(base, lora, forbidden_layers(base), None, 0)
    for name, part in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(part, std=0.3)
    trunk = Trunk(model, decoder_layers(model)[1], depth)
    assert trunk.works()
    rng, lengths = np.random.default_rng(depth), (11, 3, 9)
    texts = [rng.integers(2, 30, size=length) for length in lengths]
    states = torch.zeros(len(texts), max(lengths), 16)
    for row, text in enumerate(texts):
        states[row, : len(text)] = trunk.states(text_of(model, text).inputs())[0]
    ids, mask = (torch.from_numpy(array) for array in padded(texts, 0))

    def outcome() -> list[torch.Tensor]:
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask).logits[mask == 1]
        logits.square().mean().backward()
        return [logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    expected = outcome()
    with trunk.given(states):
        found = outcome()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
    for one, other in zip(outcome(), expected, strict=True):  # and afterwards the model is as it was
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", SOME)
def test_training_on_kept_states_is_training_the_whole_model(
    kind: str, tmp_path: Path, tokenizer: Any, counted: list[int], recorder: Any
) -> None:
    base = saved(kind, tmp_path / "base", tokenizer)
    whole = tuned(base, tmp_path / "whole", None)
    assert not counted
    store = TrunkStore(tmp_path / "trunk", PLENTY, recorder)
    kept = tuned(base, tmp_path / "kept", store)
    assert_close(kept, whole)
    assert 0 < sum(counted) <= int(make_data().lengths.sum())
    assert "the hidden states that enter layer 3 are computed once" in str(recorder.events)
    counted.clear()
    assert_equal(tuned(base, tmp_path / "again", TrunkStore(tmp_path / "trunk", PLENTY)), kept)
    assert not counted


def scores_of(folder: Path, store: TrunkStore | None, split: EncodedSplit | None = None) -> ScoreTable:
    return score_split(load_model(ModelConfig(path=str(folder))), split or split_of(), compute=CPU, trunk=store)


def assert_same_scores(found: ScoreTable, expected: ScoreTable, tolerance: float = 1e-4) -> None:
    assert np.abs(found.target_logprob - expected.target_logprob).max() <= tolerance
    assert np.abs(found.topk_logprob - expected.topk_logprob).max() <= tolerance
    if not tolerance:
        assert (found.argmax == expected.argmax).all()


@pytest.mark.parametrize("kind", SOME)
def test_scores_from_kept_states_are_those_of_the_whole_model(
    kind: str, tmp_path: Path, tokenizer: Any, counted: list[int]
) -> None:
    windows = {"sliding_window": 32} if kind in ("gemma2", "gemma3", "mistral", "qwen2") else {}
    base = saved(kind, tmp_path / "base", tokenizer, **windows)
    tuned(base, tmp_path / "model", None, learning_rate=3e-2)
    whole = scores_of(tmp_path / "model", None)
    assert not counted
    kept = scores_of(tmp_path / "model", TrunkStore(tmp_path / "trunk", PLENTY))
    assert_same_scores(kept, whole)
    assert np.abs(whole.target_logprob - scores_of(tmp_path / "base", None).target_logprob).max() > 1e-2
    split = split_of()
    pieces = zip(split.prompts, split.options, strict=True)
    rows = [len(prompt) + sum(map(len, options)) for prompt, options in pieces if kind != "bloom" or len(options) == 1]
    assert sorted(counted) == sorted(rows)  # bloom reads prompts with several options through its cache
    counted.clear()
    assert_same_scores(scores_of(tmp_path / "model", TrunkStore(tmp_path / "trunk", PLENTY)), kept, 0.0)
    assert not counted


def test_prompts_that_are_read_through_the_cache_run_the_whole_model(
    tmp_path: Path, tokenizer: Any, counted: list[int]
) -> None:
    base = saved("mistral", tmp_path / "base", tokenizer)  # its windows are shorter than the rows
    tuned(base, tmp_path / "model", None, learning_rate=3e-2)
    kept = scores_of(tmp_path / "model", TrunkStore(tmp_path / "trunk", PLENTY))
    assert 0 < len(counted) < len(split_of().prompts)
    assert_same_scores(kept, scores_of(tmp_path / "model", None))


def test_what_is_kept_changes_no_bit(tmp_path: Path, tokenizer: Any, recorder: Any) -> None:
    base = saved("llama", tmp_path / "base", tokenizer)
    results = []
    for name, limit in (("all", PLENTY), ("none", 0), ("some", 4000)):
        store = TrunkStore(tmp_path / name, limit, recorder)
        weights = tuned(base, tmp_path / f"{name}-model", store)
        results.append((weights, scores_of(tmp_path / "all-model", store)))
        size = sum(file.stat().st_size for file in (tmp_path / name).rglob("*.*"))
        assert min(limit, 1000) <= size <= limit, name
    (said,) = [event["text"] for event in recorder.of("message") if "reached" in event["text"]]
    assert said.startswith("Kept hidden states reached compute.trunk_cache_gb, 4e-06; those of other texts")
    for weights, table in results[1:]:
        assert_equal(weights, results[0][0])
        assert_same_scores(table, results[0][1], 0.0)


def test_other_orders_of_asking_change_no_bit(tmp_path: Path, tokenizer: Any) -> None:
    base = saved("llama", tmp_path / "base", tokenizer)
    first, second = (TrunkStore(tmp_path / name, PLENTY) for name in ("1", "2"))
    a, b = make_data(1), make_data(2)
    forwards = [tuned(base, tmp_path / f"f{i}", first, data=data) for i, data in enumerate((a, b))]
    backwards = [tuned(base, tmp_path / f"b{i}", second, data=data) for i, data in enumerate((b, a))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert_equal(one, other)


def test_training_and_scoring_share_their_texts(tmp_path: Path, tokenizer: Any, counted: list[int]) -> None:
    base = saved("llama", tmp_path / "base", tokenizer)
    split = split_of(n=6)
    answers = [[options[answer]] for options, answer in zip(split.options, split.answer_index, strict=True)]
    alone = replace(split, options=answers, option_texts=[["?"]] * 6, answer_index=np.zeros(6, dtype=np.int64))
    store = TrunkStore(tmp_path / "trunk", PLENTY)
    tuned(base, tmp_path / "model", store, data=TrainingSet.from_encoded(alone))
    assert len(counted) == 6
    scores_of(tmp_path / "model", store, alone)
    assert len(counted) == 6
    tuned(base, tmp_path / "other", store, data=TrainingSet.from_encoded(alone), learning_rate=1e-2)
    assert len(counted) == 6
    tuned(base, tmp_path / "fewer", store, data=TrainingSet.from_encoded(alone), last_layers=1)  # another trunk
    assert len(counted) == 12


def test_other_weights_have_other_states(tmp_path: Path, tokenizer: Any, counted: list[int]) -> None:
    store, found = TrunkStore(tmp_path / "trunk", PLENTY), []
    for seed in range(2):
        folder = tmp_path / f"base{seed}"
        with quiet_transformers():
            deep_model("llama", seed).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        base = ModelConfig(path=str(folder))
        found.append(tuned(base, tmp_path / f"kept{seed}", store))
        assert_close(found[-1], tuned(base, tmp_path / f"whole{seed}", None))
    assert len(store.folders) == 2
    assert len(counted) == 2 * len(set(counted)) or len(counted) % 2 == 0


def test_resuming_is_bit_identical(tmp_path: Path, tokenizer: Any, recorder: Any) -> None:
    base = saved("llama", tmp_path / "base", tokenizer)

    def run(out: Path, name: str, sink: Any) -> None:
        cfg = training(steps=6, lora=LoraConfig(r=2, last_layers=2, dropout=0.2), checkpoint_steps=2, log_steps=1)
        store = TrunkStore(tmp_path / name, PLENTY)
        finetune(base, make_data(), cfg, out, seed=0, compute=CPU, sink=sink, trunk=store)

    class Killed(type(recorder)):
        def metric(self, kind: str, **fields: Any) -> None:
            if fields["step"] == 5:
                raise KeyboardInterrupt

    run(tmp_path / "whole", "trunk", recorder)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", "other", Killed())
    assert (tmp_path / "cut" / "trainer").is_dir()
    shutil.rmtree(tmp_path / "other")
    run(tmp_path / "cut", "other", recorder)
    assert_equal(weights_of(tmp_path / "cut", ADAPTER), weights_of(tmp_path / "whole", ADAPTER))


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"gradient_accumulation": 2}, {"soft": True}])
def test_other_ways_of_training(tmp_path: Path, tokenizer: Any, counted: list[int], changes: dict[str, Any]) -> None:
    base = saved("llama", tmp_path / "base", tokenizer)
    data = make_data(soft=changes.pop("soft", False))
    whole = tuned(base, tmp_path / "whole", None, data=data)
    kept = tuned(base, tmp_path / "kept", TrunkStore(tmp_path / "trunk", PLENTY), data=data, **changes)
    assert counted
    assert_close(kept, whole)


def test_going_on_from_an_adapter(tmp_path: Path, tokenizer: Any, counted: list[int]) -> None:
    base, store = saved("llama", tmp_path / "base", tokenizer), TrunkStore(tmp_path / "trunk", PLENTY)
    tuned(base, tmp_path / "first", store)
    computed = len(counted)
    kept = tuned(base, tmp_path / "kept", store, start=tmp_path / "first", learning_rate=2e-3)
    assert len(counted) == computed
    assert_close(kept, tuned(base, tmp_path / "whole", None, start=tmp_path / "first", learning_rate=2e-3))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_types(tmp_path: Path, dtype: str) -> None:
    model = deep_model("llama").to(getattr(torch, dtype))
    layers = decoder_layers(model)[1]
    assert Trunk(model, layers, 2).works()
    states = torch.randn(3, 4).to(getattr(torch, dtype))
    assert torch.equal(tensor_of(bits_of(states).copy(), states.dtype), states)


def test_half_precision_is_kept_in_half_precision(tmp_path: Path, tokenizer: Any, counted: list[int]) -> None:
    base = saved("llama", tmp_path / "base", tokenizer).model_copy(update={"dtype": "bfloat16"})
    store = TrunkStore(tmp_path / "trunk", PLENTY)
    whole, kept = tuned(base, tmp_path / "whole", None), tuned(base, tmp_path / "kept", store)
    (folder,) = store.folders.values()
    assert folder.dtype == torch.bfloat16
    for name in kept:
        scale = float(whole[name].abs().max())
        assert float((kept[name] - whole[name]).abs().mean()) < 0.1 * scale
    tables = [
        score_split(
            load_model(ModelConfig(path=str(tmp_path / "kept"), dtype="bfloat16")), split_of(), compute=CPU, trunk=each
        )
        for each in (None, store)
    ]
    assert counted
    assert_same_scores(*tables, 0.15)


def remembers(model: Any) -> Any:
    """Let the last layer add what the first one has seen: no hidden state passes it on."""
    layers = decoder_layers(model)[1]
    seen = []
    first, last = layers[0].forward, layers[-1].forward
    layers[0].forward = lambda states, *args, **kwargs: seen.append(states) or first(states, *args, **kwargs)
    layers[-1].forward = lambda states, *args, **kwargs: last(states + 0.2 * seen[-1], *args, **kwargs)
    return model


def twice(model: Any) -> Any:
    """Let the first layer run twice."""
    layers = decoder_layers(model)[1]
    layers[1].forward = lambda states, *args, **kwargs: layers[0](states, *args, **kwargs)
    return model


def looks_ahead(model: Any) -> Any:
    """Let the first layer mix a batch's rows."""
    layers = decoder_layers(model)[1]
    first = layers[0].forward
    layers[0].forward = lambda states, *args, **kwargs: first(states + states.mean(dim=0), *args, **kwargs)
    return model


@pytest.mark.parametrize("spoil", [remembers, twice, looks_ahead])
def test_a_model_that_cannot_be_cut_there_runs_whole(
    spoil: Any, tokenizer: Any, tmp_path: Path, recorder: Any, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = deep_model("llama")
    assert Trunk(model, decoder_layers(model)[1], 2).works()
    spoil(model)
    assert not Trunk(model, decoder_layers(model)[1], 2).works()
    base = saved("llama", tmp_path / "base", tokenizer)
    real = transformers.AutoModelForCausalLM.from_pretrained

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        found, info = real(*args, **kwargs)
        return spoil(found), info

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", spoiled)
    whole = tuned(base, tmp_path / "whole", None)
    store = TrunkStore(tmp_path / "trunk", PLENTY, recorder)
    assert_equal(tuned(base, tmp_path / "kept", store), whole)
    tuned(base, tmp_path / "again", store)
    (message,) = recorder.of("message")
    assert message["text"].startswith("LlamaForCausalLM with 4 layers: its last 2 layers on kept hidden states do not")
    assert not counted
    assert not (tmp_path / "trunk").exists()


def test_positions_that_depend_on_the_length_run_the_whole_model(
    tmp_path: Path, tokenizer: Any, recorder: Any, counted: list[int]
) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    base = saved("llama", tmp_path / "base", tokenizer, rope_parameters=rope, max_position_embeddings=16)
    tuned(base, tmp_path / "out", TrunkStore(tmp_path / "trunk", PLENTY, recorder))
    assert "the whole model runs" in recorder.of("message")[0]["text"]
    assert not counted


@pytest.mark.parametrize("change", ["flip", "cut", "index", "lost", "link"])
def test_damaged_files_are_made_again(
    change: str, tmp_path: Path, tokenizer: Any, counted: list[int], recorder: Any
) -> None:
    base = saved("llama", tmp_path / "base", tokenizer)
    kept = tuned(base, tmp_path / "1", TrunkStore(tmp_path / "trunk", PLENTY))
    (states,) = (tmp_path / "trunk").rglob("*.npy")
    index, content = states.with_suffix(".json"), bytearray(states.read_bytes())
    if change == "flip":
        content[-3] ^= 1
        states.write_bytes(content)
    elif change == "cut":
        states.write_bytes(content[:-8])
    elif change == "index":
        index.write_text(index.read_text().replace("float32", "float64"))
    elif change == "lost":
        states.unlink()
    else:
        states.rename(tmp_path / "elsewhere.npy")
        states.symlink_to(tmp_path / "elsewhere.npy")
    computed = len(counted)
    assert_equal(tuned(base, tmp_path / "2", TrunkStore(tmp_path / "trunk", PLENTY, recorder)), kept)
    assert len(counted) == 2 * computed
    assert any("cannot be used and are computed again" in event["text"] for event in recorder.of("message"))
    tuned(base, tmp_path / "3", TrunkStore(tmp_path / "trunk", PLENTY))
    assert len(counted) == 2 * computed
    if change == "link":
        assert (tmp_path / "elsewhere.npy").read_bytes() == bytes(content)


def test_a_full_disk_ends_the_keeping_not_the_run(
    tmp_path: Path, tokenizer: Any, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = saved("llama", tmp_path / "base", tokenizer)
    kept = tuned(base, tmp_path / "1", TrunkStore(tmp_path / "trunk", PLENTY))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert_equal(tuned(base, tmp_path / "2", TrunkStore(tmp_path / "full", PLENTY, recorder)), kept)
    assert not [file for file in (tmp_path / "full").rglob("*") if file.is_file()]
    assert [event["text"].partition(";")[0] for event in recorder.of("message")][1:] == [
        "Kept hidden states reached the end of the disk"
    ]

"""Adapters in a model's last layers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from deep_models import DECODERS, DEPTH, deep_model
from fine_tuning import CPU, assert_equal, make_data, training, weights_of

from ensemw2s.config.training import LoraConfig, ModelConfig, TrainingConfig
from ensemw2s.errors import ConfigError
from ensemw2s.models.loading.layers import decoder_layers, untouched_layers
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.training.adapter import with_adapter
from ensemw2s.models.training.finetune import finetune

pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
    pytest.mark.filterwarnings("ignore:The following .* keys did not match"),
]

IDS = torch.arange(2, 26).reshape(2, 12)


def adapted(kind: str, count: int, **changes: Any) -> Any:
    with quiet_transformers():
        return with_adapter(deep_model(kind, **changes), LoraConfig(r=2, last_layers=count), [], None, 7)


def saved(kind: str, folder: Path, tokenizer: Any, **changes: Any) -> ModelConfig:
    with quiet_transformers():
        deep_model(kind, **changes).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return ModelConfig(path=str(folder))


@pytest.mark.parametrize("kind", DECODERS)
def test_adapters_are_those_of_all_layers_but_in_the_last_only(kind: str) -> None:
    model, everywhere = adapted(kind, 1), deep_model(kind)
    name, layers = decoder_layers(model)
    settings = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    with quiet_transformers():
        everywhere = peft.get_peft_model(everywhere, settings)
    last = f"base_model.model.{name}.{len(layers) - 1}."
    wanted = {n for n, p in everywhere.named_parameters() if p.requires_grad and n.startswith(last)}
    if kind == "mixtral":  # PEFT targets the parameters of its experts, which are in no linear modules
        wanted = {n for n in wanted if ".mlp." not in n}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == wanted != set()
    assert untouched_layers(model) == DEPTH - 1
    assert untouched_layers(everywhere) == untouched_layers(deep_model(kind)) == 0


def test_nothing_below_needs_gradients_or_draws_dropout() -> None:
    model = adapted("gpt2", 2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    layers = decoder_layers(model)[1]
    seen = []
    layers[DEPTH - 2].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    model.eval()(input_ids=IDS)
    model.train()
    loss = model(input_ids=IDS).logits.square().mean()
    assert not model(input_ids=IDS).logits.square().mean().equal(loss)  # the last layers draw their dropout
    assert all(torch.equal(states, seen[0]) and not states.requires_grad for states in seen)
    loss.backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("XGLM", {"d_model": 16, "num_layers": 4, "attention_heads": 2, "dropout": 0.5}),
        ("OPT", {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "layerdrop": 0.9}),
    ],
)
def test_code_around_the_layers_drops_nothing(kind: str, settings: dict[str, Any]) -> None:
    """Some models drop embeddings, or whole layers, in the code that calls the layers."""
    config = getattr(transformers, f"{kind}Config")(vocab_size=30, ffn_dim=32, **settings)
    with quiet_transformers():
        base = getattr(transformers, f"{kind}ForCausalLM")(config)
        model = with_adapter(base, LoraConfig(last_layers=1), [], None, 0)
    seen: list[torch.Tensor] = []
    last = decoder_layers(model)[1][-1]
    last.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    for mode in (False, True, True, True):
        model.train(mode)(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False)
        assert all(part.training == mode for part in last.modules())
    assert len(seen) == 4
    assert all(torch.equal(states, seen[0]) for states in seen)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_leaves_the_rest_without_gradients(
    tmp_path: Path, tokenizer: Any, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = saved("llama", tmp_path / "base", tokenizer)
    reached = []
    real = torch.nn.Embedding.forward

    def spy(self: Any, ids: Any) -> Any:
        out = real(self, ids)
        out.register_hook(reached.append) if out.requires_grad else None
        return out

    monkeypatch.setattr(torch.nn.Embedding, "forward", spy)
    cfg = training(steps=3, lora=LoraConfig(r=2, last_layers=1), gradient_checkpointing=checkpointing)
    finetune(base, make_data(), cfg, tmp_path / "out", seed=0, compute=CPU)
    assert not reached
    plain = cfg.model_copy(update={"gradient_checkpointing": False})
    finetune(base, make_data(), plain, tmp_path / "plain", seed=0, compute=CPU)
    name = "adapter_model.safetensors"
    for found, expected in zip(*(weights_of(tmp_path / f, name).values() for f in ("out", "plain")), strict=True):
        torch.testing.assert_close(found, expected)


def test_as_many_as_there_are_is_all_of_them(tmp_path: Path, tokenizer: Any) -> None:
    base = saved("llama", tmp_path / "base", tokenizer)
    for count in (DEPTH, None):
        cfg = training(steps=3, lora=LoraConfig(r=2, last_layers=count))
        finetune(base, make_data(), cfg, tmp_path / str(count), seed=0, compute=CPU)
    name = "adapter_model.safetensors"
    assert_equal(weights_of(tmp_path / str(DEPTH), name), weights_of(tmp_path / "None", name))


def test_named_modules(tmp_path: Path, tokenizer: Any) -> None:
    base = saved("llama", tmp_path / "base", tokenizer)
    cfg = training(steps=2, lora=LoraConfig(r=2, last_layers=2, target_modules=["q_proj", "down_proj"]))
    finetune(base, make_data(), cfg, tmp_path / "out", seed=0, compute=CPU)
    names = {name.split(".lora_")[0] for name in weights_of(tmp_path / "out", "adapter_model.safetensors")}
    layers = [f"base_model.model.model.layers.{i}." for i in (2, 3)]
    assert names == {f"{layer}{part}" for layer in layers for part in ("self_attn.q_proj", "mlp.down_proj")}


def test_more_than_there_are(tmp_path: Path, tokenizer: Any) -> None:
    base = saved("llama", tmp_path / "base", tokenizer)
    with pytest.raises(ConfigError, match=r"last_layers is 5, but the model has 4 layers") as error:
        finetune(base, make_data(), training(lora=LoraConfig(last_layers=5)), tmp_path / "x", seed=0, compute=CPU)
    assert error.value.hint == "Use at most 4, or null for all."


def test_a_pattern_names_no_layers() -> None:
    with pytest.raises(ValueError, match="last_layers needs target_modules: all-linear, or a list of names"):
        LoraConfig(last_layers=2, target_modules=r".*_proj")
    assert LoraConfig(last_layers=2, target_modules="All-Linear").all_linear


def test_without_it_what_was_trained_before_is_the_same_still() -> None:
    before = {"r": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"}
    assert TrainingConfig(lora=LoraConfig()).decisive()["lora"] == before
    assert TrainingConfig(lora=LoraConfig(last_layers=3)).decisive()["lora"] == before | {"last_layers": 3}
    assert TrainingConfig().decisive()["lora"] is None

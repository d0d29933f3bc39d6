"""The ensemble as a model of transformers: what it computes and how it generates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.special import logsumexp

from ensemw2s.config.method import CombineConfig, DecodingConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.ensemble import Ensemble, EnsembleForCausalLM
from ensemw2s.ensemble.hf.caches import EnsembleCache, StackedCache
from ensemw2s.ensemble.hf.members import batchable
from ensemw2s.models.loading.adapters import load_models

CPU = ComputeConfig(device="cpu", threads=1)
Make = Callable[..., Any]


def random_ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, 30, (rows, length), generator=torch.Generator().manual_seed(seed))


def left_padded(ids: torch.Tensor, pads: list[int]) -> dict[str, torch.Tensor]:
    """The rows without their first tokens, which become padding."""
    mask = torch.ones_like(ids)
    ids = ids.clone()
    for row, count in enumerate(pads):
        mask[row, :count] = 0
        ids[row, :count] = 0
    return {"input_ids": ids, "attention_mask": mask}


GREEDY: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}


@pytest.mark.parametrize("rule", ["mixture", "product"])
@pytest.mark.parametrize("copies", [1, 3])
def test_copies_of_one_expert_are_that_expert(make_model: Make, rule: str, copies: int) -> None:
    expert = make_model(0)
    model = EnsembleForCausalLM.from_experts(
        [copy.deepcopy(expert) for _ in range(copies)], [0.5, 2.0, 1.0][:copies], rule=rule
    )
    ids = random_ids(3, 9)
    torch.testing.assert_close(model(ids).logits, expert(ids).logits.log_softmax(-1), rtol=0, atol=2e-6)
    inputs = left_padded(ids, [4, 0, 2])
    expected = expert.generate(**inputs, max_new_tokens=12, **GREEDY)
    assert torch.equal(model.generate(**inputs, max_new_tokens=12, **GREEDY), expected)
    expected = expert.generate(**inputs, max_new_tokens=12, num_beams=4, **GREEDY)
    assert torch.equal(model.generate(**inputs, max_new_tokens=12, num_beams=4, **GREEDY), expected)


def test_logits_are_the_log_probabilities_of_the_rule(make_model: Make) -> None:
    experts = [make_model(seed) for seed in range(3)]
    alphas = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    ids = random_ids(2, 7)
    logs = torch.stack([e(ids).logits.double().log_softmax(-1) for e in experts]).detach()
    share = alphas / alphas.sum()
    mixture = torch.from_numpy(logsumexp(logs.numpy(), axis=0, b=share[:, None, None, None].numpy()))
    product = (share[:, None, None, None] * logs).sum(0).log_softmax(-1)
    for rule, expected in (("mixture", mixture), ("product", product)):
        found = EnsembleForCausalLM.from_experts(experts, alphas.tolist(), rule=rule)(ids).logits
        torch.testing.assert_close(found, expected.float(), rtol=0, atol=2e-6)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 7), rtol=0, atol=1e-5)
    votes = EnsembleForCausalLM.from_experts(experts, alphas.tolist(), rule="vote")(ids).logits
    assert torch.equal(votes.argmax(-1), logs[2].argmax(-1))  # four fifths of ᾱ
    assert torch.isneginf(votes).sum() > 0


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
def test_greedy_generation_is_that_of_the_ensemble_on_disk(model_folders: list[Path], rule: Any) -> None:
    ensemble = Ensemble(
        experts=model_folders,
        alphas=[1.0, 2.0, 0.5],
        task="generate",
        config=CombineConfig(rule=rule),
        decoding=DecodingConfig(max_new_tokens=14),
        compute=CPU,
    )
    prompts = ["abc", "0123456789", "x", "a+b=c?", "hello"]
    expected = [row["token_ids"] for row in ensemble.generate(prompts)]
    model = ensemble.causal_lm()
    tokenizer = ensemble.load_experts()[0].tokenizer
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    texts = [ensemble.template.prompt.format(prompt=prompt) for prompt in prompts]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    out = model.generate(**inputs, max_new_tokens=14, do_sample=False, pad_token_id=0)[
        :, inputs["input_ids"].shape[1] :
    ]
    for tokens, row in zip(expected, out.tolist(), strict=True):
        assert row[: len(tokens)] == tokens
        assert len(tokens) == 14 or row[len(tokens)] == 1


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "gemma2", "mamba"])
def test_generation_with_and_without_caches(make_model: Make, kind: str) -> None:
    model = EnsembleForCausalLM.from_experts([make_model(seed, kind) for seed in range(2)], [1.0, 0.7])
    assert model.stateful == (kind == "mamba")
    ids = random_ids(2, 6)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for options in ({}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}):
        cached = model.generate(**inputs, max_new_tokens=10, **GREEDY, **options)
        plain = model.generate(**inputs, max_new_tokens=10, use_cache=False, **GREEDY, **options)
        assert torch.equal(cached, plain)


def test_sampling_follows_the_combined_distribution(make_model: Make) -> None:
    model = EnsembleForCausalLM.from_experts([make_model(seed) for seed in range(2)], [1.0, 1.0])
    ids = random_ids(1, 5)
    torch.manual_seed(0)
    many = {"input_ids": ids.repeat(4000, 1), "attention_mask": torch.ones(4000, 5, dtype=torch.long)}
    drawn = model.generate(**many, max_new_tokens=1, do_sample=True, top_k=0, pad_token_id=0)[:, -1]
    expected = model(ids).logits[0, -1].exp()
    counts = torch.bincount(drawn, minlength=30) / 4000
    assert float((counts - expected).abs().max()) < 0.03
    torch.manual_seed(0)
    again = model.generate(**many, max_new_tokens=1, do_sample=True, top_k=0, pad_token_id=0)[:, -1]
    assert torch.equal(drawn, again)


def test_a_cache_continues_where_it_was(make_model: Make) -> None:
    model = EnsembleForCausalLM.from_experts([make_model(seed) for seed in range(2)], [1.0, 0.0])
    ids = random_ids(2, 8)
    whole = model(ids, use_cache=False)
    assert whole.past_key_values is None
    first = model(ids[:, :5])
    assert isinstance(first.past_key_values, EnsembleCache)
    assert len(first.past_key_values.parts) == 1  # an expert of weight 0 does not run
    second = model(ids[:, 5:], past_key_values=first.past_key_values)
    joined = torch.cat([first.logits, second.logits], dim=1)
    torch.testing.assert_close(joined, whole.logits, rtol=0, atol=1e-5)
    assert second.past_key_values.get_seq_length() == 8
    assert torch.equal(model(ids, logits_to_keep=2).logits, model(ids).logits[:, -2:])
    assert torch.equal(model(ids, logits_to_keep=torch.tensor([0, 3])).logits, model(ids).logits[:, [0, 3]])
    assert isinstance(model(ids, return_dict=False), tuple)


def test_the_loss_is_the_mean_negative_log_probability(make_model: Make) -> None:
    model = EnsembleForCausalLM.from_experts([make_model(seed) for seed in range(2)], [1.0, 2.0])
    ids = random_ids(2, 8)
    labels = ids.clone()
    labels[:, :3] = -100
    found = model(ids, labels=labels)
    rows = found.logits[:, 2:-1].gather(-1, ids[:, 3:, None])
    torch.testing.assert_close(found.loss, -rows.mean())
    assert not found.logits.requires_grad


def test_what_it_refuses(make_model: Make) -> None:
    from transformers import DynamicCache

    model = EnsembleForCausalLM.from_experts([make_model(0)], [1.0])
    ids = random_ids(1, 4)
    with pytest.raises(ValueError, match="EnsembleCache"):
        model(ids, past_key_values=DynamicCache())
    with pytest.raises(ValueError, match="embeddings of their own"):
        model(inputs_embeds=torch.zeros(1, 4, 16))
    with pytest.raises(ValueError, match="static cache"):
        model.generate(ids, max_new_tokens=2, cache_implementation="static", pad_token_id=0)
    with pytest.raises(ValueError, match="1 experts, but 2 weights"):
        EnsembleForCausalLM.from_experts([make_model(0)], [1.0, 1.0])
    other = make_model(0)
    other.resize_token_embeddings(40)
    with pytest.raises(ValueError, match=r"share a vocabulary; these have \[30, 40\]"):
        EnsembleForCausalLM.from_experts([make_model(0), other], [1.0, 1.0])


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 4}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True}]
)
def test_adapters_in_one_batch_say_what_they_say_in_turn(adapter_folders: Any, options: dict[str, Any]) -> None:
    experts = [loaded.model for loaded in load_models([ModelConfig(path=str(f)) for f in adapter_folders.adapters])]
    model = EnsembleForCausalLM.from_experts(experts, [1.0, 0.0, 2.0])
    inputs = left_padded(random_ids(3, 8), [3, 0, 1])
    answers = []
    for together in (True, False):
        model._as_one_batch = together
        assert isinstance(model.new_cache(), StackedCache) == together
        torch.manual_seed(5)
        answers.append(model.generate(**inputs, max_new_tokens=12, **{**GREEDY, **options}))
    assert torch.equal(*answers)


def test_a_stacked_cache_keeps_the_experts_apart(adapter_folders: Any) -> None:
    experts = [loaded.model for loaded in load_models([ModelConfig(path=str(f)) for f in adapter_folders.adapters])]
    model = EnsembleForCausalLM.from_experts(experts, [1.0, 1.0, 2.0])
    ids = random_ids(3, 8)
    whole = model(ids, use_cache=False).logits
    cache = model.new_cache()
    assert cache.batch_size == -1
    first = model(ids[:, :5], past_key_values=cache)
    torch.testing.assert_close(first.logits, whole[:, :5], rtol=0, atol=1e-5)
    assert cache.batch_size == 3
    cache.batch_select_indices(torch.tensor([2, 0]))
    assert cache.batch_size == 2
    second = model(ids[[2, 0], 5:], past_key_values=cache)
    torch.testing.assert_close(second.logits, whole[[2, 0], 5:], rtol=0, atol=1e-5)


def test_adapters_of_another_kind_run_in_turn(adapter_folders: Any) -> None:
    experts = [loaded.model for loaded in load_models([ModelConfig(path=str(f)) for f in adapter_folders.adapters])]
    assert batchable(experts)
    assert not batchable(experts[:1])
    assert not batchable([experts[0], experts[0].shared])
    experts[0].shared.peft_config[experts[1].name].use_dora = True
    assert not batchable(experts)

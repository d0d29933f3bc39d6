from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.errors import ModelError
from ensemw2s.models.inference.joint_scoring import score_joint, score_joint_each, sequence_rows
from ensemw2s.models.inference.scoring import score_split
from ensemw2s.models.loading.load import LoadedModel, load_model

CPU = ComputeConfig(device="cpu")
VOCABULARY = 30
ALPHAS = [2.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def experts(model_folders: list[Path]) -> list[LoadedModel]:
    return [load_model(ModelConfig(path=str(folder))) for folder in model_folders]


@pytest.fixture(scope="module")
def split() -> EncodedSplit:
    rng = np.random.default_rng(1)
    options = [
        [rng.integers(2, VOCABULARY, size=rng.integers(1, 5)).astype(np.int32) for _ in range(3)] for _ in range(6)
    ]
    return EncodedSplit(
        ids=[f"e{i}" for i in range(6)],
        prompts=[rng.integers(2, VOCABULARY, size=rng.integers(1, 9)).astype(np.int32) for _ in range(6)],
        options=options,
        option_texts=[["?"] * 3 for _ in options],
        answer_index=rng.integers(0, 3, size=6),
        eos_id=1,
        vocab_size=VOCABULARY,
        task="choice",
    )


def expert_logprobs(experts: list[LoadedModel], split: EncodedSplit) -> np.ndarray:
    """float64 ``[K, rows, V]``, one sequence at a time."""
    out = []
    for expert in experts:
        parts = []
        for e, o in zip(split.seq_example, split.seq_option, strict=True):
            ids = np.concatenate([split.prompts[e], split.options[e][o]]).astype(np.int64)
            with torch.no_grad():
                logits = expert.model(input_ids=torch.from_numpy(ids)[None]).logits[0, len(split.prompts[e]) - 1 :]
            parts.append(logits.double().log_softmax(-1).numpy())
        out.append(np.concatenate(parts))
    return np.stack(out)


def reference(logp: np.ndarray, alphas: list[float], rule: str) -> np.ndarray:
    """Combined log-probabilities in float64, straight from the definitions."""
    a = np.array(alphas) / np.sum(alphas)
    mixture = np.log(np.einsum("k,krv->rv", a, np.exp(logp)))
    if rule == "mixture":
        return mixture
    if rule == "product":
        total = np.einsum("k,krv->rv", a, logp)
        return total - np.log(np.exp(total).sum(axis=1, keepdims=True))
    votes = np.zeros_like(mixture)
    for k, weight in enumerate(a):
        votes[np.arange(len(votes)), logp[k].argmax(axis=1)] += weight
    with np.errstate(divide="ignore"):
        return np.log(votes)


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
@pytest.mark.parametrize("batch_tokens", [64, 16384])
def test_against_float64(experts, split: EncodedSplit, rule: str, batch_tokens: int, recorder) -> None:
    rows = sequence_rows(split, np.array([4, 0, 17, 9]))
    compute = ComputeConfig(device="cpu", batch_tokens=batch_tokens)
    got = score_joint(experts, ALPHAS, split, rows, rule=rule, top_k=2, compute=compute, sink=recorder, tag="j")
    expected = reference(expert_logprobs(experts, split), ALPHAS, rule)[rows]
    np.testing.assert_array_equal(got.rows, rows)
    np.testing.assert_allclose(got.target_logprob, expected[np.arange(len(rows)), split.row_tokens[rows]], atol=5e-5)
    np.testing.assert_array_equal(got.argmax, expected.argmax(axis=1))
    np.testing.assert_array_equal(got.topk_ids[:, 0], got.argmax)
    np.testing.assert_allclose(got.topk_logprob[:, 0], expected.max(axis=1), atol=5e-5)
    assert recorder.steps[-1] == ("j", 4, 4)


def test_rows_in_any_order_and_repeated(experts, split: EncodedSplit) -> None:
    rows = np.array([11, 3, 11, 0, split.n_rows - 1])
    got = score_joint(experts, ALPHAS, split, rows, compute=CPU)
    everything = score_joint(experts, ALPHAS, split, np.arange(split.n_rows), compute=CPU)
    np.testing.assert_allclose(got.target_logprob, everything.target_logprob[rows], atol=2e-5)
    np.testing.assert_array_equal(got.argmax, everything.argmax[rows])
    assert got.topk_ids is None


def test_one_expert_is_its_own_scores(experts, split: EncodedSplit) -> None:
    table = score_split(experts[1], split, compute=CPU)
    for rule in ("mixture", "product"):
        got = score_joint(experts, [0.0, 3.0, 0.0], split, np.arange(split.n_rows), rule=rule, compute=CPU)
        np.testing.assert_allclose(got.target_logprob, table.target_logprob, atol=1e-5)
        np.testing.assert_array_equal(got.argmax, table.argmax)


def test_every_prefix_in_one_pass(experts, split: EncodedSplit) -> None:
    rows = np.arange(split.n_rows)
    prefixes = [[2.0, 0.0, 0.0], [2.0, 0.5, 0.0], ALPHAS]
    together = score_joint_each(experts, prefixes, split, rows, rule="product", compute=CPU)
    for count, got in enumerate(together, start=1):
        alone = score_joint(experts[:count], ALPHAS[:count], split, rows, rule="product", compute=CPU)
        np.testing.assert_allclose(got.target_logprob, alone.target_logprob, atol=1e-6)
        np.testing.assert_array_equal(got.argmax, alone.argmax)


def test_no_rows(experts, split: EncodedSplit) -> None:
    got = score_joint(experts, ALPHAS, split, sequence_rows(split, np.empty(0, int)), compute=CPU)
    assert got.target_logprob.shape == (0,)


def test_experts_must_share_a_vocabulary(experts, split: EncodedSplit, make_model, tokenizer) -> None:
    other = LoadedModel(make_model(0, vocab_size=40), tokenizer, "other", None, 0, "float32", "sdpa")
    with pytest.raises(ModelError, match="other knows 40 tokens"):
        score_joint([experts[0], other], [1.0, 1.0], split, np.arange(3), compute=CPU)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ensemw2s import kernels
from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.errors import DataError, RunFailedError
from ensemw2s.models.inference import decode
from ensemw2s.models.inference.decode import generate
from ensemw2s.models.inference.reading import Reading
from ensemw2s.models.loading.load import LoadedModel, load_model
from ensemw2s.models.loading.quiet import quiet_transformers

CPU = ComputeConfig(device="cpu")
VOCABULARY = 30
ALPHAS = [2.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def experts(model_folders: list[Path]) -> list[LoadedModel]:
    models = [load_model(ModelConfig(path=str(folder))) for folder in model_folders]
    with torch.no_grad():
        for loaded in models:  # end-of-sequence is about as likely as other tokens
            loaded.model.lm_head.weight[1] *= 2
    return models


@pytest.fixture(scope="module")
def prompts() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.integers(2, VOCABULARY, size=rng.integers(1, 12)).astype(np.int32) for _ in range(17)]


def naive(experts, alphas, prompt, rule: str, steps: int, choose=None):
    """No batch, no cache: everything is read again for each token."""
    ids, logprobs, rivals = [], [], []
    for step in range(steps):
        whole = torch.from_numpy(np.concatenate([prompt, ids]).astype(np.int64))[None]
        with torch.no_grad():
            logits = [expert.model(input_ids=whole).logits[:, -1].double() for expert in experts]
        result = kernels.combine(logits, alphas, rule=rule, return_probs=True)
        token = int(result.argmax[0]) if choose is None else choose(step, result.log_probs[0])
        if rule == "vote":  # how sure the ensemble is stands in the mixture
            result = kernels.combine(logits, alphas, rule="mixture", return_probs=True)
        logprobs.append(float(result.log_probs[0, token]))
        others = torch.cat([result.log_probs[0, :token], result.log_probs[0, token + 1 :]])
        rivals.append(float(others.max()))
        if token == 1:
            return ids, logprobs, rivals, True
        ids.append(token)
    return ids, logprobs, rivals, False


def test_one_expert_equals_transformers_generate(experts, prompts) -> None:
    got = generate(experts[:1], [1.0], prompts, decoding=DecodingConfig(max_new_tokens=12), compute=CPU)
    ends = 0
    for prompt, generation in zip(prompts, got, strict=True):
        with quiet_transformers():
            out = experts[0].model.generate(
                torch.from_numpy(prompt.astype(np.int64))[None],
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=12, do_sample=False, pad_token_id=1, eos_token_id=1,
            )[0, len(prompt) :].tolist()  # fmt: skip
        assert generation.token_ids.tolist() + [1] * generation.ended == out
        ends += generation.ended
    assert 0 < ends < len(prompts)


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
def test_greedy_against_the_naive_loop(experts, prompts, rule: str, recorder) -> None:
    decoding = DecodingConfig(max_new_tokens=8)
    got = generate(
        experts, ALPHAS, prompts, decoding=decoding, rule=rule, compute=CPU, keep_top_k=3, sink=recorder, tag="g"
    )
    for prompt, generation in zip(prompts, got, strict=True):
        ids, logprobs, rivals, ended = naive(experts, ALPHAS, prompt, rule, 8)
        assert generation.token_ids.tolist() == ids
        assert generation.ended == ended
        np.testing.assert_allclose(generation.logprobs, logprobs, atol=5e-5)
        np.testing.assert_allclose(generation.runner_up, rivals, atol=5e-5)
        assert generation.topk_ids.shape == (len(logprobs), 3)
        assert generation.topk_ids[:, 0].tolist() == [*ids, *[1] * ended]
        if rule == "vote":  # candidates are the rule's: shares of votes
            assert np.all(np.exp(generation.topk_logprob[:, 0]) > 0.5)
        else:
            np.testing.assert_array_equal(generation.topk_logprob[:, 0], generation.logprobs)
    assert recorder.steps[-1] == ("g", len(prompts), len(prompts))


@pytest.mark.parametrize("rule", ["mixture", "vote"])
@pytest.mark.parametrize("keep", [None, 1, 2])
def test_samples_are_as_sure_as_the_mixture_says(experts, prompts, rule: str, keep: int | None) -> None:
    """A drawn token's log-probability, and that of the best other one, read off the whole distribution."""
    decoding = DecodingConfig(method="sample", max_new_tokens=3)
    got = generate(experts, ALPHAS, prompts, decoding=decoding, rule=rule, seed=3, compute=CPU, keep_top_k=keep)
    for prompt, answer in zip(prompts, got, strict=True):
        tokens = [*answer.token_ids.tolist(), *[1] * answer.ended]
        _, logprobs, rivals, _ = naive(
            experts, ALPHAS, prompt, rule, len(tokens), lambda step, _p, tokens=tokens: tokens[step]
        )
        np.testing.assert_allclose(answer.logprobs, logprobs, atol=5e-5)
        if keep is None:
            assert answer.runner_up is None
            assert answer.topk_ids is None
        else:
            np.testing.assert_allclose(answer.runner_up, rivals, atol=5e-5)
            assert answer.topk_ids.shape == (len(tokens), keep)


@pytest.mark.parametrize("batch_tokens", [64, 150, 16384])
@pytest.mark.parametrize("method", ["greedy", "sample"])
def test_batching_does_not_change_answers(experts, prompts, batch_tokens: int, method: str) -> None:
    decoding = DecodingConfig(method=method, max_new_tokens=10, temperature=0.8, top_p=0.9)
    alone = [
        generate(experts, ALPHAS, [*prompts[:i], prompts[i]], decoding=decoding, seed=4, compute=CPU)[i]
        for i in (0, 5, 16)
    ]
    compute = ComputeConfig(device="cpu", batch_tokens=batch_tokens)
    together = generate(experts, ALPHAS, prompts, decoding=decoding, seed=4, compute=compute)
    for i, one in zip((0, 5, 16), alone, strict=True):
        assert together[i].token_ids.tolist() == one.token_ids.tolist()
        np.testing.assert_allclose(together[i].logprobs, one.logprobs, atol=5e-5)


def test_samples_follow_the_ensemble_and_the_seed(experts, prompts) -> None:
    """First tokens of 4000 draws: chi-square against the exact mixture, false alarms 1 in 1e6; top-k keeps its k."""
    from scipy.stats import chi2

    prompt, n = prompts[0], 4000
    decoding = DecodingConfig(method="sample", max_new_tokens=1)
    got = generate(experts, ALPHAS, [prompt] * n, decoding=decoding, seed=1, compute=CPU)
    first = np.array([1 if g.ended else g.token_ids[0] for g in got])
    logits = [
        e.model(input_ids=torch.from_numpy(prompt.astype(np.int64))[None]).logits[:, -1].double() for e in experts
    ]
    p = kernels.combine(logits, ALPHAS, return_probs=True).log_probs[0].exp().numpy()
    expected, counts = p * n, np.bincount(first, minlength=VOCABULARY)
    big = expected >= 5
    statistic = ((counts - expected)[big] ** 2 / expected[big]).sum()
    assert statistic < chi2.isf(1e-6, big.sum() - 1)
    np.testing.assert_allclose([g.logprobs[0] for g in got], np.log(p)[first], atol=5e-5)
    again = generate(experts, ALPHAS, [prompt] * 50, decoding=decoding, seed=1, compute=CPU)
    other = generate(experts, ALPHAS, [prompt] * 50, decoding=decoding, seed=2, compute=CPU)
    assert [g.token_ids.tolist() for g in again] == [g.token_ids.tolist() for g in got[:50]]
    assert [g.token_ids.tolist() for g in other] != [g.token_ids.tolist() for g in again]
    cut = DecodingConfig(method="sample", max_new_tokens=1, top_k=2)
    kept = generate(experts, ALPHAS, [prompt] * 300, decoding=cut, seed=1, compute=CPU)
    assert {1 if g.ended else int(g.token_ids[0]) for g in kept} == set(np.argsort(-p)[:2].tolist())


def test_finished_answers_leave_the_batch(experts, prompts) -> None:
    sizes = []
    handle = experts[0].model.model.register_forward_pre_hook(
        lambda _m, _a, kw: sizes.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    try:
        got = generate(experts[:1], [1.0], prompts, decoding=DecodingConfig(max_new_tokens=9), compute=CPU)
    finally:
        handle.remove()
    lengths = np.array([len(g.logprobs) for g in got])
    assert [n for n, _ in sizes] == [int((lengths > step).sum()) for step in range(lengths.max())]
    assert all(width == 1 for _, width in sizes[1:])


def test_experts_of_weight_zero_do_not_run(experts, prompts, make_model, tokenizer) -> None:
    broken = make_model(0)
    with torch.no_grad():
        broken.lm_head.weight.fill_(torch.nan)
    spoiled = LoadedModel(broken, tokenizer, "broken", None, 0, "float32", "sdpa")
    decoding = DecodingConfig(max_new_tokens=5)
    a = generate([experts[0], spoiled], [1.0, 0.0], prompts, decoding=decoding, compute=CPU)
    b = generate(experts[:1], [1.0], prompts, decoding=decoding, compute=CPU)
    assert [g.token_ids.tolist() for g in a] == [g.token_ids.tolist() for g in b]
    for method in ("greedy", "sample"):
        with pytest.raises(RunFailedError, match="not finite"):
            generate([experts[0], spoiled], [1.0, 1.0], prompts, decoding=DecodingConfig(method=method), compute=CPU)


def test_models_without_a_cache_give_the_same(experts, prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = DecodingConfig(max_new_tokens=6)
    cached = generate(experts, ALPHAS, prompts, decoding=decoding, compute=CPU)
    monkeypatch.setattr(decode, "reading_of", lambda *_: Reading(True, False, False, frozenset()))
    again = generate(experts, ALPHAS, prompts, decoding=decoding, compute=CPU)
    assert [g.token_ids.tolist() for g in again] == [g.token_ids.tolist() for g in cached]


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "opt", "bloom", "mamba"])
def test_other_architectures(kind: str, prompts, make_model, tokenizer) -> None:
    loaded = LoadedModel(make_model(3, kind).eval(), tokenizer, kind, None, 0, "float32", "eager")
    got = generate([loaded], [1.0], prompts[:6], decoding=DecodingConfig(max_new_tokens=6), compute=CPU)
    for prompt, generation in zip(prompts, got, strict=False):
        ids, logprobs, _, ended = naive([loaded], [1.0], prompt, "mixture", 6)
        assert (generation.token_ids.tolist(), generation.ended) == (ids, ended)
        np.testing.assert_allclose(generation.logprobs, logprobs, atol=5e-5)


def test_the_context_is_respected(prompts, make_model, tokenizer) -> None:
    model = make_model(0, max_position_embeddings=10)
    with torch.no_grad():
        model.lm_head.weight[1] = 0
    loaded = LoadedModel(model, tokenizer, "short", None, 0, "float32", "sdpa")
    got = generate(
        [loaded], [1.0], [prompts[0][:1], np.full(7, 3)], decoding=DecodingConfig(max_new_tokens=20), compute=CPU
    )
    assert len(got[1].logprobs) <= 3
    assert len(got[0].logprobs) <= 9
    with pytest.raises(DataError, match="Prompt 1 has 10 tokens, which leaves no room"):
        generate([loaded], [1.0], [prompts[0][:1], np.full(10, 3)], compute=CPU)
    with pytest.raises(DataError, match="Prompt 0 has no tokens"):
        generate([loaded], [1.0], [np.empty(0, int)], compute=CPU)


def test_no_prompts(experts) -> None:
    assert generate(experts, ALPHAS, [], compute=CPU) == []


def test_wrong_number_of_weights(experts, prompts) -> None:
    with pytest.raises(ValueError, match="2 alphas for 3 experts"):
        generate(experts, [1.0, 2.0], prompts, compute=CPU)

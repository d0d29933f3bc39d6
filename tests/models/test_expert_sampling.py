from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ensemw2s import kernels
from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.schema import RunConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.errors import ConfigError, RunFailedError
from ensemw2s.models.inference import expert_sampling as one_expert
from ensemw2s.models.inference.decode import generate
from ensemw2s.models.inference.expert_sampling import draw_experts
from ensemw2s.models.inference.reading import Reading
from ensemw2s.models.loading.load import LoadedModel, load_model

CPU = ComputeConfig(device="cpu")
VOCABULARY = 30
ALPHAS = [2.0, 0.5, 1.0]
ONE = DecodingConfig(method="sample", experts="one", max_new_tokens=8)


@pytest.fixture(scope="module")
def experts(model_folders: list[Path]) -> list[LoadedModel]:
    models = [load_model(ModelConfig(path=str(folder))) for folder in model_folders]
    with torch.no_grad():
        for loaded in models:  # sharper, so that experts differ; answers end now and then
            loaded.model.lm_head.weight *= 3
            loaded.model.lm_head.weight[1] *= 1.5
    return models


@pytest.fixture(scope="module")
def prompts() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.integers(2, VOCABULARY, size=rng.integers(1, 12)).astype(np.int32) for _ in range(17)]


def last_logits(loaded: LoadedModel, ids: np.ndarray) -> torch.Tensor:
    """``[N, V]`` after whole sequences of one length: no cache, no padding."""
    with torch.no_grad():
        return loaded.model(input_ids=torch.from_numpy(np.asarray(ids, dtype=np.int64))).logits[:, -1].double()


def mixture(experts: list[LoadedModel], ids: np.ndarray) -> torch.Tensor:
    """The exact distribution of the next token, log ``[N, V]``."""
    return kernels.combine([last_logits(e, ids) for e in experts], ALPHAS, return_probs=True).log_probs


def naive(experts, alphas, number: int, prompt, seed: int, decoding=ONE):
    """One answer, a token at a time by the drawn expert, and the mixture's log-probabilities and best other tokens."""
    tokens, logprobs, rivals = [], [], []
    for step in range(decoding.max_new_tokens):
        index = np.array([number * decoding.max_new_tokens + step])
        k = int(draw_experts(alphas, seed, index)[0])
        whole = np.concatenate([prompt, tokens])[None]
        logits = [last_logits(e, whole) for e in experts]
        token = int(kernels.sample([logits[k]], [1.0], seed=seed, index=torch.from_numpy(index))[0])
        row = kernels.combine(logits, alphas, return_probs=True).log_probs[0]
        logprobs.append(float(row[token]))
        rivals.append(float(torch.cat([row[:token], row[token + 1 :]]).max()))
        if token == 1:
            return tokens, logprobs, rivals, True
        tokens.append(token)
    return tokens, logprobs, rivals, False


def same(answer, expected) -> None:
    tokens, logprobs, rivals, ended = expected
    assert (answer.token_ids.tolist(), answer.ended) == (tokens, ended)
    np.testing.assert_allclose(answer.logprobs, logprobs, atol=2e-4)
    np.testing.assert_allclose(answer.runner_up, rivals, atol=2e-4)


@pytest.mark.parametrize("batch_tokens", [64, 150, 16384])
def test_against_the_naive_loop_in_any_batch(experts, prompts, batch_tokens: int) -> None:
    compute = ComputeConfig(device="cpu", batch_tokens=batch_tokens)
    got = generate(experts, ALPHAS, prompts, decoding=ONE, seed=5, compute=compute, keep_top_k=3)
    for number, (prompt, answer) in enumerate(zip(prompts, got, strict=True)):
        same(answer, naive(experts, ALPHAS, number, prompt, 5))
        assert answer.topk_ids.shape == answer.topk_logprob.shape == (len(answer.logprobs), 3)
        assert np.all(np.diff(answer.topk_logprob, axis=1) <= 0)
        best = np.maximum(answer.logprobs, answer.runner_up)
        np.testing.assert_array_equal(best, answer.topk_logprob[:, 0])
    assert 0 < sum(answer.ended for answer in got) < len(got)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "opt", "bloom", "mamba"])
def test_other_architectures(kind: str, prompts, make_model, tokenizer) -> None:
    """Sliding windows, positions counted from the mask, ALiBi, a recurrent state."""
    loaded = [LoadedModel(make_model(3, kind).eval(), tokenizer, kind, None, 0, "float32", "eager") for _ in range(2)]
    with torch.no_grad():
        for parameter in loaded[1].model.parameters():
            parameter.mul_(1.1)
    decoding = DecodingConfig(method="sample", experts="one", max_new_tokens=6)
    got = generate(loaded, [1.0, 2.0], prompts[:6], decoding=decoding, seed=2, compute=CPU, keep_top_k=2)
    for number, answer in enumerate(got):
        same(answer, naive(loaded, [1.0, 2.0], number, prompts[number], 2, decoding))


def test_first_tokens_and_pairs_follow_the_mixture(experts, prompts) -> None:
    """Chi-square of 6000 draws against the exact mixture, false alarms 1 in 1e6; one draw an answer is told apart."""
    from scipy.stats import chi2

    prompt, n = prompts[0], 6000
    decoding = DecodingConfig(method="sample", experts="one", max_new_tokens=2)
    got = generate(experts, ALPHAS, [prompt] * n, decoding=decoding, seed=1, compute=CPU)
    first = np.array([answer.token_ids[0] if len(answer.token_ids) else 1 for answer in got])
    second = np.array([answer.token_ids[1] if len(answer.token_ids) == 2 else 1 for answer in got])
    p = mixture(experts, prompt[None])[0].exp().numpy()
    after = np.concatenate([np.tile(prompt, (VOCABULARY, 1)), np.arange(VOCABULARY)[:, None]], axis=1)
    pairs = p[:, None] * mixture(experts, after).exp().numpy()
    shares = np.array(ALPHAS) / sum(ALPHAS)
    whole = sum(  # what one draw for the whole answer would give
        share * (last_logits(e, prompt[None]).softmax(1)[0][:, None] * last_logits(e, after).softmax(1)).numpy()
        for share, e in zip(shares, experts, strict=True)
    )
    for q in (pairs, whole):  # an answer that ends at once has no second token: all in one cell
        q[1] = np.eye(VOCABULARY)[1] * p[1]
    counts = np.bincount(first * VOCABULARY + second, minlength=VOCABULARY**2)

    def alarm(seen: np.ndarray, probability: np.ndarray) -> bool:
        expected = probability.reshape(-1) * n
        big = expected >= 5
        seen, expected = (np.append(x[big], x[~big].sum()) for x in (seen, expected))
        return bool(((seen - expected) ** 2 / expected).sum() > chi2.isf(1e-6, big.sum()))

    assert not alarm(np.bincount(first, minlength=VOCABULARY), p)
    assert not alarm(counts, pairs)
    assert alarm(counts, whole)
    np.testing.assert_allclose([answer.logprobs[0] for answer in got], np.log(p)[first], atol=2e-4)


def test_draws_of_experts_follow_the_weights_and_the_seed() -> None:
    from scipy.stats import chisquare

    index = np.arange(20_000)
    drawn = draw_experts(ALPHAS, 3, index)
    shares = np.array(ALPHAS) / sum(ALPHAS)
    assert chisquare(np.bincount(drawn), shares * len(index)).pvalue > 1e-6
    np.testing.assert_array_equal(draw_experts(ALPHAS, 3, index[5:25].reshape(4, 5)), drawn[5:25].reshape(4, 5))
    assert np.any(draw_experts(ALPHAS, 4, index) != drawn)
    tokens = kernels.sample([torch.zeros(len(index), 4)], [1.0], seed=3, index=torch.from_numpy(index)).numpy()
    table = np.bincount(drawn * 4 + tokens, minlength=12)  # what is drawn says nothing about the token's own draw
    assert chisquare(table, np.repeat(shares, 4) / 4 * len(index)).pvalue > 1e-6


def test_only_the_drawn_expert_runs_and_catches_up(experts, prompts) -> None:
    """One prompt: a pass for each token, over what the expert has not read; at the end each expert reads the rest."""
    passes: list[tuple[int, int]] = []
    handles = [
        loaded.model.model.register_forward_pre_hook(
            lambda _m, _a, kw, k=k: passes.append((k, kw["input_ids"].shape[1])), with_kwargs=True
        )
        for k, loaded in enumerate(experts)
    ]
    try:
        answer = generate(experts, ALPHAS, prompts[3:4], decoding=ONE, seed=6, compute=CPU)[0]
    finally:
        for handle in handles:
            handle.remove()
    steps = len(answer.logprobs)
    drawn = draw_experts(ALPHAS, 6, np.arange(steps)).tolist()
    assert steps > 4
    read = [0] * len(experts)
    for step, (k, width) in enumerate(passes[:steps]):
        assert (k, width) == (drawn[step], len(prompts[3]) + step - read[k])
        read[k] += width
    length = len(prompts[3]) + steps - 1
    assert passes[steps:] == [(k, max(1, length - read[k])) for k in range(len(experts))]


def test_caches_that_cannot_be_cut(experts, prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = generate(experts, ALPHAS, prompts, decoding=ONE, seed=5, compute=CPU)
    monkeypatch.setattr(one_expert, "reading_of", lambda *_: Reading(True, False, False, frozenset()))
    again = generate(experts, ALPHAS, prompts, decoding=ONE, seed=5, compute=CPU)
    assert [g.token_ids.tolist() for g in again] == [g.token_ids.tolist() for g in cached]


def test_models_without_a_projection_to_hook(experts, prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hidden states cannot be had, the answers are read again."""
    usual = generate(experts, ALPHAS, prompts, decoding=ONE, seed=5, compute=CPU, keep_top_k=2)
    for loaded in experts:
        monkeypatch.setattr(loaded.model, "get_output_embeddings", lambda: None)
    again = generate(experts, ALPHAS, prompts, decoding=ONE, seed=5, compute=CPU, keep_top_k=2)
    for one, other in zip(usual, again, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-4)
        np.testing.assert_allclose(one.runner_up, other.runner_up, atol=2e-4)


def test_answers_are_scored_in_parts(experts, prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate(experts, ALPHAS, prompts, decoding=ONE, seed=5, compute=CPU, keep_top_k=2)
    real, asked = one_expert._parts, []

    def small(lengths, most):
        asked.append(most)
        return real(lengths, 11)

    monkeypatch.setattr(one_expert, "_parts", small)
    parts = generate(experts, ALPHAS, prompts, decoding=ONE, seed=5, compute=CPU, keep_top_k=2)
    assert asked
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-4)
        np.testing.assert_allclose(one.runner_up, other.runner_up, atol=2e-4)
        assert one.topk_ids.shape == other.topk_ids.shape


def test_one_expert_alone_is_sampled_as_ever(experts, prompts) -> None:
    """Nothing is drawn where one expert has all the weight; the tokens are those of ``experts: all``."""
    every = ONE.model_copy(update={"experts": "all"})
    alone = generate(experts, [0.0, 1.0, 0.0], prompts[:4], decoding=ONE, seed=5, compute=CPU)
    usual = generate(experts[1:2], [1.0], prompts[:4], decoding=every, seed=5, compute=CPU, rule="mixture")
    assert [g.token_ids.tolist() for g in alone] == [g.token_ids.tolist() for g in usual]
    greedy = ONE.model_copy(update={"method": "greedy"})
    assert not greedy.draws_experts


def test_damaged_weights_and_other_rules(experts, prompts, make_model, tokenizer) -> None:
    broken = make_model(0)
    with torch.no_grad():
        broken.lm_head.weight.fill_(torch.nan)
    spoiled = LoadedModel(broken, tokenizer, "broken", None, 0, "float32", "sdpa")
    for alphas in ([1.0, 1e9], [1e9, 1.0]):  # it speaks, or only scores
        with pytest.raises(RunFailedError, match="not finite"):
            generate([experts[0], spoiled], alphas, prompts, decoding=ONE, compute=CPU)
    for rule in ("product", "vote"):
        with pytest.raises(ConfigError, match="experts: one"):
            generate(experts, ALPHAS, prompts, decoding=ONE, rule=rule, compute=CPU)


@pytest.mark.parametrize(
    "changes",
    [{"method": "greedy"}, {"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_would_not_be_the_mixture_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="experts: one needs"):
        DecodingConfig(**{"method": "sample", "experts": "one", **changes})


def test_a_run_by_another_rule_is_refused() -> None:
    labelling = {"decoding": {"method": "sample", "experts": "one"}}
    RunConfig(labelling=labelling)
    with pytest.raises(ValidationError, match=r"experts: one needs ensemble\.rule: mixture"):
        RunConfig(labelling=labelling, ensemble={"rule": "product"})

"""``labels_from_answers``, and the two-answer tokens of ``logconf``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.encode import EncodedSplit, encode_prompts
from ensemw2s.data.example import Example
from ensemw2s.ensemble.decoded import decode_answers
from ensemw2s.kernels import combine
from ensemw2s.labelling.labels import labels_from_answers
from ensemw2s.models.loading.load import load_model
from ensemw2s.student.training import binary_answer_tokens

ALPHAS = [2.0, 0.5, 1.0]
CPU = ComputeConfig(device="cpu", threads=1)


@pytest.fixture(scope="module")
def experts():
    models = [load_model(ModelConfig(path="embedded:weak")) for _ in ALPHAS]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for loaded in models[1:]:
            for weight in loaded.model.parameters():
                weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return models


@pytest.fixture(scope="module")
def pool():
    return [Example(id=f"q{i}", prompt=f"{i} 3 {7 - i} 2 sorted is", answer=None) for i in range(6)]


@pytest.fixture(scope="module")
def label(experts, pool):
    prompts = encode_prompts(pool, experts[0].tokenizer, TemplateConfig(), None)

    def make(models=None, alphas=ALPHAS, *, own=None, rule="mixture", soft=None, seed=0, **decoding):
        answers = decode_answers(
            models or experts,
            alphas,
            prompts,
            decoding=DecodingConfig(**{"max_new_tokens": 6, **decoding}),
            rule=rule,
            seed=seed,
            compute=CPU,
            keep_top_k=soft or 1,
        )
        return labels_from_answers("ensemble", pool, answers, own=own, alphas=alphas, soft=soft is not None)

    make.prompts = prompts
    return make


def step_by_step(experts, prompt, labels, i):
    """Mixture log-probabilities [m (+1), V] along a label, one whole pass a token."""
    tokens = [*labels.token_ids[i].tolist(), *([experts[0].eos_id] if labels.ended[i] else [])]
    out = []
    for place in range(len(tokens)):
        ids = torch.tensor([[*prompt.tolist(), *tokens[:place]]])
        with torch.no_grad():
            logits = [expert.model(input_ids=ids).logits[:, -1].double() for expert in experts]
        out.append(combine(logits, ALPHAS, return_probs=True).log_probs[0].numpy())
    return np.array(out), np.array(tokens)


@pytest.mark.parametrize("rule", ["mixture", "vote"])
@pytest.mark.parametrize("method", ["greedy", "sample"])
def test_confidence_and_margin_are_the_mixtures(experts, label, rule, method):
    labels = label(rule=rule, method=method, temperature=0.7, own=[[""] * 6] * 3)
    spread = set()
    for i, prompt in enumerate(label.prompts):
        logs, tokens = step_by_step(experts, prompt, labels, i)
        m = len(labels.token_ids[i])
        if m == 0:
            assert (labels.confidence[i], labels.margin[i]) == (0.0, 0.0)
            continue
        chosen = logs[np.arange(m), tokens[:m]]
        others = logs[:m].copy()
        others[np.arange(m), tokens[:m]] = -np.inf
        assert labels.confidence[i] == pytest.approx(np.exp(chosen.mean()), abs=1e-5)
        assert labels.margin[i] == pytest.approx((chosen - others.max(axis=1)).mean(), abs=1e-4)
        assert labels.texts[i] == experts[0].tokenizer.decode(labels.token_ids[i]).strip()
        spread.add(round(float(labels.confidence[i]), 4))
    assert len(spread) > 2  # steps of votes would be all the same here
    assert labels.ids == [f"q{i}" for i in range(6)]
    assert set(labels.options.tolist()) == {-1}
    assert labels.soft is None


def test_agreement_is_the_share_of_those_that_answer_the_same(label):
    texts = label().texts
    other = ["?"] * 6
    # White space does not count.
    own = [[f"  {text.replace(' ', '  ')}\n" for text in texts], other, texts]
    np.testing.assert_allclose(label(own=own).agreement, 3.0 / 3.5)
    np.testing.assert_allclose(label(own=[other, texts, other]).agreement, 0.5 / 3.5)
    np.testing.assert_allclose(label(own=[other] * 3).agreement, 0.0)
    assert label().agreement.tolist() == [1.0] * 6  # one that labels alone


def test_soft_labels_follow_their_tokens_to_the_end(experts, label):
    labels = label(soft=4)
    assert labels.soft is not None
    for i, prompt in enumerate(label.prompts):
        logs, tokens = step_by_step(experts, prompt, labels, i)
        ((ids, logprob),) = labels.soft.of(np.array([i]))
        assert ids.shape == (len(tokens), 4)
        np.testing.assert_array_equal(ids[:, 0], tokens)  # greedy
        np.testing.assert_allclose(logprob, np.sort(logs, axis=1)[:, :-5:-1], atol=5e-5)


def test_seeds_fix_what_is_drawn_and_the_limit_cuts(label):
    first, again, other = (label(method="sample", temperature=1.5, seed=seed) for seed in (1, 1, 2))
    assert first.texts == again.texts
    assert first.texts != other.texts
    cut = label(max_new_tokens=1)
    assert all(len(tokens) + ended == 1 for tokens, ended in zip(cut.token_ids, cut.ended, strict=True))


def split_of(options):
    return EncodedSplit(
        ids=[f"q{i}" for i in range(len(options))],
        prompts=[np.array([2], np.int32)] * len(options),
        options=[[np.array(tokens, np.int32) for tokens in each] for each in options],
        option_texts=[["?"] * len(each) for each in options],
        answer_index=np.full(len(options), -1),
        eos_id=1,
        vocab_size=30,
        task="choice",
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([[[7], [5]], [[5], [7]]], (5, 7)),
        ([[[7], [5]], [[7], [5]], [[7], [5]]], (5, 7)),
        ([[[7], [5]], [[5], [6]]], None),
        ([[[7], [5], [6]]], None),
        ([[[7, 2], [5, 2]]], None),
        ([[[7], [5, 2]]], None),
        ([[[7], [7]]], None),
        ([], None),
    ],
    ids=["either-order", "the-same", "three-tokens", "three-options", "two-long", "one-long", "one-token", "nothing"],
)
def test_two_classes_are_told_by_their_tokens(options, expected):
    assert binary_answer_tokens(split_of(options)) == expected

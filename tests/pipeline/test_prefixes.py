"""Every prefix of the members, from kept scores, against running the prefix's models again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from ensemw2s.models.loading.load import load_model
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.data import prepare_data
from ensemw2s.pipeline.experts import WeakTrainer, boost
from ensemw2s.pipeline.prefixes import REPORTED, choices_of, token_correct
from ensemw2s.pipeline.run import experts_phase
from ensemw2s.pipeline.state import RunState
from ensemw2s.runs.directory import RunDirectory
from ensemw2s.sink import TeeSink

#: Closer than this, which of two is larger depends on the rounding of float32.
CLOSE = 1e-5
SPLIT = {"hard_above": 5, "train": 80, "validation": 14, "test": 14, "hard_pool": 14, "hard_test": 14}
FEW = {"boosting.rounds": 3, "arms.plain": False, "arms.zero_shot": False, "data.split": SPLIT}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, mini_config):
    """Trains experts and bagging members once; gives them under any rule: changes → (context, progress, events)."""
    folder = tmp_path_factory.mktemp("prefixes") / "run"

    def run(recorder, **changes):
        config = mini_config(**FEW, **changes)
        directory = RunDirectory.create(folder)
        with directory.writing() as log:
            ctx, state = Context(config, directory, TeeSink(log, recorder)), RunState()
            prepare_data(ctx)
            experts_phase(ctx, state)
        return ctx, state

    return run


def distributions(member, enc):
    """float64 log-probabilities [rows, V]: every sequence by itself, nothing batched or shared."""
    model = load_model(member.model).model
    parts = []
    for e, o in zip(enc.seq_example, enc.seq_option, strict=True):
        ids = np.concatenate([enc.prompts[e], enc.options[e][o]]).astype(np.int64)
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, len(enc.prompts[e]) - 1 :]
        parts.append(logits.double().log_softmax(-1).numpy())
    return np.concatenate(parts)


def combined(logs, alphas, rule):
    """[rows, V] from the definitions; of the vote: shares, with the mixture far below to break ties."""
    share = np.array(alphas) / np.sum(alphas)
    mixture = np.log(np.einsum("k,krv->rv", share, np.exp(logs)))
    if rule == "mixture":
        return mixture
    if rule == "product":
        total = np.einsum("k,krv->rv", share, logs)
        return total - np.log(np.exp(total).sum(axis=1, keepdims=True))
    votes = np.zeros_like(mixture)
    for weight, own in zip(share, logs.argmax(axis=2), strict=True):
        votes[np.arange(len(votes)), own] += weight
    return np.round(votes, 9) + 1e-4 * np.exp(mixture)


def option_scores(rows, enc):
    """Mean over the tokens of each option, end-of-sequence left out, [S]."""
    starts = enc.row_offsets
    targets = rows[np.arange(len(rows)), enc.row_tokens]
    return np.array([targets[a : b - 1].mean() for a, b in pairwise(starts)])


def expected_options(logs, alphas, rule, enc):
    """Scores of the options [S] (a vote's have the mixture far below)."""
    if rule != "vote":
        return option_scores(combined(logs, alphas, rule), enc)
    scores = 1e-4 * option_scores(combined(logs, alphas, "mixture"), enc)
    cuts = enc.example_offsets
    for own, weight in zip(logs, np.array(alphas) / np.sum(alphas), strict=True):
        mine = option_scores(own, enc)
        scores[[a + mine[a:b].argmax() for a, b in pairwise(cuts)]] += weight
    return scores


def gap(values):
    """How far the largest is ahead of the second, by row."""
    ordered = np.sort(values, axis=-1)
    return ordered[..., -1] - ordered[..., -2]


def check_choices(found, scores, rule, enc):
    """Options and their scores, where rounding does not decide; returns whether each example was compared."""
    cuts = enc.example_offsets
    own = [scores[a:b] for a, b in pairwise(cuts)]
    clear = np.array([gap(each) > (CLOSE if rule != "vote" else 1e-4 * CLOSE) for each in own])
    np.testing.assert_array_equal(found.option[clear], np.array([each.argmax() for each in own])[clear])
    if rule == "vote":
        np.testing.assert_allclose(np.floor(found.scores * 1e4) / 1e4, np.round(scores, 2), atol=5e-3)
    else:
        np.testing.assert_allclose(found.scores, scores, atol=2e-5)
    return clear


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
@pytest.mark.parametrize("top_k", [1, 100])
def test_kept_scores_against_the_models(trained, recorder, rule, top_k):
    ctx, state = trained(recorder, **{"ensemble.rule": rule, "ensemble.top_k": top_k})
    compared = 0
    for arm in ("boosting", "bagging"):
        members = state.members[arm]
        alphas = state.boosting.alphas if arm == "boosting" else [1.0] * len(members)
        assert len(members) == 3
        for split in REPORTED:
            enc = ctx.encoded("weak", split, "options")
            logs = np.stack([distributions(member, enc) for member in members])
            rows, offsets = enc.answer_rows(include_eos=False)
            for t in range(1, len(members) + 1):
                weights = [alphas[:t]] + ([[1.0] * t] if arm == "boosting" else [])
                for number, shares in enumerate(weights):
                    whole = combined(logs[:t], shares, rule if t > 1 else "mixture")
                    found = choices_of(ctx, members[:t], shares, split).choices
                    scores = expected_options(logs[:t], shares, rule, enc)
                    clear = check_choices(found, scores, rule, enc)
                    right = token_correct(ctx, members[:t], shares, split)
                    sure = gap(whole[rows]) > (CLOSE if rule != "vote" else 1e-4 * CLOSE)
                    expected = whole[rows].argmax(axis=1) == enc.row_tokens[rows]
                    np.testing.assert_array_equal(right[sure], expected[sure])
                    assert right.size == offsets[-1]
                    assert clear.mean() > 0.9
                    assert sure.mean() > 0.9
                    compared += int(sure.sum())
                    if number == 0:  # what was reported of this round
                        told = state.rounds[arm][t - 1].splits[split]
                        assert told.ensemble_accuracy == np.mean(found.option == enc.answer_index)
                        assert told.ensemble_token_accuracy == right.mean()
    assert compared > 1000
    joint = [name for name in recorder.stages("stage_finished") if name.startswith("joint/")]
    assert bool(joint) == (rule == "product" or top_k == 1)  # 100 are all tokens that there are


def test_no_rule_and_no_number_of_candidates_trains_again(trained, recorder):
    trained(recorder)
    first = type(recorder)()
    trained(first, **{"ensemble.rule": "product", "ensemble.top_k": 3})
    assert not [name for name in first.stages("stage_started") if not name.endswith("/scores") and "joint" not in name]


@pytest.mark.parametrize(("rule", "top_k"), [("mixture", 1), ("product", 4)])
def test_tokens_of_written_answers(tmp_path, generate_config, recorder, rule, top_k):
    """The same where nothing but the true answers is scored."""
    config = generate_config(**{"boosting.rounds": 3, "ensemble.rule": rule, "ensemble.top_k": top_k})
    directory = RunDirectory.create(tmp_path / "run")
    with directory.writing():
        ctx = Context(config, directory, recorder)
        prepare_data(ctx)
        result, learner = boost(WeakTrainer(ctx))
    assert len(learner.kept) == 3
    for split in REPORTED:
        enc = ctx.encoded("weak", split, "answers")
        logs = np.stack([distributions(member, enc) for member in learner.kept])
        rows, _ = enc.answer_rows(include_eos=False)
        for t in range(1, 4):
            whole = combined(logs[:t], result.alphas[:t], rule)[rows]
            sure = gap(whole) > CLOSE
            right = token_correct(ctx, learner.kept[:t], result.alphas[:t], split)
            np.testing.assert_array_equal(right[sure], (whole.argmax(axis=1) == enc.row_tokens[rows])[sure])
            assert sure.mean() > 0.9
            assert learner.scores.by_round[t - 1][split].ensemble_accuracy == right.mean()
    joint = [name for name in recorder.stages("stage_finished") if name.startswith("joint/")]
    assert set(joint) == {"joint/boosting/round-02", "joint/boosting/round-03"}

"""Combination of kept scores against float64 computed from whole distributions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from ensemw2s.config.method import CombineConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.ensemble.combine.argmax import ensemble_argmax
from ensemw2s.ensemble.combine.choices import final_choices
from ensemw2s.ensemble.combine.option_scores import choose, mixture, normalise, sequence_scores


def Layout(counts, lengths):
    """An encoded split of examples with so many options of so many tokens, two bytes each; all differ."""
    tokens = iter(np.arange(1, sum(lengths) + 1, dtype=np.int32))
    texts = [chr(0x100 + s % 1700) * length for s, length in enumerate(lengths)]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    options = [np.array([next(tokens) for _ in range(length)], dtype=np.int32) for length in lengths]
    return EncodedSplit(
        ids=[f"q{i}" for i in range(len(counts))],
        prompts=[np.array([i], dtype=np.int32) for i in range(len(counts))],
        options=[options[offsets[i] : offsets[i + 1]] for i in range(len(counts))],
        option_texts=[texts[offsets[i] : offsets[i + 1]] for i in range(len(counts))],
        answer_index=np.zeros(len(counts), dtype=np.int64),
        eos_id=0,
        vocab_size=10_000,
        task="choice",
    )


@dataclass
class Table:
    target_logprob: np.ndarray
    topk_ids: np.ndarray | None = None
    topk_logprob: np.ndarray | None = None


def random_split(rng):
    counts = list(rng.integers(2, 6, size=7))
    return Layout(counts, list(rng.integers(1, 5, size=sum(counts))))


@given(st.integers(1, 6), st.integers(0, 10_000))
@settings(deadline=None)
def test_every_prefix_of_the_mixture(experts, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(-2, 1, size=(experts, 11))
    alphas = rng.gamma(1.0, size=experts)
    alphas[0] += 0.1
    if experts > 2:
        alphas[1] = 0.0
        rows[1] = np.nan  # an expert without weight is ignored, NaN and all
    for t in range(1, experts + 1):
        mixed = mixture(list(rows[:t]), list(alphas[:t]))
        used = alphas[:t] > 0
        share = alphas[:t][used] / alphas[:t].sum()
        expected = logsumexp(rows[:t][used] + np.log(share)[:, None], axis=0)
        np.testing.assert_allclose(mixed, expected, atol=1e-12)


@given(st.integers(0, 10_000), st.sampled_from(["mean", "sum", "byte"]))
@settings(deadline=None)
def test_scores_and_choices_equal_a_plain_loop(seed, norm):
    rng = np.random.default_rng(seed)
    counts = list(rng.integers(2, 6, size=7))
    lengths = list(rng.integers(1, 5, size=sum(counts)))
    enc = Layout(counts, lengths)
    rows = np.round(rng.normal(-2, 1, size=enc.row_offsets[-1]), 1)
    scores = sequence_scores(rows, enc, norm)
    expected = []
    for s in range(len(lengths)):
        own = rows[enc.row_offsets[s] : enc.row_offsets[s + 1] - 1]
        expected.append(own.sum() / {"mean": own.size, "sum": 1, "byte": 2 * own.size}[norm])
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    found = choose(scores, enc)
    first = 0
    for i, count in enumerate(counts):
        own = scores[first : first + count]
        assert own[found.option[i]] >= own.max() - 1e-6
        ordered = np.sort(own)
        assert found.margin[i] == pytest.approx(ordered[-1] - ordered[-2], abs=1e-12)
        first += count


def test_token_mixture_is_not_a_mixture_of_sequences():
    """They disagree on a good share of random options: the token mixture is what the method means."""
    rng = np.random.default_rng(0)
    counts = [4] * 500
    enc = Layout(counts, [4] * 2000)
    tables = [Table(np.where(enc.is_eos, 0, rng.normal(-1.5, 1.2, enc.row_offsets[-1]))) for _ in range(3)]
    config = CombineConfig(length_norm="sum")
    by_token = final_choices(tables, [1.0, 1.0, 1.0], enc, config).choices.option
    sums = np.stack([sequence_scores(t.target_logprob, enc, "sum") for t in tables])
    by_sequence = choose(logsumexp(sums, axis=0), enc).option
    assert 0.1 < np.mean(by_token != by_sequence) < 0.4


def test_vote_counts_choices_and_breaks_ties_by_the_mixture():
    enc = Layout([3], [1, 1, 1])

    def table(*logs):
        rows = np.zeros(6)
        rows[[0, 2, 4]] = logs
        return Table(rows)

    experts = [table(-0.1, -3.0, -3.0), table(-3.0, -0.2, -3.0), table(-3.0, -0.9, -1.0)]
    config = CombineConfig(rule="vote")
    result = final_choices(experts, [1.0, 1.0, 1.0], enc, config)
    assert result.choices.option[0] == 1
    assert result.agreement[0] == pytest.approx(2 / 3)
    tied = final_choices(experts[:2], [1.0, 1.0], enc, config)
    assert tied.choices.option[0] == 0  # -0.1 beats -0.2 in the mixture
    heavy = final_choices(experts, [5.0, 1.0, 1.0], enc, config)
    assert heavy.choices.option[0] == 0
    assert heavy.agreement[0] == pytest.approx(5 / 7)


def test_one_expert_and_copies_of_it_choose_alike():
    rng = np.random.default_rng(1)
    enc = random_split(rng)
    table = Table(rng.normal(-2, 1, enc.row_offsets[-1]))
    for rule in ("mixture", "vote"):
        config = CombineConfig(rule=rule)
        alone = final_choices([table], [0.3], enc, config)
        for t in range(1, 5):
            prefix = final_choices([table] * t, [0.3, 0.1, 2.0, 1.0][:t], enc, config)
            np.testing.assert_array_equal(prefix.choices.option, alone.choices.option)
            np.testing.assert_allclose(prefix.agreement, 1.0)
            np.testing.assert_allclose(prefix.confidence, alone.confidence)


def _turned(enc, order):
    """The same questions with their options in another order, and where each sequence went."""
    starts = enc.example_offsets[:-1]
    moved = np.concatenate([start + np.asarray(order) for start in starts])
    turned = dataclasses.replace(
        enc,
        options=[[own[k] for k in order] for own in enc.options],
        option_texts=[[own[k] for k in order] for own in enc.option_texts],
    )
    return turned, moved


def _rows_of(enc, values):
    """Row log-probabilities: every token of a sequence has its value."""
    return np.where(enc.is_eos, 0.0, np.repeat(values, np.diff(enc.row_offsets)))


@pytest.mark.parametrize("rule", ["mixture", "vote"])
@pytest.mark.parametrize("norm", ["mean", "sum", "byte"])
@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=25)
def test_options_with_the_same_tokens_tie_whatever_their_order(rule, norm, seed):
    """Their texts have other numbers of bytes, and batches give their scores other last digits: neither decides."""
    rng = np.random.default_rng(seed)
    enc = Layout([3] * 8, [2] * 24)
    for own, texts in zip(enc.options, enc.option_texts, strict=True):
        own[2][:] = own[0]
        texts[2] = texts[0] + "é"
    values = rng.normal(-2, 0.5, size=(2, 24)).astype(np.float32)
    values[:, 2::3] = values[:, ::3] + rng.normal(0, 1e-6, size=(2, 8))
    config = CombineConfig(rule=rule, length_norm=norm)
    texts = {}
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        turned, moved = _turned(enc, order)
        assert turned.indistinct.all()
        noise = rng.normal(0, 1e-7, size=(2, 24))
        tables = [Table(_rows_of(turned, (v + n)[moved])) for v, n in zip(values, noise, strict=True)]
        found = final_choices(tables, [0.6, 0.4], turned, config).choices
        texts[order] = [own[k] for own, k in zip(turned.option_texts, found.option, strict=True)]
        same = np.isin(np.asarray(order)[found.option], (0, 2))
        np.testing.assert_array_equal(found.margin[same] if rule == "mixture" else 0.0, 0.0)
    assert len({tuple(chosen) for chosen in texts.values()}) == 1


@pytest.mark.parametrize("rule", ["mixture", "vote"])
def test_ties_of_different_options_fall_like_a_coin_and_not_by_order(rule):
    enc = Layout([2] * 400, [1, 3] * 400)
    config = CombineConfig(rule=rule)
    picked = []
    for order in ((0, 1), (1, 0)):
        turned, _ = _turned(enc, order)
        noise = np.random.default_rng(order[0]).normal(0, 1e-7, turned.n_rows)
        tables = [Table(_rows_of(turned, np.full(800, -1.25)) + noise) for _ in range(2)]
        picked.append(np.asarray(order)[final_choices(tables, [1.0, 1.0], turned, config).choices.option])
    np.testing.assert_array_equal(picked[0], picked[1])
    assert 0.4 < picked[0].mean() < 0.6


def test_a_better_option_is_no_tie():
    enc = Layout([2] * 2, [1] * 4)
    rows = _rows_of(enc, [-1.0, -1.0 - 1e-5, -np.inf, -np.inf])
    found = choose(sequence_scores(rows, enc, "mean"), enc)
    assert found.option[0] == 0
    assert found.margin.tolist() == pytest.approx([1e-5, 0.0], rel=1e-3)


def test_product_needs_the_models():
    rng = np.random.default_rng(1)
    enc = random_split(rng)
    table = Table(rng.normal(-2, 1, enc.row_offsets[-1]))
    with pytest.raises(ValueError, match="product"):
        final_choices([table, table], [1.0, 1.0], enc, CombineConfig(rule="product"))
    # Not where a single expert has weight, though: it is its own product.
    alone = final_choices([table, table], [1.0, 0.0], enc, CombineConfig(rule="product"))
    np.testing.assert_array_equal(
        alone.choices.option, choose(sequence_scores(table.target_logprob, enc, "mean"), enc).option
    )


def top(logs, k):
    order = np.lexsort((np.broadcast_to(np.arange(logs.shape[1]), logs.shape), -logs), axis=1)[:, :k]
    return Table(np.zeros(0), order.astype(np.int32), np.take_along_axis(logs, order, axis=1))


@given(st.integers(1, 4), st.integers(2, 30), st.integers(1, 8), st.floats(0.3, 4.0), st.integers(0, 10_000))
@settings(deadline=None, max_examples=150)
def test_decided_positions_are_right_for_every_rule(experts, vocabulary, k, sharpness, seed):
    rng = np.random.default_rng(seed)
    rows = 25
    logs = [
        log_softmax(np.round(rng.normal(scale=sharpness, size=(rows, vocabulary)), 1), axis=1) for _ in range(experts)
    ]
    alphas = list(rng.gamma(1.0, size=experts) + 0.05)
    share = normalise(alphas)
    k = min(k, vocabulary)
    mixture = sum(w * np.exp(lp) for w, lp in zip(share, logs, strict=True))
    product = sum(w * lp for w, lp in zip(share, logs, strict=True))
    votes = np.zeros((rows, vocabulary))
    for w, lp in zip(share, logs, strict=True):
        votes[np.arange(rows), lp.argmax(axis=1)] += w
    votes = np.round(votes, 12)
    truth = {
        "mixture": mixture,
        "product": product,
        "vote": np.where(votes == votes.max(axis=1, keepdims=True), mixture, -1),
    }
    for rule, score in truth.items():
        argmax, decided = ensemble_argmax([top(lp, k) for lp in logs], alphas, rule, vocabulary)
        best = score[np.arange(rows), argmax]
        # A tie that rounding makes or breaks is no mistake; anything else is.
        assert np.all(best[decided] >= score.max(axis=1)[decided] - 1e-12)
        if k == vocabulary:
            assert decided.all(), rule  # everything is known


def related(rng, rows, vocabulary, scale, apart):
    """Three experts that are of one mind but for some noise."""
    common = rng.normal(scale=scale, size=(rows, vocabulary))
    return [log_softmax(common + rng.normal(scale=apart, size=(rows, vocabulary)), axis=1) for _ in range(3)]


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
def test_sharp_experts_leave_few_positions_open(rule):
    logs = related(np.random.default_rng(2), 400, 500, scale=6, apart=2)
    tables = [top(lp, 16) for lp in logs]
    own = np.stack([table.topk_ids[:, 0] for table in tables])
    agree = (own == own[0]).all(axis=0)
    _, decided = ensemble_argmax(tables, [1.0, 0.5, 0.4], rule, 500)
    assert agree.mean() < 0.6
    assert decided.mean() > 0.9


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
def test_experts_that_agree_decide_by_their_arg_maxes_alone(rule):
    """With a single kept candidate each, nothing else is known of the experts."""
    logs = related(np.random.default_rng(3), 300, 40, scale=1, apart=0.3)
    own = np.stack([lp.argmax(axis=1) for lp in logs])
    agree = (own == own[0]).all(axis=0)
    argmax, decided = ensemble_argmax([top(lp, 1) for lp in logs], [1.0, 0.7, 0.3], rule, 40)
    assert 0.2 < agree.mean() < 0.8
    assert decided[agree].all()
    np.testing.assert_array_equal(argmax[agree], own[0][agree])


def test_a_product_is_not_decided_on_the_rounding_of_what_is_left():
    """float32 log-probabilities add up to a little more than 1 here; what was not kept is still not impossible."""
    first = np.float32([[0.0, -18.0]])  # the kept mass is 1 within rounding
    tables = [
        Table(np.zeros(0), np.array([[0, 1]], np.int32), first),
        Table(np.zeros(0), np.array([[2, 3]], np.int32), np.log(np.float32([[0.9, 0.05]]))),
    ]
    _, decided = ensemble_argmax(tables, [0.05, 0.95], "product", 30)
    # Token 2 can have 1e-6 at the first expert: 0.05·log 1e-6 + 0.95·log 0.9 beats token 0 with 0.95·log 0.05.
    assert not decided.any()


@pytest.mark.parametrize("alphas", [[], [-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]])
def test_weights_that_make_no_ensemble_are_refused(alphas):
    with pytest.raises(ValueError, match="expert weights"):
        normalise(alphas)

"""The three draws, the error options and the out-of-bag estimate against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.boosting.alpha import weighted_error
from ensemw2s.boosting.draws import EOS_CAP, draw_training_set, loss_constant
from ensemw2s.boosting.errors import fold_of_example, left_out_weights, out_of_bag_error, smooth_errors, unseen_mass
from ensemw2s.boosting.weights import (
    TokenLayout,
    concentration,
    example_weights,
    initial_weights,
    update_left_out,
    update_weights,
)

layouts = st.lists(st.integers(1, 6), min_size=1, max_size=12).map(
    lambda lengths: TokenLayout(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
)


def random_weights(layout: TokenLayout, seed: int) -> np.ndarray:
    weights = np.random.default_rng(seed).gamma(0.5, size=layout.tokens) + 1e-6
    return weights / weights.sum()


@given(layouts)
def test_initial_weights_are_distributions(layout):
    np.testing.assert_allclose(initial_weights(layout, "token"), 1 / layout.tokens)
    by_example = example_weights(layout, initial_weights(layout, "example"))
    np.testing.assert_allclose(by_example, 1 / layout.examples, rtol=1e-12)


@given(layouts, st.integers(0, 1000))
@settings(deadline=None)
def test_expected_loss_of_all_draws_is_the_same(layout, seed):
    weights = random_weights(layout, seed)
    target = layout.tokens * weights
    none = draw_training_set(layout, weights, "none", seed=seed, stream=1)
    np.testing.assert_allclose(none.token_weights, target, rtol=1e-6)
    np.testing.assert_array_equal(none.index, np.arange(layout.examples))
    # An example is drawn n·D(i) times on average; times the loss weight of a draw that is N·D(i,j).
    example = draw_training_set(layout, weights, "example", seed=seed, stream=1)
    times = np.repeat(layout.examples * example_weights(layout, weights), layout.lengths)
    np.testing.assert_allclose(times * example.token_weights, target, rtol=1e-5)
    assert example.index.size == layout.examples
    np.testing.assert_array_equal(np.flatnonzero(~example.left_out), np.unique(example.index))
    token = draw_training_set(layout, weights, "token", seed=seed, stream=1)
    assert token.token_weights.sum() == layout.tokens


def test_mean_loss_weight_over_many_draws():
    """z-test of the mean weight of every token over 4000 streams; false-alarm rate below 1e-5 over all tokens."""
    layout = TokenLayout(np.array([0, 1, 4, 6, 9, 10]))
    weights = 0.8 * random_weights(layout, 3) + 0.2 / layout.tokens  # none so rare that the z-test fails
    draws = 4000
    for draw in ("example", "token"):
        total = np.zeros(layout.tokens)
        square = np.zeros(layout.tokens)
        for stream in range(draws):
            one = draw_training_set(layout, weights, draw, seed=11, stream=stream)
            times = np.bincount(one.index, minlength=layout.examples)
            used = np.repeat(times, layout.lengths) * one.token_weights
            total += used
            square += used**2
        mean = total / draws
        se = np.sqrt((square / draws - mean**2) / draws)
        assert np.all(np.abs(mean - layout.tokens * weights) < 5.2 * se + 1e-6)


@pytest.mark.parametrize("init", ["token", "example"])
@pytest.mark.parametrize("draw", ["example", "token", "none"])
def test_end_of_sequence_has_weight_one_and_the_constant_divides_to_one(draw, init):
    """z-tests over 3000 streams, false-alarm rate below 1e-5: every example's end-of-sequence token outside ``D`` has
    an expected weight of 1 in a pass, and the whole weight of a sequence is the loss constant."""
    layout = TokenLayout(np.concatenate([[0], np.cumsum(np.tile([1, 4, 2, 6], 5))]).astype(np.int64))
    weights = initial_weights(layout, init) * (1.0 + 3.0 * (np.random.default_rng(4).random(layout.tokens) < 0.4))
    weights /= weights.sum()
    n, constant = layout.examples, loss_constant(layout, eos_included=False)
    assert layout.examples * example_weights(layout, weights).min() > 1 / EOS_CAP  # nothing is capped
    streams = 1 if draw == "none" else 3000
    visits, sequence = np.zeros((streams, n)), np.zeros(streams)
    for stream in range(streams):
        one = draw_training_set(layout, weights, draw, seed=2, stream=stream)
        visits[stream] = np.bincount(one.index, minlength=n) * one.eos_weights
        whole = np.add.reduceat(one.token_weights.astype(np.float64), layout.offsets[:-1]) + one.eos_weights
        sequence[stream] = whole[one.index].mean()
    se = visits.std(axis=0) / math.sqrt(streams)
    assert np.all(np.abs(visits.mean(axis=0) - 1.0) <= 5.2 * se + 1e-6)
    assert abs(sequence.mean() - constant) <= 5.2 * sequence.std() / math.sqrt(streams) + 1e-6


def test_end_of_sequence_of_a_light_example_is_capped_and_of_no_example_infinite():
    layout = TokenLayout(np.array([0, 1, 3, 4]))
    one = draw_training_set(layout, np.array([0.99, 0.005, 0.005, 0.0]), "example", seed=1, stream=1)
    np.testing.assert_allclose(one.eos_weights[:2], [1 / (2 * 0.99), EOS_CAP], rtol=1e-6)
    assert np.isfinite(one.eos_weights).all()
    assert one.eos_weights.dtype == np.float32


def test_draws_follow_seed_and_stream_only():
    layout = TokenLayout(np.arange(0, 101))
    weights = random_weights(layout, 1)
    first = draw_training_set(layout, weights, "example", seed=1, stream=1)
    again = draw_training_set(layout, weights, "example", seed=1, stream=1)
    other = draw_training_set(layout, weights, "example", seed=1, stream=2)
    np.testing.assert_array_equal(first.index, again.index)
    assert not np.array_equal(first.index, other.index)


def test_loss_constant_is_the_mean_number_of_trained_tokens():
    layout = TokenLayout(np.array([0, 2, 6]))
    assert loss_constant(layout, eos_included=True) == 3.0
    assert loss_constant(layout, eos_included=False) == 4.0


@given(layouts, st.integers(0, 1000), st.integers(1, 5))
def test_window_is_a_mean_over_neighbours_of_the_same_example(layout, seed, window):
    wrong = (np.random.default_rng(seed).random(layout.tokens) < 0.5).astype(np.float64)
    smoothed = smooth_errors(layout, random_weights(layout, seed), wrong, level="token", window=window)
    for i in range(layout.examples):
        a, b = layout.offsets[i], layout.offsets[i + 1]
        for j in range(a, b):
            low, high = max(a, j - window // 2), min(b, j + (window - 1) // 2 + 1)
            assert smoothed[j] == pytest.approx(wrong[low:high].mean(), abs=1e-9)


@given(layouts, st.integers(0, 1000))
def test_example_level_is_the_weighted_mean_and_keeps_the_error(layout, seed):
    weights = random_weights(layout, seed)
    wrong = (np.random.default_rng(seed).random(layout.tokens) < 0.5).astype(np.float64)
    level = smooth_errors(layout, weights, wrong, level="example", window=1)
    for i in range(layout.examples):
        part = slice(layout.offsets[i], layout.offsets[i + 1])
        np.testing.assert_allclose(level[part], np.average(wrong[part], weights=weights[part]), atol=1e-12)
    assert weighted_error(weights, level).value == pytest.approx(weighted_error(weights, wrong).value, abs=1e-12)


def test_out_of_bag_error_is_unbiased_where_the_naive_one_is_not():
    """Mean over 400 draws within 5 standard errors of the truth (false alarm below 1e-6); the naive mean is far off."""
    rng = np.random.default_rng(8)
    n = 200
    layout = TokenLayout(np.arange(n + 1))
    weights = rng.gamma(0.3, size=n) + 1e-9
    weights /= weights.sum()
    # Heavy examples are the ones that go wrong, as boosting makes them.
    wrong = (weights > np.quantile(weights, 0.7)).astype(np.float64)
    truth = float(np.dot(weights, wrong))
    numerator, denominator, naive = [], [], []
    for stream in range(400):
        draw = draw_training_set(layout, weights, "example", seed=5, stream=stream)
        q = (1 - weights) ** n
        w = np.where(draw.left_out, weights / q, 0.0)
        numerator.append(np.dot(w, wrong))
        denominator.append(w.sum())
        naive.append(np.dot(weights * draw.left_out, wrong) / np.dot(weights, draw.left_out))
        error = out_of_bag_error(layout, weights, wrong, draw)
        assert error is not None
        assert error.value == pytest.approx(numerator[-1] / denominator[-1], rel=1e-9)
        np.testing.assert_allclose(
            left_out_weights(layout, weights, draw) * w.max() / left_out_weights(layout, weights, draw).max(),
            w,
            rtol=1e-8,
        )
    ratio = np.mean(numerator) / np.mean(denominator)
    residual = np.array(numerator) - ratio * np.array(denominator)
    se = residual.std(ddof=1) / math.sqrt(400) / np.mean(denominator)
    assert abs(ratio - truth) < 5 * se
    assert np.mean(naive) < truth - 0.1


def heavy_weights(n: int, heavy: int, share: float) -> tuple[TokenLayout, np.ndarray]:
    """Weights of ``n`` one-token examples of which the first ``heavy`` hold ``share`` together."""
    weights = np.where(np.arange(n) < heavy, share / heavy, (1 - share) / (n - heavy))
    return TokenLayout(np.arange(n + 1)), weights


@pytest.mark.parametrize(("n", "heavy", "share"), [(600, 40, 0.6), (600, 2, 0.3), (300, 25, 0.9), (2000, 1, 0.2)])
def test_mass_that_is_never_left_out_is_seen(n, heavy, share):
    """Heavy examples are always wrong, the others always right; ε is the heavy share, and every left-out set says 0."""
    layout, weights = heavy_weights(n, heavy, share)
    wrong = (np.arange(n) < heavy).astype(np.float64)
    found = []
    for stream in range(60):
        draw = draw_training_set(layout, weights, "example", seed=3, stream=stream)
        error = out_of_bag_error(layout, weights, wrong, draw)
        if not draw.left_out[:heavy].any():
            found.append(error.value)
            assert error.n_eff > 30  # which is why the effective size cannot tell
    assert len(found) > 30
    assert max(found) == 0.0
    assert unseen_mass(layout, weights) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(
    ("n", "heavy", "share"), [(600, 1, 0.0017), (600, 150, 0.5), (600, 60, 0.25), (2000, 200, 0.3)]
)
def test_mass_that_is_left_out_often_enough_is_not_counted(n, heavy, share):
    """Where little mass is unseen the estimate is near the truth: within that mass and 4 of its standard errors."""
    layout, weights = heavy_weights(n, heavy, share)
    wrong = (np.arange(n) < heavy).astype(np.float64)
    unseen = unseen_mass(layout, weights)
    assert unseen < 0.5 / math.sqrt(30)
    for stream in range(60):
        draw = draw_training_set(layout, weights, "example", seed=3, stream=stream)
        error = out_of_bag_error(layout, weights, wrong, draw)
        assert abs(error.value - share) < unseen + 4 * 0.5 / math.sqrt(error.n_eff)


@given(st.integers(1, 60), st.integers(0, 1000))
def test_unseen_mass_is_a_share_and_the_heaviest_examples(n, seed):
    layout, weights = TokenLayout(np.arange(n + 1)), np.random.default_rng(seed).gamma(0.3, size=n) + 1e-12
    weights /= weights.sum()
    q = (1 - np.minimum(weights, 1)) ** n
    left, expected = 0.0, 0.0
    for i in np.argsort(-weights, kind="stable"):
        left += q[i]
        if left >= 1.0:
            break
        expected += weights[i]
    assert unseen_mass(layout, weights) == pytest.approx(expected, abs=1e-9)
    assert 0.0 <= unseen_mass(layout, weights) <= 1.0 + 1e-12


def test_out_of_bag_update_keeps_the_mass_of_the_left_out():
    rng = np.random.default_rng(9)
    weights = rng.gamma(1.0, size=60)
    weights /= weights.sum()
    before = weights.copy()
    wrong = (rng.random(60) < 0.5).astype(np.float64)
    left = rng.random(60) < 0.4
    update_left_out(weights, wrong, left, 1.3, None)
    np.testing.assert_array_equal(weights[~left], before[~left])
    assert weights[left].sum() == pytest.approx(before[left].sum(), abs=1e-14)
    expected = before[left] * np.exp(1.3 * wrong[left])
    np.testing.assert_allclose(weights[left], expected * before[left].sum() / expected.sum(), rtol=1e-12)


@given(st.integers(2, 40), st.integers(2, 5), st.integers(0, 99))
def test_folds_are_balanced(n, folds, seed):
    counts = np.bincount(fold_of_example(n, folds, seed), minlength=folds)
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1


def test_update_in_a_memory_map(tmp_path):
    path = tmp_path / "d.npy"
    weights = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(1000,))
    weights[:] = 1e-3
    wrong = (np.arange(1000) % 3 == 0).astype(np.float64)
    sums = update_weights(
        weights, wrong, 0.7, None, TokenLayout(np.array([0, 400, 1000])), weighted_error(weights, wrong)
    )
    weights.flush()
    expected = np.exp(0.7 * wrong) / np.exp(0.7 * wrong).sum()
    np.testing.assert_allclose(np.load(path), expected, rtol=1e-12)
    np.testing.assert_allclose(sums, [expected[:400].sum(), expected[400:].sum()], rtol=1e-12)


def test_concentration_of_uniform_weights():
    shape = concentration(np.full(500, 1 / 500))
    assert shape.n_eff == pytest.approx(500)
    assert shape.top1_share == pytest.approx(0.01)


@pytest.mark.parametrize("weights", [np.zeros(3), np.array([np.nan, 1.0]), np.array([np.inf, 1.0])])
def test_weighted_error_refuses_weights_that_are_no_distribution(weights):
    with pytest.raises(ValueError, match="finite"):
        weighted_error(weights, np.ones(weights.size))

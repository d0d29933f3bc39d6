from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.evaluation.calibration import expected_calibration_error
from ensemw2s.evaluation.intervals import wilson
from ensemw2s.evaluation.metrics import choice_correct, choose, length_normalise, summarise, token_accuracy


def test_length_norms():
    sums, tokens, bytes_ = [-4.0, -6.0, -np.inf], [2, 3, 1], [8, 6, 5]
    np.testing.assert_array_equal(length_normalise(sums, tokens, bytes_, "sum"), sums)
    np.testing.assert_array_equal(length_normalise(sums, tokens, bytes_, "mean"), [-2.0, -2.0, -np.inf])
    np.testing.assert_array_equal(length_normalise(sums, tokens, bytes_, "byte"), [-0.5, -1.0, -np.inf])


def test_length_norm_changes_the_choice():
    """A long option loses by sum, ties by mean (lowest index wins), and wins by bytes."""
    sums, tokens, bytes_, offsets = [-2.0, -4.0], [1, 2], [1, 4], [0, 2]
    assert [choose(length_normalise(sums, tokens, bytes_, n), offsets)[0] for n in ("sum", "mean", "byte")] == [0, 0, 1]
    assert choose(length_normalise(sums[::-1], tokens[::-1], bytes_[::-1], "mean"), offsets)[0] == 0


@pytest.mark.parametrize(
    ("tokens", "norm", "message"), [([1, 0], "mean", "no tokens"), ([1], "mean", "one length"), ([1, 1], "max", "norm")]
)
def test_length_normalise_refuses(tokens, norm, message):
    with pytest.raises(ValueError, match=message):
        length_normalise([-1.0, -2.0], tokens, [1, 1], norm)


SCORES = st.lists(
    st.lists(st.sampled_from([-np.inf, -3.0, -2.5, -2.0, 0.0]), min_size=1, max_size=6), min_size=1, max_size=20
)


@given(SCORES)
def test_choose_is_argmax_per_example(rows):
    offsets = np.cumsum([0, *map(len, rows)])
    # numpy's argmax takes the first of equals
    assert choose(np.concatenate(rows), offsets).tolist() == [int(np.argmax(row)) for row in rows]


def test_choice_correct():
    scores, offsets = [-1.0, -0.5, -2.0, -2.0, -1.0, -3.0, -0.1], [0, 2, 4, 7]
    assert choice_correct(scores, offsets, [1, 1, 2]).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("scores", "offsets", "answers", "message"),
    [
        ([-1.0, np.nan], [0, 2], [0], "NaN"),
        ([-1.0, -2.0], [0, 1], [0], "offsets"),
        ([-1.0, -2.0], [0, 0, 2], [0, 0], "at least one"),
        ([], [0], [], "offsets"),
        ([-1.0, -2.0], [0, 2], [-1], "hidden"),
        ([-1.0, -2.0], [0, 2], [2], "among the options"),
        ([-1.0, -2.0], [0, 2], [0, 1], "one answer"),
    ],
)
def test_choice_correct_refuses(scores, offsets, answers, message):
    with pytest.raises(ValueError, match=message):
        choice_correct(scores, offsets, answers)


def test_summarise():
    found = summarise(np.array([True, True, False, True]))
    interval = wilson(3, 4)
    assert (found.accuracy, found.correct, found.n) == (0.75, 3, 4)
    assert (found.low, found.high) == (interval.low, interval.high)
    assert found.token_accuracy is None
    with pytest.raises(ValueError, match="at least one example"):
        summarise([])


def test_token_accuracy_is_micro():
    """3 of 4 tokens of a long answer and 0 of 1 of a short one: 3/5 over tokens, not (3/4 + 0)/2."""
    found = token_accuracy([1, 1, 1, 0, 0], [0, 4, 5], level=0.95, resamples=200, seed=0)
    assert found.value == pytest.approx(0.6)
    assert found.tokens == 5
    assert found.low == 0.0
    assert found.high == 0.75
    assert summarise([1, 0], tokens=found).to_json()["token_accuracy"]["tokens"] == 5


def test_token_accuracy_refuses():
    with pytest.raises(ValueError, match="offsets"):
        token_accuracy([1, 1], [0, 1], level=0.95, resamples=100, seed=0)
    with pytest.raises(ValueError, match="at least one"):
        token_accuracy([1, 1], [0, 2, 2], level=0.95, resamples=100, seed=0)


def test_calibration_by_hand():
    found = expected_calibration_error([0.0, 0.1, 0.95, 0.85, 0.9], [0, 1, 1, 1, 0], bins=10)
    # bins (0, .1]: confidence .05, accuracy ½; (.8, .9]: .875, ½; (.9, 1]: .95, 1
    assert [b.n for b in found.bins] == [2, 2, 1]
    assert found.ece == pytest.approx((2 * 0.45 + 2 * 0.375 + 0.05) / 5)


def test_calibration_of_honest_confidence_is_small():
    rng = np.random.default_rng(0)
    sure = rng.random(200_000)
    assert expected_calibration_error(sure, rng.random(sure.size) < sure).ece < 0.01


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(1, 20))
def test_calibration_counts_everything(rows, bins):
    sure, right = zip(*rows, strict=True)
    found = expected_calibration_error(sure, right, bins)
    assert sum(b.n for b in found.bins) == found.n == len(rows)
    assert 0.0 <= found.ece <= 1.0
    for b in found.bins:
        assert b.low - 1e-12 <= b.confidence <= b.high + 1e-12


@pytest.mark.parametrize(
    ("sure", "right", "bins", "message"),
    [
        ([], [], 10, "at least one"),
        ([0.5], [1, 0], 10, "one confidence"),
        ([1.5], [1], 10, "0, 1"),
        ([0.5], [1], 0, "bins"),
    ],
)
def test_calibration_refuses(sure, right, bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(sure, right, bins)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.evaluation.calibration import expected_calibration_error
from ensemw2s.evaluation.reliability import reliability


def draw(seed, n, shift=0.0):
    """Confidences, and outcomes that are right with that chance plus a shift."""
    rng = np.random.default_rng(seed)
    sure = rng.beta(4, 2, n)
    return sure, rng.random(n) < np.clip(sure + shift, 0, 1)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 80))
@settings(max_examples=30, deadline=None)
def test_error_and_bins_by_a_plain_loop(seed, bins, n):
    sure, right = draw(seed, n)
    found = reliability("single", "test", "token", sure, right, bins=bins, resamples=50)
    total = 0.0
    rows = []
    for k in range(bins):
        inside = [(s, r) for s, r in zip(sure, right, strict=True) if k / bins < s <= (k + 1) / bins]
        if inside:
            confidence, accuracy = np.mean([s for s, _ in inside]), np.mean([r for _, r in inside])
            total += len(inside) / n * abs(confidence - accuracy)
            rows.append((len(inside), confidence, accuracy))
    assert found.ece == pytest.approx(total) == expected_calibration_error(sure, right, bins).ece
    assert [b.n for b in found.bins] == [row[0] for row in rows]
    assert [b.confidence for b in found.bins] == pytest.approx([row[1] for row in rows])
    assert [b.accuracy for b in found.bins] == pytest.approx([row[2] for row in rows])
    assert 0.0 <= found.low <= found.ece <= found.high <= 1.0
    for b in found.bins:
        assert b.accuracy_low <= b.accuracy <= b.accuracy_high


def true_error(shift, bins=10):
    sure = np.random.default_rng(99).beta(4, 2, 400_000)
    gap = np.clip(sure + shift, 0, 1) - sure
    index = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    return np.abs(np.bincount(index, weights=gap, minlength=bins)).sum() / sure.size


@pytest.mark.parametrize(("shift", "least"), [(0.0, 0.9), (-0.2, 0.85)])
def test_interval_holds_the_true_error(shift, least):
    """Simulated worlds: also a perfectly calibrated model's 0, which a percentile bootstrap never holds."""
    truth = true_error(shift)
    inside = 0
    for seed in range(100):
        found = reliability("a", "test", "option", *draw(seed, 300, shift), resamples=200, seed=seed)
        inside += found.low <= truth <= found.high
    assert inside >= 100 * least


def test_miscalibration_is_noticed():
    off = reliability("a", "test", "option", *draw(1, 600, -0.2), seed=0)
    assert off.is_off
    assert off.low > 0.1
    fine = reliability("a", "test", "option", *draw(1, 600), seed=0)
    assert not fine.is_off
    assert fine.low == 0.0


def test_the_same_seed_gives_the_same_interval():
    sure, right = draw(5, 200, 0.1)
    one = reliability("a", "test", "token", sure, right, seed=3)
    assert one == reliability("a", "test", "token", sure, right, seed=3)
    assert one.to_json()["bins"][0].keys() == {
        "low", "high", "n", "confidence", "accuracy", "accuracy_low", "accuracy_high",
    }  # fmt: skip


def test_bad_input():
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        reliability("a", "test", "token", [1.2], [True])
    with pytest.raises(ValueError, match="level"):
        reliability("a", "test", "token", [0.2], [True], level=1.0)

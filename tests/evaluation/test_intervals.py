from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from ensemw2s.evaluation.intervals import clustered_bootstrap, critical_value, wilson


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 10), (263, 410), (1, 100_000)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_agrees_with_scipy(correct, n, level):
    expected = binomtest(correct, n).proportion_ci(confidence_level=level, method="wilson")
    found = wilson(correct, n, level)
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_estimate_and_mirrors(pair):
    correct, n = pair
    found, mirrored = wilson(correct, n), wilson(n - correct, n)
    assert 0.0 <= found.low <= correct / n <= found.high <= 1.0
    assert found.high - found.low > 0.0
    assert found.low == pytest.approx(1.0 - mirrored.high, abs=1e-12)


def test_wilson_coverage_is_exact_enough():
    """The true coverage by summing the binomial distribution, no simulation: near 95 % for usual sizes."""
    n, p = 300, 0.62
    k = np.arange(n + 1)
    inside = [wilson(int(c), n).low <= p <= wilson(int(c), n).high for c in k]
    assert 0.94 <= binom.pmf(k, n, p)[inside].sum() <= 0.96


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses(correct, n):
    with pytest.raises(ValueError, match=r"at least one example|correct must lie"):
        wilson(correct, n)


def test_critical_value():
    assert critical_value(0.95) == pytest.approx(1.959963984540054, abs=1e-12)
    with pytest.raises(ValueError, match="between 0 and 1"):
        critical_value(1.0)


def _tokens(rng, clusters, lengths=(1, 7)):
    """Token outcomes whose chance of being right is shared within an example (beta with mean 0.7)."""
    sizes = rng.integers(*lengths, size=clusters)
    ids = np.repeat(np.arange(clusters), sizes)
    chance = rng.beta(1.4, 0.6, size=clusters)
    return (rng.random(ids.size) < chance[ids]).astype(float), ids


def test_bootstrap_is_seeded_and_ignores_order_and_names():
    rng = np.random.default_rng(3)
    values, ids = _tokens(rng, 80)
    first = clustered_bootstrap(values, ids, seed=5)
    assert first == clustered_bootstrap(values, ids, seed=5)
    assert first != clustered_bootstrap(values, ids, seed=6)
    order = rng.permutation(values.size)
    assert first == clustered_bootstrap(values[order], ids[order], seed=5)
    assert first == clustered_bootstrap(values, 10 * ids - 7, seed=5)
    assert first.low < values.mean() < first.high


def test_bootstrap_agrees_with_one_resample_at_a_time():
    """An independent, slow bootstrap with other draws: both ends agree within the noise of 4000 resamples."""
    rng = np.random.default_rng(11)
    values, ids = _tokens(rng, 60)
    parts = [values[ids == c] for c in range(60)]
    means = []
    for _ in range(4000):
        drawn = [parts[c] for c in rng.integers(0, 60, size=60)]
        means.append(np.concatenate(drawn).mean())
    low, high = np.quantile(means, [0.025, 0.975])
    found = clustered_bootstrap(values, ids, resamples=4000, seed=1)
    # the standard error of a 2.5 % quantile from 4000 draws is about 0.042 sd of the means; 6 of them allow for both
    tolerance = 6 * 0.042 * np.std(means)
    assert found.low == pytest.approx(low, abs=tolerance)
    assert found.high == pytest.approx(high, abs=tolerance)


def test_bootstrap_clusters_widen_the_interval():
    """Ten copies of each observation carry no more information: the interval stays, a token-wise one would shrink."""
    rng = np.random.default_rng(0)
    single = (rng.random(150) < 0.6).astype(float)
    alone = clustered_bootstrap(single, np.arange(150), seed=2)
    copies = clustered_bootstrap(np.repeat(single, 10), np.repeat(np.arange(150), 10), seed=2)
    assert copies == alone
    tokenwise = clustered_bootstrap(np.repeat(single, 10), np.arange(1500), seed=2)
    assert tokenwise.high - tokenwise.low < 0.5 * (copies.high - copies.low)


def test_bootstrap_chunks_change_nothing(monkeypatch):
    values, ids = _tokens(np.random.default_rng(4), 50)
    whole = clustered_bootstrap(values, ids, seed=9, resamples=333)
    monkeypatch.setattr("ensemw2s.evaluation.intervals._CHUNK", 50 * 7)
    assert clustered_bootstrap(values, ids, seed=9, resamples=333) == whole


def test_bootstrap_coverage():
    """Coverage of the 95 % interval over 600 data sets of 150 examples.

    The percentile bootstrap covers a little less than nominal here (94 %). For a true coverage of 94 % the bounds
    are 3.7 binomial standard errors away: another seed would fail about once in 5000.
    """
    rng = np.random.default_rng(2026)
    big_values, _ = _tokens(rng, 400_000)
    truth = big_values.mean()
    inside = 0
    for repeat in range(600):
        values, ids = _tokens(rng, 150)
        found = clustered_bootstrap(values, ids, resamples=300, seed=repeat)
        inside += found.low <= truth <= found.high
    assert 0.904 <= inside / 600 <= 0.976


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_bootstrap_of_constant_tokens_is_not_a_point(value):
    found = clustered_bootstrap(np.full(60, value), np.repeat(np.arange(20), 3))
    assert found == wilson(int(20 * value), 20)


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([], [], "at least one"),
        ([1.0, 0.0], [1], "equally long"),
        ([[1.0]], [[1]], "one-dimensional"),
        ([0.5, 1.5], [0, 1], r"\[0, 1\]"),
        ([0.5, float("nan")], [0, 1], r"\[0, 1\]"),
        ([1.0, 0.0], [0.0, 1.0], "integers"),
    ],
)
def test_bootstrap_refuses(values, clusters, message):
    with pytest.raises(ValueError, match=message):
        clustered_bootstrap(
            values, np.asarray(clusters, dtype=float if clusters == [0.0, 1.0] and message == "integers" else int)
        )


def test_bootstrap_refuses_no_resamples():
    with pytest.raises(ValueError, match="resamples"):
        clustered_bootstrap([1.0, 0.0], [0, 1], resamples=0)

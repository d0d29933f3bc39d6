from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_rel

from ensemw2s.evaluation.comparisons import holm, mcnemar_exact, paired_difference, paired_t
from ensemw2s.evaluation.intervals import wilson

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def _table(both, a_only, b_only, neither):
    a = [1] * both + [1] * a_only + [0] * b_only + [0] * neither
    b = [1] * both + [0] * a_only + [1] * b_only + [0] * neither
    return np.array(a, bool), np.array(b, bool)


def test_paired_difference_closed_form():
    a, b = _table(50, 12, 5, 33)
    found = paired_difference(a, b)
    # textbook: var(d̄) = ((b + c) − (b − c)²/n)/(n(n − 1))
    se = np.sqrt((17 - 49 / 100) / (100 * 99))
    assert found.estimate == pytest.approx(0.07, abs=1e-15)
    assert found.se == pytest.approx(se, abs=1e-15)
    assert found.low == pytest.approx(0.07 - 1.959963984540054 * se, abs=1e-12)
    assert found.high == pytest.approx(0.07 + 1.959963984540054 * se, abs=1e-12)
    assert found.n == 100


def test_paired_difference_where_nothing_differs_is_not_a_point():
    a, _ = _table(60, 0, 0, 40)
    found = paired_difference(a, a)
    assert (found.estimate, found.se) == (0.0, 0.0)
    # Agresti and Min's half-width with no discordant pair: z/(n + 2)
    assert found.high == pytest.approx(1.959963984540054 / 102, abs=1e-12)
    assert found.low == pytest.approx(-found.high, abs=1e-15)


def test_paired_difference_all_right_against_all_wrong():
    found = paired_difference(np.ones(50, bool), np.zeros(50, bool))
    assert (found.estimate, found.high) == (1.0, 1.0)
    # half a count in each cell: 50.5, 0.5, 0.5, 0.5 of 52
    centre = 50 / 52
    half = 1.959963984540054 * np.sqrt((51 / 52 - centre**2) / 52)
    assert found.low == pytest.approx(centre - half, abs=1e-12)


def test_paired_difference_of_one_example():
    found = paired_difference([1], [0])
    assert found.estimate == 1.0
    assert found.low < 0.0


@given(PAIRS)
def test_paired_difference_is_antisymmetric_and_bounded(pairs):
    a, b = np.array(pairs, bool).T
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.estimate == -back.estimate
    assert there.low == pytest.approx(-back.high, abs=1e-12)
    assert -1.0 <= there.low <= there.estimate <= there.high <= 1.0
    assert there.high > there.low


def test_paired_difference_coverage():
    """2000 data sets of 300 pairs; 4 standard errors around 95 % are allowed (1 seed in 16 000 fails)."""
    rng = np.random.default_rng(7)
    counts = rng.multinomial(300, [0.5, 0.13, 0.09, 0.28], size=2000)
    inside = 0
    for row in counts:
        found = paired_difference(*_table(*row))
        inside += found.low <= 0.04 <= found.high
    assert abs(inside / 2000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_mcnemar_is_the_binomial_test(a_only, b_only, rest):
    a, b = _table(rest, a_only, b_only, 1)
    found = mcnemar_exact(a, b)
    assert (found.b10, found.b01) == (a_only, b_only)
    expected = binomtest(a_only, a_only + b_only, 0.5).pvalue if a_only + b_only else 1.0
    assert found.p == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert mcnemar_exact(b, a).p == found.p


@pytest.mark.parametrize("test", [paired_difference, mcnemar_exact])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [], "at least one example"),
        ([1, 0], [1], "same examples"),
        ([1, 2], [1, 0], "right .1. or wrong"),
        ([1.0, float("nan")], [1, 0], "right .1. or wrong"),
        ([[1]], [[0]], "one value an example"),
    ],
)
def test_pairs_refuse(test, a, b, message):
    with pytest.raises(ValueError, match=message):
        test(a, b)


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=2, max_size=12).filter(
        lambda xs: len({a - b for a, b in xs}) > 1
    )
)
def test_paired_t_agrees_with_scipy(counts):
    a, b = np.array(counts).T / 400
    found = paired_t(a - b)
    expected = ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.t == pytest.approx(expected.statistic, rel=1e-6, abs=1e-9)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    assert found.differences == tuple(a - b)
    assert found.n == len(counts)


def test_paired_t_does_not_take_rounding_for_agreement():
    """The same difference twice, up to rounding, is not a p-value of 1e-16."""
    differences = [0.3 - 0.2, 0.2 - 0.1]
    assert differences[0] != differences[1]
    found = paired_t(differences)
    assert (found.t, found.p, found.low) == (None, None, None)
    assert found.mean == pytest.approx(0.1)


@pytest.mark.parametrize(("values", "message"), [([0.1], "two seeds"), ([], "two seeds"), ([0.1, np.inf], "finite")])
def test_paired_t_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        paired_t(values)


def test_holm_known_example():
    # Holm (1979) by hand: 4·0.005, 3·0.01, 2·0.03, then the running maximum
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_counts_tests_without_a_p_value():
    assert holm([0.02, None, 0.03]) == [pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_raw_and_bonferroni_and_keeps_order(p):
    adjusted = holm(p)
    for raw, found in zip(p, adjusted, strict=True):
        assert found is not None
        assert raw <= found + 1e-15
        assert found <= min(1.0, len(p) * raw) + 1e-15 or found <= max(holm(p))
    ranks = np.argsort(p, kind="stable")
    assert (np.diff([adjusted[r] for r in ranks]) >= 0).all()


def test_holm_refuses_what_is_no_p_value():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.1, float("nan")])


def test_results_become_json():
    assert wilson(1, 2).to_json() == {"low": pytest.approx(0.0945, abs=1e-4), "high": pytest.approx(0.9055, abs=1e-4)}
    found = paired_t([0.1, 0.3]).to_json()
    assert found["differences"] == [0.1, 0.3]
    keys = {"differences", "mean", "sd", "low", "high", "t", "p", "n", "se", "sampling_se", "repeat_low", "repeat_high"}
    assert set(found) == keys

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ensemw2s.evaluation.comparisons import paired_difference, t_critical
from ensemw2s.evaluation.intervals import critical_value
from ensemw2s.evaluation.pgr import FiellerSet, fieller_set, pgr_fieller, ratio_of_means


def holds(region, ratio):
    """Whether a ratio is in Fieller's set."""
    if region.kind in ("whole_line", "empty"):
        return region.kind == "whole_line"
    above = region.low is None or ratio >= region.low
    below = region.high is None or ratio <= region.high
    if region.kind == "outside":
        return (region.low is not None and ratio <= region.low) or (region.high is not None and ratio >= region.high)
    return above and below


Z = critical_value(0.95)
TRIPLES = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=12, max_size=80)


def _draw(rng, n, weak=0.55, student=0.66, ceiling=0.77, overlap=0.8):
    """Three models whose right answers depend on one difficulty per question (Gaussian copula)."""
    shared = rng.standard_normal((n, 1))
    own = rng.standard_normal((n, 3))
    from scipy.special import ndtr

    uniform = ndtr(np.sqrt(overlap) * shared + np.sqrt(1 - overlap) * own)
    return (uniform < np.array([weak, student, ceiling])).T


def _definition(w, s, c, r):
    """|(S − W) − r(C − W)| − z·se(r), with se(r) over the examples; Fieller's set is where this is ≤ 0."""
    d = (s.astype(float) - w) - r * (c.astype(float) - w)
    return abs(d.mean()) - Z * d.std(ddof=1) / np.sqrt(d.size)


@given(TRIPLES, st.floats(-20, 20))
def test_fieller_is_its_definition(triples, r):
    w, s, c = np.array(triples, bool).T
    num, den = s.astype(float) - w, c.astype(float) - w
    cov = np.cov(np.stack([num, den])) / num.size
    region = fieller_set(num.mean(), den.mean(), var_num=cov[0, 0], var_den=cov[1, 1], cov=cov[0, 1], critical=Z)
    distance = _definition(w, s, c, r)
    assume(abs(distance) > 1e-9)
    assert holds(region, r) == (distance < 0)


@given(TRIPLES)
def test_pgr_and_differences_never_contradict(triples):
    """PGR's interval holds 0 where S − W's does, and 1 where C − S's holds 0; PGR is defined where C − W is clear."""
    w, s, c = np.array(triples, bool).T
    found = pgr_fieller(w, s, c)
    gap, gained, left = paired_difference(c, w), paired_difference(s, w), paired_difference(c, s)
    assume(min(abs(gap.low), abs(gained.low), abs(gained.high), abs(left.low), abs(left.high)) > 1e-9)
    assert (found.kind == "interval") == (gap.low > 0)
    if found.kind == "interval":
        assert found.low <= found.value <= found.high
        assert (found.low <= 0 <= found.high) == (gained.low <= 0 <= gained.high)
        assert (found.low <= 1 <= found.high) == (left.low <= 0 <= left.high)
        assert found.value == pytest.approx((s.mean() - w.mean()) / (c.mean() - w.mean()))
        assert found.reason == ""
    else:
        assert (found.value, found.low, found.high) == (None, None, None)
        assert "not clearly above the weak model" in found.reason


def test_fieller_cases():
    bounded = fieller_set(1.0, 2.0, var_num=0.01, var_den=0.01, cov=0.0, critical=Z)
    assert bounded.kind == "interval"
    assert bounded.low < 0.5 < bounded.high
    outside = fieller_set(1.0, 0.1, var_num=0.01, var_den=0.01, cov=0.0, critical=Z)
    assert outside.kind == "outside"
    assert holds(outside, 10.0)
    assert holds(outside, -1e9)
    assert not holds(outside, 0.0)
    whole = fieller_set(0.1, 0.1, var_num=1.0, var_den=1.0, cov=0.0, critical=Z)
    assert whole == FiellerSet("whole_line", None, None)
    assert holds(whole, 123.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_fieller_half_line_where_the_denominator_is_exactly_at_the_edge(sign):
    region = fieller_set(3.0 * sign, 2.0, var_num=1.0, var_den=1.0, cov=0.0, critical=2.0)
    # a = 0, b = 6, c = 5: r ≥ 5/12 (mirrored for a negative numerator)
    assert region.kind == "half_line"
    end = region.low if sign > 0 else region.high
    assert end == pytest.approx(sign * 5 / 12)
    assert holds(region, sign * 100.0)
    assert not holds(region, 0.0)


def test_fieller_without_any_spread():
    assert fieller_set(0.2, 0.4, var_num=0.0, var_den=0.0, cov=0.0, critical=Z) == FiellerSet("interval", 0.5, 0.5)
    assert fieller_set(0.2, 0.0, var_num=0.0, var_den=0.0, cov=0.0, critical=Z).kind == "empty"
    assert fieller_set(0.0, 0.0, var_num=0.0, var_den=0.0, cov=0.0, critical=Z).kind == "whole_line"


def test_fieller_roots_do_not_cancel():
    """One root near 0: the textbook formula (b − √(b² − ac))/a loses it, q does not."""
    region = fieller_set(1.0, 1e8, var_num=1.0 / Z**2 * (1 - 1e-12), var_den=0.0, cov=0.0, critical=Z)
    assert region.low == pytest.approx(0.5e-12 / 1e8, rel=1e-3)


def test_fieller_coverage():
    """Coverage of the 95 % interval over 4000 data sets of 400 examples with a clear gap (true PGR ½).

    The test allows 4 binomial standard errors: with exact coverage another seed would fail once in 16 000.
    """
    rng = np.random.default_rng(20250521)
    inside = undefined = 0
    for _ in range(4000):
        found = pgr_fieller(*_draw(rng, 400))
        if found.value is None:
            undefined += 1
        else:
            inside += found.low <= 0.5 <= found.high
    assert undefined == 0
    assert abs(inside / 4000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


def test_fieller_set_coverage_with_a_small_gap():
    """Where the gap is small the set is often unbounded, and still holds the true ratio in 95 % of 3000 data sets.

    Allowed: 4 binomial standard errors (1 in 16 000 with exact coverage) and 0.5 points for the normal approximation.
    """
    rng = np.random.default_rng(99)
    inside, kinds = 0, set()
    for _ in range(3000):
        w, s, c = _draw(rng, 300, 0.60, 0.615, 0.63).astype(float)
        cov = np.cov(np.stack([s - w, c - w])) / 300
        region = fieller_set(
            (s - w).mean(), (c - w).mean(), var_num=cov[0, 0], var_den=cov[1, 1], cov=cov[0, 1], critical=Z
        )
        kinds.add(region.kind)
        inside += holds(region, 0.5)
    assert {"interval", "outside", "whole_line"} <= kinds
    assert abs(inside / 3000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 3000) + 0.005


def test_equal_ceiling_and_weak_is_undefined_and_says_so():
    rng = np.random.default_rng(0)
    w, s, _ = _draw(rng, 200)
    found = pgr_fieller(w, s, w)
    assert found.kind == "undefined"
    assert "C − W is +0.0 points" in found.reason
    assert found.to_json()["value"] is None


def test_everything_right_is_undefined():
    right = np.ones(50, bool)
    assert pgr_fieller(right, right, right).kind == "undefined"


def test_ceiling_below_weak_is_undefined_though_the_gap_is_clear():
    rng = np.random.default_rng(1)
    w, s, c = _draw(rng, 400, weak=0.8, student=0.7, ceiling=0.5)
    found = pgr_fieller(w, s, c)
    assert found.kind == "undefined"
    assert found.region == "interval"


def test_student_equal_to_weak_or_ceiling():
    w, _, c = _draw(np.random.default_rng(2), 400)
    assert pgr_fieller(w, w, c).value == 0.0
    assert pgr_fieller(w, c, c).value == pytest.approx(1.0)


@pytest.mark.parametrize("n", [3, 7, 20, 1000])
def test_equal_to_a_ceiling_that_is_always_right_is_no_point(n):
    found = pgr_fieller([0] * n, [1] * n, [1] * n)
    gap, apart = (3 * n + 2) / (n + 2) ** 3, 1 / (n + 2) ** 2  # Agresti and Min's variances of 1, 1, … and 0, 0, …
    a, b = 1 - Z**2 * gap, 1 - Z**2 * (gap - apart / 2)
    root = np.sqrt(b * b - a * a)
    assert (found.value, found.kind) == (1.0, "interval")
    assert (found.low, found.high) == pytest.approx(((b - root) / a, (b + root) / a), rel=1e-9)
    assert found.high > found.low + 1 / n


@pytest.mark.parametrize("n", [40, 400])
def test_ends_where_the_student_equals_the_ceiling_or_the_weak_model(n):
    w, _, c = _draw(np.random.default_rng(2), n, weak=0.2, student=0.5, ceiling=0.9)
    d = c.astype(float) - w
    gap, var, apart = d.mean(), d.var(ddof=1) / n, 1 / (n + 2) ** 2
    same, none = pgr_fieller(w, c, c), pgr_fieller(w, w, c)
    for end in (none.low, none.high):  # N = 0, Var(N) = apart, Cov = apart/2
        assert (end * gap) ** 2 == pytest.approx(Z**2 * (apart - end * apart + end**2 * var), rel=1e-9)
    for end in (same.low, same.high):  # the same, seen from the ceiling
        left = 1 - end
        assert (left * gap) ** 2 == pytest.approx(Z**2 * (apart - left * apart + left**2 * var), rel=1e-9)
    assert none.low < 0.0 < none.high
    assert same.low < 1.0 < same.high
    half = paired_difference(c, c).high
    assert same.high - same.low == pytest.approx(2 * half / gap, rel=0.6)


@given(
    st.integers(3, 40).flatmap(lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n)] * 2)),
    st.sampled_from(["weak", "ceiling", "right", "wrong"]),
)
def test_a_student_that_equals_another_arm_has_an_interval_with_a_width(arms, like):
    w, c = (np.array(arm) for arm in arms)
    s = {"weak": w, "ceiling": c, "right": np.ones_like(w), "wrong": np.zeros_like(w)}[like]
    found = pgr_fieller(w, s, c)
    if found.value is None:
        return
    assert found.low < found.value < found.high
    for arm, value in ((w, 0.0), (c, 1.0)):  # with the differences: S − W holds 0, S − C holds 0
        difference = paired_difference(s, arm)
        inside = difference.low <= 0.0 <= difference.high
        if min(abs(difference.low), abs(difference.high)) > 1e-9:
            assert (found.low <= value <= found.high) == inside


@pytest.mark.parametrize(
    ("arms", "message"),
    [(([], [], []), "at least one example"), (([1, 0], [1, 0], [1]), "same examples"), (([1], [2], [1]), "student")],
)
def test_pgr_refuses(arms, message):
    with pytest.raises(ValueError, match=message):
        pgr_fieller(*arms)


def test_one_example_is_undefined():
    assert pgr_fieller([0], [1], [1]).kind == "undefined"


def test_ratio_of_means_is_not_the_mean_of_ratios():
    gained, gap = [0.10, 0.12, 0.11], [0.20, 0.22, 0.24]
    found = ratio_of_means(gained, gap)
    assert found.value == pytest.approx(0.33 / 0.66)
    d = np.array(gained) - found.low * np.array(gap)
    # the end of the interval is where the paired t-test of N − r·D is exactly at its critical value
    assert abs(d.mean()) == pytest.approx(t_critical(3, 0.95) * d.std(ddof=1) / np.sqrt(3))


def test_ratio_of_means_is_undefined_where_seeds_disagree_about_the_gap():
    found = ratio_of_means([0.05, 0.01], [0.20, 0.02])
    assert found.kind == "undefined"
    assert "C − W is +11.0 points" in found.reason


def test_ratio_of_means_coverage():
    """4000 sets of 4 seeds with Gaussian seed noise; Fieller with t is exact there. 4 standard errors: 1 in 16 000."""
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(4000):
        gap = 0.2 + 0.02 * rng.standard_normal(4)
        gained = 0.5 * 0.2 + 0.3 * (gap - 0.2) + 0.01 * rng.standard_normal(4)
        found = ratio_of_means(gained, gap)
        inside += found.value is not None and found.low <= 0.5 <= found.high
    assert abs(inside / 4000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


@pytest.mark.parametrize(
    ("num", "den", "message"),
    [([0.1], [0.2], "two seeds"), ([0.1, 0.2], [0.2], "same seeds"), ([np.nan, 0.1], [0.1, 0.2], "numerator")],
)
def test_ratio_of_means_refuses(num, den, message):
    with pytest.raises(ValueError, match=message):
        ratio_of_means(num, den)

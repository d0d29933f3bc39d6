"""Weight updates at the ends of float64, against arithmetic of hundreds of digits."""

from __future__ import annotations

import math
import time

import mpmath
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ensemw2s._native import boost_update
from ensemw2s.boosting.alpha import weighted_error
from ensemw2s.boosting.weights import update_left_out

MP = mpmath.mp.clone()
MP.prec = 1400  # digits enough for log w beside exponents of 1e308


def updated(weights: list[float], wrong: list[float], alpha: float, limit: float | None) -> list[float]:
    """``w exp(alpha s)``, normalised; what exceeds the limit stands at it, the others share the rest in proportion."""
    exponents = [
        None if w == 0 else MP.mpf(alpha) * MP.mpf(s) + MP.log(MP.mpf(w)) for w, s in zip(weights, wrong, strict=True)
    ]
    order = sorted((j for j, x in enumerate(exponents) if x is not None), key=lambda j: -exponents[j])
    level = None if limit is None else MP.mpf(limit)
    out = [MP.mpf(0)] * len(weights)
    for capped in range(len(order)):
        shares = [MP.exp(exponents[j] - exponents[order[capped]]) for j in order[capped:]]
        rest = 1 if level is None else 1 - capped * level
        factor = rest / MP.fsum(shares)
        if level is None or shares[0] * factor <= level * (1 + MP.mpf(2) ** -52):
            for j in order[:capped]:
                out[j] = level
            for j, share in zip(order[capped:], shares, strict=True):
                out[j] = share * factor
            return [float(x) for x in out]
    return [float(level) if x is not None else 0.0 for x in exponents]


def check(weights, wrong, alpha, cap, dtype=np.float64, threads=1) -> np.ndarray:
    before = np.array(weights, dtype)
    flags = np.asarray(wrong, np.float64)
    limit = None
    if cap is not None:
        limit = cap / len(before)
        near = dtype(limit)
        limit = float(near if float(near) <= limit else np.nextafter(near, dtype(0)))
    after = before.copy()
    result = boost_update(after, flags, alpha, cap, threads=threads)
    expected = updated(before.tolist(), flags.tolist(), alpha, limit)
    single = dtype is np.float32
    np.testing.assert_allclose(
        # what the weights at the limit leave for the others is a difference of numbers near 1
        after,
        expected,
        rtol=3e-7 if single else 1e-12,
        atol=1e-44 if single else 1e-322 if cap is None else 4e-16,
    )
    assert math.isclose(math.fsum(after.tolist()), 1.0, rel_tol=1e-6 if single else 1e-13)
    assert math.isclose(result["sum"], math.fsum(after.tolist()), rel_tol=1e-15)
    assert limit is None or float(after.max()) <= limit
    return after


@pytest.mark.parametrize(
    ("weights", "wrong", "alpha", "cap", "expected"),
    [
        ([1, 1, 1], [0, 0, 1], 715, 1.5, [0.25, 0.25, 0.5]),
        ([1, 1, 1], [0, 0, 1], -715, 1.5, [0.5, 0.5, 0.0]),
        ([1e-310, 1], [0, 0], 0, 1, [0.5, 0.5]),
        ([1e-310, 1], [0, 0], 0, 1.5, [0.25, 0.75]),
        ([5e-324, 1e-323, 1], [0, 0, 0], 0, 1.5, [1 / 6, 1 / 3, 0.5]),
        ([5e-324, 1.7e308], [0, 0], 0, 1, [0.5, 0.5]),
        ([1, 3, 2, 1], [0, 1, 1, 1], -1e300, 1.5, [0.375, 0.3125, 0.625 / 3, 0.625 / 6]),
        ([1, 3], [1, 1], 1e308, None, [0.25, 0.75]),
        ([1, 3], [1, 1], -1e308, None, [0.25, 0.75]),
        ([1, 1, 1, 1], [0, 0.1, 0.5, 1], -1e308, 1.5, [0.375, 0.375, 0.25, 0.0]),
        ([1, 1, 1, 1], [0, 0.1, 0.5, 1], 1e308, 1.5, [0.0, 0.25, 0.375, 0.375]),
        ([1, 0, 1, 0], [1, 1, 0, 0], 1e5, 2, [0.5, 0.0, 0.5, 0.0]),
        ([1.7e308, 1.7e308], [0, 0], 0, None, [0.5, 0.5]),
    ],
)
def test_right_values(weights, wrong, alpha, cap, expected) -> None:
    np.testing.assert_allclose(check(weights, wrong, alpha, cap), expected, rtol=1e-12, atol=1e-300)


small = st.sampled_from([5e-324, 1e-320, 1e-310, 2.3e-308, 1e-200, 1e-30])
any_weight = st.one_of(st.just(0.0), st.floats(0.1, 2.0), small, st.sampled_from([1e30, 1e200, 1e307]))


@settings(max_examples=250, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking takes minutes
@given(
    pairs=st.lists(
        st.tuples(any_weight, st.one_of(st.sampled_from([0.0, 1.0, 0.5, 1e-300]), st.floats(0, 1))),
        min_size=1,
        max_size=12,
    ),
    alpha=st.one_of(
        st.sampled_from([0.0, 299.0, 301.0, -715.0, 715.0, 1e4, -1e17, 1e17, 1e300, -1e308, 1.7e308]), st.floats(-9, 9)
    ),
    cap=st.sampled_from([None, None, 1.0, 1.01, 1.5, 2.0, 3.5]),
    dtype=st.sampled_from([np.float64, np.float64, np.float32]),
    threads=st.sampled_from([1, 2]),
)
def test_agrees_with_hundreds_of_digits(pairs, alpha, cap, dtype, threads) -> None:
    weights = [w for w, _ in pairs] if dtype is np.float64 else [min(w, 1e38) for w, _ in pairs]
    positive = int((np.array(weights, dtype) > 0).sum())
    if positive == 0 or (cap is not None and positive * cap < len(weights)):
        before = np.array(weights, dtype)
        after = before.copy()
        with pytest.raises(ValueError, match=r"all weights are 0|cannot hold"):
            boost_update(after, np.array([s for _, s in pairs]), alpha, cap)
        assert np.array_equal(after, before)
        return
    check(weights, [s for _, s in pairs], alpha, cap, dtype, threads)


def test_exponents_that_all_differ_vastly_take_no_longer() -> None:
    rng = np.random.default_rng(0)
    wrong = rng.random(200_000)
    runs = []
    for threads in (1, 2):
        weights = rng.random(200_000) if not runs else runs[0][0].copy()
        start = weights.copy()
        begun = time.process_time()
        boost_update(weights, wrong, 1e300, 1.5, threads=threads)
        assert time.process_time() - begun < 20  # one weight a sweep would take hours
        runs.append((start, weights))
    assert np.array_equal(runs[0][1], runs[1][1])
    weights = runs[0][1]
    limit = 1.5 / 200_000
    heaviest = np.argsort(-wrong)
    assert np.all(weights[heaviest[:133_333]] == limit)
    assert np.all(weights[heaviest[133_334:]] == 0)
    assert math.isclose(math.fsum(weights.tolist()), 1.0, rel_tol=1e-13)


def test_extreme_updates_of_memory_maps(tmp_path) -> None:
    rng = np.random.default_rng(1)
    np.save(tmp_path / "w.npy", 10.0 ** rng.uniform(-320, -290, 70_000))
    wrong = rng.random(70_000) < 0.3
    mapped, plain = np.load(tmp_path / "w.npy", mmap_mode="r+"), np.load(tmp_path / "w.npy")
    offsets = np.arange(0, 70_001, 7)
    sums = [boost_update(w, wrong, -900.0, 40.0, offsets=offsets, threads=2)["segment_sums"] for w in (mapped, plain)]
    assert np.array_equal(mapped, plain)
    assert np.array_equal(*sums)
    assert math.isclose(math.fsum(plain.tolist()), 1.0, rel_tol=1e-13)
    np.testing.assert_allclose(sums[0], np.add.reduceat(plain, offsets[:-1]), rtol=1e-14)


def test_a_cap_that_just_misses_is_an_error_and_rounding_is_none() -> None:
    weights = np.array([1.0, 0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="cannot hold"):
        boost_update(weights, np.zeros(4), 0.0, 4.0 - 7e-10)
    assert weights.tolist() == [1.0, 0.0, 0.0, 0.0]
    for cap in (4.0, 4.0 - 9e-16, 4.0 - 1e-13):  # what computing a cap can round off
        boost_update(weights, np.zeros(4), 0.0, cap)
        assert math.isclose(weights[0], 1.0, rel_tol=1e-12)


def test_a_total_far_from_the_sum_is_an_error() -> None:
    for weights, total in ((np.array([1e200]), 1e-10), (np.array([1e-200, 1e-200]), 1e10)):
        with pytest.raises(ValueError, match=r"total is .*expected about the sum"):
            boost_update(weights, np.zeros(len(weights)), 0.0, total=total)


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-200, 1e200, 1e307])
def test_weighted_errors_at_any_scale(scale) -> None:
    weights = np.array([1.0, 2.0, 3.0, 4.0]) * scale
    found = weighted_error(weights, np.array([0.0, 0.5, 0.0, 1.0]))
    assert math.isclose(found.value, 0.5, rel_tol=1e-15)
    assert math.isclose(found.n_eff, 100 / 30, rel_tol=1e-14)
    assert math.isclose(found.total, float(weights.sum()), rel_tol=1e-15)


@pytest.mark.parametrize("mass", [1e-310, 1e-200, 0.3])
def test_tokens_left_out_may_hold_next_to_nothing(mass) -> None:
    weights = np.array([mass, mass, 1.0 - 2 * mass])
    left_out = np.array([True, True, False])
    update_left_out(weights, np.array([0.0, 1.0, 0.0]), left_out, math.log(3), 2.0)
    share = np.array([0.5, 1.5]) * mass
    if mass == 0.3:
        share = np.array([0.15, 0.45])
    np.testing.assert_allclose(weights, [*share, 1.0 - 2 * mass], rtol=1e-13)

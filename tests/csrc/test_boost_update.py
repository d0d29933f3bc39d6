"""``boost_update`` against a plain statement in extended precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemw2s import _native
from ensemw2s._native import boost_update


def grown(weights: np.ndarray, wrong: np.ndarray, alpha: float) -> np.ndarray:
    """Normalised ``w exp(alpha s)``, by logarithms, so that nothing overflows."""
    with np.errstate(divide="ignore"):
        logs = np.log(weights.astype(np.longdouble)) + np.longdouble(alpha) * wrong.astype(np.longdouble)
    out = np.exp(logs - logs.max())
    return out / out.sum()


def capped(weights: np.ndarray, limit: float) -> np.ndarray:
    """Water-filling by its definition: cap, give the excess to the others in proportion, until none is above."""
    at_limit = np.zeros(len(weights), dtype=bool)
    out = weights.copy()
    while True:
        above = ~at_limit & (out > limit)
        if not above.any():
            return out
        at_limit |= above
        out[at_limit] = limit
        free = ~at_limit
        if out[free].sum() > 0:
            out[free] *= (1 - limit * at_limit.sum()) / out[free].sum()


def storable(limit: float, dtype: type) -> float:
    """The largest number of the type that is not above the limit."""
    near = dtype(limit)
    return float(near if float(near) <= limit else np.nextafter(near, dtype(0)))


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "size": st.one_of(st.integers(1, 40), st.sampled_from([4096, 16_384, 16_385, 40_000])),
        "weights": st.sampled_from(["uniform", "exponential", "heavy", "zeros", "powers"]),
        "dtype": st.sampled_from([np.float64, np.float32]),
        "wrong": st.sampled_from(["binary", "fractions", "none", "all"]),
        "wrong_dtype": st.sampled_from([np.float64, np.float32, np.uint8, np.bool_]),
        "alpha": st.one_of(st.floats(-5, 5), st.sampled_from([0.0, 20.0, 299.0, 500.0, -500.0, 1e5, 1e300])),
        "cap": st.sampled_from([None, None, 1.0, 1.01, 1.5, 3.0, 20.0, 1e9]),
        "threads": st.sampled_from([1, 2]),
    }
)


def make(case) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(case["seed"])
    n = case["size"]
    weights = {
        "uniform": lambda: np.ones(n),
        "exponential": lambda: rng.standard_exponential(n) + 1e-12,
        "heavy": lambda: rng.pareto(0.5, n) + 1e-12,
        "zeros": lambda: rng.integers(0, 3, n) + (np.arange(n) == 0) * 1.0,
        "powers": lambda: 0.5 ** np.minimum(np.arange(n), 60),
    }[case["weights"]]()
    wrong = {
        "binary": lambda: rng.integers(0, 2, n),
        "fractions": lambda: rng.random(n) * (rng.random(n) < 0.5),
        "none": lambda: np.zeros(n),
        "all": lambda: np.ones(n),
    }[case["wrong"]]()
    if case["wrong_dtype"] in (np.uint8, np.bool_):
        wrong = np.rint(wrong)
    return (weights / weights.sum()).astype(case["dtype"]), wrong.astype(case["wrong_dtype"])


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases)
def test_agrees_with_the_definition(case) -> None:
    before, wrong = make(case)
    weights = before.copy()
    cap, n = case["cap"], case["size"]
    expected = grown(before, wrong, case["alpha"])
    # exp loses what alpha·s carries beyond the last bit of its size; float32 loses in storing
    rtol = 1e-13 + 4e-16 * abs(case["alpha"]) + (2e-7 if case["dtype"] == np.float32 else 0)
    tiny = 1e-44 if case["dtype"] == np.float32 else 1e-290
    if cap is not None:
        if cap * int((expected > tiny).sum()) < n * (1 - 1e-12):  # a vanished weight has nothing to grow from
            if cap * int((before > 0).sum()) < n * (1 - 1e-12):
                with pytest.raises(ValueError, match="cannot hold"):
                    boost_update(weights, wrong, case["alpha"], cap, threads=case["threads"])
                assert np.array_equal(weights, before)
            return
        expected = capped(expected, storable(cap / n, case["dtype"]))
        rtol += 1e-9  # the sum of the uncapped weights is what 1 − (many limits) leaves
    result = boost_update(weights, wrong, case["alpha"], cap, threads=case["threads"])
    if abs(case["alpha"]) < 1e4:
        np.testing.assert_allclose(weights.astype(float), expected.astype(float), rtol=rtol, atol=tiny)
    assert math.isclose(math.fsum(weights.tolist()), 1.0, rel_tol=1e-13 if case["dtype"] == np.float64 else 1e-6)
    assert cap is None or weights.max() <= cap / n
    assert math.isclose(result["max"], weights.max(), rel_tol=1e-6)
    assert math.isclose(result["n_eff"], 1 / float((weights.astype(np.longdouble) ** 2).sum()), rel_tol=1e-5)
    assert math.isclose(result["sum"], math.fsum(weights.tolist()), rel_tol=1e-15)
    assert result["segment_sums"] is None
    with np.errstate(over="ignore", invalid="ignore"):
        positive = before > 0
        total = (before * np.exp(np.longdouble(case["alpha"]) * wrong.astype(np.longdouble)))[positive].sum()
    assert math.isclose(result["total_before_norm"], float(total), rel_tol=1e-12 + 1e-15 * abs(case["alpha"])) or (
        total > 1e300 and result["total_before_norm"] > 1e300
    )


def test_binary_update_gives_the_wrong_half_of_the_mass() -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(1000))
    wrong = rng.random(1000) < 0.3
    error = weights[wrong].sum()
    boost_update(weights, wrong, math.log((1 - error) / error))
    assert math.isclose(weights[wrong].sum(), 0.5, rel_tol=1e-13)


def check_sums(sums: np.ndarray, weights: np.ndarray, offsets: np.ndarray) -> None:
    for s, total in enumerate(sums.tolist()):
        exact = math.fsum(weights[offsets[s] : offsets[s + 1]].tolist())
        assert abs(total - exact) <= 3.4e-16 * exact


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.one_of(st.integers(0, 70), st.sampled_from([0, 31, 32, 33, 5000, 20_000])), max_size=60),
    skip=st.sampled_from([0, 3, 20_000]),
    rest=st.sampled_from([0, 5, 20_000]),
    dtype=st.sampled_from([np.float64, np.float32]),
    wrong_dtype=st.sampled_from([np.float64, np.bool_]),
    alpha=st.sampled_from([0.7, -3.0, 400.0]),
    cap=st.sampled_from([None, 5.0]),
    known=st.booleans(),
    threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**32),
)
def test_segment_sums_come_with_the_update(
    lengths, skip, rest, dtype, wrong_dtype, alpha, cap, known, threads, seed
) -> None:
    offsets = np.cumsum([skip, *lengths]).astype(np.int64)
    size = int(offsets[-1]) + rest + 1
    rng = np.random.default_rng(seed)
    before = rng.lognormal(0.0, 1.0, size).astype(dtype)
    wrong = (rng.random(size) < 0.3).astype(wrong_dtype)
    plain, weights = before.copy(), before.copy()
    boost_update(plain, wrong, alpha, cap)
    total = None
    if known and abs(alpha) < 300:
        total = float((before.astype(np.longdouble) * np.exp(alpha * wrong.astype(np.longdouble))).sum())
    result = boost_update(weights, wrong, alpha, cap, total=total, offsets=offsets, threads=threads)
    if total is None or cap is not None:
        assert np.array_equal(weights, plain)
    np.testing.assert_allclose(weights, plain, rtol=1e-14 if dtype == np.float64 else 1.2e-7)
    sums = result["segment_sums"]
    assert sums.shape == (len(lengths),)
    check_sums(sums, weights, offsets)
    assert math.isclose(result["sum"], math.fsum(weights.tolist()), rel_tol=1e-15)
    assert math.isclose(result["max"], float(weights.max()), rel_tol=0)


def test_any_total_gives_the_distribution_up_to_a_factor() -> None:
    rng = np.random.default_rng(11)
    weights = rng.dirichlet(np.ones(50_000))
    expected = weights.astype(np.longdouble)
    offsets = np.array([0, 1000, 1010, 50_000], np.int64)
    total = 1.0
    for round_ in range(30):
        wrong = rng.random(50_000) < 0.25
        alpha = 0.1 * (round_ % 7)
        result = boost_update(weights, wrong, alpha, total=total, offsets=offsets)
        expected = expected * np.exp(alpha * wrong.astype(np.longdouble))
        before, total = total, result["sum"]
        assert math.isclose(result["total_before_norm"], before * total, rel_tol=1e-15)
        assert 0.9 < total < 2.0  # this round's growth only: it does not pile up
        distribution = expected / expected.sum()
        np.testing.assert_allclose(weights / total, distribution.astype(float), rtol=1e-12)
        assert math.isclose(result["n_eff"], float(1 / (distribution**2).sum()), rel_tol=1e-12)
        check_sums(result["segment_sums"], weights, offsets)


@pytest.mark.parametrize("options", [{"total": 3.0}, {"total": 3.0, "offsets": np.arange(0, 90_001, 30)}])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_one_sweep_is_the_same_with_any_number_of_threads(dtype, options) -> None:
    rng = np.random.default_rng(12)
    start = rng.pareto(1.2, 90_007).astype(dtype)
    wrong = rng.random(90_007) < 0.4
    runs = []
    for threads in (1, 2, 4):
        weights = start.copy()
        result = boost_update(weights, wrong, 0.8, threads=threads, **options)
        sums = result.pop("segment_sums")
        runs.append((result, weights.tobytes(), None if sums is None else sums.tobytes()))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize(
    ("weights", "wrong", "total", "words"),
    [
        (np.array([1.0, -2.0]), np.zeros(2), 1.0, r"grown weights\[1\] is -2"),
        (np.array([1.0, math.nan]), np.zeros(2), 1.0, r"grown weights\[1\] is nan"),
        (np.array([math.inf, 1.0]), np.zeros(2), 1.0, r"grown weights\[0\] is inf"),
        (np.zeros(3), np.zeros(3), 1.0, "all weights are 0"),
        (np.ones(3), np.array([0, 1, 2], np.uint8), 1.0, r"wrong\[2\] is 2; expected 0 or 1"),
        (np.ones(3), np.array([0, math.nan, 0]), 1.0, r"wrong\[1\] is nan"),
        (np.ones(3), np.zeros(3), 0.0, "total is 0; expected a finite positive number"),
        (np.ones(3), np.zeros(3), math.nan, "total is nan"),
        (np.ones(3), np.zeros(3), -1.0, "total is -1"),
        (np.ones(3), np.zeros(3), math.inf, "total is inf"),
    ],
)
def test_errors_with_a_known_total(weights, wrong, total, words) -> None:
    with pytest.raises(ValueError, match=words):
        boost_update(weights, wrong, 0.0, total=total)


def test_bad_offsets_leave_the_weights_alone() -> None:
    weights = np.ones(4)
    for offsets, words in (
        (np.array([0, 3, 2]), r"offsets\[2\] is 2, below"),
        (np.array([0, 5]), "there are only 4 values"),
        (np.array([0, 4], np.int32), "offsets are int32"),
    ):
        with pytest.raises(ValueError, match=words):
            boost_update(weights, np.zeros(4), 1.0, offsets=offsets)
    assert np.array_equal(weights, np.ones(4))


def test_negative_zeros_are_weights() -> None:
    for total in (None, 3.0):
        weights = np.array([1.0, -0.0, 2.0])
        result = boost_update(weights, np.array([True, True, False]), 0.0, total=total)
        np.testing.assert_allclose(weights, [1 / 3, 0.0, 2 / 3], rtol=1e-15)
        assert result["max"] == weights[2]


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("alpha", [1.5, 1000.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_any_number_of_threads_gives_the_same_bits(dtype, alpha, cap) -> None:
    rng = np.random.default_rng(1)
    start = rng.pareto(1.2, 100_003).astype(dtype)
    wrong = np.where(rng.random(100_003) < 0.9, rng.integers(0, 2, 100_003), rng.random(100_003))
    runs = []
    for threads in (1, 2, 4):
        weights = start.copy()
        runs.append((boost_update(weights, wrong, alpha, cap, threads=threads), weights))
    for result, weights in runs[1:]:
        assert result == runs[0][0]
        assert np.array_equal(weights, runs[0][1])


def test_flags_of_any_type_give_the_same_bits() -> None:
    rng = np.random.default_rng(2)
    start = rng.random(10_001)
    flags = rng.integers(0, 2, 10_001)
    seen = set()
    for dtype in (np.float64, np.float32, np.uint8, np.bool_):
        weights = start.copy()
        boost_update(weights, flags.astype(dtype), 0.7)
        seen.add(weights.tobytes())
    assert len(seen) == 1


def test_small_terms_are_not_lost() -> None:
    weights = np.append(1.0, np.full(10_000_000, 1e-16))
    total = boost_update(weights, np.zeros(len(weights), bool), 1.0)["total_before_norm"]
    assert math.isclose(total, 1 + 1e-9, rel_tol=1e-15)


def test_a_cap_of_one_is_the_uniform_distribution() -> None:
    for dtype in (np.float64, np.float32):
        weights = np.random.default_rng(3).pareto(0.4, 5000).astype(dtype) + dtype(1e-9)
        boost_update(weights, np.zeros(5000, bool), 1.0, 1.0)
        np.testing.assert_allclose(weights, 1 / 5000, rtol=1e-6 if dtype == np.float32 else 1e-9)


def test_memory_maps_are_updated_in_place(tmp_path) -> None:
    rng = np.random.default_rng(4)
    start, wrong = rng.random(70_000), rng.random(70_000) < 0.2
    np.save(tmp_path / "w.npy", start)
    np.save(tmp_path / "s.npy", wrong)
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r+")
    boost_update(mapped, np.load(tmp_path / "s.npy", mmap_mode="r"), 1.0, 3.0)
    mapped.flush()
    boost_update(start, wrong, 1.0, 3.0)
    assert np.array_equal(np.load(tmp_path / "w.npy"), start)
    with pytest.raises(ValueError, match="read-only"):
        boost_update(np.load(tmp_path / "w.npy", mmap_mode="r"), wrong, 1.0)


ONES = np.ones(4)


@pytest.mark.parametrize(
    ("weights", "wrong", "alpha", "cap", "words"),
    [
        (np.array([1.0, -2.0]), np.zeros(2), 1.0, None, r"weights\[1\] is -2"),
        (np.array([1.0, math.nan]), np.zeros(2), 1.0, None, r"weights\[1\] is nan"),
        (np.array([math.inf, 1.0]), np.zeros(2), 1000.0, None, r"weights\[0\] is inf"),
        (np.zeros(3), np.zeros(3), 1.0, None, "all weights are 0"),
        (np.zeros(0), np.zeros(0), 1.0, None, "empty"),
        (ONES, np.array([0, 0.5, 1.5, 2]), 1.0, None, r"wrong\[2\] is 1.5; expected a number in \[0, 1\]"),
        (ONES, np.array([0, math.nan, 1, 0]), 1.0, None, r"wrong\[1\] is nan"),
        (ONES, np.array([0, 1, 2, 0], np.uint8), 1.0, None, r"wrong\[2\] is 2; expected 0 or 1"),
        (ONES, np.zeros(3), 1.0, None, "as many as there are weights, 4"),
        (ONES, np.zeros(4, np.int64), 1.0, None, "wrong are int64"),
        (np.ones(4, np.int32), np.zeros(4), 1.0, None, "weights are int32"),
        (ONES, np.zeros(4), math.nan, None, "alpha"),
        (ONES, np.zeros(4), math.inf, None, "alpha"),
        (ONES, np.zeros(4), 1.0, 0.5, "cap is 0.5"),
        (ONES, np.zeros(4), 1.0, math.nan, "cap"),
        (np.array([1.0, 0, 0, 0]), np.zeros(4), 1.0, 2.0, "cap of 2 / 4 cannot hold with so few positive weights: 1"),
        (np.ones(8)[::2], np.zeros(4), 1.0, None, "C-contiguous"),
        (ONES, np.zeros(8)[::2], 1.0, None, "C-contiguous"),
        (np.ones((2, 2)), np.zeros(4), 1.0, None, "one dimension"),
    ],
)
def test_errors_leave_the_weights_alone(weights, wrong, alpha, cap, words) -> None:
    given_weights = weights.copy()
    with pytest.raises(ValueError, match=words):
        boost_update(weights, wrong, alpha, cap)
    assert np.array_equal(weights, given_weights, equal_nan=True)
    with pytest.raises(ValueError, match="threads"):
        boost_update(np.ones(2), np.zeros(2), 1.0, threads=-2)


def test_build_info() -> None:
    info = _native.build_info()
    assert info["simd"] in info["simd_available"]
    assert info["threads"] >= 1
    assert info["compiler"].split()[0] in {"GCC", "Clang"}

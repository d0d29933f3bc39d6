"""``WeightedSampler``: frequencies, exactness, what draws depend on, and errors.

Every statistical test has fixed seeds, so its verdict never changes. For a correct sampler each had a chance of
``FALSE_ALARM`` = 1e-4 to fail when its seed was chosen; there are about 40, so 0.4 % for all together.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ensemw2s import _native
from ensemw2s._native import WeightedSampler

FALSE_ALARM = 1e-4
LOW = np.uint64(0xFFFFFFFF)


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """p-value; classes that are expected less than 5 times are pooled, impossible ones must not occur."""
    assert counts[probabilities == 0].sum() == 0
    expected = probabilities / probabilities.sum() * counts.sum()
    small = expected < 5
    observed = np.append(counts[~small], counts[small].sum()).astype(float)
    wanted = np.append(expected[~small], expected[small].sum())
    keep = wanted > 0
    return float(stats.chisquare(observed[keep], wanted[keep]).pvalue) if keep.sum() > 1 else 1.0


def random_bits(seed: int, stream: int, purpose: int, n: int) -> np.ndarray:
    """The documented numbering of 64-bit numbers (``csrc/philox.hpp``), from Philox blocks."""
    index = np.arange(n, dtype=np.uint64)
    block = index // np.uint64(16) * np.uint64(8) + index % np.uint64(8)
    counter = np.empty((n, 4), np.uint32)
    counter[:, 0] = block & LOW
    counter[:, 1] = (block >> np.uint64(32)) | np.uint64(purpose << 28)
    counter[:, 2] = stream & 0xFFFFFFFF
    counter[:, 3] = stream >> 32
    words = _native.philox4x32(counter, np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)).astype(np.uint64)
    second = index % np.uint64(16) >= 8
    return np.where(second, words[:, 2] | words[:, 3] << np.uint64(32), words[:, 0] | words[:, 1] << np.uint64(32))


def exponentials(seed: int, stream: int, purpose: int, n: int) -> np.ndarray:
    odd = (random_bits(seed, stream, purpose, n) >> np.uint64(12)) * np.uint64(2) + np.uint64(1)
    return -np.log(odd.astype(np.longdouble) * np.longdouble(2.0) ** -53)


SHAPES = {
    "equal": lambda rng, n: np.ones(n),
    "exponential": lambda rng, n: rng.standard_exponential(n),
    "heavy tail": lambda rng, n: rng.pareto(0.7, n) + 1e-9,
    "zeros": lambda rng, n: rng.integers(0, 2, n) * rng.random(n) + (np.arange(n) == n - 1),
    "one big": lambda rng, n: np.where(np.arange(n) == n // 2, 10.0 * n, 1.0),
    "first only": lambda rng, n: (np.arange(n) == 0) * 1.0,
}


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [3, 1000])
def test_frequencies(shape, n, ordered) -> None:
    weights = SHAPES[shape](np.random.default_rng(n), n)
    drawn = WeightedSampler(weights).sample(200_000, seed=2, stream=3, sorted=ordered)
    assert drawn.dtype == np.int64
    assert not ordered or bool((np.diff(drawn) >= 0).all())
    counts = np.bincount(drawn, minlength=n)
    assert len(counts) == n
    assert chi_square(counts, weights) > FALSE_ALARM


@pytest.mark.parametrize("ordered", [False, True])
def test_more_categories_than_torch_allows(ordered) -> None:
    n = 2**24 + 5
    weights = np.ones(n, np.float32)
    weights[2**24 :] = 2**21
    drawn = WeightedSampler(weights).sample(300_000, seed=1, sorted=ordered)
    assert drawn.max() == n - 1
    coarse = np.where(drawn < 2**24, drawn // 2**17, 128 + drawn - 2**24)
    probabilities = np.append(np.full(128, 2.0**17), np.full(5, 2.0**21))
    assert chi_square(np.bincount(coarse, minlength=133), probabilities) > FALSE_ALARM
    few = WeightedSampler(weights).sample(5, seed=1, replacement=False)
    assert len(set(few.tolist())) == 5


def test_pairs_and_streams_are_independent() -> None:
    sampler = WeightedSampler(np.array([1.0, 2.0, 3.0]))
    p = np.array([1.0, 2.0, 3.0]) / 6
    one = sampler.sample(100_000, seed=9)
    for other in (np.roll(one, 1), sampler.sample(100_000, seed=9, stream=1), sampler.sample(100_000, seed=10)):
        assert chi_square(np.bincount(one[::2] * 3 + other[::2], minlength=9), np.outer(p, p).ravel()) > FALSE_ALARM


def test_a_sample_begins_with_every_shorter_one() -> None:
    weights = np.random.default_rng(5).random(5000)
    sampler = WeightedSampler(weights)
    for replacement in (True, False):
        whole = sampler.sample(4000, seed=2**64 - 1, stream=2**63, replacement=replacement)
        for n in (0, 1, 15, 16, 17, 255, 1000, 3999):
            assert np.array_equal(sampler.sample(n, 2**64 - 1, 2**63, replacement=replacement), whole[:n])
    many = sampler.sample(50_000, seed=0)
    assert np.array_equal(sampler.sample(16_385, seed=0), many[:16_385])
    for start in (1, 15, 16, 255, 256, 16_385, 49_999):
        for n in (1, 16, 300, 20_000):
            part = many[start : start + n]
            assert np.array_equal(sampler.sample(len(part), 0, start=start), part)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("options", [{}, {"sorted": True}, {"replacement": False}])
def test_any_number_of_threads_gives_the_same(options, dtype) -> None:
    weights = np.random.default_rng(6).pareto(1.1, 300_000).astype(dtype)
    draws = [WeightedSampler(weights, threads=t).sample(200_000, seed=4, **options) for t in (1, 2, 4)]
    assert np.array_equal(draws[0], draws[1])
    assert np.array_equal(draws[0], draws[2])


def test_sorted_draws_are_those_of_the_definition() -> None:
    weights = np.arange(1.0, 2001.0)
    for n in (1, 7, 1000, 150_000):
        gaps = exponentials(11, 5, 1, n + 1)
        places = np.cumsum(gaps)[:-1] / gaps.sum() * weights.sum()
        sums = np.cumsum(weights)
        expected = np.searchsorted(sums, places.astype(float), side="right")
        drawn = WeightedSampler(weights).sample(n, seed=11, stream=5, sorted=True)
        near = np.abs(places.astype(float)[:, None] - sums[np.stack([expected - 1, expected], 1)]).min(1) < 1e-6
        assert np.array_equal(drawn[~near], expected[~near])
        assert near.mean() < 1e-3


@pytest.mark.parametrize("size", [1, 15, 16, 17, 4096, 4097, 50_003])
@pytest.mark.parametrize("shape", SHAPES)
def test_sorted_draws_agree_with_a_search(shape, size) -> None:
    weights = SHAPES[shape](np.random.default_rng(size), size)
    sums = np.cumsum(weights.astype(np.longdouble))
    for n in (1, 40, 1025, 70_000):  # few and many draws a weight; parts of 1024 and 65536 draws
        gaps = exponentials(12, 0, 1, n + 1)
        places = np.cumsum(gaps)[:-1] / gaps.sum() * sums[-1]
        drawn = WeightedSampler(weights).sample(n, seed=12, sorted=True)
        slack = 1e-12 * sums[-1]
        assert (np.append(0, sums)[drawn] <= places + slack).all()
        assert (sums[drawn] >= places - slack).all()
        assert (weights[drawn] > 0).all()


@pytest.mark.parametrize("scale", [1.0, 1e-310, 1e300])
def test_large_draws_without_replacement_are_those_of_the_definition(scale) -> None:
    rng = np.random.default_rng(17)
    weights = rng.lognormal(0.0, 2.0, 1_200_000) * (rng.random(1_200_000) < 0.9)
    weights[::50] *= scale  # keys beyond the range of double
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        keys = exponentials(5, 1, 2, len(weights)) / weights.astype(np.longdouble)
    keys[weights == 0] = np.nan
    order = np.lexsort((np.arange(len(keys)), keys))
    sampler = WeightedSampler(weights)
    for n in (50, 30_000, int((weights > 0).sum())):
        drawn = sampler.sample(n, seed=5, stream=1, replacement=False)
        wrong = np.flatnonzero(drawn != order[:n])  # keys that differ in their last digit may change places
        assert len(wrong) < 1e-4 * n + 1
        assert np.all(np.abs(keys[drawn[wrong]] - keys[order[wrong]]) <= 1e-12 * keys[order[wrong]])
        assert len(np.unique(drawn)) == n
        assert np.array_equal(sampler.sample(n, 5, 1, replacement=False, sorted=True), np.sort(drawn))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_draws_without_replacement_are_those_of_the_definition(dtype) -> None:
    weights = np.random.default_rng(7).pareto(0.8, 40_000).astype(dtype)
    weights[::3] = 0
    with np.errstate(divide="ignore"):
        keys = exponentials(3, 2**40 + 1, 2, len(weights)) / weights
    order = np.argsort(keys, kind="stable")
    positive = int((weights > 0).sum())
    for n in (1, 100, 5000, positive):
        drawn = WeightedSampler(weights).sample(n, seed=3, stream=2**40 + 1, replacement=False)
        assert np.array_equal(drawn, order[:n])
        ascending = WeightedSampler(weights).sample(n, 3, 2**40 + 1, replacement=False, sorted=True)
        assert np.array_equal(ascending, np.sort(drawn))


def test_orders_without_replacement_have_their_exact_probabilities() -> None:
    weights = np.array([1.0, 2.0, 0.0, 3.0, 4.0])
    sampler = WeightedSampler(weights)
    draws = np.array([sampler.sample(3, seed=8, stream=s, replacement=False) for s in range(30_000)])
    exact = {}
    for order in itertools.permutations((0, 1, 3, 4), 3):
        left, p = weights.sum(), 1.0
        for category in order:
            p *= weights[category] / left
            left -= weights[category]
        exact[order] = p
    assert math.isclose(sum(exact.values()), 1.0)
    codes = {order: i for i, order in enumerate(exact)}
    counts = np.bincount([codes[tuple(row)] for row in draws.tolist()], minlength=len(exact))
    assert chi_square(counts, np.array(list(exact.values()))) > FALSE_ALARM
    for category in (0, 1, 3, 4):  # inclusion probabilities
        p = sum(value for order, value in exact.items() if category in order)
        seen = int((draws == category).any(axis=1).sum())
        assert stats.binomtest(seen, len(draws), p).pvalue > FALSE_ALARM


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    weights=st.lists(
        st.one_of(st.just(0.0), st.floats(5e-324, 1.0), st.sampled_from([1e-300, 1e300, 1e-30, 1.0])),
        min_size=1,
        max_size=40,
    ),
    seed=st.integers(0, 2**64 - 1),
    single=st.booleans(),
)
def test_never_draws_what_has_no_weight(weights, seed, single) -> None:
    array = np.array(weights)
    if single:
        array = np.minimum(array, 1e30).astype(np.float32)
    if not array.any():
        with pytest.raises(ValueError, match="all weights are 0"):
            WeightedSampler(array)
        return
    sampler = WeightedSampler(array)
    possible = set(np.flatnonzero(array).tolist())
    assert sampler.size == len(array)
    assert math.isclose(sampler.total, math.fsum(array.tolist()), rel_tol=1e-15)
    shares = [sampler.probability(i) for i in range(len(array))]
    assert math.isclose(math.fsum(shares), 1.0, rel_tol=1e-12)
    for ordered in (False, True):
        assert set(sampler.sample(300, seed, sorted=ordered).tolist()) <= possible
    everything = sampler.sample(len(possible), seed, replacement=False)
    assert sorted(everything.tolist()) == sorted(possible)
    assert sampler.positive == len(possible)


@pytest.mark.parametrize("weights", [[1e-300, 1e300], [5e-324, 1.7e308], [0.0, 1e-320, 3.0], [1e300, 5e-324, 0.0, 1.0]])
def test_small_weights_stay_possible_beside_huge_ones(weights) -> None:
    array = np.array(weights)
    sampler = WeightedSampler(array)
    possible = np.flatnonzero(array)
    assert sampler.positive == len(possible)
    assert sampler.total == array.sum()
    falling = possible[np.argsort(-array[possible])]
    for seed in range(50):  # the heavy ones come first, the light ones still come
        assert np.array_equal(sampler.sample(len(possible), seed, replacement=False), falling)
        assert np.array_equal(sampler.sample(len(possible), seed, replacement=False, sorted=True), possible)
    for ordered in (False, True):
        assert set(sampler.sample(1000, 1, sorted=ordered).tolist()) <= set(possible.tolist())
    for i, weight in enumerate(array.tolist()):
        assert sampler.probability(i) == weight / float(array.sum())


def test_tiny_weights_keep_their_order_of_drawing() -> None:
    """Among weights whose keys leave the range of float64, those drawn first follow the weights, not their places."""
    weights = np.append(1e10, np.array([1.0, 2.0, 3.0, 4.0]) * 1e-312)
    sampler = WeightedSampler(weights)
    second = [int(sampler.sample(2, seed=1, stream=s, replacement=False)[1]) for s in range(20_000)]
    assert chi_square(np.bincount(second, minlength=5), np.append(0.0, np.arange(1.0, 5.0))) > FALSE_ALARM
    huge = np.append(np.array([1.0, 2.0, 3.0, 4.0]) * 1e307, 1e-310)
    first = [int(WeightedSampler(huge).sample(1, seed=2, stream=s, replacement=False)[0]) for s in range(5000)]
    assert chi_square(np.bincount(first, minlength=5), np.append(np.arange(1.0, 5.0), 0.0)) > FALSE_ALARM


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-290, 1e290, 1e307])
def test_extreme_scales_do_not_bias(scale) -> None:
    weights = np.array([1.0, 2.0, 3.0, 4.0]) * scale
    sampler = WeightedSampler(weights)
    assert math.isclose(sampler.total, weights.sum(), rel_tol=1e-15)
    assert math.isclose(sampler.probability(3), 0.4, rel_tol=1e-15)
    for ordered in (False, True):
        counts = np.bincount(sampler.sample(100_000, seed=3, sorted=ordered), minlength=4)
        assert chi_square(counts, np.arange(1.0, 5.0)) > FALSE_ALARM
    first = [int(sampler.sample(1, seed=1, stream=s, replacement=False)[0]) for s in range(10_000)]
    assert chi_square(np.bincount(first, minlength=4), np.arange(1.0, 5.0)) > FALSE_ALARM


def test_reads_memory_maps_and_leaves_them_alone(tmp_path) -> None:
    weights = np.random.default_rng(0).random(100_000)
    np.save(tmp_path / "w.npy", weights)
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r")
    for options in ({}, {"sorted": True}, {"replacement": False}):
        expected = WeightedSampler(weights).sample(1000, 1, **options)
        assert np.array_equal(WeightedSampler(mapped).sample(1000, 1, **options), expected)
    assert np.array_equal(np.load(tmp_path / "w.npy"), weights)


def test_several_threads_may_draw_at_once() -> None:
    weights = np.random.default_rng(8).random(200_000)
    sampler = WeightedSampler(weights)  # its table is built by whichever thread comes first
    calls = [(1000, s, 0, ordered) for s in range(8) for ordered in (False, True)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda c: sampler.sample(c[0], c[1], c[2], sorted=c[3]), calls))
    for call, drawn in zip(calls, together, strict=True):
        assert np.array_equal(drawn, WeightedSampler(weights).sample(*call[:3], sorted=call[3]))


def test_keeps_its_weights_alive() -> None:
    sampler = WeightedSampler(np.ones(1 << 16))
    junk = [np.full(1 << 16, np.nan) for _ in range(4)]
    assert sampler.sample(1000, 0, sorted=True).max() > 60_000
    assert len(junk) == 4


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, -0.5, -1.0], r"weights\[1\] is -0.5"),
        ([1.0, 2.0, math.nan], r"weights\[2\] is nan"),
        ([math.inf, 1.0], r"weights\[0\] is inf"),
        ([0.0, 0.0], "all weights are 0"),
        ([], "empty"),
        ([1.7e308, 1.7e308], "overflows"),
        (np.ones((2, 2)), "one dimension"),
        (np.ones(6)[::2], "C-contiguous"),
        (np.ones(3, np.int64), "int64 of shape .3.; expected float64 or float32"),
        (np.ones(3, np.float16), "float16"),
        (np.ones(3, ">f8"), "expected float64 or float32"),
        (np.frombuffer(b"\0" * 25, np.float64, count=3, offset=1), "aligned"),
    ],
)
def test_bad_weights(weights, words) -> None:
    with pytest.raises(ValueError, match=words):
        WeightedSampler(np.asarray(weights))


def test_the_first_bad_weight_of_many_is_named() -> None:
    weights = np.ones(200_000)
    weights[[150_000, 199_999]] = -1
    with pytest.raises(ValueError, match=r"weights\[150000\]"):
        WeightedSampler(weights)


def test_bad_arguments() -> None:
    sampler = WeightedSampler(np.array([1.0, 0.0, 2.0]))
    with pytest.raises(ValueError, match="only 2 weights are positive"):
        sampler.sample(3, 0, replacement=False)
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="seed is"):
            sampler.sample(1, seed)
        with pytest.raises(ValueError, match="stream is"):
            sampler.sample(1, 0, seed)
    with pytest.raises(TypeError):
        sampler.sample(1, 0.5)
    with pytest.raises(ValueError, match="n is -1"):
        sampler.sample(-1, 0)
    for options in ({"sorted": True}, {"replacement": False}):
        with pytest.raises(ValueError, match="start is 1"):
            sampler.sample(1, 0, start=1, **options)
    with pytest.raises(ValueError, match="start is -1"):
        sampler.sample(1, 0, start=-1)
    assert sampler.positive == 2
    for i in (-1, 3):
        with pytest.raises(IndexError):
            sampler.probability(i)
    with pytest.raises(ValueError, match="threads"):
        WeightedSampler(np.ones(2), threads=-1)
    with pytest.raises(TypeError):
        WeightedSampler([1.0, 2.0])
    assert sampler.sample(0, 0).shape == (0,)
    assert sampler.sample(0, 0, sorted=True).shape == (0,)
    assert sampler.sample(0, 0, replacement=False).shape == (0,)
    assert np.array_equal(sampler.sample(3, np.int64(5)), sampler.sample(3, 5))

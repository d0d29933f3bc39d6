"""``segment_sum`` against exactly rounded sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s._native import segment_sum


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.one_of(st.integers(0, 70), st.sampled_from([0, 1, 47, 48, 49, 5000])), max_size=60),
    dtype=st.sampled_from([np.float64, np.float32, np.uint8, np.bool_]),
    skip=st.integers(0, 9),
    seed=st.integers(0, 2**32),
    threads=st.sampled_from([1, 2, 4]),
)
def test_exact_to_the_last_bits(lengths, dtype, skip, seed, threads) -> None:
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([skip, *lengths]).astype(np.int64)
    size = int(offsets[-1]) + 5
    values = rng.standard_normal(size) * 10.0 ** rng.integers(-12, 12, size)
    values = (values > 0).astype(dtype) if dtype in (np.uint8, np.bool_) else values.astype(dtype)
    sums = segment_sum(values, offsets, threads=threads)
    assert sums.dtype == np.float64
    assert sums.shape == (len(lengths),)
    for s, total in enumerate(sums):
        part = values[offsets[s] : offsets[s + 1]].astype(float).tolist()
        exact = math.fsum(part)
        # twice the working precision, then rounded once
        assert abs(total - exact) <= 2.3e-16 * abs(exact) + 1e-28 * math.fsum(map(abs, part))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_any_number_of_threads_gives_the_same_bits(dtype) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(300_000).astype(dtype)
    offsets = np.concatenate([[0], np.sort(rng.integers(0, 300_001, 20_000)), [300_000]]).astype(np.int64)
    one, two, four = (segment_sum(values, offsets, threads=t) for t in (1, 2, 4))
    assert np.array_equal(one, two)
    assert np.array_equal(one, four)


def test_not_finite_values_go_where_they_would_in_a_plain_sum() -> None:
    inf, nan = math.inf, math.nan
    for length in (4, 100):
        rows = np.ones((5, length))
        rows[0, 1] = inf
        rows[1, 1] = -inf
        rows[2, 1], rows[2, 2] = inf, -inf
        rows[3, 0] = nan
        sums = segment_sum(rows.ravel(), np.arange(6, dtype=np.int64) * length)
        np.testing.assert_array_equal(sums, [inf, -inf, nan, nan, length])


def test_memory_maps_and_edges(tmp_path) -> None:
    values = np.random.default_rng(1).random(1000).astype(np.float32)
    np.save(tmp_path / "v.npy", values)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    offsets = np.array([0, 10, 1000], np.int64)
    assert np.array_equal(segment_sum(mapped, offsets), segment_sum(values, offsets))
    assert segment_sum(values, np.array([0], np.int64)).shape == (0,)
    assert segment_sum(np.zeros(0), np.zeros(4, np.int64)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("values", "offsets", "words"),
    [
        (np.ones(4), np.array([0, 3, 2], np.int64), r"offsets\[2\] is 2, below offsets\[1\]"),
        (np.ones(4), np.array([-1, 3], np.int64), r"offsets\[0\] is -1"),
        (np.ones(4), np.array([0, 5], np.int64), "last offset is 5; there are only 4 values"),
        (np.ones(4), np.array([], np.int64), "empty"),
        (np.ones(4), np.array([0, 4], np.int32), "offsets are int32"),
        (np.ones(4), np.array([0.0, 4.0]), "offsets are float64"),
        (np.ones((2, 2)), np.array([0, 4], np.int64), "one dimension"),
        (np.ones(8)[::2], np.array([0, 4], np.int64), "C-contiguous"),
        (np.ones(4, np.float16), np.array([0, 4], np.int64), "float16"),
    ],
)
def test_errors(values, offsets, words) -> None:
    with pytest.raises(ValueError, match=words):
        segment_sum(values, offsets)

"""``weighted_error`` against exactly rounded sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s._native import weighted_error


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    size=st.one_of(st.integers(1, 200), st.sampled_from([16_384, 16_385, 40_000])),
    dtype=st.sampled_from([np.float64, np.float32]),
    wrong_dtype=st.sampled_from([np.float64, np.float32, np.uint8, np.bool_]),
    fractions=st.booleans(),
    threads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**32),
)
def test_sums(size, dtype, wrong_dtype, fractions, threads, seed) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.lognormal(0.0, 3.0, size) * (rng.random(size) < 0.9)).astype(dtype)
    whole = wrong_dtype in (np.uint8, np.bool_)
    wrong = (rng.random(size) < 0.3).astype(wrong_dtype)
    if fractions and not whole:
        wrong[-1] = 0.25
    sums = weighted_error(weights, wrong, threads=threads)
    w, s = weights.astype(float).tolist(), wrong.astype(float).tolist()
    assert sums["binary"] == (whole or not fractions)
    assert math.isclose(sums["total"], math.fsum(w), rel_tol=1e-15)
    assert math.isclose(sums["wrong"], math.fsum(a * b for a, b in zip(w, s, strict=True)), rel_tol=1e-15)
    assert math.isclose(sums["squares"], math.fsum(a * a for a in w), rel_tol=1e-13)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    weights, wrong = rng.pareto(1.1, 100_003), rng.random(100_003)
    runs = [weighted_error(weights, wrong, threads=threads) for threads in (1, 2, 4)]
    assert runs[0] == runs[1] == runs[2]


def test_reads_memory_maps(tmp_path) -> None:
    weights = np.random.default_rng(0).random(1000)
    np.save(tmp_path / "w.npy", weights)
    wrong = np.arange(1000) % 2 == 0
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r")
    assert weighted_error(mapped, wrong) == weighted_error(weights, wrong)
    assert weighted_error(np.zeros(0), np.zeros(0))["total"] == 0.0


@pytest.mark.parametrize(
    ("weights", "wrong", "words"),
    [
        (np.array([1.0, -2.0]), np.zeros(2), r"weights\[1\] is -2"),
        (np.array([1.0, math.nan]), np.zeros(2), r"weights\[1\] is nan"),
        (np.array([math.inf, 1.0]), np.zeros(2), r"weights\[0\] is inf"),
        (np.ones(3), np.array([0, 1.5, 0]), r"wrong\[1\] is 1.5; expected a number in \[0, 1\]"),
        (np.ones(3), np.array([0, 2, 0], np.uint8), r"wrong\[1\] is 2; expected 0 or 1"),
        (np.ones(3), np.zeros(2), "as many as there are weights, 3"),
        (np.ones(3), np.zeros(3, np.int64), "wrong are int64"),
        (np.ones(3, np.int32), np.zeros(3), "weights are int32"),
        (np.ones(6)[::2], np.zeros(3), "C-contiguous"),
    ],
)
def test_errors(weights, wrong, words) -> None:
    with pytest.raises(ValueError, match=words):
        weighted_error(weights, wrong)

"""Every instruction set gives the same bits; the best one is chosen, or the one that is asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ensemw2s import _native

PROGRAM = """
import hashlib
import numpy as np
from ensemw2s import _native
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for dtype in (np.float64, np.float32):
    weights = rng.pareto(1.1, 70_001).astype(dtype)
    sampler = _native.WeightedSampler(weights)
    for options in ({}, {"sorted": True}, {"replacement": False}):
        digest.update(sampler.sample(30_000, 5, 6, **options).tobytes())
    digest.update(repr(sampler.total).encode())
    digest.update(_native.segment_sum(weights, np.array([0, 5, 70_001], np.int64)).tobytes())
    for wrong in (rng.random(70_001), rng.random(70_001).astype(np.float32), rng.random(70_001) < 0.3):
        for alpha, cap in ((0.5, None), (3.0, 4.0), (-2.0, 1.5), (400.0, None)):
            copy = weights.copy()
            result = _native.boost_update(copy, wrong, alpha, cap)
            digest.update(copy.tobytes() + repr(sorted(result.items())).encode())
        offsets = np.array([3, 9, 40, 50_000, 70_000], np.int64)
        result = _native.boost_update(copy, wrong, 0.3, total=1.1, offsets=offsets)
        digest.update(copy.tobytes() + result.pop("segment_sums").tobytes() + repr(sorted(result.items())).encode())
        digest.update(repr(sorted(_native.weighted_error(copy, wrong).items())).encode())
print(_native.build_info()["simd"], digest.hexdigest())
"""


def run(simd: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ENSEMW2S_SIMD": simd}
    return subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, env=environment)


def test_same_bits_everywhere() -> None:
    names = _native.build_info()["simd_available"]
    assert names[0] == "baseline"
    outputs = [run(name) for name in names]
    assert [done.stdout.split()[0] for done in outputs] == names
    assert len({done.stdout.split()[1] for done in outputs}) == 1


def test_best_is_the_default() -> None:
    if os.environ.get("ENSEMW2S_SIMD"):
        pytest.skip("ENSEMW2S_SIMD is set")
    info = _native.build_info()
    assert info["simd"] == info["simd_available"][-1]


def test_unknown_instruction_set_is_an_error() -> None:
    done = run("mmx")
    assert done.returncode != 0
    assert "ENSEMW2S_SIMD is 'mmx'; this machine has baseline" in done.stderr

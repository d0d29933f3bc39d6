"""Argument checks and instruction sets of the compiled combination; its results are tested with the kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ensemw2s import _native

PROGRAM = """
import sys
import numpy as np
from ensemw2s import _native
rng = np.random.default_rng(1)
tokens, values = [], []
for rows, vocabulary in ((3, 700), (2, 9001), (30, 33)):
    for dtype in (np.float32, np.float16, np.int16):
        logits = [(rng.standard_normal((rows, vocabulary)) * 6).astype(np.float32) for _ in range(3)]
        if dtype is np.int16:
            logits = [(x.view(np.uint32) >> 16).astype(np.uint16).view(np.int16) for x in logits]
        else:
            logits = [x.astype(dtype) for x in logits]
        if dtype is np.float16:
            logits[0][0, :4] = np.array([1, 3, 0x8002, 0x7BFF], np.uint16).view(np.float16)
            logits[0][1, 5] = np.nan
        for rule in ("mixture", "product", "vote"):
            for temperature in (1.0, 0.8):
                results = {
                    "argmax": np.empty(rows, np.int64), "logprob": np.empty(rows, np.float32),
                    "expert_argmax": np.empty((3, rows), np.int64), "logsumexp": np.empty((3, rows), np.float32),
                    "log_probs": np.empty((rows, vocabulary), np.float32),
                    "topk_ids": np.empty((rows, 5), np.int64), "topk_logprob": np.empty((rows, 5), np.float32),
                }
                weights = [0.25, 0.25, 0.5]
                _native.combine_into(logits, weights, rule=rule, temperature=temperature, targets=None, results=results)
                for result in results.values():
                    (tokens if result.dtype == np.int64 else values).append(result.ravel())
                for options in ({}, {"top_k": 7}, {"top_p": 0.7}):
                    tokens.append(_native.sample_tokens(logits, weights, rule=rule, temperature=temperature,
                                                        uniforms=rng.random(rows), **options))
np.savez(sys.argv[1], tokens=np.concatenate(tokens), values=np.concatenate(values))
"""


def test_instruction_sets_agree(tmp_path) -> None:
    found = {}
    for simd in _native.build_info()["simd_available"]:
        place = tmp_path / f"{simd}.npz"
        environment = os.environ | {"ENSEMW2S_SIMD": simd}
        command = [sys.executable, "-c", PROGRAM, str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        with np.load(place) as arrays:
            found[simd] = (arrays["tokens"], arrays["values"])
    tokens, values = found.pop("baseline")
    for other_tokens, other_values in found.values():
        assert np.array_equal(other_tokens, tokens)
        np.testing.assert_allclose(other_values, values, rtol=3e-7, atol=3e-7)
    fused = [(t.tobytes(), np.where(np.isnan(v), 7, v).tobytes()) for t, v in found.values()]
    assert len(set(fused)) <= 1


def combined(logits: list[np.ndarray], rule: str, threads: int) -> list[np.ndarray]:
    rows, vocabulary = logits[0].shape
    found = results(rows, len(logits)) | {
        "target_logprob": np.empty(rows, np.float32),
        "expert_target_logprob": np.empty((len(logits), rows), np.float32),
        "log_probs": np.empty((rows, vocabulary), np.float32),
        "topk_ids": np.empty((rows, 6), np.int64),
        "topk_logprob": np.empty((rows, 6), np.float32),
    }
    weights = [0.5, 0.25, 0.25]
    targets = np.arange(rows, dtype=np.int64) % vocabulary
    _native.combine_into(logits, weights, rule=rule, temperature=0.9, targets=targets, results=found, threads=threads)
    uniforms = np.random.default_rng(rows).random(rows)
    drawn = [
        _native.sample_tokens(
            logits, weights, rule=rule, temperature=0.9, uniforms=uniforms, threads=threads, **options
        )
        for options in ({}, {"top_k": 9}, {"top_p": 0.8})
    ]
    return [*found.values(), *drawn]


def some_logits(rows: int, vocabulary: int, dtype: type) -> list[np.ndarray]:
    rng = np.random.default_rng(vocabulary)
    logits = [(rng.standard_normal((rows, vocabulary)) * 5).astype(np.float32) for _ in range(3)]
    if dtype is np.int16:
        return [(x.view(np.uint32) >> 16).astype(np.uint16).view(np.int16) for x in logits]
    return [x.astype(dtype) for x in logits]


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int16])
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 20_000), (3, 9001), (40, 100)])
def test_any_number_of_threads_gives_the_same_bits(rows, vocabulary, dtype, rule) -> None:
    logits = some_logits(rows, vocabulary, dtype)
    runs = [combined(logits, rule, threads) for threads in (1, 2, 4)]
    for run in runs[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(run, runs[0], strict=True))


def test_several_threads_may_combine_at_once() -> None:
    logits = some_logits(8, 3000, np.float16)
    alone = combined(logits, "mixture", 1)
    with ThreadPoolExecutor(4) as pool:
        for run in pool.map(lambda threads: combined(logits, "mixture", threads), [1, 2, 1, 2, 3, 2]):
            assert all(a.tobytes() == b.tobytes() for a, b in zip(run, alone, strict=True))


def results(rows: int = 2, experts: int = 2) -> dict[str, np.ndarray]:
    return {
        "argmax": np.zeros(rows, np.int64),
        "logprob": np.zeros(rows, np.float32),
        "expert_argmax": np.zeros((experts, rows), np.int64),
        "logsumexp": np.zeros((experts, rows), np.float32),
    }


def call(**changes) -> None:
    arguments = {
        "logits": [np.zeros((2, 4), np.float32)] * 2,
        "weights": [0.5, 0.5],
        "rule": "mixture",
        "temperature": 1.0,
        "targets": None,
        "results": results(),
    } | changes
    _native.combine_into(arguments.pop("logits"), arguments.pop("weights"), **arguments)


def read_only() -> np.ndarray:
    array = np.zeros(2, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logits": []}, "weights for 0 experts"),
        ({"weights": [1.0]}, "1 weights for 2 experts"),
        ({"weights": [0.5, 0.6]}, "sum to 1.1"),
        ({"weights": [1.5, -0.5]}, "a weight is -0.5"),
        ({"weights": [float("nan"), 1.0]}, "a weight is nan"),
        ({"rule": "mean"}, "rule is 'mean'"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is"),
        (
            {"logits": [np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32)]},
            r"logits\[1\] are .*shape of logits",
        ),
        ({"logits": [np.zeros((2, 0), np.float32)] * 2}, "at least one token"),
        ({"logits": [np.zeros((2, 4))] * 2}, r"logits\[0\] are float64"),
        ({"logits": [np.zeros((2, 4), ">f2")] * 2}, r"logits\[0\] are"),
        ({"logits": [np.zeros(8, np.float32)] * 2}, "shape \\[N, V\\]"),
        ({"logits": [np.zeros(33, np.uint8)[1:].view(np.float32).reshape(2, 4)] * 2}, "aligned"),
        ({"targets": np.array([0, 4])}, r"targets\[1\] is 4"),
        ({"targets": np.array([0, -1])}, r"targets\[1\] is -1"),
        ({"targets": np.array([0])}, "targets are"),
        ({"targets": np.array([0.0, 1.0])}, "targets are"),
        ({"targets": np.array([0, 1])}, "target_logprob"),
        ({"results": {}}, "results need"),
        ({"results": results() | {"logprob": np.zeros(3, np.float32)}}, "logprob are"),
        ({"results": results() | {"logprob": np.zeros(2)}}, "logprob are float64"),
        ({"results": results() | {"logprob": read_only()}}, "read-only"),
        ({"results": results() | {"topk_ids": np.zeros((2, 5), np.int64)}}, r"k in \[1, V\]"),
        ({"results": results() | {"topk_ids": np.zeros((2, 3), np.int64)}}, "results need"),
        ({"results": results() | {"log_probs": np.zeros((4, 2), np.float32).T}}, "C-contiguous"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_bad_arguments(changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        call(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"uniforms": np.zeros(3)}, "uniforms are"),
        ({"uniforms": np.array([0.0, 1.0])}, r"uniforms\[1\] is 1"),
        ({"uniforms": np.array([0.0, np.nan])}, r"uniforms\[1\]"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 5}, "top_k is 5"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": float("nan")}, "top_p is"),
    ],
)
def test_bad_arguments_of_sampling(changes, words) -> None:
    arguments = {"rule": "mixture", "temperature": 1.0, "uniforms": np.zeros(2)} | changes
    with pytest.raises(ValueError, match=words):
        _native.sample_tokens([np.zeros((2, 4), np.float32)], [1.0], **arguments)


def test_logits_are_only_read() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    copy = logits.copy()
    logits.flags.writeable = False
    call(logits=[logits, logits[::-1, ::-1]])
    assert np.array_equal(logits, copy)

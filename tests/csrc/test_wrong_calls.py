"""Wrong objects at every place of every native function: one clear error each, and never a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ensemw2s import _native

SCRIPT = Path(__file__).with_name("wrong_calls.py")


def calls(first: int, last: int) -> None:
    command = [sys.executable, "-P", str(SCRIPT), str(first), str(last)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    made, succeeded = map(int, done.stdout.split())
    assert made >= 9 * (last - first)
    assert 0.05 < succeeded / made < 0.9  # both right and wrong calls were among them


def test_no_call_crashes() -> None:
    calls(0, 400)


@pytest.mark.slow
def test_no_call_crashes_at_length() -> None:
    calls(400, 20_000)


def places() -> dict[str, np.ndarray]:
    return {
        "argmax": np.zeros(2, np.int64),
        "logprob": np.zeros(2, np.float32),
        "expert_argmax": np.zeros((1, 2), np.int64),
        "logsumexp": np.zeros((1, 2), np.float32),
    }


def combine(**changes: object) -> None:
    logits = [np.zeros((2, 4), np.float32)]
    given = {"rule": "mixture", "temperature": 1.0, "targets": None, "results": places()} | changes
    _native.combine_into(given.pop("logits", logits), given.pop("weights", [1.0]), **given)


@pytest.mark.parametrize("name", places())
@pytest.mark.parametrize("value", [[0, 0], (0, 0), 3, "x", memoryview(bytes(16)), [[0, 0]]])
def test_results_are_arrays(name, value) -> None:
    with pytest.raises(TypeError, match=rf"results\['{name}'\] is .*; expected a numpy array"):
        combine(results=places() | {name: value})


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"results": places() | {"logprobs": np.zeros(2, np.float32)}}, ValueError, "'logprobs', which is no result"),
        ({"results": places() | {"target_logprob": np.zeros(2, np.float32)}}, ValueError, "only with targets"),
        ({"results": places() | {"expert_argmax": np.zeros((2, 1), np.int64)}}, ValueError, r"shape \[1, 2\]"),
        ({"results": list(places())}, TypeError, "expected a dictionary"),
        ({"results": {3: np.zeros(2)}}, TypeError, "name in results is 3"),
        ({"logits": 3}, TypeError, "logits is 3, a int; expected a list"),
        ({"logits": [[0.0]]}, TypeError, r"logits\[0\] is .*expected a numpy array"),
        ({"weights": ["1"]}, TypeError, r"weights\[0\] is '1', a str; expected a number"),
        ({"temperature": "1"}, TypeError, "temperature is '1'"),
        ({"temperature": 10**400}, ValueError, "temperature is .*range of float64"),
        ({"rule": b"mixture"}, TypeError, "rule is b'mixture'"),
        ({"targets": [0, 1]}, TypeError, "targets is .*expected a numpy array"),
        ({"threads": 1.5}, TypeError, "threads is 1.5, a float"),
        ({"threads": 2**31}, ValueError, "threads is 2147483648"),
    ],
)
def test_what_was_expected_is_said(changes, error, words) -> None:
    with pytest.raises(error, match=words):
        combine(**changes)


def test_what_is_written_shares_no_memory() -> None:
    memory = np.zeros(16)
    words = memory.view(np.int64)
    with pytest.raises(ValueError, match=r"weights are .*share some with wrong"):
        _native.boost_update(memory[:8], memory[4:12], 1.0)
    with pytest.raises(ValueError, match="share some with offsets"):
        _native.boost_update(memory[:8], np.zeros(8), 1.0, offsets=words[6:8])
    _native.boost_update(np.ones(8), memory[:8], 1.0, offsets=words[:2])  # what is only read may
    numbers = np.zeros((4, 4), np.float32)
    for name, array in (
        ("logprob", numbers[0, :2]),
        ("argmax", numbers[1].view(np.int64)),
        ("logsumexp", numbers[2:3, :2]),
    ):
        with pytest.raises(ValueError, match=rf"{name} are .*share some with logits\[0\]"):
            combine(
                logits=[numbers[:2, ::-1] if name != "logsumexp" else numbers[::2]], results=places() | {name: array}
            )
    same = places()
    same["expert_argmax"] = same["argmax"].reshape(1, 2)
    with pytest.raises(ValueError, match="share some with"):
        combine(results=same)


INTEGERS = ["n", "seed", "stream", "start"]


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    "value", [1.5, 1.0, "7", b"7", None, True, np.bool_(True), np.float64(3), [1], 2j, np.array([1])]
)
def test_integers_are_integers(name, value) -> None:
    sampler = _native.WeightedSampler(np.ones(3))
    with pytest.raises(TypeError, match=rf"^{name} is .*; expected an integer in \[0, 2\*\*"):
        sampler.sample(**{"n": 3, "seed": 1, name: value})
    with pytest.raises(TypeError, match="threads is"):
        _native.WeightedSampler(np.ones(3), threads=value)
    with pytest.raises(TypeError, match="i is"):
        sampler.probability(value)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [-1, -(2**63), 2**64, pytest.param(10**5000, id="10**5000")])
def test_integers_have_a_range(name, value) -> None:
    sampler = _native.WeightedSampler(np.ones(3))
    with pytest.raises(ValueError, match=rf"^{name} is .*; expected an integer in \[0, 2\*\*"):
        sampler.sample(**{"n": 3, "seed": 1, name: value})
    with pytest.raises(ValueError, match="threads is"):
        _native.WeightedSampler(np.ones(3), threads=value)


def test_numpys_integers_are_integers() -> None:
    sampler = _native.WeightedSampler(np.ones(3), threads=np.int8(1))
    expected = sampler.sample(5, 7, 2, start=3)
    for kind in (np.int64, np.uint64, np.int8, np.uint16, np.array):
        assert np.array_equal(sampler.sample(kind(5), kind(7), kind(2), start=kind(3)), expected)
    assert sampler.probability(np.uint8(2)) == 1 / 3
    for flag in ("replacement", "sorted"):
        assert sampler.sample(2, 1, **{flag: np.bool_(True)}).shape == (2,)
        for wrong in (None, 0, "no", [1]):
            with pytest.raises(TypeError, match=f"{flag} is .*expected True or False"):
                sampler.sample(2, 1, **{flag: wrong})


def test_a_stream_ends_before_it_repeats() -> None:
    sampler = _native.WeightedSampler(np.ones(1000))
    last = sampler.sample(20, 1, start=2**60 - 20)
    assert np.array_equal(sampler.sample(3, 1, start=2**60 - 3), last[-3:])
    assert not np.array_equal(last, sampler.sample(20, 1))
    assert sampler.sample(0, 1, start=2**60).shape == (0,)
    for n, start in ((1, 2**60), (21, 2**60 - 20), (2**60, 1)):
        with pytest.raises(ValueError, match=r"n is .* and start .*; expected n \+ start of at most 2\*\*60"):
            sampler.sample(n, 1, start=start)
    for start in (2**60 + 1, 2**63, 2**64 - 1):
        with pytest.raises(ValueError, match="start is"):
            sampler.sample(1, 1, start=start)


def test_any_number_of_threads_may_be_asked_for() -> None:
    weights = np.random.default_rng(0).random(2_000_000)
    sums = [_native.segment_sum(weights, np.array([0, 2_000_000]), threads=t) for t in (1, 2**31 - 1)]
    assert np.array_equal(*sums)
    drawn = [_native.WeightedSampler(weights, threads=t).sample(10, 1) for t in (1, 2**31 - 1)]
    assert np.array_equal(*drawn)


def test_a_sampler_without_init_is_an_error() -> None:
    sampler = _native.WeightedSampler.__new__(_native.WeightedSampler)
    for use in (lambda: sampler.sample(1, 1), lambda: sampler.size, lambda: sampler.probability(0)):
        with pytest.raises(TypeError, match="without a call of __init__"):
            use()

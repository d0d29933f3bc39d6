"""Calls of every native function with wrong objects. Run by ``test_wrong_calls.py`` in a process of its own.

Prints how many calls were made and how many of them succeeded. Anything but a plain error, a crash above all, ends it.
"""

from __future__ import annotations

import random
import sys

import numpy as np
import torch

from ensemw2s import _native

LIMIT = 40  # of the sizes that a call may ask memory for


def misaligned(dtype: type, size: int) -> np.ndarray:
    return np.frombuffer(bytearray(size * np.dtype(dtype).itemsize + 1), dtype, count=size, offset=1)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def arrays(rng: random.Random) -> list:
    """Arrays of all kinds; some share memory."""
    size = rng.choice([0, 1, 2, 3, 4, 16])
    base = np.zeros(64)
    rows = np.zeros((2, 4), np.float32)
    out = [np.zeros(size, t) for t in (np.float64, np.float32, np.float16, np.int64, np.int16, np.int32, np.uint8)]
    out += [np.ones(size, t) for t in (np.float64, np.float32, bool, np.uint32, complex, "f8", ">f8", "S3", "U2")]
    out += [np.full(size, x) for x in (np.nan, np.inf, -1.0, 5e-324, 1.7e308)]
    out += [np.array([0, 2, 1]), np.array([0, 4]), np.array([-1, 2]), np.array([2**62, 2**63 - 1]), np.array(3.0)]
    out += [np.array([{}, None], object), np.zeros(2, [("a", "f8"), ("b", "i4")]), np.zeros(3, "M8[s]")]
    out += [
        base[::2],
        base[::-1],
        base[:4],
        base[1:5],
        base.view(np.int64)[:3],
        base.reshape(8, 8),
        base[:4].view("u4"),
    ]
    out += [misaligned(np.float64, 4), misaligned(np.float32, 4), read_only(np.ones(4)), np.broadcast_to(1.0, (4,))]
    out += [rows, rows.T, rows[::-1, ::-1], rows[:, ::2], rows[0], np.broadcast_to(np.float32(1), (2, 4))]
    out += [rows.astype(np.float16), rows.view(np.int16)[:, :4], rows.view(np.float64), rows.view(np.int64)[:, 0]]
    out += [np.ma.masked_array(np.ones(4), [0, 1, 0, 1]), np.asmatrix(np.ones((2, 4), np.float32))]
    out += [
        np.zeros((2, 2), np.int64),
        np.zeros((2, 2), np.float32),
        np.zeros((1, 4), np.uint32),
        np.zeros(2, np.uint32),
    ]
    out += [np.zeros((0, 4), np.float32), np.zeros((2, 0), np.float32), np.zeros((2, 2, 4), np.float32)]
    return out


class Strange:
    """Fails wherever it is looked at."""

    def __index__(self) -> int:
        raise RuntimeError("no index")

    def __float__(self) -> float:
        raise RuntimeError("no number")

    def __repr__(self) -> str:
        raise RuntimeError("not shown")


def objects() -> list:
    """Things that are no arrays, or numbers at the edges."""
    numbers = [0, 1, 2, 3, -1, 2**31 - 1, 2**31, 2**60, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**5000]
    numbers += [0.0, 0.5, 1.0, 1.5, -1.0, 1e308, 5e-324, float("nan"), float("inf"), True, False, 3 + 1j]
    numbers += [
        np.int64(3),
        np.uint8(2),
        np.float32(0.5),
        np.bool_(True),
        np.array(2),
        np.array([2]),
        np.float64("nan"),
    ]
    others = [
        None,
        "7",
        "mixture",
        "product",
        "vote",
        b"x",
        "\udcff",
        [],
        (),
        {},
        set(),
        object(),
        Strange(),
        int,
        print,
    ]
    others += [[1.0, 2.0], [0.5, 0.5], [1.0], ["a"], {"argmax": [0]}, iter([1]), torch.ones(4), memoryview(b"12345678")]
    return numbers + others


def results(rng: random.Random, pool: list) -> object:
    """A dictionary of results: right, wrong, or with lists in it."""
    right = {
        "argmax": np.zeros(2, np.int64),
        "logprob": np.zeros(2, np.float32),
        "expert_argmax": np.zeros((2, 2), np.int64),
        "logsumexp": np.zeros((2, 2), np.float32),
        "target_logprob": np.zeros(2, np.float32),
        "expert_target_logprob": np.zeros((2, 2), np.float32),
        "log_probs": np.zeros((2, 4), np.float32),
        "topk_ids": np.zeros((2, 2), np.int64),
        "topk_logprob": np.zeros((2, 2), np.float32),
    }
    for name in rng.sample(sorted(right), rng.randrange(4)):
        right[name] = rng.choice([rng.choice(pool), right[name].tolist(), None, right[rng.choice(sorted(right))]])
    if rng.random() < 0.2:
        right[rng.choice(["other", 3, b"argmax", "\udcff", "", "x\0y"])] = np.zeros(2)
    for name in rng.sample(sorted(right, key=str), rng.randrange(3)):
        del right[name]
    return right if rng.random() < 0.9 else rng.choice(pool)


def sometimes(rng: random.Random, right: object, pool: list) -> object:
    return right if rng.random() < 0.6 else rng.choice(pool)


def calls(rng: random.Random) -> list:
    """One call of every function."""
    pool = arrays(rng) + objects()
    few = [x for x in objects() if not (isinstance(x, int | np.integer) and LIMIT < x < 2**60)]
    number = [*objects()]

    def pick(right: object, among: list = pool) -> object:
        return sometimes(rng, right, among)

    weights, wrong = np.ones(4), np.zeros(4)
    logits = [np.zeros((2, 4), np.float32)] * 2
    shared = {"rule": pick("mixture"), "temperature": pick(1.0, number), "threads": pick(1, number)}
    targets = np.zeros(2, np.int64) if rng.random() < 0.5 else None

    def sample() -> object:
        sampler = _native.WeightedSampler(pick(weights), threads=pick(1, number))
        sampler.probability(pick(0, number))
        how = {"replacement": pick(True, few), "sorted": pick(False, few), "start": pick(0, number)}
        return sampler.sample(pick(3, few), pick(1, number), pick(0, number), **how)

    def update() -> object:
        options = {"total": pick(None, number), "offsets": pick(None), "threads": pick(1, number)}
        return _native.boost_update(pick(weights), pick(wrong), pick(0.5, number), pick(None, number), **options)

    def combine() -> object:
        given = pick(logits) if rng.random() < 0.8 else [pick(logits[0]), pick(logits[1])]
        return _native.combine_into(
            given, pick([0.5, 0.5]), targets=pick(targets), results=results(rng, pool), **shared
        )

    def draw() -> object:
        options = {"uniforms": pick(np.zeros(2)), "top_k": pick(None, number), "top_p": pick(None, number)}
        return _native.sample_tokens(pick(logits), pick([0.5, 0.5]), **options, **shared)

    return [
        sample,
        update,
        combine,
        draw,
        lambda: _native.segment_sum(pick(weights), pick(np.array([0, 2, 4])), threads=pick(1, number)),
        lambda: _native.weighted_error(pick(weights), pick(wrong), threads=pick(1, number)),
        lambda: _native.philox4x32(pick(np.zeros((2, 4), np.uint32)), pick(np.zeros(2, np.uint32))),
        lambda: _native.WeightedSampler.__new__(_native.WeightedSampler).sample(1, 1),
        lambda: _native.WeightedSampler(*[pick(weights)] * rng.randrange(3)),
    ]


def main() -> None:
    made = succeeded = 0
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        for call in calls(random.Random(seed)):
            made += 1
            try:
                call()
                succeeded += 1
            except (TypeError, ValueError, IndexError, MemoryError) as error:
                if len(str(error)) > 2000:
                    raise RuntimeError(f"a message without end: {str(error)[:300]}") from error
    print(made, succeeded)


if __name__ == "__main__":
    main()

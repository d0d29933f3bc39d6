"""Philox4x32-10 against the known answers that its authors publish (Random123, kat_vectors), and against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from ensemw2s import _native

ONES = 0xFFFFFFFF
COUNTERS = np.array([[0] * 4, [ONES] * 4, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]], dtype=np.uint32)
KEYS = np.array([[0] * 2, [ONES] * 2, [0xA4093822, 0x299F31D0]], dtype=np.uint32)
KNOWN = [
    [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
    [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
]
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
MASK, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def in_numpy(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The ten rounds by the definition (Salmon, Moraes, Dror and Shaw, SC 2011)."""
    words = [counter[:, i].astype(np.uint64) for i in range(4)]
    keys = [np.asarray(key[..., i], dtype=np.uint64) for i in range(2)]
    for _ in range(10):
        low = words[0] * MULTIPLIERS[0]
        high = words[2] * MULTIPLIERS[1]
        words = [
            (high >> HALF) ^ words[1] ^ keys[0],
            high & MASK,
            (low >> HALF) ^ words[3] ^ keys[1],
            low & MASK,
        ]
        keys = [(k + step) & MASK for k, step in zip(keys, KEY_STEPS, strict=True)]
    return np.stack(words, axis=1).astype(np.uint32)


def test_published_vectors() -> None:
    out = _native.philox4x32(COUNTERS, KEYS)
    assert out.dtype == np.uint32
    assert out.tolist() == in_numpy(COUNTERS, KEYS).tolist() == KNOWN
    for counter, key, expected in zip(COUNTERS, KEYS, KNOWN, strict=True):
        assert _native.philox4x32(counter[None], key).tolist() == [expected]


def test_same_bits_as_numpy() -> None:
    rng = np.random.default_rng(0)
    counter = rng.integers(0, 2**32, (5000, 4), dtype=np.uint32)
    key = rng.integers(0, 2**32, (5000, 2), dtype=np.uint32)
    assert np.array_equal(_native.philox4x32(counter, key), in_numpy(counter, key))
    assert np.array_equal(_native.philox4x32(counter, key[0]), in_numpy(counter, key[0]))


def test_strides_and_empty() -> None:
    wide = np.zeros((6, 8), dtype=np.uint32)
    wide[:, ::2] = COUNTERS[2]
    assert _native.philox4x32(wide[:, ::2], KEYS[2]).tolist() == [KNOWN[2]] * 6
    assert _native.philox4x32(np.zeros((0, 4), np.uint32), KEYS[0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("counter", "key"),
    [
        (np.zeros((2, 4), np.int64), KEYS[0]),
        (np.zeros((2, 3), np.uint32), KEYS[0]),
        (np.zeros(4, np.uint32), KEYS[0]),
        (COUNTERS, np.zeros((2, 2), np.uint32)),
        (COUNTERS, np.zeros(3, np.uint32)),
        (COUNTERS, np.zeros(2, np.int32)),
    ],
)
def test_errors(counter, key) -> None:
    with pytest.raises(ValueError, match="expected uint32 of shape"):
        _native.philox4x32(counter, key)

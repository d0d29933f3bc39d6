"""Philox4x32-10, vectorised in numpy: the same bits as ``ensemw2s._native.philox4x32``.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A block of four 32-bit words is
a function of a 128-bit counter and a 64-bit key alone, so a random number belongs to what it is for, not to the order
in which numbers are drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10
_SAMPLE_TAG = 0x53414D50  # "SAMP" in the last counter word: keeps token draws apart from other uses of one seed


def philox4x32(counter: npt.NDArray[np.uint32], key: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Ten rounds of Philox4x32.

    Args:
        counter: uint32 ``[n, 4]``, least significant word first.
        key: uint32 ``[n, 2]``, or ``[2]`` for one key throughout.

    Returns:
        uint32 ``[n, 4]``.
    """
    words = [counter[:, i].astype(np.uint64) for i in range(4)]
    keys = [np.asarray(key[..., i], dtype=np.uint64) for i in range(2)]
    for _ in range(_ROUNDS):
        low = words[0] * _MULTIPLIERS[0]
        high = words[2] * _MULTIPLIERS[1]
        words = [
            (high >> _HALF) ^ words[1] ^ keys[0],
            high & _MASK,
            (low >> _HALF) ^ words[3] ^ keys[1],
            low & _MASK,
        ]
        keys = [(k + step) & _MASK for k, step in zip(keys, _KEY_STEPS, strict=True)]
    return np.stack(words, axis=1).astype(np.uint32)


def row_uniforms(seed: int, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One uniform number for each row, a function of ``(seed, index[r])`` alone.

    Counter ``(index low, index high, 0, "SAMP")``, key ``(seed low, seed high)``; the first two words of the block are
    a 64-bit integer (low word first), whose upper 53 bits are the number.

    Args:
        seed: in ``[0, 2**64)``.
        index: int64 ``[N]``; negative values are taken as their 64-bit pattern.

    Returns:
        float64 ``[N]`` in ``[0, 1)``, multiples of ``2**-53``.
    """
    bits = index.astype(np.uint64)
    counter = np.zeros((bits.shape[0], 4), dtype=np.uint32)
    counter[:, 0] = bits & _MASK
    counter[:, 1] = bits >> _HALF
    counter[:, 3] = _SAMPLE_TAG
    block = philox4x32(counter, np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint32)).astype(np.uint64)
    whole = block[:, 0] | (block[:, 1] << _HALF)
    return (whole >> np.uint64(11)).astype(np.float64) * 2.0**-53

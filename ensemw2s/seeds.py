"""Independent sub-seeds by name, derived from the one seed of a run."""

from __future__ import annotations

import hashlib


def sub_seed(seed: int, *names: str | int, bits: int = 63) -> int:
    """A seed for one named use, independent of every other name and of the order in which they are asked for.

    Args:
        seed: the run's seed.
        names: what the sub-seed is for, for example ``("boosting", "draw", 3)``.
        bits: size of the result; 31 where a library takes 32-bit seeds only.

    Returns:
        An integer in ``[0, 2**bits)``, from SHA-256 of the seed and the names.
    """
    text = "\x1f".join([str(int(seed)), *(str(name) for name in names)])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - bits)

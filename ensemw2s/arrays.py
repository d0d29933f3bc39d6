"""Arrays: memory maps of ``.npy`` files with type and shape checked, and offsets of flat layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ensemw2s.errors import DataError

_HINT = "Remove the folder of that file; the command of its run makes it again."


def offsets_of(counts: ArrayLike) -> NDArray[np.int64]:
    """int64 ``[n + 1]``: where each of ``n`` parts of a flat array begins and the last one ends, from their sizes."""
    sizes = np.asarray(counts, dtype=np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def load_array(path: Path, dtype: DTypeLike, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """A memory map of an ``.npy`` file of a type and shape (None for a length that is not known), read-only.

    Raises:
        DataError: it cannot be read, its type or shape is another one, or it holds NaN.
    """
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header is parsed as Python, and raises whatever that can
        raise DataError(f"{path} is no array that can be read: {error}.", hint=_HINT) from error
    wanted = np.dtype(dtype)
    lengths = len(found.shape) == len(shape) and all(
        n is None or n == m for n, m in zip(shape, found.shape, strict=True)
    )
    if found.dtype != wanted or not lengths:
        asked = "×".join("any" if n is None else str(n) for n in shape)
        have = "×".join(map(str, found.shape)) or "one number"
        raise DataError(f"{path} holds {found.dtype} of shape {have}, expected {wanted} of shape {asked}.", hint=_HINT)
    if wanted.kind == "f" and bool(np.isnan(found).any()):
        raise DataError(f"{path} holds NaN, where only numbers belong.", hint=_HINT)
    return found

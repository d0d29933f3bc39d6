"""Teacher-forced scores of one model on one split, kept as memory-mapped ``.npy`` files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemw2s.errors import RunFailedError


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """What one expert says at the rows of an :class:`~ensemw2s.data.encode.EncodedSplit`; natural logarithms."""

    target_logprob: NDArray[np.float32]
    """``[rows]``: of each row's own token, end-of-sequence rows included."""
    argmax: NDArray[np.int32]
    """``[rows]``: the expert's most probable token; ties: the lowest id."""
    topk_ids: NDArray[np.int32]
    """``[A, k]``: most probable tokens, falling, at the rows of the true answers with their end-of-sequence
    (``answer_rows(include_eos=True)``); ``A`` = 0 where answers are hidden."""
    topk_logprob: NDArray[np.float32]
    """``[A, k]``: their log-probabilities."""

    def save(self, folder: Path) -> None:
        """Write one ``.npy`` file per field into ``folder``, each under a temporary name first."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.__slots__:
            written = folder / f"{name}.tmp"
            with written.open("wb") as stream:
                np.save(stream, getattr(self, name), allow_pickle=False)
            os.replace(written, folder / f"{name}.npy")  # noqa: PTH105

    @classmethod
    def load(cls, folder: Path) -> ScoreTable:
        """Open a saved table; its arrays are memory maps, read-only.

        Raises:
            RunFailedError: a file is missing or damaged.
        """
        arrays = {}
        for name in cls.__slots__:
            file = folder / f"{name}.npy"
            try:
                arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise RunFailedError(
                    f"The scores in {file} cannot be read: {error}.", hint="Remove that folder; the run makes it again."
                ) from error
        return cls(**arrays)

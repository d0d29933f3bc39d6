"""Teacher-forced scores of one model on one split, kept as memory-mapped ``.npy`` files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemw2s.arrays import load_array
from ensemw2s.checksums import check_stage_files
from ensemw2s.files import replaced


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores of one expert at the rows of an :class:`~ensemw2s.data.encode.EncodedSplit`; natural logarithms."""

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
            with replaced(folder / f"{name}.npy") as temporary, temporary.open("wb") as stream:
                np.save(stream, getattr(self, name), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, *, rows: int | None = None, answers: int | None = None) -> ScoreTable:
        """Open a saved table; its arrays are memory maps, read-only.

        Args:
            folder: where it was saved.
            rows: how many rows it must have; any number by default.
            answers: how many of them must have candidates (``A``); any number by default.

        Raises:
            DamagedError: a file is not what was written.
            DataError: a file is missing, or holds something else than scores of so many rows.
        """
        check_stage_files(folder)
        target = load_array(folder / "target_logprob.npy", np.float32, (rows,))
        argmax = load_array(folder / "argmax.npy", np.int32, (len(target),))
        ids = load_array(folder / "topk_ids.npy", np.int32, (answers, None))
        return cls(target, argmax, ids, load_array(folder / "topk_logprob.npy", np.float32, ids.shape))

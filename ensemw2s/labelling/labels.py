"""Pseudo-labels of a teacher, with confidence and agreement, in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.arrays import load_array
from ensemw2s.checksums import check_stage_files
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.data.example import Example
from ensemw2s.ensemble.combine.choices import EnsembleChoices
from ensemw2s.ensemble.decoded import Answers
from ensemw2s.errors import DataError
from ensemw2s.files import replaced
from ensemw2s.models.inference.generation import Generation
from ensemw2s.resources import bounded_memory, parquet_memory

_HINT = "Remove the folder of that file; the command of its run makes it again."

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's next-token distribution at every label token, the final end-of-sequence included.

    Attributes:
        offsets: int64 [n+1], positions of each label.
        ids: int32 [T, k] token ids of the largest probabilities, in the teacher's vocabulary.
        logprob: float32 [T, k].
    """

    offsets: Ints
    ids: NDArray[np.int32]
    logprob: NDArray[np.float32]

    def of(self, labels: Ints) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """Ids and log-probabilities [m, k] of each of the given labels."""
        cuts = [slice(int(self.offsets[i]), int(self.offsets[i + 1])) for i in labels]
        return [(np.asarray(self.ids[cut]), np.asarray(self.logprob[cut])) for cut in cuts]


@dataclass(frozen=True)
class Posterior:
    """A teacher's probability of each option of every question (``task: choice``).

    Attributes:
        offsets: int64 [n+1], the options of each question.
        logprob: float64 [S], natural logarithms.
    """

    offsets: Ints
    logprob: Floats

    def of(self, questions: Ints) -> list[Floats]:
        """Probabilities of the options of each of the given questions, float64 [options]."""
        cuts = [slice(int(self.offsets[i]), int(self.offsets[i + 1])) for i in questions]
        return [np.exp(self.logprob[cut]) for cut in cuts]


@dataclass(frozen=True)
class Labels:
    """Pseudo-labels of one teacher.

    Attributes:
        teacher: for example ``ensemble``.
        token_ids: the label's tokens in the teacher's vocabulary, int32, without end-of-sequence.
        options: int64 [n], chosen option; -1 where the answer was generated.
        confidence: float64 [n], geometric mean token probability, or the option's posterior probability.
        margin: float64 [n]; for ``choice`` the score of the label less that of the runner-up, in nats; for ``generate``
            the mean over tokens of the chosen token's log-probability less that of the best other token.
        agreement: float64 [n], share of ᾱ whose own answer is the same.
        ended: bool [n], whether the label ends by itself; false for an answer that was cut at the length limit.
        soft: the teacher's distributions over tokens, where they were asked for.
        posterior: its distributions over options, where they were asked for.
    """

    teacher: str
    ids: list[str]
    texts: list[str]
    token_ids: list[Tokens]
    options: Ints
    confidence: Floats
    margin: Floats
    agreement: Floats
    ended: NDArray[np.bool_]
    soft: SoftTargets | None = None
    posterior: Posterior | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, folder: Path) -> None:
        """Write ``labels.parquet`` and, with distributions, ``soft_*.npy`` and ``posterior_*.npy`` into a folder."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "id": self.ids,
                "label": self.texts,
                "token_ids": [t.tolist() for t in self.token_ids],
                "option": self.options,
                "confidence": self.confidence,
                "margin": self.margin,
                "agreement": self.agreement,
                "ended": self.ended,
            },
            schema=_schema(self.teacher),
        )
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(folder / "labels.parquet") as temporary:
            pq.write_table(table, temporary)
        if self.soft is not None:
            for name in ("offsets", "ids", "logprob"):
                np.save(folder / f"soft_{name}.npy", getattr(self.soft, name))
        if self.posterior is not None:
            for name in ("offsets", "logprob"):
                np.save(folder / f"posterior_{name}.npy", getattr(self.posterior, name))

    @classmethod
    def load(cls, folder: Path) -> Labels:
        """The inverse of :meth:`save`.

        Raises:
            DamagedError: a file is not what was written.
            DataError: a file is missing, or holds something else than labels.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        check_stage_files(folder)
        file = folder / "labels.parquet"
        try:
            with bounded_memory(parquet_memory(file.stat().st_size)):
                table = pq.read_table(file, partitioning=None, use_threads=False)
                teacher = (table.schema.metadata or {}).get(b"teacher", b"").decode()
                table = table.cast(_schema(teacher))  # may be far larger: one text, named many times
                table.validate(full=True)  # text that is not UTF-8 is found here
        except (OSError, ValueError, KeyError, MemoryError, pa.ArrowException) as error:
            raise DataError(f"{file} holds no labels that can be read: {error}.", hint=_HINT) from error
        columns = {name: table[name] for name in table.column_names}
        numbers = {name: columns[name].to_numpy() for name in ("confidence", "margin", "agreement")}
        empty = [name for name, column in columns.items() if column.null_count]
        empty += [name for name, values in numbers.items() if np.isnan(values).any()]
        if empty:
            raise DataError(f"{file}: the column {empty[0]} lacks values or holds NaN.", hint=_HINT)
        return cls(
            teacher=teacher,
            ids=columns["id"].to_pylist(),
            texts=columns["label"].to_pylist(),
            token_ids=[np.asarray(tokens, dtype=np.int32) for tokens in columns["token_ids"].to_pylist()],
            options=columns["option"].to_numpy(),
            **numbers,
            ended=np.array(columns["ended"].to_pylist(), dtype=np.bool_),
            soft=_load_soft(folder, len(table)) if (folder / "soft_offsets.npy").exists() else None,
            posterior=_load_posterior(folder, len(table)) if (folder / "posterior_offsets.npy").exists() else None,
        )


def _schema(teacher: str = "") -> Any:
    """The columns of ``labels.parquet``."""
    import pyarrow as pa

    kinds = {
        "id": pa.string(),
        "label": pa.string(),
        "token_ids": pa.list_(pa.int32()),
        "option": pa.int64(),
        "confidence": pa.float64(),
        "margin": pa.float64(),
        "agreement": pa.float64(),
        "ended": pa.bool_(),
    }
    return pa.schema(kinds, metadata={"teacher": teacher})


def _load_offsets(file: Path, labels: int) -> Ints:
    offsets = load_array(file, np.int64, (labels + 1,))
    if offsets[0] != 0 or np.any(np.diff(offsets) < 0):
        raise DataError(f"{file} does not rise from 0.", hint=_HINT)
    return offsets


def _load_soft(folder: Path, labels: int) -> SoftTargets:
    offsets = _load_offsets(folder / "soft_offsets.npy", labels)
    ids = load_array(folder / "soft_ids.npy", np.int32, (int(offsets[-1]), None))
    return SoftTargets(offsets, ids, load_array(folder / "soft_logprob.npy", np.float32, ids.shape))


def _load_posterior(folder: Path, labels: int) -> Posterior:
    offsets = _load_offsets(folder / "posterior_offsets.npy", labels)
    return Posterior(offsets, load_array(folder / "posterior_logprob.npy", np.float64, (int(offsets[-1]),)))


def labels_from_choices(teacher: str, examples: list[Example], enc: EncodedSplit, found: EnsembleChoices) -> Labels:
    """Labels for ``task: choice``: the best-scoring option of every example."""
    options = found.choices.option
    return Labels(
        teacher=teacher,
        ids=[example.id for example in examples],
        texts=[(example.choices or ())[int(o)] for example, o in zip(examples, options, strict=True)],
        token_ids=[own[int(o)] for own, o in zip(enc.options, options, strict=True)],
        options=options,
        confidence=found.confidence,
        margin=found.choices.margin,
        agreement=found.agreement,
        ended=np.ones(len(examples), dtype=np.bool_),
    )


def labels_from_answers(
    teacher: str,
    examples: list[Example],
    answers: Answers,
    *,
    own: Sequence[Iterable[str]] | None,
    alphas: Sequence[float],
    soft: bool,
) -> Labels:
    """Labels for ``task: generate``: the decoded answers, with their candidates as soft targets if ``soft``.

    ``own`` are each expert's own greedy answers, for the agreement; None for an expert that labels alone and greedily.
    """
    found = answers.generations
    return Labels(
        teacher=teacher,
        ids=[example.id for example in examples],
        texts=answers.texts,
        token_ids=[answer.token_ids for answer in found],
        options=np.full(len(found), -1, dtype=np.int64),
        confidence=answers.confidence,
        margin=answers.margin,
        agreement=np.ones(len(found)) if own is None else answers.agreement(own, alphas),
        ended=np.array([answer.ended for answer in found], dtype=np.bool_),
        soft=_soft_targets(found) if soft else None,
    )


def _soft_targets(answers: Sequence[Generation]) -> SoftTargets:
    return SoftTargets(
        offsets=np.concatenate([[0], np.cumsum([len(answer.logprobs) for answer in answers])]).astype(np.int64),
        ids=np.concatenate([answer.topk_ids for answer in answers if answer.topk_ids is not None]),
        logprob=np.concatenate([answer.topk_logprob for answer in answers if answer.topk_logprob is not None]),
    )

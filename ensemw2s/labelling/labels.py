"""Pseudo-labels: what a teacher answers, with confidence and agreement, and how they are kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.data.encode import EncodedSplit
from ensemw2s.data.example import Example
from ensemw2s.ensemble.choices import EnsembleChoices

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
class Labels:
    """Pseudo-labels of one teacher.

    Attributes:
        teacher: for example ``ensemble``.
        ids: example ids.
        texts: label texts.
        token_ids: the label's tokens in the teacher's vocabulary, int32, without end-of-sequence.
        options: int64 [n], chosen option; -1 where the answer was generated.
        confidence: float64 [n], geometric mean token probability.
        margin: float64 [n]; for ``choice`` the score of the label less that of the runner-up, in nats; for ``generate``
            the mean over tokens of the chosen token's log-probability less that of the best other token.
        agreement: float64 [n], share of ᾱ whose own answer is the same.
        ended: bool [n], whether the label ends by itself; false for an answer that was cut at the length limit.
        soft: the teacher's distributions, where they were asked for.
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

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self) -> list[dict[str, Any]]:
        """One JSON object a label."""
        return [
            {
                "id": self.ids[i],
                "label": self.texts[i],
                "option": int(self.options[i]),
                "confidence": float(self.confidence[i]),
                "margin": float(self.margin[i]),
                "agreement": float(self.agreement[i]),
                "ended": bool(self.ended[i]),
            }
            for i in range(len(self))
        ]

    def save(self, folder: Path) -> None:
        """Write ``labels.parquet`` and, with soft targets, ``soft_*.npy`` into a folder."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "id": pa.array(self.ids, pa.string()),
                "label": pa.array(self.texts, pa.string()),
                "token_ids": pa.array([t.tolist() for t in self.token_ids], pa.list_(pa.int32())),
                "option": pa.array(self.options, pa.int64()),
                "confidence": pa.array(self.confidence, pa.float64()),
                "margin": pa.array(self.margin, pa.float64()),
                "agreement": pa.array(self.agreement, pa.float64()),
                "ended": pa.array(self.ended, pa.bool_()),
            },
            metadata={"teacher": self.teacher},
        )
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / "labels.parquet.tmp"
        pq.write_table(table, temporary)
        temporary.replace(folder / "labels.parquet")
        if self.soft is not None:
            for name in ("offsets", "ids", "logprob"):
                np.save(folder / f"soft_{name}.npy", getattr(self.soft, name))

    @classmethod
    def load(cls, folder: Path) -> Labels:
        """The inverse of :meth:`save`."""
        import pyarrow.parquet as pq

        table = pq.read_table(folder / "labels.parquet")
        soft = None
        if (folder / "soft_offsets.npy").exists():
            parts = {
                name: np.load(folder / f"soft_{name}.npy", mmap_mode="r") for name in ("offsets", "ids", "logprob")
            }
            soft = SoftTargets(**parts)
        return cls(
            teacher=(table.schema.metadata or {}).get(b"teacher", b"").decode(),
            ids=table["id"].to_pylist(),
            texts=table["label"].to_pylist(),
            token_ids=[np.asarray(tokens, dtype=np.int32) for tokens in table["token_ids"].to_pylist()],
            options=table["option"].to_numpy(),
            confidence=table["confidence"].to_numpy(),
            margin=table["margin"].to_numpy(),
            agreement=table["agreement"].to_numpy(),
            ended=np.array(table["ended"].to_pylist(), dtype=np.bool_),
            soft=soft,
        )


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

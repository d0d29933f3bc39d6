"""The one example type that every source produces and every phase reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

SplitName = Literal["train", "validation", "test", "hard_pool", "hard_test"]

#: Easy splits first; ``test`` is in-distribution (ID), ``hard_test`` out-of-distribution (OOD).
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test", "hard_pool", "hard_test")


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its answer.

    Attributes:
        id: unique within a data set.
        prompt: the question as text, before the prompt template is applied.
        answer: the true answer as text, or None where it is unknown or hidden.
        choices: the options, in order, for ``task: choice``; the answer is one of them.
        difficulty: a number (larger is harder), or None.
        group: an annotation such as a skill or a subject, kept for tables; may be empty.
        level: name of the difficulty level where the data has one (``Low``, ``High``), else empty.
    """

    id: str
    prompt: str
    answer: str | None
    choices: tuple[str, ...] | None = None
    difficulty: float | None = None
    group: str = ""
    level: str = ""

    @property
    def answer_index(self) -> int:
        """Index of the answer among the choices; -1 where the answer is unknown or there are no choices."""
        if self.answer is None or self.choices is None:
            return -1
        return self.choices.index(self.answer)

    def hide_answer(self) -> Example:
        """The same example without its answer: what labelling gets to see."""
        return replace(self, answer=None)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields that are set."""
        out: dict[str, Any] = {"id": self.id, "prompt": self.prompt, "answer": self.answer}
        if self.choices is not None:
            out["choices"] = list(self.choices)
        if self.difficulty is not None:
            out["difficulty"] = self.difficulty
        if self.group:
            out["group"] = self.group
        if self.level:
            out["level"] = self.level
        return out

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Example:
        """The inverse of :meth:`to_json`."""
        choices = row.get("choices")
        return cls(
            id=row["id"],
            prompt=row["prompt"],
            answer=row.get("answer"),
            choices=None if choices is None else tuple(choices),
            difficulty=row.get("difficulty"),
            group=row.get("group", ""),
            level=row.get("level", ""),
        )


@dataclass(frozen=True, slots=True)
class Splits:
    """The five disjoint splits of a run; ``notes`` says how they were made (counts removed, thresholds)."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    hard_pool: list[Example]
    hard_test: list[Example]
    notes: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: SplitName) -> list[Example]:
        part: list[Example] = getattr(self, name)
        return part

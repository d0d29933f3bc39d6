"""Near-duplicates: questions that are equal after normalising white space and case, within a source and across splits.

A question is its prompt and, where it has options, these in any order: "Which statement is true?" is a question of its
own with every set of statements.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from ensemw2s.data.example import SPLITS, Example, Splits
from ensemw2s.data.text import normalise_text


@dataclass(slots=True)
class Duplicates:
    """Later examples that ask an earlier one's question again.

    Attributes:
        of: pairs (earlier, later) of examples; the earlier one is always the first with that question.
        kinds: of each pair, ``exact`` (same text, options and answer), ``near`` (the same answer after normalising) or
            ``contradiction`` (another answer).
    """

    of: list[tuple[Example, Example]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """Number of pairs of a kind."""
        return self.kinds.count(kind)

    def to_json(self, limit: int = 20) -> dict[str, Any]:
        """Counts, and the ids of the first contradictions."""
        pairs = [
            [first.id, later.id]
            for (first, later), kind in zip(self.of, self.kinds, strict=True)
            if kind == "contradiction"
        ]
        return {
            "exact": self.count("exact"),
            "near": self.count("near"),
            "contradictions": len(pairs),
            "contradicting_ids": pairs[:limit],
        }


def question_key(example: Example) -> tuple[str, ...]:
    """The normalised prompt and, sorted, the normalised options: equal for the same question."""
    return (normalise_text(example.prompt), *sorted(normalise_text(text) for text in example.choices or ()))


def _kind(first: Example, later: Example) -> str:
    same = (first.prompt, first.answer, first.choices) == (later.prompt, later.answer, later.choices)
    if same:
        return "exact"
    answers = [None if e.answer is None else normalise_text(e.answer) for e in (first, later)]
    return "near" if answers[0] == answers[1] else "contradiction"


def find_duplicates(examples: Iterable[Example]) -> tuple[list[Example], Duplicates]:
    """The examples with a new question, in order, and the others with what they repeat."""
    seen: dict[tuple[str, ...], Example] = {}
    unique: list[Example] = []
    found = Duplicates()
    for example in examples:
        first = seen.setdefault(question_key(example), example)
        if first is example:
            unique.append(example)
        else:
            found.of.append((first, example))
            found.kinds.append(_kind(first, example))
    return unique, found


def split_overlaps(splits: Splits) -> dict[str, int]:
    """For each pair of splits that share questions, how many, such as ``{"train/test": 2}``."""
    asked = {name: {question_key(example) for example in splits[name]} for name in SPLITS}
    overlaps = {f"{a}/{b}": len(asked[a] & asked[b]) for a, b in combinations(SPLITS, 2)}
    return {pair: count for pair, count in overlaps.items() if count}

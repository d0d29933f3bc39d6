"""Prompts that are the same after normalising white space and case, within a data set and across splits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from ensemw2s.data.example import SPLITS, Example, Splits
from ensemw2s.data.text import normalise_text


@dataclass(slots=True)
class Duplicates:
    """Later examples whose prompt repeats an earlier one's.

    Attributes:
        of: pairs (earlier, later) of examples; the earlier one is always the first with that prompt.
        kinds: of each pair, ``exact`` (same text, options and answer), ``near`` (the same answer after normalising) or
            ``contradiction`` (another answer; in a choice this may be a fair question with other options).
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


def _kind(first: Example, later: Example) -> str:
    same = (first.prompt, first.answer, first.choices) == (later.prompt, later.answer, later.choices)
    if same:
        return "exact"
    answers = [None if e.answer is None else normalise_text(e.answer) for e in (first, later)]
    return "near" if answers[0] == answers[1] else "contradiction"


def find_duplicates(examples: Iterable[Example]) -> tuple[list[Example], Duplicates]:
    """The examples with a new prompt, in order, and the others with what they repeat."""
    seen: dict[str, Example] = {}
    unique: list[Example] = []
    found = Duplicates()
    for example in examples:
        first = seen.setdefault(normalise_text(example.prompt), example)
        if first is example:
            unique.append(example)
        else:
            found.of.append((first, example))
            found.kinds.append(_kind(first, example))
    return unique, found


def split_overlaps(splits: Splits) -> dict[str, int]:
    """For each pair of splits that share prompts (normalised), how many, such as ``{"train/test": 2}``."""
    prompts = {name: {normalise_text(example.prompt) for example in splits[name]} for name in SPLITS}
    overlaps = {f"{a}/{b}": len(prompts[a] & prompts[b]) for a, b in combinations(SPLITS, 2)}
    return {pair: count for pair, count in overlaps.items() if count}

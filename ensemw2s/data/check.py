"""Check a data source: describe it and collect every problem, without stopping at the first."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ensemw2s.config.data import SourceConfig, TemplateConfig
from ensemw2s.data.duplicates import find_duplicates
from ensemw2s.data.example import Example
from ensemw2s.data.problems import Collector, Problem
from ensemw2s.data.sources import Walk
from ensemw2s.errors import shortened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Task = Literal["choice", "generate"]
_QUANTILES = {"min": 0.0, "p5": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}
#: Position bias is reported above this share of answers at one place, from so many examples on.
_BIASED_SHARE, _BIASED_COUNT = 0.5, 50


@dataclass(frozen=True)
class CheckReport:
    """Result of :func:`check_source`.

    Attributes:
        task: the task that the data was checked for.
        files: files that were read, in order.
        rows: rows in them, good or bad.
        examples: rows that make good examples.
        prompt_chars, answer_chars: quantiles of lengths in characters (``min``, ``p5``, ``p50``, ``p95``, ``max``).
        prompt_tokens, answer_tokens: the same in tokens; None without a tokenizer.
        choice_counts: number of options to number of examples; empty for ``generate``.
        answer_positions: place of the answer among the options, from 0, to number of examples.
        difficulty: quantiles of difficulty over the examples that have one; empty if none has.
        without_difficulty: examples with neither a number nor a level.
        levels: level name to number of examples.
        groups: group to number of examples.
        exact_duplicates: examples that repeat an earlier one's prompt, options and answer.
        near_duplicates: examples that repeat an earlier question after normalising, with the same answer.
        contradictions: the same with another answer.
        problems: errors and warnings, in the order in which they were found.
    """

    task: Task
    files: list[str]
    rows: int
    examples: int
    prompt_chars: dict[str, float]
    answer_chars: dict[str, float]
    prompt_tokens: dict[str, float] | None
    answer_tokens: dict[str, float] | None
    choice_counts: dict[int, int]
    answer_positions: dict[int, int]
    difficulty: dict[str, float]
    without_difficulty: int
    levels: dict[str, int]
    groups: dict[str, int]
    exact_duplicates: int
    near_duplicates: int
    contradictions: int
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        """The problems that make loading fail."""
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """The problems that do not."""
        return [problem for problem in self.problems if problem.severity == "warning"]

    @property
    def ok(self) -> bool:
        """Whether a run would take the data."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """A JSON object of everything."""
        out: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "problems"}
        for name in ("choice_counts", "answer_positions"):
            out[name] = {str(key): count for key, count in out[name].items()}
        out["ok"] = self.ok
        out["problems"] = [problem.to_json() for problem in self.problems]
        return out


def check_source(
    cfg: SourceConfig,
    *,
    task: Task,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
    template: TemplateConfig | None = None,
    models: Sequence[PreTrainedTokenizerBase] = (),
) -> CheckReport:
    """Read a whole source (``limit`` is ignored) and describe it; problems are collected, not raised.

    ``tokenizer`` gives lengths in tokens too (of the bare texts, before templates); ``models`` are further tokenizers
    that must tell the options of a question, written by ``template``, apart. ``task: choice`` reports examples without
    options as errors; ``seed`` is that of the embedded puzzles and of the order of options that have none.

    Raises:
        ConfigError: the source has no path.
    """
    collect = Collector()
    walk = Walk(cfg, seed, collect)
    examples = list(walk.examples())
    if task == "generate":
        examples = [replace(example, choices=None) for example in examples]
    if not walk.rows and not collect.problems:
        collect(Problem("empty", "there are no rows", ", ".join(walk.files)))
    if task == "choice":
        _without_choices(examples, walk, collect)
        told = [tokenizer, *models] if tokenizer is not None else list(models)
        _indistinct(examples, walk, collect, told, template or TemplateConfig())
    counts = _duplicates(examples, walk, collect)
    positions = Counter(example.answer_index for example in examples if task == "choice" and example.choices)
    _position_bias(examples, positions, walk, collect)
    return CheckReport(
        task=task,
        files=walk.files,
        rows=walk.rows,
        examples=len(examples),
        **_statistics(examples, tokenizer),
        choice_counts=_sorted(Counter(len(e.choices) for e in examples if task == "choice" and e.choices)),
        answer_positions=_sorted(positions),
        exact_duplicates=counts["exact"],
        near_duplicates=counts["near"],
        contradictions=counts["contradiction"],
        problems=collect.problems,
    )


def _statistics(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """Lengths, difficulty, levels and groups, by the fields of :class:`CheckReport`."""
    texts = {"prompt": [e.prompt for e in examples], "answer": [e.answer or "" for e in examples]}
    found: dict[str, Any] = {f"{name}_chars": _quantiles([len(text) for text in own]) for name, own in texts.items()}
    for name, own in texts.items():
        found[f"{name}_tokens"] = None if tokenizer is None else _token_quantiles(tokenizer, own)
    return found | {
        "difficulty": _quantiles([e.difficulty for e in examples if e.difficulty is not None]),
        "without_difficulty": sum(e.difficulty is None and not e.level for e in examples),
        "levels": dict(sorted(Counter(e.level for e in examples if e.level).items())),
        "groups": dict(sorted(Counter(e.group for e in examples if e.group).items())),
    }


def _warning(walk: Walk, example: Example, kind: str, message: str) -> Problem:
    return walk.places[example.id].problem(kind, message, severity="warning")


def _without_choices(examples: Sequence[Example], walk: Walk, collect: Collector) -> None:
    without = [example for example in examples if example.choices is None]
    if not without:
        return
    if len(without) == len(examples):
        message = "no example has options, which task: choice needs"
        hint = "Name their column in data.source.columns.choices, or set task: generate."
        collect(Problem("no_choices", message, ", ".join(walk.files), hint=hint))
        return
    for example in without:
        message = f"example {example.id!r} has no options, which task: choice needs"
        collect(walk.places[example.id].problem("no_choices", message))


def _indistinct(
    examples: Sequence[Example],
    walk: Walk,
    collect: Collector,
    tokenizers: Sequence[PreTrainedTokenizerBase],
    template: TemplateConfig,
) -> None:
    """Warn of options that are one text but for white space and Unicode's forms, or one text to a tokenizer."""
    from ensemw2s.data.encode import same_tokens

    asked = [example for example in examples if example.choices]
    said: set[str] = set()
    for example in asked:
        plain = [" ".join(unicodedata.normalize("NFC", text).split()) for text in example.choices or ()]
        pairs = [(plain.index(text), at) for at, text in enumerate(plain) if plain.index(text) != at]
        for first, later in pairs[:1]:
            said.add(example.id)
            message = f"options {first + 1} and {later + 1} are the same text but for white space or Unicode's forms"
            collect(_warning(walk, example, "same_options", message))
    by_id = {example.id: example for example in asked}
    for tokenizer in tokenizers:
        name = shortened(str(tokenizer.name_or_path or "the tokenizer"))
        for known, (first, later) in same_tokens(asked, tokenizer, template).items():
            if known not in said:
                said.add(known)
                message = (
                    f"options {first + 1} and {later + 1} have the same tokens for {name}, so that no model with it "
                    "tells them apart: a run leaves the question out"
                )
                collect(_warning(walk, by_id[known], "same_options", message))


def _duplicates(examples: Sequence[Example], walk: Walk, collect: Collector) -> Counter[str]:
    _, found = find_duplicates(examples)
    how = {
        "exact": "the same example",
        "near": "the same question (white space and case aside) and answer",
        "contradiction": "the same question (white space and case aside) with another answer",
    }
    for (first, later), kind in zip(found.of, found.kinds, strict=True):
        message = f"{how[kind]} as at {walk.places[first.id].place}"
        collect(_warning(walk, later, "contradiction" if kind == "contradiction" else f"{kind}_duplicate", message))
    return Counter(found.kinds)


def _position_bias(examples: Sequence[Example], positions: Counter[int], walk: Walk, collect: Collector) -> None:
    """Warn where one place holds most answers although there are three options or more."""
    total = sum(positions.values())
    options = max((len(example.choices) for example in examples if example.choices), default=0)
    if total < _BIASED_COUNT or options < 3:
        return
    place, count = positions.most_common(1)[0]
    if count > _BIASED_SHARE * total:
        message = f"the answer is option {place + 1} in {count} of {total} examples: its place gives it away"
        collect(Problem("answer_position", message, ", ".join(walk.files), severity="warning"))


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    found = np.quantile(np.asarray(values, dtype=np.float64), list(_QUANTILES.values()), method="inverted_cdf")
    return dict(zip(_QUANTILES, found.tolist(), strict=True))


def _token_quantiles(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, float]:
    from ensemw2s.data.tokenizer import tokenise

    return _quantiles([len(tokens) for tokens in tokenise(tokenizer, texts)])


def _sorted(counts: Counter[int]) -> dict[int, int]:
    return dict(sorted(counts.items()))

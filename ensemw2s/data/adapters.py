"""Rows of known data sets, and of any file with mapped columns, as examples.

An :class:`Adapter` converts one row; it takes the rows of the published raw files and those of the hub alike. A new
data set is one function and one line in :data:`ADAPTERS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ensemw2s.config.data import ColumnMap
from ensemw2s.data.example import Example
from ensemw2s.data.fields import (
    Convert,
    RowContext,
    find_answer,
    has,
    lookup,
    parse_options,
    required_text,
    shuffled,
    text_of,
    with_options,
)
from ensemw2s.data.levels import parse_difficulty
from ensemw2s.data.problems import RowError
from ensemw2s.data.text import did_you_mean
from ensemw2s.errors import ConfigError

_CALCULATOR = re.compile(r"<<[^<>\n]*>>")


@dataclass(frozen=True, slots=True)
class Adapter:
    """How one data set's rows become examples.

    Attributes:
        name: as in ``data.source.kind``.
        files: names (patterns) of its files in a folder; others, such as annotations, are left alone.
        convert: row and context to :class:`Example`; raises :class:`RowError`.
    """

    name: str
    files: tuple[str, ...]
    convert: Convert


def _arc(row: Mapping[str, Any], context: RowContext) -> Example:
    """AI2 ARC, raw ``{"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"}`` or the hub's columns."""
    raw = isinstance(lookup(row, "question"), Mapping)
    stem, where = ("question.stem", "question.choices") if raw else ("question", "choices")
    options = parse_options(lookup(row, where), where)
    if options.labels is None:
        raise RowError("choices", "the options have no labels", column=where)
    example = Example(
        id=text_of(row.get("id"), "id") or context.id,
        prompt=required_text(row, stem, "prompt"),
        answer=None,
    )
    key = text_of(row.get("answerKey") if not context.answers else lookup(row, "answerKey"), "answerKey")
    if not key and not context.answers:
        return with_options(example, options.texts, None, where, context.warn)
    if key not in options.labels:
        message = f"the answer {key!r} is not among the options' labels {', '.join(options.labels)}"
        raise RowError("answer_not_in_choices", message, column="answerKey")
    return with_options(example, options.texts, options.labels.index(key), where, context.warn)


def _sciq(row: Mapping[str, Any], context: RowContext) -> Example:
    """SciQ: ``correct_answer`` and three distractors, put in an order that does not give the answer away."""
    columns = ColumnMap(
        prompt="question",
        answer="correct_answer",
        distractors=["distractor1", "distractor2", "distractor3"],
    )
    example = _mapped(row, columns, context)
    passage = text_of(lookup(row, "support"), "support") if context.support else ""
    return replace(example, prompt=f"{passage}\n{example.prompt}") if passage else example


def _gsm8k(row: Mapping[str, Any], context: RowContext) -> Example:
    """GSM8K: the answer is the solution, ending in ``#### number``, without calculator annotations ``<<…>>``.

    Difficulty is the number of steps: lines of the solution before the final number.
    """
    prompt = required_text(row, "question", "prompt")
    answer = text_of(row.get("answer") if not context.answers else lookup(row, "answer"), "answer")
    if not answer:
        if context.answers:
            raise RowError("empty_answer", "the answer is empty", column="answer")
        return Example(id=context.id, prompt=prompt, answer=None)
    solution, mark, final = answer.rpartition("####")
    if not mark or not final.strip():
        raise RowError("answer_format", "the answer must end in '#### number'", column="answer")
    steps = [line.strip() for line in _CALCULATOR.sub("", solution).splitlines() if line.strip()]
    text = "\n".join([*steps, f"#### {final.strip()}"])
    return Example(id=context.id, prompt=prompt, answer=text, difficulty=float(len(steps)))


def _mapped(row: Mapping[str, Any], columns: ColumnMap, context: RowContext) -> Example:
    """A row of any file, by its column mapping."""
    level: tuple[float | None, str] = (None, "")
    if columns.difficulty is not None:
        level = parse_difficulty(lookup(row, columns.difficulty), columns.difficulty)
    identifier = context.id
    if columns.id is not None:
        identifier = required_text(row, columns.id, "id")
    example = Example(
        id=identifier,
        prompt=required_text(row, columns.prompt, "prompt"),
        answer=None,
        difficulty=level[0],
        level=text_of(level[1], columns.difficulty or ""),
        group="" if columns.group is None else text_of(lookup(row, columns.group), columns.group),
    )
    if columns.distractors:
        return _with_distractors(example, row, columns, context)
    known = context.answers or has(row, columns.answer)
    answer = required_text(row, columns.answer, "answer") if known else None
    if columns.choices is None:
        return replace(example, answer=answer)
    options = parse_options(lookup(row, columns.choices), columns.choices)
    # Too few options is the root of the trouble, so it is looked at before the answer.
    plain = with_options(example, options.texts, None, columns.choices, context.warn)
    if answer is None:
        return plain
    index = find_answer(answer, options, columns.answer, context.warn)
    return replace(plain, answer=options.texts[index])


def _with_distractors(example: Example, row: Mapping[str, Any], columns: ColumnMap, context: RowContext) -> Example:
    """The answer and the distractors that are not empty, in shuffled order."""
    answer = required_text(row, columns.answer, "answer")
    wrong = [text_of(lookup(row, name), name) for name in columns.distractors]
    texts = shuffled([answer, *(text for text in wrong if text)], example.prompt, context.seed)
    return with_options(example, texts, texts.index(answer), columns.distractors[0], context.warn)


ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        Adapter("arc", ("ARC-*.jsonl", "*.parquet"), _arc),
        Adapter("sciq", ("train.json", "valid.json", "test.json", "*.parquet"), _sciq),
        Adapter("gsm8k", ("train.jsonl", "test.jsonl", "*.parquet"), _gsm8k),
    )
}


def columns_adapter(columns: ColumnMap) -> Adapter:
    """The adapter of ``kind: file``."""
    patterns = ("*.jsonl", "*.ndjson", "*.json", "*.csv", "*.tsv", "*.parquet")
    return Adapter("file", patterns, lambda row, context: _mapped(row, columns, context))


def adapter_for(kind: str, columns: ColumnMap) -> Adapter:
    """The adapter of a source kind that is read from files.

    Raises:
        ConfigError: no adapter has that name; the nearest is named.
    """
    if kind == "file":
        return columns_adapter(columns)
    if kind not in ADAPTERS:
        known = ["file", "synthetic", *ADAPTERS]
        raise ConfigError(f"Unknown source kind {kind!r}{did_you_mean(kind, known, 'kinds')}.")
    return ADAPTERS[kind]

"""Rows of known data sets, and of any file with mapped columns, as examples.

Every converter takes the rows of the published raw files and those of the hub alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ensemw2s.config.data import ColumnMap
from ensemw2s.data.answers import whole_number
from ensemw2s.data.example import Example
from ensemw2s.data.fields import (
    RowContext,
    Unread,
    answer_value,
    is_missing,
    lookup,
    options_in_columns,
    parse_options,
    required_text,
    shape,
    shuffled,
    text_of,
    texts_in,
    warn_of_missing_words,
    with_options,
)
from ensemw2s.data.levels import parse_difficulty
from ensemw2s.data.problems import RowError

_CALCULATOR = re.compile(r"<<[^<>\n]*>>")
_SENTIMENT = ("negative", "positive")
_MMLU_PART = re.compile(r"_(dev|val|test)$")


def _without_answer(column: str) -> RowError:
    hint = "Leave the row out; `ew2s label` and `ew2s score` take questions without answers (as in many test splits)."
    return RowError("empty_answer", "the answer is empty", column=column, hint=hint)


def arc(row: Mapping[str, Any], context: RowContext) -> Example:
    """AI2 ARC, raw ``{"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"}`` or the hub's columns.

    CommonsenseQA, OpenBookQA (whose hub column is ``question_stem``) and QuaRTz have the same form.
    """
    if "question_stem" in row:
        stem, where = "question_stem", "choices"
    elif isinstance(lookup(row, "question"), Mapping):
        stem, where = "question.stem", "question.choices"
    else:
        stem, where = "question", "choices"
    options = parse_options(lookup(row, where), where)
    if options.labels is None:
        raise RowError("choices", "the options have no labels", column=where)
    example = Example(
        id=text_of(row.get("id"), "id") or context.id,
        prompt=required_text(row, stem, "prompt"),
        answer=None,
    )
    key = text_of(answer_value(row, "answerKey", context), "answerKey")
    if not key and not context.answers:
        return with_options(example, options.texts, None, where, context.warn)
    if not key:
        raise _without_answer("answerKey")
    if key not in options.labels:
        message = f"the answer {key!r} is not among the options' labels {', '.join(options.labels)}"
        raise RowError("answer_not_in_choices", message, column="answerKey")
    return with_options(example, options.texts, options.labels.index(key), where, context.warn)


def sciq(row: Mapping[str, Any], context: RowContext) -> Example:
    """SciQ: ``correct_answer`` and three distractors, put in an order that does not give the answer away."""
    columns = ColumnMap(
        prompt="question",
        answer="correct_answer",
        distractors=["distractor1", "distractor2", "distractor3"],
    )
    example = _with_distractors(_mapped_prompt(row, columns, context), row, columns, context)
    return _after_passage(example, row, "support") if context.support else example


def _after_passage(example: Example, row: Mapping[str, Any], column: str) -> Example:
    """The question after the passage in a column, where that is not empty."""
    passage = text_of(lookup(row, column), column)
    return replace(example, prompt=f"{passage}\n{example.prompt}") if passage else example


def quartz(row: Mapping[str, Any], context: RowContext) -> Example:
    """QuaRTz: two options, and a passage of one or two sentences that the question needs."""
    example = arc(row, context)
    return example if context.support is False else _after_passage(example, row, "para")


def openbookqa(row: Mapping[str, Any], context: RowContext) -> Example:
    """OpenBookQA; ``support`` is the core fact that its additional version has."""
    example = arc(row, context)
    return _after_passage(example, row, "fact1") if context.support else example


def boolq(row: Mapping[str, Any], context: RowContext) -> Example:
    """BoolQ: a question in lower case and without its question mark, about a passage; the options are yes and no."""
    prompt = required_text(row, "question", "prompt")
    example = Example(id=context.id, prompt=prompt if prompt.endswith("?") else f"{prompt}?", answer=None)
    if context.support is not False:
        example = _after_passage(example, row, "passage")
    text = text_of(answer_value(row, "answer", context), "answer").lower()
    if text in ("true", "false"):
        return replace(example, choices=("yes", "no"), answer="yes" if text == "true" else "no")
    if not text and not context.answers:
        return replace(example, choices=("yes", "no"))
    raise RowError("answer_format", f"the answer must be true or false, got {text!r}", column="answer")


def mmlu(row: Mapping[str, Any], context: RowContext) -> Example:
    """MMLU, raw CSV without a header (question, four options, letter; the subject is the file's name) or the hub's."""
    raw = "A" in row
    texts = [text_of(lookup(row, letter), letter) for letter in "ABCD"] if raw else None
    options = parse_options(lookup(row, "choices"), "choices").texts if texts is None else texts
    subject = _MMLU_PART.sub("", context.part) if raw else text_of(row.get("subject"), "subject")
    example = Example(
        id=context.id, prompt=required_text(row, "question", "prompt"), answer=None, group=subject.replace("_", " ")
    )
    where = "A" if raw else "choices"
    value = answer_value(row, "answer", context)
    answer = text_of(value, "answer")
    if not answer and not context.answers:
        return with_options(example, options, None, where, context.warn)
    # By letter or by index, never by text: options such as 0 and 1 would be mistaken for indices.
    number = whole_number(value)
    index = number if number is not None else "ABCD".find(answer) if len(answer) == 1 else -1
    if not 0 <= index < len(options):
        message = f"the answer must be a letter or an index of the {len(options)} options, got {shape(answer)}"
        raise RowError("answer_not_in_choices", message, column="answer")
    return with_options(example, options, index, where, context.warn)


def amazon_polarity(row: Mapping[str, Any], context: RowContext) -> Example:
    """Amazon reviews as negative or positive, raw CSV without a header (1 or 2, title, text) or the hub's (0 or 1)."""
    title, content = (text_of(lookup(row, name), name) for name in ("title", "content"))
    prompt = "\n".join(filter(None, (title, content)))
    if not prompt:
        raise RowError("empty_prompt", "the prompt is empty", column="content")
    example = Example(id=context.id, prompt=prompt, answer=None, choices=_SENTIMENT)
    value = answer_value(row, "label", context)
    if (is_missing(value) or value == "") and not context.answers:
        return example
    number = whole_number(value)
    index = -1 if number is None else number - 1 if isinstance(value, str) else number
    if index not in (0, 1):
        message = f"the label must be 1 or 2 (on the hub 0 or 1), got {shape(value)}"
        raise RowError("answer_format", message, column="label")
    return replace(example, answer=_SENTIMENT[index])


def gsm8k(row: Mapping[str, Any], context: RowContext) -> Example:
    """GSM8K: the answer is the solution, ending in ``#### number``, without calculator annotations ``<<…>>``.

    Difficulty is the number of steps: lines of the solution before the final number.
    """
    prompt = required_text(row, "question", "prompt")
    answer = text_of(answer_value(row, "answer", context), "answer")
    if not answer:
        if context.answers:
            raise _without_answer("answer")
        return Example(id=context.id, prompt=prompt, answer=None)
    solution, mark, final = answer.rpartition("####")
    if not mark or not final.strip():
        raise RowError("answer_format", "the answer must end in '#### number'", column="answer")
    steps = [line.strip() for line in _CALCULATOR.sub("", solution).splitlines() if line.strip()]
    text = "\n".join([*steps, f"#### {final.strip()}"])
    return Example(id=context.id, prompt=prompt, answer=text, difficulty=float(len(steps)))


def mapped(row: Mapping[str, Any], columns: ColumnMap, context: RowContext) -> Example | Unread:
    """A row of any file, by its column mapping; which option is the answer is left open."""
    example = _mapped_prompt(row, columns, context)
    told = [columns.prompt, columns.answer, *columns.distractors]
    told += [columns.choices] if isinstance(columns.choices, str) else columns.choices or []
    warn_of_missing_words(row, told, context.warn)
    if columns.distractors:
        return _with_distractors(example, row, columns, context)
    value = answer_value(row, columns.answer, context)
    answer = text_of(value, columns.answer)
    # Too few options is the cause of a wrong answer, so it is reported first.
    if columns.choices is None:
        options = None
    elif isinstance(columns.choices, str):
        options = parse_options(lookup(row, columns.choices), columns.choices)
        example = with_options(example, options.texts, None, columns.choices, context.warn)
    else:
        options = options_in_columns(row, columns.choices)
        texts = [text for text in options.texts if text]
        example = with_options(example, texts, None, columns.choices[0], context.warn)
    if not answer and context.answers:
        raise _without_answer(columns.answer)
    if options is not None:
        return Unread(example, options, value if answer else None)
    return replace(example, answer=answer or None)


def _mapped_prompt(row: Mapping[str, Any], columns: ColumnMap, context: RowContext) -> Example:
    level: tuple[float | None, str] = (None, "")
    if columns.difficulty is not None:
        level = parse_difficulty(lookup(row, columns.difficulty), columns.difficulty)
    return Example(
        id=context.id if columns.id is None else required_text(row, columns.id, "id"),
        prompt=required_text(row, columns.prompt, "prompt"),
        answer=None,
        difficulty=level[0],
        level=text_of(level[1], columns.difficulty or ""),
        group="" if columns.group is None else text_of(lookup(row, columns.group), columns.group),
    )


def _with_distractors(example: Example, row: Mapping[str, Any], columns: ColumnMap, context: RowContext) -> Example:
    """The answer and the distractors that are not empty, in shuffled order."""
    answer = required_text(row, columns.answer, "answer")
    wrong = [text for name in columns.distractors for text in texts_in(lookup(row, name), name, answer)]
    context.counts["answer_repeated"] += answer in wrong
    texts = shuffled([answer, *(text for text in wrong if text)], example.prompt, context.seed)
    return with_options(example, texts, texts.index(answer), columns.distractors[0], context.warn)

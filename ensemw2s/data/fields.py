"""Values of one row: looked up by column name, checked, and turned into the parts of an example."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ensemw2s.data.example import Example
from ensemw2s.data.problems import RowError
from ensemw2s.data.text import did_you_mean, nearest
from ensemw2s.seeds import sub_seed


class Warn(Protocol):
    """Says something worth knowing about a row that becomes an example all the same."""

    def __call__(self, kind: str, message: str, column: str | None = None) -> None:
        """Report a warning; the place is added by the caller."""


@dataclass(frozen=True, slots=True)
class RowContext:
    """What a converter needs besides the row.

    Attributes:
        id: the example's id where the row has none.
        seed: seed of the order of options where the data has no order.
        answers: whether a row without an answer is an error.
        warn: receives warnings.
        support: whether a supporting passage goes before the question, where the data set has one; None is the data
            set's own choice.
        part: name of the file, without its suffix, or of the hub's split that the row comes from.
    """

    id: str
    seed: int
    answers: bool
    warn: Warn
    support: bool | None = None
    part: str = ""


Convert = Callable[[Mapping[str, Any], RowContext], Example]


def lookup(row: Mapping[str, Any], name: str) -> Any:
    """The value in column ``name``; a dotted name reaches into nested objects.

    Raises:
        RowError: the row has no such column; the nearest is named.
    """
    if name in row:
        return row[name]
    value: Any = row
    done = ""
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            keys = [done + str(k) for k in value] if isinstance(value, Mapping) else []
            guess = did_you_mean(name, keys or list(row), "columns")
            raise RowError("missing_column", f"no column {name!r}{guess}", column=name)
        value = value[part]
        done += part + "."
    return value


def has(row: Mapping[str, Any], name: str) -> bool:
    """Whether the row has column ``name`` with a value that is not null."""
    try:
        return lookup(row, name) is not None
    except RowError:
        return False


def text_of(value: Any, column: str) -> str:
    """The text of a value without white space around it; numbers and booleans as JSON writes them, null as ``""``.

    Raises:
        RowError: a list or an object, or text that UTF-8 cannot hold.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RowError("unicode", "the text holds half of a surrogate pair", column=column) from None
        return value.strip()
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Mapping) or _is_list(value):
        raise RowError("not_text", f"expected text, got {_shape(value)}", column=column)
    return str(value).strip()


def required_text(row: Mapping[str, Any], column: str, what: str) -> str:
    """Text in a column that must not be empty.

    Raises:
        RowError: ``empty_<what>`` where it is.
    """
    text = text_of(lookup(row, column), column)
    if not text:
        raise RowError(f"empty_{what}", f"the {what} is empty", column=column)
    return text


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)


def _shape(value: Any) -> str:
    return "an object" if isinstance(value, Mapping) else "a list" if _is_list(value) else repr(value)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a row: their texts and, where the data names them, their labels."""

    texts: list[str]
    labels: list[str] | None = None


def parse_options(value: Any, column: str) -> Options:
    """Options from a list of texts, a list of ``{"text", "label"}``, or ``{"text": […], "label": […]}``.

    Text that holds one of these as JSON is read too (a CSV file has nothing else).

    Raises:
        RowError: another shape, an empty option, or lists of different length.
    """
    expected = "a list of texts, or an object with lists 'text' and 'label'"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            message = f"the options must be {expected} (as JSON), got {value[:40]!r}"
            raise RowError("choices", message, column=column) from None
    labels: list[Any] | None = None
    if isinstance(value, Mapping):
        texts = value.get("text")
        given = value.get("label")
        labels = list(given) if given is not None and _is_list(given) else None
    else:
        texts = value
    if texts is None or not _is_list(texts):
        raise RowError("choices", f"the options must be {expected}, got {_shape(value)}", column=column)
    items = list(texts)
    if items and all(isinstance(item, Mapping) and "text" in item for item in items):
        labels = [item["label"] for item in items] if all("label" in item for item in items) else None
        items = [item["text"] for item in items]
    if labels is not None and len(labels) != len(items):
        message = f"{len(items)} options, but {len(labels)} labels"
        raise RowError("choices", message, column=column)
    found = [text_of(item, column) for item in items]
    if "" in found:
        raise RowError("empty_choice", f"option {found.index('') + 1} is empty", column=column)
    return Options(found, None if labels is None else [text_of(label, column) for label in labels])


def option_label(index: int) -> str:
    """The label of option ``index`` from 0: A … Z, then AA, AB and so on."""
    label = ""
    index += 1
    while index > 0:
        index, digit = divmod(index - 1, 26)
        label = chr(ord("A") + digit) + label
    return label


def find_answer(value: Any, options: Options, column: str, warn: Warn) -> int:
    """Which option the answer is: by its label in the data, its text, its letter, or its index from 0.

    Raises:
        RowError: ``answer_not_in_choices``.
    """
    answer = text_of(value, column)
    texts = options.texts
    readings: list[tuple[str, int]] = []
    if options.labels is not None and answer in options.labels:
        readings.append(("label", options.labels.index(answer)))
    if answer in texts:
        readings.append(("text", texts.index(answer)))
    if options.labels is None and len(answer) == 1 and 0 <= ord(answer) - ord("A") < len(texts):
        readings.append(("letter", ord(answer) - ord("A")))
    if (
        options.labels is None
        and answer.isascii()
        and answer.isdigit()
        and len(answer) < 10
        and int(answer) < len(texts)
    ):
        readings.append(("index from 0", int(answer)))
    if not readings:
        like = nearest(answer, texts)
        guess = f"; the most alike is {_short(like)}" if like is not None else ""
        message = f"the answer {_short(answer)} is not among the {len(texts)} options{guess}"
        hint = "Give its text, its label (A, B, …) or its index from 0."
        raise RowError("answer_not_in_choices", message, column=column, hint=hint)
    by, index = readings[0]
    other = next((f"the {how} of option {at + 1}" for how, at in readings[1:] if at != index), None)
    if other is not None:
        message = f"the answer {_short(answer)} is the {by} of option {index + 1} and also {other}; the first counts"
        warn("ambiguous_answer", message, column)
    return index


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")


def with_options(example: Example, texts: list[str], answer: int | None, column: str, warn: Warn) -> Example:
    """The example with its options; an option whose text repeats an earlier one is left out, with a warning.

    Raises:
        RowError: ``few_choices`` where fewer than two different options remain.
    """
    unique = list(dict.fromkeys(texts))
    if len(unique) < 2:
        message = f"a choice needs at least two different options, got {len(unique)}"
        raise RowError("few_choices", message, column=column)
    if len(unique) < len(texts):
        repeated = next(text for at, text in enumerate(texts) if text in texts[:at])
        message = f"option {_short(repeated)} is given more than once; one is kept"
        warn("duplicate_choice", message, column)
    return replace(example, choices=tuple(unique), answer=None if answer is None else texts[answer])


def shuffled(texts: list[str], prompt: str, seed: int) -> list[str]:
    """``texts`` in an order that depends on the seed, the prompt and the texts, not on which one is first."""
    ordered = sorted(texts)
    generator = np.random.default_rng(sub_seed(seed, "options", prompt, *ordered))
    return [ordered[at] for at in generator.permutation(len(ordered))]

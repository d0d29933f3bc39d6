"""Values of one row: looked up by column name, checked, and turned into the parts of an example."""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ensemw2s.data.example import Example
from ensemw2s.data.problems import RowError
from ensemw2s.errors import did_you_mean, shortened
from ensemw2s.files import JsonError, parse_json
from ensemw2s.seeds import sub_seed

#: Words that pandas and others write or read as a missing value. As texts they are texts, and worth a warning.
MISSING_WORDS = ("NaN", "nan", "None", "null", "NULL", "<NA>", "NA", "N/A", "n/a", "#N/A", "NaT")


class Warn(Protocol):
    """Says something worth knowing about a row that becomes an example all the same."""

    def __call__(self, kind: str, message: str, column: str | None = None) -> None:
        """Report a warning; the place is added by the caller."""


@dataclass(frozen=True, slots=True)
class RowContext:
    """Context of a row for converters.

    Attributes:
        id: the example's id where the row has none.
        seed: seed of the order of options where the data has no order.
        answers: whether a row without an answer is an error.
        warn: receives warnings.
        support: whether a supporting passage goes before the question, where the data set has one; None is the data
            set's own choice.
        part: name of the file, without its suffix, or of the hub's split that the row comes from.
        counts: counts over all rows, such as ``answer_repeated``.
    """

    id: str
    seed: int
    answers: bool
    warn: Warn
    support: bool | None = None
    part: str = ""
    counts: Counter[str] = field(default_factory=Counter)


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
            raise RowError("missing_column", f"no column {shortened(name)!r}{guess}", column=name)
        value = value[part]
        done += part + "."
    return value


def answer_value(row: Mapping[str, Any], name: str, context: RowContext) -> Any:
    """The value in the answer's column; missing where answers are not needed and there is no such column.

    Raises:
        RowError: as in :func:`lookup`.
    """
    return lookup(row, name) if context.answers or has(row, name) else None


def is_missing(value: Any) -> bool:
    """Whether a value is null, or what Python's JSON, numpy and pandas have instead: NaN, ±infinity, NA, NaT."""
    if value is None:
        return True
    if isinstance(value, str | bytes | int | Mapping) or _is_list(value):
        return False
    try:
        return not math.isfinite(value)
    except ValueError:  # a signalling NaN
        return True
    except TypeError:
        return type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def has(row: Mapping[str, Any], name: str) -> bool:
    """Whether the row has column ``name`` with a value that is not missing."""
    try:
        return not is_missing(lookup(row, name))
    except RowError:
        return False


def text_of(value: Any, column: str) -> str:
    """The text of a value without white space around it; numbers and booleans as JSON writes them, missing is ``""``.

    Raises:
        RowError: a list or an object, or text that UTF-8 cannot hold.
    """
    if is_missing(value):
        return ""
    try:
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, str):
            value.encode()
            return value.strip()
    except UnicodeDecodeError:
        raise RowError("unicode", "the bytes are no text in UTF-8", column=column) from None
    except UnicodeEncodeError:
        raise RowError("unicode", "the text holds half of a surrogate pair", column=column) from None
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Mapping) or _is_list(value):
        raise RowError("not_text", f"expected text, got {shape(value)}", column=column)
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


def shape(value: Any) -> str:
    """A value, or what it is, for a message."""
    return "an object" if isinstance(value, Mapping) else "a list" if _is_list(value) else shortened(repr(value), 60)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a row.

    Attributes:
        texts: in order; ``""`` where a column of a row is empty.
        labels: where the data names the options, by labels or by the columns that hold them.
        in_columns: whether the labels are names of columns.
        numeric: whether the data holds the options as numbers.
        flags: labels that are all 0 or 1, and may say which option is right instead of naming it; else empty.
    """

    texts: list[str]
    labels: list[str] | None = None
    in_columns: bool = False
    numeric: bool = False
    flags: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Unread:
    """An example whose answer is not read yet: how it is to be read is decided for the whole column.

    Attributes:
        example: without its answer.
        options: of its row.
        answer: the value in the answer's column; missing where it is unknown.
    """

    example: Example
    options: Options
    answer: Any


Convert = Callable[[Mapping[str, Any], RowContext], Example | Unread]


#: What data sets call the text and the label of an option that is an object.
_TEXT_KEYS, _LABEL_KEYS = ("text", "value"), ("label", "key", "letter", "id")
_FLAGS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


def parse_options(value: Any, column: str) -> Options:
    """Options: a list of texts or of ``{"text", "label"}``, ``{"text": […], "label": […]}`` or ``{label: text}``.

    Text that holds one of these as JSON is read too (a CSV file has nothing else), or a list as Python writes it. In
    ``{label: text}`` a missing text is no option: Parquet has the labels of all rows in each.

    Raises:
        RowError: another shape, an empty option, or lists of different length.
    """
    expected = "a list of texts, a list of {text, label}, an object with lists 'text' and 'label', or {label: text}"
    hint = "Options in columns of their own: name all these columns, choices: [a, b, c, d]."
    if isinstance(value, str):
        try:
            value = _written(value)
        except JsonError:
            message = f"the options must be {expected} (as JSON), got {shortened(value, 40)!r}"
            hint = f'Write each list as JSON, ["red", "blue"]. {hint}'
            raise RowError("choices", message, column=column, hint=hint) from None
    items, given = _items_and_labels(value)
    if items is None:
        raise RowError("choices", f"the options must be {expected}, got {shape(value)}", column=column, hint=hint)
    labels = None if given is None else [text_of(label, column) for label in given]
    if labels is not None and len(labels) != len(items):
        raise RowError("choices", f"{len(items)} options, but {len(labels)} labels", column=column)
    flags: tuple[int, ...] = ()
    if labels and not (isinstance(value, Mapping) and "text" not in value):
        flags = tuple(_FLAGS[label] for label in labels if label in _FLAGS)
        flags = flags if len(flags) == len(labels) else ()
    if labels is not None and len(set(labels)) < len(labels):
        if not flags:
            message = f"the labels of the options are not all different: {shortened(str(labels), 60)}"
            raise RowError("choices", message, column=column)
        labels = None
    found = [text_of(item, column) for item in items]
    if "" in found:
        raise RowError("empty_choice", f"option {found.index('') + 1} is empty", column=column)
    return Options(found, labels, numeric=all(map(_is_number, items)), flags=flags)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _items_and_labels(value: Any) -> tuple[list[Any] | None, list[Any] | None]:
    """The options, None where the shape is not known, and their labels, None where there are none."""
    if isinstance(value, Mapping) and "text" in value:
        texts, given = value["text"], value.get("label")
        return (list(texts) if _is_list(texts) else None), (
            list(given) if given is not None and _is_list(given) else None
        )
    if isinstance(value, Mapping):
        named = {label: text for label, text in value.items() if not is_missing(text)}
        flat = not any(isinstance(text, Mapping) or _is_list(text) for text in named.values())
        return (list(named.values()), list(named)) if flat else (None, None)
    items = list(value) if _is_list(value) else None
    if items and all(isinstance(item, Mapping) for item in items):
        text, label = (_shared_key(items, keys) for keys in (_TEXT_KEYS, _LABEL_KEYS))
        labels = None if label is None else [item[label] for item in items]
        return (None if text is None else [item[text] for item in items]), labels
    return items, None


def _shared_key(items: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if all(key in item for item in items)), None)


def _written(text: str) -> Any:
    """The value of JSON text, or of a list of texts as Python (and so pandas) writes it.

    Raises:
        JsonError: it is neither; so are numpy's lists, which have no commas.
    """
    try:
        return parse_json(text)
    except JsonError:
        if text.startswith(("['", '["')):
            with warnings.catch_warnings(), suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                warnings.simplefilter("ignore")
                found = ast.literal_eval(text)
                if isinstance(found, list) and repr(found) == text:
                    return found
        raise


def texts_in(value: Any, column: str, answer: str) -> list[str]:
    """The texts in a column of wrong options: one, or a list (also in writing, where the answer is none in writing).

    Raises:
        RowError: as in :func:`text_of`.
    """
    if isinstance(value, str) and value.startswith("[") and not answer.startswith("["):
        with suppress(JsonError):
            value = _written(value)
    return [text_of(item, column) for item in value] if _is_list(value) else [text_of(value, column)]


def options_in_columns(row: Mapping[str, Any], columns: Sequence[str]) -> Options:
    """Options in columns of their own; an empty one is no option in this row.

    Raises:
        RowError: a column is missing, or holds no text.
    """
    values = [lookup(row, name) for name in columns]
    numeric = all(is_missing(v) or _is_number(v) for v in values)
    texts = [text_of(value, name) for value, name in zip(values, columns, strict=True)]
    return Options(texts, list(columns), in_columns=True, numeric=numeric)


def warn_of_missing_words(row: Mapping[str, Any], columns: Iterable[str], warn: Warn) -> None:
    """Warn of texts that look like a missing value that was turned into text."""
    for name in columns:
        value = lookup(row, name) if has(row, name) else None
        for text in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
            if isinstance(text, str) and text.strip() in MISSING_WORDS:
                message = f"{text.strip()!r} is taken as a text; a missing value is an empty field, or null in JSON"
                warn("missing_word", message, name)
                break


def option_label(index: int) -> str:
    """The label of option ``index`` from 0: A … Z, then AA, AB and so on."""
    label = ""
    index += 1
    while index > 0:
        index, digit = divmod(index - 1, 26)
        label = chr(ord("A") + digit) + label
    return label


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
        message = f"option {shortened(repeated)!r} is given more than once; one is kept"
        warn("duplicate_choice", message, column)
    return replace(example, choices=tuple(unique), answer=None if answer is None else texts[answer])


def shuffled(texts: list[str], prompt: str, seed: int) -> list[str]:
    """``texts`` in an order that depends on the seed, the prompt and the texts, not on which one is first."""
    ordered = sorted(texts)
    generator = np.random.default_rng(sub_seed(seed, "options", prompt, *ordered))
    return [ordered[at] for at in generator.permutation(len(ordered))]

"""Meaning of an answer column: text, label, letter or index; decided once a column, never row by row.

A column of answers may hold the options' texts, their labels (or the names of the columns that hold them), letters, or
indices from 0 or from 1. Read row by row, ``1`` would be the text ``"1"`` in one row and an index in the next.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, get_args

from ensemw2s.config.data import AnswerReading, ColumnMap
from ensemw2s.data.example import Example
from ensemw2s.data.fields import Options, Unread, is_missing, text_of
from ensemw2s.data.problems import Problem, Report, Row
from ensemw2s.errors import nearest, shortened

_READINGS: tuple[AnswerReading, ...] = get_args(AnswerReading)
_WORDS: dict[AnswerReading, str] = {
    "label": "a label",
    "text": "the text of an option",
    "letter": "a letter",
    "index": "an index from 0",
    "index1": "an index from 1",
}
_STATE = (
    "Say how the column is to be read: data.source.columns.answer_is (or --column answer_is=…) is text, label, letter, "
    "index (from 0) or index1 (from 1)."
)
#: ``b``, ``(B)``, ``b.``, ``Option B``, ``choice 2``: one of several options by its letter or number.
_NAMED = re.compile(r"(?:(?:option|choice|answer|opt|ans)[\s_.:#-]*)?[(\[]?([a-z]|\d{1,2})[)\].:]*", re.IGNORECASE)
_WHOLE = re.compile(r"([+-]?\d{1,9})(?:\.0*)?")


def whole_number(value: Any) -> int | None:
    """The whole number that a value is, also as text or as ``1.0`` (pandas' way of columns with missing values)."""
    if isinstance(value, bool) or is_missing(value):
        return None
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real | Decimal):
        return int(float(value)) if float(value).is_integer() else None
    found = _WHOLE.fullmatch(unicodedata.normalize("NFKC", value).strip()) if isinstance(value, str) else None
    return None if found is None else int(found.group(1))


def letter_or_number(text: str) -> tuple[int | None, int | None]:
    """The place (from 0) of a letter, and the number, that stands for one of several options in ``text``."""
    found = _NAMED.fullmatch(unicodedata.normalize("NFKC", text).strip())
    if found is None:
        return None, None
    name = found.group(1).upper()
    return (ord(name) - ord("A"), None) if name.isalpha() else (None, int(name))


def readings(value: Any, options: Options) -> dict[AnswerReading, int]:
    """For each reading of an answer that fits: which option it is, from 0."""
    text = text_of(value, "")
    letter, numbered = letter_or_number(text) if isinstance(value, str) else (None, None)
    number = whole_number(value)
    number = numbered if number is None else number
    spellings = [text, text.capitalize()] if isinstance(value, bool) else [text]  # Python and pandas write True
    found: dict[AnswerReading, int] = {}

    def put(reading: AnswerReading, at: int | None) -> None:
        if at is not None and 0 <= at < len(options.texts) and options.texts[at]:
            found[reading] = at

    labels = options.labels
    if labels is not None:
        put("label", (_name_of if options.in_columns else _label_of)(spellings, labels))
    put("text", _first(spellings, options.texts))
    if labels is None or options.in_columns or all(letter_or_number(label)[0] is None for label in labels):
        put("letter", letter)
    named = labels is not None and not options.in_columns and not options.flags
    if number is not None and not (named and any(whole_number(label) is not None for label in labels or ())):
        put("index", number)
        put("index1", number - 1)
    return found


def _first(spellings: Sequence[str], among: Sequence[str]) -> int | None:
    """The text that is spelled so, or else the only one that is but for white space, Unicode's forms or ``.0``."""
    exact = next((among.index(text) for text in spellings if text and text in among), None)
    text = spellings[0]
    if exact is not None or not text or (text.isascii() and text.isalpha()):
        return exact
    wanted = _plain(text)
    same = {other for other in among if _plain(other) == wanted}
    return among.index(same.pop()) if len(same) == 1 else None


def _plain(text: str) -> str:
    number = whole_number(text)
    if number is not None:
        return str(number)
    shown = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf")
    return " ".join(shown.split())


def _label_of(spellings: Sequence[str], labels: Sequence[str]) -> int | None:
    """The label that a value is, or is but for case and what stands around a letter or number (``B)``)."""
    exact = _first(spellings, labels)
    same = [at for at, label in enumerate(labels) if _bare(label) == _bare(spellings[0])] if exact is None else [exact]
    return same[0] if len(same) == 1 else None


def _bare(label: str) -> str | tuple[int | None, int | None]:
    named = letter_or_number(label)
    return label.casefold() if named == (None, None) else named


def _name_of(spellings: Sequence[str], names: Sequence[str]) -> int | None:
    """The column that a value names, whatever the case: whole, or without the beginning that all names share."""
    exact = _first(spellings, names)
    if exact is not None:
        return exact
    return next((at for key in spellings for at in [column_names(names).get(key.casefold())] if at is not None), None)


def column_names(names: Sequence[str]) -> dict[str, int]:
    """Names for one of several columns (``option_b``, ``b``), in lower case, with its place."""
    folded = [name.casefold() for name in names]
    shared = 0
    while all(name[shared : shared + 1] == folded[0][shared : shared + 1] != "" for name in folded):
        shared += 1
    return {name[shared:]: at for at, name in enumerate(folded)} | {name: at for at, name in enumerate(folded)}


@dataclass(frozen=True, slots=True)
class _Cell:
    """An answer with its readings, and where it stands."""

    value: Any
    options: Options
    row: Row
    fits: dict[AnswerReading, int]

    @property
    def shown(self) -> str:
        return repr(shortened(text_of(self.value, ""), 60))

    @property
    def is_number(self) -> bool:
        return not isinstance(self.value, str | bytes | bool)

    @property
    def ways(self) -> str:
        return " or ".join(_WORDS[reading] for reading in _READINGS if reading in self.fits)

    def text(self, reading: AnswerReading) -> str:
        return self.options.texts[self.fits[reading]]

    def option(self, reading: AnswerReading) -> str:
        return repr(shortened(self.text(reading), 60))


def read_answers(unread: Sequence[tuple[Unread, Row]], columns: ColumnMap, report: Report) -> list[Example | None]:
    """The examples with their answers, all read in one way; None where that failed and a problem was reported.

    Args:
        unread: the examples of a source, in order, with their rows.
        columns: ``answer_is`` states how the answers are read; else they themselves have to leave no doubt.
        report: receives one problem for a column that cannot be decided, and one for each answer that does not fit.
    """
    cells = [
        None if is_missing(one.answer) else _Cell(one.answer, options, row, readings(one.answer, options))
        for (one, row), options in zip(unread, _with_flags([one.options for one, _ in unread]), strict=True)
    ]
    decided: AnswerReading | None = columns.answer_is
    undecided = False
    if decided is None:
        found = _decide([cell for cell in cells if cell is not None and cell.fits], columns.answer)
        undecided = isinstance(found, Problem)
        if isinstance(found, Problem):
            report(found)
        else:
            decided = found
    examples: list[Example | None] = []
    for (one, _), cell in zip(unread, cells, strict=True):
        if cell is None:
            examples.append(one.example)
        elif decided in cell.fits:
            examples.append(replace(one.example, answer=cell.text(decided)))
        else:
            examples.append(None)
            if not (undecided and cell.fits):
                report(_unfit(cell, decided, columns.answer))
    return examples


def _with_flags(column: Sequence[Options]) -> list[Options]:
    """Options whose labels 0 and 1 are flags where those of any row can be nothing else, and names where all may be.

    Flags are no labels; labels that may be flags (``1, 0``) are kept as such, so that an answer can be an index too.
    """
    sure = any(len(set(options.flags)) < len(options.flags) for options in column)
    unclear = any(options.flags == (1, 0) for options in column)
    return [
        replace(options, labels=None) if options.flags and sure else options if unclear else replace(options, flags=())
        for options in column
    ]


def _decide(cells: Sequence[_Cell], column: str) -> AnswerReading | Problem | None:
    """The one reading of a column, or why there is none; None without answers that fit at all."""
    if not cells:
        return None
    common = [reading for reading in _READINGS if all(reading in cell.fits for cell in cells)]
    if not common:
        return _mixed(cells, column)
    numbers = [cell for cell in cells if cell.is_number]
    typed = all(cell.row.typed for cell in cells)
    if len(numbers) == len(cells) and typed and not any(cell.options.numeric for cell in cells):
        common = [r for r in common if r != "text"] or common  # numbers beside options that are texts are indices
    elif not numbers and typed and "text" in common:
        common = [r for r in common if r not in ("index", "index1")]  # an index would be a number
    for cell in cells:
        ways = {cell.text(reading): reading for reading in reversed(common)}
        if len(ways) > 1:
            first, second = sorted(ways.values(), key=_READINGS.index)[:2]
            message = (
                f"the answers fit in more than one way: {cell.shown} is option {cell.option(first)} as "
                f"{_WORDS[first]}, and option {cell.option(second)} as {_WORDS[second]}"
            )
            return _problem("ambiguous_answer", message, cell, column)
    texts = [cell for cell in cells if not cell.is_number]
    for cell in numbers if texts and common[0] not in ("index", "index1") else ():
        for reading in ("index", "index1"):
            if reading in cell.fits and cell.text(reading) != cell.text(common[0]):
                message = (
                    f"the answers are of two kinds: {cell.shown} is a number, and would be {_WORDS[reading]}, "
                    f"but {texts[0].shown} at {texts[0].row.place} is {_WORDS[common[0]]}"
                )
                return _problem("mixed_answers", message, cell, column)
    return common[0]


def _mixed(cells: Sequence[_Cell], column: str) -> Problem:
    """The first answers that fit only in different ways."""
    best = max(_READINGS, key=lambda reading: sum(reading in cell.fits for cell in cells))
    other = next(cell for cell in cells if best not in cell.fits)
    fitting = [cell for cell in cells if best in cell.fits]
    one = next((cell for cell in fitting if not cell.fits.keys() & other.fits.keys()), fitting[0])
    message = (
        f"the answers are of two kinds: {other.shown} fits as {other.ways}, but {one.shown} at {one.row.place} as "
        f"{one.ways}"
    )
    return _problem("mixed_answers", message, other, column)


def _unfit(cell: _Cell, decided: AnswerReading | None, column: str) -> Problem:
    texts = [text for text in cell.options.texts if text]
    message = f"the answer {cell.shown} is not among the {len(texts)} options"
    if decided is not None:
        message += f": the column is read as {_WORDS[decided]}"
    like = nearest(text_of(cell.value, ""), texts) if decided in (None, "text", "label") else None
    message += f"; the most alike is {shortened(like, 60)!r}" if like is not None else ""
    hint = _STATE if cell.fits else "Give its text, its label (A, B, …) or its index from 0."
    return _problem("answer_not_in_choices", message, cell, column, hint)


def _problem(kind: str, message: str, cell: _Cell, column: str, hint: str = _STATE) -> Problem:
    return cell.row.problem(kind, message, column, hint=hint)

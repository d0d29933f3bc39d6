"""Mappings of columns that give the answers away, so that a run on them would be nonsense and look splendid."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ensemw2s.config.data import ColumnMap
from ensemw2s.data.answers import column_names, whole_number
from ensemw2s.data.example import Example
from ensemw2s.data.fields import option_label
from ensemw2s.data.files import Row
from ensemw2s.data.problems import Problem
from ensemw2s.errors import shortened

_AS_IT_IS = "If the data is meant as it stands, say so: answer_is: text (--column answer_is=text)."
_NAMED = re.compile(r"(?:(?:option|choice|answer|opt|ans)[\s_.:#-]*)?[(\[]?([a-z]|\d{1,2})[)\].:]*")
#: Fewest rows from which a set of answers or options that is the same everywhere says something.
_FEW_ROWS, _SAME_ROWS = 8, 3
_SHORT = 4


def find_shortcut(examples: Sequence[Example], columns: ColumnMap, first: Row) -> Problem | None:
    """What gives the answers away in a source with mapped columns, or None.

    Args:
        examples: those that the source's rows make.
        columns: the mapping.
        first: its first row, for the names of the columns and the place of the problem.
    """
    with_choices = [example for example in examples if example.choices is not None]
    if not with_choices:
        return None
    found = _answers_that_name_columns(with_choices, columns) if columns.distractors else None
    found = found or _options_that_stand_for_others(with_choices, columns, first)
    if found is None:
        return None
    message, hint = found
    return Problem("shortcut", message, first.file, None, columns.answer, "error", f"{hint} {_AS_IT_IS}")


def _answers_that_name_columns(examples: Sequence[Example], columns: ColumnMap) -> tuple[str, str] | None:
    """Answers that say which distractor is right instead of what: they would be one option more, and always right."""
    names = column_names(columns.distractors)
    answers = Counter(_folded(example.answer) for example in examples if example.answer is not None)
    wrong = Counter(_folded(text) for e in examples for text in e.choices or () if text != e.answer)
    total = answers.total()
    naming = {text: count for text, count in answers.items() if _is_name(text, names)}
    count = sum(naming.values())
    one = next(iter(naming), "")
    hint = f"Name all columns with options: choices: [{', '.join(columns.distractors)}]."
    if 2 * count > total and 4 * sum(wrong[text] for text in naming) < count:
        what = f"in {count} of {total} rows the answer, such as {one!r}, names an option instead of being one"
        return f"{what}: beside distractors it would be one option more, and always the right one", hint
    few = len(answers) <= len(columns.distractors) + 1 and total >= max(_FEW_ROWS, 4 * len(answers))
    if few and all(len(text) <= _SHORT and not wrong[text] for text in answers):
        shown = ", ".join(repr(text) for text in list(answers)[:5])
        what = f"the answer is one of {shown} in all {total} rows, and never a distractor of another row"
        return f"{what}: the options give it away", hint
    return None


def _is_name(text: str, names: dict[str, int]) -> bool:
    """Whether a text names one of several options: their columns, a letter, an index from 0 or from 1."""
    if text in names:
        return True
    found = _NAMED.fullmatch(text)
    if found is None:
        return False
    number = whole_number(found.group(1))
    # One letter more than there are columns: the last one was perhaps left out of them.
    return number <= len(names) if number is not None else ord(found.group(1)) - ord("a") <= len(names)


def _options_that_stand_for_others(
    examples: Sequence[Example], columns: ColumnMap, first: Row
) -> tuple[str, str] | None:
    """The same options in every row that name columns, or letters that no prompt explains."""
    texts = examples[0].choices or ()
    if len(examples) < _SAME_ROWS or any(set(example.choices or ()) != set(texts) for example in examples):
        return None
    shown = shortened(", ".join(sorted(texts)))
    same = f"all rows have the same options, {shown}"
    values = [first.data.get(text) for text in texts]
    if all(isinstance(v, str) and v.strip() and whole_number(v) is None and not _is_float(v) for v in values):
        hint = f"Name the columns: choices: [{shown}]."
        return f"{same}, which are the names of columns with other texts", hint
    letters = [option_label(at) for at in range(len(texts))]
    if sorted(_folded(text) for text in texts) != [letter.casefold() for letter in letters]:
        return None
    telling = sum(all(re.search(rf"(?<!\w){re.escape(t)}(?!\w)", e.prompt) for t in texts) for e in examples)
    if 2 * telling >= len(examples):
        return None
    hint = "Name the column, or the columns, with the texts of the options: choices: [a, b, c, d]."
    return f"{same}, and the prompts do not say what they stand for", hint


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _folded(text: str | None) -> str:
    return unicodedata.normalize("NFKC", text or "").casefold().strip()

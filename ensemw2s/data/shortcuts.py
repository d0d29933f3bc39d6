"""Column mappings that leak the answers, which are refused."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ensemw2s.config.data import ColumnMap
from ensemw2s.data.answers import column_names, letter_or_number, whole_number
from ensemw2s.data.example import Example
from ensemw2s.data.fields import option_label
from ensemw2s.data.problems import Problem, Row
from ensemw2s.errors import shortened

_AS_IT_IS = "If the data is meant as it stands, say so: answer_is: text (--column answer_is=text)."
_WITH_LETTER = re.compile(r"[(\[]?(?:[a-z]|\d{1,2})[)\].:]+\s*(.+)", re.DOTALL | re.IGNORECASE)
#: Fewest rows from which few distinct answers, or the same options in every row, are significant.
_FEW_ROWS, _SAME_ROWS = 8, 3
_SHORT = 4


def find_shortcut(examples: Sequence[Example], columns: ColumnMap, first: Row, repeated: int) -> Problem | None:
    """A mapped column that gives the answers away, or None.

    ``first`` is its first row, which has the names of all columns; ``repeated`` counts the rows in which the answer is
    one of that row's distractors.
    """
    with_choices = [example for example in examples if example.choices is not None]
    if not with_choices:
        return None
    found = _answers_beside_options(with_choices, columns, repeated) if columns.distractors else None
    found = found or _options_that_stand_for_others(with_choices, columns, first)
    if found is None:
        return None
    message, hint = found
    hint = f"{hint} {_AS_IT_IS}"
    return first.problem("shortcut", message, columns.answer, hint=hint)


def _answers_beside_options(examples: Sequence[Example], columns: ColumnMap, repeated: int) -> tuple[str, str] | None:
    """Answers that say which distractor is right instead of what: they would be one option more, and always right."""
    names = column_names(columns.distractors)
    answers = Counter(_folded(example.answer) for example in examples if example.answer is not None)
    wrong = Counter(_folded(text) for e in examples for text in e.choices or () if text != e.answer)
    total = answers.total()
    cells = max(wrong.total(), 1)
    naming = {text: count for text, count in answers.items() if _is_name(text, names)}
    count = sum(naming.values())
    one = next(iter(naming), "")
    hint = f"Name all columns with options: choices: [{', '.join(columns.distractors)}]."
    # Genuine answers are of the same kind as the distractors, so that these are such names as often.
    if 2 * count > total and 4 * sum(wrong[text] for text in naming) / cells < count / total:
        what = f"in {count} of {total} rows the answer, such as {one!r}, names an option instead of being one"
        return f"{what}: beside distractors it would be one option more, and always the right one", hint
    if repeated >= 2 and 10 * min(repeated, total - repeated) >= total:
        return f"the answer is one of the distractors in {repeated} of {total} rows, and in the others it is not", hint
    lettered = [e.answer for e in examples if _is_option_with_letter(e)]
    if 2 * len(lettered) > total:
        what = (
            f"in {len(lettered)} of {total} rows the answer, such as {shortened(lettered[0] or '')!r}, is a distractor"
        )
        return f"{what} with its letter", f"{hint} Leave the letter, or the text, out of the answers."
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
    letter, number = letter_or_number(text)
    number = whole_number(text) if number is None else number
    place = letter if letter is not None else number
    return place is not None and 0 <= place <= _columns(names)


def _columns(names: dict[str, int]) -> int:
    return max(names.values()) + 1


def _is_option_with_letter(example: Example) -> bool:
    found = _WITH_LETTER.fullmatch(example.answer or "")
    return found is not None and found.group(1) in (example.choices or ())


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

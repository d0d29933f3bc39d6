"""Comparison of a generated answer with the true one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

import numpy as np
import numpy.typing as npt

from ensemw2s.errors import ConfigError

Match = Literal["exact", "number"]

_MINUS = str.maketrans({"−": "-", "–": "-"})
# A sign right after a word or a number (10-3), or with a blank behind it (10 - 3), is a dash or an operation; commas
# count only as thousands separators.
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>(?<!\))[-+])?[$€£¥]?"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?P<exponent>[eE][-+]?[0-9]{1,3}(?![0-9]))?"
)


def normalise_text(text: str) -> str:
    """The text with every run of white space as one blank and none at the ends."""
    return " ".join(text.split())


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """An ``answer_pattern`` ready for use.

    Raises:
        ConfigError: not a regular expression, or one without a group.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"data.template.answer_pattern is not a regular expression: {error}.",
            hint="Write a Python regular expression whose first group is the final answer.",
        ) from error
    if compiled.groups < 1:
        raise ConfigError(
            f"data.template.answer_pattern {pattern!r} has no group.",
            hint="Put parentheses around the part that is the final answer.",
        )
    return compiled


def extract_answer(text: str, pattern: re.Pattern[str] | None) -> str | None:
    """The final answer in a text: the first group of the pattern's last match.

    Returns:
        The answer, the whole text where there is no pattern, or None where the pattern does not match.
    """
    if pattern is None:
        return text
    found = None
    for match in pattern.finditer(text):
        found = match.group(1)
    return found


def parse_number(text: str) -> Decimal | None:
    """The last number in a text, exactly; None where there is none.

    Signs, thousands commas (``1,234``), decimals, exponents and a currency mark before the digits are understood.
    Digits inside words (``x2``) are not numbers.
    """
    last = None
    for match in _NUMBER.finditer(text.translate(_MINUS)):
        last = match
    if last is None:
        return None
    sign, digits, exponent = last["sign"] or "", last["digits"].replace(",", ""), last["exponent"] or ""
    return Decimal(sign + digits + exponent)


def answers_match(predicted: str, true: str, match: Match, pattern: re.Pattern[str] | None = None) -> bool:
    """Whether a generated answer is right.

    With a pattern the final answer is taken out of both texts first. A generated text without it is wrong; a true
    answer without it is taken whole (data sets often hold the bare answer).

    Args:
        predicted: generated text.
        true: true answer.
        match: ``exact`` compares texts after normalising white space; ``number`` compares the last numbers.
        pattern: from :func:`compile_pattern`.

    Raises:
        ValueError: an unknown ``match``, or ``number`` with a true answer that holds no number.
    """
    if match not in ("exact", "number"):
        raise ValueError(f"match must be exact or number, got {match!r}")
    given = extract_answer(predicted, pattern)
    wanted = extract_answer(true, pattern)
    wanted = true if wanted is None else wanted
    if match == "number":
        truth = parse_number(wanted)
        if truth is None:
            raise ValueError(f"match: number needs a number in every true answer, and {true!r} has none")
        return given is not None and parse_number(given) == truth
    return given is not None and normalise_text(given) == normalise_text(wanted)


def text_correct(
    predicted: Sequence[str], true: Sequence[str], match: Match = "exact", answer_pattern: str | None = None
) -> npt.NDArray[np.bool_]:
    """Right or wrong for every generated answer, bool ``[n]``.

    Raises:
        ValueError: lengths that differ, or as :func:`answers_match`.
        ConfigError: as :func:`compile_pattern`.
    """
    if len(predicted) != len(true):
        raise ValueError(f"one true answer a prediction is needed, got {len(true)} for {len(predicted)}")
    pattern = None if answer_pattern is None else compile_pattern(answer_pattern)
    pairs = zip(predicted, true, strict=True)
    return np.array([answers_match(given, wanted, match, pattern) for given, wanted in pairs], dtype=np.bool_)

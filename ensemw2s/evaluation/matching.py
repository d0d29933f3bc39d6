"""Comparison of a generated answer with the true one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from ensemw2s.config.answer_pattern import AnswerPattern, compile_pattern
from ensemw2s.evaluation.numbers import parse_number

Match = Literal["exact", "number"]


def normalise_text(text: str) -> str:
    """The text with every run of white space as one blank and none at the ends."""
    return " ".join(text.split())


def extract_answer(text: str, pattern: AnswerPattern | None) -> str | None:
    """The final answer in a text: the first group of the pattern's last match.

    Returns:
        The answer, the whole text where there is no pattern, or None where the pattern does not match.

    Raises:
        ConfigError: the pattern takes too long.
    """
    return text if pattern is None else pattern.find(text)


def answers_match(predicted: str, true: str, match: Match, pattern: AnswerPattern | None = None) -> bool:
    """Whether a generated answer is right: the same text but for white space, or (``number``) the same last number.

    With a pattern the final answer is taken out of both texts first. A generated text without it is wrong; a true
    answer without it is taken whole (data sets often hold the bare answer).

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

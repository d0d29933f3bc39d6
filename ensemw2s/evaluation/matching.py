"""Comparison of a generated answer with the true one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import regex

from ensemw2s.errors import ConfigError
from ensemw2s.evaluation.numbers import parse_number

Match = Literal["exact", "number"]

#: Seconds that an answer pattern may take on one text; and on all, at the start and for every text.
_ONE_TEXT, _START, _EACH = 1.0, 10.0, 0.005
#: Characters that a pattern may have once its repeats are written out, as the engine does when it compiles.
_LARGEST = 100_000
_PIECE = regex.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*+\]|(?P<open>\()|(?P<close>\))|\{(?P<least>[0-9]*)(?:,(?P<most>[0-9]*))?\}|.",
    regex.DOTALL,
)


def normalise_text(text: str) -> str:
    """The text with every run of white space as one blank and none at the ends."""
    return " ".join(text.split())


class AnswerPattern:
    """A Python regular expression whose first group is the final answer, applied within bounded time and memory.

    Raises:
        ConfigError: not a regular expression, one without a group, or one whose repeats multiply beyond all bounds.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._spent, self._allowed = 0.0, _START
        if _written_out(pattern) > _LARGEST:
            raise ConfigError(
                f"data.template.answer_pattern repeats too much: {pattern[:60]!r}.",
                hint="Write + or * in place of counts such as {1000}, above all inside each other.",
            )
        try:
            self._compiled = regex.compile(pattern)
        except (regex.error, RecursionError, MemoryError, OverflowError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error) or "it is too large"
            raise ConfigError(
                f"data.template.answer_pattern is not a regular expression: {why}.",
                hint="Write a Python regular expression whose first group is the final answer.",
            ) from error
        if self._compiled.groups < 1:
            raise ConfigError(
                f"data.template.answer_pattern {pattern!r} has no group.",
                hint="Put parentheses around the part that is the final answer.",
            )

    def find(self, text: str) -> str | None:
        """The first group of the last match in a text, or None.

        Raises:
            ConfigError: that takes too long.
        """
        self._allowed += _EACH
        limit = min(_ONE_TEXT, max(self._allowed - self._spent, 1e-3))
        start, found = time.monotonic(), None
        try:
            for match in self._compiled.finditer(text, timeout=limit):
                found = match[1]
                if time.monotonic() - start > limit:
                    raise TimeoutError
        except (TimeoutError, MemoryError) as error:
            raise ConfigError(
                f"data.template.answer_pattern {self.pattern[:60]!r} takes too long; it was stopped in a text of "
                f"{len(text)} characters.",
                hint="Repeats inside repeats, as in (a+)+, and several .* in a row make a pattern slow.",
            ) from error
        finally:
            self._spent += time.monotonic() - start
        return found


def _written_out(pattern: str) -> int:
    """About the length of a pattern with its counted repeats written out."""
    sizes, last = [0], [0]
    for piece in _PIECE.finditer(pattern):
        if piece["open"]:
            sizes.append(0)
            last.append(0)
            continue
        if piece["close"] and len(sizes) > 1:
            last.pop()
            size = sizes.pop() + 1
        elif piece["least"] is not None:
            counts = [int(digits[:9]) for digits in (piece["least"], piece["most"]) if digits]
            size = last[-1] * (max(counts, default=1) - 1)
            last[-1] += size
            sizes[-1] += size
            continue
        else:
            size = 1
        last[-1] = size
        sizes[-1] += size
    return sum(sizes)


@lru_cache(maxsize=16)
def compile_pattern(pattern: str) -> AnswerPattern:
    """An ``answer_pattern`` ready for use.

    Raises:
        ConfigError: as :class:`AnswerPattern`.
    """
    return AnswerPattern(pattern)


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

"""The regular expression that finds the final answer in a text."""

from __future__ import annotations

import time
from functools import lru_cache

import regex

from ensemw2s.errors import ConfigError, first_line, shortened

#: Seconds that an answer pattern may take on one text; and on all, at the start and for every text.
_ONE_TEXT, _START, _EACH = 1.0, 10.0, 0.005
#: Characters that a pattern may have once its repeats are written out, as the engine does when it compiles.
_LARGEST = 100_000
_PIECE = regex.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*+\]|(?P<open>\()|(?P<close>\))|\{(?P<least>[0-9]*)(?:,(?P<most>[0-9]*))?\}|.",
    regex.DOTALL,
)


def compiled(pattern: str) -> regex.Pattern[str]:
    """The pattern as the engine's own object.

    Raises:
        ValueError: not a regular expression, one without a group, or one whose repeats multiply beyond all bounds; the
            message stands after "key:".
    """
    shown = shortened(repr(pattern))
    if _written_out(pattern) > _LARGEST:
        raise ValueError(
            f"repeats too much: {shown}; write + or * in place of counts such as {{1000}}, above all inside each other"
        )
    try:
        found = regex.compile(pattern)
    except Exception as error:  # the engine raises ValueError, KeyError, RecursionError, … beside its own
        why = "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise ValueError(
            f"not a regular expression: {shown} ({why}); write a Python one whose first group is the final answer"
        ) from error
    if found.groups < 1:
        raise ValueError(f"no group: {shown}; put parentheses around the part that is the final answer")
    return found


class AnswerPattern:
    """A Python regular expression whose first group is the final answer, applied within bounded time and memory.

    Raises:
        ConfigError: not a regular expression, one without a group, or one whose repeats multiply beyond all bounds.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._spent, self._allowed = 0.0, _START
        try:
            self._compiled = compiled(pattern)
        except ValueError as error:
            raise ConfigError(f"data.template.answer_pattern: {error}.") from error

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


@lru_cache(maxsize=16)
def compile_pattern(pattern: str) -> AnswerPattern:
    """An ``answer_pattern`` ready for use.

    Raises:
        ConfigError: as :class:`AnswerPattern`.
    """
    return AnswerPattern(pattern)


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

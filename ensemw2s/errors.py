"""The exceptions of EnsemW2S and the exit codes that they map to.

Every error that a user can cause is an :class:`Ew2sError`: it carries a title, a message that names the file, line or
key and what was expected, and a hint that says what to do. The command line prints these three and ends with
``exit_code``; a traceback appears with ``--debug`` only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ensemw2s.text import printable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

#: Characters of a name that are compared: the time is quadratic in them.
_COMPARED = 200


def shortened(text: str, most: int = 80) -> str:
    """``text`` for a message: one line, at most ``most`` characters of it, control characters shown by a mark."""
    text = printable(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of what an exception says, cut; its type where it says nothing."""
    text = str(error).strip()
    return shortened(text.splitlines()[0], most) if text else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, whatever the case; None where none is alike. Long ones are cut."""
    import difflib  # needed for errors only

    by_fold: dict[str, str] = {}
    for candidate in known:
        by_fold.setdefault(candidate[:_COMPARED].casefold(), candidate)
    found = difflib.get_close_matches(name[:_COMPARED].casefold(), list(by_fold), n=1, cutoff=0.5)
    return by_fold[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str], what: str) -> str:
    """`` (did you mean 'x'?)``, or the list of known names where nothing is alike; starts with a space."""
    names = [str(k) for k in known]
    match = nearest(name, names)
    if match is not None:
        return f" (did you mean {shortened(match)!r}?)"
    if not names:
        return ""
    shown = ", ".join(repr(shortened(n, 40)) for n in names[:12]) + (", …" if len(names) > 12 else "")
    return f" ({what}: {shown})"


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, then what it was raised from or while, each once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


class Ew2sError(Exception):
    """Base class: something that is explained to the user in one message.

    Args:
        message: what is wrong, with the file, line or key and what was expected.
        hint: what to do about it.
        title: a few words that name the kind of error; the class has a default.
    """

    exit_code = EXIT_FAILED
    title = "The command failed"

    def __init__(self, message: str, *, hint: str | None = None, title: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if title is not None:
            self.title = title

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InputError(Ew2sError):
    """Bad input or usage; found before any work was done."""

    exit_code = EXIT_USAGE
    title = "Bad input"


class ConfigError(InputError):
    """The configuration has an unknown key, a bad value or an impossible combination."""

    title = "Bad configuration"


class DataError(InputError):
    """A data file cannot be read or its content is not what was described."""

    title = "Bad data"


class ModelError(InputError):
    """A model or tokenizer cannot be loaded or does not fit its task."""

    title = "Bad model"


class DamagedError(InputError):
    """A file of a run is not what the run wrote; ``why`` stands after "is damaged:"."""

    title = "Damaged file"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} is damaged: {why}.",
            hint="Repeat the command of its run: what is damaged is made again. All of it: ew2s runs verify RUN",
        )
        self.path, self.why = path, why


class RunBusyError(InputError):
    """Another process is writing into the run directory."""

    title = "Run directory in use"


class RunFailedError(Ew2sError):
    """A run failed midway: finished stages are kept and the same command continues."""

    title = "The run failed"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or a request to stop, with words about what is kept and how to go on."""

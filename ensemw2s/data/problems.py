"""Rows of data files, and problems in them, with their places. Loading raises the first, checking collects all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from ensemw2s.errors import DataError

#: Kinds that are reported once per file and column, with the number of rows.
_COUNTED = ("missing_column", "missing_word")

Severity = Literal["error", "warning"]
Unit = Literal["line", "row"]


def place_of(file: str, line: int, unit: Unit) -> str:
    """``file:line``, or ``file, row n`` for Parquet."""
    return f"{file}:{line}" if unit == "line" else f"{file}, row {line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong, or worth knowing, in a data file.

    Attributes:
        kind: a short name of the kind of problem, such as ``json`` or ``missing_column``.
        message: what is wrong and what was expected, without the place.
        file: path of the file as it was given.
        line: from 1; None where it concerns the whole file.
        column: the column that it concerns, or None.
        severity: an ``error`` makes loading fail, a ``warning`` does not.
        hint: what to do about it, or None.
        rows: how many rows of the file have this problem (``missing_column`` and ``missing_word`` are counted so).
        unit: what ``line`` counts: lines of a text file, or rows of a Parquet file.
    """

    kind: str
    message: str
    file: str
    line: int | None = None
    column: str | None = None
    severity: Severity = "error"
    hint: str | None = None
    rows: int = 1
    unit: Unit = "line"

    @property
    def place(self) -> str:
        """``file``, or as :func:`place_of` says it."""
        return self.file if self.line is None else place_of(self.file, self.line, self.unit)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields that are set."""
        out: dict[str, Any] = {"kind": self.kind, "severity": self.severity, "message": self.message, "file": self.file}
        if self.line is not None:
            out[self.unit] = self.line
        if self.column is not None:
            out["column"] = self.column
        if self.hint is not None:
            out["hint"] = self.hint
        if self.rows > 1:
            out["rows"] = self.rows
        return out

    def error(self) -> DataError:
        """The exception that says the same."""
        hint = self.hint
        if self.line is not None and self.kind != "annotations":
            see_all = f"Run `ew2s data check {self.file}` to see all problems."
            hint = f"{hint} {see_all}" if hint else see_all
        return DataError(f"{self.place}: {self.message}.", hint=hint)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        data: column name to value.
        file: the file's path as text.
        line: line on which the row begins, or row number in a Parquet file; from 1.
        number: which row of the file it is, from 1.
        unit: what ``line`` counts.
        typed: whether the file tells numbers from texts (CSV does not).
    """

    data: dict[str, Any]
    file: str
    line: int
    number: int
    unit: Unit = "line"
    typed: bool = True

    @property
    def place(self) -> str:
        """As :func:`place_of` says it."""
        return place_of(self.file, self.line, self.unit)

    def problem(
        self,
        kind: str,
        message: str,
        column: str | None = None,
        severity: Severity = "error",
        hint: str | None = None,
    ) -> Problem:
        """A problem of this row."""
        return Problem(kind, message, self.file, self.line, column, severity, hint, unit=self.unit)


Report = Callable[[Problem], None]


def raise_first(problem: Problem) -> None:
    """A :data:`Report` that raises errors as :class:`DataError` and ignores warnings."""
    if problem.severity == "error":
        raise problem.error()


class Collector:
    """A :data:`Report` that keeps every problem; what many rows of a file share is kept once, with a count."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._counted: dict[tuple[str, str, str | None], int] = {}

    def __call__(self, problem: Problem) -> None:
        """Keep a problem."""
        if problem.kind in _COUNTED:
            key = (problem.kind, problem.file, problem.column)
            if key in self._counted:
                at = self._counted[key]
                self.problems[at] = replace(self.problems[at], rows=self.problems[at].rows + 1)
                return
            self._counted[key] = len(self.problems)
        self.problems.append(problem)


class RowError(Exception):
    """One row cannot become an example; whoever reads the file adds the place."""

    def __init__(self, kind: str, message: str, *, column: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.column = column
        self.hint = hint

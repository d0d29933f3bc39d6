"""Rows of JSONL, JSON, CSV, TSV and Parquet files, each with the place that it came from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ensemw2s.data.problems import Problem, Report, Unit
from ensemw2s.errors import ConfigError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_KNOWN = "JSONL (.jsonl, .ndjson), JSON (.json), CSV (.csv), TSV (.tsv) or Parquet (.parquet)"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        data: column name to value.
        file: the file's path as text.
        line: line on which the row begins, or row number in a Parquet file; from 1.
        number: which row of the file it is, from 1.
        unit: what ``line`` counts.
    """

    data: dict[str, Any]
    file: str
    line: int
    number: int
    unit: Unit = "line"

    @property
    def place(self) -> str:
        """``file:line``."""
        return f"{self.file}:{self.line}" if self.unit == "line" else f"{self.file}, row {self.line}"


def as_path(text: str) -> Path:
    """A path from the configuration, with ``~`` replaced where that home exists."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def find_files(
    path: str | list[str] | None, patterns: Sequence[str], kind: str, report: Report, folders: Sequence[str] = ()
) -> list[Path]:
    """The files that ``path`` names, in order; a folder stands for those files in it that match ``patterns``, sorted.

    Where none does, the first of its ``folders`` that exists is looked into.

    Problems (missing, no known file in a folder) are reported; what can be read is returned.

    Raises:
        ConfigError: no path is given.
    """
    entries = [path] if isinstance(path, str) else list(path or [])
    if not entries:
        raise ConfigError(f"kind {kind!r} needs a path.", hint="Set data.source.path to a file or folder, or hub.")
    found: list[Path] = []
    for entry in entries:
        here = as_path(entry)
        if not here.is_dir():
            found.append(here)
            continue
        try:
            inside = _matching(here, patterns)
            below = next((here / name for name in folders if (here / name).is_dir()), None)
            inside = _matching(below, patterns) if not inside and below is not None else inside
        except OSError as error:
            report(unreadable(here, error))
            continue
        if not inside:
            expected = ", ".join(patterns)
            report(Problem("no_files", f"the folder has no file named like {expected} (kind {kind!r})", str(here)))
        found.extend(inside)
    return list(dict.fromkeys(found))


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file() and any(fnmatchcase(f.name, p) for p in patterns))


def read_rows(file: Path, report: Report, header: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of one file, by its suffix; ``header`` names the columns of CSV files that do not name them.

    Problems of the file as a whole (missing, unreadable, empty, not UTF-8, corrupt, unknown suffix) and of single rows
    (broken JSON, not an object, wrong number of fields) are reported; reading goes on where that makes sense.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        what = f"unknown file suffix {suffix!r}, expected {_KNOWN}" if suffix else f"no file suffix, expected {_KNOWN}"
        report(Problem("suffix", what, str(file)))
        return
    content = read_bytes(file, report)
    if content is None:
        return
    rows: Iterator[Row]
    if suffix == ".parquet":
        rows = _parquet_rows(content, file, report)
    else:
        text = decode(content, str(file), report)
        if text is None:
            return
        if not text.strip():
            report(Problem("empty", "the file is empty", str(file)))
            return
        if suffix in (".jsonl", ".ndjson"):
            rows = jsonl_rows(text, str(file), report)
        elif suffix == ".json":
            rows = _json_rows(text, str(file), report)
        else:
            rows = _csv_rows(text, str(file), "," if suffix == ".csv" else "\t", report, header)
    yield from rows


def unreadable(file: Path, error: OSError) -> Problem:
    """What an error of the file system says about a data file."""
    if isinstance(error, FileNotFoundError):
        return Problem("missing_file", "the file does not exist", str(file), hint="Check the path.")
    reason = error.strerror or str(error)
    return Problem("unreadable", f"the file cannot be read: {reason}", str(file), hint="Check its permissions.")


def read_bytes(file: Path, report: Report) -> bytes | None:
    """The content of a file, or None after a problem (missing, unreadable, empty) was reported."""
    try:
        content = file.read_bytes()
    except OSError as error:
        report(unreadable(file, error))
        return None
    if not content.strip():
        report(Problem("empty", "the file is empty", str(file)))
        return None
    return content


def decode(content: bytes, file: str, report: Report) -> str | None:
    """UTF-8 text (a byte order mark is left out), or None after a problem was reported."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"0x{content[error.start]:02x}"
        message = f"not UTF-8 text (byte {byte} at position {error.start})"
        hint = "Convert it, for example with: iconv -f WINDOWS-1252 -t UTF-8."
        report(Problem("encoding", message, file, line, hint=hint))
        return None


def _parse(text: str, at: int = 0) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, at) from None


def jsonl_rows(text: str, file: str, report: Report) -> Iterator[Row]:
    """Rows of JSON Lines text: one object a line; blank lines are skipped."""
    number = 0
    for line, content in enumerate(text.split("\n"), start=1):
        stripped = content.strip()
        if not stripped:
            continue
        number += 1
        try:
            value, end = _parse(stripped)
            if end != len(stripped):
                raise json.JSONDecodeError("more text after the object", stripped, end)
        except json.JSONDecodeError as error:
            hint = "A .jsonl file holds one whole JSON object on each line; name a file with one JSON list .json."
            report(Problem("json", f"broken JSON: {error.msg} (column {error.pos + 1})", file, line, hint=hint))
            continue
        if not isinstance(value, dict):
            report(Problem("not_object", f"expected a JSON object, got {_kind(value)}", file, line))
            continue
        yield Row(value, file, line, number)


def _json_rows(text: str, file: str, report: Report) -> Iterator[Row]:
    """Rows of a JSON list of objects, parsed one by one so that each knows its line."""
    lines = _LineCounter(text)
    at = _skip(text, 0)
    if text[at] != "[":
        hint = "If the file has one JSON object on each line, name it .jsonl." if text[at] == "{" else None
        message = "expected a JSON list of objects, but the file does not begin with '['"
        report(Problem("not_list", message, file, lines.of(at), hint=hint))
        return
    at = _skip(text, at + 1)
    number = 0
    try:
        while text[at : at + 1] != "]":
            value, end = _parse(text, at)
            number += 1
            if isinstance(value, dict):
                yield Row(value, file, lines.of(at), number)
            else:
                report(Problem("not_object", f"expected a JSON object, got {_kind(value)}", file, lines.of(at)))
            at = _skip(text, end)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("expected ',' or ']' after an object", text, at)
        if _skip(text, at + 1) < len(text):
            raise json.JSONDecodeError("more text after the list", text, _skip(text, at + 1))
    except json.JSONDecodeError as error:
        message = f"broken JSON: {error.msg} (column {error.colno})"
        report(Problem("json", message, file, error.lineno))
        return
    if number == 0:
        report(Problem("empty", "the file has no rows", file))


class _LineCounter:
    """Line numbers of growing positions, without counting from the start each time."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1

    def of(self, position: int) -> int:
        self._line += self._text.count("\n", self._at, position)
        self._at = position
        return self._line


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _csv_rows(
    text: str, file: str, delimiter: str, report: Report, names: Sequence[str] | None = None
) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    last = 0
    try:
        header = [name.strip() for name in (names or next(reader))]
        if len(set(header)) < len(header) or "" in header:
            report(Problem("header", f"column names must be given and differ, got {header}", file, 1))
            return
        last = reader.line_num
        for fields in reader:
            line, last = last + 1, reader.line_num
            if not fields:
                continue
            number += 1
            if len(fields) != len(header):
                message = f"{len(fields)} fields, but the header has {len(header)} columns"
                report(Problem("fields", message, file, line, hint="Put texts with commas in double quotes."))
                continue
            yield Row(dict(zip(header, fields, strict=True)), file, line, number)
    except csv.Error as error:
        report(Problem("csv", f"broken CSV: {error}", file, last + 1))
        return
    if number == 0:
        report(Problem("empty", "the file has a header and no rows", file))


def _parquet_rows(content: bytes, file: Path, report: Report) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        for batch in table.iter_batches():
            for data in batch.to_pylist():
                number += 1
                yield Row(data, str(file), number, number, "row")
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        report(Problem("parquet", f"not a readable Parquet file: {reason}", str(file)))
        return
    if number == 0:
        report(Problem("empty", "the file has no rows", str(file)))

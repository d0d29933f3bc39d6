"""Rows of JSONL, JSON, CSV, TSV and Parquet files, each with the place that it came from."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ensemw2s.data.problems import Problem, Report, Row
from ensemw2s.encoding import TextError, decode_text
from ensemw2s.errors import ConfigError, first_line, shortened
from ensemw2s.files import JsonError, is_too_deep, json_error, open_regular, parse_json, unique_keys
from ensemw2s.resources import bounded_memory, parquet_memory

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_KNOWN = "JSONL (.jsonl, .ndjson), JSON (.json), CSV (.csv), TSV (.tsv) or Parquet (.parquet)"
_UNPACK, _AS_CSV = "Unpack it first.", "Save the sheet as CSV (UTF-8)."
_CONVERT = {
    "": "Name the file by its format. What a command writes (a pipe) has to be saved: data is read more than once.",
    ".txt": "Name it .csv, .tsv or .jsonl if it is that.",
    **dict.fromkeys((".gz", ".zip", ".bz2", ".xz", ".zst"), _UNPACK),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), _AS_CSV),
    ".arrow": "Write it as Parquet: Dataset.to_parquet(…).",
}

# Python limits a field to 131072 characters; the whole text is in memory already.
csv.field_size_limit(2**31 - 1)


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
        try:
            if not here.is_dir():
                found.append(here)
                continue
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
        report(Problem("suffix", what, str(file), hint=_CONVERT.get(suffix)))
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


def unreadable(file: Path, error: OSError | ValueError) -> Problem:
    """A data error for an error of the file system; ``ValueError``: no path at all."""
    name = shortened(str(file), 200)
    if isinstance(error, FileNotFoundError):
        return Problem("missing_file", "the file does not exist", name, hint="Check the path.")
    if isinstance(error, ValueError):
        return Problem("missing_file", "this cannot be a path", repr(name), hint="Check the path.")
    reason = error.strerror or str(error)
    hint = "Check its name and permissions. What comes from a pipe has to be saved: data is read more than once."
    return Problem("unreadable", f"the file cannot be read: {reason}", name, hint=hint)


def read_bytes(file: Path, report: Report) -> bytes | None:
    """The content of a file, or None after a problem (missing, unreadable, no regular file, empty) was reported."""
    try:
        with open_regular(file) as stream:
            content = stream.read()
    except (OSError, ValueError) as error:
        report(unreadable(file, error))
        return None
    if not content.strip():
        report(Problem("empty", "the file is empty", str(file)))
        return None
    return content


def decode(content: bytes, file: str, report: Report) -> str | None:
    """UTF-8 text (a byte order mark is left out), or None after a problem was reported."""
    try:
        return decode_text(content)
    except TextError as error:
        report(Problem("encoding", str(error), file, error.line, hint=error.hint))
        return None


def jsonl_rows(text: str, file: str, report: Report) -> Iterator[Row]:
    """Rows of JSON Lines text: one object a line; blank lines are skipped."""
    number = 0
    for line, content in enumerate(text.split("\n"), start=1):
        stripped = content.strip()
        if not stripped:
            continue
        number += 1
        try:
            value = parse_json(stripped)
        except JsonError as error:
            whole = "A .jsonl file holds one whole JSON object on each line; name a file with one JSON list .json."
            hint = whole if str(error).startswith("no valid JSON") else None
            report(Problem("json", str(error), file, line, hint=hint))
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
        hint = (
            "If it has one JSON object on each line, name it .jsonl; else write the list of rows alone."
            if text[at] == "{"
            else None
        )
        message = "expected a JSON list of objects, but the file does not begin with '['"
        report(Problem("not_list", message, file, lines.of(at), hint=hint))
        return
    at = _skip(text, at + 1)
    number = 0
    try:
        while text[at : at + 1] != "]":
            value, end, refused = _decode_at(text, at)
            number += 1
            if refused:
                inside = 0 if refused.line is None else refused.line - 1
                report(Problem("json", str(refused), file, lines.of(at) + inside))
            elif isinstance(value, dict):
                yield Row(value, file, lines.of(at), number)
            else:
                report(Problem("not_object", f"expected a JSON object, got {_kind(value)}", file, lines.of(at)))
            at = _skip(text, end)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
                if text[at : at + 1] == "]":
                    raise json.JSONDecodeError("expected an object behind ','", text, at)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("expected ',' or ']' after an object", text, at)
        if _skip(text, at + 1) < len(text):
            raise json.JSONDecodeError("more text after the list", text, _skip(text, at + 1))
    except (json.JSONDecodeError, RecursionError) as error:
        broken = json_error(error, text)
        report(Problem("json", str(broken), file, broken.line or lines.of(at)))
        return
    if number == 0:
        report(Problem("empty", "the file has no rows", file))


def _decode_at(text: str, at: int) -> tuple[Any, int, JsonError | None]:
    """The JSON value that begins at a position, where it ends, and why it is not taken though it is JSON, or None."""
    try:
        value, end = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # parsed again without integers and whatever its keys: the rows behind it are read
        value, end = json.JSONDecoder(parse_int=lambda digits: math.nan).raw_decode(text, at)
        return value, end, json_error(error, text[at:end])
    return value, end, json_error(RecursionError(), text) if is_too_deep(value) else None


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


#: What spreadsheets put between fields, in a file of either suffix: Excel writes semicolons where commas are decimal.
_DELIMITERS = ",;\t"
_QUOTED = re.compile(r'"[^"]*"')
_STATED_DELIMITER = re.compile(r"\A\"?sep=([^\r\n])\"?[^\S\t\r\n]*(?:\r\n?|\n)", re.IGNORECASE)


def _delimiter(text: str, usual: str) -> str:
    """The delimiter that gives the header the most columns, quoted names aside; the suffix decides between equals."""
    header = re.split(r"[\r\n]", _QUOTED.sub("", text[:65536]).lstrip("\r\n"), maxsplit=1)[0]
    return max(usual + _DELIMITERS, key=header.count)


def _csv_rows(text: str, file: str, usual: str, report: Report, names: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of text with delimiters; ``names`` are its columns where it has no header."""
    stated = _STATED_DELIMITER.match(text)  # Excel's first line, which is no row
    delimiter = stated[1] if stated else usual if names else _delimiter(text, usual)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    if stated:
        next(reader)
    header = [name.strip() for name in names] if names else None
    number, last = 0, reader.line_num
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            hint = "A double quote inside of double quotes is written twice."
            report(Problem("csv", f"broken CSV: {error}", file, last + 1, hint=hint))
            last, number = reader.line_num, number + 1
            continue
        if fields is None:
            break
        line, last = last + 1, reader.line_num
        if not any(map(str.strip, fields)):
            continue
        if header is None:
            header = [name.strip() for name in fields]
            twice = [shortened(name) for name, count in Counter(filter(None, header)).items() if count > 1]
            if twice:
                message = f"column names must differ, but {', '.join(map(repr, twice[:5]))} is there more than once"
                report(Problem("header", message, file, line, hint="Rename or remove the column."))
                return
            continue
        number += 1
        if len(fields) < len(header) or any(map(str.strip, fields[len(header) :])):
            message = f"{len(fields)} fields, but the header has {len(header)} columns"
            report(Problem("fields", message, file, line, hint=_quoting(delimiter)))
            continue
        # Columns without a name (pandas' index, a spreadsheet's empty columns) are dropped.
        data = {name: value for name, value in zip(header, fields, strict=False) if name}
        yield Row(data, file, line, number, typed=False)
    if number == 0:
        report(Problem("empty", "the file has a header and no rows", file))


def _quoting(delimiter: str) -> str:
    mark = {",": "commas", ";": "semicolons", "\t": "tabs"}.get(delimiter, f"{delimiter!r}")
    return f"Put texts with {mark} in double quotes."


def _parquet_rows(content: bytes, file: Path, report: Report) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        memory = parquet_memory(len(content))
        with bounded_memory(memory):
            table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        header = table.schema_arrow.names
        if len(set(header)) < len(header):
            message = f"column names must differ, got {shortened(str(header), 200)}"
            report(Problem("header", message, str(file)))
            return
        for batch in _batches(table, memory):
            for data in _batch_rows(batch, memory):
                number += 1
                if isinstance(data, Exception):
                    message = f"a value cannot be read: {first_line(data)}"
                    report(Problem("parquet", message, str(file), number, unit="row"))
                    continue
                yield Row(data, str(file), number, number, "row")
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        report(Problem("parquet", f"not a readable Parquet file: {first_line(error)}", str(file)))
        return
    if number == 0:
        report(Problem("empty", "the file has no rows", str(file)))


def _batches(table: Any, memory: int) -> Iterator[Any]:
    """Record batches, each read with no more than ``memory`` bytes."""
    batches = table.iter_batches(use_threads=False)
    while True:
        with bounded_memory(memory):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _batch_rows(batch: Any, memory: int) -> Iterator[dict[str, Any] | Exception]:
    """Rows of a record batch; an exception for a row with a value that Python cannot hold (a date, broken UTF-8).

    A batch that names one text many times, or holds nulls alone, is small itself: its rows have the limit, too.
    """
    unfit = (ValueError, OverflowError)
    try:
        with bounded_memory(memory):
            rows = batch.to_pylist()
    except unfit:
        for at in range(batch.num_rows):
            try:
                yield batch.slice(at, 1).to_pylist()[0]
            except unfit as error:
                yield error
    else:
        yield from rows

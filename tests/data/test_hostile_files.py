"""Damaged and hostile data files: every bad line is named, the others are read, and nothing hangs or crashes."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.config.data import ColumnMap, SourceConfig
from ensemw2s.data import files
from ensemw2s.data.check import CheckReport, check_source
from ensemw2s.data.fields import is_missing, text_of
from ensemw2s.data.sources import load_source, source_files, source_identity
from ensemw2s.errors import DataError

Write = Callable[..., Path]
GOOD = {"prompt": "p", "answer": "x", "c": ["x", "y"]}
HUGE = "9" * 5000
DEEP = "[" * 5000 + "]" * 5000


def _check(path: Path, **columns: Any) -> CheckReport:
    source = SourceConfig(kind="file", path=str(path), columns=ColumnMap(**({"choices": "c"} | columns)))
    report = check_source(source, task="generate")
    json.dumps(report.to_json(), allow_nan=False)
    assert all(len(problem.message) < 600 for problem in report.problems)
    if not report.ok:
        with pytest.raises(DataError) as caught:
            load_source(source, 0)
        assert caught.value.exit_code == 2
    return report


def _line(text: str, **more: str) -> str:
    """A JSON object on a line, with raw JSON in place of values."""
    values = {"prompt": json.dumps(text), "answer": '"x"', "c": '["x", "y"]'} | more
    return "{" + ", ".join(f'"{key}": {value}' for key, value in values.items()) + "}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"unused": HUGE}, "a number with too many digits"),
        ({"answer": f"-{HUGE}"}, "a number with too many digits"),
        ({"c": f'["x", {{"deep": [{HUGE}]}}]'}, "a number with too many digits"),
        ({"unused": '1, "answer": "y"'}, "the key 'answer' is there twice in one object"),
        ({"unused": '{"a": [{"b": 1, "b": 1}]}'}, "the key 'b' is there twice"),
        ({"unused": '1, "\\u0070rompt": "other"'}, "the key 'prompt' is there twice"),
        ({"unused": DEEP}, "nested too deeply"),
        ({"unused": '{"a":' * 5000 + "1" + "}" * 5000}, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_one_line_beyond_what_is_read(tmp_path: Path, suffix: str, more: dict[str, str], message: str) -> None:
    lines = [_line("one"), _line("two"), _line("three", **more), _line("four"), _line("five", answer='""')]
    path = tmp_path / f"rows{suffix}"
    path.write_text("\n".join(lines) if suffix == ".jsonl" else "[" + ",\n".join(lines) + "]")
    report = _check(path)
    first = report.errors[0]
    assert (first.line, message in first.message) == (3, True)
    if suffix == ".jsonl" or "deeply" not in message:  # a list that is nested too deeply has no next row
        assert [(p.line, p.kind) for p in report.errors] == [(3, "json"), (5, "empty_answer")]
        assert report.examples == 3


def test_long_integers_that_python_reads_are_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([_line("one", unused="7" * 4000), _line("two", answer="3" * 400)]))
    (problem,) = _check(path).errors
    assert problem.line == 2
    assert problem.message.startswith("the answer '33333")
    assert not _check(path, difficulty="unused").ok


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ('{\n"a": {"difficulty": 1},\n"b": {"difficulty": ' + HUGE + "}}", 3, "a number with too many digits"),
        ('{"a": {"difficulty": 1},\n"a": {"difficulty": 2}}', 2, "the key 'a' is there twice in one object"),
        (
            '{"x": {"t": ["{\\"}"]},\n"a": {"t": 0,\n"difficulty": 1, "difficulty": 2}}',
            3,
            "'difficulty' is there",
        ),
        ('{"a": {"difficulty": ' + DEEP + "}}", None, "nested too deeply"),
        ('{"a": {"difficulty": ' + DEEP[4850:-4850] + "}}", None, "difficulty must be a number or a level name, got a"),
        ('{"a": {"difficulty": Infinity}}', None, "difficulty must be a finite number"),
        ('{"a": {"difficulty": ' + "1" * 4000 + "}}", None, "difficulty must be a finite number"),
        ('{"a": {"difficulty": NaN}}', None, "no id has a field 'difficulty'"),
        ('{"' + "i" * 300 + '": {"difficulty": true}}', None, "id 'iii"),
    ],
)
def test_annotations(jsonl: Write, tmp_path: Path, content: str, line: int | None, message: str) -> None:
    notes = tmp_path / "notes.json"
    notes.write_text(content)
    source = SourceConfig(kind="file", path=str(jsonl([GOOD | {"id": "a"}])), annotations=str(notes))
    source = source.model_copy(update={"columns": ColumnMap(id="id")})
    problem = check_source(source, task="generate").errors[0]
    assert (problem.file, problem.line) == (str(notes), line)
    assert message in problem.message
    assert len(problem.message) < 300
    with pytest.raises(DataError, match=r"notes\.json"):
        load_source(source, 0)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_wide_encodings_are_named(tmp_path: Path, suffix: str, encoding: str) -> None:
    path = tmp_path / f"rows{suffix}"
    rows = {".csv": "prompt,answer\nécole,x\n", ".tsv": "prompt\tanswer\n日本語の問題,はい\n"}
    path.write_bytes(rows.get(suffix, json.dumps([GOOD] * 3, indent=1)).encode(encoding))
    (problem,) = _check(path, choices=None).errors
    assert problem.kind == "encoding"
    assert f"the text is {encoding[:6].upper()}" in problem.message
    assert problem.hint is not None
    assert "iconv -f UTF-" in problem.hint


def test_zero_bytes_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"prompt,answer\nfirst question here,x\nsec\0ond,y\n")
    (problem,) = _check(path, choices=None).errors
    assert (problem.line, problem.message) == (3, "not text (a zero byte at position 39)")


def test_long_csv_fields_are_data(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    long = "word " * 60_000
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["prompt", "answer"], [long, "x"], ["short", "y" * 200_000]])
    assert _check(path, choices=None).ok
    source = SourceConfig(kind="file", path=str(path))
    assert [(e.prompt, len(e.answer or "")) for e in load_source(source, 0)] == [(long.strip(), 1), ("short", 200_000)]


def test_broken_csv_rows_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\n\nprompt,answer\na,x\n"b"c,y\nd,z\ne\nf,"w\n')
    report = _check(path, choices=None)
    assert [(p.line, p.kind) for p in report.errors] == [(5, "csv"), (7, "fields"), (8, "csv")]
    assert report.examples == 2


def test_missing_values_in_every_format(jsonl: Write, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(
            [
                _line("fine"),
                _line("x", prompt="NaN"),
                _line("x", answer="NaN"),
                _line("x", answer="-Infinity"),
                _line("x", answer="1e999"),
                _line("x", c='["x", NaN]'),
                _line("x", c='["x", null]'),
                _line("x", c='{"text": ["x", Infinity], "label": ["A", "B"]}'),
                _line("x", c="NaN"),
                _line("x", key="NaN"),
                _line("y", hard="NaN"),
            ]
        )
    )
    for more in ({}, {"id": None}):
        found = [(p.line, p.kind) for p in _check(path, **more).errors]
        assert found == [
            (2, "empty_prompt"),
            (3, "empty_answer"),
            (4, "empty_answer"),
            (5, "empty_answer"),
            (6, "empty_choice"),
            (7, "empty_choice"),
            (8, "empty_choice"),
            (9, "choices"),
        ]
    rows = [GOOD | {"key": "k1", "hard": 1.5}, GOOD | {"key": float("nan"), "hard": float("nan"), "prompt": "q"}]
    path = jsonl(rows)
    assert [(p.line, p.kind) for p in _check(path, id="key").errors] == [(2, "empty_id")]
    source = SourceConfig(kind="file", path=str(path), columns=ColumnMap(difficulty="hard", group="key"))
    assert [(e.difficulty, e.group) for e in load_source(source, 0)] == [(1.5, "k1"), (None, "")]
    distractors = ColumnMap(distractors=["v", "w"])
    rows = [
        {"prompt": "p", "answer": "x", "v": "y", "w": float("nan")},
        {"prompt": "q", "answer": None, "v": 1, "w": 2},
    ]
    report = check_source(SourceConfig(kind="file", path=str(jsonl(rows)), columns=distractors), task="choice")
    assert [(p.line, p.kind) for p in report.errors] == [(2, "empty_answer")]


def test_missing_values_in_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {
        "prompt": ["fine", None, "c", "d"],
        "answer": [1.0, 2.0, float("nan"), None],
        "c": [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, float("nan")]],
    }
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    report = _check(tmp_path / "rows.parquet", answer_is="text")
    assert [(p.line, p.kind) for p in report.errors] == [(2, "empty_prompt"), (3, "empty_answer"), (4, "empty_choice")]
    assert report.examples == 1


def test_what_counts_as_missing() -> None:
    import numpy as np
    import pandas as pd

    missing = [None, float("nan"), float("-inf"), np.float32("nan"), np.datetime64("NaT"), pd.NA, pd.NaT]
    missing += [decimal.Decimal("NaN"), decimal.Decimal("sNaN")]
    assert [text_of(value, "c") for value in missing] == [""] * len(missing)
    assert all(map(is_missing, missing))
    there = ["", "NaN", 0, False, 0.0, [], {}, np.int64(0), np.bool_(False), b"", decimal.Decimal(0), 10**400]
    assert not any(map(is_missing, there))


def test_words_for_missing_values_are_a_warning(tmp_path: Path, jsonl: Write) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,answer,v,w\na,x,nan,y\nb,None,NaN,y\nc,x,,z\nNULL,x,Na,z\n")
    report = _check(path, choices=None, distractors=["v", "w"])
    assert report.ok
    found = {(p.column, p.line, p.rows) for p in report.warnings if p.kind == "missing_word"}
    assert found == {("v", 2, 2), ("answer", 3, 1), ("prompt", 5, 1)}
    report = _check(jsonl([GOOD | {"c": ["x", "nan"]}, GOOD | {"prompt": "q", "c": ["x", "null"]}]))
    assert [(p.column, p.rows) for p in report.warnings] == [("c", 2)]


def test_parquet_rows_that_python_cannot_hold(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    days = pa.array([0, 2**40, 0], pa.timestamp("s"))
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc")]
    )
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b", "c"], "answer": ["x"] * 3, "when": days}), path)
    assert [(p.line, p.unit) for p in _check(path, choices=None).errors] == [(2, "row")]
    pq.write_table(pa.table({"prompt": texts, "answer": ["x"] * 3}), path)
    report = _check(path, choices=None)
    assert [(p.line, p.kind) for p in report.errors] == [(2, "parquet")]
    assert report.examples == 2
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["x"]), pa.array(["y"])], ["prompt", "answer", "answer"])
    pq.write_table(twice, path)
    assert "column names must differ" in _check(path, choices=None).errors[0].message


def test_a_text_that_is_named_many_times_in_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes of dictionary indices are gigabytes of rows: more than a worker has in store from other tests."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(files, "parquet_memory", lambda size: 2**27)
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["x" * 2**20]))
    pq.write_table(pa.table({"prompt": texts, "answer": ["a"] * 4000}), tmp_path / "rows.parquet", compression="zstd")
    assert (tmp_path / "rows.parquet").stat().st_size < 2**14
    (problem,) = _check(tmp_path / "rows.parquet", choices=None).errors
    assert "not a readable Parquet file" in problem.message


def test_values_of_parquet_types(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "prompt": pa.array([b"caf\xc3\xa9", b"no \xff text"], pa.binary()),
            "answer": pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00")], pa.decimal128(5, 2)),
            "hard": pa.array([decimal.Decimal("3"), None], pa.decimal128(5, 0)),
            "when": pa.array([datetime.date(2024, 1, 2)] * 2),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    columns = {"choices": None, "difficulty": "hard", "group": "when"}
    (problem,) = _check(tmp_path / "t.parquet", **columns).errors
    assert (problem.line, problem.message) == (2, "the bytes are no text in UTF-8")
    pq.write_table(table.slice(0, 1), tmp_path / "t.parquet")
    source = SourceConfig(kind="file", path=str(tmp_path / "t.parquet"), columns=ColumnMap(**columns))
    (example,) = load_source(source, 0)
    assert (example.prompt, example.answer, example.difficulty, example.group) == ("café", "1.50", 3.0, "2024-01-02")


def test_long_names(jsonl: Write, tmp_path: Path) -> None:
    long = "n" * 300
    path = jsonl([GOOD | {"id": long}, GOOD | {"id": long, "prompt": "q"}])
    assert "id 'nnn" in _check(path, id="id").errors[0].message
    assert "no column 'nnn" in _check(path, prompt=long).errors[0].message
    assert "columns: 'nnn" in _check(jsonl([{long + str(n): 1 for n in range(20)}])).errors[0].message
    for name in (f"{long}.jsonl", f"{long}/rows.jsonl"):
        problem = _check(tmp_path / name).errors[0]
        assert "File name too long" in problem.message
        source = SourceConfig(kind="file", path=str(tmp_path / name))
        for ask in (source_files, source_identity):
            with pytest.raises(DataError, match="File name too long"):
                ask(source)
    path = _long_answer(jsonl)
    assert "is not among the 2 options" in _check(path).errors[0].message


def _long_answer(jsonl: Write) -> Path:
    return jsonl([GOOD, GOOD | {"prompt": "q", "answer": "ab " * 50_000, "c": ["ba " * 50_000, "cb " * 50_000]}])


@pytest.mark.parametrize("name", ["a\0b.jsonl", "\ud800.jsonl"])
def test_names_that_are_no_paths(name: str) -> None:
    source = SourceConfig(kind="file", path=name)
    (problem,) = check_source(source, task="generate").errors
    assert "cannot be a path" in problem.message
    with pytest.raises(DataError, match="cannot be a path"):
        source_files(source)


@pytest.mark.timeout(20)
def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    os.mkfifo(path)
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    for name in ("rows.jsonl", "zero.jsonl"):
        assert "not a regular file" in _check(tmp_path / name).errors[0].message
        source = SourceConfig(kind="file", path=str(tmp_path / name))
        for ask in (source_files, source_identity):
            with pytest.raises(DataError, match="not a regular file"):
                ask(source)
    notes = SourceConfig(kind="file", path=str(tmp_path / "x.jsonl"), annotations=str(path))
    assert any("not a regular file" in p.message for p in check_source(notes, task="generate").errors)


def test_the_line_of_a_key_that_is_there_twice_in_a_row_of_many_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(f"[{_line('one')},\n\n" + '{"prompt": ":{",\n "c": ["x", "y"],\n "answer": "x",\n "answer": "y"}]')
    (problem,) = _check(path).errors
    assert (problem.line, problem.kind) == (6, "json")
    assert problem.message == "the key 'answer' is there twice in one object"


@pytest.mark.parametrize("count", [2, 100_000])
def test_many_keys_are_compared_in_linear_time(tmp_path: Path, count: int) -> None:
    keys = [*range(count), count - 1]
    path = tmp_path / "rows.jsonl"
    path.write_text("{" + ", ".join(f'"{key}": 1' for key in keys) + "}\n")
    assert f"the key '{count - 1}' is there twice" in _check(path).errors[0].message

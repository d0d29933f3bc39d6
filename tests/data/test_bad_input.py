"""Every kind of bad input: one clear error that names file, line and column, and the same from checking."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.config.data import ColumnMap, SourceConfig
from ensemw2s.data import files
from ensemw2s.data.check import check_source
from ensemw2s.data.sources import load_source, source_files
from ensemw2s.errors import ConfigError, DataError

Write = Callable[..., Path]
GOOD = {"prompt": "p", "answer": "x", "c": ["x", "y"]}
CHOICES = ColumnMap(choices="c")


def _fails(source: SourceConfig, *texts: str) -> DataError:
    """Loading fails once and says ``texts``; checking reports the same problem first and raises nothing."""
    with pytest.raises(DataError) as caught:
        load_source(source, 0)
    for text in texts:
        assert text in str(caught.value)
    assert caught.value.exit_code == 2
    report = check_source(source, task="generate")
    assert not report.ok
    assert report.errors[0].error().message == caught.value.message
    json.dumps(report.to_json(), allow_nan=False)
    return caught.value


def _file(path: Path | str, columns: ColumnMap = CHOICES, **more: Any) -> SourceConfig:
    return SourceConfig(kind="file", path=str(path), columns=columns, **more)


def test_missing_file(tmp_path: Path) -> None:
    _fails(_file(tmp_path / "none.jsonl"), "none.jsonl: the file does not exist")
    with pytest.raises(DataError, match="does not exist"):
        source_files(_file(tmp_path / "none.jsonl"))


def test_unreadable_file(jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jsonl([GOOD])

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "open_regular", refuse)
    _fails(_file(path), "rows.jsonl: the file cannot be read: Permission denied")


@pytest.mark.parametrize("name", ["e.jsonl", "e.json", "e.csv", "e.parquet"])
@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xef\xbb\xbf\n"])
def test_empty_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    expected = "Parquet" if name == "e.parquet" and content[:1] == b"\xef" else "the file is empty"
    _fails(_file(tmp_path / name), f"{name}: ", expected)


@pytest.mark.parametrize(("name", "content"), [("e.json", "[]"), ("e.csv", "prompt,answer,c\n")])
def test_no_rows(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    _fails(_file(tmp_path / name), name, "no rows")


def test_parquet_without_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "e.parquet")
    _fails(_file(tmp_path / "e.parquet"), "e.parquet: the file has no rows")


@pytest.mark.parametrize("name", ["l.jsonl", "l.json", "l.csv"])
def test_not_utf8_names_the_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n')
    _fails(_file(tmp_path / name), f"{name}:2: not UTF-8 text (byte 0xe9", "iconv")


def test_folder_without_known_files(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    _fails(SourceConfig(kind="arc", path=str(tmp_path)), "the folder has no file named like ARC-*.jsonl")


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    _fails(_file(tmp_path), "the file cannot be read: Permission denied")


def test_home_of_nobody() -> None:
    _fails(_file("~no-such-user-here/rows.jsonl"), "~no-such-user-here/rows.jsonl: the file does not exist")


def test_no_path() -> None:
    with pytest.raises(ConfigError, match=r"kind 'arc' needs a path. Set data.source.path"):
        load_source(SourceConfig(kind="arc"), 0)


def test_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_text("x")
    (tmp_path / "rows").write_text("x")
    _fails(_file(tmp_path / "rows.xlsx"), "unknown file suffix '.xlsx', expected JSONL")
    _fails(_file(tmp_path / "rows"), "no file suffix, expected JSONL")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "p"', "no valid JSON"),
        ('{"prompt": "p"} {"prompt": "q"}', "no valid JSON (Extra data, column 17)"),
        ("[1]", "expected a JSON object, got a list"),
        ("3", "expected a JSON object, got a number"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_jsonl_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + line + "\n")
    _fails(_file(path), "b.jsonl:3: ", message, f"Run `ew2s data check {path}` to see all problems.")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{"a": 1}', 1, "does not begin with '['"),
        ('\n"x"', 2, "does not begin with '['"),
        ('[\n{"a": 1},\n{"a" 2}]', 3, "no valid JSON"),
        ('[\n{"a": 1}\n{"a": 2}]', 3, "expected ',' or ']'"),
        ("[\n{},\n", 3, "no valid JSON"),
        ("[\n\n7\n]", 3, "expected a JSON object, got a number"),
        ('[{"prompt": "p", "answer": "x", "c": ["x", "y"]}]\n[]', 2, "more text after the list"),
    ],
)
def test_broken_json(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    source = _file(path)
    report = check_source(source, task="generate")
    assert any(p.line == line and message in p.message for p in report.errors), report.errors
    with pytest.raises(DataError):
        load_source(source, 0)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('prompt,answer\np,x\np2,"x\n', ":3", "broken CSV"),
        ("prompt,answer\np,x,y\n", ":2", "3 fields, but the header has 2 columns"),
        ("prompt,prompt\np,x\n", ":1", "column names must differ, but 'prompt' is there more than once"),
        ("prompt,,b\np,x,y\n", ":2", "no column 'answer' (columns: 'prompt', 'b')"),
        ('prompt,answer\n"two\nlines",x\nshort\n', ":4", "1 fields, but the header has 2 columns"),
    ],
)
def test_broken_csv(tmp_path: Path, text: str, place: str, message: str) -> None:
    path = tmp_path / "b.csv"
    path.write_text(text)
    _fails(_file(path, ColumnMap()), f"b.csv{place}: ", message)


@pytest.mark.parametrize("cut", [10, 200])
def test_corrupt_parquet(tmp_path: Path, cut: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "b.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD] * 100), path)
    path.write_bytes(path.read_bytes()[:-cut])
    _fails(_file(path), "b.parquet: not a readable Parquet file")
    path.write_bytes(b"PAR1 nothing of the kind PAR1")
    _fails(_file(path), "b.parquet: not a readable Parquet file")


@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        (ColumnMap(prompt="question"), {"qestion": "p", "answer": "a"}, "'question' (did you mean 'qestion'?)"),
        (ColumnMap(), {"prompt": "p", "label": "a"}, "no column 'answer' (columns: 'prompt', 'label')"),
        (ColumnMap(prompt="q.stem"), {"q": {"stm": "p"}, "answer": "a"}, "no column 'q.stem' (did you mean 'q.stm'?)"),
        (ColumnMap(prompt="q.stem"), {"q": "p", "answer": "a"}, "no column 'q.stem'"),
        (ColumnMap(id="key"), {"prompt": "p", "answer": "a"}, "no column 'key'"),
        (ColumnMap(id="key"), {"key": " ", "prompt": "p", "answer": "a"}, "the id is empty"),
        (ColumnMap(), {"prompt": " \n", "answer": "a"}, "the prompt is empty"),
        (ColumnMap(), {"prompt": "p", "answer": None}, "the answer is empty"),
        (ColumnMap(), {"prompt": ["p"], "answer": "a"}, "expected text, got a list"),
        (ColumnMap(), {"prompt": {"p": 1}, "answer": "a"}, "expected text, got an object"),
        (ColumnMap(), {"prompt": "half \ud83d", "answer": "a"}, "half of a surrogate pair"),
        (ColumnMap(difficulty="d"), {"prompt": "p", "answer": "a", "d": [1]}, "difficulty must be a number or a level"),
        (ColumnMap(difficulty="d"), {"prompt": "p", "answer": "a", "d": float("inf")}, "must be a finite number"),
        (CHOICES, GOOD | {"c": ["x"]}, "at least two different options, got 1"),
        (CHOICES, GOOD | {"c": ["x", " x "]}, "at least two different options, got 1"),
        (CHOICES, GOOD | {"c": []}, "at least two different options, got 0"),
        (CHOICES, GOOD | {"c": ["x", ""]}, "option 2 is empty"),
        (CHOICES, GOOD | {"c": "x|y"}, "the options must be a list of texts"),
        (CHOICES, GOOD | {"c": 7}, "the options must be a list of texts"),
        (CHOICES, GOOD | {"c": {"text": ["x", "y"], "label": ["A"]}}, "2 options, but 1 labels"),
        (CHOICES, GOOD | {"answer": "z"}, "the answer 'z' is not among the 2 options"),
        (CHOICES, GOOD | {"answer": 3}, "the answer '3' is not among the 2 options: the column is read as the text"),
        (CHOICES, GOOD | {"answer": 2}, "the answers are of two kinds: '2' fits as an index from 1, but 'x' at"),
        (CHOICES, GOOD | {"c": ["colour", "y"], "answer": "color"}, "the most alike is 'colour'"),
        (ColumnMap(distractors=["w"]), {"prompt": "p", "answer": "a", "w": "a"}, "at least two different options"),
        (ColumnMap(distractors=["w"]), {"prompt": "p", "answer": "a"}, "no column 'w'"),
    ],
)  # fmt: skip
def test_bad_row(jsonl: Write, columns: ColumnMap, row: dict[str, Any], message: str) -> None:
    good = {"prompt": "p0", "answer": "x", "c": ["x", "y"], "q": {"stem": "p0"}, "question": "p0", "key": "k", "d": 1}
    path = jsonl([good | {"w": "v"}, row])
    _fails(_file(path, columns), "rows.jsonl:2: ", message)


def test_duplicate_id(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl([GOOD | {"id": "a"}, GOOD | {"id": "b"}, GOOD | {"id": "a"}])
    _fails(_file(path, ColumnMap(id="id")), f"{path}:3: id 'a' was given already at {path}:1", "unique")


def test_rows_of_parquet_are_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([GOOD, GOOD | {"answer": "z"}]), tmp_path / "r.parquet")
    _fails(_file(tmp_path / "r.parquet"), "r.parquet, row 2: the answer 'z'")


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("arc", {"question": {"stem": "s"}, "answerKey": "A"}, "no column 'question.choices'"),
        ("arc", {"query": "s"}, "no column 'question'"),
        ("arc", {"question": {"stem": "s", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]},
                 "answerKey": "C"}, "the answer 'C' is not among the options' labels A, B"),
        ("arc", {"question": "s", "choices": ["x", "y"], "answerKey": "A"}, "the options have no labels"),
        ("arc", {"question": "s", "choices": {"text": ["x", "y"], "label": ["A", "B"]}}, "no column 'answerKey'"),
        ("sciq", {"question": "q", "correct_answer": "a", "distractor1": "b", "distractor2": "c"},
         "no column 'distractor3'"),
        ("gsm8k", {"question": "q", "answer": "It is 5."}, "must end in '#### number'"),
        ("gsm8k", {"question": "q", "answer": "It is 5.\n####"}, "must end in '#### number'"),
        ("gsm8k", {"question": "q", "answer": ""}, "the answer is empty"),
    ],
)  # fmt: skip
def test_bad_rows_of_known_data_sets(jsonl: Write, kind: Any, row: dict[str, Any], message: str) -> None:
    _fails(SourceConfig(kind=kind, path=str(jsonl([row]))), "rows.jsonl:1: ", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the file does not exist"),
        ("", "the file is empty"),
        ("{", "no valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "expected a JSON object {id: {field: value}}"),
        ('{"a": 1}', "expected a JSON object {id: {field: value}}"),
        ('{"rows-1": {"dificulty": "Low"}}', "no id has a field 'difficulty' (did you mean 'dificulty'?)"),
        ('{"rows-1": {"difficulty": [1]}}', "id 'rows-1': difficulty must be"),
        ('{"elsewhere": {"difficulty": "Low"}}', "none of its 1 ids is the id of an example"),
    ],
)
def test_bad_annotations(jsonl: Write, tmp_path: Path, content: str | None, message: str) -> None:
    notes = tmp_path / "notes.json"
    if content is not None:
        notes.write_text(content)
    _fails(_file(jsonl([GOOD]), annotations=str(notes)), "notes.json", message)


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
@pytest.mark.parametrize("depth", [200, 900])
def test_deep_rows_are_refused_in_either_form(tmp_path: Path, name: str, depth: int) -> None:
    row = json.dumps(GOOD)[:-1] + ', "deep": ' + "[" * depth + "]" * depth + "}"
    rows = [json.dumps(GOOD), row]
    path = tmp_path / name
    path.write_text("\n".join(rows) if name == "d.jsonl" else "[" + ",\n".join(rows) + "]")
    _fails(_file(path), f"{name}:2: ", "nested too deeply")


@pytest.mark.parametrize("end", [",]", ", \n ]"])
def test_a_comma_behind_the_last_row_is_no_json(tmp_path: Path, end: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(f"[\n{json.dumps(GOOD)}{end}")
    _fails(_file(path), f"c.json:{2 + end.count(chr(10))}: ", "no valid JSON")

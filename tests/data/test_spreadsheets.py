"""Tables as spreadsheets and pandas write them: other delimiters, unnamed columns, padding, decimal commas."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemw2s.config.data import ColumnMap, SourceConfig
from ensemw2s.data.check import check_source
from ensemw2s.data.sources import load_source
from ensemw2s.errors import DataError

PAIRS = [("What, then?", "red; or not"), ("Who?", "blue")]


def _source(path: Path, text: str | bytes, **columns: object) -> SourceConfig:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return SourceConfig(kind="file", path=str(path), columns=ColumnMap(**columns))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize(
    "text",
    [
        'prompt,answer\n"What, then?",red; or not\nWho?,blue\n',
        'prompt;answer\nWhat, then?;"red; or not"\nWho?;blue\n',
        'prompt;answer;"a, b"\r\nWhat, then?;"red; or not";x\r\nWho?;blue;x\r\n',
        "prompt\tanswer\rWhat, then?\tred; or not\rWho?\tblue\r",
        'sep=;\r\nprompt;answer\r\nWhat, then?;"red; or not"\r\nWho?;blue\r\n',
        '"sep=|"\nprompt|answer\nWhat, then?|red; or not\nWho?|blue\n',
        'prompt,answer,,\n"What, then?",red; or not,,\nWho?,blue,,\n,,,\n , ,,\n',
        ',prompt,answer\n0,"What, then?",red; or not\n1,Who?,blue\n',
        "\tprompt\tanswer\n0\tWhat, then?\tred; or not\n1\tWho?\tblue\n",
        'prompt,answer\n"What, then?",red; or not,,\nWho?,blue\n',
    ],
)
def test_tables_of_every_delimiter(tmp_path: Path, name: str, text: str) -> None:
    for content in (text.encode(), text.encode("utf-8-sig")):
        source = _source(tmp_path / name, content)
        assert [(e.prompt, e.answer) for e in load_source(source, 0)] == PAIRS
        assert check_source(source, task="generate").problems == []


def test_lines_behind_a_stated_delimiter_keep_their_numbers(tmp_path: Path) -> None:
    source = _source(tmp_path / "t.csv", "sep=;\nprompt;answer\nWho?;blue;red\n")
    with pytest.raises(DataError, match=r"t\.csv:3: 3 fields, but the header has 2 columns[^$]*semicolons in double"):
        load_source(source, 0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("t.xlsx", "as CSV"), ("t.jsonl.gz", "Unpack"), ("t", "pipe"), ("t.arrow", "Parquet"), ("t.txt", r"\.csv")],
)
def test_other_kinds_of_files_are_told_what_to_become(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(DataError, match=rf"(?s)suffix.*{hint}"):
        load_source(_source(tmp_path / name, "x"), 0)


def test_a_broken_row_is_one_problem(tmp_path: Path) -> None:
    source = _source(tmp_path / "t.csv", 'prompt,answer\n"He said \\"hi\\", then",x\n')
    (problem,) = check_source(source, task="generate").errors
    assert (problem.kind, problem.line) == ("csv", 2)
    assert "written twice" in str(problem.hint)

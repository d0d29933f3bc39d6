"""Questions in the layouts of published data sets and of what pandas writes, read by their columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.config.data import ColumnMap, SourceConfig
from ensemw2s.data.check import check_source
from ensemw2s.data.sources import load_source
from ensemw2s.errors import DataError

Rows = list[dict[str, Any]]


def _source(path: Path, rows: Rows, **columns: Any) -> SourceConfig:
    import pandas as pd

    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path)
    else:
        pd.DataFrame(rows).to_parquet(path)
    if "distractors" not in columns:
        columns = {"choices": "choices"} | columns
    return SourceConfig(kind="file", path=str(path), columns=ColumnMap(**columns))


def _rows(options: list[Any], answers: list[Any]) -> Rows:
    return [{"prompt": f"p{n}", "choices": options, "answer": answer} for n, answer in enumerate(answers)]


ITEMS = [("B", "red"), ("A", "it's blue"), ("C", "grey")]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("label", ["label", "key", "letter", "id"])
@pytest.mark.parametrize("text", ["text", "value"])
def test_options_that_are_objects_with_labels(tmp_path: Path, suffix: str, label: str, text: str) -> None:
    """Labels count, not places: ``A`` is the second option here."""
    options = [{label: name, text: content} for name, content in ITEMS]
    source = _source(tmp_path / f"t{suffix}", _rows(options, ["A", "C", "B"]))
    assert [e.answer for e in load_source(source, 0)] == ["it's blue", "grey", "red"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_options_by_label(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"prompt": "p", "choices": {"A": "x", "B": "y"}, "letter": "B", "text": "y", "at": 1},
        {"prompt": "q", "choices": {"A": "x", "B": "y", "C": "z"}, "letter": "C", "text": "z", "at": 2},
        {"prompt": "r", "choices": {"A": "x", "B": "y"}, "letter": "A", "text": "x", "at": 0},
    ]
    for answer in ("letter", "text", "at"):
        source = _source(tmp_path / f"t{suffix}", rows, answer=answer)
        examples = load_source(source, 0)
        assert [e.answer for e in examples] == ["y", "z", "x"]
        assert [len(e.choices or ()) for e in examples] == [2, 3, 2]


@pytest.mark.parametrize("labels", ["ab", "AB", ["A)", "B)"], ["option_a", "option_b"], ["(1)", "(2)"]])
def test_labels_are_known_in_other_spellings(tmp_path: Path, labels: Any) -> None:
    options = dict(zip(labels, ["x", "y"], strict=True))
    answers = ["1", "2", "(2)"] if "1" in labels[0] else ["a", "B", "b)"]
    source = _source(tmp_path / "t.jsonl", _rows(options, answers))
    assert [e.answer for e in load_source(source, 0)] == ["x", "y", "y"]


def test_labels_that_repeat(tmp_path: Path) -> None:
    """They name nothing: flags of what is right are passed over, others are an error."""
    flags = [{"text": text, "label": text == "z"} for text in "xyz"]
    for options in (flags, [{**option, "label": int(option["label"])} for option in flags]):
        source = _source(tmp_path / "t.jsonl", _rows(options, [1, 0]))
        assert [e.answer for e in load_source(source, 0)] == ["y", "x"]
    source = _source(tmp_path / "t.jsonl", _rows({"text": ["x", "y"], "label": ["A", "A"]}, ["A"]))
    with pytest.raises(DataError, match="labels of the options are not all different"):
        load_source(source, 0)


def test_numbered_objects_with_letters_as_answers(tmp_path: Path) -> None:
    options = [{"id": 17, "text": "x"}, {"id": 18, "text": "y"}]
    source = _source(tmp_path / "t.jsonl", _rows(options, ["B", "A"]))
    assert [e.answer for e in load_source(source, 0)] == ["y", "x"]


@pytest.mark.parametrize(
    "options",
    [
        {"choices": ["x", "y"], "labels": [1, 0]},
        {"text": "x", "label": "A"},
        [{"word": "x"}, {"word": "y"}],
        ["x", {"text": "y"}],
        "['x' 'y']",
        "['x', open('y')]",
        "['x', " + "(" * 5000,
        "['x', " + "-" * 100_000 + "1]",
        "x|y",
    ],
)
def test_other_shapes_are_refused(tmp_path: Path, options: Any) -> None:
    (problem,) = check_source(_source(tmp_path / "t.jsonl", _rows(options, ["x"])), task="choice").errors
    assert problem.kind in ("choices", "not_text")
    assert len(problem.message) < 300


def test_lists_in_csv_as_pandas_writes_them(tmp_path: Path) -> None:
    options = ["red", "it's blue", 'say "grey"', "a\\b\n"]
    source = _source(tmp_path / "t.csv", _rows(options, [0, 3, 2]))
    assert [e.answer for e in load_source(source, 0)] == ["red", "a\\b", 'say "grey"']


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_wrong_options_in_one_list(tmp_path: Path, suffix: str) -> None:
    rows = [{"prompt": "p", "answer": "x", "wrong": ["y", "z"]}, {"prompt": "q", "answer": "v", "wrong": ["u", "w"]}]
    source = _source(tmp_path / f"t{suffix}", rows, distractors=["wrong"])
    examples = load_source(source, 0)
    assert [(e.answer, sorted(e.choices or ())) for e in examples] == [("x", ["x", "y", "z"]), ("v", ["u", "v", "w"])]


def test_lists_that_are_answers_stay_texts(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "answer": "[1, 2]", "wrong": "[2, 1]"}, {"prompt": "q", "answer": "[3]", "wrong": "[]"}]
    source = _source(tmp_path / "t.csv", rows, distractors=["wrong"])
    assert [set(e.choices or ()) for e in load_source(source, 0)] == [{"[1, 2]", "[2, 1]"}, {"[3]", "[]"}]


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        (["caf\u00e9", "the"], "cafe\u0301", "caf\u00e9"),
        (["carbon\u00a0dioxide", "neon"], "carbon dioxide", "carbon\u00a0dioxide"),
        (["a  b", "a c", "a  b"], "a b", "a  b"),
        (["\uff11\uff10", "20"], "10", "\uff11\uff10"),
        (["10.0", "20.0"], "10", "10.0"),
        (["red", "blue"], "\u200bred", "red"),
        (["True", "False"], True, "True"),
        (["true", "false"], False, "false"),
        (["10", "10.0"], "10.0", "10.0"),
    ],
)
def test_answers_that_differ_in_their_spelling_alone(
    tmp_path: Path, options: list[str], answer: Any, right: str
) -> None:
    source = _source(tmp_path / "t.jsonl", _rows(options, [answer]))
    assert [e.answer for e in load_source(source, 0)] == [right]


def test_indices_as_numbers_and_in_writing(tmp_path: Path) -> None:
    source = _source(tmp_path / "t.jsonl", _rows(["red", "blue", "grey"], [0, "1", 2, "2.0"]))
    assert [e.answer for e in load_source(source, 0)] == ["red", "blue", "grey", "grey"]
    source = _source(tmp_path / "t.jsonl", _rows(["2", "0", "1"], [0, "1", 2]))
    with pytest.raises(DataError, match="fit in more than one way"):
        load_source(source, 0)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_that_pandas_made_fractions(tmp_path: Path, suffix: str) -> None:
    """With a missing value in column ``d`` its 1 is 1.0: the answer 1 is that text, or an index, and never just one."""
    rows = [
        {"prompt": "p", "a": 4, "b": 3, "c": 2, "d": 1, "answer": 1},
        {"prompt": "q", "a": 3, "b": 4, "c": 1, "d": 2, "answer": 4},
        {"prompt": "r", "a": 1, "b": 2, "c": 4, "d": None, "answer": 2},
    ]
    source = _source(tmp_path / f"t{suffix}", rows, choices=["a", "b", "c", "d"])
    with pytest.raises(DataError, match=r"'1' is option '1\.0' as the text of .*, and option '4' as an index from 1"):
        load_source(source, 0)
    stated = source.model_copy(update={"columns": source.columns.model_copy(update={"answer_is": "text"})})
    assert [e.answer for e in load_source(stated, 0)] == ["1.0", "4", "2"]


def test_difficulty_with_a_decimal_comma(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("prompt;answer;hard\na;x;0,5\nb;x;-1,25\nc;x;0,125\nd;x;2\ne;x;Grade 3\n")
    source = SourceConfig(kind="file", path=str(path), columns=ColumnMap(difficulty="hard"))
    assert [e.difficulty for e in load_source(source, 0)] == [0.5, -1.25, 0.125, 2.0, 3.0]
    path.write_text("prompt;answer;hard\na;x;0,5\nb;x;1,250\n")
    with pytest.raises(DataError, match=r"t\.csv:3: difficulty 1,250 can be a thousand or a fraction"):
        load_source(source, 0)

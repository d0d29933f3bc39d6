"""Options in columns of their own, and distractors: what the answers name, or an error that says how to state it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from table_files import write_csv

from ensemw2s.config.data import ColumnMap, SourceConfig
from ensemw2s.data.check import check_source
from ensemw2s.data.sources import load_source
from ensemw2s.errors import DataError

Write = Callable[..., Path]

QUIZ = [
    {"question": "What boils at 100 degrees?", "a": "salt", "b": "water", "c": "glass", "d": "iron", "right": 1},
    {"question": "Which planet is closest to the sun?", "a": "Mercury", "b": "Mars", "c": "Earth", "d": "Venus",
     "right": 0},
    {"question": "What do plants take in?", "a": "helium", "b": "methane", "c": "neon", "d": "carbon dioxide",
     "right": 3},
    {"question": "Is ice water?", "a": "yes", "b": "no", "c": "", "d": None, "right": 0},
]  # fmt: skip
MEANT = ["water", "Mercury", "carbon dioxide", "yes"]
WAYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "letter": lambda row: "ABCD"[row["right"]],
    "small": lambda row: f"{'abcd'[row['right']]})",
    "index": lambda row: row["right"],
    "index1": lambda row: row["right"] + 1,
    "name": lambda row: f"option_{'abcd'[row['right']]}",
    "text": lambda row: row["abcd"[row["right"]]],
}


def _quiz(path: Path, way: str, rows: Sequence[dict[str, Any]] = QUIZ) -> Path:
    renamed = [
        {"question": row["question"], **{f"option_{x}": row[x] for x in "abcd"}, "right": WAYS[way](row)}
        for row in rows
    ]
    if path.suffix == ".csv":
        return write_csv(path, renamed)
    path.write_text("".join(json.dumps(row) + "\n" for row in renamed))
    return path


COLUMNS = [f"option_{x}" for x in "abcd"]


@pytest.mark.parametrize("way", [*WAYS])
@pytest.mark.parametrize("name", ["q.csv", "q.jsonl"])
def test_options_in_columns(tmp_path: Path, way: str, name: str) -> None:
    path = _quiz(tmp_path / name, way)
    source = SourceConfig(
        kind="file", path=str(path), columns=ColumnMap(prompt="question", answer="right", choices=COLUMNS)
    )
    examples = load_source(source, 0)
    assert [e.answer for e in examples] == MEANT
    assert examples[0].choices == ("salt", "water", "glass", "iron")
    assert examples[3].choices == ("yes", "no")
    assert check_source(source, task="choice").problems == []


def test_letters_and_indices_count_columns_not_options(tmp_path: Path) -> None:
    rows = [
        {"q": "one", "a": "x", "b": "", "c": "y", "d": "z", "right": "C"},
        {"q": "two", "a": "x", "b": "", "c": "y", "d": "z", "right": "A"},
    ]
    columns = ColumnMap(prompt="q", answer="right", choices=["a", "b", "c", "d"])
    source = SourceConfig(kind="file", path=str(write_csv(tmp_path / "gap.csv", rows)), columns=columns)
    assert [e.answer for e in load_source(source, 0)] == ["y", "x"]
    source = SourceConfig(
        kind="file", path=str(write_csv(tmp_path / "bad.csv", [*rows, rows[0] | {"right": "B"}])), columns=columns
    )
    with pytest.raises(DataError, match=r"bad\.csv:4: the answer 'B' is not among the 3 options: .* a label"):
        load_source(source, 0)


def test_columns_in_another_order_than_their_names(tmp_path: Path) -> None:
    rows = [{"q": "one", "a": "x", "b": "y", "right": "B"}, {"q": "two", "a": "v", "b": "w", "right": "A"}]
    path = str(write_csv(tmp_path / "o.csv", rows))
    columns = ColumnMap(prompt="q", answer="right", choices=["b", "a"])
    with pytest.raises(DataError, match=r"o\.csv:2: the answers fit in more than one way: .* a label, .* a letter"):
        load_source(SourceConfig(kind="file", path=path, columns=columns), 0)
    stated = columns.model_copy(update={"answer_is": "label"})
    assert [e.answer for e in load_source(SourceConfig(kind="file", path=path, columns=stated), 0)] == ["y", "v"]


def test_columns_that_are_missing_or_given_twice(tmp_path: Path) -> None:
    path = _quiz(tmp_path / "q.csv", "letter")
    columns = ColumnMap(prompt="question", answer="right", choices=["option_a", "optoin_b"])
    with pytest.raises(DataError, match=r"no column 'optoin_b' \(did you mean 'option_b'\?\)"):
        load_source(SourceConfig(kind="file", path=str(path), columns=columns), 0)
    for wrong in ([], ["a"], ["a", "a"]):
        with pytest.raises(ValidationError, match="choices lists two columns or more, each once"):
            ColumnMap(choices=wrong)


@pytest.mark.parametrize("way", ["letter", "small", "index", "index1", "name"])
@pytest.mark.parametrize("name", ["q.csv", "q.jsonl"])
def test_distractors_whose_answers_name_columns_are_refused(tmp_path: Path, way: str, name: str) -> None:
    path = _quiz(tmp_path / name, way)
    columns = ColumnMap(prompt="question", answer="right", distractors=COLUMNS)
    source = SourceConfig(kind="file", path=str(path), columns=columns)
    with pytest.raises(DataError, match=r"in 4 of 4 rows the answer, such as .*, names an option") as caught:
        load_source(source, 0)
    assert "choices: [option_a, option_b, option_c, option_d]" in str(caught.value)
    assert [p.kind for p in check_source(source, task="choice").errors] == ["shortcut"]
    stated = source.model_copy(update={"columns": columns.model_copy(update={"answer_is": "text"})})
    assert len(load_source(stated, 0)) == 4


def _distractors(jsonl: Write, rows: Sequence[tuple[Any, ...]], **columns: Any) -> SourceConfig:
    table = [{"prompt": f"p{n}", "answer": a, "v": v, "w": w} for n, (a, v, w) in enumerate(rows)]
    columns = {"distractors": ["v", "w"]} | columns
    return SourceConfig(kind="file", path=str(jsonl(table)), columns=ColumnMap(**columns))


@pytest.mark.parametrize(
    "rows",
    [
        [("x1", "one", "two"), ("x2", "three", "four"), ("x3", "five", "six")] * 4,
        [("option 1", "one", "two"), ("Option 2", "three", "four")],
        [("Choice B", "one", "A"), ("choice A", "three", "four"), ("see note", "five", "six")],
        [(1, 15, 18), (2, 20, 25), (1, 30, 32)],
        [(1, 15, 18), (2, 20, 25), (1, 30, 2), (2, 40, 42), (1, 51, 50), (2, 60, 64)],
        [(1, 2, 3), (2, 2, 3), (1, 1, 3), (2, 1, 3), (1, 3, 2), (2, 2, 1)],
        [("A) salt", "salt", "tea"), ("b. tea", "ice", "tea"), ("(1) iron", "iron", "gold")],
    ],
)
def test_answers_that_are_never_a_distractor(jsonl: Write, rows: list[tuple[Any, ...]]) -> None:
    with pytest.raises(DataError, match="answer_is: text"):
        load_source(_distractors(jsonl, rows), 0)
    assert len(load_source(_distractors(jsonl, rows, answer_is="text"), 0)) == len(rows)


@pytest.mark.parametrize(
    "rows",
    [
        [("yes", "no", ""), ("no", "yes", "")] * 10,
        [("positive", "negative", "neutral")] * 20 + [("neutral", "negative", "positive")],
        [("2", "3", "1"), ("3", "1", "2"), ("1", "3", "2")] * 5,
        [("a", "an", "the"), ("an", "a", "the"), ("the", "a", "an")],
        [("A", "B", "C"), ("C", "B", "A")],
        [("4", "3", "22"), ("7", "8", "12")],
    ],
)
def test_genuine_distractors_are_taken(jsonl: Write, rows: list[tuple[Any, ...]]) -> None:
    assert [e.answer for e in load_source(_distractors(jsonl, rows), 0)] == [row[0] for row in rows]


@pytest.mark.parametrize(
    ("more", "options", "prompt", "refused"),
    [
        ({}, ["A", "B", "C", "D"], "What boils first?", True),
        ({}, ["a", "b"], "What boils first?", True),
        ({"A": "salt", "B": "tea"}, ["A", "B"], "A or B?", True),
        ({}, ["A", "B", "C", "D"], "What boils first?\nA. salt\nB. tea\nC. glass\nD. iron", False),
        ({}, ["A", "B"], "Which is larger, (A) or (B)?", False),
        ({}, ["yes", "no"], "Is it so?", False),
        ({}, ["negative", "positive"], "What a film", False),
        ({"yes": 0.25, "no": "0.75"}, ["yes", "no"], "Is it so?", False),
        ({}, ["1", "2", "3", "4", "5"], "How many stars?", False),
    ],
)
def test_options_that_are_the_same_in_every_row(
    jsonl: Write, more: dict[str, Any], options: list[str], prompt: str, refused: bool
) -> None:
    rows = [{"prompt": f"{n}: {prompt}", "c": options, "answer": options[n % 2]} | more for n in range(6)]
    path = jsonl(rows)
    if refused:
        with pytest.raises(DataError, match=r"all rows have the same options, .* choices: \[.* answer_is: text"):
            load_source(SourceConfig(kind="file", path=str(path), columns=ColumnMap(choices="c")), 0)
    columns = ColumnMap(choices="c", **({"answer_is": "text"} if refused else {}))
    found = load_source(SourceConfig(kind="file", path=str(path), columns=columns), 0)
    assert [e.answer for e in found] == [row["answer"] for row in rows]


@pytest.mark.parametrize("letters", [False, True])
def test_published_questions_in_columns(shared_data: Path, tmp_path: Path, letters: bool) -> None:
    """ARC as a spreadsheet would have it, and SciQ by its columns: read as the known kinds read them."""
    known = load_source(SourceConfig(kind="arc", path=str(shared_data / "arc_easy")), 0)
    rows = []
    for example in known:
        options = dict(zip("abcde", [*(example.choices or ()), "", "", ""], strict=False))
        answer = "ABCDE"[example.answer_index] if letters else example.answer
        rows.append({"id": example.id, "q": example.prompt, **options, "right": answer})
    columns = ColumnMap(id="id", prompt="q", answer="right", choices=[*"abcde"])
    source = SourceConfig(kind="file", path=str(write_csv(tmp_path / "arc.csv", rows)), columns=columns)
    assert [(e.answer, e.choices) for e in load_source(source, 0)] == [(e.answer, e.choices) for e in known]


def test_published_distractors_are_taken(shared_data: Path) -> None:
    names = {"prompt": "question", "answer": "correct_answer"}
    columns = ColumnMap(**names, distractors=["distractor1", "distractor2", "distractor3"])
    path = shared_data / "sciq" / "valid.json"
    source = SourceConfig(kind="file", path=str(path), columns=columns)
    assert len(load_source(source, 0)) == 1000
    in_columns = ColumnMap(**names, choices=[*columns.distractors, "correct_answer"])
    found = load_source(SourceConfig(kind="file", path=str(path), columns=in_columns), 0)
    assert [e.answer for e in found] == [e.answer for e in load_source(source, 0)]

"""How a column of answers is read: once for all its rows, or an error that says how to state it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from table_files import write_csv

from ensemw2s.config.data import ColumnMap, SourceConfig
from ensemw2s.data.check import check_source
from ensemw2s.data.sources import load_source
from ensemw2s.errors import DataError

Write = Callable[..., Path]
ABCD = ["red", "green", "blue", "grey"]
NUMBERS = ["1", "2", "3", "4"]


def _rows(answers: Sequence[Any], options: Any = None) -> list[dict[str, Any]]:
    many = (
        options
        if isinstance(options, list) and not isinstance(options[0], str | int)
        else [options or ABCD] * len(answers)
    )
    return [
        {"prompt": f"question {n}", "c": c, "answer": a} for n, (a, c) in enumerate(zip(answers, many, strict=True))
    ]


def _source(path: Path, **columns: Any) -> SourceConfig:
    return SourceConfig(kind="file", path=str(path), columns=ColumnMap(**({"choices": "c"} | columns)))


def _answers(path: Path, **columns: Any) -> list[str | None]:
    return [example.answer for example in load_source(_source(path, **columns), 0)]


@pytest.mark.parametrize(
    ("answers", "options", "right"),
    [
        ([0, 1, 2, 3, 0], NUMBERS, [0, 1, 2, 3, 0]),
        ([0, 1, 2, 3], ["0", "2", "4", "6"], [0, 1, 2, 3]),
        ([1, 2, 3, 4, 1], NUMBERS, [0, 1, 2, 3, 0]),
        ([1, 2, 3, 4], ["2", "3", "4", "1"], [0, 1, 2, 3]),
        ([1, 2, 3, 4], ABCD, [0, 1, 2, 3]),
        ([0.0, 1.0, 3.0], ABCD, [0, 1, 3]),
        (["0", "1", "3"], ABCD, [0, 1, 3]),
        (["0", "1", "3"], NUMBERS, [0, 1, 3]),
        (["1.0", "4.0"], ABCD, [0, 3]),
        (["１", "４"], ABCD, [0, 3]),
        (["2", "1", "4"], NUMBERS, [1, 0, 3]),
        (["2", "1"], ["0", "1", "2", "3"], [2, 1]),
        ([20, 10], [10, 20], [1, 0]),
        ([20.0, 10.0], ["10", "20"], [1, 0]),
        ([0, 1, 0], [[5, 1], [5, 1], [1, 0]], [0, 1, 0]),
        (["A", "B", "D"], ABCD, [0, 1, 3]),
        (["a", "b", "d"], ABCD, [0, 1, 3]),
        (["(A)", "b.", "D)"], ABCD, [0, 1, 3]),
        (["Option A", "option b", "Answer: (D)"], ABCD, [0, 1, 3]),
        (["choice 1", "choice 4"], ABCD, [0, 3]),
        (["B", "C"], [["O", "A", "B", "AB"], ABCD], [1, 2]),
        (["green", "grey"], ABCD, [1, 3]),
        (["no", "yes"], ["yes", "no"], [1, 0]),
        ([True, False], [True, False], [0, 1]),
        (["1945", 1946, "1945"], ["1945", "1946"], [0, 1, 0]),
        (["P", "Q"], {"text": ABCD[:2], "label": ["P", "Q"]}, [0, 1]),
        ([1, 2], {"text": ["2", "1"], "label": ["1", "2"]}, [0, 1]),
        ([0, 1], {"text": ABCD[:2], "label": ["A", "B"]}, [0, 1]),
        (["red", "green"], {"text": ABCD[:2], "label": ["A", "B"]}, [0, 1]),
    ],
)
def test_one_reading_for_a_column(jsonl: Write, answers: list[Any], options: Any, right: list[int]) -> None:
    path = jsonl(_rows(answers, options))
    examples = load_source(_source(path), 0)
    assert [e.answer_index for e in examples] == right
    assert check_source(_source(path), task="choice").ok
    # The order of the rows and a file for each do not matter.
    backwards = jsonl(_rows(answers, options)[::-1], "backwards.jsonl")
    assert [e.answer_index for e in load_source(_source(backwards), 0)] == right[::-1]
    parts = [str(jsonl([row], f"part-{n}.jsonl")) for n, row in enumerate(_rows(answers, options))]
    whole = SourceConfig(kind="file", path=parts, columns=ColumnMap(choices="c"))
    assert [e.answer_index for e in load_source(whole, 0)] == right


@pytest.mark.parametrize(
    ("answers", "options", "line", "words"),
    [
        (["red", 1, "green"], ABCD, 2, "'1' fits as an index from 0 or an index from 1, but 'red' at"),
        ([0, 1, "green"], ABCD, 3, "'green' fits as the text of an option, but '0' at"),
        (["A", "B", 1], ABCD, 3, "'1' fits as an index from 0 or an index from 1, but 'A' at"),
        (["0", "1", "red"], ABCD, 3, "'red' fits as the text of an option, but '0' at"),
        ([0, 1, 2, 3, 4], ABCD, 5, "'4' fits as an index from 1, but '0' at"),
        ([0, 1, 7], ["3", "7", "9"], 3, "'7' fits as the text of an option, but '0' at"),
        ([0, "red", True], [ABCD, ABCD, [True, False]], 1, "'0' fits as an index from 0, but 'red' at"),
        (["2", 1, "3"], [["1", "2", "3"]] * 3, 2, "'1' is a number, and would be an index from 0, but '2' at"),
        (["Paris", 1], [["Paris", "Rome"], ["1", "2"]], 2, "'1' is a number, and would be an index from 0"),
        ([1, 2, 3], ABCD, 1, "'1' is option 'green' as an index from 0, and option 'red' as an index from 1"),
        ([1, 2, 3], NUMBERS, 1, "'1' is option '2' as an index from 0, and option '1' as an index from 1"),
        ([1, 2], [[2, 1, 0], [1, 0, 2]], 1, "'1' is option '1' as "),
        (["1", "2"], ABCD, 1, "'1' is option 'green' as an index from 0"),
        (["1"], [{"text": ["2", "1"], "label": ["1", "2"]}], 1, "'1' is option '2' as a label, and option '1' as the"),
        (["A", "B"], [["B", "A"], ["B", "C"]], 1, "'A' is option 'A' as the text of an option, and option 'B' as"),
    ],
)  # fmt: skip
def test_a_column_in_doubt_is_an_error(jsonl: Write, answers: list[Any], options: Any, line: int, words: str) -> None:
    path = jsonl(_rows(answers, options))
    with pytest.raises(DataError) as caught:
        load_source(_source(path), 0)
    assert caught.value.message.startswith(f"{path}:{line}: the answers ")
    assert words in caught.value.message
    assert "--column answer_is=" in str(caught.value)
    report = check_source(_source(path), task="choice")
    (problem,) = report.errors
    assert problem.error().message == caught.value.message
    assert report.examples == 0


def _marked(*flags: Any, as_list: bool = False) -> Any:
    texts = ABCD[: len(flags)]
    if as_list:
        return [{"text": text, "label": flag} for text, flag in zip(texts, flags, strict=True)]
    return {"text": texts, "label": list(flags)}


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize(
    ("answers", "labels", "right"),
    [
        # one row's labels can only be flags, so all are: answers are indices
        ([0, 1, 2], [(1, 0), (0, 1), (0, 0, 1)], [0, 1, 2]),
        ([0, 0], [(1, 0), (1, 0, 0)], [0, 0]),
        (["0", "1"], [("1", "0"), ("0", "1", "0")], [0, 1]),
        ([0, 1], [(True, False), (False, True, False)], [0, 1]),
        ([1, 2], [(1, 0), (0, 1)], [0, 1]),
        (["red", "green"], [(1, 0), (0, 1)], [0, 1]),
        # labels in order and indices say the same
        ([0, 1], [(0, 1), (0, 1)], [0, 1]),
        ([1, 1], [(0, 1), (0, 1)], [1, 1]),
    ],
)
def test_labels_that_are_flags(
    jsonl: Write, answers: list[Any], labels: list[Any], right: list[int], as_list: bool
) -> None:
    options = [_marked(*flags, as_list=as_list) for flags in labels]
    path = jsonl(_rows(answers, options))
    assert [e.answer_index for e in load_source(_source(path), 0)] == right


@pytest.mark.parametrize("flags", [[(1, 0), (0, 1)], [("1", "0"), ("0", "1")], [(1.0, 0.0), (0.0, 1.0)], [(1, 0)]])
def test_labels_that_may_be_flags_have_to_be_told(jsonl: Write, flags: list[Any]) -> None:
    path = jsonl(_rows([0, 1][: len(flags)], [_marked(*row) for row in flags]))
    with pytest.raises(
        DataError, match="'0' is option 'green' as a label, and option 'red' as an index from 0"
    ) as caught:
        load_source(_source(path), 0)
    assert "--column answer_is=" in str(caught.value)
    stated = {how: [e.answer_index for e in load_source(_source(path, answer_is=how), 0)] for how in ("index", "label")}
    assert stated == {"index": [0, 1][: len(flags)], "label": [1, 1][: len(flags)]}


def test_an_object_s_keys_are_no_flags(jsonl: Write) -> None:
    path = jsonl(_rows([1, 0], [{"1": "red", "0": "green"}] * 2))
    assert _answers(path) == ["red", "green"]


@pytest.mark.parametrize(
    ("stated", "answers", "right"),
    [
        ("index", [1, 2, 3], [1, 2, 3]),
        ("index1", [1, 2, 3], [0, 1, 2]),
        ("text", [1, 2, "3"], [0, 1, 2]),
        ("letter", ["A", "b"], [0, 1]),
        ("index", ["1", "2.0"], [1, 2]),
    ],
)
def test_what_is_stated_counts(jsonl: Write, stated: str, answers: list[Any], right: list[int]) -> None:
    path = jsonl(_rows(answers, NUMBERS))
    assert [e.answer_index for e in load_source(_source(path, answer_is=stated), 0)] == right


@pytest.mark.parametrize(
    ("stated", "answer", "words"),
    [
        ("index", 4, "the answer '4' is not among the 4 options: the column is read as an index from 0"),
        ("index", -1, "the answer '-1' is not among the 4 options: the column is read as an index from 0"),
        ("index1", 0, "the answer '0' is not among the 4 options: the column is read as an index from 1"),
        ("index", 1.5, "the answer '1.5' is not among"),
        ("index", True, "the answer 'true' is not among"),
        ("index", "B", "the answer 'B' is not among the 4 options: the column is read as an index from 0"),
        ("letter", 1, "the answer '1' is not among the 4 options: the column is read as a letter"),
        ("text", "B", "the answer 'B' is not among the 4 options: the column is read as the text of an option"),
        ("label", "A", "the answer 'A' is not among the 4 options: the column is read as a label"),
        (None, -1, "the answer '-1' is not among the 4 options: the column is read as an index from 0"),
        (None, 9, "the answer '9' is not among the 4 options: the column is read as an index from 0"),
        (None, 2.5, "the answer '2.5' is not among"),
        (None, True, "the answer 'true' is not among"),
        (None, 10**30, "the answer '1000000"),
    ],
)
def test_answers_that_do_not_fit_are_named_by_line(jsonl: Write, stated: Any, answer: Any, words: str) -> None:
    good = {"index1": 1, "letter": "C", "text": "red", "label": "red"}.get(stated, 0)
    path = jsonl([*_rows([answer, good, good]), {"prompt": "", "c": ABCD, "answer": good}])
    report = check_source(_source(path, answer_is=stated), task="choice")
    found = {p.line: p.message for p in report.errors}
    assert words in found[1]
    assert found[4] == "the prompt is empty"
    assert report.examples == (0 if stated == "label" else 2)


def test_csv_has_no_types(tmp_path: Path) -> None:
    texts = write_csv(tmp_path / "t.csv", _rows(["12", "15"], ["12", "15", "18"]))
    assert _answers(texts) == ["12", "15"]
    indices = write_csv(tmp_path / "i.csv", _rows(["0", "2"], ["12", "15", "18"]))
    assert _answers(indices) == ["12", "18"]
    either = write_csv(tmp_path / "e.csv", _rows(["1", "2"], ["3", "2", "1"]))
    with pytest.raises(DataError, match=r"e\.csv:2: the answers fit in more than one way"):
        _answers(either)
    assert _answers(either, answer_is="text") == ["1", "2"]
    assert _answers(either, answer_is="index") == ["2", "1"]
    assert _answers(either, answer_is="index1") == ["3", "2"]


def test_pandas_columns_with_missing_values(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(_rows([0, None, 3]))
    assert str(frame["answer"].dtype) == "float64"
    frame.to_parquet(tmp_path / "a.parquet")
    frame.assign(c=[json.dumps(ABCD)] * 3).to_csv(tmp_path / "a.csv", index=False)
    for name, place in (("a.parquet", ", row 2"), ("a.csv", ":3")):
        path = tmp_path / name
        assert [e.answer for e in load_source(_source(path), 0, answers=False)] == ["red", None, "grey"]
        with pytest.raises(DataError, match=f"{place}: the answer is empty"):
            load_source(_source(path), 0)


def test_what_cannot_be_stated() -> None:
    with pytest.raises(ValidationError, match="answer_is: letter needs choices"):
        ColumnMap(distractors=["a", "b"], answer_is="letter")
    with pytest.raises(ValidationError, match="answer_is"):
        ColumnMap(choices="c", answer_is="number")  # type: ignore[arg-type]


READINGS = {
    "index": lambda at, options: at,
    "index1": lambda at, options: at + 1,
    "letter": lambda at, options: "ABCD"[at],
    "text": lambda at, options: options[at],
}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    reading=st.sampled_from(sorted(READINGS)),
    rows=st.lists(
        st.tuples(
            st.lists(
                st.sampled_from([*"01234ABCD", "red", "green"]),
                min_size=4,
                max_size=4,
                unique=True,
            ),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=8,
    ),
    as_csv=st.booleans(),
)
def test_never_a_wrong_answer(tmp_path: Path, reading: str, rows: list[tuple[list[str], int]], as_csv: bool) -> None:
    """However a column was written, it is read as meant, or refused; stated, it is always read as meant."""
    answers = [READINGS[reading](at, options) for options, at in rows]
    table = _rows(answers, [options for options, _ in rows])
    path = tmp_path / ("r.csv" if as_csv else "r.jsonl")
    if as_csv:
        write_csv(path, table)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    meant = [at for _, at in rows]
    assert [e.answer_index for e in load_source(_source(path, answer_is=reading), 0)] == meant
    report = check_source(_source(path), task="choice")
    if report.ok:
        assert [e.answer_index for e in load_source(_source(path), 0)] == meant
    else:
        assert {p.kind for p in report.errors} <= {"ambiguous_answer", "mixed_answers", "shortcut"}

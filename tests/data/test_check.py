from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.config.data import ColumnMap, SourceConfig
from ensemw2s.data.check import check_source
from ensemw2s.data.sources import load_source

Write = Callable[..., Path]


def _row(prompt: str, answer: Any = "x", choices: Any = ("x", "y", "z"), **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "answer": answer, "choices": list(choices)} | more


def _source(path: Path, **columns: Any) -> SourceConfig:
    return SourceConfig(kind="file", path=str(path), columns=ColumnMap(choices="choices", **columns))


def test_counts_lengths_and_histograms(jsonl: Write, bpe: Any) -> None:
    rows = [
        _row("a" * 10, "x", skill="s", level="Low"),
        _row("b" * 20, "y", skill="s", level="High"),
        _row("c" * 30, "z", skill="t", level=None),
        _row("d" * 40, "x", ("w", "x"), skill="t", level="Low"),
    ]
    path = jsonl(rows)
    report = check_source(_source(path, group="skill", difficulty="level"), task="choice", tokenizer=bpe)
    assert report.ok
    assert (report.files, report.rows, report.examples) == ([str(path)], 4, 4)
    assert report.prompt_chars == {"min": 10, "p5": 10, "p50": 20, "p95": 40, "max": 40}
    assert report.answer_chars["max"] == 1
    lengths = [len(bpe(row["prompt"])["input_ids"]) for row in rows]
    assert report.prompt_tokens is not None
    assert (report.prompt_tokens["min"], report.prompt_tokens["max"]) == (min(lengths), max(lengths))
    assert report.choice_counts == {2: 1, 3: 3}
    assert report.answer_positions == {0: 1, 1: 2, 2: 1}
    assert report.levels == {"High": 1, "Low": 2}
    assert report.groups == {"s": 2, "t": 2}
    assert report.without_difficulty == 1
    assert report.difficulty["max"] == 2.0
    assert report.problems == []
    out = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert out["ok"] is True
    assert out["choice_counts"] == {"2": 1, "3": 3}


def test_it_goes_on_after_problems_and_names_their_lines(tmp_path: Path) -> None:
    lines = [
        json.dumps(_row("fine", id="1")),
        "{broken",
        json.dumps(_row("", id="2")),
        json.dumps(_row("no answer", None, id="3")),
        json.dumps(_row("not among them", "q", id="4")),
        json.dumps(_row("one option", "x", ["x"], id="5")),
        json.dumps(_row("twice", "x", ["x", "y", "y"], id="6")),
        json.dumps(_row("same id", id="1")),
        json.dumps({"prompt": "no column", "answer": "x", "id": "7"}),
        json.dumps({"prompt": "no column either", "answer": "x", "id": "8"}),
        json.dumps(_row("Fine ", id="9")),
        json.dumps(_row("fine", "y", id="10")),
        json.dumps(_row("fine", id="11")),
        json.dumps(_row("which", "NaN", ["NaN", "0"], id="12")),
    ]
    path = tmp_path / "all.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = check_source(_source(path, id="id"), task="choice")
    found = [(p.line, p.kind, p.severity) for p in report.problems]
    assert found == [
        (2, "json", "error"),
        (3, "empty_prompt", "error"),
        (4, "empty_answer", "error"),
        (6, "few_choices", "error"),
        (7, "duplicate_choice", "warning"),
        (8, "duplicate_id", "error"),
        (9, "missing_column", "error"),
        (14, "missing_word", "warning"),
        (14, "missing_word", "warning"),
        (5, "answer_not_in_choices", "error"),
        (11, "near_duplicate", "warning"),
        (12, "contradiction", "warning"),
        (13, "exact_duplicate", "warning"),
    ]
    missing = next(p for p in report.problems if p.kind == "missing_column")
    assert (missing.column, missing.rows) == ("choices", 2)
    assert missing.to_json()["rows"] == 2
    assert (report.rows, report.examples) == (13, 6)
    assert (report.exact_duplicates, report.near_duplicates, report.contradictions) == (1, 1, 1)
    assert not report.ok
    assert len(report.errors) + len(report.warnings) == len(report.problems)


def test_warnings_do_not_stop_loading(jsonl: Write) -> None:
    source = _source(jsonl([_row("p", "x", ["x", "y", "y"]), _row("p", "y", ["x", "y", "y"])]))
    report = check_source(source, task="choice")
    assert report.ok
    assert Counter(p.kind for p in report.warnings) == {"duplicate_choice": 2, "contradiction": 1}
    assert len(load_source(source, 0)) == 2


def test_every_file_is_looked_at(jsonl: Write, tmp_path: Path) -> None:
    good = jsonl([_row("p")])
    source = SourceConfig(
        kind="file",
        path=[str(tmp_path / "missing.jsonl"), str(good), str(tmp_path / "bad.txt")],
        columns=ColumnMap(choices="choices"),
    )
    report = check_source(source, task="choice")
    assert [p.kind for p in report.problems] == ["missing_file", "suffix"]
    assert report.examples == 1


def test_options_are_needed_for_choice_only(jsonl: Write) -> None:
    path = jsonl([{"prompt": "p", "answer": "a"}])
    source = SourceConfig(kind="file", path=str(path))
    assert check_source(source, task="generate").ok
    (problem,) = check_source(source, task="choice").problems
    assert problem.kind == "no_choices"
    assert problem.hint is not None
    assert "data.source.columns.choices" in problem.hint


def test_biased_places_are_a_warning(jsonl: Write) -> None:
    biased = check_source(_source(jsonl([_row(f"p{i}") for i in range(60)])), task="choice")
    assert [p.kind for p in biased.warnings] == ["answer_position"]
    assert "option 1 in 60 of 60 examples" in biased.warnings[0].message
    even = check_source(_source(jsonl([_row(f"p{i}", "xyz"[i % 3]) for i in range(60)])), task="choice")
    assert even.warnings == []


def test_nothing_to_describe(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    path.write_text("{}\n")
    report = check_source(_source(path), task="choice")
    assert report.prompt_chars == {} == report.difficulty
    json.dumps(report.to_json(), allow_nan=False)


def test_synthetic_is_clean() -> None:
    report = check_source(SourceConfig(size=300), task="choice")
    assert report.problems == []
    assert report.choice_counts == {4: 300}
    assert len(report.groups) > 3
    assert report.without_difficulty == 0


@pytest.mark.parametrize(
    ("kind", "task", "examples", "kinds"),
    [
        ("arc_easy", "choice", 5197, {"exact_duplicate": 2, "near_duplicate": 1}),
        ("sciq", "choice", 1000, {"duplicate_choice": 2}),
        ("gsm8k", "generate", 4600, {}),
    ],
)
def test_published_files(shared_data: Path, kind: str, task: Any, examples: int, kinds: dict[str, int]) -> None:
    source = SourceConfig(kind="arc" if kind == "arc_easy" else kind, path=str(shared_data / kind))  # type: ignore[arg-type]
    report = check_source(source, task=task)
    assert report.ok
    assert report.examples == report.rows == examples
    assert Counter(p.kind for p in report.problems) == kinds


def test_options_that_are_the_same_are_said(jsonl: Write, digits: Any) -> None:
    rows = [
        _row("1", "a2", ("a2", "b3")),
        _row("2", "a 2", ("a 2", "a  2")),
        _row("3", "e\u03012", ("e\u03012", "\u00e92", "4")),
        _row("4", "2a", ("2a", "3c", "2b")),
    ]
    source = _source(jsonl(rows))
    said = [(p.line, p.message) for p in check_source(source, task="choice").problems if p.kind == "same_options"]
    text = "options 1 and 2 are the same text but for white space or Unicode's forms"
    assert said == [(2, text), (3, text)]
    report = check_source(source, task="choice", models=[digits])
    assert report.ok
    assert {p.line for p in report.problems if p.kind == "same_options"} == {2, 3, 4}
    assert "options 1 and 3 have the same tokens" in report.problems[-1].message
    assert check_source(source, task="generate", models=[digits]).problems == []

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ensemw2s.config.data import ColumnMap, SourceConfig
from ensemw2s.data.example import Example
from ensemw2s.data.sources import load_source, source_files

Write = Callable[..., Path]

ROWS: list[dict[str, Any]] = [
    {"key": "q1", "text": "One plus one?", "right": "two", "all": ["one", "two"], "meta": {"hard": 1.5}, "kind": "sum"},
    {"key": "q2", "text": "Größer als 1,5 – \"ja\"?\nZeile", "right": "yes", "all": ["no", "yes"], "meta": {"hard": 2},
     "kind": ""},
    {"key": 3, "text": "Two?", "right": "y", "all": ["x", "y", "z"], "meta": {"hard": None}, "kind": "look"},
]  # fmt: skip
COLUMNS = ColumnMap(prompt="text", answer="right", choices="all", id="key", difficulty="meta.hard", group="kind")
EXPECTED = [
    Example("q1", "One plus one?", "two", ("one", "two"), 1.5, "sum"),
    Example("q2", 'Größer als 1,5 – "ja"?\nZeile', "yes", ("no", "yes"), 2.0),
    Example("3", "Two?", "y", ("x", "y", "z"), None, "look"),
]


def _load(path: Path | list[Path], columns: ColumnMap = COLUMNS, **more: Any) -> list[Example]:
    names = [str(p) for p in path] if isinstance(path, list) else str(path)
    return load_source(SourceConfig(kind="file", path=names, columns=columns, **more), 0)


def test_jsonl_with_nested_columns(jsonl: Write) -> None:
    assert _load(jsonl(ROWS)) == EXPECTED


def test_json_list_with_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=2, ensure_ascii=False), encoding="utf-8-sig")
    assert _load(path) == EXPECTED


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_csv_holds_options_as_json(tmp_path: Path, suffix: str, delimiter: str) -> None:
    path = tmp_path / f"rows{suffix}"
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream, delimiter=delimiter)
        out.writerow(["key", "text", "right", "all", "meta.hard", "kind"])
        for row in ROWS:
            hard = row["meta"]["hard"]
            out.writerow([row["key"], row["text"], row["right"], json.dumps(row["all"]), hard, row["kind"]])
    assert _load(path) == EXPECTED


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row | {"key": str(row["key"])} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert _load(tmp_path / "rows.parquet") == EXPECTED


def test_several_files_and_a_folder_in_sorted_order(jsonl: Write, tmp_path: Path) -> None:
    second, first = jsonl(ROWS[1:], "b.jsonl"), jsonl(ROWS[:1], "a.jsonl")
    (tmp_path / "notes.txt").write_text("not data")
    assert _load(tmp_path) == EXPECTED
    assert [e.id for e in _load([second, first])] == ["q2", "3", "q1"]


def test_rows_without_id_are_numbered_by_file(jsonl: Write, tmp_path: Path) -> None:
    columns = ColumnMap(prompt="text", answer="right")
    assert [e.id for e in _load([jsonl(ROWS[:2], "easy.jsonl"), jsonl(ROWS[2:], "hard.jsonl")], columns)] == [
        "easy-1", "easy-2", "hard-1",
    ]  # fmt: skip
    (tmp_path / "other").mkdir()
    same = [jsonl(ROWS[:1], "x.jsonl"), jsonl(ROWS[1:2], "other/x.jsonl")]
    assert [e.id for e in _load(same, columns)] == ["x-1-1", "x-2-1"]


def test_level_names_and_annotations(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl([{"id": f"e{i}", "prompt": f"p{i}", "answer": "a", "level": v} for i, v in enumerate(["Low", "High"])])
    columns = ColumnMap(id="id", difficulty="level")
    assert [(e.difficulty, e.level) for e in _load(path, columns)] == [(0.0, "Low"), (2.0, "High")]
    notes = tmp_path / "annotations.json"
    notes.write_text(json.dumps({"e0": {"bloom": "Creating", "n": 7}, "unused": {"bloom": "Applying"}}))
    with_notes = _load(tmp_path, columns, annotations=str(notes), annotation_field="bloom")
    assert [(e.difficulty, e.level) for e in with_notes] == [(5.0, "Creating"), (2.0, "High")]
    assert _load(path, columns, annotations=str(notes), annotation_field="n")[0].difficulty == 7.0


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        (["x", "y"], "y", "y"),
        (["x", "y"], "B", "y"),
        (["x", "y"], 0, "x"),
        (["x", "y"], "2", "y"),
        (["x", "y"], 2.0, "y"),
        (["2", "1", "0"], "1", "1"),
        (["A", "B"], "A", "A"),
        ([10, 20], 20, "20"),
        ([True, False], False, "false"),
        ({"text": ["x", "y"], "label": ["1", "2"]}, "1", "x"),
        ([{"text": "x", "label": "P"}, {"text": "y", "label": "Q"}], "Q", "y"),
        ([{"text": "x"}, {"text": "y"}], "B", "y"),
        (["x", "y", "x"], "C", "x"),
    ],
)
def test_ways_to_name_the_answer(jsonl: Write, options: Any, answer: Any, right: str) -> None:
    columns = ColumnMap(choices="c")
    (example,) = _load(jsonl([{"prompt": "p", "answer": answer, "c": options}]), columns)
    assert example.answer == right
    assert example.choices is not None
    assert example.choices[example.answer_index] == right
    assert len(set(example.choices)) == len(example.choices)


def test_distractors_are_shuffled_by_seed_and_content(jsonl: Write) -> None:
    rows = [{"prompt": f"p{i}", "answer": "right", "w1": "a", "w2": "b", "w3": None} for i in range(400)]
    columns = ColumnMap(distractors=["w1", "w2", "w3"])
    source = SourceConfig(kind="file", path=str(jsonl(rows)), columns=columns)
    examples = load_source(source, 1)
    assert all(set(e.choices or ()) == {"right", "a", "b"} and e.answer == "right" for e in examples)
    counts = [sum(e.answer_index == place for e in examples) for place in range(3)]
    # Binomial(400, 1/3): 133 ± 9.4; six standard deviations.
    assert all(abs(count - 400 / 3) < 57 for count in counts)
    backwards = SourceConfig(kind="file", path=str(jsonl(rows[::-1], "backwards.jsonl")), columns=columns)
    assert {e.prompt: e.choices for e in load_source(backwards, 1)} == {e.prompt: e.choices for e in examples}
    assert [e.choices for e in load_source(source, 2)] != [e.choices for e in examples]


def test_which_option_is_right_does_not_change_the_order(jsonl: Write) -> None:
    columns = ColumnMap(distractors=["w1", "w2"])
    one = _load(jsonl([{"prompt": "p", "answer": "x", "w1": "y", "w2": "z"}], "1.jsonl"), columns)
    other = _load(jsonl([{"prompt": "p", "answer": "z", "w1": "x", "w2": "y"}], "2.jsonl"), columns)
    assert one[0].choices == other[0].choices


def test_limit_is_drawn_by_seed_and_keeps_the_order(jsonl: Write) -> None:
    rows = [{"prompt": f"p{i:03d}", "answer": "a"} for i in range(200)]
    path = str(jsonl(rows))
    drawn = {seed: load_source(SourceConfig(kind="file", path=path, limit=20), seed) for seed in (0, 0, 1)}
    prompts = {seed: [e.prompt for e in examples] for seed, examples in drawn.items()}
    assert len(prompts[0]) == 20
    assert prompts[0] == sorted(prompts[0]) != prompts[1]
    assert prompts[0] == [e.prompt for e in load_source(SourceConfig(kind="file", path=path, limit=20), 0)]
    smaller = [e.prompt for e in load_source(SourceConfig(kind="file", path=path, limit=10), 0)]
    assert set(smaller) < set(prompts[0]), "a smaller limit takes a part of a larger one"
    assert len(load_source(SourceConfig(kind="file", path=path, limit=999), 0)) == 200


def test_answers_may_be_missing_on_request(jsonl: Write) -> None:
    path = jsonl([{"prompt": "p1", "c": ["x", "y"]}, {"prompt": "p2", "answer": "y", "c": ["x", "y"]}])
    source = SourceConfig(kind="file", path=str(path), columns=ColumnMap(choices="c"))
    assert [e.answer for e in load_source(source, 0, answers=False)] == [None, "y"]


def test_synthetic() -> None:
    examples = load_source(SourceConfig(size=50), 3)
    assert len(examples) == len({e.id for e in examples}) == 50
    assert all(e.answer in (e.choices or ()) and e.difficulty is not None and e.group for e in examples)
    assert load_source(SourceConfig(size=50), 3) == examples
    assert load_source(SourceConfig(size=50), 4) != examples


def test_source_files(jsonl: Write, tmp_path: Path) -> None:
    path, notes = jsonl(ROWS), tmp_path / "notes.json"
    notes.write_text("{}")
    assert source_files(SourceConfig(kind="file", path=str(tmp_path), annotations=str(notes))) == [path, notes]
    assert source_files(SourceConfig()) == []


def test_columns_are_either_options_or_distractors() -> None:
    with pytest.raises(ValidationError, match="not both"):
        ColumnMap(choices="a", distractors=["b"])


# The published files.


def test_arc_raw_files(shared_data: Path) -> None:
    folder = shared_data / "arc_easy"
    annotations = folder / "annotations.json"
    source = SourceConfig(kind="arc", path=str(folder), annotations=str(annotations))
    examples = load_source(source, 0)
    raw: dict[str, Any] = {}
    for name in ("Dev", "Test", "Train"):
        for line in (folder / f"ARC-Easy-{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            raw[row["id"]] = row
    notes = json.loads(annotations.read_text(encoding="utf-8"))
    assert [e.id for e in examples] == list(raw)
    assert len(examples) == 2251 + 570 + 2376
    for example in examples:
        question = raw[example.id]["question"]
        by_label = {c["label"]: c["text"] for c in question["choices"]}
        assert example.prompt == question["stem"]
        assert example.choices == tuple(by_label.values())
        assert example.answer == by_label[raw[example.id]["answerKey"]]
        level = notes.get(example.id, {}).get("difficulty", "")
        assert example.level == level
        assert example.difficulty == {"Low": 0.0, "Medium": 1.0, "High": 2.0}.get(level)
    assert {len(e.choices or ()) for e in examples} == {3, 4, 5}


def test_arc_hub_rows_give_the_same_examples(shared_data: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw_file = shared_data / "arc_easy" / "ARC-Easy-Dev.jsonl"
    rows = [json.loads(line) for line in raw_file.read_text(encoding="utf-8").splitlines()]
    hub = [
        {
            "id": row["id"],
            "question": row["question"]["stem"],
            "choices": {
                "text": [c["text"] for c in row["question"]["choices"]],
                "label": [c["label"] for c in row["question"]["choices"]],
            },
            "answerKey": row["answerKey"],
        }
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(hub), tmp_path / "validation-00000-of-00001.parquet")
    assert load_source(SourceConfig(kind="arc", path=str(tmp_path)), 0) == load_source(
        SourceConfig(kind="arc", path=str(raw_file)), 0
    )


def test_sciq_raw_file(shared_data: Path) -> None:
    file = shared_data / "sciq" / "valid.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    examples = load_source(SourceConfig(kind="sciq", path=str(file.parent)), 0)
    assert len(examples) == len(rows) == 1000
    for example, row in zip(examples, rows, strict=True):
        assert example.prompt == row["question"].strip()
        assert example.answer == row["correct_answer"].strip()
        expected = {row[k].strip() for k in ("correct_answer", "distractor1", "distractor2", "distractor3")}
        assert set(example.choices or ()) == expected
    first = sum(e.answer_index == 0 for e in examples)
    assert 170 < first < 330, "binomial(1000, 1/4): 250 ± 14"
    with_support = load_source(SourceConfig(kind="sciq", path=str(file), support=True), 0)
    for example, row in zip(with_support, rows, strict=True):
        passage = row["support"].strip()
        assert example.prompt == (f"{passage}\n{row['question'].strip()}" if passage else row["question"].strip())


def test_gsm8k_raw_files(shared_data: Path) -> None:
    examples = load_source(SourceConfig(kind="gsm8k", path=str(shared_data / "gsm8k")), 0)
    assert len(examples) == 4600
    by_id = {e.id: e for e in examples}
    first = by_id["train-1"]
    assert first.answer == (
        "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether in April and May.\n#### 72"
    )
    assert first.difficulty == 2.0
    assert first.choices is None
    rows = [json.loads(s) for s in (shared_data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows, start=1):
        example = by_id[f"train-{number}"]
        answer = example.answer or ""
        assert "<<" not in answer
        assert answer.rsplit("#### ", 1)[1] == row["answer"].rsplit("#### ", 1)[1].strip()
        steps = [line for line in row["answer"].splitlines() if line.strip() and not line.startswith("####")]
        assert example.difficulty == answer.count("\n") == len(steps)

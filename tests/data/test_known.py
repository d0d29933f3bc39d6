"""Rows as the known data sets publish them, raw and on the hub, become the same examples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ensemw2s.config.data import SourceConfig
from ensemw2s.data.hub import hub_set, is_hub
from ensemw2s.data.known import HubSet, KnownSet
from ensemw2s.data.sources import load_source
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.registry import DATA_SETS

PAIR = [{"text": "Longer", "label": "A"}, {"text": "Shorter", "label": "B"}]
BOTH = {"text": ["Longer", "Shorter"], "label": ["A", "B"]}


def jsonl(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def parquet(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / name)
    return folder


def load(kind: str, path: Path, **keywords: Any) -> list[Any]:
    return load_source(SourceConfig(kind=kind, path=str(path), **keywords), 0)


QUARTZ = {"id": "q1", "para": "A higher SPF protects longer.", "answerKey": "B"}
OPENBOOK = {"id": "q1", "answerKey": "B"}
COMMON = {"id": "q1", "answerKey": "B"}
RAW_AND_HUB: dict[str, tuple[str, list[dict[str, Any]], str, list[dict[str, Any]]]] = {
    "arc_easy": (
        "ARC-Easy-Test.jsonl",
        [{**COMMON, "question": {"stem": "How long?", "choices": PAIR}}],
        "ARC-Easy/test-00000-of-00001.parquet",
        [{**COMMON, "question": "How long?", "choices": BOTH}],
    ),
    "arc_challenge": (
        "ARC-Challenge-Dev.jsonl",
        [{**COMMON, "question": {"stem": "How long?", "choices": PAIR}}],
        "ARC-Challenge/validation-00000-of-00001.parquet",
        [{**COMMON, "question": "How long?", "choices": BOTH}],
    ),
    "quartz": (
        "dev.jsonl",
        [{**QUARTZ, "question": {"stem": "How long?", "choices": PAIR}}],
        "data/validation-00000-of-00001.parquet",
        [{**QUARTZ, "question": "How long?", "choices": BOTH}],
    ),
    "commonsenseqa": (
        "dev_rand_split.jsonl",
        [{**COMMON, "question": {"stem": "How long?", "question_concept": "time", "choices": PAIR}}],
        "data/validation-00000-of-00001.parquet",
        [{**COMMON, "question": "How long?", "question_concept": "time", "choices": BOTH}],
    ),
    "openbookqa": (
        "test.jsonl",
        [{**OPENBOOK, "question": {"stem": "How long?", "choices": PAIR}}],
        "main/test-00000-of-00001.parquet",
        [{**OPENBOOK, "question_stem": "How long?", "choices": BOTH}],
    ),
}


@pytest.mark.parametrize("kind", RAW_AND_HUB)
def test_raw_and_hub_rows_are_the_same_examples(kind: str, tmp_path: Path) -> None:
    raw_name, raw, hub_name, hub = RAW_AND_HUB[kind]
    jsonl(tmp_path / "raw", raw_name, *raw)
    file = tmp_path / "hub" / hub_name
    parquet(file.parent, file.name, *hub)
    (example,) = load(kind, tmp_path / "raw")
    assert load(kind, tmp_path / "hub") == [example]  # a download from the hub, as a folder
    assert (example.id, example.answer, example.choices) == ("q1", "Shorter", ("Longer", "Shorter"))
    passage = "A higher SPF protects longer.\n" if kind == "quartz" else ""
    assert example.prompt == f"{passage}How long?"


def test_splits_whose_answers_are_withheld(tmp_path: Path) -> None:
    row = {"id": "q1", "answerKey": "", "question": {"stem": "How long?", "choices": PAIR}}
    path = jsonl(tmp_path, "test_rand_split_no_answers.jsonl", row)
    with pytest.raises(DataError, match=r"jsonl:1: the answer is empty\..*") as caught:
        load("commonsenseqa", path / "test_rand_split_no_answers.jsonl")
    assert "ew2s label" in str(caught.value.hint)
    source = SourceConfig(kind="commonsenseqa", path=str(path / "test_rand_split_no_answers.jsonl"))
    assert [e.answer for e in load_source(source, 0, answers=False)] == [None]


def test_passages_are_put_before_the_question_where_they_are_wanted(tmp_path: Path) -> None:
    path = jsonl(tmp_path, "test.jsonl", {**QUARTZ, "question": {"stem": "How long?", "choices": PAIR}})
    assert load("quartz", path, support=False)[0].prompt == "How long?"
    row = {**OPENBOOK, "question": {"stem": "How long?", "choices": PAIR}, "fact1": "Time passes."}
    path = jsonl(tmp_path / "book", "test_complete.jsonl", row)
    assert load("openbookqa", path)[0].prompt == "How long?"
    assert load("openbookqa", path, support=True)[0].prompt == "Time passes.\nHow long?"
    with pytest.raises(DataError, match="fact1"):
        load("openbookqa", jsonl(tmp_path / "main", "test.jsonl", RAW_AND_HUB["openbookqa"][1][0]), support=True)


def test_boolq(tmp_path: Path) -> None:
    rows = [
        {"question": "is the sky blue", "title": "Sky", "answer": True, "passage": "It is blue."},
        {"question": "is it green?", "title": "Sky", "answer": False, "passage": "It is blue."},
    ]
    raw = load("boolq", jsonl(tmp_path / "raw", "dev.jsonl", *rows))
    hub = [{key: row[key] for key in ("question", "answer", "passage")} for row in rows]
    assert [e.prompt for e in raw] == ["It is blue.\nis the sky blue?", "It is blue.\nis it green?"]
    assert [(e.answer, e.choices) for e in raw] == [("yes", ("yes", "no")), ("no", ("yes", "no"))]
    found = load("boolq", parquet(tmp_path / "hub" / "data", "validation-00000-of-00001.parquet", *hub).parent)
    assert [(e.prompt, e.answer) for e in found] == [(e.prompt, e.answer) for e in raw]
    assert load("boolq", tmp_path / "raw", support=False)[0].prompt == "is the sky blue?"
    with pytest.raises(DataError, match="must be true or false, got 'maybe'"):
        load("boolq", jsonl(tmp_path / "bad", "dev.jsonl", {**rows[0], "answer": "maybe"}))
    unknown = SourceConfig(kind="boolq", path=str(jsonl(tmp_path / "test", "dev.jsonl", {**rows[0], "answer": None})))
    (example,) = load_source(unknown, 0, answers=False)
    assert (example.answer, example.choices) == (None, ("yes", "no"))


def test_mmlu(tmp_path: Path) -> None:
    folder = tmp_path / "test"
    folder.mkdir()
    lines = '"1 + 0?",0,1,2,3,B\n"What is ""x""?","a, b",c,d,e,A\n'
    (folder / "college_mathematics_test.csv").write_text(lines)
    first, second = load("mmlu", folder)
    assert (first.prompt, first.choices, first.answer) == ("1 + 0?", ("0", "1", "2", "3"), "1")
    assert (second.prompt, second.answer, second.group) == ('What is "x"?', "a, b", "college mathematics")
    rows = [
        {"question": e.prompt, "subject": "college_mathematics", "choices": list(e.choices), "answer": e.answer_index}
        for e in (first, second)
    ]
    hub = load("mmlu", parquet(tmp_path / "hub" / "all", "test-00000-of-00001.parquet", *rows).parent)
    assert [(e.prompt, e.choices, e.answer, e.group) for e in hub] == [
        (e.prompt, e.choices, e.answer, e.group) for e in (first, second)
    ]
    (folder / "college_mathematics_test.csv").write_text("What?,a,b,c,d,E\n")
    with pytest.raises(DataError, match=r"_test\.csv:1: the answer must be a letter or an index of the 4 options"):
        load("mmlu", folder)


def test_amazon_polarity(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text('"2","Great","Works ""well""."\n"1","","Broke."\n')
    good, bad = load("amazon_polarity", tmp_path)
    assert (good.prompt, good.answer, good.choices) == ('Great\nWorks "well".', "positive", ("negative", "positive"))
    assert (bad.prompt, bad.answer) == ("Broke.", "negative")
    rows = [
        {"label": 1, "title": "Great", "content": 'Works "well".'},
        {"label": 0, "title": "", "content": "Broke."},
    ]
    hub = load("amazon_polarity", parquet(tmp_path / "hub" / "data", "test-00000-of-00001.parquet", *rows).parent)
    assert [(e.prompt, e.answer) for e in hub] == [(e.prompt, e.answer) for e in (good, bad)]
    (tmp_path / "test.csv").write_text('"3","Great","Works."\n')
    with pytest.raises(DataError, match="the label must be 1 or 2"):
        load("amazon_polarity", tmp_path)


def test_every_known_data_set_is_read_from_the_hub_and_from_files() -> None:
    hub = {kind: DATA_SETS.get(kind).hub for kind in DATA_SETS.builtin}
    assert [kind for kind, place in hub.items() if place is None] == ["arc"]
    for kind in set(hub) - {"arc"}:
        cfg = SourceConfig(kind=kind)
        assert is_hub(cfg)
        assert hub_set(cfg) == hub[kind]
        assert not is_hub(SourceConfig(kind=kind, path="somewhere"))


def test_what_a_hub_source_needs() -> None:
    other = hub_set(SourceConfig(kind="sciq", hub="me/sciq-copy", hub_splits=["test"]))
    assert (other.repository, other.subset, other.splits) == ("me/sciq-copy", None, ("test",))
    assert hub_set(SourceConfig(kind="arc_easy", hub="me/arc")).subset is None
    with pytest.raises(ConfigError, match=r"needs data\.source\.hub_splits"):
        hub_set(SourceConfig(kind="file", hub="me/data"))
    for wrong, message in (
        ({"kind": "sciq", "path": "x", "revision": "v1"}, "revision belongs to a hub data set"),
        ({"kind": "file", "subset": "x"}, "subset needs the name of a hub data set"),
        ({"kind": "arc", "revision": "v1"}, "revision needs the name of a hub data set"),
        ({"kind": "synthetic", "hub_splits": ["a"]}, "hub_splits needs the name of a hub data set"),
        ({"kind": "synthetic", "hub": "me/data"}, "kind: synthetic is not on the hub"),
    ):
        with pytest.raises(ValidationError, match=message):
            SourceConfig.model_validate(wrong)


def test_a_set_of_a_plug_in_says_whether_it_lies_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    added = {"here": KnownSet(lambda row, context: None, ("*.jsonl",))}
    added["there"] = replace(added["here"], hub=HubSet("me/data", "main"))
    for name, known in added.items():
        monkeypatch.setitem(DATA_SETS._added, name, known)
    with pytest.raises(ValidationError, match="subset needs the name of a hub data set"):
        SourceConfig(kind="here", subset="other")
    assert hub_set(SourceConfig(kind="there", subset="other")).subset == "other"

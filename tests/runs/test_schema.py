"""The schema, its validator and its documentation agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.runs.schema import EVENTS, HARD_TOKEN_EXAMPLE, METRICS, PLAN_RECORD, validate

DOCS = Path(__file__).parents[2] / "docs" / "events.md"
SAMPLES: dict[str, Any] = {
    "any": {"x": 1},
    "str": "a",
    "int": 1,
    "float": 0.5,
    "bool": True,
    "object": {"a": 1},
    "level": "info",
    "list[str]": ["a"],
    "list[float?]": [0.5, None],
    "list[float]": [0.5],
    "list[object]": [],
}
ALL = [("events", kind) for kind in EVENTS] + [("metrics", kind) for kind in METRICS]


def _sample(stream: str, kind: str) -> dict[str, Any]:
    fields = (EVENTS if stream == "events" else METRICS)[kind]
    body = {name: SAMPLES[spec.removeprefix("~").removesuffix("?")] for name, spec in fields.items()}
    return {"v": 1, "t": 1.5, "kind": kind, **body}


@pytest.mark.parametrize(("stream", "kind"), ALL)
def test_each_kind_is_checked_field_by_field(stream: str, kind: str) -> None:
    good = _sample(stream, kind)
    assert validate(good, stream) == []
    for name, spec in (EVENTS if stream == "events" else METRICS)[kind].items():
        rest = {key: value for key, value in good.items() if key != name}
        assert bool(validate(rest, stream)) is not spec.startswith("~"), f"{name} missing"
        assert bool(validate({**good, name: None}, stream)) is not (spec.endswith("?") or spec == "any")
        if spec != "any":
            assert validate({**good, name: object()}, stream), f"{name} of a wrong type"
    assert "not in the schema" in validate({**good, "extra": 1}, stream)[0]


def test_the_frame_of_a_line_is_checked() -> None:
    assert validate([], "events")
    assert "unknown kind" in validate({"v": 1, "t": 1, "kind": "nope"}, "events")[0]
    assert "unknown kind" in validate(_sample("metrics", "train"), "events")[0]
    assert len(validate({"v": "1", "t": None, "kind": "run_finished", "seconds": True}, "events")) == 3


def test_hard_tokens_are_checked_inside() -> None:
    example = {"id": "a", "prompt": "p", "tokens": ["1"], "weights": [0.1], "wrong": [0], "predicted": ["2"]}
    line = {"v": 1, "t": 1, "kind": "hard_tokens", "round": 1, "examples": [example]}
    assert validate(line) == []
    assert "examples[0]" in validate({**line, "examples": [{**example, "weights": ["x"]}]})[0]


def test_every_kind_and_field_is_documented() -> None:
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", DOCS.read_text(encoding="utf-8"), re.M | re.S))
    assert set(sections) == {kind for _, kind in ALL}
    for kind, fields in {**EVENTS, **METRICS}.items():
        documented = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", sections[kind], re.M))
        assert {name: spec.strip() for name, spec in documented.items()} == fields, kind
    for kind, fields in (("hard_tokens", HARD_TOKEN_EXAMPLE), ("plan", PLAN_RECORD)):
        assert [name for name in fields if f"`{name}" not in sections[kind]] == []

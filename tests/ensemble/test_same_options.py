"""Options that no model tells apart: no order and no number of threads decides between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.config.data import ColumnMap, SourceConfig
from ensemw2s.config.method import CombineConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble import Ensemble
from ensemw2s.ensemble.lm_eval_task import write_task
from ensemw2s.errors import DataError
from ensemw2s.sink import NullSink


class Messages(NullSink):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def event(self, kind: str, **fields: Any) -> None:
        if kind == "message":
            self.texts.append(f"{fields['level']}: {fields['text']}")


def _questions(n: int) -> list[Example]:
    """Half of them with two unknown characters among the options."""
    twins = [Example(f"twin {i}", f"{i} + 1", "日", ("日", "3", "中")) for i in range(n)]
    return twins + [Example(f"fine {i}", f"{i} + 2", "4", ("4", "5", "1 2")) for i in range(n)]


def _turned(examples: list[Example]) -> list[Example]:
    return [Example(e.id, e.prompt, e.answer, (e.choices or ())[::-1]) for e in examples]


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
def test_the_label_depends_on_neither_order_nor_batch(model_folders: list[Path], rule: str) -> None:
    told = Messages()
    labels = []
    for examples in (_questions(12), _turned(_questions(12)), _questions(12)[::-1]):
        for tokens in (64, 4096):
            compute = ComputeConfig(device="cpu", threads=1, batch_tokens=tokens)
            ensemble = Ensemble(
                model_folders[:2],
                [0.7, 0.3],
                config=CombineConfig(rule=rule),
                compute=compute,  # type: ignore[arg-type]
            )
            rows = ensemble.score(examples, told)
            labels.append({row["id"]: row["label"] for row in rows})
            for row, example in zip(rows, examples, strict=True):
                assert row.get("indistinct", False) is example.id.startswith("twin")
                assert ("correct" in row) is not example.id.startswith("twin")
                if "indistinct" in row:
                    by_text = dict(zip(example.choices or (), row["scores"], strict=True))
                    if row["label"] != "3":
                        assert row["margin"] == 0.0 or rule == "vote"
                    assert by_text["日"] == by_text["中"] or rule == "vote"
    assert all(found == labels[0] for found in labels)
    assert "warning: 12 of 24 questions (the first is 'twin 0') have options with the same tokens" in told.texts[0]


def test_evaluation_leaves_them_out(model_folders: list[Path], tmp_path: Path) -> None:
    from ensemw2s.tasks.use_ensemble import evaluate_file

    compute = ComputeConfig(device="cpu", threads=1)
    folder = Ensemble(model_folders[:2], [0.7, 0.3], compute=compute).save(tmp_path / "ensemble").parent
    columns = ColumnMap(choices="choices", id="id")

    def evaluate(examples: list[Example]) -> dict[str, Any]:
        file = tmp_path / "questions.jsonl"
        file.write_text("".join(json.dumps(e.to_json()) + "\n" for e in examples), encoding="utf-8")
        source = SourceConfig(kind="file", path=str(file), columns=columns)
        return evaluate_file(folder, source, compute=compute)

    found = evaluate(_questions(10))
    assert (found["n"], found["left_out"]) == (10, 10)
    assert evaluate(_turned(_questions(10))) == found
    assert evaluate(_questions(10)[10:]) == {**found, "left_out": 0}
    with pytest.raises(DataError, match="All 10 questions have options with the same tokens"):
        evaluate(_questions(10)[:10])
    ensemble = Ensemble.load(folder, compute)
    assert write_task(ensemble, _questions(10), tmp_path / "task", "mine") == 10
    with pytest.raises(DataError, match="Every question has options with the same tokens"):
        write_task(ensemble, _questions(10)[:10], tmp_path / "none", "mine")

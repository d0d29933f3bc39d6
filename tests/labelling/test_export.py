"""Labels as a data set folder: what ``datasets`` reads, and what the card says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml

from ensemw2s.data.example import Example
from ensemw2s.errors import DataError
from ensemw2s.evaluation.results import LabelResult
from ensemw2s.labelling.export import Origin, Provenance, export_labels
from ensemw2s.labelling.labels import Labels

QUESTIONS = [Example(id=f"q{i}", prompt=f"{i}?", answer="secret", choices=("a", "secret", "b")) for i in range(20)]
ORIGIN = Origin(
    title="My labels",
    task="choice",
    weak="me/weak",
    source="arc, `arc_easy` (the hard pool of the run)",
    seed=7,
    fingerprint="0123456789abcdef0123",
    versions={"torch": "2.0"},
)


def labels_of(teacher: str, count: int = 20) -> Labels:
    rng = np.random.default_rng(count)
    return Labels(
        teacher=teacher,
        ids=[f"q{i}" for i in range(count)],
        texts=["a", "b"] * (count // 2),
        token_ids=[np.array([1, 2], dtype=np.int32)] * count,
        options=np.array([0, 2] * (count // 2), dtype=np.int64),
        confidence=rng.uniform(size=count),
        margin=rng.uniform(size=count),
        agreement=np.ones(count),
        ended=np.ones(count, dtype=np.bool_),
    )


def provenance(**changes: Any) -> Provenance:
    return Provenance(**{"alphas": [1.5, 0.5], "rule": "mixture", "length_norm": "mean", **changes})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_datasets_reads_the_folder(tmp_path: Path) -> None:
    teachers = {"ensemble": labels_of("ensemble"), "single": labels_of("single", 10)}
    measured = LabelResult(n=20, kept=15, mean_confidence=0.5, mean_agreement=1.0, accuracy=0.6, low=0.4, high=0.8)
    known = {"ensemble": provenance(result=measured), "single": provenance(alphas=[1.0])}
    folder = tmp_path / "out"
    folder.mkdir()
    assert export_labels(teachers, QUESTIONS, known, ORIGIN, folder) == {"ensemble": 20, "single": 10}
    found = datasets.load_dataset(str(folder), split="train")
    assert len(found) == 20
    assert found[1]["id"] == "q1"
    assert found[1]["prompt"] == "1?"
    assert found[1]["choices"] == ["a", "secret", "b"]
    assert (found[1]["label"], found[1]["option"]) == ("b", 2)
    assert found["confidence"][:] == teachers["ensemble"].confidence.tolist()
    assert len(datasets.load_dataset(str(folder), "single", split="train")) == 10
    assert "answer" not in found.column_names
    card = (folder / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n")[1])
    assert [c["config_name"] for c in header["configs"] if c.get("default")] == ["ensemble"]
    assert "| ensemble | 2 (1.500, 0.500) | mixture | 20 | 15 | 60.0 % [40.0, 80.0] |" in card
    assert "| single | 1 (1.000) | mixture | 10 |  |  |" in card
    assert "seed 7, configuration `0123456789abcdef`" in card
    for field in found.column_names:
        assert f"| `{field}` |" in card
    assert not list(folder.rglob("*.tmp"))


def test_written_answers_have_no_choices(tmp_path: Path) -> None:
    questions = [Example(id=e.id, prompt=e.prompt, answer=None) for e in QUESTIONS]
    export_labels({"ensemble": labels_of("ensemble")}, questions, {"ensemble": provenance()}, ORIGIN, tmp_path)
    found = datasets.load_dataset(str(tmp_path), split="train")
    assert found[0]["choices"] is None
    assert "secret" not in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_labels_of_other_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'q5' that is not in the data"):
        export_labels({"e": labels_of("e")}, QUESTIONS[:5], {"e": provenance()}, ORIGIN, tmp_path)

"""A run whose weak base is the first layers of the strong one, with adapters for experts and students."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ensemw2s.data.store import read_splits
from ensemw2s.ensemble import Ensemble
from ensemw2s.pipeline.run import execute


def test_experts_are_adapters_over_the_first_layers(tmp_path: Path, mini_config: Any, recorder: Any) -> None:
    settings = {
        "models.weak": {"path": "embedded:strong", "keep_layers": 2},
        "training.expert.lora": {"r": 4, "last_layers": 1},
        "training.student.lora": {"r": 4, "last_layers": 2},
        "arms.bagging": False,
        "arms.plain": False,
        "arms.students": ["ensemble"],
    }
    results = execute(mini_config(**settings), tmp_path / "run", sink=recorder, report=False)
    assert [
        event["text"].partition(": ")[2] for event in recorder.of("message") if "hidden states" in event["text"]
    ] == [
        "the hidden states that enter layer 2 are computed once for each text.",
        "the hidden states that enter layer 3 are computed once for each text.",
    ]
    assert not (tmp_path / "run" / "trunk").exists()
    models = results["models"]
    assert models["weak"]["parameters"] < models["strong"]["parameters"]
    expert = tmp_path / "run" / "experts" / "round-01" / "model"
    assert json.loads((expert / "base_model.json").read_text()) == {"keep_layers": 2}
    assert not (tmp_path / "run" / "student" / "ensemble" / "model" / "base_model.json").exists()
    test = read_splits(tmp_path / "run" / "data").test
    rows = Ensemble.load(tmp_path / "run").score(test)
    assert np.mean([row["correct"] for row in rows]) == results["arms"]["ensemble"]["test"]["accuracy"]

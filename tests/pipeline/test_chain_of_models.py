"""Chains of models (docs/chains.md): the student of one run is the weak base of the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import ensemw2s.stage_names as stage
from ensemw2s.models.inference.score_table import ScoreTable
from ensemw2s.models.loading.fingerprint import model_fingerprint
from ensemw2s.pipeline.run import execute
from ensemw2s.sink import NullSink


def test_a_student_is_the_next_weak_base_and_teaches_as_it_is(finished, mini_config, tmp_path: Path) -> None:
    student = finished[0] / "student/ensemble"
    config = mini_config(
        **{
            "models.weak.path": str(student / "model"),
            "boosting.rounds": 1,
            "training.expert.steps": 1,
            "training.expert.learning_rate": 1e-9,
            "arms.bagging": False,
            "arms.students": ["ensemble"],
        }
    )
    first = model_fingerprint(config.models.weak)
    execute(config, tmp_path, sink=NullSink(), until="labels")
    assert model_fingerprint(config.models.weak) == first
    for split in ("test", "hard_test"):
        before = ScoreTable.load(student / "scores" / split).target_logprob
        base = ScoreTable.load(tmp_path / stage.zero_shot("weak") / "scores" / split).target_logprob
        np.testing.assert_array_equal(base, before)
    old = load_file(student / "model/model.safetensors")
    new = load_file(tmp_path / "experts/round-01/model/model.safetensors")
    assert old.keys() == new.keys()
    assert max(float(np.abs(new[name] - old[name]).max()) for name in old) <= 1e-8
    assert (tmp_path / "labels/ensemble/labels.parquet").exists()

"""``steps: auto`` and ``learning_rate: auto``: the search by itself, and in a small run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ensemw2s.config.training import LoraConfig, TrainingConfig, TrainingSettings
from ensemw2s.models.inference.score_table import ScoreTable
from ensemw2s.pipeline.plan import plan
from ensemw2s.pipeline.run import execute
from ensemw2s.pipeline.tuning import search
from ensemw2s.sink import NullSink


def curve(values):
    """Log-likelihood by number of steps, whatever the rate."""
    return lambda steps, rate: values[steps]


@pytest.mark.parametrize(
    ("values", "most", "found", "tried"),
    [
        ({10: -2.0, 20: -1.5, 40: -1.2, 80: -1.195}, 1000, 40, [10, 20, 40, 80]),  # gains too little
        ({10: -2.0, 20: -1.5, 40: -1.6}, 1000, 20, [10, 20, 40]),  # gets worse
        ({10: -2.0, 20: -2.5}, 1000, 10, [10, 20]),
        ({10: -2.0, 20: -1.5, 40: -1.0}, 79, 40, [10, 20, 40]),  # the limit
        ({10: -2.0}, 10, 10, [10]),
        ({7: -2.0}, 7, 7, [7]),  # less than a pass
    ],
)
def test_steps_are_doubled_while_that_helps(values, most, found, tried):
    settings = TrainingSettings(steps="auto", max_steps=most)
    steps, rate, trail = search(settings, 10, curve(values))
    assert (steps, rate, [one.steps for one in trail]) == (found, 1e-3, tried)


def test_the_rate_is_chosen_first():
    def score(steps, rate):
        return -abs(np.log10(rate) + 4) - 10 / steps

    steps, rate, trail = search(TrainingSettings(steps="auto", learning_rate="auto", max_steps=200), 25, score)
    assert (steps, rate) == (200, 1e-4)
    assert [(one.steps, one.learning_rate) for one in trail] == [
        (25, 1e-5), (25, 1e-4), (25, 1e-3), (50, 1e-4), (100, 1e-4), (200, 1e-4),
    ]  # fmt: skip
    steps, rate, trail = search(TrainingSettings(steps=30, learning_rate="auto", lora=LoraConfig()), 25, score)
    assert (steps, rate) == (30, 1e-4)
    assert [one.learning_rate for one in trail] == [1e-4, 3e-4, 1e-3]


def test_numbers_are_taken_as_they_are():
    def never(*_):
        raise AssertionError

    assert search(TrainingSettings(steps=12, learning_rate=0.5), 3, never) == (12, 0.5, [])
    assert TrainingSettings(steps=12).fixed() == TrainingConfig(steps=12)


def test_a_run_finds_its_steps_on_validation(mini_config, tmp_path):
    """Both sides, with the numbers recomputed from the kept scores; all arms of a side take what was found."""
    settings = {"steps": "auto", "max_steps": 40, "batch_size": 16, "learning_rate": 2e-3}
    changes = {"training": {"expert": settings, "student": settings}, "arms.bagging": False}
    config = mini_config(**changes, **{"arms.students": ["plain"], "arms.plain_long": True})
    results = execute(config, tmp_path / "run", sink=NullSink(), report=False)
    planned = {record.name: record for record in plan(config)}
    for side in ("weak", "strong"):
        means = []
        for trial in sorted((tmp_path / "run/tuning" / side).iterdir()):
            steps = json.loads((trial / "trained.json").read_text(encoding="utf-8"))["steps"]
            table = ScoreTable.load(trial / "scores/validation")
            means.append((steps, table))
            assert planned[trial.relative_to(tmp_path / "run").as_posix()].steps >= steps
        assert [steps for steps, _ in means] == [8, 16, 32][: len(means)]  # 120 sequences in batches of 16
        note = next(note for note in results["notes"] if f"the {side} base" in note)
        chosen = int(note.split(": ")[1].split()[0])
        likelihoods = [float(part.split(": ")[1].rstrip(").")) for part in note.split("token: ")[1].split("; ")]
        best = 0
        while best + 1 < len(likelihoods) and likelihoods[best + 1] >= likelihoods[best] + 0.01:
            best += 1
        assert chosen == means[best][0]
        names = {"weak": "experts/round-02", "strong": "ceiling"}
        trained = json.loads((tmp_path / "run" / names[side] / "trained.json").read_text(encoding="utf-8"))
        assert trained["steps"] == chosen
        if side == "weak":
            long = json.loads((tmp_path / "run/baselines/plain-long/trained.json").read_text(encoding="utf-8"))
            assert long["steps"] == 2 * chosen
    again = execute(config, tmp_path / "run", sink=NullSink(), report=False)
    assert again["arms"] == results["arms"]

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from ensemw2s.evaluation.build import build_comparisons
from ensemw2s.evaluation.metrics import summarise
from ensemw2s.evaluation.results import LabelResult, Results
from ensemw2s.evaluation.sampling import Answers

ACCURACY = {
    "plain": (0.70, 0.45),
    "bagging": (0.73, 0.47),
    "ensemble": (0.74, 0.48),
    "ensemble_equal": (0.735, 0.475),
    "student_plain": (0.80, 0.55),
    "student_bagging": (0.81, 0.56),
    "student_ensemble": (0.82, 0.58),
    "ceiling": (0.92, 0.80),
}


def draw_correct(seed, accuracy=None, n=(300, 250)):
    """Right and wrong for every arm, from one difficulty a question and each arm's own luck."""
    rng = np.random.default_rng(seed)
    accuracy = ACCURACY if accuracy is None else accuracy
    shared = [rng.standard_normal(size) for size in n]
    return {
        arm: {
            split: ndtr(np.sqrt(0.8) * shared[k] + np.sqrt(0.2) * rng.standard_normal(n[k])) < target[k]
            for k, split in enumerate(("test", "hard_test"))
        }
        for arm, target in accuracy.items()
    }


@pytest.fixture
def correct():
    return draw_correct(0)


@pytest.fixture
def make_answers():
    """The answers behind ``make_results``; every seed has questions of its own."""

    def make(seed, accuracy=None):
        correct = draw_correct(seed, accuracy)
        sizes = {split: len(right) for split, right in next(iter(correct.values())).items()}
        return Answers(correct, {split: [f"{seed}-{i}" for i in range(n)] for split, n in sizes.items()})

    return make


@pytest.fixture
def make_results():
    def make(seed, **changes):
        correct = draw_correct(seed, changes.pop("accuracy", None))
        found = build_comparisons(correct)
        fields = {
            "name": "toy",
            "seed": seed,
            "task": "choice",
            "config_fingerprint": "0" * 16,
            "arms": {arm: {s: summarise(v) for s, v in splits.items()} for arm, splits in correct.items()},
            "differences": found.differences,
            "pgr": found.pgr,
            "labels": {
                "ensemble": LabelResult(
                    n=700, kept=700, mean_confidence=0.7, mean_agreement=0.9, accuracy=0.5 + seed / 100
                )
            },
            "selected_rounds": {"boosting": 3 + seed},
            "times": {"experts": 12.5, "student": 7.25},
        }
        return Results(**(fields | changes))

    return make

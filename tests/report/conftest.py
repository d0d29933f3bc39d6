from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import ndtr

from ensemw2s.evaluation.build import build_comparisons
from ensemw2s.evaluation.calibration import expected_calibration_error
from ensemw2s.evaluation.cost import ArmCost, StageMemory, stage_cost
from ensemw2s.evaluation.disagreement import disagreement, shared_errors
from ensemw2s.evaluation.metrics import summarise, token_accuracy
from ensemw2s.evaluation.over_seeds import aggregate
from ensemw2s.evaluation.reliability import reliability
from ensemw2s.evaluation.results import GroupCoverage, LabelResult, ModelInfo, Results, RoundResult, RoundScore
from ensemw2s.report.plots import run_plots

SPLITS = {"test": 400, "hard_test": 400}
#: Chance of a right answer on ID and OOD: what a run of the embedded preset looks like.
ACCURACY = {
    "weak_zero_shot": (0.27, 0.25),
    "plain": (0.72, 0.44),
    "expert_2": (0.68, 0.43),
    "bagging": (0.75, 0.46),
    "bagging_equal_rounds": (0.745, 0.455),
    "ensemble_equal": (0.75, 0.46),
    "ensemble": (0.76, 0.49),
    "strong_zero_shot": (0.31, 0.26),
    "student_plain": (0.74, 0.50),
    "student_bagging": (0.75, 0.52),
    "student_ensemble": (0.77, 0.57),
    "ceiling": (0.95, 0.91),
}


class World:
    """Questions with a difficulty each; an arm has a question right where its luck and its skill exceed it."""

    def __init__(self, seed, sizes=None):
        self.rng = np.random.default_rng(seed)
        self.sizes = SPLITS if sizes is None else sizes
        self.shared = {split: self.rng.standard_normal(n) for split, n in self.sizes.items()}
        self.offsets = {split: np.cumsum([0, *self.rng.integers(1, 7, size=n)]) for split, n in self.sizes.items()}

    def correct(self, split, accuracy):
        shared = self.shared[split]
        return ndtr(np.sqrt(0.75) * shared + 0.5 * self.rng.standard_normal(shared.size)) < accuracy

    def tokens(self, split, right):
        """Token outcomes: all right where the answer is, most of them where it is not."""
        offsets = self.offsets[split]
        whole = np.repeat(right, np.diff(offsets))
        found = whole | (self.rng.random(whole.size) < 0.6)
        return token_accuracy(found, offsets, level=0.95, resamples=200, seed=1)


def rounds(world, final, total, *, boosted, start=(0.72, 0.44)):
    """Members that are as good as the first, and an ensemble that creeps up to its final accuracy."""
    out = []
    for t in range(1, total + 1):
        share = 1.0 - 0.55 ** (t - 1)
        splits = {}
        for k, split in enumerate(SPLITS):
            own = start[k] - (0.03 if boosted else 0.0) * (t > 1) + 0.012 * world.rng.standard_normal()
            so_far = own if t == 1 else start[k] + share * (final[k] - start[k]) + 0.004 * world.rng.standard_normal()
            splits[split] = RoundScore(
                expert_accuracy=round(own, 4),
                ensemble_accuracy=round(so_far, 4),
                expert_token_accuracy=round(own + 0.1, 4),
                ensemble_token_accuracy=round(so_far + 0.1, 4),
            )
        if boosted:
            epsilon = 0.17 + 0.06 * (t - 1) ** 0.8
            prior = 0.78
            alpha = float(np.log(prior / (1 - prior)) - np.log(epsilon / (1 - epsilon)))
            extra = {
                "epsilon": epsilon,
                "epsilon_raw": epsilon,
                "epsilon_prior": prior,
                "n_eff": 6000.0 / t,
                "top1_share": 0.02 * t,
            }
        else:
            alpha, extra = 1.0, {}
        out.append(RoundResult(round=t, splits=splits, alpha=alpha, **extra))
    return out


def beyond(world, correct, labels):
    """Answers that fit who is right, and what they show: errors of four options, a third of them on one lure."""
    answers = {}
    for arm, by_split in correct.items():
        for split, right in by_split.items():
            wrong = np.where(world.rng.random(right.size) < 0.4, 1, world.rng.integers(1, 4, right.size))
            answers[arm, split] = np.where(right, 0, wrong)
    four = {split: np.full(n, 4) for split, n in world.sizes.items()}
    pairs = [(arm, arm.removeprefix("student_")) for arm in correct if arm.startswith("student_")]
    experts = [arm for arm in ("plain", "expert_2") if arm in correct]
    found = {
        "disagreements": [
            disagreement(
                student,
                teacher,
                split,
                (answers[student, split], answers[teacher, split]),
                (correct[student][split], correct[teacher][split]),
                options=four[split],
            )
            for student, teacher in pairs
            if teacher in correct
            for split in world.sizes
        ],
        "shared_errors": [
            shared_errors(
                "boosting",
                split,
                [answers[arm, split] for arm in experts],
                [correct[arm][split] for arm in experts],
                options=four[split],
                resamples=200,
            )
            for split in world.sizes
            if len(experts) > 1
        ],
    }
    curves = []
    for measure in ("token", "option"):
        for arm in ("plain", "ensemble", "student_ensemble", "ceiling"):
            for split in world.sizes if arm in correct else ():
                sure = np.clip(0.45 + 0.2 * correct[arm][split] + 0.15 * world.rng.standard_normal(400), 0.01, 1)
                curves.append(reliability(arm, split, measure, sure, correct[arm][split], resamples=100))
        for teacher in labels:
            sure = world.rng.beta(4, 2, size=300)
            right = world.rng.random(300) < sure - 0.15
            curves.append(reliability(f"labels_{teacher}", "hard_pool", measure, sure, right, resamples=100))
    return found | {"reliability": curves}


GIGA = 10**9


def costs(accuracy):
    """Costs of the stages named in ``times``, and of the arms."""
    train = [{"kind": "train", "what": "", "tokens": 143_456, "flops": 52 * GIGA}]
    score = [{"kind": "score", "what": "test", "tokens": 20_000, "flops": 2 * GIGA}]
    stages = {
        "experts/round-01": stage_cost(train + score),
        "experts/round-02": stage_cost(train + score),
        "student/ensemble": stage_cost(train + score),
        "ceiling": stage_cost(train),
        "evaluation": stage_cost(score),
    }
    arms = {}
    for place, arm in enumerate(accuracy, start=1):
        training = 0 if arm.endswith("zero_shot") else 52 * GIGA * place
        extra = 2 * GIGA if arm == "ensemble" else 0
        arms[arm] = ArmCost(training=training, scoring=extra, labelling=0, total=training + extra, answer=3.5e6 * place)
    memory = {name: StageMemory(process=600 * 2**20, device=None) for name in stages if name != "evaluation"}
    return {"costs": stages, "arm_costs": arms, "memory": memory}


def coverage(right):
    """Fifteen groups of sixty labels each, of which ever more are kept; the first has a name from elsewhere."""
    names = ["<b>questions of the kind \x1b[31m that has a long name</b>", "", *(f"skill {k}" for k in range(13))]
    parts = np.split(right, len(names))
    return [
        GroupCoverage(
            group=name,
            n=part.size,
            kept=4 * k,
            accuracy=float(part.mean()),
            kept_accuracy=float(part[: 4 * k].mean()) if k else None,
        )
        for k, (name, part) in enumerate(zip(names, parts, strict=True))
    ]


def label_results(world, accuracy):
    """Labels of the teachers, about as often right as the teacher is on OOD."""
    labels = {}
    for teacher in ("plain", "bagging", "ensemble"):
        if teacher in accuracy:
            sure = world.rng.beta(4, 2, size=900)
            right = world.rng.random(900) < np.clip(sure + accuracy[teacher][1] - 0.66, 0, 1)
            summary = summarise(right)
            labels[teacher] = LabelResult(
                n=900,
                kept=900,
                accuracy=summary.accuracy,
                low=summary.low,
                high=summary.high,
                kept_accuracy=summary.accuracy,
                mean_confidence=float(sure.mean()),
                mean_agreement=0.87,
                ece=expected_calibration_error(sure, right).ece,
                coverage=coverage(right) if teacher == "ensemble" else [],
                coverage_by="group" if teacher == "ensemble" else "",
            )
    return labels


def make_run(seed=0, accuracy=None, **changes):
    """A run's results, with every number from the functions that a real run uses."""
    world = World(seed)
    accuracy = ACCURACY if accuracy is None else accuracy
    correct = {
        arm: {split: world.correct(split, target[k]) for k, split in enumerate(SPLITS)}
        for arm, target in accuracy.items()
    }
    found = build_comparisons(correct)
    arms = {
        arm: {s: summarise(right, tokens=world.tokens(s, right)) for s, right in splits.items()}
        for arm, splits in correct.items()
    }
    labels = label_results(world, accuracy)
    fields = {
        "name": "tiny",
        "seed": seed,
        "task": "choice",
        "preset": "tiny",
        "config_fingerprint": "9f2c4e10ab37d655",
        "versions": {"ensemw2s": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "models": {
            "weak": ModelInfo(source="embedded:weak", parameters=62_144),
            "strong": ModelInfo(source="embedded:strong", parameters=288_960),
        },
        "split_sizes": {"train": 2000, "validation": 400, "test": 400, "hard_pool": 900, "hard_test": 400},
        "arms": arms,
        "rounds": {
            "boosting": rounds(world, accuracy.get("ensemble", (0.7, 0.4)), 6, boosted=True),
            "bagging": rounds(world, accuracy.get("bagging", (0.7, 0.4)), 6, boosted=False),
        },
        "selected_rounds": {"boosting": 5, "bagging": 6},
        "stop_reason": "all 6 rounds done",
        "labels": labels,
        **beyond(world, correct, labels),
        **costs(accuracy),
        "differences": found.differences,
        "pgr": found.pgr,
        "times": {
            "data": 0.4,
            "experts/round-01": 5.8,
            "experts/round-02": 6.1,
            "student/ensemble": 14.2,
            "ceiling": 71.0,
        },
    }
    return Results(**(fields | changes))


@pytest.fixture(scope="session")
def run_factory():
    return make_run


@pytest.fixture(scope="session")
def results():
    return make_run()


@pytest.fixture(scope="session")
def drawn(results):
    """The run's plots by mode, drawn once."""
    return {mode: run_plots(results, mode) for mode in ("light", "page", "phone")}


@pytest.fixture(scope="session")
def seeds():
    return aggregate([make_run(seed) for seed in range(3)])


CONFIG = """\
# provenance: preset tiny
name: tiny
seed: 0
data:
  template:
    prompt: "<script>alert('{prompt}')</script> & more"
"""

EVENTS = [
    {
        "kind": "label_sample",
        "teacher": "ensemble",
        "prompt": "sort <3 1 2>",
        "label": "1 2 3",
        "confidence": 0.91,
        "agreement": 1.0,
        "correct": True,
    },
    {
        "kind": "label_sample",
        "teacher": "ensemble",
        "prompt": "largest of 4 9 7",
        "label": "7",
        "confidence": 0.41,
        "agreement": 0.55,
        "correct": False,
    },
    {
        "kind": "hard_tokens",
        "round": 3,
        "examples": [
            {
                "id": "e17",
                "prompt": "reverse 4 8 1",
                "tokens": ["1", " 8", " 4"],
                "weights": [0.0001, 0.004, 0.0002],
                "wrong": [0, 1, 0],
                "predicted": ["1", " 3", " 4"],
            }
        ],
    },
    {"kind": "message", "level": "warning", "text": "3 near-duplicates <dropped>"},
]


@pytest.fixture(scope="session")
def fill_run_dir(results):
    """Makes a folder into the run directory of a finished run."""

    def fill(folder):
        results.write(folder / "results.json")
        (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
        lines = [json.dumps({"v": 1, "t": 1.0 + k, **event}) + "\n" for k, event in enumerate(EVENTS)]
        # a torn last line, as a killed run leaves it
        (folder / "events.jsonl").write_text("".join(lines) + '{"v": 1, "t": 9', encoding="utf-8")
        return folder

    return fill


@pytest.fixture
def run_dir(tmp_path, fill_run_dir):
    return fill_run_dir(tmp_path)

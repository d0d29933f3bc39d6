"""A small run whose errors are those of two chains on the halves of the data: what they saw, and what they cost."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from ensemw2s.boosting.errors import fold_of_example
from ensemw2s.models.inference.score_table import ScoreTable
from ensemw2s.pipeline.plan import plan, planned_stages
from ensemw2s.pipeline.run import execute
from ensemw2s.seeds import sub_seed
from ensemw2s.sink import NullSink

UNSEEN = {
    "boosting.errors": "unseen",
    "boosting.start": "previous",
    "boosting.draw": "none",
    "boosting.shrinkage": 0.5,
    "arms.plain_long": True,
    "arms.chain": True,
    "arms.bagging": False,
    "arms.zero_shot": False,
    "arms.ceiling": False,
    "arms.students": ["ensemble"],
    "training.student.steps": 2,
    "ensemble.select_rounds": False,
}
HALVES = [f"experts/helpers/round-01-fold-{fold}" for fold in (1, 2)]


@pytest.fixture(scope="module")
def halved(build_once, mini_config):
    config = mini_config(**UNSEEN)
    folder = build_once("halved", lambda folder: execute(config, folder, sink=NullSink(), report=False))
    return folder, json.loads((folder / "results.json").read_text(encoding="utf-8"))


def answers(config, folder: Path):
    """The training split as encoded: its answers' rows, and the example of each."""
    from ensemw2s.pipeline.context import Context
    from ensemw2s.pipeline.data import prepare_data
    from ensemw2s.pipeline.date import dated
    from ensemw2s.pipeline.experts import WeakTrainer
    from ensemw2s.runs.directory import RunDirectory

    run_directory = RunDirectory.create(folder)
    with run_directory.writing():
        ctx = Context(config, run_directory, NullSink(), dated(config.data.template, folder, None))
        prepare_data(ctx)
        trainer = WeakTrainer(ctx)
        return trainer.answers.row_tokens[trainer.rows], trainer.rows, trainer.layout


def test_weights_and_alpha_follow_from_the_helpers_tables(halved, mini_config):
    """Each example's error is that of the helper of its own fold, which was trained on the other one."""
    folder, results = halved
    config = mini_config(**UNSEEN)
    tokens, rows, layout = answers(config, folder)
    fold = np.repeat(fold_of_example(layout.examples, 2, sub_seed(config.seed, "boosting", "folds")), layout.lengths)
    weights = np.full(layout.tokens, 1.0 / layout.tokens)
    first = None
    for t in (1, 2):
        missed = []
        for f in (1, 2):
            table = ScoreTable.load(folder / f"experts/helpers/round-{t:02d}-fold-{f}/scores/train")
            missed.append(np.asarray(table.argmax)[rows] != tokens)
        wrong = np.where(fold == 0, *missed).astype(np.float64)
        kept = np.load(folder / f"token_weights/round-{t:02d}.npy")
        np.testing.assert_allclose(kept, weights, rtol=1e-9)
        record = results["rounds"]["boosting"][t - 1]
        assert record["epsilon_raw"] == pytest.approx(float(np.dot(weights, wrong)), abs=1e-12)
        if first is not None:
            own, reference = float(np.dot(weights, wrong)), float(np.dot(weights, first))
            expected = np.log(reference / (1 - reference)) - np.log(own / (1 - own))
            assert record["alpha"] == pytest.approx(expected, abs=1e-9)
        first = wrong
        weights = weights * np.exp(0.5 * record["alpha"] * wrong)
        weights /= weights.sum()


def test_a_helper_does_not_depend_on_the_half_that_it_judges(halved, mini_config, tmp_path, monkeypatch):
    from ensemw2s.data import split as split_module

    folder, _ = halved
    original = split_module.make_splits

    def poisoned(*args, **kwargs):
        splits = original(*args, **kwargs)
        fold = fold_of_example(len(splits["train"]), 2, sub_seed(0, "boosting", "folds"))
        part = [i for i, found in enumerate(fold) if found == 0]
        train = list(splits["train"])
        for i, j in itertools.pairwise(part):  # prompts move on by one inside the half, answers stay
            train[i] = dataclasses.replace(train[i], prompt=splits["train"][j].prompt)
        return dataclasses.replace(splits, train=train)

    monkeypatch.setattr(split_module, "make_splits", poisoned)
    changed = {**UNSEEN, "arms.chain": False, "arms.plain_long": False, "arms.students": []}
    execute(mini_config(**changed), tmp_path / "run", sink=NullSink(), until="experts")
    weights = [Path(name) / "model/model.safetensors" for name in HALVES]
    same = [(tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes() for name in weights]
    assert same == [True, False]


def test_controls_may_spend_what_the_halves_cost(halved, mini_config):
    folder, results = halved
    records = {planned.name: planned for planned in plan(mini_config(**UNSEEN))}
    trained = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("trained.json")}
    assert trained == {name for name, planned in records.items() if planned.kind == "train"}
    for name in trained:
        assert records[name].steps == json.loads((folder / name / "trained.json").read_text())["steps"]
    assert [records[name].steps for name in (*HALVES, "experts/round-01", "baselines/plain-long")] == [6, 6, 12, 48]
    assert "baselines/chain/member-04" in trained
    bagged = planned_stages(mini_config(**{**UNSEEN, "arms.bagging": True, "arms.seeds": True}))
    assert {"baselines/bagging/member-04", "baselines/seeds/member-04"} <= set(bagged)
    costs, stages = results["arm_costs"], results["costs"]
    helpers = [name for name in stages if name.startswith("experts/helpers/")]
    rounds = range(1, results["selected_rounds"]["boosting"] + 1)
    own = [f"experts/round-{t:02d}" for t in rounds]
    spent = [n for n in (*own, *helpers) if int(n.split("round-")[1][:2]) in rounds and not n.endswith("scores")]
    assert len(rounds) == 2
    assert costs["ensemble"]["training"] == sum(stages[name]["flops"] for name in spent)
    passes = [piece["flops"] for n in spent for piece in stages[f"{n}/scores"]["work"] if piece["what"] == "train"]
    assert costs["ensemble"]["scoring"] == sum(passes)
    assert len(passes) == 6
    assert costs["plain_long"]["training"] == pytest.approx(costs["ensemble"]["training"], rel=0.05)
    assert [note for note in results["notes"] if note.endswith("took 48 optimiser steps, its experts alone 24.")]
    alone = ["experts/round-01", "experts/round-02", *(n for n in helpers if "round-01" in n and "scores" not in n)]
    assert costs["expert_2"]["training"] == sum(stages[name]["flops"] for name in alone), (
        "the rounds that it goes on from"
    )
    assert costs["student_ensemble"]["training"] > costs["ensemble"]["training"]
    assert costs["chain_equal_rounds"]["training"] == pytest.approx(costs["ensemble"]["training"] / 2, rel=0.05)

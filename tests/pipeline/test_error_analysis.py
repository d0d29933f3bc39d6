"""What a real run says about errors, calibration and cost, against plain counts from what it left on the disk."""

from __future__ import annotations

import json

import pytest

from ensemw2s.data.store import read_splits
from ensemw2s.evaluation.correct import read_correct
from ensemw2s.evaluation.results import Results


@pytest.fixture
def run(finished):
    return finished[0]


@pytest.fixture
def results(run):
    return Results.read(run / "results.json")


def test_students_beside_their_teachers(run, results):
    correct, _ = read_correct(run / "correct.parquet")
    found = {(d.student, d.split): d for d in results.disagreements}
    assert set(found) == {(f"student_{t}", s) for t in ("plain", "bagging", "ensemble") for s in ("test", "hard_test")}
    for (student, split), d in found.items():
        assert d.teacher == student.removeprefix("student_")
        mine, theirs = correct[student][split], correct[d.teacher][split]
        assert d.both_right == (mine & theirs).sum()
        assert d.corrected == (mine & ~theirs).sum()
        assert d.spoiled == (~mine & theirs).sum()
        assert d.copied + d.other_wrong == (~mine & ~theirs).sum()
        # every question of the synthetic set has four options
        assert d.same_wrong_by_chance == pytest.approx(1 / 3)
        pair = results.difference("ceiling", student, split)
        assert pair.estimate == pytest.approx(correct["ceiling"][split].mean() - mine.mean())


def test_errors_that_experts_share(run, results):
    correct, _ = read_correct(run / "correct.parquet")
    found = {(e.group, e.split): e for e in results.shared_errors}
    assert set(found) == {(group, split) for group in ("boosting", "bagging") for split in ("test", "hard_test")}
    for split in ("test", "hard_test"):
        e = found["boosting", split]
        first, second = ~correct["plain"][split], ~correct["expert_2"][split]
        assert e.members == 2
        assert e.both_wrong == pytest.approx((first & second).mean())
        assert e.both_wrong_if_independent == pytest.approx(first.mean() * second.mean())
        assert e.all_wrong.count == (first & second).sum()
        assert e.low <= e.same_wrong <= e.high
        assert e.all_same_wrong.count == round(e.same_wrong * (first & second).sum())


def test_calibration_is_of_the_same_answers(results):
    names = {r.name for r in results.reliability}
    assert {"plain", "ensemble", "student_plain", "student_ensemble", "ceiling", "labels_plain"} <= names
    for r in results.reliability:
        assert sum(b.n for b in r.bins) == r.n
        if r.split != "hard_pool":
            assert r.accuracy == pytest.approx(results.arms[r.name][r.split].accuracy)
            continue
        labels = results.labels[r.name.removeprefix("labels_")]
        assert r.accuracy == pytest.approx(labels.accuracy)
        if r.measure == "token":
            assert r.mean_confidence == pytest.approx(labels.mean_confidence)
            assert r.ece == pytest.approx(labels.ece)
        else:
            assert r.mean_confidence >= 0.25  # the largest of four shares


def of_kind(results, start, kind):
    return [
        piece
        for stage, cost in results.costs.items()
        if stage == start or stage.startswith(start + "/")
        for piece in cost.work
        if piece.kind == kind
    ]


def test_tokens_and_operations(run, results):
    for start, side in (("experts/round-01", "weak"), ("student/ensemble", "strong"), ("ceiling", "strong")):
        (piece,) = of_kind(results, start, "train")
        trained = json.loads((run / start / "trained.json").read_text())
        assert piece.tokens == trained["tokens"]
        assert piece.flops == 6 * results.models[side].parameters * trained["tokens"]
    total = sum(p.flops for cost in results.costs.values() for p in cost.work)
    assert total == sum(cost.flops for cost in results.costs.values())


def test_a_prompt_is_read_once_for_all_its_options(run, results, mini_config):
    from ensemw2s.data.template import render_answer, render_prompt
    from ensemw2s.models.loading.load import load_tokenizer

    config = mini_config()
    tokenizer = load_tokenizer(config.models.weak)
    template = config.data.template
    expected = 0
    for example in read_splits(run / "data").test:
        prompt = render_prompt(example, template)
        alone = len(tokenizer(prompt)["input_ids"])
        expected += alone
        for choice in example.choices:
            expected += len(tokenizer(prompt + render_answer(choice, template))["input_ids"]) - alone
    (piece,) = [p for p in of_kind(results, "experts/round-01", "score") if p.what == "test"]
    assert piece.tokens == expected
    assert piece.flops == 2 * results.models["weak"].parameters * expected
    assert results.arm_costs["plain"].answer == piece.flops / 50


def test_costs_of_arms_add_up(results):
    plain, ensemble = results.arm_costs["plain"], results.arm_costs["ensemble"]
    (train,) = of_kind(results, "experts/round-01", "train")
    assert plain.total == plain.training == train.flops
    chosen = results.selected_rounds["boosting"]
    experts = [f"experts/round-{t:02d}" for t in range(1, chosen + 1)]
    assert ensemble.training == sum(of_kind(results, expert, "train")[0].flops for expert in experts)
    student = results.arm_costs["student_plain"]
    (own,) = of_kind(results, "student/plain", "train")
    (pool,) = [p for p in of_kind(results, "experts/round-01", "score") if p.what == "hard_pool"]
    assert student.training == own.flops + train.flops
    assert student.labelling == pool.flops
    assert results.arm_costs["weak_zero_shot"].total == 0


def test_memory_and_time_of_every_stage(results):
    assert set(results.memory) <= set(results.times)
    assert all(m.process > 2**26 and m.device is None for m in results.memory.values())
    assert all(seconds >= 0 for seconds in results.times.values())


def test_the_report_has_it(run):
    text = (run / "report" / "report.md").read_text(encoding="utf-8")
    for title in ("Corrected and copied errors", "Errors that members share", "Calibration", "Cost and accuracy"):
        assert f"**{title}" in text
    assert (run / "report" / "reliability.png").exists()
    assert (run / "report" / "accuracy-against-cost.png").exists()

"""The table of arms against the plan, a finished run, its report and the dashboard."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from ensemw2s import arms
from ensemw2s.cli.dashboard.drawing.palette import look_of
from ensemw2s.cli.dashboard.model.names import arm_name, student_name
from ensemw2s.cli.dashboard.model.summary import arm_rows, groups
from ensemw2s.cli.dashboard.reading.follow import load_run
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.estimate.estimate import Speed, estimate
from ensemw2s.pipeline.experts import TRAINERS, train_plain
from ensemw2s.pipeline.plan import planned_stages
from ensemw2s.pipeline.run import execute
from ensemw2s.report.build import console_report, load_results
from ensemw2s.sink import NullSink

EVERYTHING = {
    **{f"arms.{spec.option}": True for spec in arms.ARMS if spec.option},
    "arms.students": list(arms.teachers()),
    "boosting.errors": "out_of_bag",
    "boosting.rounds": 3,
}


def of_table(config):
    """The arms that a run has by the table; ``ensemble_all`` is one only where validation chose fewer rounds."""
    experts = {arms.expert_arm(t) for t in range(2, config.boosting.rounds + 1)}
    return experts | {spec.name for spec in arms.ARMS if config.has_arm(spec.name)} - {"ensemble_all"}


def of_plan(config):
    """The arms whose answers to a test are planned."""
    return {stage.split("/")[1] for stage in planned_stages(config) if stage.startswith("answers/") and "test" in stage}


@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"arms.ceiling": False, "arms.zero_shot": False}])
def test_table_and_plan_name_the_same_arms(generate_config, changes):
    config = generate_config(**changes)
    assert of_plan(config) == of_table(config)


def test_everything_is_the_whole_table(generate_config):
    named = of_table(generate_config(**EVERYTHING)) - {"expert_2", "expert_3"}
    votes = {spec.name for spec in arms.ARMS if spec.vote} - {"ensemble_equal"}  # one of them is the ensemble's own
    assert named == {spec.name for spec in arms.ARMS} - {"ensemble_all"} - votes


def test_a_finished_run_has_the_arms_of_the_table(finished, mini_config, written, generate_config):
    for results, config in ((finished[1], mini_config()), (written[1], generate_config())):
        assert set(results["arms"]) - {"ensemble_all"} == of_table(config)


def test_rows_are_complete():
    names = [spec.name for spec in arms.ARMS]
    assert len(set(names)) == len(names)
    assert all(len(spec.label) <= 27 and len(spec.short) <= 19 for spec in arms.ARMS)
    students = [spec for spec in arms.ARMS if spec.kind == "student"]
    assert {spec.name for spec in students} == set(map(arms.student_of, arms.teachers()))
    assert [spec.short for spec in students] == [f"student {student_name(spec.name)}" for spec in students]
    assert {spec.of for spec in arms.ARMS} <= {"", *arms.teachers()}
    rivals = sorted(spec.rival for spec in arms.ARMS if spec.rival)
    assert rivals == list(range(1, len(rivals) + 1))
    assert [spec.name for spec in arms.ARMS if (spec.side == "strong") != arms.is_strong(spec.name)] == []
    assert arms.sorted_arms(names) == names


@pytest.mark.parametrize(
    ("name", "number"),
    [("expert_2", 2), ("expert_10", 10), ("expert_", None), ("expert_x", None), ("expert_²", None), ("expert", None)],
)
def test_experts_by_number(name, number):
    assert arms.expert_number(name) == number
    assert arms.sorted_arms([name, "ceiling"]) == [name, "ceiling"]


@pytest.mark.parametrize("name", ["student_", "student_of_mine", "expert_" + "9" * 5000, "my_arm", ""])
def test_names_that_are_not_in_the_table_get_a_row(name):
    spec = arms.arm_spec(name)
    assert spec.label == name.replace("_", " ")
    assert spec.side == ("strong" if name.startswith("student") else "weak")
    assert arms.sorted_arms(["ceiling", name, "plain"])[0] == "plain"


def test_a_new_arm_is_a_row_and_a_trainer(monkeypatch, copy_of, finished, mini_config):
    """Its row and its trainer bring it into the plan, the comparisons, the report and the dashboard."""
    row = dataclasses.replace(
        arms.arm_spec("plain_long"), name="other_seed", option="plain", label="fine-tune, other seed",
        short="other seed", brief="", rival=9, screen=("purple", "■"),
    )  # fmt: skip
    monkeypatch.setattr(arms, "ARMS", (*arms.ARMS[:2], row, *arms.ARMS[2:]))
    monkeypatch.setitem(TRAINERS, "other_seed", lambda trainer, *_: [train_plain(trainer, 2)])
    config = mini_config()
    assert {"baselines/other-seed", "baselines/other-seed/scores"} <= set(planned_stages(config))
    costs = {cost.stage: cost for cost in estimate(config, speed=Speed("cpu", 1e11, 2e10)).stages}
    trained = costs["baselines/other-seed"]
    assert (trained.tokens, trained.group) == (2 * costs["experts/round-01"].tokens, "other seed")  # ``all_steps``
    folder = copy_of(finished[0])
    results = execute(config, folder, sink=NullSink(), report=False)
    assert set(results["arms"]) == {*finished[1]["arms"], "other_seed"}
    found = load_results(folder)
    pair = found.difference("ensemble", "other_seed", "hard_test")
    assert pair is not None
    assert pair.estimate == pytest.approx(
        results["arms"]["ensemble"]["hard_test"]["accuracy"] - results["arms"]["other_seed"]["hard_test"]["accuracy"]
    )
    console = Console(width=120, file=io.StringIO())
    with console.capture() as printed:
        console.print(console_report(found, 120, full=True))
    text = printed.get()
    assert "fine-tune, other seed" in text
    assert "ensemble − fine-tune, other seed" in text
    model = load_run(Source(folder))
    shown = [entry.arm for entry in arm_rows(model)]
    assert shown.index("other_seed") == shown.index("plain") + 1
    (row,) = (group for group in groups(model) if group.name == "other seed")
    assert [stage.name for stage in row.stages] == ["baselines/other-seed", "baselines/other-seed/scores"]
    assert (arm_name("other_seed"), look_of("other_seed")) == ("other seed", ("purple", "■"))

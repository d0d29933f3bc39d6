"""The plan of a run against the stages that came."""

from __future__ import annotations

import json

import pytest

from ensemw2s.pipeline import execute, planned_stages
from ensemw2s.pipeline.results import _notes
from ensemw2s.sink import NullSink


def told_stages(folder):
    """Stages in the order in which the log tells of their first end."""
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [line["stage"] for line in lines if line["kind"] == "stage_finished"]
    plans = [line["stages"] for line in lines if line["kind"] == "plan"]
    return list(dict.fromkeys(ends)), plans[0]


def check(folder, config, optional=(), until=None):
    """Every stage is in the plan, in its order; what is missing may be."""
    told, recorded = told_stages(folder)
    plan = planned_stages(config, until)
    assert recorded == plan
    surprises = [name for name in told if name not in plan]
    assert all(name.startswith("joint/") or name.startswith("answers/ensemble_all/") for name in surprises), surprises
    expected = [name for name in told if name in plan]
    assert expected == [name for name in plan if name in set(told)]  # in order
    missing = [name for name in plan if name not in told]
    assert all(name.startswith(tuple(optional)) for name in missing), missing


def test_choices(finished, mini_config):
    check(finished[0], mini_config())


def test_written_answers(written, generate_config):
    # Members that validation did not choose need not answer for the agreement.
    check(written[0], generate_config(), ["answers/experts/", "answers/baselines/"])
    assert {"answers/ensemble/test", "answers/student_ensemble/hard_test"} <= set(planned_stages(generate_config()))


@pytest.mark.parametrize(
    ("changes", "until"),
    [
        ({"boosting.errors": "crossfit", "arms.zero_shot": False, "arms.seeds": True, "arms.plain": False}, "experts"),
        ({"ensemble.rule": "product", "boosting.draw": "token", "arms.plain_long": True}, "labels"),
    ],
    ids=["crossfit-seeds", "product-token"],
)
def test_other_arms(mini_config, tmp_path, changes, until):
    config = mini_config(**changes)
    execute(config, tmp_path / "run", sink=NullSink(), until=until)
    check(tmp_path / "run", config, ["joint/labels/"], until)
    plan = planned_stages(config)
    if "boosting.errors" in changes:
        assert {f"experts/helpers/round-02-fold-{fold}/scores" for fold in (1, 2)} <= set(plan)


@pytest.mark.parametrize("until", ["data", "experts", "labels", "student"])
def test_phases_are_beginnings_of_the_whole(generate_config, until):
    config = generate_config(**{"arms.seeds": True, "boosting.rounds": 4})
    whole, part = planned_stages(config), planned_stages(config, until)
    assert part == whole[: len(part)]
    assert len(whole) == len(set(whole))
    assert (part == whole) == (until == "student")


class Kept:
    def __init__(self, kept):
        self.kept = kept


def state_with(**kept):
    return type("State", (), {"labels": {name: Kept(count) for name, count in kept.items()}})()


def context_with(config):
    return type("Context", (), {"config": config})()


def test_students_of_unequal_size_are_noted(mini_config):
    plain = context_with(mini_config())
    assert _notes(plain, state_with(single=80, ensemble=80)) == []
    (note,) = _notes(plain, state_with(single=80, ensemble=79))
    assert "single 80, ensemble 79; empty labels are left out" in note
    strict = context_with(mini_config(**{"student.min_confidence": 0.5, "student.min_agreement": 0.75}))
    (note,) = _notes(strict, state_with(single=80, ensemble=61))
    assert "single 80, ensemble 61; student.min_confidence 0.5, student.min_agreement 0.75" in note
    (note,) = _notes(strict, state_with(single=80, ensemble=80))
    assert "favours sharper teachers" in note
    assert _notes(strict, state_with(single=80)) == []


def test_a_threshold_is_noted_in_the_results(finished, copy_of, mini_config, recorder):
    from ensemw2s.labelling import Labels

    folder = copy_of(finished[0])
    middle = float(sorted(Labels.load(folder / "labels" / "plain").confidence)[30])
    results = execute(mini_config(**{"student.min_confidence": middle}), folder, sink=recorder)
    assert finished[1]["notes"] == []
    (note,) = results["notes"]
    assert f"student.min_confidence {middle:g}" in note
    assert note in (folder / "report" / "report.html").read_text(encoding="utf-8").replace("&gt;", ">")

"""The plan of a run against the stages that came."""

from __future__ import annotations

import json
import re

import pytest

from ensemw2s.estimate.estimate import Speed, estimate
from ensemw2s.pipeline.plan import plan, planned_stages
from ensemw2s.pipeline.results import _label_notes
from ensemw2s.pipeline.run import execute
from ensemw2s.sink import NullSink


def told_stages(folder):
    """Stages in the order in which the log tells of their first end."""
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [line["stage"] for line in lines if line["kind"] == "stage_finished"]
    plans = [line["stages"] for line in lines if line["kind"] == "plan"]
    return list(dict.fromkeys(ends)), plans[0]


#: Kind of a stage → kinds of its work; ``label`` decodes or, of options, runs nothing.
WORK = {"train": {"train"}, "score": {"score"}, "joint": {"score"}, "answer": {"decode"}, "label": {"decode"}}


def check_costs(config, folder):
    """What is estimated is what was expected; what was counted is what the records say."""
    records = {planned.name: planned for planned in plan(config)}
    estimates = {stage.stage: stage for stage in estimate(config, speed=Speed("cpu", 1e11, 2e10)).stages}
    assert ["data", *estimates] == [name for name, planned in records.items() if planned.expected]
    assert set(told_stages(folder)[0]) <= set(records)
    compared = set()
    for name, planned in records.items():
        files = [folder / name / "stage.json", *(folder / name).glob("*/stage.json")]
        work = [piece for file in files if file.exists() for piece in json.loads(file.read_text())["cost"]["work"]]
        if not work or (planned.kind in ("train", "score") and name not in estimates):
            continue
        own = [piece for piece in work if piece["kind"] in WORK[planned.kind]]
        if planned.kind == "score":
            assert {piece["what"] for piece in own} == set(planned.splits), name
        if planned.kind == "joint" and not planned.splits:
            continue  # a few rows are open
        tokens = sum(piece["tokens"] for piece in own)
        assert estimates[name].tokens == pytest.approx(tokens, rel=0.3 if "decode" in WORK[planned.kind] else 0.1), name
        assert estimates[name].group == planned.group
        compared.add(planned.kind)
    return compared


#: Stages that may come without being expected.
CONDITIONAL = re.compile(
    r"joint/.+|answers/ensemble_all/.+|experts/helpers/round-\d+-fold-\d+(/scores)?|tuning/\w+/trial-\d+(/scores)?"
)


def check(folder, config, optional=(), until=None):
    """Every stage is in the plan, in its order; what is missing may be, and so may what is not expected."""
    told, recorded = told_stages(folder)
    names = planned_stages(config, until)
    assert recorded == names
    records = [planned.name for planned in plan(config, until)]
    assert set(told) <= set(records)
    assert [name for name in told if name not in names and not CONDITIONAL.fullmatch(name)] == []
    assert [name for name in told if name in names] == [name for name in names if name in set(told)]  # in order
    missing = [name for name in names if name not in told]
    assert all(name.startswith(tuple(optional)) for name in missing), missing


def test_choices(finished, mini_config):
    check(finished[0], mini_config())
    assert check_costs(mini_config(), finished[0]) == {"train", "score"}


def test_written_answers(written, generate_config):
    # Members that validation did not choose need not answer for the agreement.
    check(written[0], generate_config(), ["answers/experts/", "answers/baselines/"])
    assert check_costs(generate_config(), written[0]) == {"train", "score", "answer", "label"}
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
    assert check_costs(config, tmp_path / "run") >= {"train", "score"} | ({"joint"} if until == "labels" else set())
    if "boosting.errors" in changes:
        assert {f"experts/helpers/round-02-fold-{fold}/scores" for fold in (1, 2)} <= set(planned_stages(config))


@pytest.mark.parametrize("draw", ["example", "token", "none"])
@pytest.mark.parametrize("errors", ["train", "crossfit", "out_of_bag", "unseen"])
@pytest.mark.parametrize("task", ["choice", "generate"])
def test_records_are_complete(mini_config, generate_config, task, errors, draw):
    if errors == "out_of_bag" and draw != "example":
        return
    every = {"boosting.errors": errors, "boosting.draw": draw, "arms.seeds": True, "arms.plain_long": True}
    config = (mini_config if task == "choice" else generate_config)(**every, **{"arms.plain": True})
    found = plan(config)
    helpers = {planned.expected for planned in found if not planned.arm and planned.kind == "train"}
    source = ("out_of_bag" if draw == "example" else "crossfit") if errors == "unseen" else errors
    assert helpers == {"train": set(), "crossfit": {True}, "out_of_bag": {False}}[source]
    for planned in found:
        assert planned.expected or CONDITIONAL.fullmatch(planned.name), planned.name
        assert planned.group
        assert bool(planned.steps) == (planned.kind == "train")
        assert planned.kind in ("data", "joint", "label") or planned.splits
    assert {planned.round for planned in found} == {None, 1, 2}
    steps = {planned.arm: planned.steps for planned in found if planned.kind == "train"}
    assert (steps["plain_long"], steps["ceiling"]) == (48 if source == "crossfit" else 24, 12)


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
    assert _label_notes(plain, state_with(single=80, ensemble=80)) == []
    (note,) = _label_notes(plain, state_with(single=80, ensemble=79))
    assert "single 80, ensemble 79; empty labels are left out" in note
    strict = context_with(mini_config(**{"student.min_confidence": 0.5, "student.min_agreement": 0.75}))
    (note,) = _label_notes(strict, state_with(single=80, ensemble=61))
    assert "single 80, ensemble 61; student.min_confidence 0.5, student.min_agreement 0.75" in note
    (note,) = _label_notes(strict, state_with(single=80, ensemble=80))
    assert "favours sharper teachers" in note
    assert _label_notes(strict, state_with(single=80)) == []


def test_a_threshold_is_noted_in_the_results(finished, copy_of, mini_config, recorder):
    from ensemw2s.labelling.labels import Labels

    folder = copy_of(finished[0])
    middle = float(sorted(Labels.load(folder / "labels" / "plain").confidence)[30])
    results = execute(mini_config(**{"student.min_confidence": middle}), folder, sink=recorder)
    assert finished[1]["notes"] == []
    (note,) = results["notes"]
    assert f"student.min_confidence {middle:g}" in note
    assert note in (folder / "report" / "report.html").read_text(encoding="utf-8").replace("&gt;", ">")

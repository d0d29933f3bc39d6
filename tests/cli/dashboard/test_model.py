from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.cli.dashboard.model.fold_events import fold_events
from ensemw2s.cli.dashboard.model.fold_metrics import fold_metrics
from ensemw2s.cli.dashboard.model.model import BINS, RunModel
from ensemw2s.cli.dashboard.model.series import Series, smooth
from ensemw2s.cli.dashboard.model.status_text import status_text
from ensemw2s.cli.dashboard.model.summary import arm_rows, forecast, groups, to_json
from ensemw2s.cli.dashboard.reading.follow import RunFollower, load_run
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.runs.reader import read_events
from ensemw2s.runs.schema import EVENTS, METRICS, validate

Simulate = Callable[..., Any]


def load(folder: Path) -> RunModel:
    return load_run(Source(folder))


def test_the_simulator_writes_what_the_schema_says(simulate: Simulate) -> None:
    folder = simulate().whole().folder
    for stream in ("events", "metrics"):
        for line in (folder / f"{stream}.jsonl").read_text().splitlines():
            assert validate(json.loads(line), stream) == []


def test_a_whole_run(simulate: Simulate) -> None:
    model = load(simulate(rounds=3).whole().folder)
    assert (model.life, model.name, model.seed, model.task) == ("finished", "simulated", 0, "choice")
    assert [g.name for g in groups(model)] == [
        "data", "zero-shot bases", "experts", "bagging", "labels", "students", "ceiling",
    ]  # fmt: skip
    assert all(g.state == "done" for g in groups(model))
    assert sorted(model.rounds) == [1, 2, 3]
    assert all(r.finished for r in model.rounds.values())
    assert model.rounds[2].alpha == 1.5
    assert model.selected_rounds == 2
    assert model.scores["ensemble", "test"][1].expert == 0.66
    assert model.arms["ceiling"]["hard_test"].accuracy == 0.8
    assert [row.arm for row in arm_rows(model)][:3] == ["weak_zero_shot", "plain", "expert_2"]
    assert model.teachers["ensemble"].finished
    assert sum(model.teachers["ensemble"].histogram) == 300
    assert len(model.hard[3]) == 20
    assert model.hard[3][0].tokens == ["1", "2", "3", "4", "5"]
    assert len(model.curves["student/ensemble"].loss) == 10
    assert model.cpu.last() is not None
    assert forecast(model).left == 0.0


def test_pgr_comes_from_the_results_once_they_are_there(simulate: Simulate) -> None:
    sim = simulate()
    sim.whole()
    rows = {row.arm: row for row in arm_rows(load(sim.folder))}
    assert rows["student_ensemble"].pgr["hard_test"] == (0.7, 0.5, 0.9)
    (sim.folder / "results.json").unlink()
    ratio, low, high = {row.arm: row for row in arm_rows(load(sim.folder))}["student_ensemble"].pgr["hard_test"]
    assert ratio == pytest.approx((0.69 - 0.5) / (0.8 - 0.5))
    assert math.isnan(low)
    assert math.isnan(high)


def test_a_recorded_run(recorded: Path) -> None:
    model = load(recorded)
    events = read_events(recorded / "events.jsonl")
    last = {(e["arm"], e["split"]): e["accuracy"] for e in events if e["kind"] == "arm_result"}
    assert {(a, s): v.accuracy for a, splits in model.arms.items() for s, v in splits.items()} == last
    assert model.life == "finished"
    assert len(model.rounds) == 5
    assert len(model.hard) == 5
    text = status_text(model)
    assert "boosted ensemble" in text
    assert "PGR" in text
    assert "5 experts chosen" in text
    assert json.loads(json.dumps(to_json(model), allow_nan=False))["rounds"][4]["round"] == 5


def test_a_run_at_work_has_a_forecast(simulate: Simulate) -> None:
    sim = simulate(rounds=4)
    sim.begin()
    sim.data()
    sim.round(1)
    sim.round(2)
    sim.log.event("round_started", round=3, rounds=4)
    sim.log.event("stage_started", stage="experts/round-03")
    sim.train("experts/round-03", until=50)
    sim.beat()
    follower = RunFollower(Source(sim.folder), clock=sim.clock)
    while follower.poll():
        pass
    model = follower.model
    assert model.life == "running"
    assert model.running_stage is not None
    assert model.running_stage.name == "experts/round-03"
    assert model.running_stage.done == 50
    plan = forecast(model)
    assert plan.stages["experts/round-03"] == pytest.approx(2.5)  # the rounds before took 5 s, 2.5 s are over
    assert plan.stages["experts/round-04"] == pytest.approx(5.0)
    assert "▶ running" in status_text(model)


def test_the_first_student_tells_how_long_the_next_ones_and_the_ceiling_take(simulate: Simulate) -> None:
    sim = simulate(rounds=2)
    sim.begin()
    sim.weak_side()
    sim.log.event("stage_started", stage="student/plain")
    sim.train("student/plain", until=50)
    sim.beat()
    follower = RunFollower(Source(sim.folder), clock=sim.clock)
    while follower.poll():
        pass
    left = forecast(follower.model).stages
    assert left["student/plain"] == pytest.approx(2.5)
    assert left["student/ensemble"] == left["ceiling"] == pytest.approx(5.0)


def test_a_continued_run_keeps_what_holds(simulate: Simulate) -> None:
    sim = simulate(rounds=3)
    sim.begin()
    sim.data()
    sim.round(1)
    sim.round(2, finish=False)
    sim.clock.now += 86_400
    sim.begin(resumed=True)
    sim.stage("data", 1.0, cached=True)
    model = load(sim.folder)
    assert model.starts == 2
    assert model.rounds[1].finished
    assert not model.rounds[2].finished
    assert model.stages["data"].state == "kept"
    assert model.stages["experts/round-01"].state == "waiting"
    assert len(model.curves["experts/round-01"].loss) == 10
    sim.begin(resumed=True, fingerprint="other")
    model = load(sim.folder)
    assert not model.rounds
    assert not model.arms
    assert not model.hard
    assert len(model.curves["experts/round-01"].loss) == 10


def test_training_again_replaces_the_curve(simulate: Simulate) -> None:
    sim = simulate()
    sim.begin()
    sim.train("experts/round-01")
    sim.train("experts/round-01", until=30)
    x, _ = load(sim.folder).curves["experts/round-01"].loss.arrays()
    assert x.tolist() == [10, 20, 30]


def test_labels_reported_again_are_not_doubled(simulate: Simulate) -> None:
    sim = simulate()
    sim.begin()
    sim.labels("single")
    sim.begin(resumed=True)
    sim.labels("single")
    model = load(sim.folder)
    assert len(model.teachers["single"].samples) == 20
    assert sum(model.teachers["single"].histogram) == 300


def test_rounds_after_the_last_are_skipped(simulate: Simulate) -> None:
    sim = simulate(rounds=5)
    sim.begin()
    sim.round(1)
    sim.round(2)
    sim.log.event("boosting_stopped", reason="α_2 ≤ 0", rounds=2, selected_rounds=1)
    model = load(sim.folder)
    assert [model.stages[f"experts/round-{t:02d}"].state for t in range(1, 6)] == ["done", "done", *["skipped"] * 3]


def test_stages_of_a_round_go_with_it_and_others_find_their_place(simulate: Simulate) -> None:
    """Scores, helpers, joint scores and answers of rounds that will not come; stages that nobody planned."""
    sim = simulate(rounds=2)
    of_round_2 = ["experts/round-02", "experts/round-02/scores", "experts/helpers/round-02-fold-1/scores"]
    of_round_2 += ["joint/boosting/round-02", "answers/expert_2/test", "answers/experts/round-02/hard_pool"]
    rest = ["baselines/plain", "labels/single"]
    names = ["data", "experts/round-01", "experts/round-01/scores", *of_round_2, *rest]
    sim.log.event("plan", stages=names)
    for name in names[:3]:
        sim.stage(name)
    sim.log.event("boosting_stopped", reason="α_2 ≤ 0", rounds=1, selected_rounds=1)
    sim.stage("joint/bagging")
    model = load(sim.folder)
    assert [model.stages[name].state for name in of_round_2] == ["skipped"] * 6
    assert [model.stages[name].state for name in rest] == ["waiting"] * 2
    assert list(model.stages) == [*names[:3], "joint/bagging", *names[3:]]
    sim.stage("labels/single")  # the plan's order was kept: what was passed over will not come
    model = load(sim.folder)
    assert model.stages["baselines/plain"].state == "skipped"


def test_records_of_the_plan_tell_more_than_names(simulate: Simulate) -> None:
    """A stage of a plug-in's arm has its row, and goes with its round; whatever else stands there harms nothing."""
    sim = simulate(rounds=2)
    mine = {
        "name": "mine",
        "kind": "train",
        "group": "my arm",
        "side": "weak",
        "arm": "mine",
        "round": 2,
        "expected": True,
    }
    odd: list[Any] = [None, 3, [], {"name": ["x"]}, {"name": "odd", "kind": 1, "group": None, "round": 1e300}]
    sim.log.event("plan", stages=["data", "mine", "odd"], records=[mine, *odd])
    sim.log.event("boosting_stopped", reason="α_2 ≤ 0", rounds=1, selected_rounds=1)
    model = load(sim.folder)
    assert [(group.name, group.state) for group in groups(model)] == [
        ("data", "waiting"), ("my arm", "skipped"), ("other", "waiting"),
    ]  # fmt: skip
    for records in ("x", 5, {"name": "data"}, None):
        sim.log.event("plan", stages=["data"], records=records)
        assert [group.name for group in groups(load(sim.folder))] == ["data"]


@pytest.mark.parametrize("rounds", [0, 60])
def test_no_round_and_sixty(simulate: Simulate, rounds: int) -> None:
    sim = simulate(rounds=rounds, steps=20)
    sim.begin()
    sim.data()
    for t in range(1, rounds + 1):
        sim.round(t)
    model = load(sim.folder)
    assert len(model.rounds) == rounds
    assert status_text(model)
    assert to_json(model)["rounds_planned"] == rounds


def test_a_clock_that_goes_back(simulate: Simulate) -> None:
    sim = simulate()
    sim.begin()
    sim.log.event("stage_started", stage="data")
    sim.clock.now -= 5000
    sim.log.event("stage_finished", stage="data", seconds=1.0, cached=False)
    sim.log.event("stage_started", stage="experts/round-01")
    model = load(sim.folder)
    assert model.elapsed >= 0.0
    assert not any(seconds < 0 for seconds in forecast(model).stages.values())
    assert status_text(model)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_record_raises(data: st.DataObject) -> None:
    model = RunModel()
    kinds = {**EVENTS, **METRICS}
    records = []
    for _ in range(4):
        kind = data.draw(st.sampled_from(sorted(kinds)))
        fields = {name: data.draw(_JSON) for name in kinds[kind] if data.draw(st.booleans())}
        records.append({"kind": kind, "t": data.draw(_JSON), **fields})
    fold_events(model, records)
    fold_metrics(model, records)
    assert isinstance(status_text(model), str)
    json.dumps(to_json(model), allow_nan=False)


def test_null_and_nan_become_gaps(simulate: Simulate) -> None:
    sim = simulate()
    sim.begin()
    for step, loss in ((1, 2.0), (2, float("nan")), (3, None), (4, 1.0)):
        sim.log.metric("train", tag="a", step=step, steps=4, loss=loss, learning_rate=None, tokens_per_second=None)
    y = load(sim.folder).curves["a"].loss.arrays()[1]
    assert np.array_equal(np.isnan(y), [False, True, True, False])


def test_a_series_stays_small_and_keeps_its_shape() -> None:
    series = Series(limit=100)
    for x in range(10_000):
        series.append(float(x), float(x) ** 2)
    assert 25 <= len(series) <= 100
    x, y = series.arrays()
    assert (np.diff(x) > 0).all()
    assert np.allclose(y, x**2, rtol=1e-2, atol=1e4)


def test_history_goes_in_front() -> None:
    older, series = Series(), Series()
    for x in (1.0, 2.0, 3.0):
        older.append(x, 10 * x)
    for x in (3.0, 4.0):
        series.append(x, x)
    series.prepend(older)
    assert series.arrays()[0].tolist() == [1, 2, 3, 4]
    assert series.arrays()[1].tolist() == [10, 20, 3, 4]


def test_smoothing_has_no_bias_and_passes_gaps_over() -> None:
    y = np.array([2.0, np.nan, 2.0, 2.0])
    out = smooth(y, 0.9)
    assert np.allclose(out[[0, 2, 3]], 2.0)
    assert np.isnan(out[1])
    assert smooth(y, 0.0) is y


def test_bins_cover_zero_to_one(simulate: Simulate) -> None:
    model = RunModel()
    fold_metrics(
        model, [{"kind": "label", "t": 1, "teacher": "a", "done": 4, "total": 4, "confidences": [0, 1, 0.5, None]}]
    )
    histogram = model.teachers["a"].histogram
    assert (histogram[0], histogram[-1], histogram[BINS // 2], sum(histogram)) == (1, 1, 1, 3)

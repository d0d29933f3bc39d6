from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ensemw2s.config.composition import compose
from ensemw2s.config.dump import config_fingerprint
from ensemw2s.errors import ConfigError, DamagedError, InputError, RunBusyError
from ensemw2s.evaluation.correct import write_correct
from ensemw2s.evaluation.metrics import summarise
from ensemw2s.evaluation.over_cells import SweepResults
from ensemw2s.evaluation.results import Results
from ensemw2s.files import write_json
from ensemw2s.runs.lock import RunLock
from ensemw2s.runs.stage import Stages
from ensemw2s.runs.verify import verify
from ensemw2s.sweeps import run as sweep_run
from ensemw2s.sweeps.plan import Job, plan_sweep
from ensemw2s.sweeps.run import run_sweep

#: The real one; tests that run anything have another.
FIRST_GUESS_OF = sweep_run.first_guess


def composer(**fixed):
    def composed(settings):
        return compose(flags={"x": ("name", "mini")} | {k: (k, v) for k, v in {**fixed, **settings}.items()})

    return composed


def planned(name="mini", seeds=(0, 1), over=None, baseline=None, **fixed):
    over = over or {"boosting.rounds": [1, 2]}
    return plan_sweep(over, {}, seeds, composer(name=name, **fixed), baseline=baseline)


# --- which cells there are


def test_grid_and_names():
    plan = plan_sweep(
        {"boosting.level": ["token", "example"], "boosting.rounds": [3, 5], "boosting.cap": [None, 20.0]},
        {},
        [0, 1],
        composer(),
    )
    assert len(plan.cells) == 8
    assert plan.cells[0].name == plan.baseline == "level=token,rounds=3,cap=null"
    assert plan.cells[-1].settings == {"boosting.level": "example", "boosting.rounds": 5, "boosting.cap": 20.0}
    assert plan.cells[-1].composed.config.boosting.cap == 20.0
    assert [job.seed for job in plan.jobs] == [0] * 8 + [1] * 8
    assert plan.jobs[0].directory == Path("cells/level=token,rounds=3,cap=null/seed-0")


def test_names_tell_keys_with_the_same_end_apart():
    plan = plan_sweep({"training.expert.steps": [1, 2], "training.student.steps": [1, 2]}, {}, [0], composer())
    assert plan.cells[1].name == "expert.steps=1,student.steps=2"


def test_listed_cells_with_and_without_a_grid():
    listed = {"short": {"training.expert.steps": 5}, "long run": {"training.expert.steps": 50, "boosting.rounds": 7}}
    plan = plan_sweep({}, listed, [3], composer(), baseline="long run")
    assert [cell.name for cell in plan.cells] == ["short", "long run"]
    assert plan.cells[1].folder.startswith("long-run-")
    assert plan.cells[1].composed.config.boosting.rounds == 7
    both = plan_sweep({"boosting.shrinkage": [0.5, 1.0]}, listed, [3], composer(), baseline="short,shrinkage=1.0")
    assert len(both.cells) == 4
    assert both.baseline == "short,shrinkage=1.0"


@pytest.mark.parametrize(
    "wanted", ["level=example,rounds=2", {"boosting.level": "example", "boosting.rounds": 2}, "rounds=2,level=example"]
)
def test_baselines(wanted):
    over = {"boosting.level": ["token", "example"], "boosting.rounds": [1, 2]}
    assert planned(over=over, baseline=wanted).baseline == "level=example,rounds=2"


def test_arms_that_no_run_has_are_not_compared():
    arms = ("plain_long", "expert_2", "student_chain", "single")
    assert plan_sweep({"boosting.rounds": [2, 3]}, {}, [0], composer(), compared=arms).compared[:3] == arms[:3]
    with pytest.raises(InputError, match=r"No run has an arm 'ensembel' to compare \(did you mean 'ensemble'\?\)"):
        plan_sweep({"boosting.rounds": [2, 3]}, {}, [0], composer(), compared=["ensembel"])


@pytest.mark.parametrize("wanted", ["level=token", "nonsense", {"boosting.rounds": 9}])
def test_baselines_that_are_none(wanted):
    over = {"boosting.level": ["token", "example"], "boosting.rounds": [1, 2]}
    with pytest.raises(ConfigError, match="baseline") as caught:
        planned(over=over, baseline=wanted)
    assert "level=token,rounds=1" in caught.value.hint


def test_an_invalid_combination_is_one_cell_and_no_more():
    over = {"boosting.draw": ["example", "none"], "boosting.errors": ["train", "out_of_bag"]}
    plan = planned(over=over)
    assert [cell.problem is None for cell in plan.cells] == [True, True, True, False]
    assert "out_of_bag needs draw: example" in plan.cells[-1].problem
    assert len(plan.jobs) == 6
    with pytest.raises(ConfigError, match="not valid"):
        planned(over=over, baseline=plan.cells[-1].name)


def test_a_key_that_does_not_exist_is_an_error():
    with pytest.raises(ConfigError, match="roundz"):
        planned(over={"boosting.roundz": [1, 2]})


def test_nothing_to_sweep_and_bad_seeds():
    with pytest.raises(InputError, match="something to sweep"):
        plan_sweep({}, {}, [0], composer())
    for seeds in ([], [1, 1], [-1]):
        with pytest.raises(InputError, match="different seeds"):
            planned(seeds=seeds)


# --- running them


class Heard:
    """A watcher that keeps what it hears, and can interrupt."""

    def __init__(self, until=None):
        self.said = []
        self.statuses = []
        self.until = until

    def started(self, job, directory):
        self.said.append(("started", job.name))

    def finished(self, job, seconds, status):
        self.said.append(("finished", job.name))
        self.statuses.append(status)

    def failed(self, job, error, status):
        self.said.append(("failed", job.name, error))

    def tick(self, status):
        self.statuses.append(status)
        if self.until is not None and self.until():
            raise KeyboardInterrupt

    def of(self, kind):
        return sorted(line[1] for line in self.said if line[0] == kind)


@pytest.fixture(scope="module")
def stored_results(tmp_path_factory):
    """Results for the stand-in: files ``N.json`` in which N of 10 answers are right."""
    folder = tmp_path_factory.mktemp("results")
    for count in range(6, 10):
        right = [k % 10 < count for k in range(50)]
        arm = {"test": summarise(right), "hard_test": summarise(right[::-1])}
        arms = {"plain": arm, "ensemble": arm}
        ids = {split: [f"{split}-{k}" for k in range(50)] for split in arm}
        correct = {name: {"test": right, "hard_test": right[::-1]} for name in arms}
        write_correct(folder / f"{count}.parquet", correct, ids)
        Results(name="", seed=0, task="choice", config_fingerprint="", arms=arms, times={"data": 1.0}).write(
            folder / f"{count}.json"
        )
    return folder


def write_order(file, content):
    write_json(file, {**content, "fingerprint": config_fingerprint(content["config"])})


@pytest.fixture(autouse=True)
def stand_in(monkeypatch, stored_results):
    monkeypatch.setenv("SWEEP_JOB_RESULTS", str(stored_results))
    command = (sys.executable, "-I", "-S", str(Path(__file__).with_name("sweep_job.py")))
    monkeypatch.setattr(sweep_run, "COMMAND", command)
    monkeypatch.setattr(sweep_run, "write_json", write_order)
    monkeypatch.setattr(sweep_run, "_POLL", 0.01)
    monkeypatch.setattr(sweep_run, "visible_devices", lambda environ: [])
    monkeypatch.setattr(sweep_run, "available_memory", lambda: 2**40)
    monkeypatch.setattr(sweep_run, "first_guess", lambda plan: 2**30)


def starts(root, job):
    return len((root / job.directory / "starts").read_text())


def test_all_runs_and_what_they_say(tmp_path):
    plan, heard = planned(seeds=(0, 1, 2)), Heard()
    results = run_sweep(plan, tmp_path / "s", heard, jobs=2)
    assert heard.of("finished") == sorted(job.name for job in plan.jobs)
    assert SweepResults.read(tmp_path / "s" / "sweep.json") == results
    assert [cell.state for cell in results.cells] == ["finished", "finished"]
    # seed 1 adds a tenth to both cells, the second round another
    assert results.cells[0].arms["ensemble"]["test"].values == pytest.approx((0.6, 0.7, 0.6))
    found = results.comparison("rounds=2", "ensemble", "test")
    assert found.mean == pytest.approx(0.1)
    assert max(len(status.running) for status in heard.statuses) == 2
    assert heard.statuses[-1].done == 6
    left = [status.left for status in heard.statuses if status.left is not None]
    assert left[-1] == 0.0 < max(left)
    rows = list(csv.DictReader((tmp_path / "s" / "sweep.csv").read_text().splitlines()))
    assert len(rows) == 6 * 2 * 2
    assert rows[0] | {"low": "", "high": ""} == {
        "cell": "rounds=1", "boosting.rounds": "1", "seed": "0", "arm": "plain", "split": "test", "accuracy": "0.6",
        "low": "", "high": "", "n": "50", "token_accuracy": "", "build_flops": "",
    }  # fmt: skip
    compared = list(csv.DictReader((tmp_path / "s" / "comparisons.csv").read_text().splitlines()))
    assert {(row["cell"], row["arm"], row["seeds"]) for row in compared} == {("rounds=2", "ensemble", "3")}
    assert (tmp_path / "s" / "cells" / "rounds=1" / "aggregate.json").exists()


def test_repeating_keeps_what_is_finished_and_a_changed_cell_runs_again(tmp_path):
    run_sweep(planned(), tmp_path, Heard())
    again = Heard()
    first = run_sweep(planned(), tmp_path, again)
    assert again.said == []
    more = planned(over={"boosting.rounds": [1, 2, 3]}, seeds=(0, 1))
    heard = Heard()
    results = run_sweep(more, tmp_path, heard)
    assert heard.of("started") == ["rounds=3, seed 0", "rounds=3, seed 1"]
    assert results.cells[0] == first.cells[0]
    other = plan_sweep({"boosting.rounds": [1]}, {}, [0], composer(**{"ensemble.top_k": 3}))
    heard = Heard()
    run_sweep(other, tmp_path, heard)
    assert heard.of("started") == ["rounds=1, seed 0"]


def test_a_finished_run_with_damage_runs_again(tmp_path):
    plan = planned()
    run_sweep(plan, tmp_path, Heard())
    stage = Stages(tmp_path / plan.jobs[1].directory)
    stage.ensure("experts/round-01", {}, lambda partial: (partial / "weights").write_text("weights"))
    heard = Heard()
    run_sweep(plan, tmp_path, heard)
    assert heard.said == []
    (stage.root / "experts" / "round-01" / "weights").write_text("weightz")
    for name in ("sweep.json", "cells/rounds=1/aggregate.json"):
        (tmp_path / name).write_text((tmp_path / name).read_text().replace("0.6", "0.7", 1))
    with pytest.raises(DamagedError, match=r"sweep\.json is damaged"):
        SweepResults.read(tmp_path / "sweep.json")
    assert [one.path.name for one in verify(tmp_path).damaged] == ["sweep.json", "aggregate.json", "weights"]
    run_sweep(plan, tmp_path, heard)
    assert heard.of("started") == [plan.jobs[1].name]
    assert [one.path.name for one in verify(tmp_path).damaged] == ["weights"]  # the stand-in makes no stages


def test_a_failed_run_does_not_stop_the_others_and_is_tried_again(tmp_path):
    plan, heard = planned("once-0"), Heard()
    results = run_sweep(plan, tmp_path, heard, jobs=2)
    assert heard.of("finished") == ["rounds=1, seed 0", "rounds=1, seed 1", "rounds=2, seed 1"]
    assert [line for line in heard.said if line[0] == "failed"] == [("failed", "rounds=2, seed 0", "the data are bad.")]
    states = {(cell.name, job.seed): (job.state, job.error) for cell in results.cells for job in cell.jobs}
    assert states["rounds=2", 0] == ("failed", "the data are bad.")
    assert results.cells[1].state == "failed, 1/2"
    assert results.comparison("rounds=2", "ensemble", "test").seeds == (1,)
    heard = Heard()
    results = run_sweep(plan, tmp_path, heard)
    assert heard.of("finished") == ["rounds=2, seed 0"]
    assert [cell.state for cell in results.cells] == ["finished", "finished"]
    assert starts(tmp_path, Job(plan.cells[1], 0)) == 2


def test_a_killed_run_is_explained(tmp_path):
    heard = Heard()
    results = run_sweep(planned("die-1"), tmp_path, heard)
    assert "memory runs out" in heard.said[-1][2]
    assert results.cells[1].jobs[1].state == "failed"


def test_an_interrupted_sweep_stops_its_runs_and_continues(tmp_path):
    plan = planned("wait-0")
    waiting = tmp_path / plan.jobs[1].directory

    def both():
        return (waiting / "waits").exists() and (tmp_path / plan.jobs[0].directory / "results.json").exists()

    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, tmp_path, Heard(both), jobs=2)
    assert (waiting / "stopped").exists()
    left = SweepResults.read(tmp_path / "sweep.json")
    assert left.cells[0].jobs[0].state == "finished"
    assert left.cells[1].jobs[0].state == "interrupted"
    with RunLock(tmp_path):
        pass  # given back
    order = json.loads(waiting.with_suffix(".json").read_text())
    assert order["config"]["seed"] == 0
    assert order["shared"] == str(tmp_path)
    (tmp_path / "trunk").mkdir()  # what the runs keep together goes when all are done
    with pytest.raises(KeyboardInterrupt):
        run_sweep(planned("wait-9"), tmp_path, Heard(lambda: True))
    assert (tmp_path / "trunk").exists()
    heard = Heard()
    healed = planned("wait-9")  # the same sweep, but nothing waits any more
    run_sweep(healed, tmp_path, heard, jobs=2)
    assert set(heard.of("finished")) == {job.name for job in plan.jobs}
    assert not (tmp_path / "trunk").exists()


def test_two_sweeps_in_one_directory(tmp_path):
    with RunLock(tmp_path), pytest.raises(RunBusyError):
        run_sweep(planned(), tmp_path, Heard())


def test_memory_decides_how_many_run_at_once(tmp_path, monkeypatch):
    """With room for one and a half, the second waits until the first is done and told its size; one always runs."""
    monkeypatch.setattr(sweep_run, "available_memory", lambda: int(1.5 * 2**30))
    monkeypatch.setattr(sweep_run, "process_memory", lambda pid: 2**28)
    heard = Heard()
    run_sweep(planned(), tmp_path / "tight", heard, jobs=4)
    early = [len(status.running) for status in heard.statuses if status.done == 0]
    late = [len(status.running) for status in heard.statuses if status.done > 0]
    assert max(early) == 1 < max(late)
    monkeypatch.setattr(sweep_run, "available_memory", lambda: 0)
    heard = Heard()
    run_sweep(planned(), tmp_path / "none", heard, jobs=4)
    assert max(len(status.running) for status in heard.statuses) == 1
    assert any(status.waiting_for_memory for status in heard.statuses)


def test_devices_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_run, "visible_devices", lambda environ: ["4", "7"])
    monkeypatch.setattr(sweep_run, "device_memory", lambda device: None)
    given = []
    start = subprocess.Popen

    def popen(*args, env, **rest):
        given.append(env["CUDA_VISIBLE_DEVICES"])
        return start(*args, env=env, **rest)

    monkeypatch.setattr(subprocess, "Popen", popen)
    heard = Heard()
    run_sweep(planned(), tmp_path, heard, jobs=3)
    assert given[:2] == ["4", "7"]
    assert max(len(status.running) for status in heard.statuses) == 2  # nobody knows what a device has room for


def test_the_first_guess_follows_the_models():
    from ensemw2s.models.loading.info import parameter_count

    plan = planned(over={"training.student.lora": [None, {"r": 4}]})
    config = plan.cells[0].composed.config
    weak, strong = parameter_count(config.models.weak), parameter_count(config.models.strong)
    assert FIRST_GUESS_OF(plan) == sweep_run.FIRST_GUESS + 16 * max(weak, strong)
    lost = planned(**{"models.weak.path": "/nowhere", "models.strong.path": "/nowhere"})
    assert FIRST_GUESS_OF(lost) == sweep_run.FIRST_GUESS


@pytest.mark.slow
def test_a_real_sweep(tmp_path, monkeypatch, mini_config):
    """Through real processes and the real pipeline; the same numbers as a run of its own."""
    monkeypatch.setattr(sweep_run, "COMMAND", (sys.executable, "-P", "-m", "ensemw2s.sweeps.job"))
    monkeypatch.setattr(sweep_run, "write_json", write_json)
    from ensemw2s.pipeline.run import execute
    from ensemw2s.sink import NullSink

    small = {"arms.plain": False, "arms.bagging": False, "arms.students": ["ensemble"]}
    base = mini_config(**small)

    def composed(settings):
        made = compose(flags={"x": ("boosting.level", settings["boosting.level"])})
        changed = base.model_copy(
            update={"boosting": base.boosting.model_copy(update={"level": settings["boosting.level"]})}
        )
        return type(made)(changed, {}, {}, None)

    plan = plan_sweep({"boosting.level": ["token", "example"]}, {}, [0], composed)
    results = run_sweep(plan, tmp_path / "s", Heard(), jobs=2)
    assert [cell.state for cell in results.cells] == ["finished", "finished"]
    alone = execute(base, tmp_path / "alone", sink=NullSink(), report=False)
    assert results.cells[0].arms["ensemble"]["test"].values[0] == alone["arms"]["ensemble"]["test"]["accuracy"]
    assert results.cells[0].costs["ensemble"] == alone["arm_costs"]["ensemble"]["total"]

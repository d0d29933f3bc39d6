from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ensemw2s.config import compose
from ensemw2s.errors import ConfigError, InputError, RunBusyError
from ensemw2s.evaluation.over_cells import SweepResults
from ensemw2s.pipeline import job as job_module
from ensemw2s.pipeline import resources, sweep_run
from ensemw2s.pipeline.sweep import Job, plan_sweep
from ensemw2s.pipeline.sweep_file import flat, parse_over, read_sweep_file
from ensemw2s.pipeline.sweep_run import run_sweep
from ensemw2s.runs import RunLock

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


def test_values_are_yaml():
    assert parse_over("boosting.rounds=3, 5") == ("boosting.rounds", [3, 5])
    assert parse_over("boosting.cap=null,20.0") == ("boosting.cap", [None, 20.0])
    assert parse_over("arms.students=[single],[single,ensemble]") == (
        "arms.students",
        [["single"], ["single", "ensemble"]],
    )
    for bad in ("boosting.rounds", "=3", "a=", "a= "):
        with pytest.raises(InputError, match="of the form"):
            parse_over(bad)
    with pytest.raises(InputError, match="twice"):
        parse_over("a=1,1")


def test_the_file(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "preset: tiny\nset: {boosting: {cap: 20.0}}\nover:\n  boosting.rounds: [3, 5]\n  boosting.level: token\n"
        "cells:\n  a: {training.expert.steps: 3}\n  b:\nseeds: [0, 1]\nbaseline: {boosting.rounds: 3}\njobs: 2\n"
    )
    said = read_sweep_file(path)
    assert said.over == {"boosting.rounds": [3, 5], "boosting.level": ["token"]}
    assert said.set == {"boosting.cap": 20.0}
    assert said.cells == {"a": {"training.expert.steps": 3}, "b": {}}
    assert (said.preset, said.seeds, said.jobs) == ("tiny", [0, 1], 2)
    for text, wrong in (
        ("presets: tiny\n", "no key 'presets'"),
        ("jobs: two\n", "jobs needs a number"),
        ("seeds: 3\n", "seeds needs a list"),
        ("cells: {a: 3}\n", "cells.a needs keys"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=wrong):
            read_sweep_file(path)
    assert flat({"a": {"b": {"c": 1}}, "d.e": 2}) == {"a.b.c": 1, "d.e": 2}


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


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(sweep_run, "COMMAND", (sys.executable, str(Path(__file__).with_name("sweep_job.py"))))
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
        "cell": "rounds=1", "boosting.rounds": "1", "seed": "0", "arm": "single", "split": "test", "accuracy": "0.6",
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
    assert not RunLock(tmp_path).held
    order = json.loads(waiting.with_suffix(".json").read_text())
    assert order["config"]["seed"] == 0
    heard = Heard()
    healed = planned("wait-9")  # the same sweep, but nothing waits any more
    run_sweep(healed, tmp_path, heard, jobs=2)
    assert set(heard.of("finished")) == {job.name for job in plan.jobs}


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


# --- one run


def write_order(tmp_path, config):
    path = tmp_path / "job.json"
    path.write_text(
        json.dumps(
            {
                "config": config.model_dump(mode="json"),
                "provenance": {"seed": "--seeds"},
                "preset": "tiny",
                "directory": str(tmp_path / "run"),
            }
        )
    )
    return path


def test_job(tmp_path, monkeypatch, mini_config, capsys):
    calls = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    path = write_order(tmp_path, mini_config(seed=3))

    def execute(config, directory, *, sink, provenance, preset):
        calls.append((config, directory, provenance, preset))
        if len(calls) > 1:
            raise (ConfigError("a key\nis wrong.", hint="Fix it."), ValueError("boom"), KeyboardInterrupt())[
                len(calls) - 2
            ]

    monkeypatch.setattr("ensemw2s.pipeline.run.execute", execute)
    assert job_module.main([str(path)]) == 0
    assert calls == [(mini_config(seed=3), tmp_path / "run", {"seed": "--seeds"}, "tiny")]
    assert job_module.main([str(path)]) == 2
    assert capsys.readouterr().err == "Error: a key is wrong. Fix it.\n"
    assert job_module.main([str(path)]) == 1
    assert capsys.readouterr().err.endswith("Error: ValueError: boom\n")
    assert job_module.main([str(path)]) == 130


def test_a_run_ends_with_the_sweep_that_started_it(tmp_path):
    """Killed without a chance to stop its runs, a sweep leaves none behind."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    inner = (
        "import os, signal, threading, time\n"
        "from ensemw2s.pipeline.job import _stop, _watch_parent\n"
        "signal.signal(signal.SIGTERM, _stop)\n"
        "threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, inner], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    time.sleep(1.0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while resources.process_memory(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not resources.process_memory(child)


# --- resources


def test_memory_of_a_container(tmp_path):
    machine = resources.available_memory(tmp_path / "missing")
    assert machine > 2**20
    for name, text in (
        ("memory.max", "1000"),
        ("memory.current", "900"),
        ("memory.stat", "anon 1\ninactive_file 50\n"),
    ):
        (tmp_path / name).write_text(text)
    assert resources.available_memory(tmp_path) == 150
    (tmp_path / "memory.max").write_text("max")
    assert resources.available_memory(tmp_path) > 2**20


def test_processes_and_devices(monkeypatch):
    assert resources.process_memory(os.getpid()) > 2**20
    assert resources.process_memory(2**22 + 12345) == 0
    assert resources.visible_devices({"CUDA_VISIBLE_DEVICES": "1, 3"}) == ["1", "3"]
    assert resources.visible_devices({"CUDA_VISIBLE_DEVICES": ""}) == []
    monkeypatch.setattr(resources.shutil, "which", lambda name: None)
    assert resources.visible_devices({}) == []
    assert resources.device_memory("0") is None
    monkeypatch.setattr(resources, "_ask", lambda field, device=None: ["81000"] if device else ["0", "1"])
    assert resources.visible_devices({}) == ["0", "1"]
    assert resources.device_memory("1") == 81000 * 2**20


def test_the_first_guess_follows_the_models():
    from ensemw2s.models.info import parameter_count

    plan = planned(over={"training.student.lora": [None, {"r": 4}]})
    config = plan.cells[0].composed.config
    weak, strong = parameter_count(config.models.weak), parameter_count(config.models.strong)
    assert FIRST_GUESS_OF(plan) == sweep_run.FIRST_GUESS + 16 * max(weak, strong)
    lost = planned(**{"models.weak.path": "/nowhere", "models.strong.path": "/nowhere"})
    assert FIRST_GUESS_OF(lost) == sweep_run.FIRST_GUESS


@pytest.mark.slow
def test_a_real_sweep(tmp_path, monkeypatch, mini_config):
    """Through real processes and the real pipeline; the same numbers as a run of its own."""
    monkeypatch.setattr(sweep_run, "COMMAND", (sys.executable, "-P", "-m", "ensemw2s.pipeline.job"))
    from ensemw2s.pipeline import execute
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
    alone = execute(base, tmp_path / "alone", sink=NullSink())
    assert results.cells[0].arms["ensemble"]["test"].values[0] == alone["arms"]["ensemble"]["test"]["accuracy"]
    assert results.cells[0].costs["ensemble"] == alone["arm_costs"]["ensemble"]["total"]

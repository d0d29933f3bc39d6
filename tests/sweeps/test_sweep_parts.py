"""What a sweep is made of: its file, and the process of one run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ensemw2s import resources
from ensemw2s.config.composition import compose
from ensemw2s.errors import ConfigError, InputError
from ensemw2s.sink import NullSink
from ensemw2s.sweeps import job as job_module
from ensemw2s.sweeps import seeds
from ensemw2s.sweeps.file import flat, parse_over, read_sweep_file
from ensemw2s.sweeps.plan import plan_sweep


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
        ("jobs: two\n", "jobs needs a positive whole number"),
        ("jobs: 0\n", "jobs needs a positive"),
        ("jobs: yes\n", "jobs needs a positive"),
        ("name: 3\n", "name needs a text"),
        ("set: [a]\n", "set needs keys"),
        ("config: [3]\n", "config needs a list of paths"),
        ("config: {a: b}\n", "config needs a list of paths"),
        ("seeds: 3\n", "seeds needs a list"),
        ("seeds: [a]\n", "line 1: seeds needs a list of whole numbers"),
        ("name: x\nseeds: [0, 1.5]\n", "line 2: seeds needs a list of whole numbers"),
        ("seeds: [-1]\n", "seeds needs a list of whole numbers, none negative"),
        ("seeds: [true]\n", "seeds needs a list of whole numbers"),
        ("compare: [3]\n", "compare needs a list of arms"),
        ("compare: ensemble\n", "compare needs a list of arms"),
        ("baseline: 3\n", "baseline needs the name of a cell"),
        ("over: {boosting.rounds: []}\n", "over.boosting.rounds has no values"),
        ("cells: {a: 3}\n", "cells.a needs keys"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=wrong):
            read_sweep_file(path)
    assert flat({"a": {"b": {"c": 1}}, "d.e": 2}) == {"a.b.c": 1, "d.e": 2}


def write_order(tmp_path, config):
    path = tmp_path / "job.json"
    path.write_text(
        json.dumps(
            {
                "config": config.model_dump(mode="json"),
                "provenance": {"seed": "--seeds"},
                "preset": "tiny",
                "directory": str(tmp_path / "run"),
                "shared": str(tmp_path),
            }
        )
    )
    return path


def test_job(tmp_path, monkeypatch, mini_config, capsys):
    calls = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    path = write_order(tmp_path, mini_config(seed=3))

    def execute(config, directory, *, sink, provenance, preset, date, shared):
        assert shared == tmp_path
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


def test_seeds_keep_their_hidden_states_together(tmp_path, monkeypatch, mini_config):
    def execute(config, directory, *, shared, **_):
        assert shared == tmp_path
        (shared / "trunk" / f"{config.seed:032x}").mkdir(parents=True)

    def read(_):
        assert not (tmp_path / "trunk").exists()
        raise LookupError("gone")

    monkeypatch.setattr(seeds, "execute", execute)
    monkeypatch.setattr(seeds.Results, "read", read)
    with pytest.raises(LookupError, match="gone"):
        seeds.execute_seeds(mini_config(), tmp_path, [3, 4], sink=NullSink())


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
        "from ensemw2s.sweeps.job import _stop, _watch_parent\n"
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


STUDIES = Path(__file__).parents[2] / "benchmarks/studies"


@pytest.mark.parametrize("study", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_studies_are_valid_and_use_seeds_that_nothing_was_chosen_on(study):
    said = read_sweep_file(study)

    def composed(settings):
        flags = {f"set {key}": (key, value) for key, value in {**said.set, **settings}.items()}
        return compose(said.preset, [Path(name) for name in said.config], (), {}, flags=flags)

    plan = plan_sweep(said.over, said.cells, said.seeds, composed, baseline=said.baseline)
    assert [cell.problem for cell in plan.cells] == [None] * len(plan.cells)
    assert max(plan.seeds) < 100
    for cell in plan.cells:  # every control of the boosted ensemble that costs as much
        assert all(cell.composed.config.has_arm(arm) for arm in ("plain_long", "seeds", "bagging", "chain"))


def test_the_map_is_an_orthogonal_fraction():
    """Each level of a factor meets each level of another once, and names say what settings do."""
    cells = read_sweep_file(STUDIES / "map.yaml").cells
    levels = {name: [part.split("=")[1] for part in name.split(",")] for name in cells}
    assert len(cells) == 9
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert len({(found[a], found[b]) for found in levels.values()}) == 9
    bases = {"layer": {"models.weak.keep_layers": 1}, "weak": {}, "strong": {"models.weak.path": "embedded:strong"}}
    for name, settings in cells.items():
        train, base, noise = levels[name]
        wanted = {"data.split.train": int(train), **bases[base]}
        assert settings == wanted | ({} if noise == "0" else {"data.label_noise": float(noise)})

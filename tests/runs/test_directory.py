"""The run directory as a whole and the listing of runs."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.errors import InputError, RunFailedError
from ensemw2s.files import write_json
from ensemw2s.runs.directory import RunDirectory, new_run_directory
from ensemw2s.runs.heartbeat import read_heartbeat
from ensemw2s.runs.listing import describe_run, list_runs
from ensemw2s.runs.reader import read_events
from ensemw2s.runs.schema import validate

Wait = Callable[[Callable[[], object]], None]


def _start(log: Any, **fields: Any) -> None:
    body: dict[str, Any] = {
        "name": "run",
        "seed": 0,
        "task": "choice",
        "preset": None,
        "config_fingerprint": "f",
        "resumed": False,
        "versions": {},
        "host": "h",
    }
    log.event("run_started", **{**body, **fields})


def _result(log: Any, arm: str, accuracy: float) -> None:
    log.event("arm_result", arm=arm, split="test", accuracy=accuracy, low=0.0, high=1.0, n=9, token_accuracy=None)


def test_create_takes_new_empty_and_run_folders_only(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "a" / "b")
    RunDirectory.create(run.path)
    with run.writing():
        pass
    RunDirectory.create(run.path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match="not empty"):
        RunDirectory.create(tmp_path / "other")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        RunDirectory.create(tmp_path / "other" / "thesis.tex")


def test_open_wants_a_run(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="run directory") as caught:
            RunDirectory.open(path)
        assert caught.value.hint == "List the runs with: ew2s runs list"


def test_new_run_directories_have_a_date_and_do_not_collide(tmp_path: Path) -> None:
    first, second = (new_run_directory(tmp_path / "runs", "tiny", now=1_800_000_000.0) for _ in range(2))
    assert first.name.endswith("-tiny")
    assert first.name.startswith("2027-01-1")
    assert second.name == first.name + "-2"


def test_config_round_trip(tmp_path: Path) -> None:
    from ensemw2s.config.schema import RunConfig

    run = RunDirectory.create(tmp_path / "r")
    config = RunConfig(name="mine", seed=5)
    run.save_config(config, {"seed": "--set"})
    assert run.load_config() == config


def test_a_session_ends_as_what_happened(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "r")

    def state() -> str | None:
        beat = read_heartbeat(run.path)
        return None if beat is None else beat.state

    with run.writing() as log:
        assert state() == "running"
        _start(log)
    assert state() == "incomplete"
    with run.writing() as log:
        log.event("run_finished", seconds=1.0)
    assert state() == "finished"
    with pytest.raises(ZeroDivisionError), run.writing() as log, run.stages.stage("experts/round-02", {}):
        raise ZeroDivisionError("by nothing")
    assert state() == "failed"
    with pytest.raises(KeyboardInterrupt), run.writing():
        raise KeyboardInterrupt
    assert state() == "incomplete"
    events = read_events(run.path / "events.jsonl")
    assert all(validate(event) == [] for event in events)
    failed = [e for e in events if e["kind"] == "run_failed"]
    assert [(e["error"], e["stage"]) for e in failed] == [("by nothing", "experts/round-02")]
    assert events[-1]["kind"] == "message"
    run.lock.acquire()  # given back


def test_a_full_disk_anywhere_is_explained(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "r")
    with pytest.raises(RunFailedError, match="disk is full"), run.writing():
        raise OSError(errno.ENOSPC, "No space left on device")


def test_system_metrics_are_sampled(tmp_path: Path, wait_until: Wait) -> None:
    run = RunDirectory.create(tmp_path / "r")
    with run.writing(heartbeat_every=0.01):
        wait_until(lambda: read_events(run.path / "metrics.jsonl"))
    records = read_events(run.path / "metrics.jsonl")
    assert all(validate(record, "metrics") == [] for record in records)
    assert records[0]["rss"] > 1e6


def test_list_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").touch()
    old = RunDirectory.create(tmp_path / "old")
    with old.writing() as log:
        _start(log, preset="tiny", seed=3, config_fingerprint="aaa")
        _result(log, "single", 0.1)
        _start(log, preset="tiny", seed=3, config_fingerprint="bbb", resumed=True)
        log.event("stage_started", stage="data")
        log.event("stage_finished", stage="data", seconds=1.0, cached=False)
        _result(log, "ensemble", 0.75)
        write_json(old.results_path, {"config_fingerprint": "bbb"})
        log.event("run_finished", seconds=2.0)
    nested = RunDirectory.create(tmp_path / "many" / "seed-1")
    with nested.writing() as log:
        _start(log, seed=1)
    with pytest.raises(ZeroDivisionError), nested.writing():
        raise ZeroDivisionError
    runs = list_runs(tmp_path)
    assert [(run.name, run.state, run.seed, run.preset) for run in runs] == [
        ("many/seed-1", "failed", 1, None),
        ("old", "finished", 3, "tiny"),
    ]
    assert runs[1].accuracy == {"ensemble/test": 0.75}
    assert (runs[1].fingerprint, runs[1].stage, runs[1].task) == ("bbb", "data", "choice")
    assert [run.unfinished for run in runs] == [True, False]
    assert runs[1].to_json()["path"] == str(tmp_path / "old")


@pytest.mark.parametrize(
    ("fingerprint", "state"), [("now", "finished"), ("before", "incomplete"), (None, "incomplete")]
)
def test_only_results_of_the_same_configuration_make_a_run_finished(
    tmp_path: Path, fingerprint: str | None, state: str
) -> None:
    run = RunDirectory.create(tmp_path / "r")
    with run.writing() as log:
        _start(log, config_fingerprint="now")
        if fingerprint is not None:
            write_json(run.results_path, {"config_fingerprint": fingerprint})
        log.event("run_finished", seconds=2.0)
    assert describe_run(run.path).state == state


def test_states_without_a_heartbeat(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    assert describe_run(tmp_path).state == "incomplete"
    (tmp_path / "events.jsonl").write_bytes(b'{"kind":"run_started"\n\xff"kind":"run_started"\n"kind":"run_started"')
    assert describe_run(tmp_path).seed is None
    (tmp_path / "results.json").write_text("{}")
    assert describe_run(tmp_path).state == "finished"
    assert describe_run(tmp_path).updated is not None

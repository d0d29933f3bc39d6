"""``run`` and its parts: which directory, what is printed where, and the next command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.cli.dashboard import command as dashboard
from ensemw2s.cli.options import parse_seeds
from ensemw2s.runs.directory import RunDirectory
from ensemw2s.runs.listing import list_runs
from ensemw2s.runs.lock import RunLock

Command = Callable[..., Any]
TINY = ("run", "--preset", "tiny")


def _runs() -> list[str]:
    return sorted(run.name for run in list_runs(Path("runs")))


def test_a_run_makes_a_directory_prints_the_table_and_names_the_next_command(ew2s: Command, pipeline: Any) -> None:
    done = ew2s(*TINY, "--seed", 4, "--device", "cpu")
    assert done.code == 0
    (name,) = _runs()
    assert name.endswith("-tiny")
    (call,) = pipeline.calls
    assert call["config"].seed == 4
    assert call["preset"] == "tiny"
    assert call["provenance"]["seed"] == "--seed"
    assert call["provenance"]["compute.device"] == "--device"
    assert call["run_dir"] == Path("runs") / name
    assert "single expert" in done.out
    assert "Run directory" not in done.out
    assert f"Run directory: runs/{name}\n" in done.err
    assert f"Next: ew2s score runs/{name} questions.jsonl\n" in done.err


def test_the_same_command_finds_its_finished_run(ew2s: Command, pipeline: Any) -> None:
    first = ew2s(*TINY)
    again = ew2s(*TINY)
    assert len(pipeline.calls) == 1
    assert again.out == first.out
    assert "has a finished run" in again.err
    ew2s(*TINY, "--force-new")
    assert len(_runs()) == 2
    ew2s(*TINY, "--seed", 1)
    assert len(_runs()) == 3


def test_the_same_command_continues_the_latest_unfinished_run(ew2s: Command, pipeline: Any) -> None:
    pipeline.fail = KeyboardInterrupt()
    done = ew2s(*TINY)
    assert done.code == 130
    pipeline.fail = None
    done = ew2s(*TINY)
    assert done.code == 0
    assert [call["run_dir"] for call in pipeline.calls] == [Path("runs") / _runs()[0]] * 2
    assert "Continuing in" in done.err


def test_a_run_that_was_killed_before_its_first_event_is_found_by_its_config(ew2s: Command, pipeline: Any) -> None:
    ew2s(*TINY, "--out", "runs/killed")
    for name in ("events.jsonl", "heartbeat", "results.json"):
        (Path("runs/killed") / name).unlink()
    ew2s(*TINY)
    assert pipeline.calls[1]["run_dir"] == Path("runs/killed")
    (Path("runs/killed") / "config.yaml").write_text("nonsense: 1\n")
    for name in ("events.jsonl", "heartbeat", "results.json"):
        (Path("runs/killed") / name).unlink()
    ew2s(*TINY)
    assert pipeline.calls[2]["run_dir"] != Path("runs/killed")


def test_a_named_directory_is_always_continued(ew2s: Command, pipeline: Any) -> None:
    for _ in range(2):
        assert ew2s(*TINY, "--out", "mine").code == 0
    assert len(pipeline.calls) == 2
    done = ew2s(*TINY, "--out", "mine", "--force-new")
    assert done.code == 2
    assert "exists already" in done.err


def test_the_runs_directory_from_the_environment(
    ew2s: Command, pipeline: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EW2S_RUNS_DIR", str(tmp_path / "else"))
    ew2s(*TINY)
    assert not Path("runs").exists()
    assert len(list((tmp_path / "else").iterdir())) == 1


def test_json_is_the_results_on_stdout(ew2s: Command, pipeline: Any) -> None:
    done = ew2s(*TINY, "--json")
    assert json.loads(done.out)["arms"]["single"]["test"]["n"] == 2


def test_quiet_says_nothing_but_the_table(ew2s: Command, pipeline: Any) -> None:
    done = ew2s(*TINY, "--quiet")
    assert done.err == ""
    assert "single expert" in done.out


def test_a_dry_run_does_nothing(ew2s: Command, pipeline: Any) -> None:
    done = ew2s(*TINY, "--set", "boosting.rounds=2", "--dry-run")
    assert done.code == 0
    assert pipeline.calls == []
    assert not Path("runs").exists()
    assert "  experts/round-02\n" in done.out
    assert "  experts/round-03\n" not in done.out
    assert "  boosting.rounds: 2  # --set\n" in done.out
    plan = json.loads(ew2s(*TINY, "--seeds", "0-2", "--dry-run", "--json").out)
    assert plan["seeds"] == [0, 1, 2]
    assert plan["directory"] is None
    assert plan["config"]["name"] == "tiny"


@pytest.mark.parametrize(
    ("command", "until", "following"),
    [("train-experts", "experts", "label"), ("label", "labels", "train-student"), ("train-student", "student", "run")],
)
def test_parts_of_the_pipeline_stop_early_and_name_what_follows(
    ew2s: Command, pipeline: Any, command: str, until: str, following: str
) -> None:
    done = ew2s(command, "--preset", "tiny", "--out", "mine")
    assert done.code == 0
    assert pipeline.calls[0]["until"] == until
    assert done.out == "mine\n"
    assert f"Next: ew2s {following} --config mine/config.yaml --out mine\n" in done.err
    assert json.loads(ew2s(command, "--preset", "tiny", "--out", "mine", "--json").out)["run"] == "mine"


def test_a_part_is_continued_by_the_whole(ew2s: Command, pipeline: Any) -> None:
    ew2s("train-experts", "--preset", "tiny")
    ew2s(*TINY)
    assert len(_runs()) == 1
    assert [call["until"] for call in pipeline.calls] == ["experts", None]


def test_several_seeds(ew2s: Command, pipeline: Any) -> None:
    done = ew2s(*TINY, "--seeds", "0,1")
    assert done.code == 0
    assert [call["config"].seed for call in pipeline.calls] == [0, 1]
    (root,) = Path("runs").iterdir()
    assert root.name.endswith("-tiny-seeds")
    assert "over 2 seeds" in done.out
    assert "has a finished run" in ew2s(*TINY, "--seeds", "0,1").err
    (root / "aggregate.json").unlink()
    ew2s(*TINY, "--seeds", "0,1")
    assert len(pipeline.calls) == 4
    assert len(list(Path("runs").iterdir())) == 1
    ew2s(*TINY, "--seeds", "0,1,2")
    assert pipeline.calls[4]["run_dir"].parent == root
    ew2s(*TINY, "--seeds", "7,8")
    assert len(list(Path("runs").iterdir())) == 2


def test_one_seed_of_several_is_a_single_run(ew2s: Command, pipeline: Any) -> None:
    ew2s(*TINY, "--seeds", "5")
    assert pipeline.calls[0]["config"].seed == 5
    assert _runs()[0].endswith("-tiny")
    done = ew2s(*TINY, "--seeds", "5,6", "--out", Path("runs") / _runs()[0])
    assert done.code == 2
    assert "holds a single run" in done.err


def test_seeds() -> None:
    assert parse_seeds("0,1,2") == (0, 1, 2)
    assert parse_seeds("3, 5-7") == (3, 5, 6, 7)


def test_a_run_in_use_is_refused_by_the_real_pipeline(ew2s: Command, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "busy")
    with RunLock(run.path):
        done = ew2s(*TINY, "--out", "busy")
    assert done.code == 2
    assert "Run directory in use: busy is being written by process" in done.err
    assert sorted(path.name for path in run.path.iterdir()) == ["run.lock"]


def test_report_takes_the_latest_results(ew2s: Command, pipeline: Any) -> None:
    ew2s(*TINY)
    ew2s("train-experts", "--preset", "tiny", "--seed", 9)
    finished = next(name for name in _runs() if (Path("runs") / name / "results.json").exists())
    done = ew2s("report", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["run"] == f"runs/{finished}"
    assert Path(found["report"]).read_text(encoding="utf-8").startswith("<!")
    text = ew2s("report", f"runs/{finished}")
    assert "single expert" in text.out
    assert f"Report: runs/{finished}/report/report.html" in text.out


def test_runs_list(ew2s: Command, pipeline: Any) -> None:
    assert "There are no runs" in ew2s("runs", "list").err
    ew2s(*TINY)
    pipeline.fail = RuntimeError("broken")
    ew2s(*TINY, "--seed", 1)
    done = ew2s("runs", "list")
    assert done.code == 0
    lines = [line for line in done.out.splitlines() if "tiny" in line]
    assert ["failed" in lines[0], "finished" in lines[1]] == [True, True]
    assert "50.0/–" in done.out
    assert "Next: ew2s run --config runs/" in done.err
    found = json.loads(ew2s("runs", "list", "--json").out)
    assert [(run["state"], run["seed"]) for run in found] == [("failed", 1), ("finished", 0)]
    assert json.loads(ew2s("runs", "list", "nowhere", "--json").out) == []


def test_a_finished_run_whose_files_changed_runs_again(ew2s: Command, pipeline: Any) -> None:
    ew2s(*TINY)
    pipeline.changed = ["data.source"]
    again = ew2s(*TINY)
    assert "data.source" in again.err
    assert len(pipeline.calls) == 2
    assert pipeline.calls[0]["run_dir"] == pipeline.calls[1]["run_dir"]


def test_a_watched_run_gets_the_same_options_in_the_background(
    ew2s: Command, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], Path]] = []

    def watch(words: list[str], folder: Path) -> int:
        started.append((words, folder))
        return 130

    monkeypatch.setattr(dashboard, "interactive", lambda: True)
    monkeypatch.setattr(dashboard, "run_and_watch", watch)
    options = ("--name", "mine", "--threads", 2, "--config", "more.yaml", "--set", "boosting.rounds=2")
    Path("more.yaml").write_text("boosting: {cap: 9}")
    done = ew2s(*TINY, "--seeds", 3, *options, "--dashboard")
    assert done.code == 130
    ((words, folder),) = started
    assert folder.parent == Path("runs")
    assert folder.name.endswith("-mine")
    given = [*TINY, "--seed", "3", *map(str, options)]
    assert sorted(words) == sorted([*given, "--out", str(folder)])
    assert words[0] == "run"
    assert all(words[words.index(flag) + 1] == given[given.index(flag) + 1] for flag in given[1::2])
    assert pipeline.calls == []
    assert "does not go with" in ew2s(*TINY, "--dashboard", "--json").err
    monkeypatch.setattr(dashboard, "interactive", lambda: False)
    assert "needs a terminal" in ew2s(*TINY, "--dashboard").err

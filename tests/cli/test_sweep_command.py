"""``ew2s sweep``: what it makes of its options; the running itself is tested with the pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.cli.commands import sweep as sweep_command
from ensemw2s.cli.terminal import terminal
from ensemw2s.evaluation.over_cells import JobResult, cell_result
from ensemw2s.sweeps import run as sweep_run
from ensemw2s.sweeps.plan import collect
from ensemw2s.sweeps.run import SweepStatus


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces the running of a sweep; keeps what it was asked for."""
    calls: list[dict[str, Any]] = []

    def run_sweep(plan: Any, root: Path, watcher: Any, *, jobs: int) -> Any:
        calls.append({"plan": plan, "root": root, "jobs": jobs})
        root.mkdir(parents=True, exist_ok=True)
        status = SweepStatus(len(plan.jobs), 1, 0, [(plan.jobs[0], 3.0)], 75.0, True)
        watcher.started(plan.jobs[0], root)
        watcher.tick(status)
        watcher.finished(plan.jobs[0], 12.0, status)
        watcher.failed(plan.jobs[-1], "no luck", status)
        return collect(root, plan, {plan.jobs[-1]: "no luck"})

    monkeypatch.setattr(sweep_run, "run_sweep", run_sweep)
    return calls


GRID = ("--preset", "tiny", "--over", "boosting.level=token,example", "--over", "boosting.rounds=3,5")


def test_dry_run_prints_the_cells(ew2s: Any, tmp_path: Path) -> None:
    done = ew2s("sweep", *GRID, "--seeds", "0-2", "--out", "s", "--baseline", "level=example,rounds=5", "--dry-run")
    assert done.code == 0
    assert "Runs:      12" in done.out
    assert "  level=example,rounds=5 (baseline)" in done.out
    assert not (tmp_path / "s").exists()
    made = json.loads(ew2s("sweep", *GRID, "--out", "s", "--dry-run", "--json").out)
    assert [cell["name"] for cell in made["cells"]][:2] == ["level=token,rounds=3", "level=token,rounds=5"]
    assert made["baseline"] == "level=token,rounds=3"
    assert made["seeds"] == [0]


def test_a_sweep_with_a_failed_run(ew2s: Any, ran: list[dict[str, Any]], tmp_path: Path) -> None:
    done = ew2s("sweep", *GRID, "--seeds", "0,1", "--jobs", "2", "--threads", "1", "--out", "s", "--compare", "single")
    assert done.code == 1
    (call,) = ran
    assert (call["root"], call["jobs"]) == (Path("s"), 2)
    plan = call["plan"]
    assert plan.compared == ("plain",)  # the first expert is the plain fine-tune
    config = plan.cells[1].composed.config
    assert (config.boosting.level, config.boosting.rounds, config.compute.threads) == ("token", 5, 1)
    assert plan.cells[1].composed.provenance["boosting.rounds"] == "--over boosting.rounds"
    assert plan.cells[1].composed.provenance["compute.threads"] == "--threads"
    assert "[1/8] level=token,rounds=3, seed 0: done in 12 s, about 1 min 15 s left" in done.err
    assert "level=example,rounds=5, seed 1 failed: no luck" in done.err
    assert "Memory for one more run" in done.err
    assert "Failed runs" in done.out
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["baseline"] == "level=token,rounds=3"


def test_json(ew2s: Any, ran: list[dict[str, Any]]) -> None:
    done = ew2s("sweep", *GRID, "--out", "s", "--json", "--quiet")
    assert json.loads(done.out)["cells"][0]["jobs"][0]["state"] == "waiting"


def test_the_file_and_what_wins_over_it(ew2s: Any, ran: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "ablation.yaml").write_text(
        "preset: tiny\nset: {boosting.shrinkage: 0.5, compute.threads: 2}\nover: {boosting.rounds: [2, 3]}\n"
        "cells:\n  plain: {}\n  capped: {boosting.cap: 20.0}\nseeds: [4, 5]\nbaseline: capped,rounds=2\njobs: 3\n"
        "compare: [ensemble]\nname: ablation\n"
    )
    ew2s("sweep", "ablation.yaml")
    plan = ran[-1]["plan"]
    assert (ran[-1]["root"], ran[-1]["jobs"]) == (Path("sweeps/ablation"), 3)
    assert [cell.name for cell in plan.cells] == [
        "plain,rounds=2", "plain,rounds=3", "capped,rounds=2", "capped,rounds=3",
    ]  # fmt: skip
    assert (plan.baseline, plan.seeds, plan.compared) == ("capped,rounds=2", (4, 5), ("ensemble",))
    assert plan.name == "ablation"
    config = plan.cells[3].composed.config
    assert (config.boosting.cap, config.boosting.rounds, config.boosting.shrinkage) == (20.0, 3, 0.5)
    ew2s("sweep", "ablation.yaml", "--over", "boosting.rounds=7", "--seeds", "9", "--jobs", "1", "--threads", "1",
         "--out", "elsewhere", "--baseline", "plain,rounds=7")  # fmt: skip
    plan = ran[-1]["plan"]
    assert plan.seeds == (9,)
    assert plan.cells[0].composed.config.boosting.rounds == 7
    assert plan.cells[0].composed.config.compute.threads == 1
    assert (ran[-1]["root"], ran[-1]["jobs"]) == (Path("elsewhere"), 1)
    ew2s("sweep", "ablation.yaml", "--set", "boosting.shrinkage=0.7", "--set", "boosting.rounds=9", "--out", "third")
    plan = ran[-1]["plan"]
    assert [cell.composed.config.boosting.shrinkage for cell in plan.cells] == [0.7] * 4
    assert plan.cells[0].composed.provenance["boosting.shrinkage"] == "--set"
    assert [cell.composed.config.boosting.rounds for cell in plan.cells] == [2, 3, 2, 3]  # a swept key comes last


def test_invalid_cells_are_warned_about(ew2s: Any, ran: list[dict[str, Any]]) -> None:
    done = ew2s("sweep", "-p", "tiny", "--set", "boosting.start=pretrained", "--over", "boosting.draw=example,none",
                "--over", "boosting.errors=train,out_of_bag", "--out", "s")  # fmt: skip
    assert "draw=none,errors=out_of_bag is left out" in done.err
    assert len(ran[0]["plan"].jobs) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--over", "boosting.rounds=3"), "Say what to run"),
        (("-p", "tiny", "--out", "s"), "something to sweep over"),
        (("-p", "tiny", "--over", "boosting.rounds=3"), "Say where the sweep goes"),
        (("-p", "tiny", "--over", "boosting.roundz=3", "--out", "s"), "boosting.roundz"),
        (("-p", "tiny", "--over", "boosting.rounds", "--out", "s"), "of the form key=value"),
        (("-p", "tiny", "--over", "boosting.rounds=3", "--seeds", "x", "--out", "s"), "not a list of numbers"),
        (("-p", "tiny", "--over", "boosting.rounds=3", "--jobs", "-1", "--out", "s"), "positive number"),
        (("nowhere.yaml",), "cannot be read"),
    ],
)
def test_mistakes(ew2s: Any, words: tuple[str, ...], said: str) -> None:
    done = ew2s("sweep", *words)
    assert done.code == 2
    assert said in done.err


def test_a_single_run_is_not_overwritten(ew2s: Any, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.yaml").write_text("name: x\n")
    done = ew2s("sweep", *GRID, "--out", "r")
    assert done.code == 2
    assert "holds a single run" in done.err


def test_plain_lines_come_now_and_then(ew2s: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    class Job:
        name = "cell, seed 0"

    now = iter([0.0, 10.0, 31.0, 31.0, 40.0])
    monkeypatch.setattr(sweep_command.time, "monotonic", lambda: next(now))
    status = SweepStatus(4, 1, 0, [(Job(), 3.0)], None, False)  # type: ignore[list-item]
    with sweep_command.Watcher(terminal, 4) as watcher:
        for _ in range(3):
            watcher.tick(status)
    assert capsys.readouterr().err == "[1/4] at work: cell, seed 0\n"


def test_unfinished_cells_have_no_results() -> None:
    cell = cell_result("c", {}, [JobResult(seed=0, state="interrupted", directory="x")], {})
    assert cell.state == "0/1"

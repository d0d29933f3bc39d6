from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemw2s.cli.dashboard.reading import target as target_module
from ensemw2s.cli.dashboard.reading.follow import RunFollower, load_run
from ensemw2s.cli.dashboard.reading.history import HistoryReader
from ensemw2s.cli.dashboard.reading.replay import ReplayFollower
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.cli.dashboard.reading.target import Remote, RunIndex, Target, parse_remote
from ensemw2s.cli.dashboard.reading.watch import Watcher

Simulate = Callable[..., Any]


def drain(follower: Any) -> None:
    while follower.poll():
        pass


def test_tail_and_history_give_what_reading_all_gives(simulate: Simulate) -> None:
    folder = simulate(rounds=4, steps=400, every=2).whole().folder
    whole = load_run(Source(folder))
    follower = RunFollower(Source(folder), tail_bytes=3000)
    drain(follower)
    assert follower.model.history < 1.0 or len(follower.model.curves) < len(whole.curves)
    assert follower._history is not None
    follower._history._chunk = follower._history._want = 700
    steps = 0
    while follower.read_history():
        steps += 1
    assert steps > 20
    assert follower.model.history == 1.0
    assert set(follower.model.curves) == set(whole.curves)
    for tag, curve in whole.curves.items():
        for mine, theirs in zip(follower.model.curves[tag].loss.arrays(), curve.loss.arrays(), strict=True):
            assert np.array_equal(mine, theirs)
    assert {n: t.histogram for n, t in follower.model.teachers.items()} == {
        n: t.histogram for n, t in whole.teachers.items()
    }


def test_history_survives_a_line_longer_than_a_chunk(tmp_path: Path) -> None:
    lines = [
        json.dumps({"v": 1, "t": i, "kind": "train", "tag": "a", "step": i, "steps": 9, "loss": 1.0})
        for i in range(1, 6)
    ]
    lines.insert(2, json.dumps({"v": 1, "t": 2, "kind": "train", "tag": "b" * 3000, "step": 1, "steps": 1, "loss": 1}))
    data = ("\n".join(lines) + "\n").encode()
    (tmp_path / "metrics.jsonl").write_bytes(data)
    reader = HistoryReader(Source(tmp_path), "metrics.jsonl", len(data), chunk=256)
    found: list[float] = []
    while (old := reader.step()) is not None:
        found = [x for tag in ("a",) if tag in old.losses for x in old.losses[tag].arrays()[0].tolist()] + found
    assert found == [1, 2, 3, 4, 5]


def test_a_torn_line_is_no_line_until_it_ends(simulate: Simulate) -> None:
    sim = simulate()
    sim.begin()
    follower = RunFollower(Source(sim.folder))
    drain(follower)
    with (sim.folder / "events.jsonl").open("ab") as file:
        file.write('{"v":1,"t":1,"kind":"message","level":"info","text":"ä'.encode()[:-1])
        file.flush()
        drain(follower)
        assert not follower.model.messages
        file.write(
            "ä".encode()[1:]
            + b'"}\n{"torn\n{"v":1,"t":1,"kind":"unheard_of"}\n{"v":2,"t":1,"kind":"plan","stages":[]}\n'
        )
    drain(follower)
    assert [m.text for m in follower.model.messages] == ["ä"]
    assert follower.model.unreadable == 2
    assert follower.model.stages


def test_a_log_that_appears_later(tmp_path: Path, simulate: Simulate) -> None:
    follower = RunFollower(Source(tmp_path / "runs" / "run"))
    drain(follower)
    assert follower.model.life == "waiting"
    simulate().whole()
    drain(follower)
    assert follower.model.life == "finished"
    assert follower.model.curves


def test_deleted_and_made_again(simulate: Simulate) -> None:
    sim = simulate()
    sim.whole()
    follower = RunFollower(Source(sim.folder))
    drain(follower)
    shutil.rmtree(sim.folder)
    drain(follower)
    assert follower.model.life == "gone"
    assert "deleted" in follower.model.life_note
    assert follower.model.arms  # what was seen stays
    again = simulate(rounds=2, seed=5)
    again.begin()
    again.data()
    drain(follower)
    assert follower.model.seed == 5
    assert not follower.model.arms


def test_truncated_and_rotated(simulate: Simulate) -> None:
    sim = simulate()
    sim.whole()
    follower = RunFollower(Source(sim.folder))
    drain(follower)
    lines = (sim.folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    (sim.folder / "events.jsonl").write_bytes(b"".join(lines[:6]))
    drain(follower)
    assert not follower.model.arms
    assert follower.model.stages["data"].state == "done"
    (sim.folder / "metrics.jsonl").rename(sim.folder / "metrics.1")
    (sim.folder / "metrics.jsonl").write_bytes(b"")
    drain(follower)
    assert not follower.model.curves


@pytest.mark.parametrize(
    ("state", "age", "pid", "life"),
    [
        ("running", 0.0, None, "running"),
        ("running", 100.0, None, "dead"),
        ("running", 0.0, 2**22 + 1, "dead"),
        ("failed", 0.0, None, "failed"),
        ("incomplete", 0.0, None, "interrupted"),
    ],
)
def test_life(simulate: Simulate, state: str, age: float, pid: int | None, life: str) -> None:
    sim = simulate()
    sim.begin()
    sim.beat(state, pid, age)
    follower = RunFollower(Source(sim.folder))
    drain(follower)
    assert follower.model.life == life


def test_nothing_is_written(simulate: Simulate) -> None:
    sim = simulate()
    sim.whole()
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(sim.folder.rglob("*"))}
    load_run(Source(sim.folder))
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(sim.folder.rglob("*"))} == before


def test_a_replay_ends_like_the_run(simulate: Simulate) -> None:
    folder = simulate(rounds=2).whole().folder
    now = [0.0]
    replay = ReplayFollower(Source(folder), 20.0, clock=lambda: now[0])
    replay.poll()
    assert replay.model.life == "running"
    assert not replay.model.arms
    seen = []
    for _ in range(400):
        now[0] += 0.25
        while replay.poll():
            pass
        seen.append(len(replay.model.arms))
    assert replay.finished
    assert replay.model.life == "finished"
    assert len(set(seen)) > 3
    assert seen == sorted(seen)
    whole = load_run(Source(folder))
    assert replay.model.arms == whole.arms
    assert replay.model.curves.keys() == whole.curves.keys()


def test_a_replay_pauses_and_cuts_long_waits_short(simulate: Simulate) -> None:
    sim = simulate()
    sim.begin()
    sim.clock.now += 1_000_000
    sim.data()
    now = [0.0]
    replay = ReplayFollower(Source(sim.folder), 1.0, clock=lambda: now[0])
    replay.poll()
    replay.paused = True
    now[0] += 100
    replay.poll()
    assert not replay.model.counts
    replay.paused = False
    for _ in range(10):
        now[0] += 1
        replay.poll()
    assert replay.model.counts


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("me@box:runs/x", "me@box", "runs/x"),
        ("box.example.org:~/runs", "box.example.org", "~/runs"),
        ("me@box:", "me@box", "."),
        ("runs/2026:a", None, None),
        ("/runs:x", None, None),
        ("C:\\runs", None, None),
        ("runs", None, None),
    ],
)
def test_remote_names(text: str, host: str | None, path: str | None) -> None:
    found = parse_remote(text)
    assert found == (None if host is None else Remote(host, str(path)))


def test_the_latest_run_is_shown_and_a_running_one_kept(simulate: Simulate, tmp_path: Path) -> None:
    target = Target(tmp_path / "runs")
    assert target.current() is None
    first = simulate("a")
    first.begin()
    first.beat()
    assert target.current() == first.folder
    second = simulate("b")
    second.begin()
    second.beat()
    assert target.current() == first.folder  # it still runs
    first.beat("finished")
    assert target.current() == second.folder
    target.chosen = first.folder
    assert target.current() == first.folder
    target.chosen = None
    assert target.current() == second.folder


def test_a_run_opened_while_another_thread_looks_for_the_latest_stays(
    simulate: Simulate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        simulate(name).begin()
    other = tmp_path / "runs" / "a"
    watcher = Watcher(Target(tmp_path / "runs"), sample_machine=False)
    look = target_module.run_folders

    def slow(root: Path) -> list[Path]:
        found = look(root)
        watcher.open(other)  # from the screen's thread
        return found

    monkeypatch.setattr(target_module, "run_folders", slow)
    watcher.step()
    monkeypatch.undo()
    watcher.step()
    assert watcher.folder == other


def test_runs_are_listed_and_read_again_only_after_a_change(simulate: Simulate, tmp_path: Path) -> None:
    simulate("a").whole()
    simulate("deep/b").whole()
    index = RunIndex()
    runs = index.refresh(tmp_path / "runs")
    assert {run.name for run in runs} == {"a", "deep/b"}
    assert all(run.state == "finished" for run in runs)
    assert index.refresh(tmp_path / "runs")[0] is next(
        r for r in runs if r.name == index.refresh(tmp_path / "runs")[0].name
    )


def test_the_watcher_survives_an_error(simulate: Simulate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate("a").whole()
    notices: list[int] = []
    watcher = Watcher(Target(tmp_path / "runs"), on_change=lambda: notices.append(1), sample_machine=False)
    monkeypatch.setattr(watcher, "_look_around", lambda: 1 / 0)
    watcher.start()
    assert watcher.first_read.wait(5)
    watcher.stop()
    assert "ZeroDivisionError" in watcher.failure
    assert notices


def test_the_watcher_follows_a_run_that_begins_later(simulate: Simulate, tmp_path: Path) -> None:
    watcher = Watcher(Target(tmp_path / "runs"), sample_machine=False)
    watcher.step()
    assert watcher.model.life == "waiting"
    simulate("a").whole()
    watcher._slow_at = float("-inf")
    deadline = time.monotonic() + 10
    while watcher.step() and time.monotonic() < deadline:
        pass
    assert watcher.model.life == "finished"


def test_lines_of_any_length_are_read_without_a_pause(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    texts = ["a" * 300, "b" * 900, "c" * 40_000, "d", "e" * 20_000, "f" * 20_000, "g"]
    lines = [json.dumps({"v": 1, "t": 1.0, "kind": "message", "level": "info", "text": t}) + "\n" for t in texts]
    file.write_text("".join(lines))
    follower = RunFollower(Source(tmp_path))
    drain(follower)
    assert [m.text for m in follower.model.messages] == texts

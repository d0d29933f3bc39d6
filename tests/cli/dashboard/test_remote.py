from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from ensemw2s.cli.dashboard.app.app import Dashboard
from ensemw2s.cli.dashboard.drawing.text import plain
from ensemw2s.cli.dashboard.reading import remote, remote_target
from ensemw2s.cli.dashboard.reading.follow import RunFollower, load_run
from ensemw2s.cli.dashboard.reading.remote_target import RemoteTarget
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.cli.dashboard.reading.target import Remote
from ensemw2s.cli.dashboard.reading.watch import Watcher
from ensemw2s.cli.dashboard.views.lists import RunList
from ensemw2s.errors import InputError

Simulate = Callable[..., Any]
Desk = Any
ELSEWHERE = 2**22 + 5
"""A process of that machine, not of this one."""


def drain(follower: Any) -> None:
    while follower.poll():
        pass


def test_a_run_on_another_machine(simulate: Simulate, fake_ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TAIL_BYTES", 2000)
    sim = simulate("far run", rounds=3, steps=200)
    sim.begin()
    sim.beat(pid=ELSEWHERE)
    sim.weak_side()
    sim.folder.parent.rename(fake_ssh / "my runs")
    far = fake_ssh / "my runs" / "far run"
    target = RemoteTarget(Remote("me@box", "~/my runs"))
    try:
        target.connect()
        chosen = target.current()
        assert chosen is not None
        source = target.source(chosen)
        assert isinstance(source, remote.RemoteSource)
        follower = RunFollower(source)
        drain(follower)
        assert follower.model.life == "running"
        assert follower.model.arms
        assert source.label == "me@box:~/my runs/far run"
        while follower.read_history():
            pass
        near = load_run(Source(far))
        assert {t: len(c.loss) for t, c in follower.model.curves.items()} == {
            t: len(c.loss) for t, c in near.curves.items()
        }
        with (far / "events.jsonl").open("a") as file:
            file.write('{"v":1,"t":1,"kind":"message","level":"info","text":"later"}\n')
        source._next = 0.0
        drain(follower)
        assert follower.model.messages[-1].text == "later"
        shutil.rmtree(far)
        source._next = 0.0
        drain(follower)
        assert follower.model.life == "gone"
    finally:
        target.close()
    source.close()
    assert not source.folder.exists()
    assert not target.root.exists()


@pytest.mark.parametrize(
    ("place", "words"), [(Remote("you@nowhere", "runs"), "resolve"), (Remote("me@box", "no/such"), "no folder")]
)
def test_another_machine_that_does_not_answer(fake_ssh: Path, place: Remote, words: str) -> None:
    target = RemoteTarget(place)
    with pytest.raises(InputError, match=words):
        target.connect()
    target.close()


def test_one_run_there_is_shown_among_its_neighbours(simulate: Simulate, fake_ssh: Path) -> None:
    for name in ("one", "two words"):
        simulate(name, rounds=2).whole()
    (fake_ssh / "x").mkdir()
    simulate("one").folder.parent.rename(fake_ssh / "x" / "runs")
    for path in ("x/runs/two words", "~/x/runs/two words/", str(fake_ssh / "x" / "runs" / "two words")):
        target = RemoteTarget(Remote("me@box", path))
        try:
            target.connect()
            assert target.current() == target.root / "two words"
            assert {run.name for run in target.list_runs()} == {"one", "two words"}
        finally:
            target.close()


def test_a_newer_run_there_is_followed_when_the_shown_one_is_over(simulate: Simulate, fake_ssh: Path) -> None:
    root = fake_ssh / "runs"
    root.mkdir()
    target = RemoteTarget(Remote("me@box", "runs"))
    try:
        target.connect()
        assert target.current() is None
        old = simulate("old")
        old.begin()
        old.beat(pid=ELSEWHERE)
        old.folder.rename(root / "old")
        target.look_again()
        assert target.current() == target.root / "old"
        new = simulate("new")
        new.begin()
        new.beat(pid=ELSEWHERE)
        new.folder.rename(root / "new")
        target.look_again()
        assert target.current() == target.root / "old"  # it is at work
        old.folder = root / "old"
        old.beat("finished")
        target.look_again()
        assert target.current() == target.root / "new"
    finally:
        target.close()


def test_a_run_there_stays_that_is_opened_during_a_look(
    simulate: Simulate, fake_ssh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        simulate(name).begin()
    simulate("new").beat(pid=ELSEWHERE, age=-3600.0)
    simulate("new").folder.parent.rename(fake_ssh / "runs")
    target = RemoteTarget(Remote("me@box", "runs"))
    watcher = Watcher(target, sample_machine=False)
    old = target.root / "old"
    look = target._runs

    def slow() -> list[remote_target._Found]:
        found = look()
        watcher.open(old)  # from the screen's thread
        return found

    monkeypatch.setattr(target, "_runs", slow)
    try:
        target.connect()
        watcher.step()
        watcher.step()
        assert watcher.folder == old
        assert watcher.model.path == "me@box:runs/old"
        watcher.open(None)
        monkeypatch.undo()
        watcher.step()
        assert watcher.model.path == "me@box:runs/new"
    finally:
        target.close()


def test_the_runs_of_another_machine(
    simulate: Simulate, fake_ssh: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_target, "SCAN_EVERY", 0.1)
    for seed, name in enumerate(("first", "second", "third")):
        simulate(name, rounds=2, seed=seed).whole()
    live = simulate("nested/live", rounds=2)
    live.begin()
    live.beat(pid=ELSEWHERE, age=-3600.0)  # however long the test takes
    (fake_ssh / "runs").parent.mkdir(exist_ok=True)
    live.folder.parent.parent.rename(fake_ssh / "runs")
    target = RemoteTarget(Remote("me@box", "runs"))
    target.connect()

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await desk.until(lambda: app.watcher.model.path == "me@box:runs/nested/live", pilot, "the live run is shown")
        await pilot.press("6")
        panel = app.query_one("#run-list", RunList)
        await desk.until(lambda: panel.item_count == 4, pilot, "four runs")
        text = desk.lines(app, "run-list")
        assert text.count("finished") == 3
        assert "running" in text
        assert "▸" in next(line for line in map(plain, panel.lines) if "nested/live" in line)

        def go_to(name: str) -> None:
            panel.move_to([run.name for run in panel.listed].index(name))

        for name in ("first", "second"):
            go_to(name)
            await pilot.press("space")
        await desk.until(lambda: len(app.watcher.others) == 2, pilot, "both are read")
        await desk.until(lambda: "difference" in desk.lines(app, "compared"), pilot, "numbers side by side")
        go_to("third")
        await pilot.press("enter")
        await desk.until(lambda: app.watcher.model.path == "me@box:runs/third", pilot, "another run is shown")
        await desk.until(lambda: app.watcher.model.life == "finished", pilot, "how it stands")
        await pilot.press("l")
        await desk.until(lambda: app.watcher.model.path == "me@box:runs/nested/live", pilot, "the latest again")

    desk.play(target, script)
    assert not target.root.exists()

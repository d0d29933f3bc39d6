"""Runs that are damaged or hostile: the list, the live view and the replay go on, quickly and in little memory."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemw2s.cli.dashboard.model.status_text import status_text
from ensemw2s.cli.dashboard.model.summary import to_json
from ensemw2s.cli.dashboard.reading.follow import load_run
from ensemw2s.cli.dashboard.reading.replay import ReplayFollower
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.cli.dashboard.reading.target import Target
from ensemw2s.files import dump_json
from ensemw2s.runs.listing import list_runs, list_sweeps
from ensemw2s.runs.reader import EventReader
from ensemw2s.runs.schema import LONGEST_LINE

Simulate = Callable[..., Any]
FILES = ("events.jsonl", "metrics.jsonl", "heartbeat", "run.lock", "config.yaml", "results.json")
PATIENCE = 10.0


@pytest.fixture
def root(simulate: Simulate) -> Path:
    """A folder with a good run and one to damage."""
    for name in ("bad", "good"):
        sim = simulate(name, rounds=2, steps=50)
        sim.whole()
        (sim.folder / "config.yaml").write_text("name: simulated\n")
        (sim.folder / "run.lock").write_text("{}\n")
    folder: Path = sim.folder.parent
    return folder


def looked_at(root: Path) -> str:
    """State and reason of the bad run, after everything that shows runs has looked at it."""
    began = time.monotonic()
    bad = root / "bad"
    runs = {run.name: run for run in list_runs(root)}
    assert runs["good"].state == "finished"
    assert runs["good"].accuracy["ensemble/test"] == 0.71
    assert set(runs) == {"bad", "good"}
    dump_json([run.to_json() for run in runs.values()])
    target = Target(root)
    assert target.current() in (bad, root / "good")
    assert len(target.list_runs()) == 2
    model = load_run(Source(bad))
    status_text(model)
    dump_json(to_json(model))
    clock = iter(range(0, 10**9, 10**6))
    replay = ReplayFollower(Source(bad), 1000.0, clock=lambda: next(clock))
    for _ in range(10_000):
        if not replay.poll() and replay.finished:
            break
    assert time.monotonic() - began < PATIENCE
    info = runs["bad"]
    assert (info.problem is not None) == (info.state == "unreadable")
    assert info.problem is None or (info.problem and "\n" not in info.problem)
    return f"{info.state} {info.problem or ''}"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        made.bind(path.name)
        os.chdir(here)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": fifo,
    "socket": listening,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "loop": loop,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to its folder": lambda path: path.symlink_to("."),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_regular_file(root: Path, name: str, kind: str) -> None:
    (root / "bad" / name).unlink()
    SPECIAL[kind](root / "bad" / name)
    said = looked_at(root)
    assert said.startswith("unreadable")
    assert name in said


NESTED = "[" * 60_000
BEATS = {
    "30 digits": ('{"pid": 123456789012345678901234567890}', "pid"),
    "5000 digits": ('{"pid": ' + "9" * 5000 + "}", "digits"),
    "negative": ('{"pid": -1}', "pid"),
    "zero": ('{"pid": 0}', "pid"),
    "text": ('{"pid": "12"}', "pid"),
    "true": ('{"pid": true}', "pid"),
    "float": ('{"pid": 1.5}', "pid"),
    "list": ('{"pid": [1]}', "pid"),
    "not a number": ('{"time": NaN}', "time"),
    "endless": ('{"time": Infinity}', "time"),
    "1e999": ('{"time": 1e999}', "time"),
    "before time": ('{"time": -Infinity}', "time"),
    "no time": ('{"time": null}', "time"),
    "huge time": ('{"time": ' + "9" * 400 + "}", "time"),
    "host": ('{"host": 3}', "host"),
    "long host": ('{"host": "' + "h" * 70_000 + '"}', "larger"),
    "state": ('{"state": "running\\u001b[31m"}', "state"),
    "states": ('{"state": ["running"]}', "state"),
    "nested": (NESTED, "nested"),
    "nested, closed": ("[" * 900 + "]" * 900, "nested"),
    "empty": ("", "JSON"),
    "not UTF-8": ("\udcff{", "UTF-8"),
    "a list": ("[]", "pid"),
}


@pytest.mark.parametrize("case", BEATS)
def test_heartbeats(root: Path, case: str) -> None:
    text, reason = BEATS[case]
    path = root / "bad" / "heartbeat"
    if text.startswith("{") and text.endswith("}"):
        good = json.loads(path.read_text())
        name = text[2:].partition('"')[0]
        text = json.dumps({k: v for k, v in good.items() if k != name})[:-1] + ", " + text[1:]
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    said = looked_at(root)
    assert said.startswith("unreadable heartbeat: ")
    assert reason in said


@pytest.mark.parametrize("value", ["7", 1.5, [1], {"a": 1}, True, 10**400])
def test_fields_of_another_type(root: Path, value: Any) -> None:
    for name in ("preset", "seed", "task", "config_fingerprint"):
        if isinstance(value, str) and name != "seed":
            continue
        record = {"v": 1, "t": 1.0, "kind": "run_started", name: value}
        events = root / "bad" / "events.jsonl"
        before = events.read_bytes()
        events.write_bytes(before + json.dumps(record).encode() + b"\n")
        said = looked_at(root)
        assert said.startswith("unreadable events.jsonl: `" + name)
        events.write_bytes(before)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("results.json", "", "JSON"), ("results.json", "[1]", "object"), ("results.json", NESTED, "nested"),
        ("results.json", '{"a": ' + "1" * 10_000 + "}", "digits"),
        ("events.jsonl", "x" * (LONGEST_LINE + 1), "a line of"),
    ],
)  # fmt: skip
def test_contents(root: Path, name: str, text: str, reason: str) -> None:
    (root / "bad" / name).write_text(text)
    said = looked_at(root)
    assert said.startswith("unreadable")
    assert name in said
    assert reason in said


@pytest.mark.parametrize("name", FILES)
def test_a_terabyte_of_nothing(root: Path, name: str) -> None:
    with (root / "bad" / name).open("r+b") as file:
        file.truncate(1 << 40)
    looked_at(root)


def test_lines_that_are_damaged_cost_themselves_alone(root: Path) -> None:
    with (root / "bad" / "events.jsonl").open("a") as file:
        for text in (NESTED, "1" * 5000, "[" * 900 + "]" * 900, '{"v":1,"kind":["run_started"]}', '{"v":1,"kind":{}}'):
            file.write(text + "\n")
    assert looked_at(root).startswith("finished")
    assert load_run(Source(root / "bad")).unreadable == 3


def test_an_overlong_line_stops_the_reader(tmp_path: Path) -> None:
    good = '{"v":1,"t":1,"kind":"message","level":"info","text":"x"}\n'
    path = tmp_path / "events.jsonl"
    path.write_text(good + " " * LONGEST_LINE + "\n" + good)
    reader = EventReader(path)
    assert len(reader.poll(1000)) == 1
    assert (reader.poll(1000), reader.more, reader.offset) == ([], False, len(good))
    assert "a line of more than" in reader.problem
    path.write_text(good + " " * (LONGEST_LINE - 1) + "\n" + good)
    assert [len(reader.poll(1000)), len(reader.poll(1000)), reader.problem] == [0, 1, ""]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", [*FILES, "."])
def test_permission_denied(root: Path, name: str) -> None:
    (root / "bad" / name).chmod(0)
    try:
        assert looked_at(root).startswith("unreadable")
    finally:
        (root / "bad" / name).chmod(0o700)


def test_memory_is_bounded(root: Path) -> None:
    """The whole command, with a line of 1 GB, logs that are devices and a nested beat."""
    for place, name in enumerate(FILES):
        shutil.copytree(root / "bad", root / f"zero-{place}")
        (root / f"zero-{place}" / name).unlink()
        (root / f"zero-{place}" / name).symlink_to("/dev/zero")
    with (root / "bad" / "events.jsonl").open("r+b") as file:
        file.truncate(1 << 30)
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (600 << 20, 600 << 20))\n"
    code += "from ensemw2s.cli.main import main; sys.exit(main(sys.argv[1:]))"
    for words in (["runs", "list", str(root), "--json"], ["dashboard", str(root / "bad"), "--once"]):
        found = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, timeout=60)
        assert found.returncode == 0, found.stderr
        assert b"a line of more than" in found.stdout


def test_a_sweep_that_names_folders_elsewhere(sweep: Path) -> None:
    value = json.loads((sweep / "sweep.json").read_text())
    strange = [
        "/",
        "..",
        "",
        "cells/../..",
        "/etc/passwd",
        "cells/a/" + "x" * 5000,
        "cells/a\0/b",
        "cells/\ud800/x",
        None,
        7,
        [],
    ]
    value["cells"][0]["jobs"] += [{"directory": name, "state": "failed"} for name in strange]
    value["cells"] += [3, None, {"jobs": 4}, {"jobs": [1]}]
    (sweep / "sweep.json").write_text(json.dumps(value))
    (found,) = list_sweeps(sweep)
    assert (found.total, found.failed, found.state) == (4, 1, "running")
    for text in ("[" * 10**5, "1" * 5000, "[]", '{"cells": {}}', "\0"):
        (sweep / "sweep.json").write_text(text)
        assert len(list_sweeps(sweep)[0].runs) == 3
    (sweep / "run.lock").symlink_to("/dev/zero")
    assert len(list_sweeps(sweep)[0].runs) == 3


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(10**40), 10**40), st.floats(), st.text(max_size=5),
        st.sampled_from([10**400, 1e308, -1e308, "\ud800", "\x1b]52;c;x\x07", "NaN", 2**63, -(2**63) - 1, 0.5, 1]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_of_any_file(root: Path, workshop: Path, data: st.DataObject) -> None:
    kept = workshop / "kept"
    if not kept.exists():
        shutil.copytree(root / "bad", kept)
    bad = root / "bad"
    shutil.rmtree(bad)
    shutil.copytree(kept, bad)
    path = bad / data.draw(st.sampled_from(FILES))
    content = path.read_bytes()
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    match data.draw(st.sampled_from(["cut", "flip", "bytes", "field", "field", "field", "gone"])):
        case "cut":
            content = content[: chance.randrange(len(content) + 1)]
        case "flip":
            changed = bytearray(content)
            for _ in range(chance.randrange(1, 50)):
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            content = bytes(changed)
        case "bytes":
            place = chance.randrange(len(content) + 1)
            content = content[:place] + data.draw(st.binary(max_size=100)) + content[place:]
        case "field":
            content = _with_other_values(content, data, chance)
        case "gone":
            path.unlink()
            content = b""
    if path.exists():
        path.write_bytes(content)
    looked_at(root)


def _with_other_values(content: bytes, data: st.DataObject, chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    for _ in range(5):
        place = chance.randrange(len(lines))
        try:
            record = json.loads(lines[place])
        except ValueError:
            continue
        if isinstance(record, dict) and record:
            record[chance.choice(sorted(record))] = data.draw(VALUES)
            lines[place] = json.dumps(record).encode()
    return b"\n".join(lines)

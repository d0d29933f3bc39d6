"""Writing and reading the event log: strict JSON, torn lines, full disks, growing and replaced files."""

from __future__ import annotations

import errno
import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.files import dump_json, to_json
from ensemw2s.runs.log import LineWriter, LogSink
from ensemw2s.runs.reader import EventReader, read_events
from ensemw2s.runs.schema import validate


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_has_version_time_and_kind_and_nan_becomes_null(tmp_path: Path) -> None:
    log = LogSink(tmp_path, clock=lambda: 12.5)
    log.event("round_finished", alpha=math.inf, epsilon=math.nan, kept=np.bool_(True), round=np.int64(3), t=0, v=9)
    log.metric("system", cpu=np.float32(0.5), rss=7)
    log.close()
    assert _lines(tmp_path / "events.jsonl") == [
        {"v": 1, "t": 12.5, "kind": "round_finished", "alpha": None, "epsilon": None, "kept": True, "round": 3}
    ]
    assert validate(_lines(tmp_path / "metrics.jsonl")[0], "metrics") == []


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@settings(deadline=None)
@given(values)
def test_whatever_is_logged_is_strict_json_on_one_line(value: Any) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not strict JSON")

    line = dump_json({"x": value}).encode("utf-8", "replace")
    assert b"\n" not in line
    json.loads(line, parse_constant=refuse)


def test_values_that_are_no_json_become_plain_ones(tmp_path: Path) -> None:
    value = {"path": tmp_path, "array": np.arange(3), "set": {2, 1}, "tuple": (1, math.nan)}
    assert to_json(value) == {"path": str(tmp_path), "array": [0, 1, 2], "set": [1, 2], "tuple": [1, None]}
    json.loads(dump_json({"text": "\ud800"}).encode("utf-8", "replace"))


def test_one_write_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: (writes.append(bytes(data)), real(fd, data))[1])
    log = LogSink(tmp_path)
    log.event("message", level="info", text="one\ntwo")
    log.event("message", level="info", text="é" * 100_000)
    log.close()
    assert len(writes) == 2
    assert all(w.endswith(b"\n") and w.count(b"\n") == 1 for w in writes)


def test_a_torn_last_line_stays_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes('{"v":1,"t":1,"kind":"message","level":"info","text":"é"}\n{"v":1,"t":2,"ki'.encode() + b"\xc3")
    log = LogSink(tmp_path)
    log.event("run_finished", seconds=1.0)
    log.close()
    reader = EventReader(path)
    assert [record["kind"] for record in reader.poll()] == ["message", "run_finished"]
    assert reader.skipped == 1


def test_nothing_is_added_to_a_whole_last_line(tmp_path: Path) -> None:
    for _ in range(2):
        log = LogSink(tmp_path)
        log.event("run_finished", seconds=1.0)
        log.close()
    assert b"\n\n" not in (tmp_path / "events.jsonl").read_bytes()


def test_a_failing_log_warns_once_and_does_not_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LogSink(tmp_path)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(3):
            log.event("run_finished", seconds=1.0)
    log.event("run_finished", seconds=2.0)
    log.close()
    err = capsys.readouterr().err
    assert err.count("Warning") == 1
    assert "events.jsonl" in err
    assert [r["seconds"] for r in read_events(tmp_path / "events.jsonl")] == [2.0]


def test_a_log_folder_that_vanished_does_not_raise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LogSink(tmp_path / "gone")
    log.event("run_finished", seconds=1.0)
    log.close()
    assert "Warning" in capsys.readouterr().err


def test_a_short_write_does_not_glue_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = LineWriter(tmp_path / "log")
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
        writer.write('{"half": 1}')
    writer.write('{"whole": 2}')
    writer.close()
    assert (tmp_path / "log").read_bytes() == b'{"hal\n{"whole": 2}\n'
    assert "bytes were written" in capsys.readouterr().err


def test_progress_is_at_most_one_line_a_second_for_a_task(tmp_path: Path) -> None:
    now = [100.0]
    log = LogSink(tmp_path, clock=lambda: now[0])
    for done in range(11):
        now[0] += 0.25
        log.progress("a", done, 10)
        log.progress("b", done, 10)
    log.close()
    records = read_events(tmp_path / "metrics.jsonl")
    for task in ("a", "b"):
        assert [r["done"] for r in records if r["task"] == task] == [0, 4, 8, 10]
    assert all(validate(record, "metrics") == [] for record in records)


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    log = LogSink(tmp_path)

    def work(number: int) -> None:
        for step in range(200):
            log.metric("progress", task=f"t{number}", done=step, total=200)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    records = read_events(tmp_path / "metrics.jsonl")
    assert len(records) == 800
    assert all([r["done"] for r in records if r["task"] == f"t{i}"] == list(range(200)) for i in range(4))


def _event(number: int) -> bytes:
    return dump_json({"v": 1, "t": number, "kind": "message", "level": "info", "text": f"é{number}"}).encode() + b"\n"


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=8), limit=st.integers(1, 200))
def test_a_reader_sees_each_record_once_however_the_bytes_arrive(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], limit: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    data = b"".join(_event(i) for i in range(6))
    reader = EventReader(path)
    assert reader.poll() == []
    seen: list[int] = []
    previous = 0
    for cut in [*sorted(cuts), len(data)]:
        with path.open("ab") as file:
            file.write(data[previous:cut])
        previous = max(previous, min(cut, len(data)))
        while records := reader.poll(max_bytes=limit):
            seen += [record["t"] for record in records]
    assert seen == list(range(6))
    assert reader.skipped == 0


def test_unknown_kinds_newer_versions_and_rubbish_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(
        b'{"v":1,"t":1,"kind":"from_the_future"}\n{"v":2,"t":1,"kind":"message"}\n[1]\n\nnonsense\n\xff\xfe\n'
        + _event(7)
    )
    reader = EventReader(path)
    assert [r["t"] for r in reader.poll()] == [7]
    assert reader.skipped == 4
    assert [r["kind"] for r in EventReader(path, kinds=["from_the_future"]).poll()] == ["from_the_future"]


def test_a_truncated_or_replaced_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(_event(1) + _event(2))
    reader = EventReader(path)
    assert len(reader.poll()) == 2
    path.write_bytes(_event(3))
    assert [r["t"] for r in reader.poll()] == [3]
    other = tmp_path / "other"
    other.write_bytes(_event(4) + _event(5) + _event(6))
    other.replace(path)
    assert [r["t"] for r in reader.poll()] == [4, 5, 6]
    assert reader.resets == 2
    path.unlink()
    assert reader.poll() == []


@pytest.mark.parametrize("size", range(1, 260, 7))
def test_tail_starts_at_a_line_within_the_last_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [_event(i) for i in range(4)]
    path.write_bytes(b"".join(lines))
    kept = [i for i in range(4) if sum(map(len, lines[i:])) <= size]
    reader = EventReader.tail(path, size)
    assert [r["t"] for r in reader.poll()] == kept
    with path.open("ab") as file:
        file.write(_event(9))
    assert [r["t"] for r in reader.poll()] == [9]


def test_tail_of_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert EventReader.tail(tmp_path / "none", 100).poll() == []

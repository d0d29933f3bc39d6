"""Lock and heartbeat, against real second processes."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ensemw2s.errors import EXIT_USAGE, RunBusyError
from ensemw2s.runs.directory import RunDirectory
from ensemw2s.runs.heartbeat import Beat, Heartbeat, pid_alive, read_heartbeat
from ensemw2s.runs.listing import describe_run
from ensemw2s.runs.lock import RunLock

Spawn = Callable[..., "subprocess.Popen[str]"]
Wait = Callable[[Callable[[], object]], None]

HOLD = """
import sys
from pathlib import Path
from ensemw2s.runs.directory import RunDirectory
with RunDirectory.create(Path(sys.argv[1])).writing(heartbeat_every=0.05):
    print("held", flush=True)
    sys.stdin.readline()
"""

HOLD_WITH_CHILD = """
import os, sys, time
from pathlib import Path
from ensemw2s.runs.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
ready, tell = os.pipe()
child = os.fork()
if child == 0:
    os.write(tell, b"!")
    sys.stdin.readline()
    os._exit(0)
os.read(ready, 1)
print(child, flush=True)
time.sleep(60)
"""


def test_a_live_process_keeps_the_others_out_and_is_named(tmp_path: Path, spawn: Spawn) -> None:
    holder = spawn(HOLD, str(tmp_path))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunBusyError) as caught:
        RunLock(tmp_path).acquire()
    assert str(holder.pid) in caught.value.message
    assert platform.node() in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert caught.value.exit_code == EXIT_USAGE
    with pytest.raises(RunBusyError), RunDirectory.create(tmp_path).writing():
        pass
    holder.communicate("\n")
    with RunLock(tmp_path) as lock:
        assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, spawn: Spawn) -> None:
    holder = spawn(HOLD, str(tmp_path))
    assert holder.stdout is not None
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == holder.pid
    with RunLock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    RunLock(tmp_path).acquire()  # given back


def test_a_forked_child_does_not_keep_its_dead_parents_lock(tmp_path: Path, spawn: Spawn) -> None:
    holder = spawn(HOLD_WITH_CHILD, str(tmp_path))
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    with pytest.raises(RunBusyError):
        RunLock(tmp_path).acquire()
    holder.kill()
    holder.wait()
    assert pid_alive(child)
    RunLock(tmp_path).acquire()


def test_two_locks_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(RunBusyError, match=str(os.getpid())):
        RunLock(tmp_path).acquire()


def test_without_flock_a_fresh_heartbeat_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    beat = {"pid": os.getppid(), "host": platform.node(), "time": time.time(), "state": "running"}
    (tmp_path / "heartbeat").write_text(json.dumps(beat))
    with pytest.raises(RunBusyError, match=str(os.getppid())):
        RunLock(tmp_path).acquire()
    (tmp_path / "heartbeat").write_text(json.dumps({**beat, "time": time.time() - 60}))
    with RunLock(tmp_path) as lock:
        assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_the_heartbeat_beats_and_says_how_it_ended(tmp_path: Path, wait_until: Wait) -> None:
    beats: list[float] = []
    heart = Heartbeat(tmp_path, every=0.01, on_beat=lambda: beats.append(1.0))
    heart.start()
    first = read_heartbeat(tmp_path)
    assert first is not None
    assert (first.pid, first.host, first.state, first.alive) == (os.getpid(), platform.node(), "running", True)
    wait_until(lambda: len(beats) > 2)
    later = read_heartbeat(tmp_path)
    assert later is not None
    assert later.time > first.time
    heart.stop("finished")
    last = read_heartbeat(tmp_path)
    assert last is not None
    assert (last.state, last.alive) == ("finished", False)


def test_a_heartbeat_that_cannot_be_written_does_not_stop_the_run(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path / "gone", every=0.01)
    heart.start()
    heart.stop("failed")
    assert read_heartbeat(tmp_path / "gone") is None


def test_old_beats_dead_processes_and_other_hosts(tmp_path: Path) -> None:
    host, now = platform.node(), time.time()
    assert Beat(os.getpid(), host, now, "running").alive
    assert not Beat(os.getpid(), host, now - 16, "running").alive
    assert not Beat(2**22 + 1, host, now, "running").alive
    assert Beat(2**22 + 1, "elsewhere", now, "running").alive
    (tmp_path / "heartbeat").write_text("{}")
    assert read_heartbeat(tmp_path) is None


def test_a_zombie_is_not_alive(spawn: Spawn, wait_until: Wait) -> None:
    child = spawn("pass")
    wait_until(lambda: not pid_alive(child.pid))
    assert not pid_alive("nobody")
    assert pid_alive(1)


def test_states_of_a_writing_process(tmp_path: Path, spawn: Spawn) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 0\n")
    holder = spawn(HOLD, str(run))
    assert holder.stdout is not None
    holder.stdout.readline()
    assert describe_run(run).state == "running"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert describe_run(run).state == "dead"


def test_what_a_killed_process_left_under_a_temporary_name_goes_with_the_next_lock(tmp_path):
    (tmp_path / "experts").mkdir()
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    abandoned = tmp_path / "experts" / f".trained.json.{int(killed.stdout)}.tmp"
    alive, own = tmp_path / f".results.json.{os.getpid()}.tmp", tmp_path / ".notes.tmp"
    for path in (abandoned, alive, own):
        path.write_text("half")
    with RunLock(tmp_path):
        assert not abandoned.exists()
        assert alive.exists()
        assert own.exists()

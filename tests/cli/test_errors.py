"""Errors: one message on stderr, documented exit codes, through the real entry; colour only where it is seen."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.cli import options
from ensemw2s.errors import DataError, RunFailedError
from ensemw2s.runs.heartbeat import read_heartbeat

Command = Callable[..., Any]

INTERRUPTED = """
import sys, time, types
from ensemw2s.cli.main import main
from ensemw2s.runs.directory import RunDirectory

def execute(config, run_dir, *, sink, **rest):
    run = RunDirectory.create(run_dir)
    with run.writing():
        run.save_config(config)
        print("working", flush=True)
        time.sleep(60)

sys.modules["ensemw2s.pipeline.run"] = types.SimpleNamespace(execute=execute)
sys.exit(main(["run", "--preset", "tiny", "--out", sys.argv[1]]))
"""


def test_a_bad_configuration_is_explained(process: Command, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("boosting:\n  roundz: 3\n")
    done = process("config", "show", "--config", "x.yaml")
    assert done.code == 2
    assert done.out == ""
    first, hint = done.err.splitlines()
    assert first == (
        "Bad configuration: Unknown key boosting.roundz (file x.yaml, line 2). Did you mean boosting.rounds?"
    )
    assert hint.startswith("Hint: Keys of boosting: rounds, ")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["bogus"], "No such command"),
        (["run", "--bogus"], "No such option"),
        (["run", "--seed", "x"], "--seed"),
        (["score"], "RUN"),
        (["run"], "Say what to run"),
        (["run", "--preset", "tinny"], "Did you mean tiny?"),
        (["run", "--preset", "tiny", "--seed", "1", "--seeds", "1,2"], "exclude each other"),
        (["run", "--preset", "tiny", "--seeds", "1,x"], "not a list of numbers"),
        (["run", "--preset", "tiny", "--seeds", "4-2"], "not a list of numbers"),
        (["run", "--preset", "tiny", "--seeds", "1,1"], "twice"),
        (["run", "--config", "none.yaml"], "none.yaml cannot be read"),
        (["run", "--preset", "tiny", "--backend", "gpu"], "compute.backend is 'gpu' (--backend)"),
        (["label", "--ensemble", "runs/x"], "needs --ensemble, --input and --output"),
        (["evaluate", "runs/x", "a.jsonl", "--split", "test"], "not both"),
        (["evaluate", "runs/x", "--split", "easy"], "There is no split"),
        (["report"], "There are no finished runs"),
        (["report", "runs/none"], "There is no run directory"),
        (["data", "check"], "Say what to check"),
        (["data", "check", "x.jsonl", "--column", "prompt"], "not of the form field=name"),
        (["data", "check", "x.jsonl", "--column", "promt=q"], "Did you mean data.source.columns.prompt?"),
        (["data", "check", "x.jsonl", "--task", "talk"], "expected choice or generate"),
        (["presets", "show", "tinny"], "Did you mean tiny?"),
        (["generate", "runs/x", "p", "--temperature", "2"], "holds no ensemble.json"),
    ],
)
def test_usage_and_bad_input_end_with_2(ew2s: Command, words: list[str], part: str) -> None:
    done = ew2s(*words)
    assert done.code == 2
    assert done.out == ""
    assert part in done.err
    assert "Traceback" not in done.err


def test_a_run_that_fails_midway_ends_with_1(ew2s: Command, pipeline: Any) -> None:
    pipeline.fail = RunFailedError("The loss is not finite.", hint="Lower the learning rate.")
    done = ew2s("run", "--preset", "tiny")
    assert done.code == 1
    assert "The run failed: The loss is not finite.\nHint: Lower the learning rate.\n" in done.err
    pipeline.fail = DataError("Line 3 is odd.")
    assert ew2s("run", "--preset", "tiny").code == 2


def test_an_unforeseen_error_is_one_line_and_debug_shows_the_traceback(
    ew2s: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr(options, "compose_options", broken)
    done = ew2s("config", "show")
    assert (done.code, done.out) == (1, "")
    assert done.err == "Error: ZeroDivisionError: by nothing (--debug shows the traceback)\n"
    for words in (["--debug", "config", "show"], ["config", "show", "--debug"]):
        done = ew2s(*words)
        assert done.code == 1
        assert "Traceback" in done.err
        assert done.err.endswith("Error: ZeroDivisionError: by nothing\n")


def test_debug_shows_the_traceback_of_explained_errors_too(ew2s: Command) -> None:
    done = ew2s("presets", "show", "none", "--debug")
    assert done.code == 2
    assert "Traceback" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_130_and_can_be_continued(tmp_path: Path, number: int) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "run")],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "working\n"
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "interrupted; the same command continues" in err
    assert "Traceback" not in err
    beat = read_heartbeat(tmp_path / "run")
    assert beat is not None
    assert beat.state == "incomplete"


def _on_a_terminal(words: list[str], tmp_path: Path, **environ: str) -> str:
    """What a command prints on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "TERM": "xterm-256color", **environ}
    child = subprocess.Popen(
        [sys.executable, "-m", "ensemw2s", *words],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 65536):
            output += part
    except OSError:  # the other side is closed
        pass
    child.wait(timeout=30)
    os.close(ours)
    return output.decode()


def test_colour_only_where_it_is_seen_and_wanted(tmp_path: Path, process: Command) -> None:
    words = ["presets", "show", "none"]
    assert "\x1b[1;31mBad configuration:" in _on_a_terminal(words, tmp_path)
    assert "\x1b" not in _on_a_terminal(words, tmp_path, NO_COLOR="1")
    assert "\x1b" not in _on_a_terminal(words, tmp_path, TERM="dumb")
    assert "\x1b" not in _on_a_terminal([*words, "--no-color"], tmp_path)
    assert "\x1b" not in process(*words).err


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    line = f"{sys.executable} -m ensemw2s config show --preset tiny | head -n 1"
    done = subprocess.run(["bash", "-c", line], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_terminal_without_utf8_does_not_end_a_command(process: Command) -> None:
    done = process(
        "config", "show", "--set", 'data.template.prompt="ε → {prompt}"', env={"PYTHONIOENCODING": "latin-1"}
    )
    assert done.code == 0

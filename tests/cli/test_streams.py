"""Readers of stdout and stderr that leave before the program is done."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

#: A command of its own that works for a while, talks, and leaves a file.
PROGRAM = """
import logging, os, sys, time, warnings
from ensemw2s.cli import main as cli, streams
from ensemw2s.cli.terminal import terminal

@cli.app.command("work")
def work() -> None:
    print("ready", file=sys.stderr, flush=True)
    sys.stdin.readline()
    for i in range(200):
        terminal.say(f"line {i} " + "x" * 1000)
        warnings.warn(f"library {i}")
        logging.warning("log %d", i)
        os.write(2, b"native\\n")
    for i in range(200):
        terminal.out("y" * 1000)
    terminal.json({"unread": terminal.unread})
    with open(sys.argv[2], "w") as file:
        file.write("done")
    import typer
    raise typer.Exit(int(sys.argv[3]))

@cli.app.command("hold")
def hold() -> None:
    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)

words = sys.argv[1:2]
sys.exit(cli.main(words))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


@pytest.mark.parametrize("closed", ["stderr", "stdout", "both"])
@pytest.mark.parametrize("code", [0, 3])
def test_readers_that_leave(program: Path, tmp_path: Path, closed: str, code: int) -> None:
    done = tmp_path / "done"
    out = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, str(program), "work", str(done), str(code)], stdin=out, stdout=out, stderr=out
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stderr.readline() == b"ready\n"
    if closed != "stdout":
        process.stderr.close()
        process.stderr = None
    if closed != "stderr":
        process.stdout.close()
        process.stdout = None
    process.stdin.write(b"\n")
    said, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert done.read_text() == "done"
    assert b"Traceback" not in (told or b"")
    if said is not None:
        assert said.count(b"y" * 1000) == 200
        assert b'"unread": false' in said
    if told is not None:
        assert b"line 199" in told


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", "<&-", ">&- 2>&-", "2>/dev/full"])
def test_streams_that_are_closed_from_the_start(program: Path, tmp_path: Path, redirection: str) -> None:
    done = tmp_path / "done"
    command = f'"$@" {redirection}' if "<" in redirection else f'echo | "$@" {redirection}'
    code = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, str(program), "work", str(done), "3"],
        capture_output=True,
        timeout=60,
    ).returncode
    assert (code, done.read_text()) == (3, "done")


def test_a_full_disk_is_no_reader_that_left(program: Path, tmp_path: Path) -> None:
    done = tmp_path / "done"
    found = subprocess.run(
        ["sh", "-c", 'echo | "$@" >/dev/full', "sh", sys.executable, str(program), "work", str(done), "0"],
        capture_output=True,
        timeout=60,
    )
    assert found.returncode == 1
    assert b"No space left on device" in found.stderr
    assert b"Traceback" not in found.stderr


@pytest.mark.parametrize(
    "words", [["presets", "show", "tiny"], ["doctor", "--json"], ["config", "show", "--preset", "tiny"]]
)
def test_data_that_nobody_reads_ends_quietly(words: list[str], tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-m", "ensemw2s", *words], stdout=pipe, stderr=pipe, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    assert b"Error" not in told
    assert b"BrokenPipe" not in told


def _held(program: Path, *before: str) -> tuple[subprocess.Popen[bytes], int]:
    """The program in a terminal of its own, and the terminal's other end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*before, sys.executable, str(program), "hold"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while b"ready" not in said:
        assert select.select([ours], [], [], 60)[0]
        said += os.read(ours, 1000)
    return process, ours


def test_a_hung_up_terminal_interrupts_tidily(program: Path) -> None:
    process, ours = _held(program)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 130


def test_nohup_goes_on(program: Path) -> None:
    process, ours = _held(program, "sh", "-c", "trap '' HUP; exec \"$@\"", "sh")
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=60) == 130


def test_libraries_draw_lines_on_a_terminal_and_nothing_else(program: Path, tmp_path: Path) -> None:
    talk = tmp_path / "talk.py"
    talk.write_text(
        "import sys\nfrom ensemw2s.cli import streams\nstreams.install()\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    print('\\x1b[31mred\\x1b[0m \\x1b]52;c;eA==\\x07 \\x9b5n \\x1b[6n \\udc80', file=stream, flush=True)\n"
    )
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, str(talk)], stdout=theirs, stderr=theirs, check=True)
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert said.count("\x1b[31mred\x1b[0m ␛]52;c;eA==␇ �5n ␛[6n") == 2
    assert said.count("\x1b") == 4

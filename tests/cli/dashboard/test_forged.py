"""Another machine that lies: what it says is data, and nothing of it leaves the mirror or reaches a shell."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemw2s.cli import main as cli
from ensemw2s.cli.dashboard.reading import mirror, remote_target, ssh
from ensemw2s.cli.dashboard.reading.mirror import Mirror, is_run_name
from ensemw2s.cli.dashboard.reading.remote import RemoteSource
from ensemw2s.cli.dashboard.reading.remote_target import MOST_RUNS, RemoteTarget
from ensemw2s.cli.dashboard.reading.ssh import Shell, SshError
from ensemw2s.cli.dashboard.reading.target import Remote, parse_remote
from ensemw2s.errors import InputError

Simulate = Callable[..., Any]
EVENT = b'{"v":1,"t":1,"kind":"message","level":"info","text":"forged"}\n'
BEAT = b'{"pid": 1, "host": "h", "time": 1.0, "state": "running"}'

#: An ``ssh`` whose other end answers as ``$FORGED/answers.json`` says: [part of the question, answer] in order.
FORGER = """#!{python}
import json, os, sys
home = os.environ["FORGED"]
with open(os.path.join(home, "arguments"), "w") as file:
    json.dump(sys.argv[1:], file)
question = b""
out = sys.stdout.buffer
for line in sys.stdin.buffer:
    if not line.startswith(b"printf '\\\\n%s\\\\n' ew2s-"):
        question += line
        continue
    mark = line.split()[-1]
    with open(os.path.join(home, "answers.json")) as file:
        answers = json.load(file)
    answer = next((said for part, said in answers if part in question.decode("utf-8", "replace")), "")
    question = b""
    try:
        if answer == "endless":
            while True:
                out.write(b"x" * 65536)
        if answer == "endless words":
            while True:
                os.write(2, b"\\x1b]52;c;eA==\\x07 words \\xff\\n" * 1000)
        if answer == "dies":
            os.write(2, b"first\\n\\x1b]52;c;eA==\\x07\\xe2\\x80\\xae dead\\n")
            sys.exit(1)
        if answer == "hangs":
            sys.stdin.buffer.read()
        out.write(answer.encode("latin-1") + b"\\n" + mark + b"\\n")
        out.flush()
    except BrokenPipeError:
        os._exit(0)
"""


class Forger:
    """The other machine."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def says(self, *answers: tuple[str, bytes | str]) -> None:
        """Answers to questions that hold a text, the first that fits."""
        texts = [(part, said if isinstance(said, str) else said.decode("latin-1")) for part, said in answers]
        (self.home / "answers.json").write_text(json.dumps(texts))

    def lists(self, *names: bytes, size: bytes = b"%d" % len(EVENT), events: bytes | str = EVENT) -> None:
        """A folder with these runs."""
        scan = b"".join(b"run %s\nsize %s\nresults\nbeat %s\n" % (name, size, BEAT) for name in names)
        self.says(("if cd", b"folder\n"), ("while IFS", b"1760000000\n" + scan), ("tail -c", events))

    @property
    def arguments(self) -> list[str]:
        """With which ``ssh`` was started."""
        found: list[str] = json.loads((self.home / "arguments").read_text())
        return found


@pytest.fixture
def forger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forger:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(FORGER.replace("{python}", sys.executable))
    (tmp_path / "bin" / "ssh").chmod(0o755)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FORGED", str(tmp_path / "bin"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(remote_target, "SCAN_EVERY", 0.0)
    return Forger(tmp_path / "bin")


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder that looks like a run and must stay as it is."""
    folder = tmp_path / "precious"
    folder.mkdir()
    for name in mirror.NAMES:
        (folder / name).write_text("mine")
    return folder


def untouched(precious: Path) -> None:
    assert {path.name: path.read_text() for path in precious.iterdir()} == dict.fromkeys(mirror.NAMES, "mine")
    assert {path.name for path in precious.parent.iterdir()} <= {"bin", "tmp", "precious", "cwd", "home"}


def looked_at(forger: Forger) -> set[str]:
    """Names of the listed runs, after they came and went."""
    target = RemoteTarget(Remote("me@box", "runs"))
    target.connect()
    names = {run.name for run in target.list_runs()}
    chosen = target.current()
    if chosen is not None:
        assert chosen.resolve().is_relative_to(target.root.resolve())
        source = target.source(chosen)
        source.sync()
        source.close()
    forger.lists()
    assert target.list_runs() == []
    assert {path.name for path in target.root.rglob("*")} == set()
    target.close()
    assert list(target.root.parent.iterdir()) == []
    return names


FORGED = (
    "..", ".", "", "/", "../precious", "a/../../precious", "../../precious", "cells/../../precious", "cells/a/..",
    "./precious", "a//b", "a/b/", "/a", "a/b/c", "a/b/c/d/e", "x/cells/a/b/c", ".ssh", "a/.ssh", "~", "events.jsonl",
    "heartbeat/x", "x/events.jsonl", "a\0b", "a\x1b[31m", "a\rb", "a\r../precious", "a\u2028../precious", "a\u2029b",
    "a\x85../precious",
    "a\x0b../precious", "a\x0c../precious", "a\x1c../precious", "a\x1e../precious", "a\u202eb", "a\u200bb", "x" * 256,
    "é" * 200, "x" * 100_000, "a\nsize 5",
)  # fmt: skip
HARMLESS_ANYWAY = ("~",)


@pytest.mark.parametrize("name", FORGED)
def test_forged_names(forger: Forger, precious: Path, name: str) -> None:
    place = str(precious) if name == "/" else name
    forger.lists(place.encode(), b"good")
    assert looked_at(forger) - {"a", *HARMLESS_ANYWAY} == {"good"}
    untouched(precious)


@pytest.mark.parametrize("name", [b"\xff", b"a\xe2\x80", b"\xed\xb3\xbf"])
def test_names_that_are_no_text(forger: Forger, name: bytes) -> None:
    forger.lists(name, b"good")
    assert looked_at(forger) == {"good"}


@pytest.mark.parametrize(
    "name", ["a b", "-rf", "--", "日本", "$(touch x)", "`touch x`", "a;b", "a'b", 'a"b', "a\\b", "*", "s/r"]
)
def test_names_that_are_only_strange(forger: Forger, name: str) -> None:
    forger.lists(name.encode())
    assert looked_at(forger) == {name}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text("ab./\\~-\n\r\0\u2028\x85 é", max_size=12), max_size=4))
def test_whatever_it_calls_them(forger: Forger, precious: Path, names: list[str]) -> None:
    forger.lists(*(name.encode() for name in names), str(precious).encode(), b"good")
    found = looked_at(forger)
    assert "good" in found
    for name in found:
        assert is_run_name(name)
    untouched(precious)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary(max_size=60), min_size=6, max_size=6))
def test_whatever_it_answers(forger: Forger, precious: Path, answers: list[bytes]) -> None:
    parts = ("while IFS", "tail -c", "for f in", "date", "cksum", "sweep.json")
    forger.says(("if cd", b"folder\n"), *zip(parts, answers, strict=True))
    looked_at(forger)
    untouched(precious)


def test_thousands_of_runs(forger: Forger) -> None:
    forger.lists(*(b"run-%d" % i for i in range(5000)))
    assert len(looked_at(forger)) == MOST_RUNS


@pytest.mark.parametrize(
    "said",
    ["..", "/", "/..", "/tmp/..", "/x/events.jsonl", "/a\nb", "/a\x1b", "", "a", "\u2028", "folder\n\nmissing"],
)
def test_where_a_run_is_said_to_be(forger: Forger, precious: Path, said: str) -> None:
    forger.says(("if cd", said.encode() + b"\n"))
    target = RemoteTarget(Remote("me@box", "."))
    if said == "a":
        target.connect()
    else:
        with pytest.raises(InputError, match="cannot be read"):
            target.connect()
    target.close()
    untouched(precious)


@pytest.mark.parametrize("how", ["run", "file", "folder"])
def test_a_link_in_the_mirror_is_not_followed(forger: Forger, precious: Path, how: str) -> None:
    forger.lists(b"a", b"s/b")
    target = RemoteTarget(Remote("me@box", "runs"))
    target.connect()
    target.list_runs()
    for run in ("a", "s/b"):
        place = target.root / run
        for file in place.iterdir():
            file.unlink()
        if how == "file":
            for name in mirror.NAMES:
                (place / name).symlink_to(precious / name)
        else:
            place.rmdir()
            place.symlink_to(precious)
    if how == "folder":
        (target.root / "s" / "b").unlink()
        (target.root / "s").rmdir()
        (target.root / "s").symlink_to(precious)
    forger.lists(b"a", b"s/b", size=b"%d" % (2 * len(EVENT)))
    target.list_runs()
    assert "me@box" in target.problem()
    forger.lists()
    target.list_runs()
    target.close()
    untouched(precious)


@pytest.mark.parametrize("name", ["../precious", "a/../../precious", "/etc", "a\0b", "", "events.jsonl", "a/.."])
def test_a_mirror_takes_no_other_name(precious: Path, name: str) -> None:
    made = Mirror()
    for act in (made.put, lambda run, file, data: made.add(run, file, 0, data)):
        with pytest.raises(ValueError, match="no name"):
            act(name or "a", "authorized_keys" if not name else "events.jsonl", b"x")
    made.close()
    untouched(precious)


def test_a_mirror_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MOST_HELD", 100)
    made = Mirror()
    made.add("a", "events.jsonl", 0, b"x" * 60)
    made.put("a", "heartbeat", b"x" * 30)
    made.put("a", "heartbeat", b"x" * 40)
    for act in (lambda: made.add("b", "events.jsonl", 0, b"x"), lambda: made.put("a", "heartbeat", b"x" * 41)):
        with pytest.raises(OSError, match="would be copied"):
            act()
    made.forget("a")
    made.add("b", "events.jsonl", 1 << 35, b"x" * 100)  # sparse
    assert (made.folder / "b" / "events.jsonl").stat().st_size == (1 << 35) + 100
    made.close()


@pytest.mark.parametrize("part", ["if cd", "while IFS", "tail -c", "for f in", "date +%s; ["])
@pytest.mark.parametrize("how", ["endless", "endless words", "dies", "hangs"])
def test_an_answer_without_end(forger: Forger, monkeypatch: pytest.MonkeyPatch, part: str, how: str) -> None:
    monkeypatch.setattr(ssh, "ANSWER_WITHIN", 1.0)
    scan = b"1760000000\nrun a\nsize 5\n"
    sizes = b"events.jsonl 1 5\nresults.json 2 5\n"
    forger.says((part, how), ("if cd", b"folder\n"), ("while IFS", scan), ("for f in", sizes), ("tail -c", b"12345"))
    began = time.monotonic()
    target = RemoteTarget(Remote("me@box", "runs"))
    problems = []
    try:
        target.connect()
        target.list_runs()
        problems.append(target.problem())
        source = target.source(target.root / "a")
        source.sync()
        problems.append(source.problem())
        source.close()
    except InputError as error:
        problems.append(error.message)
    target.close()
    assert time.monotonic() - began < 8.0
    (said,) = {problem.partition("me@box: ")[2] or problem for problem in problems if problem}
    assert ("dead" in said) if how == "dies" else ("answer" in said)
    assert "\x1b" not in said
    assert "\u202e" not in said


@pytest.mark.parametrize(
    "sizes",
    [
        b"events.jsonl 1 99999999999999\n", b"events.jsonl 1 9999999999999999999999999\n",
        "events.jsonl 1 \u00b2\u0663\n".encode(), b"events.jsonl 1 -5\n", b"events.jsonl 1 1e9\n", b"../x 1 5\n",
        b"/etc/passwd 1 5\n", b"results.json 1 99999999999\n",
        b"events.jsonl\xe2\x80\xa8../x 1 5\n", b"authorized_keys 1 5\n", b"\0 1 1\n",
    ],
)  # fmt: skip
def test_forged_sizes(forger: Forger, precious: Path, sizes: bytes) -> None:
    forger.says(("for f in", sizes), ("date", b"soon\n" + BEAT), ("tail -c", b"12345"))
    source = RemoteSource(Shell("me@box"), "runs/a")
    source.sync()
    assert sorted(path.name for path in source.folder.iterdir()) == []
    source.close()
    source._shell.close()
    untouched(precious)


@pytest.mark.parametrize(
    "beat",
    [
        b'{"pid": 123456789012345678901234567890, "host": "h", "time": 1, "state": "running"}', b"[" * 4000, b"{}",
        b"\xff",
        b'{"pid": 1, "host": "h", "time": NaN, "state": "running"}',
        b'{"pid": 1, "host": 1, "time": 1, "state": "running"}',
        b'{"pid": 1, "host": "h", "time": 1, "state": "\\u001b[31m"}',
    ],
)  # fmt: skip
def test_forged_beats(forger: Forger, beat: bytes) -> None:
    forger.says(("for f in", b""), ("date", b"1760000000\n" + beat))
    source = RemoteSource(Shell("me@box"), "runs/a")
    source.sync()
    assert source.problem() == ""
    assert list(source.folder.iterdir()) == []
    source.close()
    source._shell.close()


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=touch x:runs", "-oProxyCommand=touch${IFS}x:runs", "-F@box:runs", "a@-oProxyCommand=x:runs",
        "$(id):runs", "`id`@box:runs", "a;b:runs", "a|b@box:runs", "box\x1b[31m:runs", "bóx:runs", "b%h:runs",
        "me@box:a\nb",
        "me@box:\x1b]52;c;x\x07",
        "me@box:" + "x" * 5000, "x" * 300 + ":runs", "%p@box:.",
    ],
)  # fmt: skip
def test_no_argument_becomes_an_option_or_a_command(
    forger: Forger, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if not any(map(str.isspace, text.partition(":")[0])):
        with pytest.raises(InputError):
            parse_remote(text)
    assert cli.main(["dashboard", "--once", "--", text]) == 2
    assert not (forger.home / "arguments").exists()
    assert "\x1b" not in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_how_ssh_is_started(forger: Forger) -> None:
    forger.lists()
    target = RemoteTarget(Remote("me@box", "runs"))
    target.connect()
    target.close()
    words = forger.arguments
    assert words[-3:] == ["--", "me@box", "exec sh"]
    assert "BatchMode=yes" in words
    assert "ClearAllForwardings=yes" in words


@pytest.mark.parametrize(
    "path", ["-", "-P", "$(touch x)", "`touch x`", "a; touch x", "a' ; touch x '", "~/$(touch x)", "&", "*"]
)
def test_a_path_is_only_a_path_there(fake_ssh: Path, path: str) -> None:
    (fake_ssh / path.removeprefix("~/")).mkdir(parents=True)
    target = RemoteTarget(Remote("me@box", path))
    target.connect()
    assert target.current() is None
    target.close()
    assert not (fake_ssh / "x").exists()


@pytest.mark.parametrize("name", ["-rf", "$(touch x)", "a b", "--", "back\\nslash", "q'uote", "line\nbreak", "\udcff"])
def test_folders_there_with_strange_names(simulate: Simulate, fake_ssh: Path, name: str) -> None:
    simulate("good", rounds=2).whole()
    simulate("other", rounds=2).whole().folder.rename(fake_ssh / name)
    simulate("good").folder.rename(fake_ssh / "good")
    os.mkfifo(fake_ssh / "events.pipe")
    (fake_ssh / "pipes").mkdir()
    os.mkfifo(fake_ssh / "pipes" / "events.jsonl")
    (fake_ssh / "zero").mkdir()
    (fake_ssh / "zero" / "events.jsonl").symlink_to("/dev/zero")
    target = RemoteTarget(Remote("me@box", "."))
    target.connect()
    runs = {run.name: run.state for run in target.list_runs()}
    target.close()
    shown = {} if name in ("line\nbreak", "\udcff") else {name: "finished"}
    assert runs == {"good": "finished", **shown}
    assert not (fake_ssh / "x").exists()


def test_a_long_question_is_refused(forger: Forger) -> None:
    forger.lists()
    with pytest.raises(SshError, match="too long"):
        Shell("me@box").ask("x" * 100_000)

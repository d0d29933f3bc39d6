"""Outputs are looked at before the work: nothing that is read, or that somebody else wrote, is overwritten."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.errors import InputError
from ensemw2s.outputs import beside, check_output_file, check_output_folder

Command = Callable[..., Any]
QUESTION = {"prompt": "1 or 2?", "choices": ["1", "2"], "answer": "2", "id": "a"}
ROW = {
    "id": "a",
    "prompt": "p",
    "label": "2",
    "confidence": 0.5,
    "agreement": 1.0,
    "option": 1,
    "scores": [],
    "choices": [],
}


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads an ensemble or a rater has come too far."""
    import ensemw2s.tasks.rate_difficulty
    import ensemw2s.tasks.use_ensemble

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(ensemw2s.tasks.use_ensemble, "load_ensemble", forbidden)
    monkeypatch.setattr(ensemw2s.tasks.rate_difficulty, "rate_examples", forbidden)


def _link(name: str) -> None:
    Path(name).symlink_to("q.jsonl")


def _hard(name: str) -> None:
    Path(name).hardlink_to("q.jsonl")


def _text(text: str) -> Callable[[str], None]:
    return lambda name: Path(name).write_text(text) and None


BAD: list[tuple[str, str, Callable[[str], Any] | None]] = [
    ("q.jsonl", "which is read", None),
    ("./q.jsonl", "which is read", None),
    ("../{here}/q.jsonl", "which is read", None),
    ("link.jsonl", "symbolic link", _link),
    ("hard.jsonl", "which is read", _hard),
    ("none/l.jsonl", "there is no folder none", None),
    ("q.jsonl/l.jsonl", "there is no folder", None),
    (".", "is a folder", None),
    ("/proc/l.jsonl", "cannot be written", None),
    ("/dev/null", "not a regular file", None),
    ("x" * 300, "too long for a name", None),
    ("é" * 200 + ".jsonl", "too long for a name", None),
    ("notes.txt", "does not hold results", _text("my notes\n")),
    ("other.jsonl", "does not hold results", _text('{"id": 1}\n')),
    ("list.jsonl", "does not hold results", _text("[1]\n")),
    ("pipe", "not a regular file", os.mkfifo),
]


@pytest.mark.parametrize("command", ["label", "score", "generate", "rate"])
@pytest.mark.parametrize(("output", "words", "make"), BAD)
def test_outputs_that_are_refused(
    ew2s: Command, command: str, output: str, words: str, make: Callable[[str], Any] | None
) -> None:
    Path("q.jsonl").write_text(json.dumps(QUESTION) + "\n")
    output = output.format(here=Path.cwd().name)
    if make is not None:
        make(output)
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    config = ["--preset", "tiny", "--set", "data.source.kind=file", "--model", "embedded:weak", "q.jsonl"]
    words_of = {
        "label": ["label", "-e", "e", "-i", "q.jsonl"],
        "score": ["score", "e", "q.jsonl"],
        "generate": ["generate", "e", "-i", "q.jsonl"],
        "rate": ["data", "rate", *config],
    }
    done = ew2s(*words_of[command], "--output", output)
    assert done.code == 2, done.err
    assert words in " ".join(done.err.split()), done.err
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


def test_older_results_and_empty_files_may_be_replaced(tmp_path: Path) -> None:
    from ensemw2s.tasks.rows import check_rows_output
    from ensemw2s.tasks.use_ensemble import GENERATE_COLUMNS, LABEL_COLUMNS, SCORE_COLUMNS

    file = tmp_path / "l.jsonl"
    for content in ("", json.dumps(ROW) + "\n"):
        file.write_text(content)
        check_rows_output(file, LABEL_COLUMNS, [])
        check_rows_output(file, SCORE_COLUMNS, [])
        assert file.read_text() == content
    with pytest.raises(InputError, match="does not hold results"):
        check_rows_output(file, GENERATE_COLUMNS, [])
    assert [path.name for path in tmp_path.iterdir()] == ["l.jsonl"]


def test_an_output_in_a_folder_that_is_read(ew2s: Command) -> None:
    Path("data").mkdir()
    Path("data/q.jsonl").write_text(json.dumps(QUESTION) + "\n")
    done = ew2s("label", "-e", "e", "-i", "data", "--output", "data/l.jsonl")
    assert (done.code, "lies in data" in done.err) == (2, True)


def test_label_does_not_read_standard_input(ew2s: Command) -> None:
    done = ew2s("label", "-e", "e", "-i", "-", "--output", "l.jsonl")
    assert (done.code, "not standard input" in " ".join(done.err.split())) == (2, True)


def test_folders(tmp_path: Path) -> None:
    def refused(path: Path, words: str, *inputs: Path) -> None:
        with pytest.raises(InputError, match=words):
            check_output_folder(path, inputs=inputs, ours=lambda _: False, what="one of ours")

    read = tmp_path / "read"
    (read / "inner").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(read)
    (tmp_path / "empty").mkdir()
    refused(read, "not empty, and not one of ours")
    refused(tmp_path / "file", "is a file")
    refused(tmp_path / "file" / "x", "is not a folder")
    refused(tmp_path / "link", "symbolic link")
    refused(tmp_path / ("x" * 300), "too long")
    refused(read, "which is read", read)
    refused(read / "new", "lies in", read)
    refused(tmp_path, "holds", read)
    refused(Path("/proc/x"), "cannot be written")
    for good in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert not check_output_folder(good, inputs=[read], ours=lambda _: False, what="one of ours")
    assert check_output_folder(read, ours=lambda _: True, what="one of ours")
    assert not (tmp_path / "a").exists()


def test_a_work_folder_of_somebody_else_stays(ew2s: Command) -> None:
    Path("q.jsonl").write_text(json.dumps(QUESTION) + "\n")
    Path("d.json.work").mkdir()
    Path("d.json.work/thesis.tex").write_text("mine")
    words = ["--preset", "tiny", "--set", "data.source.kind=file", "--model", "embedded:weak", "q.jsonl"]
    done = ew2s("data", "rate", *words, "--output", "d.json")
    assert (done.code, "thesis.tex" in done.err) == (2, True)
    assert Path("d.json.work/thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("name", ["l.jsonl", "é" * 124 + ".jsonl", "l" * 255])
def test_a_name_beside_an_output_is_one(tmp_path: Path, name: str) -> None:
    folder = beside(tmp_path / name, "parts")
    folder.mkdir()
    assert folder != beside(tmp_path / f"{name[:-1]}m", "parts")


def test_an_output_on_a_name_in_another_case(tmp_path: Path) -> None:
    """On file systems that ignore case both names are one file; elsewhere they are two."""
    given = tmp_path / "Q.jsonl"
    given.write_text(json.dumps(ROW))
    other = tmp_path / "q.jsonl"
    if other.exists():
        with pytest.raises(InputError, match="which is read"):
            check_output_file(other, inputs=[given], ours=lambda _: True)
    else:
        check_output_file(other, inputs=[given], ours=lambda _: True)


def test_what_an_interruption_kept_is_said(ew2s: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import ensemw2s.tasks.use_ensemble
    from ensemw2s.errors import Interrupted

    said: list[BaseException] = [Interrupted("5 of 9 rows are kept in l.parts; the same command continues.")]

    def interrupted(*_: Any, **__: Any) -> None:
        raise said[0]

    monkeypatch.setattr(ensemw2s.tasks.use_ensemble, "label_file", interrupted)
    monkeypatch.setattr(ensemw2s.tasks.use_ensemble, "load_ensemble", interrupted)
    Path("q.jsonl").write_text(json.dumps(QUESTION) + "\n")
    label = ["label", "-e", "e", "-i", "q.jsonl", "--output", "l.jsonl"]
    done = ew2s(*label)
    assert (done.code, done.err) == (130, f"Interrupted: {said[0]}\n")
    said[0] = KeyboardInterrupt()
    done = ew2s(*label)
    assert (done.code, "interrupted; the same command continues." in done.err) == (130, True)
    done = ew2s("score", "e", "q.jsonl")  # to stdout: nothing is kept
    assert (done.code, "interrupted; the same command begins anew." in done.err) == (130, True)


def test_what_a_killed_command_left_in_its_folder_is_no_reason_to_refuse_it(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left, other = tmp_path / f".ensemble.json.{int(killed.stdout)}.tmp", tmp_path / ".notes.tmp"
    left.write_text("half")
    assert not check_output_folder(tmp_path, ours=lambda _: False, what="an ensemble")
    assert not left.exists()
    other.write_text("somebody's")
    with pytest.raises(InputError, match="is not empty, and not an ensemble"):
        check_output_folder(tmp_path, ours=lambda _: False, what="an ensemble")
    assert other.exists()

"""Files through an ensemble: killed anywhere and continued, the output is that of an uninterrupted command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.errors import InputError, RunBusyError
from ensemw2s.models.loading.source import find_source
from ensemw2s.tasks.row_parts import Parts

Order = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def program() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("killed_rows.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]


def write_ensemble(folder: Path, task: str = "choice", **changes: Any) -> Path:
    folder.mkdir()
    content = {
        "task": task,
        "experts": [{"name": "embedded:weak", "alpha": 2.0}, {"name": "embedded:strong", "alpha": 1.0}],
        "ensemble": {},
        "template": {},
        "decoding": {"max_new_tokens": 3},
        **changes,
    }
    (folder / "ensemble.json").write_text(json.dumps(content))
    return folder


def write_questions(file: Path, n: int) -> Path:
    def row(i: int) -> dict[str, Any]:
        digits = [str((i * k) % 10) for k in (3, 7, 9)]
        right, wrong = " ".join(sorted(digits)), " ".join(sorted(digits, reverse=True))
        prompt = f"{' '.join(digits)} sorted is" + " and then some" * (i % 4)
        return {"id": f"q{i}", "prompt": prompt, "choices": [wrong + " x", right], "answer": right}

    file.write_text("".join(json.dumps(row(i)) + "\n" for i in range(n)), encoding="utf-8")
    return file


@pytest.fixture
def order(program: subprocess.Popen[str], tmp_path: Path) -> Order:
    """Does a command in a process of its own; keywords are those of killed_rows.py."""
    (tmp_path / "out").mkdir()

    def do(command: str, *, output: str = "l.jsonl", **how: Any) -> dict[str, Any]:
        what = {
            "command": command, "ensemble": str(tmp_path / "e"), "input": str(tmp_path / "q.jsonl"),
            "output": str(tmp_path / "out" / output), "rows": 3, "at": 0, **how,
        }  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(what) + "\n")
        program.stdin.flush()
        found: dict[str, Any] = json.loads(program.stdout.readline())
        return found

    return do


SAMPLED = {"decoding": {"method": "sample", "temperature": 2.0, "max_new_tokens": 3}}


@pytest.mark.parametrize(
    ("command", "task", "how", "every"),
    [
        ("label", "choice", {}, 7),
        ("label", "generate", SAMPLED, 9),
        ("score", "choice", {}, 13),
        ("generate", "generate", SAMPLED, 13),
        pytest.param("label", "choice", {}, 1, marks=pytest.mark.slow),
    ],
)
def test_killed_before_any_operation_the_same_command_continues(
    order: Order, tmp_path: Path, command: str, task: str, how: dict[str, Any], every: int
) -> None:
    """SIGKILL before each operation on a file in turn, then the same command: the bytes of an uninterrupted one."""
    write_ensemble(tmp_path / "e", task)
    write_questions(tmp_path / "q.jsonl", 8)
    whole = order(command, output="whole.jsonl", **how)
    assert whole["status"] == 0
    expected = (tmp_path / "out" / "whole.jsonl").read_bytes()
    (tmp_path / "out" / "whole.jsonl").unlink()
    assert len(expected.splitlines()) == 8
    assert whole["seen"] > 30
    output = tmp_path / "out" / "l.jsonl"
    for at in range(1, whole["seen"] + 1, every):
        assert order(command, at=at, **how)["status"] == -9
        begun = (tmp_path / "out" / "l.jsonl.parts" / "manifest.json").exists()
        again = order(command, **how, batch_tokens=64 if begun else 16384)  # what was begun keeps its batch size
        assert again["status"] == 0, again
        assert output.read_bytes() == expected, at
        assert (
            again["done"] == whole["done"] | ({"output": str(output)} if command == "label" else {})
            if isinstance(whole["done"], dict)
            else again["done"] == whole["done"]
        )
        assert [path.name for path in output.parent.iterdir()] == ["l.jsonl"], at
        output.unlink()


def test_parts_that_are_kept_are_not_made_again(order: Order, tmp_path: Path) -> None:
    write_ensemble(tmp_path / "e", "generate")
    write_questions(tmp_path / "q.jsonl", 8)
    order("label", output="whole.jsonl", **SAMPLED)
    stopped = order("label", stop=6, **SAMPLED)
    assert stopped["kind"] == "Interrupted"
    assert "6 of 8 rows are kept" in stopped["error"]
    assert "the same command continues" in stopped["error"]
    folder = tmp_path / "out" / "l.jsonl.parts"
    parts = sorted(folder.glob("*.jsonl"))
    assert [part.name[:25] for part in parts] == ["000000000000-000000000003", "000000000003-000000000006"]
    times = [part.stat().st_mtime_ns for part in parts]
    damaged = bytearray(parts[0].read_bytes())
    damaged[20] ^= 1
    parts[0].write_bytes(damaged)
    assert order("label", stop=8, **SAMPLED)["kind"] == "Interrupted"
    assert sorted(folder.glob("*.jsonl"))[:2] == parts
    assert parts[1].stat().st_mtime_ns == times[1]  # whole, and kept
    assert parts[0].stat().st_mtime_ns > times[0]  # damaged, and made again
    assert order("label", **SAMPLED)["status"] == 0
    whole = (tmp_path / "out" / "whole.jsonl").read_bytes()
    assert (tmp_path / "out" / "l.jsonl").read_bytes() == whole
    assert not folder.exists()


def test_something_else_does_not_continue_kept_rows(order: Order, tmp_path: Path) -> None:
    write_ensemble(tmp_path / "e", "generate")
    write_questions(tmp_path / "q.jsonl", 8)
    assert order("label", stop=3, **SAMPLED)["kind"] == "Interrupted"
    folder = tmp_path / "out" / "l.jsonl.parts"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refused(*words: str, command: str = "label", **how: Any) -> None:
        found = order(command, **{**SAMPLED, **how})
        assert found["kind"] == "InputError"
        assert all(word in found["error"] for word in (*words, str(folder))), found["error"]

    refused("seed (0 then, 1 now)", seed=1)
    refused("decoding (temperature)", decoding={**SAMPLED["decoding"], "temperature": 1.0})
    refused("the command (label then, generate now)", command="generate")
    write_questions(tmp_path / "q.jsonl", 9)
    refused("the input")
    write_questions(tmp_path / "q.jsonl", 8)
    changed = json.loads((tmp_path / "e" / "ensemble.json").read_text())
    (tmp_path / "e" / "ensemble.json").write_text(
        json.dumps({**changed, "template": {"prompt": "{prompt}!"}, "experts": changed["experts"][:1]})
    )
    refused("the ensemble (experts, alphas, template)")
    (tmp_path / "e" / "ensemble.json").write_text(json.dumps(changed))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(manifest[:50])
    refused("manifest.json is damaged")
    (folder / "manifest.json").write_text(manifest.replace('"rows": 8', '"rows": 6'))
    assert "more than the 6 questions" in order("label", **SAMPLED)["error"]
    (folder / "manifest.json").write_text(manifest)
    assert order("label", **SAMPLED)["status"] == 0


@pytest.mark.parametrize("kind", ["folder", "link", "file"])
def test_what_somebody_else_keeps_beside_the_output_is_left_alone(order: Order, tmp_path: Path, kind: str) -> None:
    write_ensemble(tmp_path / "e")
    write_questions(tmp_path / "q.jsonl", 3)
    folder, other = tmp_path / "out" / "l.jsonl.parts", tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    if kind == "folder":
        other.rename(folder)
        other = folder
    elif kind == "link":
        folder.symlink_to(other)
    else:
        folder.write_text("mine")
    found = order("label")
    assert found["kind"] == "InputError"
    assert folder.name in found["error"]
    assert folder.read_text() == "mine" if kind == "file" else (other / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "out" / "l.jsonl").exists()


def test_a_sampled_answer_does_not_depend_on_the_parts(order: Order, tmp_path: Path) -> None:
    write_ensemble(tmp_path / "e", "generate")
    write_questions(tmp_path / "q.jsonl", 8)
    for rows in (1, 3, 8):
        assert order("label", output=f"{rows}.jsonl", rows=rows, **SAMPLED)["status"] == 0
    texts = [
        [json.loads(line)["label"] for line in (tmp_path / "out" / f"{rows}.jsonl").read_text().splitlines()]
        for rows in (1, 3, 8)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) > 2


def test_bad_questions_are_found_before_the_first_row(order: Order, tmp_path: Path) -> None:
    write_ensemble(tmp_path / "e")
    with write_questions(tmp_path / "q.jsonl", 8).open("a") as stream:
        stream.write(json.dumps({"id": "long", "prompt": "1 " * 5000, "choices": ["1", "2"]}) + "\n")
    found = order("label")
    assert (found["kind"], found["status"]) == ("DataError", 1)
    assert "'long'" in found["error"]
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "q.jsonl").write_text("\n")
    assert order("label")["kind"] == "DataError"


@pytest.mark.parametrize("length", [240, 250, 255])
def test_names_as_long_as_a_file_system_takes(order: Order, tmp_path: Path, length: int) -> None:
    write_ensemble(tmp_path / "e")
    write_questions(tmp_path / "q.jsonl", 4)
    name = "é" * ((length - 6) // 2) + "l" * ((length - 6) % 2) + ".jsonl"
    assert len(os.fsencode(name)) == length
    assert order("label", output=name)["status"] == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    found = order("label", output="é" * 150 + ".jsonl")
    assert found["kind"] == "InputError"
    assert "too long for a name" in found["error"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Parts(tmp_path / "l.jsonl", {"seed": 0}, {"part_rows": 2}) as parts:
        parts.begin(3)
        with (
            pytest.raises(RunBusyError, match="--output"),
            Parts(tmp_path / "l.jsonl", {"seed": 0}, {"part_rows": 2}),
        ):
            pass
        parts.write(0, "0" * 16, [{"a": 1}, {"a": "\ud800é"}])
        parts.write(2, "1" * 16, [{"a": float("nan")}])
        parts.join()
    lines = (tmp_path / "l.jsonl").read_bytes().splitlines()
    assert lines == [b'{"a":1}', b'{"a":"\\ud800\xc3\xa9"}', b'{"a":null}']
    assert [path.name for path in tmp_path.iterdir()] == ["l.jsonl"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rows", "many"), ("rows", float("inf")), ("rows", None), ("rows", 0), ("rows", -3),
        ("rows", 2.5), ("settings", 5), ("settings", {}), ("identity", None),
        ("settings", {"part_rows": 0}), ("settings", {"part_rows": -2}), ("settings", {"part_rows": True}),
        ("settings", {"part_rows": 1.5}),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_named(tmp_path: Path, key: str, value: Any) -> None:
    def begun() -> Parts:
        return Parts(tmp_path / "l.jsonl", {"seed": 0}, {"part_rows": 2})

    with begun() as parts:
        parts.begin(3)
        parts.write(0, "0" * 16, [{"a": 1}, {"a": 2}])
    file = parts.folder / "manifest.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {key: value}))
    with pytest.raises(InputError, match=r"manifest\.json is damaged"), begun():
        pass
    file.write_text(json.dumps(content))
    with begun() as parts:
        assert (parts.kept, parts.has(0, "0" * 16), parts.has(0, "2" * 16), parts.kept) == (2, True, False, 0)


@pytest.mark.parametrize("error", [InputError, RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_where_no_row_was_made(tmp_path: Path, error: type[BaseException]) -> None:
    def fail(number: int, rows: list[dict[str, Any]]) -> None:
        with Parts(tmp_path / "l.jsonl", {"the input": number}, {"part_rows": 2}) as parts:
            parts.begin(3)
            if rows:
                parts.write(0, "0" * 16, rows)
            raise error("weights")

    with pytest.raises(error):
        fail(1, [])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(error):
        fail(2, [{"a": 1}, {"a": 2}])  # mended
    assert len(list((tmp_path / "l.jsonl.parts").glob("*.jsonl"))) == 1


def test_an_ensemble_that_cannot_be_loaded_leaves_nothing(order: Order, tmp_path: Path) -> None:
    write_questions(tmp_path / "q.jsonl", 4)
    source = find_source("embedded:weak").folder
    assert source is not None
    shutil.copytree(source, tmp_path / "m")
    whole = (tmp_path / "m" / "model.safetensors").read_bytes()
    (tmp_path / "m" / "model.safetensors").write_bytes(whole[:5000])
    write_ensemble(tmp_path / "e", experts=[{"path": "../m", "alpha": 1.0}])
    assert order("label")["kind"] == "ModelError"
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "m" / "model.safetensors").write_bytes(whole)
    assert order("label")["status"] == 0

"""Stages: done or not, never half; resumed, re-run with a reason, killed in the middle."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.errors import EXIT_FAILED, InputError, RunFailedError
from ensemw2s.runs.stage import Stages, fingerprint

Spawn = Callable[..., "subprocess.Popen[str]"]

KILLED = """
import sys
from pathlib import Path
from ensemw2s.runs.stage import Stages
with Stages(Path(sys.argv[1])).stage("experts/round-01", {"a": 1}, resume=True) as partial:
    (partial / "checkpoint").write_text("step 50")
    print("working", flush=True)
    sys.stdin.readline()
"""


def _write(text: str) -> Callable[[Path], None]:
    def work(partial: Path) -> None:
        (partial / "model").write_text(text)

    return work


def test_a_stage_is_done_once_and_kept(tmp_path: Path, recorder: Any) -> None:
    stages = Stages(tmp_path, recorder)
    folder = stages.ensure("experts/round-01", {"b": 1, "a": 0.5}, _write("one"), seed=3)
    assert folder == tmp_path / "experts" / "round-01"
    stages.ensure("experts/round-01", {"a": 0.5, "b": 1}, _write("two"))
    assert (folder / "model").read_text() == "one"
    assert sorted(p.name for p in folder.iterdir()) == ["model", "stage.json"]
    record = stages.record("experts/round-01")
    assert record is not None
    assert (record.name, record.seed, record.inputs) == ("experts/round-01", 3, {"a": 0.5, "b": 1})
    assert record.fingerprint == fingerprint({"a": 0.5, "b": 1})
    assert {"ensemw2s", "python", "numpy"} <= record.versions.keys()
    assert recorder.kinds() == ["stage_started", "stage_finished", "stage_finished"]
    assert [e["cached"] for e in recorder.events[1:]] == [False, True]


def test_changed_inputs_rerun_and_say_why(tmp_path: Path, recorder: Any) -> None:
    stages = Stages(tmp_path, recorder)
    stages.ensure("s", {"training": {"steps": 300, "lr": 1}, "gone": 1}, _write("one"))
    (tmp_path / "s" / "old").touch()
    recorder.events.clear()
    stages.ensure("s", {"training": {"steps": 200, "lr": 1}, "added": 1}, _write("two"))
    assert recorder.events[0] == {
        "kind": "stage_rerun",
        "stage": "s",
        "reason": "added: new; gone: gone; training.steps: 300 → 200",
    }
    assert (tmp_path / "s" / "model").read_text() == "two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]
    assert not (tmp_path / "s" / "old").exists()


def test_long_reasons_are_cut(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    stages.ensure("s", {str(i): 0 for i in range(8)} | {"long": "x" * 99}, _write(""))
    reason = stages.rerun_reason("s", {str(i): 1 for i in range(8)} | {"long": ["y"]})
    assert reason == "0: 0 → 1; 1: 0 → 1; 2: 0 → 1; 3: 0 → 1; 4: 0 → 1; and 4 more"
    assert stages.rerun_reason("never", {}) is None


def test_long_lists_are_counted(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    stages.ensure("s", {"experts": ["a" * 64, "b" * 64], "more": ["a" * 64], "short": [1]}, _write(""))
    reason = stages.rerun_reason("s", {"experts": ["a" * 64, "c" * 64], "more": ["a" * 64] * 2, "short": [2]})
    assert reason == "experts: 1 of 2 entries differ; more: 1 entry → 2 entries; short: [1] → [2]"


def test_an_exception_leaves_a_partial_folder_and_the_next_start_discards_it(tmp_path: Path) -> None:
    stages = Stages(tmp_path)

    def work(partial: Path) -> None:
        (partial / "half").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stages.ensure("s", {"a": 1}, work)
    assert stages.current == "s"
    assert not stages.is_done("s", {"a": 1})
    assert (tmp_path / "s.partial" / "half").exists()
    with stages.stage("s", {"a": 1}) as partial:
        assert not (partial / "half").exists()
    assert stages.current is None


@pytest.mark.parametrize(("inputs", "kept"), [({"a": 1}, True), ({"a": 2}, False)])
def test_a_killed_stage_is_resumed_only_with_the_same_inputs(
    tmp_path: Path, spawn: Spawn, inputs: dict[str, int], kept: bool
) -> None:
    process = spawn(KILLED, str(tmp_path))
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    stages = Stages(tmp_path)
    assert not stages.is_done("experts/round-01", {"a": 1})
    assert not (tmp_path / "experts" / "round-01").exists()
    with stages.stage("experts/round-01", inputs, resume=True) as partial:
        assert (partial / "checkpoint").exists() is kept
    assert stages.is_done("experts/round-01", inputs)
    assert not (tmp_path / "experts" / "round-01.partial").exists()


def test_a_full_disk_is_explained_and_finished_stages_stay(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    stages.ensure("first", {}, _write("kept"))

    def full(partial: Path) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not save") from error

    with pytest.raises(RunFailedError) as caught:
        stages.ensure("second", {}, full)
    assert "MiB free" in caught.value.message
    assert "second" in caught.value.message
    assert "Finished stages are kept" in str(caught.value)
    assert caught.value.exit_code == EXIT_FAILED
    assert stages.is_done("first", {})


def test_other_errors_pass_through(tmp_path: Path) -> None:
    def denied(partial: Path) -> None:
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        Stages(tmp_path).ensure("s", {}, denied)


def test_a_library_that_hides_the_error_number_is_understood(tmp_path: Path) -> None:
    def full(partial: Path) -> None:
        raise ValueError("Error while serializing: IoError(Os { code: 28, message: No space left on device })")

    with pytest.raises(RunFailedError):
        Stages(tmp_path).ensure("s", {}, full)


@pytest.mark.parametrize("name", ["", "/etc", "../x", "a/../../b", "a.partial", "a.stale"])
def test_names_stay_inside_the_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="stage name"):
        Stages(tmp_path).path(name)


def test_a_stage_does_not_swallow_the_folder_of_others(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    stages.ensure("experts/round-01", {}, _write("one"))
    with pytest.raises(ValueError, match="other stages"):
        stages.ensure("experts", {}, _write("all"))
    assert stages.is_done("experts/round-01", {})


def test_a_damaged_record_means_not_done(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    stages.ensure("s", {}, _write("one"))
    (tmp_path / "s" / "stage.json").write_text('{"name": "s"')
    assert not stages.is_done("s", {})
    (tmp_path / "s" / "stage.json").write_text(json.dumps({"name": "s"}))
    stages.ensure("s", {}, _write("two"))
    assert (tmp_path / "s" / "model").read_text() == "two"


def test_fingerprints_do_not_depend_on_key_order_but_on_every_value() -> None:
    base = {"a": {"x": 1, "y": [1.5, None]}, "b": "t"}
    assert fingerprint(base) == fingerprint({"b": "t", "a": {"y": [1.5, None], "x": 1}})
    others = [{"a": {"x": 1, "y": [1.5, 0]}, "b": "t"}, {"a": {"x": 1, "y": [None, 1.5]}, "b": "t"}, {"b": "t"}]
    assert len({fingerprint(base), *map(fingerprint, others)}) == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
@pytest.mark.parametrize("library", ["python", "numpy"])
def test_a_full_disk_is_recognised_whoever_wrote(tmp_path: Path, library: str) -> None:
    import numpy as np

    def write(_partial: Path) -> None:
        values = np.zeros(200_000, dtype=np.float32)
        if library == "python":
            with Path("/dev/full").open("wb", buffering=0) as stream:
                stream.write(values.tobytes())
        else:
            with Path("/dev/full").open("wb") as stream:
                np.save(stream, values)

    with pytest.raises(RunFailedError, match="disk is full"):
        Stages(tmp_path).ensure("stage", {}, write)


@pytest.mark.parametrize("name", ["labels", "labels/plain", "labels/plain.partial", "labels/plain.stale"])
def test_a_file_where_a_folder_belongs_is_named(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("somebody's")
    with pytest.raises(InputError) as caught:
        Stages(tmp_path).ensure("labels/plain", {}, _write("one"))
    assert caught.value.exit_code == 2
    assert caught.value.message == f"{place} is a file, where a folder is kept."
    assert f"rm {place}" in str(caught.value.hint)
    assert place.read_text() == "somebody's"
    place.unlink()
    assert Stages(tmp_path).ensure("labels/plain", {}, _write("one")).is_dir()

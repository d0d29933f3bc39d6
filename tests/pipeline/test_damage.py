"""A damaged run is named and made again with the same numbers; whoever only reads it gets one error."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ensemw2s.checksums import check_stage_files, recorded_stages
from ensemw2s.cli import main as cli_main
from ensemw2s.cli.terminal import terminal
from ensemw2s.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from ensemw2s.pipeline.run import execute
from ensemw2s.runs.directory import RunDirectory
from ensemw2s.runs.verify import verify

QUESTION = '{"prompt": "3 1 2 sorted is", "choices": [" 1 2 3", " 3 2 1"]}\n'


@pytest.fixture(autouse=True)
def plain_world(monkeypatch, tmp_path) -> None:
    """Commands run in an empty folder and leave signals alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_main.signal, "signal", lambda *_: None)
    for name in ("quiet", "debug"):
        monkeypatch.setattr(terminal, name, False)
    (tmp_path / "questions.jsonl").write_text(QUESTION)


@pytest.fixture
def ew2s(capsys):
    """Runs a command line in this process: exit code, stdout and stderr as one text without line breaks."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli_main.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, "".join(captured.err.split())

    return call


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_damage_of_every_kind_is_named_and_made_again(finished, copy_of, mini_config, read_numbers, recorder):
    folder = copy_of(finished[0])
    damaged = [
        "data/test.jsonl",
        "experts/round-02/model/model.safetensors",
        "experts/round-01/scores/validation/target_logprob.npy",
        "baselines/zero-shot-weak/scores/train/argmax.npy",
        "student/ensemble/scores/test/topk_ids.npy",
        "labels/ensemble/labels.parquet",
        "ceiling/stage.json",
        "token_weights/round-01.npy",
        "ensemble.json",
        "results.json",
        "correct.parquet",
        "events.jsonl",
    ]
    for name in damaged:
        flip(folder / name)
    assert {one.path.relative_to(folder).as_posix() for one in verify(folder).damaged} == set(damaged)
    execute(mini_config(), folder, sink=recorder, report=False)
    assert read_numbers(folder) == read_numbers(finished[0])
    assert (folder / "correct.parquet").read_bytes() == (finished[0] / "correct.parquet").read_bytes()
    assert verify(folder).damaged == []
    told = [f"{event['stage']} {event['reason']}" for event in recorder.of("stage_rerun")]
    told += [event["text"] for event in recorder.of("message")]
    for name in damaged:
        *place, file = name.split("/")
        assert any(place[:1] == [] or place[0] in text for text in told if file in text), name


def test_a_stage_that_loses_a_file_or_its_record_is_made_again(finished, copy_of, mini_config, read_numbers, recorder):
    folder = copy_of(finished[0])
    (folder / "experts" / "round-01" / "stage.json").unlink()
    (folder / "files.json").unlink()
    (folder / "labels" / "bagging" / "labels.parquet").unlink()
    (folder / "student" / "bagging" / "model" / "adapter_config.json").write_text("{}")
    os.truncate(folder / "ceiling" / "model" / "model.safetensors", 100)
    (folder / "student" / "ensemble" / "stage.json").write_text("{}")
    swap(folder / "experts/round-02", folder / "baselines/bagging/member-02")
    scores = "baselines/zero-shot-weak/scores"
    swap(folder / scores / "test", folder / scores / "validation")
    swapped = {"experts/round-02", "baselines/bagging/member-02"}
    places = {*swapped, "student/ensemble", f"{scores}/test", f"{scores}/validation"}
    found = {one.path.relative_to(folder).as_posix() for one in verify(folder).damaged}
    assert {"files.json", *(f"{place}/stage.json" for place in places)} <= found
    execute(mini_config(), folder, sink=recorder, report=False)
    assert read_numbers(folder) == read_numbers(finished[0])
    assert verify(folder).damaged == []
    again = {event["stage"] for event in recorder.of("stage_rerun") if "damaged: " in event["reason"]}
    named = {"experts/round-01", "labels/bagging", "student/bagging", "student/ensemble", "ceiling"}
    assert named | swapped | {scores} <= again


READERS = [
    ("experts/round-01/model/model.safetensors", "score RUN questions.jsonl"),
    ("experts/round-01/model/tokenizer.json", "generate RUN hello"),
    ("experts/round-01/model/config.json", "evaluate RUN --split test"),
    ("experts/round-01/model/model.safetensors", "export ensemble RUN out"),
    ("experts/round-01/model/generation_config.json", "label -e RUN -i questions.jsonl --output out"),
    ("experts/round-01/stage.json", "score RUN questions.jsonl"),
    ("ensemble.json", "score RUN questions.jsonl"),
    ("ensemble.json", "combine RUN --out out"),
    ("data/test.jsonl", "evaluate RUN --split test"),
    ("data/hard_test.jsonl", "export task RUN out --split hard_test"),
    ("data/train.jsonl", "export labels RUN out"),
    ("labels/ensemble/labels.parquet", "export labels RUN out"),
    ("config.yaml", "export labels RUN out"),
    ("results.json", "export labels RUN out"),
    ("results.json", "export ensemble RUN out"),
    ("results.json", "evaluate RUN"),
    ("results.json", "report RUN"),
    ("events.jsonl", "report RUN"),
    ("config.yaml", "report RUN"),
    ("files.json", "report RUN"),
]


@pytest.mark.parametrize(("file", "command"), READERS)
def test_readers_refuse_a_damaged_file_by_name(finished, copy_of, ew2s, file, command):
    folder = copy_of(finished[0])
    flip(folder / file)
    code, out, err = ew2s(*command.replace("RUN", str(folder)).split())
    assert code == EXIT_USAGE
    assert str(folder / file) in err
    assert "isdamaged:" in err
    assert out == ""
    assert "Traceback" not in err
    assert not Path("out").exists()


def emptied(folder: Path) -> None:
    (folder / "experts/round-01/stage.json").write_text("{}")
    flip(folder / "experts/round-01/model/model.safetensors")


LOST = {
    "gone": lambda folder: (folder / "experts/round-01/stage.json").unlink(),
    "emptied": emptied,
    "swapped": lambda folder: swap(folder / "experts/round-02", folder / "baselines/bagging/member-02"),
}


@pytest.mark.parametrize("command", ["score RUN questions.jsonl", "label -e RUN -i questions.jsonl --output out"])
@pytest.mark.parametrize("how", LOST)
def test_readers_refuse_a_stage_without_its_own_record(finished, copy_of, ew2s, how, command):
    folder = copy_of(finished[0])
    LOST[how](folder)
    stage = "experts/round-02" if how == "swapped" else "experts/round-01"
    assert ew2s("runs", "verify", folder)[0] == EXIT_FAILED
    code, out, err = ew2s(*command.replace("RUN", str(folder)).split())
    assert code == EXIT_USAGE
    assert f"{folder / stage / 'stage.json'}isdamaged:" in err
    assert out == ""
    assert not Path("out").exists()


def test_verify_names_what_is_gone_as_a_whole(finished, copy_of, ew2s):
    folder = copy_of(finished[0])
    for name in (
        "baselines/bagging/member-02",
        "ceiling",
        "labels",
        "student/ensemble/scores",
        "experts/round-02/scores/test",
    ):
        shutil.rmtree(folder / name)
    (folder / "labels").write_text("x")
    with (folder / "events.jsonl").open("a") as log:
        for name in ("../../outside", "/etc", "data/../../x", "experts/\u0000", "", "nothing/of/ours"):
            line = {"v": 1, "t": 1.0, "kind": "stage_finished", "stage": name, "seconds": 0.0, "parts": 7}
            log.write(json.dumps(line) + "\n")
    found = {one.path.relative_to(folder).as_posix(): one.why for one in verify(folder).damaged}
    assert found.pop("labels") == "it is not a folder"
    assert found.keys() >= {"baselines/bagging/member-02", "ceiling", "student/ensemble/scores", "labels/ensemble"}
    assert "experts/round-02/scores/test" in found
    assert all(name.split("/")[0] in ("baselines", "ceiling", "experts", "labels", "student") for name in found)
    assert not any(name.startswith("ceiling/") for name in found)
    assert ew2s("runs", "verify", folder)[0] == EXIT_FAILED


@pytest.mark.parametrize(
    "command", ["score RUN questions.jsonl", "export labels RUN out", "evaluate RUN", "report RUN"]
)
def test_readers_refuse_a_run_without_its_files_json(finished, copy_of, ew2s, command):
    folder = copy_of(finished[0])
    (folder / "files.json").unlink()
    code, out, err = ew2s(*command.replace("RUN", str(folder)).split())
    assert (code, out) == (EXIT_USAGE, "")
    assert f"{folder / 'files.json'}isdamaged:itismissing" in err


def test_verify_says_what_is_damaged(finished, copy_of, ew2s):
    folder = copy_of(finished[0])
    code, out, _ = ew2s("runs", "verify", folder)
    assert code == EXIT_OK
    assert "nothing is damaged" in out
    flip(folder / "labels" / "ensemble" / "labels.parquet")
    (folder / "student" / "ensemble" / "trained.json").unlink()
    (folder / "files.json").unlink()
    code, out, _ = ew2s("runs", "verify", folder)
    assert code == EXIT_FAILED
    assert out.count("damaged: ") == 3
    assert str(folder / "labels" / "ensemble" / "labels.parquet") in out.replace("\n", "")
    code, out, _ = ew2s("runs", "verify", folder, "--json")
    found = json.loads(out)
    assert code == EXIT_FAILED
    assert not found["intact"]
    assert {Path(one["file"]).name for one in found["damaged"]} == {"labels.parquet", "trained.json", "files.json"}
    assert ew2s("runs", "verify", folder / "nowhere")[0] == EXIT_USAGE
    Path("empty").mkdir()
    assert ew2s("runs", "verify", "empty")[0] == EXIT_USAGE


def test_runs_of_older_versions_are_read_and_said_to_be_without_checksums(
    finished, copy_of, mini_config, read_numbers, recorder, ew2s, no_models
):
    folder = copy_of(finished[0])
    (folder / "files.json").unlink()
    for file in folder.rglob("stage.json"):
        record = json.loads(file.read_text())
        if file.parent.name not in ("data", "test"):  # else the scores of trained models would be for other weights
            continue
        for later in ("files", "checksum"):
            del record[later]
        file.write_text(json.dumps(record))
    execute(mini_config(), folder, sink=recorder, report=False)
    assert not recorder.of("stage_started")
    assert any("carry no checksums" in event["text"] for event in recorder.of("message"))
    code, out, _ = ew2s("runs", "verify", folder, "--json")
    assert code == EXIT_OK
    assert "ceiling/scores/test" in json.loads(out)["not_recorded"]
    assert read_numbers(folder) == read_numbers(finished[0])


@pytest.fixture
def as_ordinary_user() -> Iterator[None]:
    """Without root's power to write into read-only folders, which a container's tests often have."""
    if os.geteuid() != 0:
        yield
        return
    if platform.system() != "Linux":
        pytest.skip("needs Linux or an ordinary user")
    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": (125, 126), "aarch64": (90, 91)}[platform.machine()]
    head, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.syscall(number[0], head, data) == 0
    before = data[0]
    data[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.syscall(number[1], head, data) == 0
    yield
    data[0] = before
    assert libc.syscall(number[1], head, data) == 0


@pytest.fixture
def read_only(finished, tmp_path, as_ordinary_user) -> Iterator[Path]:
    """A finished run in which nothing can be written."""
    folder = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    places = [folder, *folder.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    yield folder
    for place in places:
        place.chmod(0o755 if place.is_dir() else 0o644)


@pytest.mark.parametrize(
    "command",
    [
        "runs list .",
        "runs verify RUN",
        "evaluate RUN",
        "evaluate RUN --split test",
        "score RUN questions.jsonl",
        "report RUN --output out",
        "run --config RUN/config.yaml",
        "export labels RUN out",
        "export ensemble RUN out",
    ],
)
def test_a_read_only_run_can_be_used(read_only, ew2s, command, monkeypatch, tmp_path):
    monkeypatch.setenv("EW2S_RUNS_DIR", str(tmp_path))
    code, out, err = ew2s(*command.replace("RUN", str(read_only)).split())
    assert (code, "Traceback" in err) == (EXIT_OK, False), err
    assert out


@pytest.mark.parametrize(
    "command",
    ["report RUN", "run --config RUN/config.yaml --out RUN", "train-experts --config RUN/config.yaml --out RUN"],
)
def test_where_a_read_only_run_would_be_written_there_is_one_error(read_only, ew2s, command):
    code, _, err = ew2s(*command.replace("RUN", str(read_only)).split())
    assert code == EXIT_USAGE
    assert "cannotbewritten:Permissiondenied" in err
    assert str(read_only) in err
    assert "Traceback" not in err


def test_a_link_instead_of_the_report_is_refused(finished, copy_of, ew2s, tmp_path):
    folder = copy_of(finished[0])
    shutil.rmtree(folder / "report")
    (tmp_path / "precious").mkdir()
    (folder / "report").symlink_to(tmp_path / "precious")
    for command in (["report", folder], ["run", "--config", folder / "config.yaml", "--out", folder]):
        code, _, err = ew2s(*command)
        assert code == EXIT_USAGE
        assert f"{folder / 'report'}isasymboliclink" in err
    assert list((tmp_path / "precious").iterdir()) == []


def test_a_stage_of_another_run_is_named_and_made_again(finished, copy_of, mini_config, read_numbers, recorder, ew2s):
    folder, expert, labels = copy_of(finished[0]), "experts/round-02", "labels/ensemble"
    other = RunDirectory.create(folder.parent / "other")
    with other.writing():
        for name in (expert, labels):
            work = partial(shutil.copytree, finished[0] / name, dirs_exist_ok=True, ignore=lambda *_: ["stage.json"])
            other.stages.ensure(name, {"of": "another"}, work)
    assert verify(other.path).damaged == []
    for name in (expert, labels):
        shutil.rmtree(folder / name)
        shutil.copytree(other.path / name, folder / name)
    found = {one.path.relative_to(folder).as_posix(): one.why for one in verify(folder).damaged}
    assert found[f"{expert}/stage.json"] == found[f"{labels}/stage.json"] == "it is the record of another run"
    for command in ("score RUN questions.jsonl", "export labels RUN out"):
        code, out, err = ew2s(*command.replace("RUN", str(folder)).split())
        assert (code, out) == (EXIT_USAGE, "")
        assert "stage.jsonisdamaged:itistherecordofanotherrun" in err
    execute(mini_config(), folder, sink=recorder, report=False)
    assert read_numbers(folder) == read_numbers(finished[0])
    assert {expert, labels} <= {event["stage"] for event in recorder.of("stage_rerun")}
    assert verify(folder).damaged == []


def test_a_stage_that_changes_is_not_of_another_run(tmp_path):
    """Also where the process ends between the stage and its note."""
    run = RunDirectory.create(tmp_path / "run")
    for inputs in ({"steps": 1}, {"steps": 2}):
        with run.writing():
            for name in ("data", "ceiling"):
                run.stages.ensure(name, inputs, lambda place: (place / "file").write_text("1"))
                check_stage_files(run.path / name)
    with run.writing():
        run.stages.ensure("data", {"steps": 3}, lambda place: (place / "file").write_text("1"))
    assert verify(run.path).damaged == []
    assert set(recorded_stages(run.path)) == {"data", "ceiling"}
    held = run.writing()
    held.__enter__()
    run.stages.ensure("data", {"steps": 4}, lambda place: (place / "file").write_text("1"))
    assert verify(run.path).damaged == []  # as if killed here
    held.__exit__(None, None, None)
    assert verify(run.path).damaged == []

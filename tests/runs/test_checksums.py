"""Damage is found: in every file of a stage, in its record, and in what lies beside the stages."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemw2s import checksums
from ensemw2s.checksums import check_recorded, check_stage_files, checksum, recorded_damage, recording, sealed
from ensemw2s.errors import EXIT_USAGE, DamagedError
from ensemw2s.runs.stage import Stages, fingerprint
from ensemw2s.runs.verify import verify

INPUTS = {"a": 1}
NAME = "experts/round-01"


def _work(partial: Path) -> None:
    (partial / "model" / "deep").mkdir(parents=True)
    (partial / "model" / "weights").write_bytes(bytes(range(256)) * 40)
    (partial / "model" / "deep" / "one").write_text("one")
    (partial / "empty").touch()
    (partial / "trained.json").write_text('{"steps": 3}')


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    """A finished stage, with another one in its folder."""
    stages = Stages(tmp_path)
    (tmp_path / "config.yaml").touch()
    (tmp_path / "events.jsonl").touch()
    stages.ensure(NAME, INPUTS, _work)
    stages.ensure(f"{NAME}/scores/test", INPUTS, lambda partial: (partial / "array").write_text("array"))
    return stages


def _flip(path: Path, bit: int = 5) -> None:
    """Change one bit, and nothing that a listing shows."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _rename(stage: Path) -> None:
    """The record of another stage, as where two folders changed places."""
    record = json.loads((stage / "stage.json").read_text())
    del record["checksum"]
    (stage / "stage.json").write_text(json.dumps(sealed(record | {"name": "baselines/bagging/member-02"})))


def _without(stage: Path, *fields: str) -> None:
    record = json.loads((stage / "stage.json").read_text())
    (stage / "stage.json").write_text(json.dumps({key: value for key, value in record.items() if key not in fields}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "bit": lambda s: _flip(s / "model" / "weights"),
    "last bit": lambda s: _flip(s / "model" / "weights", 8 * 256 * 40 - 1),
    "shorter": lambda s: os.truncate(s / "model" / "weights", 10),
    "empty": lambda s: os.truncate(s / "model" / "deep" / "one", 0),
    "longer": lambda s: (s / "empty").write_text("x"),
    "missing": lambda s: (s / "trained.json").unlink(),
    "folder missing": lambda s: shutil.rmtree(s / "model" / "deep"),
    "a folder instead": lambda s: ((s / "empty").unlink(), (s / "empty").mkdir()),
    "extra": lambda s: (s / "extra").touch(),
    "extra inside": lambda s: (s / "model" / "adapter_config.json").write_text("{}"),
    "record gone": lambda s: (s / "stage.json").unlink(),
    "record empty": lambda s: os.truncate(s / "stage.json", 0),
    "record of another kind": lambda s: (s / "stage.json").write_text("[1]"),
    "record without fields": lambda s: (s / "stage.json").write_text("{}"),
    "record with few fields": lambda s: (s / "stage.json").write_text(json.dumps({"name": NAME, "files": {}})),
    "record sealed without fields": lambda s: (s / "stage.json").write_text(json.dumps(sealed({"name": NAME}))),
    "record without inputs": lambda s: _without(s, "inputs", "checksum", "files"),
    "record without seed": lambda s: _without(s, "seed", "checksum", "files"),
    "record of another stage": _rename,
    "record nested": lambda s: (s / "stage.json").write_text("[" * 100_000),
    "seal gone": lambda s: (s / "stage.json").write_text((s / "stage.json").read_text().replace('"checksum"', '"c"')),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_of_any_kind_is_named_and_the_stage_is_made_again(stages: Stages, kind: str) -> None:
    assert stages.is_done(NAME, INPUTS)
    assert not verify(stages.root).damaged
    DAMAGE[kind](stages.root / NAME)
    assert not stages.is_done(NAME, INPUTS)
    assert stages.is_done(f"{NAME}/scores/test", INPUTS)
    reason = stages.rerun_reason(NAME, INPUTS)
    assert reason is not None
    assert reason.startswith("damaged: ")
    found = verify(stages.root).damaged
    assert [str(one.path.relative_to(stages.root / NAME)) in reason for one in found] == [True]
    stages.ensure(NAME, INPUTS, _work)
    assert stages.is_done(NAME, INPUTS)
    assert not verify(stages.root).damaged


@pytest.mark.parametrize("kind", DAMAGE)
def test_whoever_reads_a_damaged_stage_gets_one_error_that_names_the_file(stages: Stages, kind: str) -> None:
    folder = stages.root / NAME
    check_stage_files(folder)
    check_stage_files(folder / "model")
    DAMAGE[kind](folder)
    with pytest.raises(DamagedError, match="is damaged") as caught:
        check_stage_files(folder)
    assert caught.value.path.is_relative_to(folder)
    assert str(caught.value.path) in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE
    check_stage_files(folder / "scores" / "test")


def test_damage_inside_a_model_is_found_by_who_reads_the_model_alone(stages: Stages) -> None:
    _flip(stages.root / NAME / "trained.json")
    check_stage_files(stages.root / NAME / "model")
    _flip(stages.root / NAME / "model" / "deep" / "one")
    with pytest.raises(DamagedError, match="one is damaged"):
        check_stage_files(stages.root / NAME / "model")


@pytest.mark.parametrize("name", [".DS_Store", "model/.nfs000012", "scores/validation.partial/x", "other/notes.txt"])
def test_files_that_no_reader_opens_are_no_damage(stages: Stages, name: str) -> None:
    (stages.root / NAME / name).parent.mkdir(parents=True, exist_ok=True)
    (stages.root / NAME / name).touch()
    assert stages.is_done(NAME, INPUTS)
    check_stage_files(stages.root / NAME)


@given(bit=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_bit_of_a_record_changes_what_it_says(stages: Stages, bit: int) -> None:
    file = stages.root / NAME / "stage.json"
    before, record = file.read_bytes(), stages.record(NAME)
    _flip(file, bit)
    try:
        assert stages.record(NAME) in (None, record)
        assert (stages.record(NAME) is None) == bool(stages.damage(NAME))
    finally:
        file.write_bytes(before)


def test_records_of_older_versions_are_kept_and_said_to_be_without_checksums(stages: Stages) -> None:
    file = stages.root / NAME / "stage.json"
    record = json.loads(file.read_text())
    for later in ("files", "checksum"):
        del record[later]
    file.write_text(json.dumps(record))
    _flip(stages.root / NAME / "model" / "weights")
    assert stages.is_done(NAME, INPUTS)
    check_stage_files(stages.root / NAME)
    assert verify(stages.root).not_recorded == ["config.yaml", "events.jsonl", NAME]
    stages.ensure(NAME, INPUTS, _work)
    assert stages.unrecorded == [NAME]


@pytest.mark.parametrize("record", ['{"files": 7}', "{}", '{"name": "me"}', None])
@pytest.mark.parametrize("place", ["", "experts/mine", "student"])
def test_a_stage_json_of_somebody_else_is_none_of_ours(tmp_path: Path, place: str, record: str | None) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / place / "model").mkdir(parents=True)
    if record is not None:
        (tmp_path / place / "stage.json").write_text(record)
    check_stage_files(tmp_path / place / "model")


def test_a_stage_outside_its_run_is_checked_and_may_have_any_name(stages: Stages, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    copy = Path(shutil.copytree(stages.root / NAME, tmp_path / "mine" / "expert"))
    check_stage_files(copy / "model")
    _flip(copy / "model" / "weights")
    with pytest.raises(DamagedError, match="weights is damaged"):
        check_stage_files(copy / "model")


@pytest.mark.parametrize("mark", ["events.jsonl", "files.json", "run.lock"])
def test_stages_in_each_others_place_are_found_by_whoever_reads(tmp_path: Path, mark: str) -> None:
    stages = Stages(tmp_path)
    names = ("experts/round-02", "baselines/bagging/member-02", "joint/labels/ensemble", "labels/ensemble", "ceiling")
    (tmp_path / mark).write_text("")
    for name in names:
        stages.ensure(name, INPUTS, _work)
        check_stage_files(tmp_path / name / "model")
    for one, other in itertools.combinations(names, 2):
        for first, second in ((one, other), (other, one)):
            (tmp_path / first).rename(tmp_path / "aside")
            (tmp_path / second).rename(tmp_path / first)
            (tmp_path / "aside").rename(tmp_path / second)
            if first == other:
                continue
            for name in (one, other):
                assert not stages.is_done(name, INPUTS)
                for reader in (tmp_path / name, tmp_path / name / "model", tmp_path / name / ".." / Path(name).name):
                    with pytest.raises(DamagedError, match=r"stage\.json is damaged: it is the record of the stage"):
                        check_stage_files(reader)
            assert {one.path.parent for one in verify(tmp_path).damaged if one.path.name == "stage.json"} == {
                tmp_path / one,
                tmp_path / other,
            }
    assert all(stages.is_done(name, INPUTS) for name in names)


@pytest.mark.parametrize("suffix", [".partial", ".stale"])
def test_a_model_of_an_unfinished_stage_can_be_read(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "events.jsonl").touch()
    (tmp_path / f"experts/round-01{suffix}/model").mkdir(parents=True)
    check_stage_files(tmp_path / f"experts/round-01{suffix}/model")


@pytest.mark.parametrize("size", [0, 1, 100_000, (1 << 20) - 1, (1 << 20) + 1])
def test_the_hash_is_xxh3_of_128_bits(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    assert checksum(tmp_path / "f") == (size, xxhash.xxh3_128_hexdigest(data))
    assert checksum(tmp_path / "f", 10) == (min(size, 10), xxhash.xxh3_128_hexdigest(data[:10]))
    if size == 0:  # from the reference implementation
        assert checksum(tmp_path / "f")[1] == "99aa06d3014798d86001c324468d497f"


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    real = checksums._hash

    def counted(stream: object, length: int) -> str:
        reads.append(length)
        return real(stream, length)

    monkeypatch.setattr(checksums, "_hash", counted)
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    time.sleep(0.15)  # time stamps are coarse: a file that just changed is never trusted
    assert checksum(file) == checksum(file)
    assert len(reads) == 1
    _flip(file)
    assert checksum(file)[1] == xxhash.xxh3_128_hexdigest(file.read_bytes())


def test_seals_hold_whatever_text_is_inside(tmp_path: Path) -> None:
    inputs = {"path": "ungültig \udcff", "nan": float("nan"), "big": 10**300, "small": 1e-300, "text": "名\n\u2028"}
    stages = Stages(tmp_path)
    stages.ensure(NAME, inputs, _work)
    record = stages.record(NAME)
    assert record is not None
    assert record.fingerprint == fingerprint(inputs)


def test_files_beside_the_stages(tmp_path: Path) -> None:
    with recording(tmp_path, "results.json", "token_weights/round-01.npy"):
        (tmp_path / "results.json").write_text("{}")
        (tmp_path / "token_weights").mkdir()
        (tmp_path / "token_weights" / "round-01.npy").write_bytes(b"12345678")
    assert recorded_damage(tmp_path) == []
    check_recorded(tmp_path / "results.json")
    check_recorded(tmp_path / "unknown.json")
    _flip(tmp_path / "results.json")
    _flip(tmp_path / "token_weights" / "round-01.npy")
    assert [one.path.name for one in recorded_damage(tmp_path)] == ["results.json", "round-01.npy"]
    with pytest.raises(DamagedError, match=r"results\.json is damaged"):
        check_recorded(tmp_path / "results.json")
    with recording(tmp_path, "results.json"):
        (tmp_path / "results.json").write_text("[]")
    assert [one.path.name for one in verify(tmp_path).damaged] == ["round-01.npy"]
    _flip(tmp_path / "files.json", 100)
    assert [one.path.name for one in verify(tmp_path).damaged] == ["files.json"]


def test_a_writer_that_was_killed_leaves_no_wrong_record(tmp_path: Path) -> None:
    with recording(tmp_path, "results.json"):
        (tmp_path / "results.json").write_text("old")

    def killed() -> None:
        with recording(tmp_path, "results.json"):
            (tmp_path / "results.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    check_recorded(tmp_path / "results.json")
    assert recorded_damage(tmp_path) == []


def test_a_log_may_grow_but_not_change(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_text("one\n")
    with recording(tmp_path, "events.jsonl"):
        pass
    with log.open("a") as stream:
        stream.write("two\n")
    check_recorded(log)
    _flip(log, 1)
    with pytest.raises(DamagedError):
        check_recorded(log)
    log.write_text("on")
    with pytest.raises(DamagedError, match="2 bytes"):
        check_recorded(log)


def test_sealing_is_independent_of_the_order_of_keys(tmp_path: Path) -> None:
    assert sealed({"a": 1, "b": [2.5]})["checksum"] == sealed({"b": [2.5], "a": 1})["checksum"]

from __future__ import annotations

import json
import mmap
import time

import pytest

from ensemw2s.runs.cost import DecodeCounter, Meter, Work, forward_flops, parameters_above, training_flops
from ensemw2s.runs.directory import RunDirectory
from ensemw2s.runs.stage import Stages

TRAIN = Work("train", "", 100, 6000)
SCORE = Work("score", "test", 50, 1000)


def test_formulas():
    assert training_flops(10, 7) == 6 * 70
    assert training_flops(10, 7, lora=True) == 4 * 70
    assert training_flops(10, 7, checkpointing=True) == 8 * 70
    assert training_flops(10, 7, lora=True, checkpointing=True) == 6 * 70
    assert training_flops(10, 7, lora=True, above=4) == (20 + 8) * 7
    assert training_flops(10, 7, lora=True, checkpointing=True, above=4) == (20 + 16) * 7
    assert parameters_above(30, 10, 4) == 12
    assert parameters_above(30, 10, None) == parameters_above(30, None, 4) == parameters_above(30, 10, 12) == 30
    assert forward_flops(10, 7) == 2 * 70
    # exact beyond what a float holds
    assert training_flops(7_000_000_001, 10**12 + 1) == 6 * 7_000_000_001 * (10**12 + 1)


def test_work_goes_to_the_stage_that_is_at_it(tmp_path):
    stages = Stages(tmp_path)
    with stages.stage("one", {"a": 1}):
        stages.count(TRAIN)
        stages.count(SCORE)
    with pytest.raises(RuntimeError, match="outside a stage: train"):
        stages.count(TRAIN)
    with stages.stage("two", {"a": 1}):
        pass
    one, two = stages.record("one"), stages.record("two")
    assert [piece["kind"] for piece in one.cost["work"]] == ["train", "score"]
    assert one.cost["work"][0] == {"kind": "train", "what": "", "tokens": 100, "flops": 6000}
    assert two.cost["work"] == []
    assert one.cost["starts"] == 1
    assert one.cost["peak_memory"] > 2**20


def test_a_kept_stage_keeps_its_cost(tmp_path):
    stages = Stages(tmp_path)
    stages.ensure("one", {"a": 1}, lambda partial: stages.count(TRAIN))
    before = stages.record("one")
    Stages(tmp_path).ensure("one", {"a": 1}, lambda partial: pytest.fail("it is done"))
    assert Stages(tmp_path).record("one") == before


def interrupted(stages, inputs, seconds, resume):
    """A start of the stage ``one`` that Ctrl-C ends."""

    def work(partial):
        stages.count(TRAIN)
        time.sleep(seconds)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.ensure("one", inputs, work, resume=resume)


@pytest.mark.parametrize("resume", [True, False])
def test_an_interrupted_start_leaves_its_seconds(tmp_path, resume):
    stages = Stages(tmp_path)
    for _ in range(2):
        interrupted(stages, {"a": 1}, 0.06, resume)
    with stages.stage("one", {"a": 1}, resume=resume):
        stages.count(TRAIN)
    record = stages.record("one")
    assert record.cost["starts"] == 3
    assert record.seconds >= 0.12
    assert len(record.cost["work"]) == 1  # what was begun before does not count twice


def test_a_killed_start_leaves_what_was_noted_last(tmp_path):
    killed = Stages(tmp_path)
    manager = killed.stage("one", {"a": 1}, resume=True)
    manager.__enter__()
    time.sleep(0.05)
    killed.note()
    noted = json.loads((tmp_path / "one.partial" / "stage.partial.json").read_text())
    assert noted["seconds"] >= 0.05
    later = Stages(tmp_path)
    with later.stage("one", {"a": 1}, resume=True):
        pass
    assert later.record("one").seconds >= noted["seconds"]
    assert later.record("one").cost["starts"] == 2
    assert not (tmp_path / "one" / "stage.partial.json").exists()
    killed._at_work = None
    manager.gen.close()


def test_a_start_killed_before_its_last_step_counts_too(tmp_path):
    stages = Stages(tmp_path)
    with stages.stage("one", {"a": 1}):
        time.sleep(0.05)
    (tmp_path / "one").rename(tmp_path / "one.partial")  # stage.json was written, the folder not yet renamed
    before = json.loads((tmp_path / "one.partial" / "stage.json").read_text())
    with stages.stage("one", {"a": 1}, resume=True):
        pass
    assert stages.record("one").seconds >= before["seconds"]
    assert stages.record("one").cost["starts"] == 2


def test_other_inputs_begin_at_zero(tmp_path):
    stages = Stages(tmp_path)
    interrupted(stages, {"a": 1}, 0.1, True)
    with stages.stage("one", {"a": 2}, resume=True):
        pass
    assert stages.record("one").seconds < 0.1
    assert stages.record("one").cost["starts"] == 1


def test_records_of_older_versions_have_no_cost(tmp_path):
    stages = Stages(tmp_path)
    with stages.stage("one", {"a": 1}):
        pass
    path = tmp_path / "one" / "stage.json"
    record = json.loads(path.read_text())
    for later in ("cost", "files", "checksum"):
        del record[later]
    path.write_text(json.dumps(record))
    assert stages.record("one").cost == {}
    assert stages.is_done("one", {"a": 1})


def test_noting_outside_a_stage_and_on_a_full_disk_is_no_error(tmp_path, monkeypatch):
    stages = Stages(tmp_path)
    stages.note()

    def full(*_):
        raise OSError(28, "No space left on device")

    with stages.stage("one", {"a": 1}), monkeypatch.context() as patch:
        patch.setattr("ensemw2s.runs.stage.write_json", full)
        stages.note()
    assert stages.record("one") is not None


def test_the_heartbeat_notes(tmp_path):
    run = RunDirectory.create(tmp_path)
    (tmp_path / "config.yaml").write_text("name: x\n")
    with run.writing(heartbeat_every=0.02, system_metrics=False), run.stages.stage("one", {"a": 1}) as partial:
        first = json.loads((partial / "stage.partial.json").read_text())["seconds"]
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if json.loads((partial / "stage.partial.json").read_text())["seconds"] > first:
                break
            time.sleep(0.01)
        else:
            pytest.fail("nothing was noted")


def _use_and_give_back(size: int) -> None:
    """Memory straight from the system: the allocator might hand out what it kept of something else."""
    with mmap.mmap(-1, size) as memory:
        memory.write(b"1" * size)


def test_peak_memory_is_that_of_the_stage(tmp_path):
    """Much memory that is gone before the stage does not count; what is taken inside it does."""
    _use_and_give_back(64_000_000)
    small = Meter()
    low = small.reading()["peak_memory"]
    large = Meter()
    _use_and_give_back(128_000_000)
    high = large.reading()["peak_memory"]
    assert high - low > 100_000_000
    carried = Meter({"peak_memory": 10**15, "starts": 4, "seconds": 2.0}).reading()
    assert carried["peak_memory"] == 10**15
    assert carried["starts"] == 5
    assert carried["seconds"] >= 2.0


def test_decoding_is_counted_for_every_expert():
    counter = DecodeCounter()
    counter.metric("decode", tag="a", models=3, prompt_tokens=100, new_tokens=10)
    counter.metric("train", tag="b", step=1)
    counter.metric("decode", tag="c", models=1, prompt_tokens=7, new_tokens=1)
    counter.event("decode", models=9, prompt_tokens=1, new_tokens=1)
    counter.progress("decode", 1, 2)
    assert counter.tokens == 330 + 8

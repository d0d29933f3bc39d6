"""A run that an earlier version made is read, found intact and continued without any work."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from ensemw2s.ensemble import Ensemble
from ensemw2s.pipeline.run import execute
from ensemw2s.runs.describe import describe_run
from ensemw2s.runs.directory import RunDirectory

ARCHIVE = Path(__file__).parent / "data" / "run-before.tar.gz"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "small"


def test_it_is_kept_whole(before, recorder, read_numbers):
    numbers = read_numbers(before)
    config = RunDirectory.open(before).load_config()
    without = config.arms.model_copy(update={"chain": False})  # an arm of a later version
    execute(config.model_copy(update={"arms": without}), before, sink=recorder, report=False)
    assert {fields["stage"] for fields in recorder.of("stage_finished") if not fields["cached"]} == set()
    assert len(recorder.stages("stage_finished")) > 8
    assert recorder.of("stage_rerun") == []
    again = read_numbers(before)
    assert set(again) == set(numbers)
    assert {arm: again["arms"][arm] for arm in numbers["arms"]} == numbers["arms"]
    for teacher, found in numbers["labels"].items():  # later versions tell more of them
        assert again["labels"][teacher].items() >= found.items()
    for part in ("rounds", "selected_rounds", "pgr", "disagreements", "costs", "clipped", "stop_reason"):
        assert again[part] == numbers[part], part


def test_it_is_listed_and_its_ensemble_scores(before):
    found = describe_run(before)
    assert (found.state, found.seed) == ("finished", 0)
    assert "ensemble/test" in found.accuracy
    assert len(Ensemble.load(before).experts) >= 1

"""A changed configuration makes again what depends on the change, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ensemw2s.pipeline.run import execute


def trained(stages):
    """The fine-tunings among stages."""
    return {name for name in stages if not name.endswith("/scores") and name.split("/")[0] in TRAINED}


TRAINED = ("experts", "baselines", "student", "ceiling")
MEMBERS = ("experts/round-01", "experts/round-02", "baselines/bagging/member-02")


def written_at(folder: Path, *parts: str) -> dict[str, int]:
    """When the stages of every weak model were finished, to the nanosecond."""
    files = [folder.joinpath(member, *parts, "stage.json") for member in MEMBERS]
    return {str(file): file.stat().st_mtime_ns for file in files}


def test_fewer_candidates_score_again_and_train_nothing(finished, copy_of, mini_config, recorder):
    folder = copy_of(finished[0])
    before = written_at(folder), written_at(folder, "scores", "hard_pool")
    execute(mini_config(**{"ensemble.top_k": 2}), folder, sink=recorder, until="experts")
    assert not trained(recorder.stages("stage_started"))
    again = {f"{member}/scores" for member in MEMBERS}
    assert again <= recorder.stages("stage_rerun")
    reasons = {event["stage"]: event["reason"] for event in recorder.of("stage_rerun")}
    assert reasons["experts/round-02/scores"] == "train, validation, test, hard_test: top_k: 16 → 2"
    # Where answers are hidden no candidates are kept, so nothing changes there.
    assert (written_at(folder), written_at(folder, "scores", "hard_pool")) == before


def test_other_hard_questions_train_only_the_strong_models(finished, copy_of, mini_config, recorder):
    folder = copy_of(finished[0])
    easy = written_at(folder), *(written_at(folder, "scores", split) for split in ("validation", "test"))
    hard = [written_at(folder, "scores", split) for split in ("hard_pool", "hard_test")]
    other = mini_config(**{"data.split.hard_pool": 60, "data.split.hard_test": 40})
    execute(other, folder, sink=recorder, report=False)
    assert trained(recorder.stages("stage_started")) == {
        "student/plain",
        "student/bagging",
        "student/ensemble",
        "ceiling",
    }
    assert (written_at(folder), *(written_at(folder, "scores", split) for split in ("validation", "test"))) == easy
    for split, before in zip(("hard_pool", "hard_test"), hard, strict=True):
        after = written_at(folder, "scores", split)
        assert all(after[name] != before[name] for name in before), split


def test_errors_by_choice_keep_the_first_expert(finished, copy_of, mini_config, recorder):
    """The first round's draw does not depend on errors; the second's does."""
    folder = copy_of(finished[0])
    config = mini_config(**{"boosting.error_unit": "choice"})
    execute(config, folder, sink=recorder, until="experts")
    assert trained(recorder.stages("stage_started")) == {"experts/round-02"}
    scored = [event["reason"] for event in recorder.of("stage_rerun") if event["stage"] == "experts/round-01/scores"]
    assert len(scored) == 1
    assert scored[0].startswith("train: split: ")


@pytest.mark.parametrize("changes", [{"ensemble.rule": "product"}, {"ensemble.top_k": 1}], ids=["product", "top-1"])
def test_what_models_say_together_is_kept(finished, copy_of, mini_config, recorder, request, changes):
    """A rule that needs the models, or candidates that leave arg-maxes open: run once, and never again."""
    folder = copy_of(finished[0])
    config = mini_config(**changes)
    first = execute(config, folder, sink=recorder, until="labels")
    assert not trained(recorder.stages("stage_started"))
    joint = {name for name in recorder.stages("stage_finished") if name.startswith("joint/")}
    assert {"joint/boosting/round-02", "joint/bagging"} <= joint
    if "ensemble.rule" in changes:
        assert joint & {"joint/labels/ensemble", "joint/labels/bagging"}
    assert all(np.load(file, mmap_mode="r").size for file in (folder / "joint").rglob("*.npy"))
    request.getfixturevalue("no_models")
    again = type(recorder)()
    assert execute(config, folder, sink=again, until="labels") == first
    assert not again.stages("stage_started")


def test_times_of_stages_that_left_the_run_are_not_reported(finished, copy_of, mini_config, recorder):
    folder = copy_of(finished[0])
    fewer = mini_config(**{"arms.bagging": False, "arms.students": ["single"]})
    results = execute(fewer, folder, sink=recorder, report=False)
    assert not [name for name in results["times"] if "bagging" in name or name == "student/ensemble"]
    assert set(results["times"]) == recorder.stages("stage_finished")
    assert set(results["costs"]) == set(results["memory"]) == set(results["times"])

"""Studies with pre-trained weights in ``benchmarks/studies``, up to their splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemw2s.arms import ARMS, SINGLE, teachers
from ensemw2s.config.composition import compose
from ensemw2s.data.split import make_splits
from ensemw2s.seeds import sub_seed
from ensemw2s.sweeps.file import SweepFile, read_sweep_file
from ensemw2s.sweeps.plan import SweepPlan, plan_sweep

FOLDER = Path(__file__).parents[2] / "benchmarks" / "studies"
SPLITS = ("train", "validation", "test", "hard_pool", "hard_test")


def planned(said: SweepFile, *sets: str) -> SweepPlan:
    fixed = {key: (key, value) for key, value in said.set.items()}

    def composed(settings):
        flags = {key: (key, value) for key, value in settings.items()}
        return compose(said.preset, [], sets, flags=flags, below_sets=fixed)

    compared = said.compare or ("ensemble", "student_ensemble")
    return plan_sweep(said.over, said.cells, said.seeds or [0], composed, baseline=said.baseline, compared=compared)


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("smollm2", {"source.path": "arc_easy", "source.annotations": "arc_easy/annotations.json"}),
        ("smollm2-sciq", {"source.path": "sciq/valid.json"}),
    ],
)
def test_studies_with_pre_trained_weights_have_all_controls_and_enough_data(
    name: str, paths: dict[str, str], shared_data: Path
) -> None:
    plan = planned(
        read_sweep_file(FOLDER / f"{name}.yaml"), *(f"data.{key}={shared_data / file}" for key, file in paths.items())
    )
    (cell,) = plan.cells
    assert cell.composed is not None
    config = cell.composed.config
    assert config.name == name
    options = {spec.option for spec in ARMS if spec.option}
    assert all(getattr(config.arms, option) for option in options)
    assert set(config.arms.students) == {teacher for teacher in teachers() if teacher != SINGLE}
    for seed in plan.seeds:
        splits = make_splits(config.data, sub_seed(seed, "data"), config.task)
        assert [len(splits[split]) for split in SPLITS] == [getattr(config.data.split, split) for split in SPLITS]

"""Selection and weighting of labels in a run: shares of groups, their coverage in the report, and the warning."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from ensemw2s.data.split import make_splits
from ensemw2s.data.store import read_splits
from ensemw2s.errors import ConfigError
from ensemw2s.labelling.labels import Labels
from ensemw2s.pipeline.run import execute
from ensemw2s.pipeline.selection import coverage, loss_weights, pool_groups, require_groups, warn_of_lost_groups
from ensemw2s.sink import NullSink

STUDENT = {"arms.students": ["ensemble"], "arms.ceiling": False}


@pytest.fixture
def again(finished, copy_of, mini_config, recorder):
    """Runs the finished run again with other settings of its students."""

    def run(until=None, **changes):
        folder = copy_of(finished[0])
        return folder, execute(mini_config(**STUDENT, **changes), folder, sink=recorder, until=until)

    return run


def groups_of(folder):
    return {example.id: example.group for example in read_splits(folder / "data").hard_pool}


def warnings_in(recorder):
    return [event["text"] for event in recorder.events if event.get("level") == "warning"]


def test_a_share_of_every_group(again, recorder):
    folder, results = again(
        **{"student.keep_fraction": 0.5, "student.keep_within": "group", "student.weights": "confidence"}
    )
    found = results["labels"]["ensemble"]
    assert found["coverage_by"] == "group"
    sizes = Counter(groups_of(folder).values())
    assert {row["group"]: row["n"] for row in found["coverage"]} == dict(sizes)
    for row in found["coverage"]:
        assert abs(row["kept"] - row["n"] / 2) < 1
    assert sum(row["kept"] for row in found["coverage"]) == found["kept"] == 40
    right = sum(row["accuracy"] * row["n"] for row in found["coverage"])
    assert right / 80 == pytest.approx(found["accuracy"])
    kept = sum(row["kept_accuracy"] * row["kept"] for row in found["coverage"] if row["kept"])
    assert kept / 40 == pytest.approx(found["kept_accuracy"])
    assert {round(row["weight"], 9) for row in found["coverage"]} == {1.0}  # in every group
    assert not warnings_in(recorder)
    page = (folder / "report" / "report.md").read_text(encoding="utf-8")
    table = page.split("Coverage of the hard pool by group")[1].split("###")[0]
    assert all(group in table for group in sizes)


def test_options_are_selected_by_their_posterior(again, finished):
    """``softmax(κ·score)``: one ``κ`` explains the odds of every label, which the tokens' probability does not."""
    folder, _ = again(until="labels", **{"student.keep_fraction": 0.5})
    before, labels = (Labels.load(run / "labels/ensemble") for run in (finished[0], folder))
    assert labels.texts == before.texts
    assert labels.posterior is None
    assert (labels.confidence >= 0.25 - 1e-9).all()  # the best of four
    assert (before.confidence < 0.25).any()


def test_a_threshold_that_loses_groups_warns(again, mini_config, recorder):
    folder, _ = again(until="labels", **{"student.keep_fraction": 0.99})
    labels = Labels.load(folder / "labels" / "ensemble")
    middle = float(np.sort(labels.confidence)[56])
    config = mini_config(**STUDENT, **{"student.min_confidence": middle})
    summary = execute(config, folder, sink=recorder, until="labels")
    (warning,) = warnings_in(recorder)
    group_of, confident = groups_of(folder), labels.confidence >= middle
    sizes = Counter(group_of[name] for name in labels.ids)
    kept = Counter(group_of[name] for name, chosen in zip(labels.ids, confident, strict=True) if chosen)
    share = confident.mean()
    lost = {g for g in sizes if kept[g] < 0.5 * share * sizes[g] and share * sizes[g] >= 2}
    assert lost
    assert f"keeps {100 * share:.0f} % of the labels of ensemble" in warning
    assert f"half as much of {len(lost)} of {len(sizes)} groups" in warning
    worst = min(lost, key=lambda g: (kept[g] / sizes[g], g))
    assert f"{worst!r} {kept[worst]} of {sizes[worst]}" in warning
    coverage = summary["labels"]["ensemble"]["coverage"]
    assert {row["group"]: row["kept"] for row in coverage} == {g: kept[g] for g in sizes}


def test_weights_that_lose_groups_warn(finished, mini_config, recorder):
    """By the probability of their tokens, which is small where answers are long."""
    labels, pool = Labels.load(finished[0] / "labels" / "ensemble"), read_splits(finished[0] / "data").hard_pool
    config = mini_config(**{"student.weights": "confidence"})
    ctx = SimpleNamespace(config=config, splits=SimpleNamespace(hard_pool=pool), groups=None, seed=0, sink=recorder)
    kept = np.arange(len(labels))
    warn_of_lost_groups(ctx, labels, kept)
    (warning,) = warnings_in(recorder)
    group_of, weights = {example.id: example.group for example in pool}, labels.confidence / labels.confidence.mean()
    mean = {g: np.mean([w for n, w in zip(labels.ids, weights, strict=True) if group_of[n] == g]) for g in
            set(group_of.values())}  # fmt: skip
    found = coverage(np.ones(len(labels), dtype=bool), kept, pool_groups(ctx), loss_weights(ctx, labels, kept))
    assert {row.group: row.weight for row in found} == pytest.approx(mean)
    sizes = Counter(group_of.values())
    assert {row.group: row.kept for row in found} == dict(sizes)
    lost = sorted((m, g) for g, m in mean.items() if m < 0.5 and sizes[g] >= 2)
    assert f"in {len(lost)} of {len(sizes)} groups" in warning
    assert f"{lost[0][1]!r} {sizes[lost[0][1]]} of {sizes[lost[0][1]]} with weight {lost[0][0]:.2f}" in warning


def test_clusters_of_prompts_need_no_annotation(again, recorder):
    _, summary = again(until="labels", **{"student.keep_fraction": 0.4, "student.keep_within": "prompts"})
    found = summary["labels"]["ensemble"]
    assert found["coverage_by"] == "prompts"
    assert len(found["coverage"]) == 6  # √(80/2)
    for row in found["coverage"]:
        assert abs(row["kept"] - 0.4 * row["n"]) < 1
    assert sum(row["kept"] for row in found["coverage"]) == 32
    assert not warnings_in(recorder)


def test_without_annotations(mini_config):
    """Coverage is told by clusters then; shares of groups cannot be kept, and a run says so before it trains."""

    def context(**changes):
        config = mini_config(**changes)
        pool = [dataclasses.replace(e, group="") for e in make_splits(config.data, config.seed, "choice").hard_pool]
        return SimpleNamespace(config=config, seed=config.seed, groups=None, splits=SimpleNamespace(hard_pool=pool))

    assert pool_groups(context(**{"student.keep_fraction": 0.5})).kind == "prompts"
    assert pool_groups(context()) is None
    with pytest.raises(ConfigError, match=r"none of the hard pool has one\.\s.*columns\.group") as error:
        require_groups(context(**{"student.keep_fraction": 0.5, "student.keep_within": "group"}))
    assert "prompts" in str(error.value) + str(error.value.hint)


def test_hard_labels_reach_no_weight_no_selection_and_no_stop(mini_config, tmp_path, poison_hard_labels):
    config = mini_config(
        **{
            "boosting.rounds": 1,
            "arms.bagging": False,
            "arms.zero_shot": False,
            "arms.ceiling": False,
            "arms.students": ["plain"],
            "student.loss": "rce",
            "student.labels": "posterior",
            "student.generations": 2,
            "student.weights": "confidence",
            "student.keep_fraction": 0.7,
            "student.keep_within": "prompts",
            "student.early_stop": {"holdout": 0.2, "every": 3, "patience": 1},
        }
    )
    clean = execute(config, tmp_path / "clean", sink=NullSink(), report=False)
    poison_hard_labels()
    other = execute(config, tmp_path / "poisoned", sink=NullSink(), report=False)
    files = [
        file.relative_to(tmp_path / "clean")
        for part in ("labels", "student")
        for file in (tmp_path / "clean" / part).rglob("*")
        if file.suffix in (".safetensors", ".parquet", ".npy") and "hard_test" not in file.parts
    ]
    assert len(files) > 8
    for file in files:
        assert (tmp_path / "poisoned" / file).read_bytes() == (tmp_path / "clean" / file).read_bytes(), file
    for place in ("student/plain/trained.json", "student/plain-generation-1/trained.json"):
        looks = [json.loads((tmp_path / run / place).read_text())["looks"] for run in ("clean", "poisoned")]
        assert looks[0] == looks[1] != []
    found = [run["labels"]["plain"] for run in (clean, other)]
    kept = [[(row["group"], row["n"], row["kept"]) for row in labels["coverage"]] for labels in found]
    assert kept[0] == kept[1] != []
    assert found[0]["accuracy"] != found[1]["accuracy"]

"""``task: generate``: one decoding for one ensemble, labels that see no answers, and the same numbers from outside."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from ensemw2s.cli.options import source_options
from ensemw2s.ensemble import Ensemble
from ensemw2s.labelling.labels import Labels
from ensemw2s.pipeline.run import execute
from ensemw2s.sink import NullSink
from ensemw2s.tasks.use_ensemble import evaluate_file, label_file


def stages_below(folder, name):
    """Stage records below a folder by name."""
    records = [json.loads(file.read_text()) for file in (folder / name).rglob("stage.json")]
    return {record["name"]: record for record in records}


def split_source(folder, split):
    """What ``ew2s evaluate --split`` reads."""
    return source_options([str(folder / "data" / f"{split}.jsonl")], "file", None)


def test_every_arm_has_answers_and_the_same_models_decode_once(written):
    folder, results = written
    records = stages_below(folder, "answers")
    assert {f"answers/{arm}/{split}" for arm in results["arms"] for split in ("test", "hard_test")} <= set(records)
    decoded = {}
    for name, record in records.items():
        decoded.setdefault(record["fingerprint"], []).append((name, bool(record["cost"]["work"])))
    shared = [names for names in decoded.values() if len(names) > 1]
    assert shared  # some ensembles have the same members, whatever validation chose
    for names in decoded.values():
        assert sum(work for _, work in names) == 1, names
        texts = {(folder / name / "answers.jsonl").read_bytes() for name, _ in names}
        assert len(texts) == 1
    for names in shared:
        arms = [name.split("/")[1] for name, _ in names if name.endswith("/test")]
        assert len({results["arm_costs"][arm]["answer"] for arm in arms if arm in results["arm_costs"]}) <= 1
    assert all(cost["answer"] > 0 for cost in results["arm_costs"].values())


def test_repeating_it_decodes_nothing(written, copy_of, generate_config, recorder, read_numbers, no_models):
    folder = copy_of(written[0])
    before = read_numbers(folder)
    execute(generate_config(), folder, sink=recorder, report=False)
    assert not recorder.stages("stage_started")
    assert read_numbers(folder) == before


def test_hidden_answers_reach_no_label_and_no_student(written, generate_config, tmp_path, monkeypatch):
    from ensemw2s.data import split as split_module

    original = split_module.make_splits

    def poisoned(*args, **kwargs):
        splits = original(*args, **kwargs)
        hidden = {
            name: [dataclasses.replace(e, answer="8 8 8", choices=None) for e in splits[name]]
            for name in ("hard_pool", "hard_test")
        }
        return dataclasses.replace(splits, **hidden)

    monkeypatch.setattr(split_module, "make_splits", poisoned)
    folder = tmp_path / "poisoned"
    results = execute(generate_config(), folder, sink=NullSink(), report=False)
    clean, clean_results = written
    same = [
        path.relative_to(clean)
        for part in ("experts", "baselines", "labels", "student", "answers")
        for path in (clean / part).rglob("*")
        if path.name in ("model.safetensors", "labels.parquet", "answers.jsonl") and "ceiling" not in path.parts
    ]
    assert len(same) >= 25
    for path in same:
        assert (clean / path).read_bytes() == (folder / path).read_bytes(), path
    ceiling = "ceiling/model/model.safetensors"
    assert (clean / ceiling).read_bytes() != (folder / ceiling).read_bytes()
    arms = (results["arms"]["ensemble"], clean_results["arms"]["ensemble"])
    assert arms[0]["test"] == arms[1]["test"]
    assert arms[0]["hard_test"]["token_accuracy"] != arms[1]["hard_test"]["token_accuracy"]


@pytest.mark.parametrize("run", ["finished", "written"])
@pytest.mark.parametrize("split", ["test", "hard_test"])
def test_evaluating_a_split_gives_the_numbers_of_the_run(request, tmp_path, run, split):
    folder, results = request.getfixturevalue(run)
    ensemble = folder
    if run == "written":  # the run measures greedy answers, however it labels
        own = Ensemble.load(folder)
        assert own.evaluation.match == "number"
        own.decoding = own.decoding.model_copy(update={"method": "sample"})
        ensemble = own.save(tmp_path)
    found = evaluate_file(ensemble, split_source(folder, split))
    told = results["arms"]["ensemble"][split]
    for key in ("n", "correct", "accuracy", "low", "high"):
        assert found[key] == told[key], key
    reliability = [
        r for r in results["reliability"] if (r["name"], r["split"], r["measure"]) == ("ensemble", split, "token")
    ]
    assert reliability
    assert found["mean_confidence"] == pytest.approx(reliability[0]["mean_confidence"], abs=1e-5)


@pytest.mark.parametrize("run", ["finished", "written"])
def test_labelling_the_pool_from_outside_gives_the_labels_of_the_run(request, tmp_path, run):
    folder, _ = request.getfixturevalue(run)
    out = tmp_path / "labels.jsonl"
    label_file(folder, split_source(folder, "hard_pool"), out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    labels = Labels.load(folder / "labels" / "ensemble")
    assert [row["id"] for row in rows] == labels.ids
    assert [row["label"] for row in rows] == labels.texts
    for what in ("confidence", "margin", "agreement"):
        np.testing.assert_allclose([row[what] for row in rows], getattr(labels, what), atol=2e-5, err_msg=what)
    if run == "written":
        assert [row["token_ids"] for row in rows] == [tokens.tolist() for tokens in labels.token_ids]
        assert [row["ended"] for row in rows] == labels.ended.tolist()
        assert np.all((labels.margin > 0.0) == [len(tokens) > 0 for tokens in labels.token_ids])

"""Labels with the strong base's zero-shot vote and a noise model, in whole small runs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from ensemw2s.errors import ConfigError
from ensemw2s.labelling import noise
from ensemw2s.labelling.labels import Labels
from ensemw2s.pipeline import posterior as posterior_module
from ensemw2s.pipeline.plan import planned_stages
from ensemw2s.pipeline.run import execute
from ensemw2s.sink import NullSink

VOTED = {
    "boosting.rounds": 3,
    "boosting.start": "previous",
    "boosting.draw": "none",
    "ensemble.select_rounds": False,
    "arms.bagging": False,
    "arms.zero_shot": False,
    "arms.ceiling": False,
    "arms.students": ["plain", "ensemble"],
    "student.labels": "posterior",
    "student.generations": 2,
    "labelling.voters": ["strong"],
    "labelling.noise_model": "em",
}


def run(config, folder):
    return execute(config, folder, sink=NullSink(), report=False)


@pytest.fixture(scope="module", autouse=True)
def believed():
    """Experts of twelve steps know next to nothing, and a noise model would say so: here three of them are enough."""

    def why_not(votes, *_):
        return "" if len(votes.prob) >= noise.LEAST_VOTERS else "fewer than 3 voters"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "_why_not", why_not)
        yield


@pytest.fixture(scope="module")
def voted(build_once, mini_config, believed):
    folder = build_once("voted", lambda folder: run(mini_config(**VOTED), folder))
    return folder, json.loads((folder / "results.json").read_text(encoding="utf-8"))


def opinion(folder, teacher):
    return json.loads((folder / f"labels/{teacher}/opinion.json").read_text(encoding="utf-8"))


def test_the_noise_model_hears_experts_and_voters(voted, mini_config):
    folder, results = voted
    told = opinion(folder, "ensemble")
    assert list(told["accuracies"]) == [*(f"experts/round-{t:02d}" for t in (1, 2, 3)), "strong_zero_shot"]
    assert all(0.0 < value < 1.0 for value in told["accuracies"].values())
    # two voices do not tell how often each is right: the vote with the best log score on validation
    told = opinion(folder, "plain")
    assert "fewer than 3 voters" in told["why_not"]
    assert list(told["voters"]) == ["plain", "strong_zero_shot"]
    assert sum(told["voters"].values()) == pytest.approx(1.0)
    notes = "\n".join(results["notes"])
    assert "Labels of ensemble: right on the pool by the noise model: experts/round-01 0." in notes
    assert "Labels of plain: no noise model, for fewer than 3 voters" in notes
    for teacher in ("plain", "ensemble"):
        labels = Labels.load(folder / f"labels/{teacher}")
        parts = np.split(np.exp(labels.posterior.logprob), labels.posterior.offsets[1:-1])
        assert labels.options.tolist() == [int(np.argmax(part)) for part in parts]
        np.testing.assert_allclose(labels.confidence, [part.max() for part in parts])
    came = {name for name in results["times"] if not name.startswith("joint/")}
    assert came == set(planned_stages(mini_config(**VOTED)))
    cost = results["costs"]["baselines/zero-shot-strong/scores"]["work"]
    (pool,) = [piece["flops"] for piece in cost if piece["what"] == "hard_pool"]
    own = results["costs"]["experts/round-01/scores"]["work"]
    (read,) = [piece["flops"] for piece in own if piece["what"] == "hard_pool"]
    first = results["costs"]["student/plain-generation-1/scores"]["work"]
    (again,) = [piece["flops"] for piece in first if piece["what"] == "hard_pool"]
    assert results["arm_costs"]["student_plain"]["labelling"] == pool + read + again


def test_hard_labels_reach_no_vote(voted, mini_config, tmp_path, monkeypatch):
    from ensemw2s.data import split as split_module

    original = split_module.make_splits

    def wrong(example):
        return dataclasses.replace(example, answer=example.choices[(example.answer_index + 1) % len(example.choices)])

    def poisoned(*args, **kwargs):
        splits = original(*args, **kwargs)
        return dataclasses.replace(splits, **{s: list(map(wrong, splits[s])) for s in ("hard_pool", "hard_test")})

    monkeypatch.setattr(split_module, "make_splits", poisoned)
    shutil.copytree(voted[0], tmp_path / "poisoned")
    for stage in ("data", "labels"):
        shutil.rmtree(tmp_path / "poisoned" / stage)
    execute(mini_config(**VOTED), tmp_path / "poisoned", sink=NullSink(), until="labels", report=False)
    pools = [(folder / "data/hard_pool.jsonl").read_bytes() for folder in (voted[0], tmp_path / "poisoned")]
    assert pools[0] != pools[1]
    for teacher in ("plain", "ensemble"):
        for file in sorted((voted[0] / f"labels/{teacher}").iterdir()):
            if file.suffix in (".npy", ".parquet") or file.name == "opinion.json":
                assert (tmp_path / f"poisoned/labels/{teacher}" / file.name).read_bytes() == file.read_bytes(), file


def test_a_voter_without_weight_changes_nothing(voted, mini_config, tmp_path, monkeypatch):
    """With λ = (1, 0) the labels are those of a run without voters."""
    weights = []

    def alone(logprob, pseudo_count=posterior_module.fitted_vote.__defaults__[0]):
        if pseudo_count:  # the experts' own vote
            return original(logprob, pseudo_count)
        weights.append(len(logprob))
        return np.eye(len(logprob))[0]

    original = posterior_module.fitted_vote
    shutil.copytree(voted[0], tmp_path / "run")
    config = mini_config(**{**VOTED, "labelling.noise_model": "none"})
    monkeypatch.setattr(posterior_module, "fitted_vote", alone)
    execute(config, tmp_path / "run", sink=NullSink(), until="labels", report=False)
    silent = {name: Labels.load(tmp_path / f"run/labels/{name}") for name in ("plain", "ensemble")}
    assert weights == [2, 2]
    config = mini_config(**{**VOTED, "labelling.noise_model": "none", "labelling.voters": []})
    execute(config, tmp_path / "run", sink=NullSink(), until="labels", report=False)
    for name, labels in silent.items():
        plain = Labels.load(tmp_path / f"run/labels/{name}")
        assert plain.options.tolist() == labels.options.tolist()
        np.testing.assert_allclose(plain.posterior.logprob, labels.posterior.logprob, atol=1e-6)
        heard = Labels.load(voted[0] / f"labels/{name}")
        assert np.abs(heard.posterior.logprob - plain.posterior.logprob).max() > 1e-3
        assert not (tmp_path / f"run/labels/{name}/opinion.json").exists()


def test_options_that_are_classes_get_confusion_matrices():
    """Voters that say yes too often: only a model of the classes takes that into account."""
    rng = np.random.default_rng(0)
    splits = {}
    for name, n in (("validation", 200), ("hard_pool", 2000)):
        order = [["yes", "no"] if first else ["no", "yes"] for first in rng.random(n) < 0.5]
        truth = np.where(rng.random(n) < 0.4, "yes", "no")
        # who says yes to a true no: one in two; no to a true yes: one in twenty
        said = [
            np.where(
                truth == "yes", np.where(rng.random(n) < 0.05, "no", "yes"), np.where(rng.random(n) < b, "yes", "no")
            )
            for b in (0.5, 0.45, 0.4, 0.5, 0.45)
        ]
        place = np.array([options.index(answer) for options, answer in zip(order, truth, strict=True)])
        enc = SimpleNamespace(option_texts=order, example_offsets=np.arange(0, 2 * n + 1, 2), answer_index=place)
        splits[name] = (
            enc,
            np.array([[options.index(s) for options, s in zip(order, votes, strict=True)] for votes in said]),
        )
    ctx = SimpleNamespace(encoded=lambda _side, split, _view: splits[split][0], scoring_view=lambda _split: "options")
    opinions = {
        f"voter-{t}": {
            name: np.log(np.where(np.eye(2)[votes[t]] > 0, 0.99, 0.01)).ravel() for name, (_, votes) in splits.items()
        }
        for t in range(5)
    }

    def right(opinion):
        return np.mean(opinion["hard_pool"].reshape(-1, 2).argmax(axis=1) == splits["hard_pool"][0].answer_index)

    found, told = posterior_module._denoised(ctx, opinions)
    assert list(told["accuracies"]) == list(opinions)
    majority = {"hard_pool": np.sum([opinion["hard_pool"] for opinion in opinions.values()], axis=0)}
    assert right(found) > right(majority) + 0.05
    splits["validation"][0].option_texts[0] = ["yes", "maybe"]
    symmetric, _ = posterior_module._denoised(ctx, opinions)
    assert right(found) > right(symmetric) + 0.05


def test_labels_without_a_noise_model_are_those_of_the_rule(voted, mini_config, tmp_path):
    """Two experts of equal votes that disagree are a tie, which the rule decides and shares of votes do not tell."""
    shutil.copytree(voted[0], tmp_path / "run")
    changes = {"boosting.rounds": 2, "labelling.voters": [], "ensemble.rule": "vote", "ensemble.vote": "equal"}

    def labels_of(teacher, **more):
        config = mini_config(**{**VOTED, **changes, **more})
        execute(config, tmp_path / "run", sink=NullSink(), until="labels", report=False)
        return Labels.load(tmp_path / f"run/labels/{teacher}")

    kept = labels_of("ensemble")
    assert "fewer than 3 voters" in opinion(tmp_path / "run", "ensemble")["why_not"]
    rule = labels_of("ensemble", **{"labelling.noise_model": "none"})
    assert np.count_nonzero(rule.agreement == 0.5) > 5
    assert kept.options.tolist() == rule.options.tolist()
    assert kept.texts == rule.texts
    np.testing.assert_allclose(kept.posterior.logprob, rule.posterior.logprob, atol=1e-9)
    chosen = kept.posterior.offsets[:-1] + kept.options
    np.testing.assert_allclose(kept.confidence, np.exp(kept.posterior.logprob[chosen]))
    # the posterior is the mixture's, with more degrees than two votes have
    assert len(np.unique(kept.confidence.round(9))) > 40
    alone = Labels.load(tmp_path / "run/labels/plain")
    mixed = labels_of("ensemble", **{"labelling.noise_model": "none", "ensemble.rule": "mixture"})
    np.testing.assert_array_equal(rule.posterior.logprob, mixed.posterior.logprob)
    mixed = Labels.load(tmp_path / "run/labels/plain")
    np.testing.assert_array_equal(alone.posterior.logprob, mixed.posterior.logprob)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"task": "generate", "labelling.voters": ["strong"]}, "labelling.voters needs task: choice"),
        ({"task": "generate", "labelling.noise_model": "em"}, "labelling.noise_model: em needs task: choice"),
        ({"labelling.voters": ["strong", "strong"]}, "voters names one twice: strong"),
        ({"labelling.voters": ["weak"]}, "Input should be 'strong'"),
        ({"labelling.noise_model": "dawid"}, "Input should be 'none' or 'em'"),
    ],
)
def test_what_cannot_work_is_refused(mini_config, changes, part):
    with pytest.raises(ValueError, match=part):
        mini_config(**changes)


@pytest.mark.parametrize("changes", [{"labelling.voters": ["strong"]}, {"labelling.noise_model": "em"}])
def test_distributions_over_tokens_are_of_no_other_labels(mini_config, tmp_path, changes):
    with pytest.raises(ConfigError, match=r"student\.loss: soft .* make other labels"):
        run(mini_config(**{"student.loss": "soft"}, **changes), tmp_path / "run")
    assert not (tmp_path / "run/experts").exists()

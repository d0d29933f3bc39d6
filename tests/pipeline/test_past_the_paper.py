"""Chains, fitted votes, posterior labels and generations of students, in whole small runs with known answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from ensemw2s.ensemble.combine.fitted import fitted_vote
from ensemw2s.errors import ConfigError
from ensemw2s.labelling.labels import Labels
from ensemw2s.models.inference.score_table import ScoreTable
from ensemw2s.pipeline.plan import plan, planned_stages
from ensemw2s.pipeline.run import execute
from ensemw2s.sink import NullSink

CHAIN = {
    "boosting.start": "previous",
    "boosting.draw": "none",
    "boosting.shrinkage": 0.15,
    "boosting.cap": 5.0,
    "boosting.rounds": 3,
    "arms.bagging": False,
    "arms.seeds": True,
    "arms.chain": True,
    "arms.plain_long": True,
    "arms.students": ["plain", "ensemble"],
    "ensemble.vote": "fitted",
    "student.labels": "posterior",
    "student.generations": 2,
}


def run(config, folder: Path):
    return execute(config, folder, sink=NullSink(), report=False)


@pytest.fixture(scope="module")
def chained(build_once, mini_config):
    folder = build_once("chained", lambda folder: run(mini_config(**CHAIN), folder))
    return folder, json.loads((folder / "results.json").read_text(encoding="utf-8"))


def option_scores(folder: Path, split: str, enc) -> np.ndarray:
    """Summed log-probability of every option's tokens, without end-of-sequence, by a loop."""
    rows = np.asarray(ScoreTable.load(folder / "scores" / split).target_logprob, dtype=np.float64)
    rows = np.where(enc.is_eos, 0.0, rows)
    return np.array([rows[a:b].sum() for a, b in zip(enc.row_offsets, enc.row_offsets[1:], strict=False)])


def encoded(config, folder: Path, split: str):
    from ensemw2s.pipeline.context import Context
    from ensemw2s.pipeline.data import prepare_data
    from ensemw2s.pipeline.date import dated
    from ensemw2s.runs.directory import RunDirectory

    run_directory = RunDirectory.create(folder)
    with run_directory.writing():
        ctx = Context(config, run_directory, NullSink(), dated(config.data.template, folder, None))
        prepare_data(ctx)
        return ctx.encoded("weak", split, ctx.scoring_view(split))


def test_one_round_is_the_plain_fine_tune(finished, mini_config, tmp_path):
    """With T = 1, where an expert starts from, and what is voted, changes nothing."""
    changes = {"boosting.rounds": 1, "arms.bagging": False, "arms.students": ["plain"]}
    results = run(mini_config(**changes, **{"boosting.start": "previous", "ensemble.vote": "equal"}), tmp_path / "one")
    for arm in ("plain", "student_plain", "ceiling", "weak_zero_shot", "strong_zero_shot"):
        assert results["arms"][arm] == finished[1]["arms"][arm]
    assert results["arms"]["ensemble"] == finished[1]["arms"]["plain"]


def test_what_is_equal_is_trained_once(chained, mini_config, tmp_path):
    folder, results = chained
    assert (folder / "baselines/chain/member-02/model").is_dir()
    assert (folder / "baselines/seeds/member-02/model").is_dir()
    for arm in ("plain", "chain", "seeds"):
        assert not (folder / f"baselines/{arm}/member-01").exists()
    assert not (folder / "baselines/plain").exists()
    came = {name for name in results["times"] if not name.startswith("joint/")}
    assert came == set(planned_stages(mini_config(**CHAIN)))
    # under weights that never change the boosted chain is the uniform one
    config = mini_config(**{**CHAIN, "boosting.alpha": "uniform", "student.generations": 1})
    assert not [name for name in planned_stages(config) if name.startswith("baselines/chain")]
    uniform = run(config, tmp_path / "uniform")
    assert uniform["arms"]["chain_equal_rounds"] == uniform["arms"]["ensemble_equal"]
    assert not (tmp_path / "uniform/baselines/chain").exists()
    weights = Path("model/model.safetensors")
    assert (tmp_path / "uniform/experts/round-02" / weights).read_bytes() == (
        folder / "baselines/chain/member-02" / weights
    ).read_bytes()


def test_the_fitted_vote_is_fitted_on_validation(chained, mini_config):
    folder, results = chained
    count = results["selected_rounds"]["boosting"]
    content = json.loads((folder / "ensemble.json").read_text(encoding="utf-8"))
    assert len(content["experts"]) == count
    config = mini_config(**CHAIN)
    enc = encoded(config, folder, "validation")
    given = []
    for t in range(1, count + 1):
        scores = option_scores(folder / f"experts/round-{t:02d}", "validation", enc)
        parts = np.split(scores, enc.example_offsets[1:-1])
        given.append([log_softmax(part)[answer] for part, answer in zip(parts, enc.answer_index, strict=True)])
    expected = fitted_vote(np.array(given)) if count > 1 else np.ones(1)
    np.testing.assert_allclose([expert["alpha"] for expert in content["experts"]], expected, rtol=1e-6)
    assert {"ensemble_equal", "ensemble_rule"} <= set(results["arms"])
    assert "ensemble_fitted" not in results["arms"]


def test_the_posterior_is_a_softmax_as_sharp_as_validation_says(chained, mini_config):
    """``q ∝ exp(κ·score)``: κ by a grid search over the mean-token scores of a single model."""
    folder, _ = chained
    config = mini_config(**CHAIN)
    posterior = Labels.load(folder / "labels/plain").posterior
    valid, pool = (encoded(config, folder, split) for split in ("validation", "hard_pool"))

    def means(enc, split):
        scores = option_scores(folder / "experts/round-01", split, enc) / (np.diff(enc.row_offsets) - 1)
        return np.split(scores, enc.example_offsets[1:-1])

    known = list(zip(means(valid, "validation"), valid.answer_index, strict=True))
    grid = np.exp2(np.linspace(-10, 10, 4001))
    log_score = [sum(kappa * part[y] - logsumexp(kappa * part) for part, y in known) for kappa in grid]
    kappa = grid[int(np.argmax(log_score))]
    expected = np.concatenate([log_softmax(kappa * part) for part in means(pool, "hard_pool")])
    np.testing.assert_allclose(posterior.logprob, expected, atol=0.02)
    labels = Labels.load(folder / "labels/plain")
    np.testing.assert_allclose(labels.confidence, [max(part) for part in posterior.of(np.arange(len(labels)))])


def test_the_teachers_own_posterior_is_what_a_full_mix_teaches_again(chained, mini_config, tmp_path):
    folder, _ = chained
    again = tmp_path / "again"
    run(mini_config(**CHAIN, **{"student.mix": 1.0}), again)
    first, second = (Labels.load(again / f"labels/ensemble{suffix}") for suffix in ("", "-generation-2"))
    np.testing.assert_allclose(first.posterior.logprob, second.posterior.logprob, atol=1e-6)
    assert first.options.tolist() == second.options.tolist()
    models = [again / f"student/ensemble{suffix}/model/model.safetensors" for suffix in ("", "-generation-1")]
    mixed = Labels.load(folder / "labels/ensemble-generation-2")
    assert np.abs(mixed.posterior.logprob - first.posterior.logprob).max() > 1e-3
    assert models[1].read_bytes() == (folder / "student/ensemble-generation-1/model/model.safetensors").read_bytes()
    assert models[0].read_bytes() != (folder / "student/ensemble/model/model.safetensors").read_bytes()


def test_hard_labels_reach_no_posterior_and_no_generation(chained, mini_config, tmp_path, poison_hard_labels):
    poison_hard_labels()
    run(mini_config(**CHAIN), tmp_path / "poisoned")
    files = [
        file.relative_to(chained[0])
        for part in ("experts", "baselines", "labels", "student")
        for file in (chained[0] / part).rglob("*")
        if file.suffix in (".safetensors", ".parquet", ".npy") and "hard_test" not in file.parts
    ]
    assert len(files) > 30
    for file in files:
        assert (tmp_path / "poisoned" / file).read_bytes() == (chained[0] / file).read_bytes(), file


@pytest.mark.parametrize("changes", [{"student.labels": "posterior"}, {"student.generations": 2}])
def test_distributions_over_tokens_are_those_of_the_first_labels_alone(mini_config, tmp_path, changes):
    with pytest.raises(ConfigError, match=r"student\.loss: soft .* make other labels"):
        run(mini_config(**{"student.loss": "soft"}, **changes), tmp_path / "run")
    assert not (tmp_path / "run/experts").exists()


def test_a_later_generation_tells_how_far_its_teacher_agrees(chained, mini_config):
    folder, _ = chained
    enc = encoded(mini_config(**CHAIN), folder, "hard_pool")
    labels = Labels.load(folder / "labels/plain-generation-2")
    scores = option_scores(folder / "experts/round-01", "hard_pool", enc) / (np.diff(enc.row_offsets) - 1)
    own = [int(np.argmax(part)) for part in np.split(scores, enc.example_offsets[1:-1])]
    assert labels.agreement.tolist() == [float(a == b) for a, b in zip(own, labels.options, strict=True)]
    assert 0 < labels.agreement.mean() < 1


def test_the_plan_has_what_came(chained, mini_config):
    """Every stage that trained is planned, with as many steps as it took."""
    folder, results = chained
    records = {planned.name: planned for planned in plan(mini_config(**CHAIN))}
    trained = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("trained.json")}
    assert trained == {name for name, planned in records.items() if planned.kind == "train"}
    for name in trained:
        assert records[name].steps == json.loads((folder / name / "trained.json").read_text())["steps"]
    cost = {arm: found["training"] for arm, found in results["arm_costs"].items()}
    assert cost["chain_equal_rounds"] == pytest.approx(cost["seeds_equal_rounds"], rel=0.05)
    assert cost["plain_long"] == pytest.approx(3 * cost["plain"], rel=0.05)
    generations = sum(results["costs"][f"student/plain{part}"]["flops"] for part in ("", "-generation-1"))
    assert cost["student_plain"] == cost["plain"] + generations
    pool = results["costs"]["student/plain-generation-1/scores"]["work"]
    labelling = sum(piece["flops"] for piece in pool if piece["what"] == "hard_pool")
    own = results["costs"]["experts/round-01/scores"]["work"]
    labelling += sum(piece["flops"] for piece in own if piece["what"] == "hard_pool")
    assert results["arm_costs"]["student_plain"]["labelling"] == labelling


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"ensemble.vote": "fitted", "ensemble.rule": "product"}, "vote: fitted needs rule: mixture"),
        ({"student.labels": "posterior", "task": "generate"}, "student.labels: posterior needs task: choice"),
        ({"student.generations": 2, "task": "generate"}, "student.generations above 1 needs task: choice"),
        ({"arms.students": ["chain"]}, "arms.chain is off"),
    ],
)
def test_what_does_not_go_together_is_refused(mini_config, changes, part):
    with pytest.raises(ValueError, match=part):
        mini_config(**changes)

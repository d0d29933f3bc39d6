from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_rel

from ensemw2s.errors import InputError
from ensemw2s.evaluation.comparisons import holm
from ensemw2s.evaluation.over_seeds import AggregateResults, aggregate, caution
from ensemw2s.evaluation.pgr import ratio_of_means
from ensemw2s.evaluation.sampling import Sampling, sampling_error


@pytest.fixture
def runs(make_results):
    return [make_results(seed) for seed in (2, 0, 1, 3)]


def _accuracy(runs, arm, split):
    return np.array([r.arms[arm][split].accuracy for r in sorted(runs, key=lambda r: r.seed)])


def test_means_and_spread(runs):
    found = aggregate(runs)
    assert found.seeds == (0, 1, 2, 3)
    cell = found.arms["ensemble"]["hard_test"]
    values = _accuracy(runs, "ensemble", "hard_test")
    assert cell.values == tuple(values)
    assert cell.mean == pytest.approx(values.mean())
    assert cell.sd == pytest.approx(values.std(ddof=1))
    assert found.labels["ensemble"].mean == pytest.approx(0.515)
    assert found.selected_rounds == {"boosting": [3, 4, 5, 6]}
    assert found.times == {"0": 19.75, "1": 19.75, "2": 19.75, "3": 19.75}


@pytest.fixture
def answers(make_answers):
    return {seed: make_answers(seed) for seed in range(4)}


def _error(answers, split, *pairs):
    sides = [answers[seed] for seed in sorted(answers)]
    return sampling_error(split, *([((side, a), (side, b)) for side in sides] for a, b in pairs))


def test_claims_are_paired_t_tests_with_holm(runs, answers):
    found = aggregate(runs, answers=answers)
    claims = [c for c in found.comparisons if c.claim]
    rivals = ("plain", "bagging")
    pairs = [("ensemble", rival) for rival in rivals]
    pairs += [("student_ensemble", f"student_{rival}") for rival in rivals]
    assert [(c.a, c.b, c.split) for c in claims] == [(*pair, s) for pair in pairs for s in ("test", "hard_test")]
    assert claims == found.comparisons[:8]
    for c in claims:
        plain = ttest_rel(_accuracy(runs, c.a, c.split), _accuracy(runs, c.b, c.split))
        squares = [run.difference(c.a, c.b, c.split).se ** 2 for run in runs]
        assert c.sampling_se == pytest.approx(np.sqrt(np.mean(squares) / 4))
        assert c.se == pytest.approx(max(c.sd / 2, c.sampling_se))
        assert c.t == pytest.approx(c.mean / c.se)
        assert c.p == pytest.approx(max(plain.pvalue, 2 * student_t.sf(abs(c.mean) / c.sampling_se, 3)))
        assert c.differences == tuple(_accuracy(runs, c.a, c.split) - _accuracy(runs, c.b, c.split))
    assert [c.p_holm for c in claims] == holm([c.p for c in claims])
    rest = found.comparisons[8:]
    assert rest
    assert all(c.p_holm is None for c in rest)


def test_pgr_is_the_ratio_of_means(runs, answers):
    found = aggregate(runs, answers=answers)
    w, s, c = (_accuracy(runs, arm, "hard_test") for arm in ("plain", "student_ensemble", "ceiling"))
    pgr = found.pgr["student_ensemble"]["hard_test"]
    error = _error(answers, "hard_test", ("student_ensemble", "plain"), ("ceiling", "plain"))
    assert pgr == ratio_of_means(s - w, c - w, 0.95, error)
    spread = ratio_of_means(s - w, c - w)
    assert pgr.low <= spread.low < spread.high <= pgr.high
    assert pgr.value == pytest.approx((s.mean() - w.mean()) / (c.mean() - w.mean()))


def test_without_the_answers_the_seeds_have_the_same_questions(runs, make_answers):
    """The careful assumption, from the standard errors and covariances that the runs tell."""
    found = aggregate(runs)
    for c in found.comparisons:
        squares = [run.difference(c.a, c.b, c.split).se ** 2 for run in runs]
        assert c.sampling_se == pytest.approx(np.sqrt(np.mean(squares)))
        assert c.se == pytest.approx(np.sqrt(np.mean(squares) + c.sd**2 / 4))
    correct = {run.seed: make_answers(run.seed).correct for run in runs}
    within = np.mean(
        [np.cov(*(1.0 * by[a]["test"] - by["plain"]["test"] for a in ("student_bagging", "ceiling"))) / 300
         for by in correct.values()], axis=0
    )  # fmt: skip
    w, s, c = (_accuracy(runs, arm, "test") for arm in ("plain", "student_bagging", "ceiling"))
    expected = ratio_of_means(s - w, c - w, 0.95, Sampling.same_questions(within, 300))
    pgr = found.pgr["student_bagging"]["test"]
    assert (pgr.low, pgr.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_caution_says_how_little_few_seeds_prove():
    assert caution(2).startswith("Two seeds prove little")
    assert caution(3).startswith("Three seeds prove little")
    assert "few" in caution(5)
    assert "little" not in caution(10)
    needed = student_t.ppf(0.975, 2) / np.sqrt(3)
    assert f"{needed:.1f} times the standard deviation" in caution(3)


def test_round_trip(tmp_path, runs):
    found = aggregate(runs, name="four")
    found.write(tmp_path / "aggregate.json")
    assert AggregateResults.read(tmp_path / "aggregate.json") == found
    assert found.name == "four"
    assert found.difference("ensemble", "plain", "test").claim
    assert found.difference("plain", "ensemble", "test") is None


def test_arms_that_only_some_seeds_have_are_kept_with_their_seeds(make_results):
    first, second = make_results(0), make_results(1)
    second.arms["expert_5"] = second.arms["plain"]
    found = aggregate([first, second])
    assert found.arms["expert_5"]["test"].seeds == (1,)
    assert found.arms["expert_5"]["test"].sd is None


def test_no_seed_is_dropped(make_results):
    first, second = make_results(0), make_results(1)
    del second.arms["bagging"]
    with pytest.raises(InputError, match=r"Seeds \[1\] have no arm 'bagging'"):
        aggregate([first, second])


def test_refusals(make_results):
    with pytest.raises(InputError, match="at least two seeds"):
        aggregate([make_results(0)])
    with pytest.raises(InputError, match="twice"):
        aggregate([make_results(0), make_results(0)])
    with pytest.raises(InputError, match="different tasks"):
        aggregate([make_results(0), make_results(1, task="generate")])


def test_arms_that_no_seed_has_are_left_out(make_results):
    accuracy = {"plain": (0.7, 0.4), "ensemble": (0.72, 0.45)}
    found = aggregate([make_results(s, accuracy=accuracy) for s in range(3)])
    assert {(c.a, c.b) for c in found.comparisons} == {("ensemble", "plain")}
    assert found.pgr == {}


def test_all_rounds_are_the_ensemble_where_validation_chose_them_all(runs):
    shorter = runs[1]
    shorter.arms["ensemble_all"] = shorter.arms["plain"]
    found = aggregate(runs).arms["ensemble_all"]["test"]
    expected = [r.arms["plain" if r is shorter else "ensemble"]["test"].accuracy for r in sorted(runs, key=_seed)]
    assert found.seeds == (0, 1, 2, 3)
    assert list(found.values) == expected


def _seed(run):
    return run.seed


def test_seeds_of_versions_with_another_w_are_not_mixed(make_results):
    with pytest.raises(InputError, match=r"W of PGR is 'plain' in seed 0 and 'single' in seed 1"):
        aggregate([make_results(0), replace(make_results(1), weak="single")])

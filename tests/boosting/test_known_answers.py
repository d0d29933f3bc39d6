"""Boosting against answers that others published: scikit-learn's SAMME, the two-class AdaBoost, and closed forms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.ensemble import AdaBoostClassifier
from sklearn.tree import DecisionTreeClassifier

from ensemw2s.boosting.draws import Draw
from ensemw2s.boosting.loop import Booster
from ensemw2s.boosting.weights import TokenLayout
from ensemw2s.config.method import BoostingConfig
from ensemw2s.sink import NullSink


class ReplayLearner:
    """Experts whose errors are given in advance; every example is one token."""

    def __init__(
        self, wrong: Sequence[np.ndarray], base: np.ndarray, validation: Sequence[float] | None = None
    ) -> None:
        self.wrong = wrong
        self.base = base
        self.validation = validation
        self.fitted: list[int] = []

    def fit(self, round_: int, draw: Draw) -> None:
        self.fitted.append(round_)

    def errors(self, round_: int) -> np.ndarray:
        return self.wrong[round_ - 1]

    def base_errors(self) -> np.ndarray:
        return self.base

    def helper_errors(self, round_: int, fold: int, draw: Draw) -> np.ndarray:
        raise AssertionError("no cross-fitting here")

    def validation_score(self, alphas: list[float]) -> float:
        return float(len(alphas)) if self.validation is None else self.validation[len(alphas) - 1]


def run(config: BoostingConfig, learner: ReplayLearner, *, classes: int = 2, layout: TokenLayout | None = None):
    n = learner.base.size
    seen: list[np.ndarray] = []
    booster = Booster(
        config,
        layout or TokenLayout(np.arange(n + 1)),
        learner,
        classes=classes,
        seed=0,
        sink=NullSink(),
        on_weights=lambda _round, weights, _wrong: seen.append(weights.copy()),
    )
    return booster.fit(), seen, booster


def test_samme_equals_scikit_learn_to_1e_12():
    rng = np.random.default_rng(5)
    n, classes = 400, 5
    x = rng.normal(size=(n, 4))
    y = (np.abs(x[:, 0]) * 2 + x[:, 1] + rng.normal(scale=0.7, size=n)).astype(int) % classes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        reference = AdaBoostClassifier(DecisionTreeClassifier(max_depth=2, random_state=0), n_estimators=6)
        reference.fit(x, y)
    wrong = [(tree.predict(x) != y).astype(np.float64) for tree in reference.estimators_]
    # The weights that scikit-learn's rounds saw, from its own estimators by its published formula in float64.
    config = BoostingConfig(rounds=6, draw="none", alpha="samme")
    result, seen, _ = run(config, ReplayLearner(wrong, np.ones(n)), classes=classes)
    assert len(result.alphas) == 6
    np.testing.assert_allclose(result.alphas, reference.estimator_weights_, rtol=0, atol=1e-12)
    np.testing.assert_allclose([r.epsilon_raw for r in result.rounds], reference.estimator_errors_, rtol=0, atol=1e-12)
    weights = np.full(n, 1.0 / n)
    for t in range(6):
        np.testing.assert_allclose(seen[t], weights, rtol=0, atol=1e-12)
        weights = weights * np.exp(reference.estimator_weights_[t] * wrong[t])
        weights /= weights.sum()


def test_binary_update_makes_the_old_expert_worthless():
    rng = np.random.default_rng(1)
    wrong = [(rng.random(300) < p).astype(np.float64) for p in (0.2, 0.3, 0.4)]
    config = BoostingConfig(rounds=3, draw="none", alpha="binary")
    result, seen, booster = run(config, ReplayLearner(wrong, np.ones(300)))
    weights = [*seen, booster.weights]
    for t in range(len(result.rounds)):
        if t + 1 < len(result.rounds):
            assert np.dot(weights[t + 1], wrong[t]) == pytest.approx(0.5, abs=1e-12)
        epsilon = result.rounds[t].epsilon
        assert result.rounds[t].alpha == pytest.approx(0.5 * math.log((1 - epsilon) / epsilon), abs=1e-12)
        # The two-sided update exp(±α) of AdaBoost, normalised, is the same distribution.
        two_sided = weights[t] * np.exp(result.rounds[t].alpha * (2 * wrong[t] - 1))
        np.testing.assert_allclose(weights[t + 1], two_sided / two_sided.sum(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("init", ["token", "example"])
def test_prior_update_leaves_the_last_expert_at_the_prior_error(init):
    rng = np.random.default_rng(2)
    layout = TokenLayout(np.concatenate([[0], np.cumsum(rng.integers(1, 7, size=120))]))
    n = layout.tokens
    base = (rng.random(n) < 0.6).astype(np.float64)
    wrong = [(rng.random(n) < 0.35).astype(np.float64) for _ in range(4)]
    config = BoostingConfig(rounds=4, draw="none", alpha="prior", init=init)
    result, seen, booster = run(config, ReplayLearner(wrong, base), layout=layout)
    prior = float(np.dot(seen[0], base))
    after = [*seen[1:], booster.weights]
    assert len(result.rounds) == 4
    for t, record in enumerate(result.rounds):
        assert record.epsilon_prior == pytest.approx(prior, abs=1e-12)
        assert np.dot(after[t], wrong[t]) == pytest.approx(prior, abs=1e-12)
        logit = math.log((1 - record.epsilon) / record.epsilon) + math.log(1 / (1 - prior) - 1)
        assert record.alpha == pytest.approx(logit, abs=1e-12)
    np.testing.assert_allclose([w.sum() for w in after], 1.0, atol=1e-12)


def test_training_error_of_the_weighted_vote_obeys_the_bound():
    """For ε_0 ≤ ½ the weighted hard vote is wrong on at most exp(−Σ KL(ε_0‖ε_t)) of D_1, whatever the experts."""
    rng = np.random.default_rng(3)
    n = 2000
    base = np.zeros(n)
    base[: int(0.45 * n)] = 1.0
    wrong = [(rng.random(n) < 0.3).astype(np.float64) for _ in range(12)]
    result, _, _ = run(BoostingConfig(rounds=12, draw="none"), ReplayLearner(wrong, base))
    prior = result.rounds[0].epsilon_prior
    alphas = np.array(result.alphas)
    share = alphas @ np.array(wrong[: alphas.size]) / alphas.sum()
    # SAMME's margin with the prior in the place of guessing: wrong when the wrong vote holds at least 1 − ε_0.
    vote_wrong = float(np.mean(share >= 1.0 - prior))
    bound = math.exp(-sum(_kl(prior, r.epsilon) for r in result.rounds if r.kept))
    assert vote_wrong <= bound + 1e-12
    assert bound < 1.0


def _kl(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_perfect_expert_is_kept_and_ends_boosting():
    base = np.array([1.0, 1.0, 0.0, 0.0] * 10)
    wrong = [np.array([1.0, 0.0, 0.0, 0.0] * 10), np.zeros(40), np.zeros(40)]
    result, _, _ = run(BoostingConfig(rounds=3, draw="none"), ReplayLearner(wrong, base))
    assert [r.kept for r in result.rounds] == [True, True]
    assert "no error" in result.stopped
    delta = 1 / (2 * result.rounds[1].n_eff)
    assert result.rounds[1].epsilon == pytest.approx(delta)
    assert result.alphas[1] == pytest.approx(math.log(0.5 / 0.5) - math.log(delta / (1 - delta)))


def test_useless_later_expert_is_dropped_and_reported():
    base = np.array([1.0, 0.0] * 20)
    wrong = [np.array([1.0, 0.0, 0.0, 0.0] * 10), np.ones(40)]
    result, _, _ = run(BoostingConfig(rounds=5, draw="none"), ReplayLearner(wrong, base))
    assert [r.kept for r in result.rounds] == [True, False]
    assert result.rounds[1].validation is None
    assert len(result.alphas) == 1
    assert "dropped" in result.stopped


def test_useless_first_expert_stays_alone_with_weight_one():
    base = np.array([1.0, 0.0, 0.0, 0.0] * 10)
    result, _, _ = run(BoostingConfig(rounds=5, draw="none"), ReplayLearner([np.ones(40)], base))
    assert result.alphas == [1.0]
    assert result.selected == 1
    assert result.rounds[0].alpha < 0


def test_rounds_are_chosen_on_validation_with_ties_to_the_smallest():
    rng = np.random.default_rng(4)
    wrong = [(rng.random(200) < 0.2).astype(np.float64) for _ in range(5)]
    learner = ReplayLearner(wrong, np.ones(200), validation=[0.5, 0.7, 0.6, 0.7, 0.1])
    result, _, _ = run(BoostingConfig(rounds=5, draw="none", alpha="binary"), learner)
    assert result.selected == 2
    learner = ReplayLearner(wrong, np.ones(200), validation=[0.5, 0.7, 0.6, 0.7, 0.1])
    result, _, _ = run(BoostingConfig(rounds=5, draw="none", alpha="binary", patience=1), learner)
    assert learner.fitted == [1, 2, 3]
    assert "not improved" in result.stopped


def test_uniform_neither_updates_nor_stops():
    wrong = [np.ones(50), np.zeros(50), np.ones(50)]
    result, seen, _ = run(BoostingConfig(rounds=3, draw="none", alpha="uniform"), ReplayLearner(wrong, np.zeros(50)))
    assert result.alphas == [1.0, 1.0, 1.0]
    for weights in seen:
        np.testing.assert_array_equal(weights, np.full(50, 1 / 50))


def test_adaptive_prior_follows_the_weights():
    rng = np.random.default_rng(6)
    base = (rng.random(500) < 0.5).astype(np.float64)
    wrong = [(rng.random(500) < 0.3).astype(np.float64) for _ in range(3)]
    config = BoostingConfig(rounds=3, draw="none", alpha="adaptive", cap=20.0, patience=3)
    result, seen, _ = run(config, ReplayLearner(wrong, base))
    for weights, record in zip(seen, result.rounds, strict=True):
        assert record.epsilon_prior == pytest.approx(float(np.dot(weights, base)), abs=1e-12)


def test_cap_holds_after_every_update():
    rng = np.random.default_rng(7)
    wrong = [(rng.random(300) < 0.05).astype(np.float64) for _ in range(4)]
    config = BoostingConfig(rounds=4, draw="none", alpha="binary", cap=3.0)
    _, seen, booster = run(config, ReplayLearner(wrong, np.ones(300)))
    for weights in [*seen, booster.weights]:
        assert weights.max() <= 3.0 / 300 * (1 + 1e-12)
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_a_chain_is_compared_with_its_first_expert_under_the_current_weights():
    """``α_t = logit ε_ref − logit ε_t`` ; otherwise the reference is the base under D_1."""
    rng = np.random.default_rng(8)
    base = (rng.random(300) < 0.9).astype(float)
    wrong = [(rng.random(300) < p).astype(float) for p in (0.4, 0.3, 0.3, 0.2)]
    config = BoostingConfig(rounds=4, draw="none", start="previous", shrinkage=0.15, cap=5)
    result, seen, _ = run(config, ReplayLearner(wrong, base))
    weights = np.full(300, 1 / 300)
    for t, record in enumerate(result.rounds):
        np.testing.assert_allclose(seen[t], weights, rtol=1e-9)
        error, reference = weights @ wrong[t], weights @ (base if t == 0 else wrong[0])
        alpha = math.log(reference / (1 - reference)) - math.log(error / (1 - error))
        assert record.alpha == pytest.approx(alpha)
        weights = weights * np.exp(0.15 * alpha * wrong[t])
        weights = np.minimum(weights / weights.sum(), 5 / 300)
        weights /= weights.sum()
    plain, _, _ = run(config.model_copy(update={"start": "pretrained"}), ReplayLearner(wrong, base))
    assert plain.rounds[0].alpha == result.rounds[0].alpha
    assert plain.rounds[1].alpha > result.rounds[1].alpha


def test_a_chain_that_gets_worse_than_its_start_stops():
    base, first = np.ones(100), np.array([1.0, 0.0] * 50)
    wrong = [first, np.ones(100)]
    config = BoostingConfig(rounds=5, draw="none", start="previous")
    result, _, _ = run(config, ReplayLearner(wrong, base))
    assert [record.kept for record in result.rounds] == [True, False]

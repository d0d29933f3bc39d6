"""Shrinkage, smoothing, out-of-bag and cross-fitted errors inside the round loop."""

from __future__ import annotations

import numpy as np
import pytest

from ensemw2s.boosting.errors import fold_of_example, out_of_bag_error, smooth_errors
from ensemw2s.boosting.loop import Booster
from ensemw2s.boosting.weights import TokenLayout, example_weights
from ensemw2s.config.method import BoostingConfig
from ensemw2s.seeds import sub_seed
from ensemw2s.sink import NullSink

LAYOUT = TokenLayout(np.concatenate([[0], np.cumsum(np.tile([1, 3, 2], 40))]).astype(np.int64))


class Watcher:
    """Experts with known errors that remembers what it was given."""

    def __init__(self, rate=0.3):
        rng = np.random.default_rng(0)
        self.wrong = (rng.random((5, LAYOUT.tokens)) < rate).astype(np.float64)
        self.base = (rng.random(LAYOUT.tokens) < 0.6).astype(np.float64)
        self.draws = []
        self.helpers = []

    def fit(self, round_, draw):
        self.draws.append(draw)

    def errors(self, round_):
        return self.wrong[round_ - 1]

    def base_errors(self):
        return self.base

    def helper_errors(self, round_, fold, draw):
        self.helpers.append((round_, fold, draw))
        return np.full(LAYOUT.tokens, float(fold % 2))

    def validation_score(self, alphas):
        return float(len(alphas))


def boost(**options):
    watcher, seen, used = Watcher(), [], []
    booster = Booster(
        BoostingConfig(**{"rounds": 3, **options}),
        LAYOUT,
        watcher,
        classes=2,
        seed=4,
        sink=NullSink(),
        on_weights=lambda _t, weights, wrong: (seen.append(weights.copy()), used.append(wrong.copy())),
    )
    return booster.fit(), watcher, [*seen, booster.weights], used


@pytest.mark.parametrize("nu", [1.0, 0.5, 0.1])
@pytest.mark.parametrize(("alpha", "kappa"), [("prior", 1.0), ("binary", 2.0)])
def test_the_update_is_shrunk_and_the_vote_is_not(nu, alpha, kappa):
    result, watcher, weights, _ = boost(shrinkage=nu, alpha=alpha, draw="none")
    full = boost(alpha=alpha, draw="none")[0]
    assert result.rounds[0].alpha == pytest.approx(full.rounds[0].alpha)
    for t, record in enumerate(result.rounds):
        growth = np.log(weights[t + 1] / weights[t])
        wrong = watcher.wrong[t] == 1.0
        assert np.ptp(growth[wrong]) < 1e-9
        assert growth[wrong].mean() - growth[~wrong].mean() == pytest.approx(nu * kappa * record.alpha, abs=1e-9)


@pytest.mark.parametrize("options", [{"level": "example"}, {"window": 3}])
def test_error_and_update_use_the_same_smoothed_errors(options):
    result, watcher, weights, used = boost(draw="none", **options)
    for t, record in enumerate(result.rounds):
        expected = smooth_errors(LAYOUT, weights[t], watcher.wrong[t], **{"level": "token", "window": 1, **options})
        np.testing.assert_allclose(used[t], expected, atol=1e-12)
        assert record.epsilon_raw == pytest.approx(float(np.dot(weights[t], expected)), abs=1e-12)
        growth = np.log(weights[t + 1] / weights[t])
        slope = np.polyfit(expected, growth, 1)[0]
        assert slope == pytest.approx(record.alpha, abs=1e-8)


def test_out_of_bag_rounds_leave_drawn_examples_alone():
    result, watcher, weights, _ = boost(errors="out_of_bag", min_effective=5.0, shrinkage=0.3)
    assert {r.errors_from for r in result.rounds} == {"out_of_bag"}
    for t, (record, draw) in enumerate(zip(result.rounds, watcher.draws, strict=True)):
        left = np.repeat(draw.left_out, LAYOUT.lengths)
        np.testing.assert_array_equal(weights[t + 1][~left], weights[t][~left])
        assert not np.array_equal(weights[t + 1][left], weights[t][left])
        assert weights[t + 1][left].sum() == pytest.approx(weights[t][left].sum(), abs=1e-12)
        error = out_of_bag_error(LAYOUT, weights[t], watcher.wrong[t], draw)
        assert record.epsilon_raw == pytest.approx(error.value, abs=1e-12)


def test_too_small_a_left_out_set_is_cross_fitted():
    result, watcher, _, _ = boost(errors="out_of_bag", min_effective=1e6, rounds=1)
    assert result.rounds[0].errors_from == "crossfit"
    assert [(t, f) for t, f, _ in watcher.helpers] == [(1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("heavy", "share", "source"), [(4, 0.5, "crossfit"), (1, 0.9, "crossfit"), (40, 0.4, "out_of_bag")]
)
def test_weight_that_is_hardly_ever_left_out_is_cross_fitted_and_said_so(heavy, share, source):
    texts = []

    class Listener(NullSink):
        def event(self, kind, **fields):
            texts.extend([fields["text"]] if kind == "message" else [])

    config = BoostingConfig(rounds=1, errors="out_of_bag", min_effective=10.0)
    booster = Booster(config, LAYOUT, Watcher(), classes=2, seed=4, sink=Listener())
    by_example = np.where(np.arange(LAYOUT.examples) < heavy, share / heavy, (1 - share) / (LAYOUT.examples - heavy))
    booster.weights = np.repeat(by_example / LAYOUT.lengths, LAYOUT.lengths)
    assert [r.errors_from for r in booster.fit().rounds] == [source]
    told = f"Round 1: {100 * share:.0f} % of the weight is on examples that are hardly ever left out, more than 16 %; "
    assert texts == ([told + "cross-fitting instead."] if source == "crossfit" else [])


@pytest.mark.parametrize("init", ["token", "example"])
@pytest.mark.parametrize("draw", ["example", "token", "none"])
@pytest.mark.parametrize("errors", ["train", "crossfit", "out_of_bag"])
def test_round_one_trains_on_all_data_unless_examples_must_be_left_out(draw, errors, init):
    if errors == "out_of_bag" and draw != "example":
        return
    _, watcher, weights, _ = boost(errors=errors, draw=draw, init=init, min_effective=1.0)
    first, second = watcher.draws[:2]
    drawn = errors == "out_of_bag"
    assert first.left_out.any() == drawn
    assert np.array_equal(first.index, np.arange(LAYOUT.examples)) != drawn
    if not drawn:
        np.testing.assert_allclose(first.token_weights, LAYOUT.tokens * weights[0], rtol=1e-6)
        np.testing.assert_array_equal(first.eos_weights, 1.0)
    assert second.left_out.any() == (draw == "example")
    whole = [d for t, _, d in watcher.helpers if t == 1]
    assert all(len(set(d.index.tolist())) == d.index.size for d in whole if errors == "crossfit")


@pytest.mark.parametrize("draw", ["example", "token", "none"])
def test_helpers_never_see_their_fold_and_have_the_usual_loss(draw):
    result, watcher, weights, used = boost(errors="crossfit", draw=draw, folds=3, rounds=1)
    fold = fold_of_example(LAYOUT.examples, 3, sub_seed(4, "boosting", "folds"))
    np.testing.assert_array_equal(used[0], np.repeat(fold % 2, LAYOUT.lengths))
    assert result.rounds[0].epsilon_raw == pytest.approx(float(np.dot(weights[0], used[0])))
    for _, f, given in watcher.helpers:
        assert not np.any(fold[given.index] == f)
        outside = example_weights(LAYOUT, np.where(np.repeat(fold == f, LAYOUT.lengths), 0.0, weights[0]))
        assert set(given.index) <= set(np.flatnonzero(outside > 0))
        per_sequence = np.add.reduceat(given.token_weights.astype(np.float64), LAYOUT.offsets[:-1])[given.index]
        assert per_sequence.mean() == pytest.approx(LAYOUT.tokens / LAYOUT.examples, rel=0.02)
        assert given.eos_weights[given.index].mean() == pytest.approx(1.0, rel=0.02)

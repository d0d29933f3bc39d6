"""``errors: unseen``: where errors come from, what they are compared with and when boosting stops, by recomputation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ensemw2s.boosting.errors import fold_of_example, smooth_errors
from ensemw2s.boosting.loop import Booster
from ensemw2s.boosting.weights import TokenLayout
from ensemw2s.config.method import BoostingConfig
from ensemw2s.seeds import sub_seed
from ensemw2s.sink import NullSink

LAYOUT = TokenLayout(np.concatenate([[0], np.cumsum(np.tile([1, 3, 2, 5], 90))]).astype(np.int64))
SEED = 104


class Tables:
    """Experts and helpers that err at random at the given rate of their round."""

    def __init__(self, rates):
        rng = np.random.default_rng(7)
        of_round = np.array(rates)[:, None]
        self.helper = (rng.random((len(rates), 2, LAYOUT.tokens)) < of_round[:, None]).astype(np.float64)
        self.unseen = (rng.random((len(rates), LAYOUT.tokens)) < of_round).astype(np.float64)
        self.base = (rng.random(LAYOUT.tokens) < 0.9).astype(np.float64)
        self.draws, self.helped = [], []

    def fit(self, round_, draw):
        self.draws.append(draw)

    def errors(self, round_):
        """An expert knows what it was trained on by heart."""
        return self.unseen[round_ - 1] * np.repeat(self.draws[round_ - 1].left_out, LAYOUT.lengths)

    def base_errors(self):
        return self.base

    def helper_errors(self, round_, fold, draw):
        self.helped.append((round_, fold))
        return self.helper[round_ - 1, fold]

    def validation_score(self, alphas):
        return float(len(alphas))


def boost(rates=(0.4, 0.35, 0.3), **options):
    learner, weights = Tables(rates), []
    config = BoostingConfig(**{"rounds": len(rates), "errors": "unseen", **options})
    keep = lambda _t, found, _wrong: weights.append(found.copy())  # noqa: E731
    booster = Booster(config, LAYOUT, learner, classes=2, seed=SEED, sink=NullSink(), on_weights=keep)
    result = booster.fit()
    return result, learner, [*weights, booster.weights]


def logit(error, count):
    error = min(max(error, 0.5 / count), 1 - 0.5 / count)
    return math.log(error / (1 - error))


def judged(learner):
    """Raw ``s`` of every round from the half that was trained without the example, by a loop."""
    half = fold_of_example(LAYOUT.examples, 2, sub_seed(SEED, "boosting", "folds"))
    tables = []
    for table in learner.helper:
        parts = [table[half[i], LAYOUT.offsets[i] : LAYOUT.offsets[i + 1]] for i in range(LAYOUT.examples)]
        tables.append(np.concatenate(parts))
    return tables


@pytest.mark.parametrize("start", ["previous", "pretrained"])
@pytest.mark.parametrize("options", [{}, {"level": "example"}, {"window": 2, "cap": 3.0}, {"init": "example"}])
def test_helpers_are_compared_with_the_first_helpers_on_the_other_half(start, options):
    result, learner, weights = boost(draw="none", start=start, shrinkage=0.5, **options)
    assert learner.helped == [(t, fold) for t in (1, 2, 3) for fold in (0, 1)]
    raw, how = judged(learner), {"level": options.get("level", "token"), "window": options.get("window", 1)}
    assert [record.errors_from for record in result.rounds] == ["crossfit"] * 3
    for t, record in enumerate(result.rounds):
        reference = learner.base if t == 0 else raw[0]
        own, other = (
            float(np.sum(weights[t] * smooth_errors(LAYOUT, weights[t], s, **how))) for s in (raw[t], reference)
        )
        count = 1 / np.sum(weights[t] ** 2)
        assert record.alpha == pytest.approx(logit(other, count) - logit(own, count), abs=1e-9)
        if not options:
            expected = weights[t] * np.exp(0.5 * record.alpha * raw[t])
            np.testing.assert_allclose(weights[t + 1], expected / expected.sum(), rtol=1e-9)


def test_with_draws_both_are_judged_by_examples_that_neither_drew():
    result, learner, weights = boost(draw="example", shrinkage=0.3, min_effective=5.0)
    assert not learner.helped
    first = learner.draws[0].left_out
    for t, (record, draw) in enumerate(zip(result.rounds, learner.draws, strict=True)):
        assert record.errors_from == "out_of_bag"
        if t == 0:
            continue
        sums, squares = np.zeros(3), 0.0
        for i in np.flatnonzero(first & draw.left_out):
            part = slice(LAYOUT.offsets[i], LAYOUT.offsets[i + 1])
            share = weights[t][part].sum()
            factor = (1 - share) ** -LAYOUT.examples
            sums += factor * np.array(
                [(weights[t] * s)[part].sum() for s in (np.ones(LAYOUT.tokens), *learner.unseen[[0, t]])]
            )
            squares += (factor * share) ** 2
        count = sums[0] ** 2 / squares
        assert record.epsilon_raw == pytest.approx(sums[2] / sums[0], abs=1e-12)
        expected = logit(sums[1] / sums[0], count) - logit(sums[2] / sums[0], count)
        assert record.alpha == pytest.approx(expected, abs=1e-9)


def test_a_round_that_falls_back_is_compared_on_what_the_first_left_out():
    result, learner, weights = boost(draw="example", shrinkage=0.3, min_effective=16.0)
    assert [record.errors_from for record in result.rounds] == ["out_of_bag", "crossfit", "crossfit"]
    left = np.repeat(learner.draws[0].left_out, LAYOUT.lengths)
    raw = judged(learner)
    for t, record in list(enumerate(result.rounds))[1:]:
        known = weights[t] * left
        count = known.sum() ** 2 / np.sum(known**2)
        own, other = (float(np.sum(known * s) / known.sum()) for s in (raw[t], learner.unseen[0]))
        assert record.alpha == pytest.approx(logit(other, count) - logit(own, count), abs=1e-9)
        if record.alpha > 0:  # the update is of all examples
            expected = weights[t] * np.exp(0.3 * record.alpha * raw[t])
            np.testing.assert_allclose(weights[t + 1], expected / expected.sum(), rtol=1e-9)


@pytest.mark.parametrize("options", [{"draw": "none"}, {"draw": "none", "start": "previous"}, {"min_effective": 5.0}])
def test_boosting_stops_at_an_expert_that_is_worse_than_plain_on_unseen_examples(options):
    result, _, _ = boost(rates=(0.2, 0.6, 0.2), shrinkage=0.1, **options)
    assert [record.kept for record in result.rounds] == [True, False]
    assert result.selected == 1
    assert "expert 2 has α = -" in result.stopped
    if "start" not in options:  # training errors, and the base as the reference, do not see it
        assert len(boost(rates=(0.2, 0.6, 0.2), shrinkage=0.1, **options, errors="crossfit")[0].alphas) == 3


@pytest.mark.parametrize("options", [{"alpha": "uniform"}, {"rounds": 1}])
@pytest.mark.parametrize("draw", ["example", "token", "none"])
def test_where_errors_change_nothing_none_are_bought(options, draw):
    found, usual = (boost(draw=draw, **{"errors": errors, **options}) for errors in ("unseen", "train"))
    assert not found[1].helped
    assert found[0] == usual[0]
    for given, expected in zip(found[1].draws, usual[1].draws, strict=True):
        np.testing.assert_array_equal(given.index, expected.index)
        np.testing.assert_array_equal(given.token_weights, expected.token_weights)


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({}, "out_of_bag"),
        ({"start": "previous"}, "crossfit"),  # what a round left out, the ones before it have seen
        ({"draw": "token"}, "crossfit"),
        ({"draw": "none"}, "crossfit"),
        ({"draw": "none", "start": "previous", "alpha": "binary"}, "crossfit"),
    ],
)
def test_unseen_is_the_source_that_the_rest_allows(options, source):
    config = BoostingConfig(errors="unseen", **options)
    assert config.errors_from == source
    assert config.first_is_plain == (source == "crossfit")
    assert config.members_for_cost == (10 if source == "crossfit" else 5)
    assert config.total_steps(250) == 250 * config.members_for_cost


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"errors": "unseen", "folds": 3}, "two halves.* errors: crossfit"),
        ({"errors": "out_of_bag", "start": "previous"}, "needs start: pretrained .* errors: unseen cross-fits"),
    ],
)
def test_what_cannot_be_unseen_is_refused(options, part):
    with pytest.raises(ValueError, match=part):
        BoostingConfig(**options)


@pytest.mark.parametrize(("folds", "steps", "expected"), [(2, 250, 125), (2, 7, 4), (3, 300, 200), (2, 1, 1)])
def test_a_helper_passes_over_its_folds_as_often_as_an_expert_over_all(folds, steps, expected):
    config = BoostingConfig(errors="crossfit", folds=folds, rounds=2)
    assert config.helper_steps(steps) == expected
    assert config.total_steps(steps) == 2 * (steps + folds * expected)

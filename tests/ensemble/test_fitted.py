"""Votes and sharpness fitted on validation, against general convex solvers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from ensemw2s.ensemble.combine.fitted import fitted_sharpness, fitted_vote, option_logprob


def objective(share: NDArray[np.float64], logprob: NDArray[np.float64], count: float) -> float:
    mixed = np.log(np.exp(logprob - logprob.max()).T @ share).sum()
    return float(mixed + count / len(share) * np.log(np.maximum(share, 1e-12)).sum())


@settings(max_examples=40, deadline=None)
@given(
    experts=st.integers(1, 6), n=st.integers(1, 60), seed=st.integers(0, 10**6), count=st.sampled_from([0.5, 5.0, 30.0])
)
def test_the_vote_is_a_convex_solvers(experts: int, n: int, seed: int, count: float) -> None:
    logprob = np.log(np.random.default_rng(seed).dirichlet(np.ones(4), (experts, n))[..., 0])
    share = fitted_vote(logprob, count)
    solved = minimize(
        lambda share: -objective(share, logprob, count), np.full(experts, 1 / experts), method="SLSQP",
        bounds=[(0, 1)] * experts, constraints={"type": "eq", "fun": lambda share: share.sum() - 1},
        options={"ftol": 1e-12, "maxiter": 500},
    )  # fmt: skip
    assert share.sum() == pytest.approx(1.0)
    assert objective(share, logprob, count) >= objective(solved.x, logprob, count) - 1e-6
    np.testing.assert_allclose(share, solved.x, atol=2e-3)


def test_without_shrinkage_the_better_expert_takes_all() -> None:
    logprob = np.log(np.array([[0.9] * 50, [0.3] * 50]))
    np.testing.assert_allclose(fitted_vote(logprob, 0.0), [1.0, 0.0], atol=1e-6)
    assert fitted_vote(logprob, 1e9) == pytest.approx([0.5, 0.5], abs=1e-6)


def test_impossible_answers_are_left_out() -> None:
    inf = np.inf
    assert fitted_vote(np.array([[-inf, -1.0], [-inf, -1.0]])).tolist() == [0.5, 0.5]
    share = fitted_vote(np.array([[-inf] * 40, [-1.0] * 40]), 10.0)
    np.testing.assert_allclose(share, [5 / 50, 45 / 50], atol=1e-9)
    with pytest.raises(ValueError, match="NaN"):
        fitted_vote(np.array([[np.nan]]))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(20, 80), seed=st.integers(0, 10**6), kappa=st.sampled_from([0.2, 1.0, 4.0]))
def test_sharpness_is_the_maximum(n: int, seed: int, kappa: float) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 6, n)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    scores = random.normal(size=offsets[-1]) * 2
    prob = np.exp(option_logprob(scores, offsets, kappa))
    answers = np.array([random.choice(size, p=prob[a : a + size]) for size, a in zip(sizes, offsets, strict=False)])

    def loss(log_kappa: float) -> float:
        return -float(option_logprob(scores, offsets, 2.0**log_kappa)[offsets[:-1] + answers].sum())

    found = minimize_scalar(loss, bounds=(-10, 10), method="bounded", options={"xatol": 1e-9})
    assert loss(np.log2(fitted_sharpness(scores, offsets, answers))) == pytest.approx(found.fun, rel=1e-7)


def test_sharpness_is_bounded() -> None:
    offsets = np.array([0, 2, 4])
    scores = np.array([0.0, 1.0, 0.0, 1.0])
    assert fitted_sharpness(scores, offsets, np.array([1, 1])) == 2.0**10
    assert fitted_sharpness(scores, offsets, np.array([0, 0])) == 2.0**-10


@pytest.mark.parametrize("impossible", [-np.inf, -1e30, -5e29])
def test_impossible_options_say_nothing_about_the_sharpness(impossible: float) -> None:
    random = np.random.default_rng(8)
    scores, answers = random.normal(size=(30, 3)) * 2, random.integers(0, 3, 30)
    expected = fitted_sharpness(scores.ravel(), np.arange(0, 91, 3), answers)
    wrong = np.column_stack([scores, np.full(30, impossible)])  # one more option each
    assert fitted_sharpness(wrong.ravel(), np.arange(0, 121, 4), answers) == pytest.approx(expected)
    more = np.append(scores.ravel(), [impossible, 0.0, impossible, impossible])  # two questions more
    offsets = np.append(np.arange(0, 91, 3), [92, 94])
    assert fitted_sharpness(more, offsets, np.append(answers, [0, 1])) == pytest.approx(expected)
    assert fitted_sharpness(np.full(4, impossible), np.array([0, 2, 4]), np.array([0, 1])) == 2.0**-10

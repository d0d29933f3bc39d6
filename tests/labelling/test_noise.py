"""The noise model: planted accuracies and confusion matrices come back, no step loses likelihood."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax

from ensemw2s.labelling.noise import Accuracies, Confusions, Votes, fit_noise, option_classes


def hard(options: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Votes ``[T, n]`` as probabilities ``[T, S]``."""
    prob = np.zeros((len(options), offsets[-1]))
    for row, own in zip(prob, options, strict=True):
        row[offsets[:-1] + own] = 1.0
    return prob


def planted(accuracies, sizes, seed=0):
    """Hard votes of voters that err alike on all other options, with the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(sizes)

    def said(accuracy):
        others = 1 + rng.integers(0, 60, len(sizes)) % np.maximum(sizes - 1, 1)
        return (truth + np.where(rng.random(len(sizes)) < accuracy, 0, others)) % sizes

    votes = np.array([said(accuracy) for accuracy in accuracies])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Votes(hard(votes, offsets), offsets), truth


def chosen(values, offsets):
    return np.array([int(np.argmax(values[a:b])) for a, b in pairwise(offsets)])


def test_planted_accuracies_come_back():
    """Within four standard errors of a known truth, ``√(a(1 − a)/n)``, though the truth is hidden."""
    accuracies, n = np.array([0.85, 0.7, 0.55, 0.4, 0.25]), 6000
    sizes = np.random.default_rng(1).integers(3, 6, n)
    votes, truth = planted(accuracies, sizes)
    found = fit_noise(votes)
    assert not found.why_not
    assert np.all(np.abs(found.model.right - accuracies) < 4 * np.sqrt(accuracies * (1 - accuracies) / n))
    right = chosen(found.posterior, votes.offsets) == truth
    majority = chosen(votes.prob.sum(axis=0), votes.offsets) == truth
    assert right.mean() > majority.mean() + 0.03
    # calibrated: what the posterior promises is what it keeps
    promised = np.maximum.reduceat(found.posterior, votes.offsets[:-1])
    assert promised.mean() == pytest.approx(right.mean(), abs=0.02)


def test_a_planted_confusion_matrix_comes_back():
    """Two classes that one voter mixes up, classes of unequal size, options in any order."""
    rng, n, k = np.random.default_rng(3), 8000, 3
    prior = np.array([0.5, 0.3, 0.2])
    confusion = np.array(
        [
            [[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.05, 0.15, 0.8]],
            [[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.2, 0.2, 0.6]],
            [[0.9, 0.05, 0.05], [0.4, 0.5, 0.1], [0.1, 0.1, 0.8]],
            [[0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]],
        ]
    )
    truth = rng.choice(k, n, p=prior)
    says = np.array([[rng.choice(k, p=voter[y]) for y in truth] for voter in confusion])
    classes = np.argsort(rng.random((n, k)), axis=1)  # the class of the option at each place
    place = np.argsort(classes, axis=1)
    offsets = np.arange(0, n * k + 1, k)
    votes = Votes(hard(np.array([place[np.arange(n), own] for own in says]), offsets), offsets, classes.ravel())
    found = fit_noise(votes)
    assert not found.why_not
    assert np.abs(found.model.confusion - confusion).max() < 0.06
    assert np.abs(found.model.prior - prior).max() < 0.03
    assert found.model.right == pytest.approx(np.einsum("y,tyy->t", prior, confusion), abs=0.03)
    best = classes[np.arange(n), chosen(found.posterior, offsets)]
    symmetric = classes[np.arange(n), chosen(fit_noise(Votes(votes.prob, offsets)).posterior, offsets)]
    assert (best == truth).mean() > (symmetric == truth).mean() + 0.005


@st.composite
def any_votes(draw):
    """Distributions of two to five voters, hard ones and flat ones among them."""
    fixed = draw(st.booleans())
    n, voters = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    sizes = [draw(st.integers(2, 4))] * n if fixed else draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    raw = draw(arrays(np.float64, (voters, int(offsets[-1])), elements=st.floats(0.0, 1.0)))
    sharp = draw(st.sampled_from([0.0, 1.0, 8.0, 1e4]))
    prob = np.exp(sharp * (raw - 1.0)) + 1e-300
    prob /= np.repeat(np.add.reduceat(prob, offsets[:-1], axis=1), np.diff(offsets), axis=1)
    order = [draw(st.permutations(range(size))) for size in sizes]
    return Votes(prob, offsets, np.concatenate(order) if fixed else None), order


@settings(max_examples=60, deadline=None)
@given(any_votes())
def test_no_step_loses_likelihood_and_the_posterior_is_one(drawn):
    votes, _ = drawn
    found = fit_noise(votes)
    steps = np.array(found.objective)
    assert np.all(np.isfinite(steps))
    assert np.all(np.diff(steps) >= -1e-9 * (1.0 + np.abs(steps[1:])))
    sums = np.add.reduceat(found.posterior, votes.offsets[:-1])
    np.testing.assert_allclose(sums, 1.0, rtol=1e-9)
    assert np.all(found.posterior >= 0.0)


@settings(max_examples=60, deadline=None)
@given(any_votes(), st.randoms(use_true_random=False))
def test_the_order_of_options_and_of_questions_does_not_matter(drawn, random):
    votes, _ = drawn
    parts = np.split(np.arange(votes.offsets[-1]), votes.offsets[1:-1])
    random.shuffle(parts)
    for part in parts:
        random.shuffle(part)
    order = np.concatenate(parts)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    other = Votes(votes.prob[:, order], offsets, None if votes.classes is None else votes.classes[order])
    np.testing.assert_allclose(fit_noise(other).posterior, fit_noise(votes).posterior[order], atol=1e-3)


@pytest.mark.parametrize("classes", [False, True])
def test_a_reliable_voter_is_believed(classes):
    """Five voters, one always right: the others tell it, since it agrees with what they agree on."""
    n, k = 3000, 4
    votes, truth = planted([1.0, 0.6, 0.6, 0.5, 0.5], np.full(n, k))
    votes = Votes(votes.prob, votes.offsets, np.tile(np.arange(k), n) if classes else None)
    found = fit_noise(votes)
    assert found.model.right[0] > 0.98
    assert (chosen(found.posterior, votes.offsets) == truth).mean() > (1.0 - 1e-9 if not classes else 0.995)
    assert np.maximum.reduceat(found.posterior, votes.offsets[:-1]).mean() > 0.98


def test_equal_voters_are_a_majority():
    """Every ordered pair of votes comes as often as every other, so no voter can be the better one."""
    patterns = np.array([[a, b, c] for a in range(2) for b in range(2) for c in range(2)] + [[0, 0, 0], [1, 1, 1]] * 3)
    offsets = np.arange(0, 2 * len(patterns) + 1, 2)
    found = fit_noise(Votes(hard(patterns.T, offsets), offsets))
    assert np.ptp(found.model.right) < 1e-9
    assert np.array_equal(chosen(found.posterior, offsets), (patterns.sum(axis=1) >= 2).astype(int))


def test_too_few_voters_and_guesses_say_why():
    votes, _ = planted([0.9, 0.8], np.full(50, 4))
    assert "fewer than 3 voters" in fit_noise(votes).why_not
    offsets = np.arange(0, 41, 4)
    assert "agree too little" in fit_noise(Votes(np.full((3, 40), 0.25), offsets)).why_not
    assert not fit_noise(planted([0.9, 0.8, 0.7], np.full(50, 4))[0]).why_not


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize(("strength", "says"), [(0.0, False), (0.3, False), (1.0, False), (2.0, True)])
def test_flat_distributions_say_nothing(classes, strength, says):
    """Calibrated distributions: of weak experts they end in the model in which all votes are guesses."""
    rng, n, k, voters = np.random.default_rng(5), 800, 4, 5
    truth = rng.integers(0, k, n)
    seen = strength * np.eye(k)[truth] + rng.normal(size=(voters, n, k))
    prob = np.exp(log_softmax(strength * seen, axis=-1)).reshape(voters, -1)
    votes = Votes(prob, np.arange(0, n * k + 1, k), np.tile(np.arange(k), n) if classes else None)
    found = fit_noise(votes)
    if says:
        assert not found.why_not
        assert (chosen(found.posterior, votes.offsets) == truth).mean() > 0.99
    else:
        assert "agree too little" in found.why_not


def test_voters_that_always_say_the_same_class_say_nothing():
    n, k = 300, 3
    votes = Votes(np.tile([1.0, 0.0, 0.0], (4, n)), np.arange(0, n * k + 1, k), np.tile(np.arange(k), n))
    assert "agree too little" in fit_noise(votes).why_not


@pytest.mark.parametrize("classes", [False, True])
def test_what_votes_that_say_nothing_are_worth(classes):
    """The likelihood of a model in which votes do not depend on the truth."""
    rng, sizes = np.random.default_rng(0), np.full(40, 3) if classes else rng_sizes()
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    prob = rng.random((3, offsets[-1]))
    prob /= np.repeat(np.add.reduceat(prob, offsets[:-1], axis=1), sizes, axis=1)
    votes = Votes(prob, offsets, np.tile([2, 0, 1], 40) if classes else None)
    if classes:
        mean = votes.by_class(prob).mean(axis=1)
        model = Confusions(np.array([0.2, 0.3, 0.5]), np.repeat(mean[:, None], 3, axis=1))
        expected, numbers = float(votes.totals(model.joint(votes)).sum()), 2 + 3 * 6 - 3 * 2
    else:
        expected, numbers = -3.0 * sum(np.log(size) for size in sizes), 3
    found = (Confusions if classes else Accuracies).silent(votes)
    assert found == (pytest.approx(expected), numbers)


def rng_sizes():
    return np.random.default_rng(1).integers(1, 6, 40)


def test_classes_that_changed_their_names_are_seen():
    n, k = 400, 3
    votes, _ = planted([0.8, 0.8, 0.8], np.full(n, k))
    votes = Votes(votes.prob, votes.offsets, np.tile(np.arange(k), n))
    good = fit_noise(votes)
    assert not good.model.switched(votes, good.posterior)
    names = np.array([1, 2, 0])
    model = Confusions(good.model.prior[names], good.model.confusion[:, names])
    switched = good.posterior.reshape(n, k)[:, names].ravel()
    joint = model.joint(votes)
    np.testing.assert_allclose(votes.totals(joint), votes.totals(good.model.joint(votes)))  # as likely as before
    assert model.switched(votes, switched)
    assert Accuracies(np.array([0.1, 0.2, 0.3])).switched(Votes(votes.prob, votes.offsets), good.posterior)


def test_one_option_is_no_evidence():
    votes, _ = planted([0.9, 0.6, 0.5], np.array([4, 1, 3, 1, 2] * 40))
    some = np.repeat(np.diff(votes.offsets) > 1, np.diff(votes.offsets))
    sizes = np.diff(votes.offsets)
    alone = Votes(votes.prob[:, some], np.concatenate([[0], np.cumsum(sizes[sizes > 1])]))
    first, second = fit_noise(votes), fit_noise(alone)
    np.testing.assert_allclose(first.model.right, second.model.right, atol=1e-12)
    np.testing.assert_allclose(first.posterior[some], second.posterior, atol=1e-9)
    np.testing.assert_allclose(first.posterior[~some], 1.0)


def test_classes_are_the_same_texts_in_any_order():
    found = option_classes([["yes", "no"], ["no", "yes"]], [["no", "yes"]])
    assert [part.tolist() for part in found] == [[1, 0, 0, 1], [0, 1]]
    assert option_classes([["a", "b"], ["a", "c"]]) is None
    assert option_classes([["a", "b"]], [["a", "b", "c"]]) is None
    assert option_classes([["a", "a"]]) is None
    assert option_classes([["a"]]) is None
    assert option_classes([]) is None


@pytest.mark.parametrize("classes", [False, True])
def test_the_posterior_against_a_loop(classes):
    """Against a loop over questions and voters."""
    rng = np.random.default_rng(0)
    n, k, voters = 60, 3, 4
    truth = rng.integers(0, k, n)
    raw = rng.normal(size=(voters, n, k)) + 2.0 * np.eye(k)[truth]
    prob = np.exp(log_softmax(raw, axis=-1))
    order = np.argsort(rng.random((n, k)), axis=1)
    shown = np.take_along_axis(prob, np.broadcast_to(order, prob.shape), axis=-1)
    votes = Votes(shown.reshape(voters, -1), np.arange(0, n * k + 1, k), order.ravel() if classes else None)
    found = fit_noise(votes)
    for i in range(n):
        weight = np.zeros(k)
        for o in range(k):
            if classes:
                y = order[i, o]
                weight[o] = np.log(found.model.prior[y])
                for t in range(voters):
                    weight[o] += sum(prob[t, i, c] * np.log(found.model.confusion[t, y, c]) for c in range(k))
            else:
                for t, a in enumerate(found.model.right):
                    p = shown[t, i, o]
                    weight[o] += p * np.log(a) + (1 - p) * np.log((1 - a) / (k - 1))
        expected = np.exp(log_softmax(weight))
        np.testing.assert_allclose(found.posterior[i * k : (i + 1) * k], expected, atol=1e-9)

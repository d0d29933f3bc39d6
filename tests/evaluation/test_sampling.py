"""The floor that sampling the questions sets to standard errors over seeds, against simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm, ttest_rel
from scipy.stats import t as student_t

from ensemw2s.errors import DataError
from ensemw2s.evaluation.comparisons import paired_difference, paired_t
from ensemw2s.evaluation.pgr import pgr_fieller, ratio_of_means
from ensemw2s.evaluation.sampling import Answers, Sampling, sampling_error


def answers(correct, ids, split="test"):
    return Answers({arm: {split: right} for arm, right in correct.items()}, {split: ids})


def pair(sides, a="a", b="b"):
    return [((side, a), (side, b)) for side in sides]


def test_three_seeds_that_happen_to_agree_prove_nothing():
    """Differences of 2.8, 2.9 and 3.0 points, while one seed's own standard error is 1.3."""
    own = Sampling(np.array([[0.013**2]]), np.array([[0.0]]), 2400)
    found, lucky = paired_t([0.028, 0.029, 0.030], sampling=own), paired_t([0.028, 0.029, 0.030])
    assert lucky.low > 0.026
    assert lucky.p < 0.001
    assert found.se == found.sampling_se == pytest.approx(0.013 / np.sqrt(3))
    half = student_t.ppf(0.975, 2) * found.se
    assert (found.low, found.high) == (pytest.approx(0.029 - half), pytest.approx(0.029 + half))
    assert found.low < 0.0
    assert found.p == pytest.approx(2 * student_t.sf(0.029 / found.se, 2))
    # The same questions in every seed: it is one seed's error that stays, and that is known from many questions.
    same = paired_t([0.028, 0.029, 0.030], sampling=Sampling.same_questions([[0.013**2]], 800))
    assert same.sampling_se == pytest.approx(0.013)
    assert same.se == pytest.approx(np.sqrt(0.013**2 + 0.001**2 / 3))
    squared = student_t.ppf(0.975, 2) ** 2 * 0.001**2 / 3 + student_t.ppf(0.975, 799) ** 2 * 0.013**2
    assert same.low == pytest.approx(0.029 - np.sqrt(squared))


def test_where_seeds_spread_more_than_sampling_it_is_the_paired_t_test():
    differences = np.array([0.01, 0.08, -0.02, 0.05])
    found = paired_t(differences, sampling=Sampling(np.array([[0.012**2]]), np.array([[0.0]]), 1000))
    expected = ttest_rel(differences, np.zeros(4))
    assert (found.t, found.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))


def test_seeds_without_spread_have_the_sampling_error():
    found = paired_t([0.03, 0.03], sampling=Sampling(np.array([[0.01**2]]), np.array([[0.0]]), 500))
    assert found.sd == 0.0
    assert found.se == pytest.approx(0.01 / np.sqrt(2))
    assert found.low is not None
    nothing = paired_t([0.0, 0.0], sampling=Sampling(np.zeros((1, 1)), np.zeros((1, 1)), 500))
    assert (nothing.t, nothing.p, nothing.low, nothing.se) == (None, None, None, None)


@given(
    st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=8),
    st.floats(0, 0.05),
    st.floats(-0.5, 1.0),
    st.sampled_from([0.9, 0.95, 0.99]),
)
@settings(deadline=None)
def test_clear_means_that_spread_and_sampling_both_say_so(differences, within, correlation, level):
    """The interval holds those of the plain t-test and of sampling alone, and p tells whether it holds 0."""
    own = Sampling(np.array([[within**2]]), np.array([[correlation * within**2]]), 700)
    found, plain = paired_t(differences, level, own), paired_t(differences, level)
    if found.low is None:
        assert plain.low is None
        return
    assert found.se >= found.sampling_se - 1e-12
    assert found.low <= found.mean - norm.ppf(0.5 + level / 2) * found.sampling_se + 1e-9
    assert (
        found.low
        <= found.mean
        - found.sd * student_t.ppf(0.5 + level / 2, len(differences) - 1) / np.sqrt(len(differences))
        + 1e-9
    )
    if abs(found.low) > 1e-9 and abs(found.high) > 1e-9:
        assert (found.low > 0 or found.high < 0) == (found.p < 1 - level)


def test_sampling_error_of_one_seed_is_that_of_the_paired_difference():
    rng = np.random.default_rng(1)
    sides, squares = [], []
    for seed in range(4):
        a, b = rng.random(120) < 0.6, rng.random(120) < 0.5
        sides.append(answers({"a": a, "b": b}, [f"{seed}-{i}" for i in range(120)]))
        squares.append(paired_difference(a, b).se ** 2)
    found = sampling_error("test", pair(sides))
    assert found.within[0, 0] == pytest.approx(np.mean(squares))
    assert found.shared[0, 0] == pytest.approx(0.0, abs=1e-15)
    assert found.questions == 480


def test_questions_that_seeds_share_are_known_by_their_ids():
    """All the same questions and answers, in any order: the covariance is the variance. Half of them: half of it."""
    rng = np.random.default_rng(2)
    a, b, ids = rng.random(200) < 0.6, rng.random(200) < 0.5, np.array([f"q{i}" for i in range(200)])
    sides = []
    for _ in range(3):
        order = rng.permutation(200)
        sides.append(answers({"a": a[order], "b": b[order]}, list(ids[order])))
    found = sampling_error("test", pair(sides))
    assert found.shared[0, 0] == pytest.approx(found.within[0, 0])
    assert found.questions == 200
    # two seeds with 100 of 150 questions in common: exact covariance by the definition
    first, second = slice(0, 150), slice(50, 200)
    halves = [answers({"a": a[s], "b": b[s]}, list(ids[s])) for s in (first, second)]
    d = a.astype(float) - b
    c = [(d[s] - d[s].mean()) / (150 * np.sqrt(149 / 150)) for s in (first, second)]
    found = sampling_error("test", pair(halves))
    assert found.shared[0, 0] == pytest.approx(np.dot(c[0][50:], c[1][:100]))
    assert found.within[0, 0] == pytest.approx((c[0] @ c[0] + c[1] @ c[1]) / 2)


def test_two_runs_are_paired_where_they_have_the_same_questions():
    rng = np.random.default_rng(3)
    a, b, ids = rng.random(300) < 0.6, rng.random(300) < 0.5, [f"q{i}" for i in range(300)]
    one, two = answers({"e": a}, ids), answers({"e": b}, ids)
    assert sampling_error("test", [((one, "e"), (two, "e"))]).within[0, 0] == pytest.approx(
        paired_difference(a, b).se ** 2
    )
    other = answers({"e": b}, [f"r{i}" for i in range(300)])
    apart = sampling_error("test", [((one, "e"), (other, "e"))]).within[0, 0]
    assert apart == pytest.approx((a.var(ddof=1) + b.var(ddof=1)) / 300)
    with pytest.raises(DataError, match="e on test has 300 answers, its split 2 questions"):
        sampling_error("test", [((one, "e"), (answers({"e": b}, ["x", "y"]), "e"))])
    for arm, split in (("f", "test"), ("e", "hard_test")):
        with pytest.raises(DataError, match=f"no answers of {arm} on {split}"):
            sampling_error(split, [((one, arm), (two, "e"))])


def simulate(rng, seeds, questions, *, effect, between, common, shared):
    """Answers of two methods: ``effect`` and a seed's own effect (sd ``between``) shift b's threshold for a.

    ``common`` is the share of an answer's luck that belongs to the question and not to the seed; ``shared`` says which
    part of the test questions all seeds have.
    """
    size = int(shared * questions)
    pool = rng.standard_normal((2, size))
    sides = []
    for seed in range(seeds):
        own = rng.standard_normal((2, questions - size))
        of_question = np.concatenate([pool, own], axis=1)
        luck = np.sqrt(common) * of_question + np.sqrt(1 - common) * rng.standard_normal((2, questions))
        limit = norm.ppf(0.6) + np.array([effect + between * rng.standard_normal(), 0.0])
        right = luck < limit[:, None]
        ids = [f"q{i}" for i in range(size)] + [f"{seed}-{i}" for i in range(questions - size)]
        sides.append(answers({"a": right[0], "b": right[1]}, ids))
    differences = [float(np.mean(s.correct["a"]["test"]) - np.mean(s.correct["b"]["test"])) for s in sides]
    return sides, differences


@pytest.mark.parametrize(
    ("seeds", "shared", "between", "common"),
    [
        (3, 0.0, 0.0, 0.9), (3, 0.0, 0.1, 0.5), (3, 0.5, 0.05, 0.9), (3, 1.0, 0.0, 0.0), (3, 1.0, 0.0, 0.9),
        (5, 1.0, 0.1, 0.9),
    ],
    ids=["own", "own-spread", "half", "same-by-chance", "same-agreeing", "same-spread"],
)  # fmt: skip
def test_false_alarms(seeds, shared, between, common):
    """Two methods that are equal on average are "clearly" apart in no more than 5 % of 600 experiments.

    Three binomial standard errors are allowed, so a true rate of 5 % fails in one of 700 seeds. The plain paired t-test
    alone raises 25 % and more where seeds share the questions on which their models agree.
    """
    rng = np.random.default_rng(17)
    alarms = naive = 0
    for _ in range(600):
        sides, differences = simulate(rng, seeds, 150, effect=0.0, between=between, common=common, shared=shared)
        found = paired_t(differences, sampling=sampling_error("test", pair(sides)))
        alarms += found.low is not None and (found.low > 0 or found.high < 0)
        plain = paired_t(differences)
        naive += plain.p is not None and plain.p < 0.05
    assert alarms <= 30 + 3 * np.sqrt(600 * 0.05 * 0.95)
    if (shared, between, common) == (1.0, 0.0, 0.9):
        assert naive > 150


def test_a_real_difference_is_found():
    """Twelve points in five seeds with questions of their own: found in 80 % of the experiments and more."""
    rng = np.random.default_rng(18)
    found = 0
    for _ in range(150):
        sides, differences = simulate(rng, 5, 300, effect=0.35, between=0.03, common=0.5, shared=0.0)
        found += paired_t(differences, sampling=sampling_error("test", pair(sides))).low > 0
    assert found > 120


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_pgr_over_seeds_holds_the_truth(shared):
    """True PGR ½ over 300 experiments of three seeds, none of which differ: covered in 95 % or more, less 3 binomial
    standard errors; Fieller's set from the spread of seeds that share their questions covers fewer than 90 %."""
    rng = np.random.default_rng(19)
    inside = naive = defined = 0
    for _ in range(300):
        size, sides = 300, []
        pool = rng.standard_normal(size)
        for seed in range(3):
            hard = pool if shared else rng.standard_normal(size)
            luck = np.sqrt(0.9) * hard + np.sqrt(0.1) * rng.standard_normal((3, size))
            right = luck < norm.ppf(np.array([0.3, 0.6, 0.9]))[:, None]
            ids = [f"q{i}" for i in range(size)] if shared else [f"{seed}-{i}" for i in range(size)]
            sides.append(answers(dict(zip("wsc", right, strict=True)), ids))
        mean = {arm: np.array([np.mean(s.correct[arm]["test"]) for s in sides]) for arm in "wsc"}
        num, den = mean["s"] - mean["w"], mean["c"] - mean["w"]
        error = sampling_error("test", pair(sides, "s", "w"), pair(sides, "c", "w"))
        found, plain = ratio_of_means(num, den, 0.95, error), ratio_of_means(num, den)
        if found.value is not None:
            defined += 1
            inside += found.low <= 0.5 <= found.high
            naive += plain.low <= 0.5 <= plain.high
            assert found.low <= plain.low <= plain.value <= plain.high <= found.high
    assert defined > 290
    assert inside >= 0.95 * defined - 3 * np.sqrt(defined * 0.05 * 0.95)
    if shared:
        assert naive < 0.9 * defined


@pytest.mark.parametrize("same", [True, False], ids=["same questions", "own questions"])
@pytest.mark.parametrize("like", ["w", "c"])
def test_pgr_over_seeds_of_a_student_that_equals_another_arm_has_a_width(like, same):
    """About that of one run with all these questions: nobody knows more from them."""
    rng, n, sides = np.random.default_rng(20), 120, []
    luck = rng.standard_normal((3, n))
    if same:
        luck[:] = luck[0]
    for seed, own in enumerate(luck):
        right = dict(zip("wc", own < norm.ppf(np.array([0.3, 0.9]))[:, None], strict=True))
        ids = [f"q{i}" if same else f"{seed}-{i}" for i in range(n)]
        sides.append(answers({**right, "s": right[like]}, ids))
    mean = {arm: np.array([np.mean(s.correct[arm]["test"]) for s in sides]) for arm in "wsc"}
    num, den = mean["s"] - mean["w"], mean["c"] - mean["w"]
    whole = {arm: np.concatenate([s.correct[arm]["test"] for s in (sides[:1] if same else sides)]) for arm in "wsc"}
    one = pgr_fieller(whole["w"], whole["s"], whole["c"])
    error = sampling_error("test", pair(sides, "s", "w"), pair(sides, "c", "w"))
    found = ratio_of_means(num, den, 0.95, error)
    assert found.value == pytest.approx("wc".index(like))
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(one.high - one.low, rel=0.15)


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("n", [20, 300])
def test_pgr_over_seeds_of_what_is_always_right_is_no_point(n, seeds):
    sides = [answers({"w": [False] * n, "s": [True] * n, "c": [True] * n}, [f"q{i}" for i in range(n)])] * seeds
    error = sampling_error("test", pair(sides, "s", "w"), pair(sides, "c", "w"))
    found, one = ratio_of_means([1.0] * seeds, [1.0] * seeds, 0.95, error), pgr_fieller([0] * n, [1] * n, [1] * n)
    assert found.value == 1.0
    assert (found.low, found.high) == (pytest.approx(one.low, rel=0.02), pytest.approx(one.high, rel=0.02))
    assert found.low < 1.0 - 1.0 / n


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("shared", [0.0, 2.0], ids=["own questions", "shared questions"])
def test_other_seeds_fall_into_the_interval_for_repeats(seeds, shared):
    """Of 1500 repeats 95 % lie in it; a false alarm of each bound once in a million (binomial).

    Differences are a part that all seeds have in common, those of a repeat too, and a part of their own. Without the
    first the interval of the mean catches the mean of other seeds in 91 % (three seeds) or 86 % (ten) of tries.
    """
    rng, tries, own = np.random.default_rng(seeds), 1500, 0.01
    sampling = Sampling(np.array([[own**2 * shared]]), np.array([[own**2 * shared]]), 10**6)
    caught = inside = 0
    for _ in range(tries):
        common = rng.normal(0.03, own * np.sqrt(shared)) if shared else 0.03
        first, again = common + rng.normal(0.0, own, seeds), common + rng.normal(0.0, own, seeds)
        found = paired_t(first, sampling=sampling)
        caught += found.repeat_low <= again.mean() <= found.repeat_high
        inside += found.low <= again.mean() <= found.high
    low, high = binom.ppf([1e-6, 1 - 1e-6], tries, 0.95)
    assert low <= caught <= high
    if not shared:
        rate = 1 - 2 * student_t.sf(student_t.ppf(0.975, seeds - 1) / np.sqrt(2), seeds - 1)
        assert abs(inside / tries - rate) < 5 * np.sqrt(rate * (1 - rate) / tries)
        assert round(rate, 2) == {3: 0.91, 10: 0.86}[seeds]


def test_the_interval_for_repeats_has_the_floor_of_sampling():
    """Seeds that agree by luck: other seeds would not, for their questions differ."""
    found = paired_t([0.028, 0.029, 0.030], 0.9, Sampling(np.array([[0.013**2]]), np.array([[0.0]]), 2400))
    half = student_t.ppf(0.95, 2) * np.sqrt(2 * 0.013**2 / 3)
    assert (found.repeat_low, found.repeat_high) == (pytest.approx(0.029 - half), pytest.approx(0.029 + half))
    assert paired_t([0.0, 0.0]).repeat_low is None

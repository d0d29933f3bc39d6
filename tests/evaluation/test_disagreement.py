from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.evaluation.bootstrap import resampled_sums
from ensemw2s.evaluation.disagreement import disagreement, share_of, shared_errors


def world(seed, members=3, n=200, options=4, skill=0.6, shared=0.0):
    """Answers of members to questions whose true option is 0; ``shared`` of the errors fall on one common answer."""
    rng = np.random.default_rng(seed)
    answers = np.where(rng.random((members, n)) < skill, 0, rng.integers(1, options, (members, n)))
    lure = np.full(n, 1)
    common = (answers > 0) & (rng.random((members, n)) < shared)
    answers = np.where(common, lure, answers)
    return answers, answers == 0


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_counts_of_a_disagreement_by_a_plain_loop(seed, options):
    answers, right = world(seed, members=2, n=60, options=options)
    found = disagreement("student_x", "x", "test", tuple(answers), tuple(right), options=np.full(60, options))
    kinds = Counter()
    for mine, theirs in zip(*answers, strict=True):
        if mine == 0 and theirs == 0:
            kinds["both_right"] += 1
        elif mine == 0:
            kinds["corrected"] += 1
        elif theirs == 0:
            kinds["spoiled"] += 1
        elif mine == theirs:
            kinds["copied"] += 1
        else:
            kinds["other_wrong"] += 1
    for kind in ("both_right", "corrected", "spoiled", "copied", "other_wrong"):
        assert getattr(found, kind) == kinds[kind], kind
    assert sum(kinds.values()) == found.n == 60
    assert found.agreement.count == kinds["both_right"] + kinds["copied"]
    wrong = kinds["corrected"] + kinds["copied"] + kinds["other_wrong"]
    if wrong:
        assert found.corrected_share.share == kinds["corrected"] / wrong
        assert found.corrected_share == share_of(kinds["corrected"], wrong)
    if kinds["copied"] + kinds["other_wrong"]:
        assert found.same_wrong_by_chance == pytest.approx(1 / (options - 1))
        assert found.same_wrong.of == kinds["copied"] + kinds["other_wrong"]


def test_written_answers_have_no_chance_level():
    found = disagreement(
        "s", "t", "test", (["a", "b", "c"], ["a", "x", "c"]), (np.array([1, 0, 0]), np.array([1, 0, 0]))
    )
    assert (found.copied, found.other_wrong, found.same_wrong_by_chance) == (1, 1, None)
    perfect = disagreement("s", "t", "test", ([0, 1], [0, 0]), (np.array([1, 0]), np.array([1, 1])))
    assert perfect.corrected_share is None
    assert perfect.same_wrong is None
    assert perfect.spoiled_share.count == 1


def test_chance_uses_each_questions_own_options():
    options = np.array([2, 2, 5])
    found = disagreement("s", "t", "test", ([1, 1, 3], [1, 1, 2]), (np.zeros(3), np.zeros(3)), options=options)
    assert found.same_wrong_by_chance == pytest.approx((1 + 1 + 0.25) / 3)


@given(st.integers(0, 10_000), st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_shared_errors_by_a_plain_loop(seed, members):
    answers, right = world(seed, members, n=50)
    found = shared_errors("boosting", "test", answers, right, options=np.full(50, 4), resamples=100, seed=1)
    both = same = 0
    for i, j in combinations(range(members), 2):
        for k in range(50):
            if not right[i][k] and not right[j][k]:
                both += 1
                same += answers[i][k] == answers[j][k]
    pairs = members * (members - 1) // 2
    assert found.both_wrong == pytest.approx(both / (pairs * 50))
    rates = [1 - r.mean() for r in right]
    expected = np.mean([rates[i] * rates[j] for i, j in combinations(range(members), 2)])
    assert found.both_wrong_if_independent == pytest.approx(expected)
    if both:
        assert found.same_wrong == pytest.approx(same / both)
        assert found.excess == pytest.approx(same / both - 1 / 3)
        assert found.low <= found.same_wrong <= found.high
    assert found.all_wrong.count == sum(not right[:, k].any() for k in range(50))
    identical = [not right[:, k].any() and len(set(answers[:, k])) == 1 for k in range(50)]
    assert found.all_same_wrong.count == sum(identical)


def test_errors_at_random_are_at_chance_and_common_ones_above():
    inside = 0
    for seed in range(60):
        answers, right = world(seed, members=4, n=150)
        found = shared_errors("g", "test", answers, right, options=np.full(150, 4), resamples=300, seed=seed)
        inside += found.excess_low <= 0 <= found.excess_high
    assert inside >= 51  # 95 % of 60 are 57; below 51 has a chance under 1 %
    answers, right = world(3, members=4, n=300, shared=0.5)
    found = shared_errors("g", "test", answers, right, options=np.full(300, 4), seed=0)
    # both on the lure, or by chance on the same of what is left: (0.5 + 0.5/3)² + 2·(0.5/3)²
    assert found.same_wrong == pytest.approx((2 / 3) ** 2 + 2 * (1 / 6) ** 2, abs=0.06)
    assert found.excess_low > 0


def test_two_options_leave_no_room_for_different_errors():
    answers, right = world(0, members=2, n=80, options=2)
    found = shared_errors("g", "test", answers, right, options=np.full(80, 2), seed=0)
    assert (found.same_wrong, found.same_wrong_by_chance, found.excess) == (1.0, 1.0, 0.0)
    assert found.low < 1.0 == found.high


def test_members_that_are_never_wrong_together():
    found = shared_errors("g", "test", [[0, 1], [1, 0]], [np.array([1, 0]), np.array([0, 1])], options=[4, 4])
    assert found.same_wrong is None
    assert found.low is None
    assert found.both_wrong == 0.0


def test_bad_input():
    ok = np.array([1, 0])
    with pytest.raises(ValueError, match="at least two members"):
        shared_errors("g", "test", [[0, 1]], [ok])
    with pytest.raises(ValueError, match="one answer an example"):
        disagreement("s", "t", "test", ([0], [0, 1]), (ok, ok))
    with pytest.raises(ValueError, match="the same examples"):
        disagreement("s", "t", "test", ([0, 1], [0, 1]), (ok, np.array([1, 0, 1])))
    with pytest.raises(ValueError, match="at least two options"):
        disagreement("s", "t", "test", ([1, 1], [1, 1]), (0 * ok, 0 * ok), options=[1, 4])
    with pytest.raises(ValueError, match="at least one example"):
        resampled_sums(np.zeros((0, 2)), 10, 0)
    with pytest.raises(ValueError, match="at least 1"):
        resampled_sums(np.zeros((3, 2)), 0, 0)


def test_resampled_sums_are_bootstrap_sums():
    values = np.random.default_rng(0).normal(size=(40, 2))
    sums = resampled_sums(values, 4000, 3)
    assert np.array_equal(sums, resampled_sums(values, 4000, 3))
    means = sums / 40
    assert means.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.02)
    assert means.std(axis=0) == pytest.approx(values.std(axis=0) / np.sqrt(40), rel=0.06)

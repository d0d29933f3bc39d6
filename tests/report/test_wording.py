from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s import arms
from ensemw2s.arms import planned_pairs
from ensemw2s.report import wording as w

ARMS = [
    "weak_zero_shot", "strong_zero_shot", "single", "expert_2", "expert_10", "plain", "plain_long", "bagging",
    "bagging_equal_rounds", "seeds", "seeds_equal_rounds", "ensemble", "ensemble_all", "ensemble_equal",
    "student_single", "student_plain", "student_bagging", "student_seeds", "student_ensemble", "ceiling",
]  # fmt: skip


def is_student(arm):
    return arm.startswith("student_")


def test_numbers():
    assert w.percent(0.62345) == "62.3"
    assert w.percent(None) == ""
    assert w.points(0.043) == "+4.3"
    assert w.points(-0.012) == "−1.2"
    assert w.points(0.0) == w.points(-0.0) == w.points(1e-12) == "±0.0"
    assert w.number(-0.001) == "0.00"
    assert w.number(-1.5) == "−1.50"
    assert w.interval("62.3", 0.5, 0.7) == "62.3 [50.0, 70.0]"
    assert w.interval("62.3", None, None) == "62.3"


def test_floating_point_noise_does_not_move_the_last_digit():
    assert 0.7725 - 0.735 != 0.0375
    assert w.points(0.7725 - 0.735) == w.points(0.0375) == "+3.8"


@pytest.mark.parametrize(
    ("p", "text"),
    [(1.0, "1.00"), (0.1, "0.10"), (0.0996, "0.10"), (0.0494, "0.049"), (0.001, "0.001"), (0.0009, "<0.001")],
)
def test_p_values(p, text):
    assert w.p_value(p) == text
    assert w.p_phrase(p).replace("\u00a0", " ") in (f"p = {text}", f"p < {text[1:]}")


def test_no_p_value():
    assert w.p_value(None) == "–"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (11520, "3 h 12 min"),
    ],
)
def test_durations(seconds, text):
    assert w.duration(seconds) == text


@given(st.floats(0, 1e7))
def test_durations_never_show_sixty(seconds):
    assert not re.search(r"\b60(\.0)? (s|min)", w.duration(seconds))


def test_counts():
    assert w.count(9999) == "9999"
    assert w.count(1_234_567) == "1\u2009234\u2009567"


def test_labels_fit_the_columns():
    assert all(len(w.arm_label(arm)) <= 27 for arm in ARMS)
    shown = [(a, b) for a, b in planned_pairs(ARMS) if a != "ceiling" and not (is_student(a) and b == "plain")]
    assert all(len(w.pair_label(a, b)) <= 34 for a, b in shown)
    assert len({w.arm_label(arm) for arm in ARMS}) == len(ARMS)
    assert w.arm_label("my_own_arm") == "my own arm"


def test_arms_are_sorted_weak_before_strong():
    order = arms.sorted_arms(reversed(ARMS))
    strong = [arms.is_strong(arm) for arm in order]
    assert strong == sorted(strong)
    assert order[0] == "weak_zero_shot"
    assert order[-1] == "ceiling"
    assert order.index("plain") < order.index("single") < order.index("expert_2") < order.index("expert_10")
    assert order.index("bagging") < order.index("ensemble")

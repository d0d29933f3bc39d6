"""The embedded question set against an independent statement of what each question means."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ensemw2s.data.example import Example
from ensemw2s.data.synthetic import LENGTHS, MAX_SIZE, N_CHOICES, SKILLS, is_question_list, make_synthetic
from ensemw2s.errors import DataError

# What a prompt asks for, from its words alone: the first pattern that matches decides.
MEANING: list[tuple[str, str]] = [
    (r"backwards|reverse|flip", "reverse"),
    (r"swap|trade", "swap"),
    (r"sort|in order|arrange", "sort"),
    (r"largest|max|biggest", "largest"),
    (r"smallest|min of|least", "smallest"),
    (r"to end|rotate|turn", "rotate"),
    (r"keep large|only big|drop small", "keep"),
    (r"add one|raise|next", "step"),
    (r"odd", "count"),
    (r"sum|add up|total", "sum"),
]


def meaning(prompt: str) -> str:
    return next(skill for pattern, skill in MEANING if re.search(pattern, prompt))


def reference(skill: str, digits: str) -> str:
    """The answer, by arithmetic on numpy arrays rather than by the generator's string functions."""
    x = np.array([int(d) for d in digits])
    text = {
        "reverse": lambda: x[np.arange(len(x))[::-1]],
        "sort": lambda: np.sort(x),
        "largest": lambda: x.max(keepdims=True),
        "smallest": lambda: x.min(keepdims=True),
        "rotate": lambda: np.roll(x, -1),
        "keep": lambda: x[x >= 5],
        "step": lambda: (x + 1) % 10,
        "count": lambda: [(x % 2).sum()],
        "sum": lambda: [x.sum()],
        "swap": lambda: x[[len(x) - 1, *range(1, len(x) - 1), 0]],
    }[skill]()
    return "".join(str(int(v)) for v in text)


def digits_of(example: Example) -> str:
    (digits,) = re.findall(r"\d+", example.prompt)
    return digits


def edit_distance(a: str, b: str) -> int:
    """Optimal string alignment distance: insertion, deletion, substitution, swap of neighbours."""
    d = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    d[:, 0], d[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                d[i, j] = min(d[i, j], d[i - 2, j - 2] + 1)
    return int(d[-1, -1])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**40), size=st.integers(1, 120))
def test_invariants(seed: int, size: int) -> None:
    examples = make_synthetic(size, seed)
    assert len(examples) == size
    assert len({e.id for e in examples}) == size
    assert len({e.prompt for e in examples}) == size
    assert len({(e.group, digits_of(e)) for e in examples}) == size
    for e in examples:
        digits = digits_of(e)
        assert meaning(e.prompt) == e.group
        assert e.answer == reference(e.group, digits)
        assert e.choices is not None
        assert len(e.choices) == len(set(e.choices)) == N_CHOICES
        assert e.choices.count(e.answer) == 1
        assert all(re.fullmatch(r"\d+", c) for c in e.choices)
        assert 1 <= len(e.answer) <= 6
        assert e.difficulty == len(digits)
        assert len(digits) in LENGTHS
        assert len(e.prompt) + 1 + max(map(len, e.choices)) <= 32
        for wrong in set(e.choices) - {e.answer}:
            near_number = e.group in ("sum", "count") and abs(int(wrong) - int(e.answer)) in (1, 2, 10)
            assert near_number or edit_distance(e.answer, wrong) == 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), small=st.integers(1, 60), more=st.integers(0, 60))
def test_deterministic_and_a_smaller_size_is_a_prefix(seed: int, small: int, more: int) -> None:
    examples = make_synthetic(small + more, seed)
    assert examples == make_synthetic(small + more, seed)
    assert examples[:small] == make_synthetic(small, seed)


def test_seeds_differ() -> None:
    first, second = ({e.prompt for e in make_synthetic(500, seed)} for seed in (100, 101))
    assert len(first & second) < 50


@pytest.fixture(scope="module")
def many() -> list[Example]:
    return make_synthetic(20_000, 12345)


def test_answer_positions_are_uniform(many: list[Example]) -> None:
    # One chi-square test per skill and one over all; the seed is fixed, and a correct generator fails for one seed in
    # a thousand (Bonferroni).
    groups = [[e for e in many if e.group == s.name] for s in SKILLS] + [many]
    for group in groups:
        counts = np.bincount([e.answer_index for e in group], minlength=N_CHOICES)
        assert stats.chisquare(counts).pvalue > 1e-3 / len(groups)


def test_skill_frequencies_are_the_stated_unequal_ones(many: list[Example]) -> None:
    weights = np.array([s.weight for s in SKILLS])
    assert weights.sum() == pytest.approx(1.0)
    assert weights.max() >= 2 * weights.min()
    counts = Counter(e.group for e in many)
    share = np.array([counts[s.name] for s in SKILLS]) / len(many)
    # Impossible questions are drawn again, which shifts the shares a little (most for "keep").
    np.testing.assert_allclose(share, weights, rtol=0.12)


def test_every_wording_and_length_occurs(many: list[Example]) -> None:
    for skill in SKILLS:
        forms = Counter(re.sub(r"\d+", "{}", e.prompt) for e in many if e.group == skill.name)
        assert [form for form, _ in forms.most_common()] == list(skill.wordings)
        assert {e.difficulty for e in many if e.group == skill.name} == set(LENGTHS)


def test_questions_use_reserved_lists_only(many: list[Example]) -> None:
    assert all(is_question_list(digits_of(e)) for e in many)


@pytest.mark.parametrize("size", [0, -3, MAX_SIZE + 1])
def test_size_out_of_range(size: int) -> None:
    with pytest.raises(DataError, match=r"data\.source\.size"):
        make_synthetic(size, 0)

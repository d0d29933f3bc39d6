"""Label noise: which training answers are replaced, by what, and that nothing else is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.config.data import DataConfig, SourceConfig, SplitConfig
from ensemw2s.data.example import SPLITS, Example, Splits
from ensemw2s.data.label_noise import with_label_noise
from ensemw2s.data.split import make_splits, noise_phrase
from ensemw2s.errors import DataError

OPTIONS = ("b", "a", "d", "c")


def questions(n: int, written: bool = False) -> list[Example]:
    choices = None if written else OPTIONS
    return [Example(f"e{i}", f"What is {i}?", OPTIONS[i % 4], choices) for i in range(n)]


def changed(before: list[Example], after: list[Example]) -> dict[str, str | None]:
    return {b.id: b.answer for a, b in zip(before, after, strict=True) if a != b}


@given(n=st.integers(5, 60), share=st.floats(0.0, 1.0), seed=st.integers(0, 2**40), written=st.booleans())
def test_a_share_of_the_answers_is_false_and_nothing_else_changes(n, share, seed, written):
    true = questions(n, written)
    noisy = with_label_noise(true, share, seed)
    false = changed(true, noisy)
    assert len(false) == round(share * n)
    assert [replace(e, answer=None) for e in noisy] == [replace(e, answer=None) for e in true]
    assert {e.answer for e in noisy} <= set(OPTIONS)
    assert with_label_noise(true, share, seed) == noisy
    assert changed(true, with_label_noise(true, share / 3, seed)).items() <= false.items(), "less noise is part of more"


@pytest.mark.parametrize("written", [False, True])
def test_every_other_answer_is_as_likely(written):
    """12 000 false answers fall on each pair of true and false answer 1000 times: ±150, five deviations."""
    true = questions(12_000, written)
    pairs = Counter((a.answer, b.answer) for a, b in zip(true, with_label_noise(true, 1.0, 3), strict=True))
    assert set(pairs) == {(a, b) for a in OPTIONS for b in OPTIONS if a != b}
    assert all(abs(count - 1000) < 150 for count in pairs.values())


def test_written_answers_are_replaced_in_proportion():
    """Of 9000 with the answer "a" and 3000 with "b", 1000 with "c": "c" turns into "a" three times as often."""
    answers = ["a"] * 9000 + ["b"] * 3000 + ["c"] * 1000
    true = [Example(f"e{i}", "p", answer) for i, answer in enumerate(answers)]
    of_c = Counter(b.answer for a, b in zip(true, with_label_noise(true, 1.0, 0), strict=True) if a.answer == "c")
    assert set(of_c) == {"a", "b"}
    assert abs(of_c["a"] - 750) < 70


@pytest.mark.parametrize(
    "examples", [[Example("one", "p", "x", ("x",))], [Example("one", "p", "x"), Example("two", "q", "x")]]
)
def test_an_answer_without_another_one_is_an_error(examples):
    assert with_label_noise(examples, 0.0, 0) == examples
    with pytest.raises(DataError, match=r"data\.label_noise.*example '(one|two)'"):
        with_label_noise(examples, 1.0, 0)


def splits(noise: float, seed: int = 5) -> Splits:
    source = SourceConfig(kind="synthetic", size=400)
    return make_splits(DataConfig(source=source, split=SplitConfig(hard_above=4), label_noise=noise), seed, "choice")


def test_only_the_training_split_has_it_and_its_notes_say_how_much():
    clean, noisy = splits(0.0), splits(0.3)
    for name in SPLITS[1:]:
        assert noisy[name] == clean[name]
    count = len(changed(clean.train, noisy.train))
    assert count == round(0.3 * len(clean.train)) > 0
    assert noisy.notes == clean.notes | {"label_noise": count}
    assert noise_phrase(noisy.notes) == (
        f"label noise: {count} of {len(clean.train)} training answers are false on purpose"
    )
    assert noise_phrase(clean.notes) == ""
    assert changed(clean.train, noisy.train) != changed(splits(0.0, 6).train, splits(0.3, 6).train)

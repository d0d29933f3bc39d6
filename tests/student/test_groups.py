"""Groups of questions: annotations, and clusters of prompts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_rand_score

from ensemw2s.data.example import Example
from ensemw2s.data.synthetic import make_synthetic
from ensemw2s.student import groups as module
from ensemw2s.student.groups import annotated, clusters


def asked(prompts):
    return [Example(id=str(i), prompt=prompt, answer=None) for i, prompt in enumerate(prompts)]


def test_annotations_are_groups():
    examples = [dataclasses.replace(e, group=g) for e, g in zip(asked("abcd"), ["x", "", "x", "b"], strict=True)]
    groups = annotated(examples)
    assert (groups.names, groups.of.tolist(), groups.kind) == (["", "b", "x"], [2, 0, 2, 1], "group")


def test_clusters_find_the_wordings_of_the_embedded_questions():
    examples = make_synthetic(900, 3)
    found = clusters(examples, 5)
    assert len(found) == round(np.sqrt(450))
    skills = annotated(examples).of
    # of a cluster nearly all are one skill, though a skill has several wordings
    pure = sum(np.bincount(skills[found.of == k]).max() for k in range(len(found)))
    assert pure > 0.85 * len(examples)
    assert adjusted_rand_score(skills, found.of) > 0.4
    for k, name in enumerate(found.names):
        assert name in {examples[i].prompt for i in np.flatnonzero(found.of == k)}


def test_clusters_depend_on_prompts_and_seed_alone():
    examples = make_synthetic(300, 3)
    hidden = [dataclasses.replace(e, answer=None, choices=None, group="", difficulty=None) for e in examples]
    assert clusters(hidden, 5).of.tolist() == clusters(examples, 5).of.tolist()
    assert clusters(examples, 6).of.tolist() != clusters(examples, 5).of.tolist()


def test_vectors_are_those_of_scikit_learn():
    texts = ["add 12 and 7", "Add  3 and 400", "which is larger?", "what is the larger of 5, 6"]
    plain = [f" {' '.join(text.lower().split())} " for text in texts]
    plain = ["".join("0" if c.isdigit() else c for c in text) for text in plain]
    plain = [text.replace("00", "0").replace("00", "0") for text in plain]
    reference = TfidfVectorizer(
        analyzer="char", ngram_range=(3, 3), sublinear_tf=True, smooth_idf=False, norm=None, lowercase=False
    ).fit_transform(plain)
    # scikit-learn adds 1 to every inverse document frequency
    counted = TfidfVectorizer(
        analyzer="char", ngram_range=(3, 3), sublinear_tf=True, use_idf=False, norm=None, lowercase=False
    ).fit_transform(plain)
    expected = (reference - counted).toarray()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    ours = module._vectors(texts).toarray()
    np.testing.assert_allclose(ours @ ours.T, expected @ expected.T, atol=1e-12)


@pytest.mark.parametrize(
    "prompts",
    [
        ["?"],
        ["same"] * 9,
        ["", " ", "a"],
        [str(n) for n in range(20)],
        ["これは何ですか", "東京はどこ"] * 4,
    ],
    ids=["one", "same", "empty", "numbers", "no spaces"],
)
def test_any_prompts_have_clusters(prompts):
    found = clusters(asked(prompts), 0)
    assert found.of.shape == (len(prompts),)
    assert set(found.of.tolist()) == set(range(len(found)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=25), st.integers(0, 3))
def test_texts_that_look_alike_are_together(prompts, seed):
    """Twice every prompt, once with other blanks: both copies are in one cluster."""
    louder = [f"  {' '.join(prompt.split())} " for prompt in prompts]
    found = clusters(asked([*prompts, *louder]), seed)
    assert found.of[: len(prompts)].tolist() == found.of[len(prompts) :].tolist()

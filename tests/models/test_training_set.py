from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from ensemw2s.config.data import TemplateConfig
from ensemw2s.data.encode import encode_split
from ensemw2s.data.example import Example
from ensemw2s.errors import DataError
from ensemw2s.models.training.training_set import TrainingSet, collate, drawn_labels

PROMPTS = [np.array([5, 6, 7]), np.array([8]), np.array([9, 10])]
TARGETS = [np.array([11]), np.array([12, 13, 14]), np.array([15, 16])]


def small(**keywords) -> TrainingSet:
    return TrainingSet.from_sequences(PROMPTS, TARGETS, eos_id=1, **keywords)


def test_flat_layout_and_weights() -> None:
    data = small(weights=[1, 2, 3, 4, 5, 6], eos_weights=[0.1, 0.2, 0.3], index=[2, 2, 0])
    assert data.target_ids.tolist() == [11, 1, 12, 13, 14, 1, 15, 16, 1]
    np.testing.assert_allclose(data.loss_weights, [1, 0.1, 2, 3, 4, 0.2, 5, 6, 0.3])
    assert data.target_offsets.tolist() == [0, 2, 6, 9]
    assert data.lengths.tolist() == [4, 4, 4]
    assert data.index.tolist() == [2, 2, 0]
    assert len(data) == 3


def test_default_weight_of_end_of_sequence_is_one_and_cut_answers_have_none() -> None:
    data = small(weights=np.zeros(6), ends=[True, False, True])
    assert data.target_ids.tolist() == [11, 1, 12, 13, 14, 15, 16, 1]
    assert data.loss_weights.tolist() == [0, 1, 0, 0, 0, 0, 0, 1]


def test_collate_against_a_naive_reading() -> None:
    soft = [
        (np.array([[3, 4], [1, 2]]), np.log([[0.5, 0.2], [0.9, 0.1]])),
        None,
        (np.full((3, 1), 7), np.zeros((3, 1))),
    ]
    data = small(weights=[1, 2, 3, 4, 5, 6], soft=soft)
    batch = collate(data, np.array([1, 0, 1]), pad_id=1)
    ids = batch["input_ids"].numpy()
    assert ids.shape == (3, 4)
    assert (batch["attention_mask"].sum(dim=1).numpy() == [4, 4, 4]).all()
    place = 0
    for b, s in enumerate([1, 0, 1]):
        whole = [*PROMPTS[s], *TARGETS[s], 1]
        for j in range(len(TARGETS[s]) + 1):
            at = int(batch["positions"][place])
            assert at // 4 == b
            assert ids.reshape(-1)[at - at % 4 : at + 1].tolist() == whole[: len(PROMPTS[s]) + j]
            assert int(batch["targets"][place]) == whole[len(PROMPTS[s]) + j]
            row = int(data.target_offsets[s]) + j
            assert float(batch["weights"][place]) == data.loss_weights[row]
            assert batch["soft_ids"][place].tolist() == data.soft_ids[row].tolist()
            place += 1
    assert place == len(batch["targets"])
    assert data.soft_ids[2].tolist() == [-1, -1]
    assert data.soft_ids[6].tolist() == [7, -1]


def test_padding_is_on_the_right_and_masked() -> None:
    data = TrainingSet.from_sequences([np.array([5]), np.array([5, 6, 7])], [np.array([8]), np.array([9])], eos_id=1)
    batch = collate(data, np.array([0, 1]), pad_id=1)
    assert batch["input_ids"].tolist() == [[5, 8, 1, 1], [5, 6, 7, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_from_encoded_takes_true_answers_or_chosen_options(tokenizer) -> None:
    examples = [
        Example("a", "1+1=", "2", choices=("3", "2")),
        Example("b", "2+2=", "4", choices=("4", "11")),
    ]
    encoded = encode_split(examples, tokenizer, TemplateConfig(), "choice", None)
    rows, _ = encoded.answer_rows(include_eos=False)
    data = TrainingSet.from_encoded(encoded, weights=np.arange(len(rows)) + 1.0)
    inside = data.target_ids != encoded.eos_id
    assert data.target_ids[inside].tolist() == encoded.row_tokens[rows].tolist()
    assert data.loss_weights[inside].tolist() == (np.arange(len(rows)) + 1.0).tolist()
    other = TrainingSet.from_encoded(encoded, options=[0, 1])
    first = other.target_ids[: other.target_offsets[1] - 1]
    assert first.tolist() == encoded.options[0][0].tolist()
    hidden = encode_split([e.hide_answer() for e in examples], tokenizer, TemplateConfig(), "choice", None)
    with pytest.raises(DataError, match="example a is hidden"):
        TrainingSet.from_encoded(hidden)


def test_fingerprint_changes_with_content() -> None:
    base = small().fingerprint()
    assert small().fingerprint() == base
    assert small(weights=[1, 1, 1, 1, 1, 2]).fingerprint() != base
    assert small(index=[0, 1]).fingerprint() != base


def test_bad_sets_are_refused() -> None:
    with pytest.raises(DataError, match="no sequence"):
        TrainingSet.from_sequences([], [], eos_id=1)
    with pytest.raises(DataError, match="prompt of training sequence 1"):
        TrainingSet.from_sequences([PROMPTS[0], np.array([], int)], TARGETS[:2], eos_id=1)
    with pytest.raises(ValueError, match="finite"):
        small(weights=[1, 2, 3, 4, 5, np.nan])
    with pytest.raises(ValueError, match="finite"):
        small(eos_weights=-1)
    with pytest.raises(ValueError, match="index"):
        small(index=[3])
    with pytest.raises(ValueError, match="soft targets of sequence 0"):
        small(soft=[(np.zeros((1, 2), int), np.zeros((1, 2))), None, None])


def drawable(probs: list[list[float]]) -> TrainingSet:
    """Questions with a one-token label for each probability; label tokens are numbered from 100."""
    n = sum(map(len, probs))
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in probs])]).astype(np.int64)
    return TrainingSet.from_sequences(
        [np.array([5])] * n, [np.array([100 + k]) for k in range(n)], eos_id=1, labels=(offsets, np.concatenate(probs))
    )


def test_drawn_labels_follow_their_distribution() -> None:
    """Chi-square at a false-alarm rate of 1e-6 a question."""
    probs = [[0.2, 0.5, 0.3], [1.0], [0.0, 0.25, 0.0, 0.75, 0.0]]
    data = drawable(probs)
    assert data.questions == 3
    assert data.index.tolist() == [0, 1, 2]
    visits = np.tile([2, 0, 1, 0], 10_000)
    drawn = drawn_labels(data, visits, seed=4)
    for question, p in enumerate(probs):
        counts = np.bincount(drawn[visits == question] - data.label_offsets[question], minlength=len(p))
        assert counts.size == len(p)
        possible = np.array(p) > 0
        assert counts[~possible].sum() == 0
        if possible.sum() > 1:
            assert chisquare(counts[possible], np.array(p)[possible] * counts.sum()).pvalue > 1e-6


def test_a_draw_depends_on_question_and_visit_alone() -> None:
    data = drawable([[0.5, 0.5]] * 4)
    long = drawn_labels(data, np.tile(np.arange(4), 50), seed=1).reshape(50, 4)
    short = drawn_labels(data, np.tile(np.arange(4), 7), seed=1).reshape(7, 4)
    assert short.tolist() == long[:7].tolist()
    alone = drawn_labels(data, np.full(50, 2), seed=1)
    assert alone.tolist() == long[:, 2].tolist()
    assert drawn_labels(data, np.full(50, 2), seed=2).tolist() != alone.tolist()


@pytest.mark.parametrize(
    ("offsets", "probs"),
    [([0, 2, 3], [0.5, 0.4, 1.0]), ([0, 2, 3], [1.5, -0.5, 1.0]), ([0, 3], [0.5, 0.5]), ([0, 0, 3], [0.5, 0.5, 0.0])],
)
def test_labels_must_be_distributions(offsets: list[int], probs: list[float]) -> None:
    with pytest.raises(ValueError, match="label_"):
        small(labels=(np.array(offsets), np.array(probs)))

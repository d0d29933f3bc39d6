"""Filters on labels, and what a student is trained on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_labels import make_labels

from ensemw2s.config.method import StudentConfig
from ensemw2s.errors import RunFailedError
from ensemw2s.student.filters import confidence_weights, lost_groups, select_labels
from ensemw2s.student.groups import Groups
from ensemw2s.student.training import student_loss, student_training_set


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_keep_fraction_takes_the_most_confident(confidence, fraction):
    kept = select_labels(make_labels(confidence), StudentConfig(keep_fraction=fraction))
    assert kept.size == max(1, round(fraction * len(confidence)))
    assert np.all(np.diff(kept) > 0)
    left = np.setdiff1d(np.arange(len(confidence)), kept)
    if left.size:
        assert min(np.asarray(confidence)[kept]) >= max(np.asarray(confidence)[left])


def test_thresholds_and_empty_labels():
    labels = make_labels([0.9, 0.2, 0.8, 0.7], [1.0, 1.0, 0.4, 0.6], texts=["a", "b", "c", "  "])
    assert select_labels(labels, StudentConfig(min_confidence=0.5)).tolist() == [0, 2]
    assert select_labels(labels, StudentConfig(min_agreement=0.6)).tolist() == [0, 1]
    # A fraction of all labels, whatever the thresholds leave: students of different teachers stay comparable.
    assert select_labels(labels, StudentConfig(min_agreement=0.6, keep_fraction=0.25)).tolist() == [0]
    with pytest.raises(RunFailedError, match="None of the 4 labels"):
        select_labels(labels, StudentConfig(min_confidence=0.99))


def test_a_label_that_was_cut_does_not_teach_to_stop():
    prompts = [np.array([5, 6], dtype=np.int32), np.array([7], dtype=np.int32)]
    targets = [np.array([1, 2], dtype=np.int32), np.array([3, 4, 8], dtype=np.int32)]
    data, constant = student_training_set(prompts, targets, eos_id=9, ended=np.array([True, False]))
    assert data.target_ids.tolist() == [1, 2, 9, 3, 4, 8]
    assert constant == 3.0
    assert data.loss_weights.tolist() == [1.0] * 6


def test_logconf_warms_up_over_its_share_of_the_steps():
    loss = student_loss(StudentConfig(loss="logconf", logconf_coefficient=0.5, logconf_warmup=0.2), 100, None)
    assert loss.coefficient_at(0) == 0.0
    assert loss.coefficient_at(10) == pytest.approx(0.25)
    assert loss.coefficient_at(20) == loss.coefficient_at(99) == 0.5


def grouped(of):
    return Groups(np.asarray(of, dtype=np.int64), [f"g{k}" for k in range(max(of) + 1)], "group")


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=40),
    st.one_of(st.sampled_from([0.1, 0.25, 0.5, 0.7, 0.9, 1.0]), st.floats(0.01, 1.0)),
)
def test_every_group_keeps_its_share(rows, fraction):
    of, confidence = [row[0] for row in rows], np.array([row[1] for row in rows])
    groups, config = grouped(of), StudentConfig(keep_fraction=fraction, keep_within="group")
    kept = select_labels(make_labels(confidence), config, groups)
    assert kept.size == max(1, round(fraction * len(rows)))
    assert np.all(np.diff(kept) > 0)
    for group in range(len(groups)):
        own = np.flatnonzero(groups.of == group)
        taken = np.intersect1d(own, kept)
        assert abs(taken.size - fraction * own.size) < 1 + 1e-6
        left = np.setdiff1d(own, kept)
        if taken.size and left.size:
            assert confidence[taken].min() >= confidence[left].max()


def test_groups_of_one_question_are_no_groups():
    """Whichever remainder is rounded up for is then a matter of confidence, not of the groups' names."""
    confidence = [0.2, 0.9, 0.1, 0.8]
    kept = select_labels(
        make_labels(confidence), StudentConfig(keep_fraction=0.5, keep_within="group"), grouped(range(4))
    )
    assert kept.tolist() == [1, 3]


def test_a_group_of_empty_labels_leaves_the_others_their_share():
    labels = make_labels([0.9, 0.8, 0.3, 0.2], texts=[" ", "", "c", "d"])
    kept = select_labels(labels, StudentConfig(keep_fraction=0.5, keep_within="group"), grouped([0, 0, 1, 1]))
    assert kept.tolist() == [2]


def test_a_group_is_lost_where_less_than_half_of_its_share_is_kept():
    groups = grouped([0] * 10 + [1] * 10 + [2] * 10 + [3] * 2)
    kept = np.isin(np.arange(32), [*range(8), *range(10, 13), *range(20, 25)]) * 1.0  # half of all: 8, 3, 5 and 0 of 2
    assert lost_groups(kept, groups) == []
    kept[[12, 20]] = 0.0
    assert lost_groups(kept, groups) == [1]
    assert lost_groups(np.arange(32) < 10, groups) == [1, 2]
    # and where it is kept, but hardly weighs
    weights = np.where(groups.of == 0, 1.6, np.where(groups.of == 1, 0.4, 1.0))
    assert lost_groups(weights, groups) == [1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_weights_by_confidence_have_mean_one(confidence):
    weights = confidence_weights(np.array(confidence))
    assert weights.mean() == pytest.approx(1.0)
    assert (weights >= 0).all()
    assert np.all(np.argsort(weights, kind="stable") == np.argsort(confidence, kind="stable")) or np.ptp(weights) < 1e-9


def test_weights_within_groups_have_mean_one_in_each():
    confidence = np.array([0.1, 0.3, 0.8, 0.8, 0.0, 0.0])
    weights = confidence_weights(confidence, np.array([2, 2, 1, 1, 4, 4]))
    np.testing.assert_allclose(weights, [0.5, 1.5, 1.0, 1.0, 1.0, 1.0], rtol=1e-15)


@pytest.mark.parametrize("posterior", [False, True])
def test_equal_confidences_are_the_training_set_without_weights(posterior):
    rng = np.random.default_rng(3)
    sequences = [rng.integers(1, 9, size=size).astype(np.int32) for size in rng.integers(1, 6, size=14)]
    given_ = {"posterior": [np.array([0.25, 0.75])] * 7} if posterior else {"ended": np.arange(14) % 3 > 0}
    weights = confidence_weights(np.full(7 if posterior else 14, 0.1))
    plain, constant = student_training_set(sequences, sequences, eos_id=9, **given_)
    same, again = student_training_set(sequences, sequences, eos_id=9, **given_, weights=weights)
    assert (same.fingerprint(), again) == (plain.fingerprint(), constant)


def test_a_label_weighs_on_all_its_tokens_and_on_all_its_options():
    tokens = [np.array(ids, dtype=np.int32) for ids in ([1, 2], [3], [4, 5, 6], [7])]
    data, _ = student_training_set(tokens, tokens, eos_id=9, weights=np.array([0.5, 1.0, 2.0, 0.0]))
    assert data.loss_weights.tolist() == [0.5] * 3 + [1.0] * 2 + [2.0] * 4 + [0.0] * 2
    probs = [np.array([0.3, 0.7]), np.array([1.0, 0.0])]
    data, _ = student_training_set(tokens, tokens, eos_id=9, posterior=probs, weights=np.array([0.5, 1.5]))
    assert data.loss_weights.tolist() == [0.5] * 5 + [1.5] * 6


@pytest.mark.parametrize("key", ["min_confidence", "min_agreement"])
def test_a_threshold_beside_shares_of_groups_is_refused(key):
    with pytest.raises(ValueError, match="leave them out"):
        StudentConfig(keep_within="prompts", keep_fraction=0.5, **{key: 0.5})

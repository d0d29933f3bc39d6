"""Filters on labels, and what a student is trained on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_labels import make_labels

from ensemw2s.config.method import StudentConfig
from ensemw2s.errors import RunFailedError
from ensemw2s.student.filters import select_labels
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

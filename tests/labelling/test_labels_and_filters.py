"""Labels on disk, the filters on them, and what a student is trained on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.config.method import StudentConfig
from ensemw2s.errors import DataError, RunFailedError
from ensemw2s.labelling.labels import Labels, SoftTargets
from ensemw2s.student.filters import select_labels
from ensemw2s.student.training import student_loss, student_training_set


def make_labels(confidence, agreement=None, texts=None, soft=None):
    n = len(confidence)
    return Labels(
        teacher="ensemble",
        ids=[f"q{i}" for i in range(n)],
        texts=texts or [f"label {i}" for i in range(n)],
        token_ids=[np.arange(i + 1, dtype=np.int32) for i in range(n)],
        options=np.arange(n) % 4,
        confidence=np.asarray(confidence, dtype=np.float64),
        margin=np.linspace(0, 1, n),
        agreement=np.ones(n) if agreement is None else np.asarray(agreement, dtype=np.float64),
        ended=np.arange(n) % 2 == 0,
        soft=soft,
    )


def test_labels_come_back_from_disk(tmp_path):
    soft = SoftTargets(
        offsets=np.array([0, 2, 5]),
        ids=np.arange(10, dtype=np.int32).reshape(5, 2),
        logprob=np.linspace(-3, 0, 10, dtype=np.float32).reshape(5, 2),
    )
    labels = make_labels([0.5, 0.25], soft=soft)
    labels.save(tmp_path / "l")
    again = Labels.load(tmp_path / "l")
    assert again.teacher == "ensemble"
    assert (again.ids, again.texts) == (labels.ids, labels.texts)
    for name in ("options", "confidence", "margin", "agreement", "ended"):
        np.testing.assert_array_equal(getattr(again, name), getattr(labels, name))
    for mine, theirs in zip(labels.token_ids, again.token_ids, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(again.ended, labels.ended)
    assert again.soft is not None
    ids, logprob = again.soft.of(np.array([1]))[0]
    np.testing.assert_array_equal(ids, soft.ids[2:5])
    np.testing.assert_array_equal(logprob, soft.logprob[2:5])


def _broken_table(file: Path, **columns: object) -> None:
    table = pq.read_table(file)
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.remove_column(at) if values is None else table.set_column(at, name, pa.array(values))
    pq.write_table(table, file)


BROKEN = {
    "truncated": lambda folder: os.truncate(folder / "labels.parquet", 500),
    "empty": lambda folder: os.truncate(folder / "labels.parquet", 0),
    "missing": lambda folder: (folder / "labels.parquet").unlink(),
    "a folder": lambda folder: ((folder / "labels.parquet").unlink(), (folder / "labels.parquet").mkdir()),
    "text": lambda folder: (folder / "labels.parquet").write_text("id,label\n"),
    "no column": lambda folder: _broken_table(folder / "labels.parquet", margin=None),
    "NaN": lambda folder: _broken_table(folder / "labels.parquet", confidence=[0.5, float("nan")]),
    "null": lambda folder: _broken_table(folder / "labels.parquet", label=["a", None]),
    "other type": lambda folder: _broken_table(folder / "labels.parquet", option=["one", "two"]),
    "offsets of another length": lambda folder: np.save(folder / "soft_offsets.npy", np.array([0, 5])),
    "offsets that fall": lambda folder: np.save(folder / "soft_offsets.npy", np.array([0, 6, 5])),
    "one complex number": lambda folder: np.save(folder / "soft_logprob.npy", np.array([1j])),
    "NaN in an array": lambda folder: np.save(folder / "soft_logprob.npy", np.full((5, 2), np.nan, np.float32)),
    "short array": lambda folder: np.save(folder / "soft_ids.npy", np.zeros((4, 2), np.int32)),
    "objects": lambda folder: np.save(folder / "soft_ids.npy", np.array([{}], dtype=object), allow_pickle=True),
    "half an array": lambda folder: os.truncate(folder / "soft_ids.npy", 140),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_labels_that_cannot_be_right_are_one_error_that_names_the_file(tmp_path, kind):
    soft = SoftTargets(np.array([0, 2, 5]), np.zeros((5, 2), np.int32), np.zeros((5, 2), np.float32))
    make_labels([0.5, 0.25], soft=soft).save(tmp_path / "l")
    BROKEN[kind](tmp_path / "l")
    with pytest.raises(DataError, match=r"l/(labels\.parquet|soft_\w+\.npy)") as caught:
        Labels.load(tmp_path / "l")
    assert caught.value.hint is not None


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

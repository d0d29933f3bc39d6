"""Labels on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_labels import make_labels

from ensemw2s.errors import DataError
from ensemw2s.labelling.labels import Labels, SoftTargets


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


def test_a_label_that_is_named_many_times(tmp_path, monkeypatch):
    """A few kilobytes of dictionary indices are gigabytes of labels."""
    folder = tmp_path / "l"
    make_labels([0.5, 0.25]).save(folder)
    monkeypatch.setattr("ensemw2s.labelling.labels.parquet_memory", lambda size: 2**28)
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["x" * 2**20]))
    table = pq.read_table(folder / "labels.parquet").take([0] * 4000)
    table = table.set_column(table.schema.get_field_index("label"), "label", texts)
    pq.write_table(table, folder / "labels.parquet", compression="zstd")
    with pytest.raises(DataError, match="holds no labels that can be read"):
        Labels.load(folder)

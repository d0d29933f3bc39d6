"""``correct.parquet``: which example each arm has right, kept beside ``results.json``.

One row an arm, split and example, in that order: ``arm``, ``split``, ``id``, ``correct``. Any pair of arms can be
compared from it later without a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ensemw2s.checksums import check_recorded
from ensemw2s.errors import DataError
from ensemw2s.evaluation.build import Correct
from ensemw2s.evaluation.comparisons import correctness
from ensemw2s.files import replaced
from ensemw2s.resources import bounded_memory, parquet_memory


def write_correct(path: Path, correct: Correct, ids: Mapping[str, Sequence[str]]) -> None:
    """Write arm → split → bool ``[n]`` with split → the examples' ids, in the same order, as Parquet (atomically).

    Raises:
        ValueError: an arm has another number of examples than its split has ids.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[object]] = {"arm": [], "split": [], "id": [], "correct": []}
    for arm, by_split in correct.items():
        for split, values in by_split.items():
            right = correctness(values, f"{arm} on {split}").astype(bool)
            if right.size != len(ids[split]):
                raise ValueError(f"{arm} on {split} has {right.size} examples, its split has {len(ids[split])}")
            columns["arm"] += [arm] * right.size
            columns["split"] += [split] * right.size
            columns["id"] += list(ids[split])
            columns["correct"] += right.tolist()
    names = pa.dictionary(pa.int16(), pa.string())
    schema = pa.schema([("arm", names), ("split", names), ("id", pa.string()), ("correct", pa.bool_())])
    with replaced(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary)


def read_correct(path: Path) -> tuple[dict[str, dict[str, npt.NDArray[np.bool_]]], dict[str, list[str]]]:
    """Read the table back: arm → split → bool ``[n]``, and split → ids.

    Raises:
        DamagedError: the file is not what was written.
        DataError: the file is missing or unreadable, lacks a column, or two arms hold other examples of a split.
    """
    check_recorded(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = ["arm", "split", "id", "correct"]
        with bounded_memory(parquet_memory(path.stat().st_size)):
            table = pq.read_table(path, columns=columns, partitioning=None, use_threads=False)
            table.validate(full=True)
            if any(column.null_count for column in table.columns) or table.column("correct").type != pa.bool_():
                raise ValueError("values are missing, or are not what the columns hold")
            arms, splits, names = (table.column(name).to_pylist() for name in ("arm", "split", "id"))
            values = np.asarray(table.column("correct").to_pylist(), dtype=np.bool_)
    except (OSError, KeyError, ValueError, MemoryError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read: {error}.", hint="Repeat the run's command to write it again."
        ) from error
    rows: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(arms, splits, strict=True)):
        rows.setdefault(key, []).append(row)
    correct: dict[str, dict[str, npt.NDArray[np.bool_]]] = {}
    ids: dict[str, list[str]] = {}
    for (arm, split), found in rows.items():
        here = [names[row] for row in found]
        if ids.setdefault(split, here) != here:
            raise DataError(
                f"{path}: {arm} has other examples of {split} than the arms before it.",
                hint="Repeat the run's command to write the file again.",
            )
        correct.setdefault(arm, {})[split] = values[found]
    return correct, ids

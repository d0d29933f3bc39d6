"""Prepared splits on disk: one JSON Lines file each, and a fingerprint of their content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ensemw2s.data.example import SPLITS, Example, Splits
from ensemw2s.errors import DataError

_VERSION = 1
_INDEX = "fingerprint.json"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def examples_fingerprint(examples: Iterable[Example], *, answers: bool = True) -> str:
    """SHA-256 (hex) over the canonical JSON of examples, in order.

    Args:
        examples: the examples.
        answers: False leaves the true answers out: equal for data that differs only in labels that may not be read.
    """
    digest = hashlib.sha256()
    for example in examples:
        row = example.to_json() if answers else example.hide_answer().to_json()
        if "difficulty" in row:
            row["difficulty"] = float(row["difficulty"])
        digest.update(_canonical(row).encode() + b"\n")
    return digest.hexdigest()


def splits_fingerprint(splits: Splits) -> str:
    """SHA-256 (hex) over the canonical JSON of all examples and which split they are in; notes do not count."""
    parts = {name: examples_fingerprint(splits[name]) for name in SPLITS}
    return hashlib.sha256(_canonical(parts).encode()).hexdigest()


def write_splits(splits: Splits, folder: Path) -> None:
    """Write ``<split>.jsonl`` for every split and ``fingerprint.json`` (with counts and notes), each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        lines = (json.dumps(example.to_json(), ensure_ascii=False) + "\n" for example in splits[name])
        _write(folder / f"{name}.jsonl", lines)
    index = {
        "version": _VERSION,
        "fingerprint": splits_fingerprint(splits),
        "counts": {name: len(splits[name]) for name in SPLITS},
        "notes": splits.notes,
    }
    _write(folder / _INDEX, [json.dumps(index, indent=2, ensure_ascii=False, allow_nan=False) + "\n"])


def _write(path: Path, lines: Iterable[str]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(lines)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_splits(folder: Path) -> Splits:
    """The splits that :func:`write_splits` wrote.

    Raises:
        DataError: a file is missing or broken, or the content is not what the fingerprint says.
    """
    hint = "Delete the folder and run again to prepare the data anew."
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        parts = {name: _read(folder / f"{name}.jsonl") for name in SPLITS}
        splits = Splits(**parts, notes=index["notes"])
        fingerprint = index["fingerprint"]
    except OSError as error:
        raise DataError(f"{folder}: the prepared data cannot be read: {error.strerror or error}.", hint=hint) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: the prepared data is broken: {error!r}.", hint=hint) from error
    if splits_fingerprint(splits) != fingerprint:
        raise DataError(f"{folder}: the prepared data was changed after it was written.", hint=hint)
    return splits


def _read(path: Path) -> list[Example]:
    with path.open(encoding="utf-8", newline="\n") as stream:
        return [Example.from_json(json.loads(line)) for line in stream]

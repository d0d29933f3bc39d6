"""Prepared splits on disk: one JSON Lines file each, and a fingerprint of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ensemw2s.checksums import check_stage_files
from ensemw2s.data.example import SPLITS, Example, Splits
from ensemw2s.errors import DataError, shortened
from ensemw2s.files import open_regular, parse_json, replaced, write_text

_VERSION = 1
_INDEX = "fingerprint.json"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def examples_fingerprint(examples: Iterable[Example], *, answers: bool = True) -> str:
    """SHA-256 (hex) over the canonical JSON of examples, in order.

    Without ``answers`` it is equal for data that differs only in true answers, which may not be read.
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
        with replaced(folder / f"{name}.jsonl") as path, path.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(lines)
    index = {
        "version": _VERSION,
        "fingerprint": splits_fingerprint(splits),
        "counts": {name: len(splits[name]) for name in SPLITS},
        "notes": splits.notes,
    }
    write_text(folder / _INDEX, json.dumps(index, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_splits(folder: Path) -> Splits:
    """The splits that :func:`write_splits` wrote.

    Raises:
        DamagedError: a file is not what was written.
        DataError: a file is missing or broken, or the content is not what the fingerprint says.
    """
    hint = "Delete the folder and run again to prepare the data anew."
    check_stage_files(folder)
    try:
        index = parse_json(_text(folder / _INDEX))
        parts = {name: _read(folder / f"{name}.jsonl") for name in SPLITS}
        splits = Splits(**parts, notes=index["notes"])
        intact = splits_fingerprint(splits) == index["fingerprint"]
    except OSError as error:
        raise DataError(f"{folder}: the prepared data cannot be read: {error.strerror or error}.", hint=hint) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{folder}: the prepared data is broken: {shortened(repr(error), 200)}.", hint=hint) from error
    if not intact:
        raise DataError(f"{folder}: the prepared data was changed after it was written.", hint=hint)
    return splits


def _read(path: Path) -> list[Example]:
    return [Example.from_json(parse_json(line)) for line in _text(path).split("\n") if line]


def _text(path: Path) -> str:
    with open_regular(path) as stream:
        return stream.read().decode()

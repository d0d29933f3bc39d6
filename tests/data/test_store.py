from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ensemw2s.data.example import SPLITS, Example, Splits
from ensemw2s.data.store import examples_fingerprint, read_splits, splits_fingerprint, write_splits
from ensemw2s.errors import DataError

SPLITTED = Splits(
    train=[Example("a", "Größe\u2028\n?", "x", ("x", "y"), 1.0, "size", "Low"), Example("b", "p", None)],
    validation=[Example("c", 'q "quoted"', "z")],
    test=[],
    hard_pool=[Example("d", "r", "y", ("x", "y"), 2.5)],
    hard_test=[Example("e", "s", "y", ("x", "y"))],
    notes={"threshold": 1.5, "levels": {"Low": 1}},
)


def test_round_trip(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    write_splits(SPLITTED, folder)
    assert read_splits(folder) == SPLITTED
    assert sorted(p.name for p in folder.iterdir()) == sorted([*(f"{s}.jsonl" for s in SPLITS), "fingerprint.json"])
    index = json.loads((folder / "fingerprint.json").read_text(encoding="utf-8"))
    assert index["fingerprint"] == splits_fingerprint(SPLITTED)
    assert index["counts"] == {"train": 2, "validation": 1, "test": 0, "hard_pool": 1, "hard_test": 1}
    write_splits(replace(SPLITTED, test=[Example("f", "t", "u")]), folder)
    assert read_splits(folder).test[0].id == "f"


def test_fingerprint_is_of_the_content() -> None:
    base = splits_fingerprint(SPLITTED)
    assert len(base) == 64
    assert splits_fingerprint(replace(SPLITTED, notes={})) == base
    integer = replace(SPLITTED.train[0], difficulty=1)
    assert splits_fingerprint(replace(SPLITTED, train=[integer, SPLITTED.train[1]])) == base
    changed = [
        replace(SPLITTED, train=SPLITTED.train[::-1]),
        replace(SPLITTED, train=SPLITTED.train[:1]),
        replace(SPLITTED, test=SPLITTED.validation, validation=[]),
        *(
            replace(SPLITTED, hard_pool=[replace(SPLITTED.hard_pool[0], **{name: value})])
            for name, value in [("answer", "x"), ("prompt", "R"), ("id", "D"), ("group", "g"), ("level", "Low")]
        ),
    ]
    assert len({base, *(splits_fingerprint(s) for s in changed)}) == 1 + len(changed)


def test_fingerprint_without_answers() -> None:
    poisoned = [replace(example, answer="x") for example in SPLITTED.hard_pool]
    assert examples_fingerprint(poisoned) != examples_fingerprint(SPLITTED.hard_pool)
    assert examples_fingerprint(poisoned, answers=False) == examples_fingerprint(SPLITTED.hard_pool, answers=False)


def test_changed_or_broken_data_is_noticed(tmp_path: Path) -> None:
    write_splits(SPLITTED, tmp_path)
    validation = tmp_path / "validation.jsonl"
    text = validation.read_text(encoding="utf-8")
    validation.write_text(text.replace('"z"', '"Z"'), encoding="utf-8")
    with pytest.raises(DataError, match="was changed after it was written"):
        read_splits(tmp_path)
    for broken in ("{", "[]\n", "{}\n", "7\n"):
        validation.write_text(broken, encoding="utf-8")
        with pytest.raises(DataError, match="the prepared data is broken"):
            read_splits(tmp_path)
    validation.unlink()
    with pytest.raises(DataError, match="cannot be read: No such file") as caught:
        read_splits(tmp_path)
    assert "run again" in (caught.value.hint or "")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_splits(SPLITTED, tmp_path)

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_splits(replace(SPLITTED, train=[]), tmp_path)
    monkeypatch.undo()
    assert read_splits(tmp_path) == SPLITTED
    assert not list(tmp_path.glob(".*"))

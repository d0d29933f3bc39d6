"""Verifies sizes and checksums of the files of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensemw2s.checksums import FILES_RECORD, STAGE_RECORD, problems, read_sealed, recorded_damage, recorded_files
from ensemw2s.errors import DamagedError

#: Where the stages of a run lie; any file in them belongs to one.
STAGE_FOLDERS = ("answers", "baselines", "ceiling", "data", "experts", "joint", "labels", "student")

#: What a run writes beside its stages, by name.
_BESIDE = ("config.yaml", "date.txt", "ensemble.json", "results.json", "correct.parquet", "events.jsonl")


@dataclass
class Verification:
    """What was found below a folder.

    Attributes:
        path: the folder.
        stages: finished stages that were checked.
        files: files that were checked.
        size: their bytes.
        damaged: what is not as it was written.
        not_recorded: stages of older versions and files that carry no checksum, relative to the folder.
    """

    path: Path
    stages: int = 0
    files: int = 0
    size: int = 0
    damaged: list[DamagedError] = field(default_factory=list)
    not_recorded: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "path": str(self.path),
            "intact": not self.damaged,
            "stages": self.stages,
            "files": self.files,
            "bytes": self.size,
            "damaged": [{"file": str(problem.path), "problem": problem.why} for problem in self.damaged],
            "not_recorded": self.not_recorded,
        }


def verify(folder: Path) -> Verification:
    """Check every file of a run, of runs over several seeds, or of a sweep, sizes and content."""
    found = Verification(folder)
    for place, names in _folders(folder):
        if STAGE_RECORD in names:
            _verify_stage(place, found)
        if FILES_RECORD in names:
            _verify_recorded(place, found)
        if {"config.yaml", "events.jsonl"} & names:
            _verify_run(place, names, found)
    return found


def _folders(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """Every folder with the names of its files, those of unfinished stages left out; no links are followed."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.endswith((".partial", ".stale")))
        yield Path(place), set(files)


def _verify_stage(place: Path, found: Verification) -> None:
    found.stages += 1
    try:
        files = (read_sealed(place / STAGE_RECORD) or {}).get("files")
    except DamagedError as error:
        found.damaged.append(error)
        return
    if files is None:
        found.not_recorded.append(place.relative_to(found.path).as_posix())
        return
    _count(found, [size for size, _ in files.values()])
    found.damaged += problems(place, files)


def _verify_recorded(place: Path, found: Verification) -> None:
    problems_here = recorded_damage(place)
    found.damaged += problems_here
    if not any(problem.path.name == FILES_RECORD for problem in problems_here):
        _count(found, [size for size, _ in recorded_files(place).values()])


def _count(found: Verification, sizes: list[int]) -> None:
    found.files += len(sizes)
    found.size += sum(sizes)


def _verify_run(run: Path, names: set[str], found: Verification) -> None:
    """Files that belong to a run but to no record: those of a stage whose ``stage.json`` is gone, for example."""
    try:
        recorded = set(recorded_files(run))
    except DamagedError:  # told already
        recorded = set(names)
    if FILES_RECORD not in names and _has_checksums(run / "data"):
        found.damaged.append(DamagedError(run / FILES_RECORD, "it is missing"))
    beside = [name for name in _BESIDE if name in names and name not in recorded]
    found.not_recorded += [(run / name).relative_to(found.path).as_posix() for name in beside]
    for name in STAGE_FOLDERS:
        lost: list[Path] = []
        for place, files in _folders(run / name):
            if files and not _in_stage(place, run) and not any(place.is_relative_to(folder) for folder in lost):
                lost.append(place)
                found.damaged.append(DamagedError(place / STAGE_RECORD, "it is missing"))


def _has_checksums(stage: Path) -> bool:
    try:
        return "files" in (read_sealed(stage / STAGE_RECORD) or {})
    except DamagedError:
        return False


def _in_stage(place: Path, run: Path) -> bool:
    """Whether a folder below a run belongs to a finished stage."""
    return any((folder / STAGE_RECORD).is_file() for folder in (place, *place.parents) if folder.is_relative_to(run))

"""Verifies sizes and checksums of the files of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ensemw2s.checksums import FILES_RECORD, STAGE_RECORD, problems, read_stage, recorded_damage, recorded_files
from ensemw2s.errors import DamagedError
from ensemw2s.runs.reader import EventReader
from ensemw2s.stage_names import FOLDERS

#: A stage's name in a log.
_STAGE = re.compile(r"[\w./-]{1,200}")

#: What a run writes beside its stages, by name.
_BESIDE = ("config.yaml", "date.txt", "ensemble.json", "results.json", "correct.parquet", "events.jsonl")


@dataclass
class Verification:
    """Result of verifying a folder.

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
        files = (read_stage(place) or {}).get("files")
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
    """Files that belong to a run but to no record, and stages that are gone, with or without their folder."""
    if FILES_RECORD not in names:
        found.damaged += recorded_damage(run)
    try:
        recorded = set(recorded_files(run))
    except DamagedError:  # told already
        recorded = set(names)
    beside = [name for name in _BESIDE if name in names and name not in recorded]
    found.not_recorded += [(run / name).relative_to(found.path).as_posix() for name in beside]
    for name in FOLDERS:
        if os.path.lexists(run / name) and not (run / name).is_dir():
            found.damaged.append(DamagedError(run / name, "it is not a folder"))
        lost: list[Path] = []
        for place, files in _folders(run / name):
            if files and not _in_stage(place, run) and not any(place.is_relative_to(folder) for folder in lost):
                lost.append(place)
                found.damaged.append(DamagedError(place / STAGE_RECORD, "it is missing"))
    found.damaged += [DamagedError(run / name, "it is missing") for name in _gone(run)]


def _gone(run: Path) -> list[str]:
    """Stages, and groups of them, that the last start finished and of which nothing is left; the outermost alone."""
    finished: list[str] = []
    for record in EventReader(run / "events.jsonl", kinds=("run_started", "stage_finished")).read_all():
        if record["kind"] == "run_started":
            finished = []
        elif isinstance(record.get("stage"), str):
            name, parts = record["stage"], record.get("parts")
            finished += [name, *(f"{name}/{part}" for part in (parts if isinstance(parts, list) else ()))]
    gone: list[str] = []
    for name in sorted(set(finished)):
        place = PurePosixPath(name)
        if not _STAGE.fullmatch(name) or ".." in place.parts or place.parts[0] not in FOLDERS:
            continue
        if not any(files for _, files in _folders(run / name)) and not any(str(one) in gone for one in place.parents):
            gone.append(name)
    return gone


def _in_stage(place: Path, run: Path) -> bool:
    """Whether a folder below a run belongs to a finished stage."""
    return any((folder / STAGE_RECORD).is_file() for folder in (place, *place.parents) if folder.is_relative_to(run))

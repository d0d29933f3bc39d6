"""Status of one run, from its files alone; they may be anybody's."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ensemw2s.files import load_json, to_json
from ensemw2s.runs.directory import MARKERS
from ensemw2s.runs.heartbeat import TIME_MAX, Beat, load_heartbeat
from ensemw2s.runs.reader import EventReader

RunState = Literal["running", "finished", "failed", "dead", "incomplete", "unreadable"]

_WANTED = ("run_started", "stage_started", "stage_finished", "arm_result")
_FILES = ("config.yaml", "events.jsonl", "metrics.jsonl", "heartbeat", "run.lock", "results.json")

#: Bytes that are read of a run's milestones and of its results; arms that are kept.
_MOST_EVENTS, _MOST_RESULTS, _MOST_ARMS = 1 << 30, 1 << 24, 1000


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One run, or one repetition of a run over seeds.

    Attributes:
        path: the run directory.
        name: its path relative to the listed folder.
        state: ``running``, ``finished`` (with ``results.json``), ``failed`` (an error ended it), ``dead`` (its process
            ended and reported nothing), ``incomplete`` (interrupted, or stopped after an earlier phase) or
            ``unreadable``.
        preset: or None.
        seed: or None where the run has not said yet.
        task: ``choice`` or ``generate``.
        fingerprint: of the configuration with which it was started last.
        started: unix seconds of the first start.
        updated: unix seconds of the last sign of life.
        stage: the stage at work, or the last one finished.
        accuracy: ``arm/split`` → accuracy, as far as the run has come.
        sweep: name of the sweep that it belongs to, or None.
        cell: folder of its cell in the sweep, or None.
        problem: which file is why the run is unreadable; else None.
    """

    path: Path
    name: str
    state: RunState
    preset: str | None = None
    seed: int | None = None
    task: str | None = None
    fingerprint: str | None = None
    started: float | None = None
    updated: float | None = None
    stage: str | None = None
    accuracy: dict[str, float] = field(default_factory=dict)
    sweep: str | None = None
    cell: str | None = None
    problem: str | None = None

    @property
    def unfinished(self) -> bool:
        """Whether the same command would continue it."""
        return self.state in ("failed", "dead", "incomplete")

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON."""
        value: dict[str, Any] = to_json(self)
        return value


class UnreadableError(Exception):
    """A run whose files are not what a run's files are; says which and why."""


def _check_files(folder: Path) -> None:
    """Files of a run are regular files that can be opened; nothing else is touched."""
    for name in _FILES:
        try:
            mode = (folder / name).stat().st_mode
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not os.path.lexists(folder / name):
                continue
            raise UnreadableError(f"{name}: {_reason(error)}") from None
        if not stat.S_ISREG(mode):
            raise UnreadableError(f"{name} is no regular file")
        if not os.access(folder / name, os.R_OK):
            raise UnreadableError(f"{name}: Permission denied")


def _milestones(path: Path) -> list[dict[str, Any]]:
    """The few kinds of events that a listing needs; other lines are not even decoded."""
    reader = EventReader(path, kinds=_WANTED)
    records = reader.poll()
    while reader.more and reader.offset <= _MOST_EVENTS:
        records += reader.poll()
    if reader.more or reader.problem:
        raise UnreadableError(reader.problem or f"{path.name} has more than {_MOST_EVENTS} bytes")
    return records


def _field(record: dict[str, Any], name: str, kind: type) -> Any:
    """A field of a milestone; None where it is missing or null."""
    value = record.get(name)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise UnreadableError(f"events.jsonl: `{name}` of {record['kind']} is a {type(value).__name__}")
    if isinstance(value, int) and abs(value) >= 2**64:
        raise UnreadableError(f"events.jsonl: `{name}` of {record['kind']} is out of range")
    return value


def _time(record: dict[str, Any]) -> float | None:
    value = record.get("t")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= TIME_MAX:
        raise UnreadableError(f"events.jsonl: `t` of {record['kind']} is no time")
    return float(value)


def _share(record: dict[str, Any]) -> float | None:
    """An accuracy; None where it is null."""
    value = record.get("accuracy")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UnreadableError("events.jsonl: `accuracy` of arm_result is no share")
    return float(value)


def _state(folder: Path, beat: Beat | None, fingerprint: str | None) -> RunState:
    if beat is not None and beat.state == "failed":
        return "failed"
    if beat is not None and beat.state == "running":
        return "running" if beat.alive else "dead"
    if beat is not None and beat.state != "finished":
        return "incomplete"
    return "finished" if _has_results(folder, fingerprint) else "incomplete"


def _has_results(folder: Path, fingerprint: str | None) -> bool:
    """Whether ``results.json`` is there and not left over from an earlier configuration."""
    try:
        results = load_json(folder / "results.json", _MOST_RESULTS)
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise UnreadableError(f"results.json: {_reason(error)}") from None
    if not isinstance(results, dict):
        raise UnreadableError("results.json holds no object")
    return fingerprint is None or results.get("config_fingerprint", fingerprint) == fingerprint


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def describe_run(folder: Path, name: str | None = None) -> RunInfo:
    """Status of one run; ``unreadable`` where its files are not what a run's files are."""
    name = name or folder.name
    try:
        _check_files(folder)
        return _describe(folder, name)
    except (UnreadableError, OSError) as error:
        problem = _reason(error)
        return RunInfo(path=folder, name=name, state="unreadable", updated=_modified(folder), problem=problem)


def _describe(folder: Path, name: str) -> RunInfo:
    first: dict[str, Any] = {}
    last: dict[str, Any] = {}
    stage: str | None = None
    accuracy: dict[str, float] = {}
    for record in _milestones(folder / "events.jsonl"):
        kind = record["kind"]
        if kind == "run_started":
            first = first or record
            last = record
            accuracy.clear()
        elif kind == "arm_result":
            share = _share(record)
            if share is not None and len(accuracy) < _MOST_ARMS:
                accuracy[f"{_field(record, 'arm', str)}/{_field(record, 'split', str)}"] = share
        else:
            stage = _field(record, "stage", str) or stage
    try:
        beat = load_heartbeat(folder)
    except (OSError, ValueError) as error:
        raise UnreadableError(f"heartbeat: {_reason(error)}") from None
    fingerprint = _field(last, "config_fingerprint", str)
    return RunInfo(
        path=folder,
        name=name,
        state=_state(folder, beat, fingerprint),
        preset=_field(last, "preset", str),
        seed=_field(last, "seed", int),
        task=_field(last, "task", str),
        fingerprint=fingerprint,
        started=_time(first) if first else None,
        updated=beat.time if beat is not None else _modified(folder),
        stage=stage,
        accuracy=accuracy,
    )


def _modified(folder: Path) -> float | None:
    times = []
    for marker in MARKERS:
        try:
            times.append((folder / marker).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=None)

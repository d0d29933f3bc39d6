"""Which runs there are and how they stand, from their files alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ensemw2s.runs.directory import MARKERS
from ensemw2s.runs.files import read_json, to_json
from ensemw2s.runs.heartbeat import read_heartbeat

RunState = Literal["running", "finished", "failed", "dead", "incomplete"]

_WANTED = ("run_started", "stage_started", "stage_finished", "arm_result")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One run, or one repetition of a run over seeds.

    Attributes:
        path: the run directory.
        name: its path relative to the listed folder.
        state: ``running``, ``finished`` (with ``results.json``), ``failed`` (an error ended it), ``dead`` (its process
            is gone without a word) or ``incomplete`` (interrupted, or stopped after an earlier phase).
        preset: or None.
        seed: or None where the run has not said yet.
        task: ``choice`` or ``generate``.
        fingerprint: of the configuration with which it was started last.
        started: unix seconds of the first start.
        updated: unix seconds of the last sign of life.
        stage: the stage at work, or the last one finished.
        accuracy: ``arm/split`` → accuracy, as far as the run has come.
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

    @property
    def unfinished(self) -> bool:
        """Whether the same command would continue it."""
        return self.state in ("failed", "dead", "incomplete")

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON."""
        value: dict[str, Any] = to_json(self)
        return value


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is a run directory."""
    return any((folder / marker).exists() for marker in MARKERS)


def _milestones(path: Path) -> Iterator[dict[str, Any]]:
    """The few kinds of events that a listing needs; other lines are not even decoded."""
    needles = tuple(f'"kind":"{kind}"'.encode() for kind in _WANTED)
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n") and any(needle in line for needle in needles):
                    try:
                        record = json.loads(line)
                    except ValueError:
                        continue
                    if isinstance(record, dict) and record.get("kind") in _WANTED:
                        yield record
    except OSError:
        return


def _state(folder: Path, fingerprint: str | None) -> RunState:
    beat = read_heartbeat(folder)
    if beat is not None and beat.state == "failed":
        return "failed"
    if beat is not None and beat.state == "running":
        return "running" if beat.alive else "dead"
    if beat is not None and beat.state != "finished":
        return "incomplete"
    return "finished" if _has_results(folder, fingerprint) else "incomplete"


def _has_results(folder: Path, fingerprint: str | None) -> bool:
    """Whether ``results.json`` is there and not left over from an earlier configuration."""
    results = read_json(folder / "results.json")
    if not isinstance(results, dict):
        return False
    return fingerprint is None or results.get("config_fingerprint", fingerprint) == fingerprint


def describe_run(folder: Path, name: str | None = None) -> RunInfo:
    """How one run stands.

    Args:
        folder: the run directory.
        name: how to call it; by default the folder's name.
    """
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
            value = record.get("accuracy")
            if isinstance(value, int | float):
                accuracy[f"{record.get('arm')}/{record.get('split')}"] = float(value)
        elif isinstance(record.get("stage"), str):
            stage = record["stage"]
    beat = read_heartbeat(folder)
    return RunInfo(
        path=folder,
        name=name or folder.name,
        state=_state(folder, last.get("config_fingerprint")),
        preset=last.get("preset"),
        seed=last.get("seed"),
        task=last.get("task"),
        fingerprint=last.get("config_fingerprint"),
        started=first.get("t"),
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


def list_runs(root: Path, *, depth: int = 2) -> list[RunInfo]:
    """The runs below ``root``, the most recently active first.

    Args:
        root: usually ``runs``; a folder that does not exist holds no runs.
        depth: how many levels of folders to look through; runs repeated over seeds lie one level deeper.
    """
    found: list[RunInfo] = []

    def visit(folder: Path, left: int) -> None:
        try:
            entries = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        except OSError:
            return
        for entry in entries:
            if is_run(entry):
                found.append(describe_run(entry, entry.relative_to(root).as_posix()))
            elif left > 1:
                visit(entry, left - 1)

    visit(root, depth)
    return sorted(found, key=lambda run: run.updated or 0.0, reverse=True)


def read_aggregate(folder: Path) -> dict[str, Any] | None:
    """The content of ``aggregate.json`` of a run over several seeds; None if there is none."""
    value = read_json(folder / "aggregate.json")
    return value if isinstance(value, dict) else None

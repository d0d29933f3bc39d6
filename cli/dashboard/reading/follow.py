"""Following one run: its logs, heartbeat and results into a model. No threads here; ``watch`` has one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ensemw2s.cli.dashboard.model.fields import NAN
from ensemw2s.cli.dashboard.model.fold_events import fold_events
from ensemw2s.cli.dashboard.model.fold_metrics import fold_metrics
from ensemw2s.cli.dashboard.model.model import Life, Message, RunModel
from ensemw2s.cli.dashboard.model.names import ago
from ensemw2s.cli.dashboard.reading.history import HistoryReader
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.files import read_json
from ensemw2s.runs.heartbeat import load_heartbeat
from ensemw2s.runs.reader import EventReader

EVENTS, METRICS, RESULTS = "events.jsonl", "metrics.jsonl", "results.json"

#: Bytes taken at once, so that the lock is never held for long; what is read of the metrics at first.
STEP_BYTES = 1 << 15
TAIL_BYTES = 1 << 20
LIFE_EVERY = 1.0
MOST_RESULTS = 1 << 24


class RunFollower:
    """Follows a run that goes on, or looks at one that is over.

    Args:
        source: the run's files.
        tail_bytes: what is read of the metrics at first; the rest is history.
        clock: unix seconds.
    """

    def __init__(self, source: Source, *, tail_bytes: int = TAIL_BYTES, clock: Callable[[], float] = time.time) -> None:
        self.source = source
        self.model = RunModel(path=source.label)
        self._clock = clock
        self._tail_bytes = tail_bytes
        self._events = EventReader(source.folder / EVENTS)
        self._metrics: EventReader | None = None
        self._history: HistoryReader | None = None
        self._resets = [0, 0]
        self._results_stamp: tuple[float, int] | None = None
        self._life_checked = NAN
        self._seen = False

    def poll(self) -> bool:
        """Take in what is new, a little at a time; True if there is more to take at once."""
        self.source.sync()
        more = self._poll_events()
        if not more:
            more = self._poll_metrics()
        with self.model.lock:
            self.model.now = self._clock()
            self._count_unreadable()
            if not more or not abs(self.model.now - self._life_checked) < LIFE_EVERY:
                self._life_checked = self.model.now
                self._read_results()
                self._check_life()
        return more

    def read_history(self) -> bool:
        """Take in a chunk of history; True if there is more."""
        history = self._history
        if history is None:
            return False
        old = history.step()
        with self.model.lock:
            if self._history is history and old is not None:
                old.put_before(self.model)
            self.model.history = history.share
            if history.finished:
                self._history = None
                self.model.history = 1.0
            self.model.touch("run")
        return not history.finished

    def _poll_events(self) -> bool:
        records = self._events.poll(STEP_BYTES)
        if self._events.resets != self._resets[0]:
            self._resets[0] = self._events.resets
            with self.model.lock:
                self.model.clear()
            self._metrics, self._history = None, None
        if records:
            with self.model.lock:
                fold_events(self.model, records)
        return self._events.more

    def _poll_metrics(self) -> bool:
        if self._metrics is None:
            self._open_metrics()
        reader = self._metrics
        if reader is None:
            return False
        records = reader.poll(STEP_BYTES)
        if reader.resets != self._resets[1]:
            with self.model.lock:
                self.model.clear_metrics()
            self._history = None
            if reader.offset >= STEP_BYTES // 2:  # a large file took its place: begin at its end
                self._open_metrics()
                return True
            self._resets[1] = reader.resets
        if records:
            with self.model.lock:
                fold_metrics(self.model, records)
        return reader.more

    def _open_metrics(self) -> None:
        path = self.source.folder / METRICS
        try:
            size = path.stat().st_size
        except OSError:
            return
        self._metrics = EventReader.tail(path, min(self._tail_bytes, size - self.source.floor(METRICS)))
        self._resets[1] = 0
        self._history = None
        if self._metrics.offset > 0:
            self._history = HistoryReader(self.source, METRICS, self._metrics.offset)
            self.model.history = 0.0

    def _count_unreadable(self) -> None:
        skipped = self._events.skipped + (self._metrics.skipped if self._metrics is not None else 0)
        if skipped != self.model.unreadable:
            self.model.unreadable = skipped
            self.model.touch("run")

    def _read_results(self) -> None:
        path = self.source.folder / RESULTS
        try:
            status = path.stat()
        except OSError:
            return
        stamp = (status.st_mtime, status.st_size)
        if stamp == self._results_stamp:
            return
        self._results_stamp = stamp
        value: Any = read_json(path, MOST_RESULTS)
        same = isinstance(value, dict) and value.get("config_fingerprint") in (None, "", self.model.fingerprint)
        self.model.results = value if same else None
        self.model.touch("arms")

    def _check_life(self) -> None:
        life, note = self._life()
        if (life, note) != (self.model.life, self.model.life_note):
            if life != self.model.life and life in ("finished", "failed", "dead", "gone"):
                self.model.touch("stages")
            if self.model.life == "running" and life in ("dead", "gone", "interrupted"):
                self.model.messages.append(Message(self.model.now, "warning", note))  # the first line may be too short
                self.model.touch("messages")
            self.model.life, self.model.life_note = life, note
            self.model.touch("run")

    def _life(self) -> tuple[Life, str]:
        folder, model = self.source.folder, self.model
        problem = self.source.problem() or self._events.problem or (self._metrics.problem if self._metrics else "")
        if not os.path.lexists(folder / EVENTS):
            if self._seen:
                return "gone", problem or "The run directory was moved or deleted; this is the last that was seen."
            return "waiting", problem or "There is no run here yet."
        self._seen = True
        try:
            beat = load_heartbeat(folder)
        except (OSError, ValueError) as error:
            beat, problem = None, problem or f"heartbeat: {error}"
        ended: dict[str, tuple[Life, str]] = {"finished": ("finished", problem), "failed": ("failed", model.error)}
        if beat is None:
            return ended.get(model.ended, ("unknown", problem or "There is no heartbeat."))
        if beat.state == "running" and beat.alive:
            return "running", problem
        if beat.state == "running" and model.ended != "finished":
            return "dead", f"Its process ended {ago(beat.age)} ago and reported nothing; the same command continues it."
        note = problem or "Interrupted, or stopped after a phase; the same command continues it."
        return ended.get("finished" if beat.state == "running" else beat.state, ("interrupted", note))


def load_run(folder: Source, *, deadline: float = 20.0) -> RunModel:
    """A run read from its start to now, history included.

    Args:
        folder: the run's files.
        deadline: seconds after which the history is left out.
    """
    follower = RunFollower(folder)
    started = time.monotonic()
    while follower.poll():
        pass
    while time.monotonic() - started < deadline and follower.read_history():
        pass
    return follower.model


def run_files(folder: Path) -> tuple[float, int]:
    """Change marker of a run: the newest time and the sizes of its logs."""
    newest, total = 0.0, 0
    for name in (EVENTS, "heartbeat", RESULTS, "config.yaml"):
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        newest, total = max(newest, status.st_mtime), total + status.st_size
    return newest, total

"""A finished run played from its logs, faster or slower than it was."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ensemw2s.cli.dashboard.model.fields import known, number
from ensemw2s.cli.dashboard.model.fold_events import fold_events
from ensemw2s.cli.dashboard.model.fold_metrics import fold_metrics
from ensemw2s.cli.dashboard.model.model import RunModel
from ensemw2s.cli.dashboard.reading.follow import EVENTS, METRICS, MOST_RESULTS, RESULTS, STEP_BYTES, RunFollower
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.files import read_json
from ensemw2s.runs.reader import EventReader

#: A pause of the log longer than this (seconds) is cut short: a run that was continued days later plays on at once.
LONGEST_PAUSE = 30.0


class _Log:
    """One log read ahead by a chunk; times never go back."""

    def __init__(self, reader: EventReader) -> None:
        self.reader = reader
        self.ahead: deque[tuple[float, dict[str, Any]]] = deque()
        self._last = float("-inf")

    def next_time(self) -> float | None:
        """Time of the next record; None at the end."""
        while not self.ahead:
            before = self.reader.offset
            for record in self.reader.poll(STEP_BYTES):
                at = number(record, "t")
                self._last = max(self._last, at) if known(at) else self._last
                self.ahead.append((self._last, record))
            if self.reader.offset == before:
                return None
        return self.ahead[0][0]

    def until(self, moment: float, most: int) -> list[dict[str, Any]]:
        """Records up to a moment, at most so many."""
        records: list[dict[str, Any]] = []
        while len(records) < most:
            at = self.next_time()
            if at is None or at > moment:
                break
            records.append(self.ahead.popleft()[1])
        return records


class ReplayFollower:
    """Plays a run; the interface of ``RunFollower``.

    Args:
        source: the run's files.
        speed: seconds of the run in a second.
        clock: seconds, monotonic.
    """

    def __init__(self, source: Source, speed: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.source = source
        self.speed = speed
        self.paused = False
        self.finished = False
        self.model = RunModel(path=source.label)
        self._clock = clock
        self._events = _Log(EventReader(source.folder / EVENTS))
        self._metrics = _Log(EventReader(source.folder / METRICS))
        self._ticked: float | None = None
        self._now: float | None = None

    def poll(self) -> bool:
        """Play on to where the clock stands."""
        tick, before = self._clock(), self._ticked
        self._ticked = tick
        upcoming = [at for at in (self._events.next_time(), self._metrics.next_time()) if at is not None]
        if not upcoming:
            self._end()
            return False
        if before is None or self._now is None:
            self._now = min(upcoming)
        elif not self.paused:
            self._now += (tick - before) * self.speed
            if min(upcoming) - self._now > LONGEST_PAUSE:
                self._now = min(upcoming)
        events = self._events.until(self._now, 500)
        with self.model.lock:
            fold_events(self.model, events)
            metrics = self._metrics.until(self._now, 2000)
            fold_metrics(self.model, metrics)
            self.model.now = self._now
            note = "replay, paused" if self.paused else f"replay ×{self.speed:g}"
            if self.model.life != "running" or self.model.life_note != note:
                self.model.life, self.model.life_note = "running", note
                self.model.touch("run")
        return len(events) == 500 or len(metrics) == 2000

    def read_history(self) -> bool:
        """There is none: everything is played."""
        return False

    def _end(self) -> None:
        if self.finished:
            return
        self.finished = True
        with self.model.lock:
            results = read_json(self.source.folder / RESULTS, MOST_RESULTS)
            self.model.results = results if isinstance(results, dict) else None
            self.model.life = self.model.ended or "interrupted"
            problem = self._events.reader.problem or self._metrics.reader.problem
            self.model.life_note = "end of the replay" + (f": {problem}" if problem else "")
            self.model.touch("run", "stages", "arms")


#: Brings a model up to date, a little at a time.
Follower = RunFollower | ReplayFollower

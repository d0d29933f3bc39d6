"""Event sinks: how phases report milestones, metrics and progress.

A phase is handed an :class:`EventSink`. The run directory's log, the progress bars of the command line and tests are
different sinks; none of them is imported by a phase.
"""

from __future__ import annotations

from typing import Any, Protocol


class EventSink(Protocol):
    """Receives milestones, step metrics and progress. Implementations must not raise."""

    def event(self, kind: str, **fields: Any) -> None:
        """Report a milestone (rare; goes to ``events.jsonl``). ``fields`` are JSON values."""

    def metric(self, kind: str, **fields: Any) -> None:
        """Report a step metric (frequent; goes to ``metrics.jsonl``). ``fields`` are JSON values."""

    def progress(self, task: str, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` units of ``task`` are finished; ``done == total`` ends the task."""


class NullSink:
    """Listens to nothing; the base of sinks that listen to some calls only."""

    def event(self, kind: str, **fields: Any) -> None:
        """Ignore a milestone."""

    def metric(self, kind: str, **fields: Any) -> None:
        """Ignore a metric."""

    def progress(self, task: str, done: int, total: int) -> None:
        """Ignore progress."""


class TeeSink:
    """Passes everything on to several sinks, in order."""

    def __init__(self, *sinks: EventSink) -> None:
        self.sinks = sinks

    def event(self, kind: str, **fields: Any) -> None:
        """Pass a milestone on."""
        for sink in self.sinks:
            sink.event(kind, **fields)

    def metric(self, kind: str, **fields: Any) -> None:
        """Pass a metric on."""
        for sink in self.sinks:
            sink.metric(kind, **fields)

    def progress(self, task: str, done: int, total: int) -> None:
        """Pass progress on."""
        for sink in self.sinks:
            sink.progress(task, done, total)

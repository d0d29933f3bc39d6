"""The run directory: all state of a run, readable by hand and by other processes.

One process writes (``RunDirectory.writing``); any number of readers follow without locks (``EventReader``,
``list_runs``). The event log is described in ``docs/events.md``.
"""

from __future__ import annotations

from ensemw2s.runs.describe import RunInfo, RunState, describe_run
from ensemw2s.runs.directory import RunDirectory, new_run_directory
from ensemw2s.runs.heartbeat import Heartbeat, read_heartbeat
from ensemw2s.runs.listing import list_runs
from ensemw2s.runs.lock import RunLock
from ensemw2s.runs.log import LogSink
from ensemw2s.runs.reader import EventReader, read_events
from ensemw2s.runs.schema import EVENTS, METRICS, SCHEMA_VERSION, validate
from ensemw2s.runs.stage import StageRecord, Stages, fingerprint

__all__ = [
    "EVENTS",
    "METRICS",
    "SCHEMA_VERSION",
    "EventReader",
    "Heartbeat",
    "LogSink",
    "RunDirectory",
    "RunInfo",
    "RunLock",
    "RunState",
    "StageRecord",
    "Stages",
    "describe_run",
    "fingerprint",
    "list_runs",
    "new_run_directory",
    "read_events",
    "read_heartbeat",
    "validate",
]

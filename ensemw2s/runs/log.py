"""Event log writer: one ``write`` per line; failures never stop training."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ensemw2s.files import dump_json, open_in_place
from ensemw2s.runs.schema import LONGEST_LINE, SCHEMA_VERSION
from ensemw2s.text import printable

_RESERVED = ("v", "t", "kind")


class LineWriter:
    """Appends lines to one file with a single ``write`` each, through a descriptor in append mode.

    If the file does not end in a newline (its last writer was killed, or the disk filled up), a newline goes first, so
    that a torn line stays alone. A write that fails is reported once on stderr and then ignored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._warned = False
        self._torn = False

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = open_in_place(self.path, os.O_RDWR | os.O_APPEND)
            size = os.fstat(self._descriptor).st_size
            self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        return self._descriptor

    def write(self, line: str) -> None:
        """Append one line (without its newline). Does not raise on a failing file."""
        try:
            descriptor = self._open()
            data = line.encode("utf-8", "replace") + b"\n"
            if len(data) > LONGEST_LINE:
                self._warn(f"one of its lines has {len(data)} bytes")
                return
            if self._torn:
                data = b"\n" + data
            written = os.write(descriptor, data)
            self._torn = written < len(data)
            if self._torn:
                self._warn(f"only {written} of {len(data)} bytes were written")
        except OSError as error:
            self._warn(str(error))

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            text = f"Warning: the log {self.path} cannot be written ({reason}); the run goes on without it."
            with suppress(OSError, ValueError):  # nobody reads stderr
                print(printable(text), file=sys.stderr)

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class LogSink:
    """The event sink of a run directory: milestones to ``events.jsonl``, step metrics to ``metrics.jsonl``.

    Values are made strict JSON first: NaN and infinity become null. Progress goes to the metrics, at most once a second
    for each task, and always for its first and last unit. Safe to use from several threads of one process.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._events = LineWriter(folder / "events.jsonl")
        self._metrics = LineWriter(folder / "metrics.jsonl")
        self._clock = clock
        self._lock = threading.Lock()
        self._progressed: dict[str, float] = {}
        self.last_event: str | None = None

    def _line(self, kind: str, fields: dict[str, Any]) -> str:
        body = {name: value for name, value in fields.items() if name not in _RESERVED}
        return dump_json({"v": SCHEMA_VERSION, "t": round(self._clock(), 6), "kind": kind, **body})

    def event(self, kind: str, **fields: Any) -> None:
        """Append a milestone to ``events.jsonl``."""
        with self._lock:
            self.last_event = kind
            self._events.write(self._line(kind, fields))

    def metric(self, kind: str, **fields: Any) -> None:
        """Append a step metric to ``metrics.jsonl``."""
        with self._lock:
            self._metrics.write(self._line(kind, fields))

    def progress(self, task: str, done: int, total: int) -> None:
        """Append progress to ``metrics.jsonl``, at most once a second for each task."""
        with self._lock:
            now = self._clock()
            last = self._progressed.get(task)
            if last is not None and done < total and 0 <= now - last < 1.0:
                return
            self._progressed[task] = now
            if done >= total:
                del self._progressed[task]
            self._metrics.write(self._line("progress", {"task": task, "done": done, "total": total}))

    def close(self) -> None:
        """Close both files."""
        with self._lock:
            self._events.close()
            self._metrics.close()

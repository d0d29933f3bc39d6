"""Event log reader: follows a growing file by byte offset, complete lines only, without locks."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ensemw2s.files import open_regular, parse_json
from ensemw2s.runs.schema import EVENTS, LONGEST_LINE, METRICS, SCHEMA_VERSION

_KNOWN = frozenset(EVENTS) | frozenset(METRICS)


class EventReader:
    """Follows one log file.

    Only bytes up to the last newline are taken; an incomplete record is the end of the file *without advancing*. Every
    line is decoded by itself, so a torn line costs itself only. A file that shrank or was replaced is read again from
    its start (``resets`` counts that). A file that does not exist yet is empty. Only regular files are read, up to a
    line that is longer than :data:`~ensemw2s.runs.schema.LONGEST_LINE`, which no writer writes.

    Args:
        path: the log file.
        kinds: kinds to return; by default all kinds of the schema. Others, and lines of a newer schema version, are
            passed over.
        offset: where to start, a line boundary in bytes.

    Attributes:
        more: the last call of ``poll`` stopped at its limit, so that there is more to read at once.
        problem: why the file, or the rest of it, cannot be read; empty if it can.
    """

    def __init__(self, path: Path, *, kinds: Collection[str] | None = None, offset: int = 0) -> None:
        self.path = path
        self.kinds = _KNOWN if kinds is None else frozenset(kinds)
        self._needles = () if kinds is None else tuple(f'"{kind}"'.encode() for kind in self.kinds)
        self.offset = offset
        self.skipped = 0
        self.resets = 0
        self.more = False
        self.problem = ""
        self._identity: tuple[int, int] | None = None

    @classmethod
    def tail(cls, path: Path, size: int, *, kinds: Collection[str] | None = None) -> EventReader:
        """A reader that starts at the first whole line within the last ``size`` bytes of the file."""
        reader = cls(path, kinds=kinds)
        try:
            with open_regular(path) as file:
                end = file.seek(0, os.SEEK_END)
                if end > size:
                    file.seek(end - size - 1)
                    head = file.read(size + 1)
                    newline = head.find(b"\n")
                    reader.offset = end if newline < 0 else end - size + newline
        except OSError:
            reader.offset = 0
        return reader

    def poll(self, max_bytes: int = LONGEST_LINE) -> list[dict[str, Any]]:
        """The records that were completed since the last call, oldest first.

        Args:
            max_bytes: read about so many bytes at most in one call; call again until the list is empty.
        """
        self.more = False
        try:
            with open_regular(self.path) as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino)
                if (self._identity not in (None, identity)) or status.st_size < self.offset:
                    self.offset = 0
                    self.resets += 1
                self._identity = identity
                file.seek(self.offset)
                data = file.read(max_bytes)
                if len(data) == max_bytes and b"\n" not in data:
                    data += file.readline(max(0, LONGEST_LINE - max_bytes))
        except FileNotFoundError:
            self.problem = ""
            return []
        except OSError as error:
            self.problem = f"{self.path.name}: {error.strerror or error}"
            return []
        end = data.rfind(b"\n") + 1
        self.more = len(data) >= max_bytes and end > 0
        self.offset += end
        too_long = end == 0 and len(data) >= max(LONGEST_LINE, max_bytes)
        self.problem = f"{self.path.name}: a line of more than {LONGEST_LINE} bytes" if too_long else ""
        return self._decode(data[:end])

    def read_all(self) -> list[dict[str, Any]]:
        """Everything from the current offset to the last complete line."""
        records: list[dict[str, Any]] = []
        while True:
            before = self.offset
            records += self.poll()
            if self.offset == before:
                return records

    def _decode(self, data: bytes) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        if not self._wanted(data):
            return records
        for line in data.split(b"\n"):
            if not line.strip() or not self._wanted(line):
                continue
            try:
                record = parse_json(line)
            except ValueError:
                self.skipped += 1
                continue
            version = record.get("v") if isinstance(record, dict) else None
            if not isinstance(version, int) or version > SCHEMA_VERSION:
                self.skipped += 1
            elif isinstance(kind := record.get("kind"), str) and kind in self.kinds:
                records.append(record)
        return records

    def _wanted(self, data: bytes) -> bool:
        """Whether there can be a record of a wanted kind in it; other lines are not even decoded."""
        return not self._needles or any(needle in data for needle in self._needles)


def read_events(path: Path, *, kinds: Collection[str] | None = None) -> list[dict[str, Any]]:
    """All complete records of a log file (``[]`` if there is none)."""
    return EventReader(path, kinds=kinds).read_all()

"""The step metrics backwards: from where the tail began to the start of the file, in chunks."""

from __future__ import annotations

from typing import Any

from ensemw2s.cli.dashboard.model.fold_metrics import HISTORY_KINDS, OldMetrics
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.files import open_regular, parse_json
from ensemw2s.runs.schema import LONGEST_LINE, SCHEMA_VERSION

CHUNK = 1 << 17
_NEEDLES = tuple(f'"{kind}"'.encode() for kind in HISTORY_KINDS)


class HistoryReader:
    """Reads one log file from a line boundary towards its start.

    Args:
        source: where the file is.
        name: the file's name.
        end: byte offset of the boundary where the newer part begins.
        chunk: bytes to read at once.
    """

    def __init__(self, source: Source, name: str, end: int, *, chunk: int = CHUNK) -> None:
        self.source = source
        self.name = name
        self.end = end
        self.total = end
        self._chunk = chunk
        self._want = chunk

    @property
    def finished(self) -> bool:
        """Whether the start of the file was reached."""
        return self.end <= 0

    @property
    def share(self) -> float:
        """Share that was read, 0 to 1."""
        return 1.0 if self.total <= 0 else 1.0 - self.end / self.total

    def step(self) -> OldMetrics | None:
        """The next older chunk; None at the start of the file, and where the file is gone."""
        while self.end > 0:
            start = max(0, self.end - self._want)
            self.source.ensure(self.name, start)
            try:
                with open_regular(self.source.folder / self.name) as file:
                    file.seek(start)
                    data = file.read(self.end - start)
            except OSError:
                self.end = 0
                return None
            if len(data) < self.end - start:  # the file shrank: it is another one now
                self.end = 0
                return None
            first = 0 if start == 0 else data.find(b"\n") + 1
            if start > 0 and first in (0, len(data)):  # one line longer than the chunk
                self._want *= 2
                if self._want <= LONGEST_LINE:
                    continue
                self.end = 0  # no writer writes such a line
                return None
            self._want = self._chunk
            self.end = start + first
            old = OldMetrics()
            old.add(_records(data[first:]))
            return old
        return None


def _records(data: bytes) -> list[dict[str, Any]]:
    records = []
    for line in data.split(b"\n"):
        if not any(needle in line for needle in _NEEDLES):
            continue
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("v"), int) and record["v"] <= SCHEMA_VERSION:
            records.append(record)
    return records

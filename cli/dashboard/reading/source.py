"""Where the files of a run are. The rest reads a folder; a remote run is mirrored into one first (``remote``)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Source(Protocol):
    """A run's files in a local folder.

    Attributes:
        folder: where the files are; it need not exist yet.
        label: how to call the run directory to the user.
    """

    folder: Path
    label: str

    def sync(self) -> None:
        """Bring the folder up to date; called before every read."""

    def floor(self, name: str) -> int:
        """The first byte of a file that can be read without ``ensure``."""

    def ensure(self, name: str, start: int, end: int) -> None:
        """Make bytes ``start`` to ``end`` of a file readable; only for history."""

    def problem(self) -> str:
        """Why the files cannot be reached at present; empty if they can."""

    def close(self) -> None:
        """Give back what was opened."""


class LocalSource:
    """A run directory on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.label = str(folder)

    def sync(self) -> None:
        """Nothing to bring."""

    def floor(self, name: str) -> int:
        """Everything can be read."""
        return 0

    def ensure(self, name: str, start: int, end: int) -> None:
        """Nothing to bring."""

    def problem(self) -> str:
        """A local folder is always reachable."""
        return ""

    def close(self) -> None:
        """Nothing is open."""

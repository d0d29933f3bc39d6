"""Files of a run as a local folder; a remote run is mirrored into one first (``remote``)."""

from __future__ import annotations

from pathlib import Path


class Source:
    """A run's files in a local folder: those of a run directory on this machine, which need nothing.

    Attributes:
        folder: where the files are; it need not exist yet.
        label: how to call the run directory to the user.
    """

    def __init__(self, folder: Path, label: str | None = None) -> None:
        self.folder = folder
        self.label = label or str(folder)

    def sync(self) -> None:
        """Bring the folder up to date; called before every read."""

    def floor(self, name: str) -> int:
        """The first byte of a file that can be read without ``ensure``."""
        return 0

    def ensure(self, name: str, start: int) -> None:
        """Make the bytes of a file from ``start`` on readable; only for history."""

    def problem(self) -> str:
        """Why the files cannot be reached at present; empty if they can."""
        return ""

    def close(self) -> None:
        """Release what was opened."""

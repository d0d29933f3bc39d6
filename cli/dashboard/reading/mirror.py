"""A folder for copies of another machine's files; no name from there leads outside of it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ensemw2s.runs.listing import CELLS
from ensemw2s.text import printable

#: All that is ever written below a run, and beside the cells of a sweep.
NAMES = ("events.jsonl", "metrics.jsonl", "heartbeat", "results.json", "config.yaml", "sweep.json")
#: Bytes that a mirror holds at most.
MOST_HELD = 1 << 30

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def is_part(name: str) -> bool:
    """Whether a name is that of one folder: visible, neither hidden nor a way elsewhere, and no file of a run."""
    return (
        not name.startswith(".")
        and "/" not in name
        and name not in NAMES
        and 0 < len(name.encode("utf-8", "surrogateescape")) <= 255
        and printable(name) == name
    )


def is_run_name(name: str) -> bool:
    """Whether a name is that of a run below a folder: ``run``, ``seeds/run``, ``[sweep/]cells/cell/run``."""
    parts = name.split("/")
    shape = len(parts) <= 2 or parts[-3] == CELLS
    return len(parts) <= 4 and shape and all(map(is_part, parts))


class Mirror:
    """A temporary folder of this process, written through directory handles alone: no link in it is followed.

    Files are named by a run (:func:`is_run_name`, or ``""`` for the folder itself) and one of :data:`NAMES`.

    Attributes:
        folder: where it is.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ew2s-dashboard-"))
        self._root = os.open(self.folder, _FOLDER)
        self._held: dict[tuple[str, str], int] = {}

    @contextmanager
    def _place(self, run: str, name: str) -> Iterator[int]:
        """The handle of a run's folder, which is made where it is missing."""
        if name not in NAMES or not all(map(is_part, run.split("/") if run else ())):
            raise ValueError(f"no name in a mirror: {run!r}, {name!r}")
        handle = os.dup(self._root)
        try:
            for part in run.split("/") if run else ():
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=handle)
                below = os.open(part, _FOLDER, dir_fd=handle)
                os.close(handle)
                handle = below
            yield handle
        finally:
            os.close(handle)

    def put(self, run: str, name: str, data: bytes) -> None:
        """Write a whole file; readers see the old or the new one.

        Raises:
            OSError: it cannot be written, or the mirror is full.
        """
        self._count(run, name, len(data))
        with self._place(run, name) as folder:
            with suppress(FileNotFoundError):
                os.unlink(".new", dir_fd=folder)
            _write(os.open(".new", _FILE | os.O_EXCL, 0o600, dir_fd=folder), data)
            os.replace(".new", name, src_dir_fd=folder, dst_dir_fd=folder)

    def add(self, run: str, name: str, start: int, data: bytes) -> None:
        """Write a part of a file that begins at byte ``start``.

        Raises:
            OSError: it cannot be written, or the mirror is full.
        """
        self._count(run, name, self._held.get((run, name), 0) + len(data))
        with self._place(run, name) as folder:
            _write(os.open(name, _FILE, 0o600, dir_fd=folder), data, start)

    def drop(self, run: str, name: str) -> None:
        """Remove a file."""
        self._held.pop((run, name), None)
        with self._place(run, name) as folder, suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)

    def forget(self, run: str) -> None:
        """Remove a run: its files, and the folders that are empty then."""
        for name in NAMES:
            with suppress(OSError):
                self.drop(run, name)
        parts = run.split("/")
        while parts:
            with suppress(OSError), self._place("/".join(parts[:-1]), NAMES[0]) as folder:
                os.rmdir(parts[-1], dir_fd=folder)
            parts.pop()

    def _count(self, run: str, name: str, size: int) -> None:
        rest = sum(self._held.values()) - self._held.get((run, name), 0)
        if rest + size > MOST_HELD:
            raise OSError(f"more than {MOST_HELD >> 20} MiB would be copied")
        self._held[run, name] = size

    def close(self) -> None:
        """Remove everything."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1
        shutil.rmtree(self.folder, ignore_errors=True)


def _write(descriptor: int, data: bytes, start: int = 0) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.seek(start)
        file.write(data)


_COUNT = re.compile(rb"[0-9]{1,15}")


def count_in(text: bytes) -> int | None:
    """A number of bytes or seconds as ``wc`` and ``date`` print it; None for anything else."""
    text = text.strip(b" \t")
    return int(text) if _COUNT.fullmatch(text) else None

"""Resumable JSON Lines output: parts beside the file, joined when all are there.

``OUTPUT.parts/`` holds ``manifest.json`` (what the rows are made from, how many there will be, how they are computed),
a lock, and one file a part: ``000000000256-000000000512-<hash of its questions>-<hash of its content>.jsonl``.
A part appears by a rename when it is whole, and nothing else says that it is there: whoever makes parts needs to know
nothing of the others. When all are there they are joined into the output, and the folder goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.errors import InputError, RunBusyError, RunFailedError
from ensemw2s.files import (
    dump_json,
    open_regular,
    read_json,
    replaced,
    to_json,
    write_json,
)
from ensemw2s.outputs import beside, check_work_folder
from ensemw2s.runs.lock import RunLock

_FORMAT = 1
_MANIFEST = "manifest.json"
_JOINED = "joined.tmp"
_PART = re.compile(r"(\d{12})-(\d{12})-([0-9a-f]{16})-([0-9a-f]{64})\.jsonl")
_OURS = re.compile(rf"{_PART.pattern}|{re.escape(_MANIFEST)}|run\.lock|{_JOINED}|\..*\.tmp")

Row = Mapping[str, Any]


class Parts:
    """The parts of one output. Use as a context manager: the block has the folder for itself.

    Args:
        output: the file that the parts become.
        identity: everything that the rows depend on, by what a person calls it. Kept rows go on only where all of it is
            as before.
        settings: texts and positive integers that decide the digits of rows and not what they mean; ``part_rows`` is
            one. Work that goes on keeps those that it was begun with.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any], settings: Mapping[str, int | str]) -> None:
        self.output = output
        self.folder = beside(output, "parts")
        self.identity = to_json(identity)
        self.settings = dict(settings)
        self.total: int | None = None
        """Rows that there will be; None until :meth:`begin`, unless an earlier start has found out."""
        self._joined: str | None = None
        self._lock = RunLock(self.folder)
        self._found: dict[int, Path] = {}

    def __enter__(self) -> Parts:
        check_work_folder(self.folder, _OURS)
        self.folder.mkdir(exist_ok=True)
        try:
            self._lock.acquire()
        except RunBusyError as error:
            hint = "Wait for it or stop it, or choose another --output."
            raise RunBusyError(error.message, hint=hint) from error
        try:
            self._take_up()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.total is None or not (self._found or self._joined):  # all is done, or no row was made
            self._remove()
        self._lock.release()

    def _remove(self) -> None:
        """The manifest goes last: it says what the rest belongs to."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == _MANIFEST):
            if _OURS.fullmatch(path.name):
                path.unlink()
        with contextlib.suppress(OSError):  # somebody has put something else there
            self.folder.rmdir()

    def _take_up(self) -> None:
        """Read what an earlier start has left."""
        manifest = self.folder / _MANIFEST
        if manifest.exists():
            try:
                content: Any = read_json(manifest)
                known, settings, version = dict(content["identity"]), dict(content["settings"]), content["format"]
                total, self._joined = content["rows"], content.get("joined")
                if type(total) is not int or total < 1:
                    raise ValueError("rows")
                for name, value in self.settings.items():
                    if type(settings[name]) is not type(value) or (isinstance(value, int) and settings[name] < 1):
                        raise ValueError(name)
            except (TypeError, KeyError, ValueError, OverflowError):
                raise InputError(f"{manifest} is damaged.", hint=self.anew()) from None
            self._check_same(known, version)
            self.total, self.settings = total, settings
        for path in self.folder.iterdir():
            match = _PART.fullmatch(path.name)
            if match and self.total is not None:
                self._found[int(match[1])] = path
            elif match or path.name.endswith(".tmp"):
                path.unlink()

    def _check_same(self, known: Mapping[str, Any], version: Any) -> None:
        changed = [name for name in {**known, **self.identity} if known.get(name) != self.identity.get(name)]
        if changed or version != _FORMAT:
            what = ", ".join(_change(name, known, self.identity) for name in changed) or "the format of the parts"
            raise InputError(
                f"{self.folder} holds rows of unfinished work that was begun with something else: {what}.",
                hint=f"The same command as then continues it. {self.anew()}",
            )

    def anew(self) -> str:
        """Instruction for discarding what is kept."""
        return f"To begin anew, remove that folder (rm -r {self.folder}) or choose another --output."

    def begin(self, total: int) -> None:
        """Say how many rows there will be; from here on rows are kept."""
        self.total = total
        self._write_manifest()

    def _write_manifest(self) -> None:
        content = {"format": _FORMAT, "rows": self.total, "settings": self.settings, "identity": self.identity}
        write_json(self.folder / _MANIFEST, content | ({} if self._joined is None else {"joined": self._joined}))

    @property
    def size(self) -> int:
        """Rows in a part."""
        return int(self.settings["part_rows"])

    def _end(self, start: int) -> int:
        if self.total is None:
            raise ValueError("parts are made after begin()")
        return min(start + self.size, self.total)

    def starts(self) -> range:
        """The first row of every part."""
        return range(0, self.total or 0, self.size)

    @property
    def kept(self) -> int:
        """Rows that are there."""
        return sum(self._end(start) - start for start in self.starts() if start in self._found)

    @property
    def finished(self) -> bool:
        """Whether the output is made already, and only the parts were not removed any more."""
        if self._joined is None:
            return False
        digest = hashlib.sha256()
        try:
            with open_regular(self.output) as stream:
                while block := stream.read(2**20):
                    digest.update(block)
        except OSError:
            return False
        return digest.hexdigest() == self._joined

    def has(self, start: int, questions: str) -> bool:
        """Whether the part that begins with row ``start`` is there, whole, and of these questions; if not, it goes.

        ``questions`` tells what its rows are made from, in 16 hexadecimal digits.
        """
        path = self._found.get(start)
        if path is not None and f"-{questions}-" in path.name and self._content(start) is not None:
            return True
        if path is not None:
            del self._found[start]
            path.unlink(missing_ok=True)
        return False

    def _content(self, start: int) -> bytes | None:
        path = self._found.get(start)
        match = None if path is None else _PART.fullmatch(path.name)
        if path is None or match is None or int(match[2]) != self._end(start):
            return None
        try:
            with open_regular(path) as stream:
                content = stream.read()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == match[4] else None

    def write(self, start: int, questions: str, rows: Sequence[Row]) -> None:
        """Keep the rows of the part that begins with row ``start``; see :meth:`has`."""
        end = self._end(start)
        if len(rows) != end - start:
            raise ValueError(f"{len(rows)} rows for a part of {end - start}")
        # a lone surrogate cannot be UTF-8: it is written as JSON escapes it
        content = "".join(dump_json(row) + "\n" for row in rows).encode("utf-8", "backslashreplace")
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / f"{start:012d}-{end:012d}-{questions}-{digest}.jsonl"
        with replaced(path) as temporary, temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        self._found[start] = path

    def join(self) -> None:
        """Make the output of all parts; they go with the end of the block.

        Raises:
            RunFailedError: a part is missing or damaged.
        """
        if not self.finished:
            digest = hashlib.sha256()
            with (self.folder / _JOINED).open("xb") as out:
                for start in self.starts():
                    content = self._content(start)
                    if content is None:
                        raise RunFailedError(f"{self.folder}: row {start + 1} and those after it are lost.", hint=AGAIN)
                    out.write(content)
                    digest.update(content)
                out.flush()
                os.fsync(out.fileno())
            self._joined = digest.hexdigest()
            self._write_manifest()
            (self.folder / _JOINED).replace(self.output)
        self.total = None


AGAIN = "The same command continues: what is kept stays, and the rest is made again."


def _change(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """``seed (0 then, 1 now)``, ``the ensemble (alphas)``, or the name alone."""
    old, new = before.get(name), now.get(name)
    if isinstance(old, dict) and isinstance(new, dict):
        return f"{name} ({', '.join(key for key in {**old, **new} if old.get(key) != new.get(key))})"
    if any(isinstance(value, list | dict) or len(str(value)) > 20 for value in (old, new)):
        return name
    return f"{name} ({old} then, {new} now)"

"""Standard streams that survive a closed pipe or terminal, and pass no escape sequences but those that draw."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

from ensemw2s.text import drawn

#: The reader is gone: a closed pipe, a terminal that was hung up.
_NO_READER = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET)


class _Lasting(io.FileIO):
    """A descriptor whose reader may leave: what is written from then on goes nowhere, and the program goes on.

    The descriptor itself is turned to the null device, for libraries and child processes that write to it, too. Another
    error (a full disk) is raised, once: what is left in buffers at the end of the program should not raise it again.

    Args:
        descriptor: of an open file; stays open.
        messages: no error matters.
    """

    def __init__(self, descriptor: int, *, messages: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._messages = messages
        self.lost = False

    def write(self, data: Any, /) -> int:
        """Write; see the class."""
        try:
            return super().write(data) or 0
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if not self._messages and error.errno not in _NO_READER:
                raise
            self.lost = True
            return memoryview(data).nbytes


class _Stream(io.TextIOWrapper):
    """Text to a terminal, and all of stderr: only sequences that draw lines and colours pass (see ``drawn``)."""

    def write(self, text: str, /) -> int:
        """Write; see the class."""
        super().write(drawn(text))
        return len(text)


def _stream(old: Any, descriptor: int, *, messages: bool) -> io.TextIOWrapper:
    old.flush()
    kind = _Stream if messages or old.isatty() else io.TextIOWrapper
    # a terminal without UTF-8 should not end a run, nor should a file name that is none
    return kind(
        io.BufferedWriter(_Lasting(descriptor, messages=messages)),
        encoding=old.encoding,
        errors="backslashreplace",
        line_buffering=messages or old.isatty(),
    )


def install() -> None:
    """Replace the streams that Python opened for this process; those that somebody else put there stay."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the first file that is opened would take its place
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, descriptor)
            if null != descriptor:
                os.close(null)
        if getattr(sys, name) is None:
            stream = open(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(sys.stdout, 1, messages=False)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(sys.stderr, 2, messages=True)


def unread(stream: Any) -> bool:
    """Whether nobody reads a stream any more."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return isinstance(raw, _Lasting) and raw.lost

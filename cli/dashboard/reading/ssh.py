"""A shell on another machine, through the user's own ``ssh``; no port is opened and nothing is written there."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shlex
import signal
import subprocess
import time

from ensemw2s.text import printable

#: Seconds for a whole answer.
ANSWER_WITHIN = 20.0


#: Bytes of an answer where nothing else is said, of a question, and of what is kept of ssh's own words.
MOST_ANSWER = 1 << 20
_MOST_COMMAND = 1 << 15
_MOST_WORDS = 1 << 12
#: Seconds in which ssh can still say why it ended.
_LAST_WORDS = 0.5


class SshError(Exception):
    """The other machine did not answer as expected. The message is printable."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Shell:
    """A shell on the other machine that answers one command after another.

    Args:
        host: as ``ssh`` takes it; never an option (see ``target.parse_remote``).
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._process: subprocess.Popen[bytes] | None = None
        self._words = b""

    def ask(self, command: str, limit: int = MOST_ANSWER) -> bytes:
        """Output of a command.

        Args:
            command: for a POSIX shell.
            limit: bytes that are taken.

        Raises:
            SshError: the connection failed, the answer is longer, or it was not complete in time.
        """
        mark = f"ew2s-{secrets.token_hex(12)}".encode()
        question = command.encode("utf-8", "surrogateescape") + b"\nprintf '\\n%s\\n' " + mark + b"\n"
        if len(question) > _MOST_COMMAND:
            raise SshError("a path is too long")
        process = self._open()
        if process.stdin is None or process.stdout is None:
            raise SshError("ssh has no pipes")
        try:
            process.stdin.write(question)
            process.stdin.flush()
            return self._read(process, b"\n" + mark + b"\n", limit)
        except OSError as error:
            raise SshError(self._ended(process)) from error

    def read(self, path: str, start: int, count: int) -> bytes:
        """Bytes of a file; ``path`` is quoted (:func:`remote_path`).

        Raises:
            SshError: as for :meth:`ask`, or the file has not so many bytes.
        """
        data = self.ask(f"tail -c +{start + 1} -- {path} | head -c {count}", limit=count)
        if len(data) != count:
            raise SshError(f"{path} changed while it was read")
        return data

    def _ended(self, process: subprocess.Popen[bytes]) -> str:
        """Why ``ssh`` ended, in its own words."""
        deadline = time.monotonic() + _LAST_WORDS
        while process.stderr is not None and (left := deadline - time.monotonic()) > 0:
            if not select.select([process.stderr], [], [], left)[0] or not self._listen(process):
                break
        lines = self._words.decode("utf-8", "replace").strip().split("\n")
        self.close()
        return lines[-1] or f"the connection to {self.host} ended"

    def _listen(self, process: subprocess.Popen[bytes]) -> bool:
        """Take in what ``ssh`` says on stderr; False at its end."""
        if process.stderr is None:
            return False
        said = os.read(process.stderr.fileno(), _MOST_WORDS)
        self._words = (self._words + said)[-_MOST_WORDS:]
        return bool(said)

    def _open(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = ["ssh", "-T", "-a", "-x", "-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes"]
            command += ["-o", "ServerAliveInterval=15", "--", self.host, "exec sh"]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                raise SshError(f"ssh cannot be started: {error}") from error
        return self._process

    def _read(self, process: subprocess.Popen[bytes], end: bytes, limit: int) -> bytes:
        data = bytearray()
        deadline = time.monotonic() + ANSWER_WITHIN
        streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
        while not data.endswith(end):
            left = deadline - time.monotonic()
            ready = select.select(streams, [], [], left)[0] if left > 0 else []
            if not ready:
                self.close()
                raise SshError(f"{self.host} does not answer")
            if process.stderr in ready and not self._listen(process):
                streams.remove(process.stderr)
            if process.stdout not in ready or process.stdout is None:
                continue
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                raise SshError(self._ended(process))
            data += part
            if len(data) > limit + len(end):
                self.close()
                raise SshError(f"{self.host} answers with more than was asked for")
        return bytes(data[: -len(end)])

    def close(self) -> None:
        """End the connection."""
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(OSError):  # with what it started: it is a session of its own
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._words = b""
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def remote_path(path: str) -> str:
    """A path quoted for the other machine's shell, and never an option; ``~`` at its start stays."""
    if path == "~" or path.startswith("~/"):
        return '"$HOME"' + (shlex.quote(path[1:]) if path != "~" else "")
    return shlex.quote(path if path.startswith("/") else f"./{path}")

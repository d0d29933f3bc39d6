"""A shell on another machine, through the user's own ``ssh``; no port is opened and nothing is written there."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shlex
import subprocess
import time

ANSWER_WITHIN = 20.0


class SshError(Exception):
    """The other machine did not answer as expected."""


class Shell:
    """A shell on the other machine that answers one command after another.

    Args:
        host: as ``ssh`` takes it.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, command: str, timeout: float = ANSWER_WITHIN) -> bytes:
        """Output of a command.

        Raises:
            SshError: the connection failed or nothing came within ``timeout`` seconds.
        """
        mark = f"ew2s-{secrets.token_hex(12)}".encode()
        process = self._open()
        if process.stdin is None or process.stdout is None:
            raise SshError("ssh has no pipes")
        try:
            process.stdin.write(command.encode() + b"\nprintf '\\n%s\\n' " + mark + b"\n")
            process.stdin.flush()
            return self._read(process, b"\n" + mark + b"\n", timeout)
        except OSError as error:
            raise SshError(self._ended(process)) from error

    def _ended(self, process: subprocess.Popen[bytes]) -> str:
        """Why ``ssh`` ended, in its own words."""
        reason = process.stderr.read().decode("utf-8", "replace").strip() if process.stderr is not None else ""
        self.close()
        return reason.splitlines()[-1] if reason else f"the connection to {self.host} ended"

    def _open(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "--", self.host, "exec sh"]
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

    def _read(self, process: subprocess.Popen[bytes], end: bytes, timeout: float) -> bytes:
        data = bytearray()
        deadline = time.monotonic() + timeout
        if process.stdout is None:
            raise SshError("ssh has no pipes")
        descriptor = process.stdout.fileno()
        while not data.endswith(end):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self.close()
                raise SshError(f"{self.host} does not answer")
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise SshError(self._ended(process))
            data += part
        return bytes(data[: -len(end)])

    def close(self) -> None:
        """End the connection."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def remote_path(path: str) -> str:
    """A path quoted for the other machine's shell; ``~`` at its start stays."""
    if path == "~" or path.startswith("~/"):
        return '"$HOME"' + (shlex.quote(path[1:]) if path != "~" else "")
    return shlex.quote(path)

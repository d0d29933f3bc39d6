"""A run on another machine, mirrored over the user's own ``ssh`` into a temporary folder; nothing is written there.

One ``ssh`` process stays open and is asked small questions in plain ``sh``: the size of a file, some of its bytes
(``tail -c +OFFSET | head -c COUNT``). The mirror of a long log is sparse: its end comes first, older parts when the
history is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from ensemw2s.cli.dashboard.target import Remote
from ensemw2s.errors import InputError
from ensemw2s.runs.files import write_json

_LOGS = ("events.jsonl", "metrics.jsonl")
_SMALL = ("results.json", "config.yaml")
TAIL_BYTES = 1 << 20
MOST_BYTES = 1 << 22
SYNC_EVERY = 1.0
RETRY_AFTER = 5.0
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


class RemoteSource:
    """Mirrors a run of another machine into a temporary folder; the interface of ``Source``.

    Args:
        remote: host, and a run directory or a folder with runs, of which the latest is taken.
    """

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.label = f"{remote.host}:{remote.path}"
        self.folder = Path(tempfile.mkdtemp(prefix="ew2s-dashboard-"))
        self._shell = Shell(remote.host)
        self._run: str | None = None
        self._known: dict[str, tuple[str, int]] = {}
        self._floor: dict[str, int] = {}
        self._problem = ""
        self._next = float("-inf")

    def problem(self) -> str:
        """Why the other machine cannot be read at present."""
        return self._problem

    def sync(self) -> None:
        """Bring what is new; at most once a second, and not at once again after a failure."""
        now = time.monotonic()
        if now < self._next:
            return
        try:
            self._sync()
            self._problem = ""
            self._next = time.monotonic() + SYNC_EVERY
        except SshError as error:
            self._problem = f"{self.remote.host}: {error}"
            self._next = time.monotonic() + RETRY_AFTER

    def connect(self) -> None:
        """Bring the first of it.

        Raises:
            InputError: the other machine cannot be reached, or has no run there.
        """
        self.sync()
        if self._problem:
            raise InputError(
                f"{self.label} cannot be read: {self._problem}",
                hint=f"Try: ssh {self.remote.host} ls {self.remote.path}",
            )

    def _find(self) -> str:
        path = remote_path(self.remote.path)
        command = (
            f"cd {path} 2>/dev/null || {{ echo missing; false; }} && "
            "if [ -e events.jsonl ] || [ -e config.yaml ]; then echo .; else "
            "ls -td */events.jsonl */*/events.jsonl 2>/dev/null | head -n 1; fi"
        )
        answer = self._shell.ask(command).decode("utf-8", "replace").strip()
        if answer == "missing":
            raise SshError(f"there is no folder {self.remote.path}")
        if not answer:
            raise SshError(f"there is no run in {self.remote.path} yet")
        return self.remote.path if answer == "." else f"{self.remote.path}/{os.path.dirname(answer)}"  # noqa: PTH120

    def _sync(self) -> None:
        if self._run is None:
            self._run = self._find()
            self.label = f"{self.remote.host}:{self._run}"
        sizes = self._sizes()
        for name in _LOGS:
            if name in sizes:
                self._log(name, *sizes[name])
            else:
                (self.folder / name).unlink(missing_ok=True)
                self._known.pop(name, None)
        for name in _SMALL:
            if name in sizes and self._known.get(name) != sizes[name]:
                data = self._bytes(name, 0, sizes[name][1])
                (self.folder / name).write_bytes(data)
                self._known[name] = sizes[name]
        self._heartbeat()

    def _sizes(self) -> dict[str, tuple[str, int]]:
        """Name → (inode, bytes) of the files that are there."""
        names = " ".join((*_LOGS, *_SMALL))
        command = f"cd {remote_path(self._run or '.')} && for f in {names}; do [ -f $f ] && "
        command += "echo $f $(ls -i -- $f | { read -r i r; echo $i; }) $(wc -c < $f); done"
        found: dict[str, tuple[str, int]] = {}
        for line in self._shell.ask(command).decode("utf-8", "replace").splitlines():
            parts = line.split()
            if len(parts) == 3 and parts[2].isdigit():
                found[parts[0]] = (parts[1], int(parts[2]))
        return found

    def _bytes(self, name: str, start: int, count: int) -> bytes:
        path = f"{remote_path(self._run or '.')}/{name}"
        data = self._shell.ask(f"tail -c +{start + 1} -- {path} | head -c {count}")
        if len(data) != count:
            raise SshError(f"{name} changed while it was read")
        return data

    def _log(self, name: str, inode: str, size: int) -> None:
        path = self.folder / name
        old = self._known.get(name)
        have = old[1] if old is not None else 0
        if old is None or old[0] != inode or size < have:
            path.unlink(missing_ok=True)  # a new file here, so that the reader sees another one, too
            have = max(0, size - TAIL_BYTES) if name == "metrics.jsonl" else 0
            self._floor[name] = have
            path.touch()
        while have < size:
            part = self._bytes(name, have, min(MOST_BYTES, size - have))
            self._write(path, have, part)
            have += len(part)
            self._known[name] = (inode, have)
        self._known[name] = (inode, have)

    @staticmethod
    def _write(path: Path, start: int, data: bytes) -> None:
        with path.open("r+b") as file:
            file.seek(start)
            file.write(data)

    def floor(self, name: str) -> int:
        """Where the mirrored part of a log begins."""
        return self._floor.get(name, 0)

    def ensure(self, name: str, start: int, end: int) -> None:
        """Bring an older part of a log into its hole."""
        floor = self._floor.get(name, 0)
        if start >= floor:
            return
        begin = max(0, min(start, floor - MOST_BYTES // 4))
        try:
            self._write(self.folder / name, begin, self._bytes(name, begin, floor - begin))
            self._floor[name] = begin
        except (SshError, OSError) as error:
            self._problem = f"{self.remote.host}: {error}"

    def _heartbeat(self) -> None:
        """The beat, moved to this machine's clock, under a host name that is not this machine's."""
        text = self._shell.ask(f"date +%s; cat -- {remote_path(self._run or '.')}/heartbeat 2>/dev/null")
        now, _, beat = text.decode("utf-8", "replace").partition("\n")
        try:
            value = json.loads(beat)
            value["time"] = time.time() - max(0.0, float(now) - float(value["time"]))
            value["host"] = f"{self.remote.host}:{value['host']}"
        except (ValueError, KeyError, TypeError):
            return
        write_json(self.folder / "heartbeat", value)

    def close(self) -> None:
        """End the connection and remove the mirror."""
        self._shell.close()
        shutil.rmtree(self.folder, ignore_errors=True)

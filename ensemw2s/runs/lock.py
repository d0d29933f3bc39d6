"""Exclusive lock of a run directory: ``run.lock``, held with ``flock``, with process id and host in it."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
import weakref
from pathlib import Path
from typing import Any

from ensemw2s.errors import RunBusyError
from ensemw2s.files import dump_json, open_in_place, read_json, remove_abandoned, unwritable_error
from ensemw2s.runs.heartbeat import HEARTBEAT_LOST, pid_alive, read_heartbeat

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)
_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


class RunLock:
    """An exclusive lock on a run directory, for the life of the writing process.

    The kernel releases it when the process dies, however it dies, so a lock that a killed process left behind is simply
    taken over. Forked children give up their copy at once and cannot keep a dead parent's lock. Where the file system
    has no ``flock``, a fresh heartbeat of another process counts as a lock.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.lock"
        self.folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunBusyError: another process holds it; names its process id and host.
            InputError: the folder cannot be written.
        """
        if self._descriptor is not None:
            return
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _UNSUPPORTED:
                self._acquire_without_flock()
                return
            raise self._busy(read_json(self.path)) from error
        self._sign(descriptor)

    def _acquire_without_flock(self) -> None:
        beat = read_heartbeat(self.folder)
        if beat is not None and beat.state == "running" and beat.age < HEARTBEAT_LOST and beat.pid != os.getpid():
            raise self._busy({"pid": beat.pid, "host": beat.host})
        self._sign(self._open())

    def _open(self) -> int:
        try:
            return open_in_place(self.path, os.O_RDWR)
        except OSError as error:
            hint = "What is finished can be read; to go on, make the folder writable or copy it."
            raise unwritable_error(error, self.folder, hint) or error from error

    def _sign(self, descriptor: int) -> None:
        signature = {"pid": os.getpid(), "host": platform.node(), "since": time.time()}
        text = (dump_json(signature) + "\n").encode()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text, 0)
        except OSError as error:  # a full disk: the lock itself holds, only its signature is missing
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                os.close(descriptor)
                raise
        self._descriptor = descriptor
        _held.add(self)

    def _busy(self, owner: Any) -> RunBusyError:
        owner = owner if isinstance(owner, dict) else {}
        pid, host = owner.get("pid", "unknown"), owner.get("host", "an unknown host")
        stop = "Wait for it, or stop it there"
        if host == platform.node():
            alive = pid_alive(pid)
            stop = (
                f"Wait for it, or stop it (kill {pid})" if alive else "It has ended, but a child process of it has not"
            )
        return RunBusyError(
            f"{self.folder} is being written by process {pid} on {host}.",
            hint=f"{stop}; or choose another folder with --out.",
        )

    def release(self) -> None:
        """Give the lock back; its file stays, empty."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        try:
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _forget_in_child(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> RunLock:
        self.acquire()
        remove_abandoned(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _after_fork() -> None:
    for lock in list(_held):
        lock._forget_in_child()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)

"""Runs command lines in forked processes with a fault in one of their writes; a program that `worker.py` starts.

The libraries are imported once. Each line on stdin is an order (see :class:`worker.Order`); the children run at
the same time, and the answer on stdout is a list with the exit status of each (negative: the signal; null: it hung).

A fault is placed by counting: an audit hook hears of every file that Python opens for writing, renames, makes or
removes below the current folder, and acts before the n-th of them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import ensemw2s.cli.progress
import ensemw2s.models.inference.decode
import ensemw2s.models.inference.scoring
import ensemw2s.models.training.finetune
import ensemw2s.models.training.trainer
import ensemw2s.pipeline.run
import ensemw2s.report.build
from ensemw2s.cli.main import main

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree"}
_ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "broken": errno.EIO}


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, int):
            return False
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or bool(mode and set(mode) & set("wax+"))
    return event in _CHANGES


def _below(path: object, root: bytes) -> bool:
    if isinstance(path, int):
        return True
    raw = os.fsencode(path) if isinstance(path, str | bytes | os.PathLike) else b""
    return bool(raw) and (not raw.startswith(b"/") or raw.startswith(root))


class Injection:
    """Acts before the ``at``-th change below the current folder; ``heard`` counts the changes.

    Args:
        action: a signal's name, or a key of ``_ERRORS``, which then meets every later change, too.
        at: from 1; 0 only counts.
    """

    def __init__(self, action: str, at: int) -> None:
        self.action, self.at, self.heard = action, at, 0
        self.root = os.fsencode(Path.cwd()) + b"/"
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if not _writes(event, arguments) or not _below(arguments[0], self.root):
            return
        self.heard += 1
        if self.action in _ERRORS:
            if self.heard >= self.at:
                raise OSError(_ERRORS[self.action], os.strerror(_ERRORS[self.action]), str(arguments[0]))
        elif self.heard == self.at:
            os.kill(os.getpid(), getattr(signal, self.action))


def child(order: dict[str, Any], index: int) -> int:
    """One command in this process, which was forked for it."""
    os.chdir(order["folder"])
    for stream, name in ((1, "stdout"), (2, "stderr")):
        if name == order.get("closed"):
            read, write = os.pipe()
            os.close(read)
        else:
            write = os.open(f"{order['logs']}/{index}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(write, stream)
        os.close(write)
    os.environ |= {"HOME": order["home"], "EW2S_RUNS_DIR": "runs", "COLUMNS": "200", "MPLCONFIGDIR": order["logs"]}
    if not order.get("report"):  # plots cost more than a run
        ensemw2s.report.build.build_report = lambda run, *_: Path(run, "report", "report.html")
    if shift := order.get("clock", 0):
        real = time.time
        time.time = lambda: real() + shift
    injection = Injection(order["action"], order["at"])
    code = main(order["commands"][index])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by the order
            stream.flush()
    Path(order["logs"], f"{index}.heard").write_text(str(injection.heard))
    return code


def wait(pids: list[int], seconds: float) -> list[int | None]:
    """Exit statuses of all children; None for one that had to be killed at the time limit."""
    end = time.monotonic() + seconds
    done: dict[int, int | None] = {}
    while len(done) < len(pids):
        for pid in pids:
            if pid in done:
                continue
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                done[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                done[pid] = None
        time.sleep(0.01)
    return [done[pid] for pid in pids]


def serve() -> None:
    """Answer orders until stdin ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        order = json.loads(line)
        pids = []
        for index in range(len(order["commands"])):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = child(order, index)
                except BaseException:
                    import traceback

                    traceback.print_exc()
                finally:
                    os._exit(code)
            pids.append(pid)
            time.sleep(order.get("stagger", 0.0))
        print(json.dumps(wait(pids, order["seconds"])), flush=True)


if __name__ == "__main__":
    serve()

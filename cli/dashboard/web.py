"""The dashboard in a browser, through ``textual-serve``."""

from __future__ import annotations

import importlib
import os
import select
import shlex
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ensemw2s.errors import InputError

#: Seconds between two looks whether the server's process is still there.
_LOOK_EVERY = 1.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve_command(run: str | None, *, replay: bool, speed: float, light: bool) -> str:
    """The command line that is run for every browser."""
    words = [sys.executable, "-m", "ensemw2s", "dashboard"]
    words += [run] if run is not None else []
    words += ["--replay", "--speed", f"{speed:g}"] if replay else []
    words += ["--light"] if light else []
    return shlex.join(words)


def serve(run: str | None, *, host: str, port: int, replay: bool, speed: float, light: bool) -> None:
    """Serve until interrupted.

    Raises:
        InputError: ``textual-serve`` is not installed, or the address cannot be used.
    """
    from ensemw2s.cli.terminal import terminal

    try:
        module: Any = importlib.import_module("textual_serve.server")
    except ImportError as error:
        raise InputError(
            "The dashboard in a browser needs the package textual-serve.",
            hint="Install it with: pip install textual-serve",
        ) from error
    if host not in _LOOPBACK:
        terminal.warn(f"Everybody who reaches {host}:{port} sees the run; there is no password.")
    command = serve_command(run, replay=replay, speed=speed, light=light)
    try:
        _ending(module.Server)(command, host=host, port=port, title="EnsemW2S").serve()
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be used: {error.strerror or error}.", hint="Choose another --port."
        ) from error


def _ending(base: Any) -> Any:
    """``textual-serve``'s server, ending when it is told to: it would wait a minute for browsers that are connected."""
    import asyncio

    class Server(base):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self._shown: set[asyncio.Task[Any]] = set()

        async def handle_websocket(self, request: Any) -> Any:
            """Show the dashboard to a browser."""
            task = asyncio.current_task()
            if task is None:
                raise RuntimeError("a request is handled outside of a task")
            self._shown.add(task)
            try:
                return await super().handle_websocket(request)
            finally:
                self._shown.discard(task)

        def request_exit(self) -> None:
            """End on Ctrl-C and SIGTERM."""
            for task in self._shown:
                task.cancel()
            super().request_exit()

    return Server


def in_browser() -> bool:
    """Whether this process draws for a browser: ``textual-serve`` names the driver for it."""
    return "web_driver" in os.environ.get("TEXTUAL_DRIVER", "")


def end_with_server(stop: Callable[[], None], end: Callable[[int], object] = os._exit) -> threading.Thread:
    """End this process when the server that shows it is gone, however that ended.

    Textual's driver for browsers stops reading then, but goes on drawing for nobody.

    Args:
        stop: called first; gives back what is open.
        end: ends the process; nothing of Textual's own shutdown can be shown any more.
    """

    def watch(parent: int) -> None:
        _wait_for_end(parent)
        try:
            stop()
        finally:
            end(0)

    thread = threading.Thread(target=watch, args=(os.getppid(),), name="dashboard-server-watch", daemon=True)
    thread.start()
    return thread


def _wait_for_end(parent: int) -> None:
    """Return when the other end of stdin or stdout is closed, or the process that started this one is gone."""
    if not hasattr(select, "poll"):
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        return
    pipes = select.poll()
    for descriptor in (0, 1):
        pipes.register(descriptor, 0)  # closed ends are told without being asked for
    while not pipes.poll(1000.0 * _LOOK_EVERY) and os.getppid() == parent:
        pass

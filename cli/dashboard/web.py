"""The dashboard in a browser, through ``textual-serve``."""

from __future__ import annotations

import importlib
import shlex
import sys
from typing import Any

from ensemw2s.errors import InputError

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
        module.Server(command, host=host, port=port, title="EnsemW2S").serve()
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be used: {error.strerror or error}.", hint="Choose another --port."
        ) from error

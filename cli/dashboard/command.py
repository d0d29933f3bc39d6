"""The command ``ew2s dashboard``."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemw2s.cli.help import help_text

if TYPE_CHECKING:
    from ensemw2s.cli.dashboard.reading.source import Source
    from ensemw2s.cli.dashboard.reading.target import Target

HELP = help_text(
    "Watch a run live in the terminal.",
    [
        "ew2s dashboard                          # the latest run below runs/",
        "ew2s dashboard runs/2026-…-tiny         # one run, going on or over",
        "ew2s dashboard sweeps/levels            # the runs of a sweep",
        "ew2s dashboard --once                   # a plain status, once",
        "ew2s dashboard runs/… --replay --speed 50",
        "ew2s dashboard user@host:project/runs   # over ssh",
    ],
    "It only reads: start and leave it at any time, before, during and after a run. Press ? for the keys. Without a "
    "terminal it prints the status that --once prints.",
)


def dashboard(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN or ROOT]",
            help="A run directory, a folder with runs, a sweep, or user@host:path.",
            show_default=False,
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print a plain status and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the status as JSON and end.")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="Play the run from its log.")] = False,
    speed: Annotated[
        float, typer.Option("--speed", min=0.1, help="Seconds of the run in a second of the replay.")
    ] = 20.0,
    light: Annotated[bool, typer.Option("--light", help="Begin with the light theme; d switches.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Serve it to a browser (needs textual-serve).")] = False,
    host: Annotated[str, typer.Option("--host", help="Address for --web; only this machine by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port for --web.")] = 8000,
    allow_save: Annotated[
        bool, typer.Option("--allow-save", help="Let browsers save pictures and CSV files on this machine (--web).")
    ] = False,
) -> None:
    """Watch a run (the help text is given by ``register``)."""
    if web:
        from ensemw2s.cli.dashboard.app.web import serve

        serve(run, host=host, port=port, replay=replay, speed=speed, light=light, allow_save=allow_save)
        return
    target = _target(run, replay)
    if once or json or not interactive():
        _print_status(target, json)
        return
    from ensemw2s.cli.dashboard.app.escape_key import quicken

    os.environ.setdefault("TEXTUAL_FPS", "240")  # a key waits 4 ms at most for the next painting
    quicken()
    from ensemw2s.cli.dashboard.app.app import Dashboard
    from ensemw2s.cli.dashboard.app.web import end_with_server, in_browser
    from ensemw2s.cli.dashboard.reading.replay import ReplayFollower
    from ensemw2s.cli.dashboard.reading.watch import Watcher

    sys.setswitchinterval(0.001)  # the reading thread gives way to the screen sooner
    gc.set_threshold(5_000, 4, 10_000)  # 3 ms at once; the rest when nobody types (``app.refresh.Garbage``)
    watcher = Watcher(None, ReplayFollower(_source(target), speed)) if replay else Watcher(target)
    if in_browser():
        end_with_server(watcher.stop)
    Dashboard(watcher, dark=not light, saves=allow_save or not in_browser()).run()


def interactive() -> bool:
    """Whether somebody can see and use a full screen: Textual draws to stderr and reads from stdin.

    A browser is one, too.
    """
    from ensemw2s.cli.dashboard.app.web import in_browser

    if in_browser():
        return True
    return sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def _target(run: str | None, replay: bool) -> Target:
    """The target to follow.

    Raises:
        InputError: a replay from another machine; one that cannot be read.
    """
    from ensemw2s.cli.dashboard.reading.target import Target, parse_remote
    from ensemw2s.cli.rundirs import runs_root
    from ensemw2s.errors import InputError

    remote = parse_remote(run) if run is not None else None
    if remote is None:
        return Target(Path(run) if run is not None else runs_root())
    from ensemw2s.cli.dashboard.reading.remote_target import RemoteTarget

    if replay:
        raise InputError("A run on another machine cannot be replayed.", hint="Copy its run directory here first.")
    far = RemoteTarget(remote)
    try:
        far.connect()
    except InputError:
        far.close()
        raise
    return far


def _source(target: Target) -> Source:
    """The files of the run that a target shows now.

    Raises:
        InputError: there is none.
    """
    from ensemw2s.errors import InputError

    folder = target.current()
    if folder is None:
        raise InputError(f"There is no run in {target.label}.", hint="Begin with: ew2s run --preset tiny")
    return target.source(folder)


def _print_status(target: Target, as_json: bool) -> None:
    """The status on stdout; history is left out.

    Raises:
        InputError: there is no run.
    """
    from ensemw2s.cli.dashboard.model.status_text import status_text
    from ensemw2s.cli.dashboard.model.summary import to_json
    from ensemw2s.cli.dashboard.reading.follow import RunFollower
    from ensemw2s.cli.terminal import terminal

    with contextlib.closing(target), contextlib.closing(_source(target)) as source:
        follower = RunFollower(source)
        while follower.poll():
            pass
    model = follower.model
    if as_json:
        terminal.json(to_json(model))
    else:
        terminal.out(status_text(model))
        if model.life == "running":
            terminal.next("ew2s dashboard   in a terminal, to watch it")


def run_and_watch(arguments: Sequence[str], folder: Path) -> int:
    """Start ``ew2s`` with these arguments in the background, and watch its run directory until the user leaves.

    Args:
        arguments: a command that writes into ``folder`` (``run … --out folder``).
        folder: the run directory; it may be new.

    Returns:
        The run's exit code; 0 where it goes on in the background, 130 where the user stopped it.
    """
    from ensemw2s.cli.dashboard.app.app import Dashboard
    from ensemw2s.cli.dashboard.app.background_run import BackgroundRun
    from ensemw2s.cli.dashboard.reading.target import Target
    from ensemw2s.cli.dashboard.reading.watch import Watcher
    from ensemw2s.cli.terminal import shell_path, terminal
    from ensemw2s.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK

    folder.parent.mkdir(parents=True, exist_ok=True)
    run = BackgroundRun.ew2s(arguments, folder.with_name(folder.name + ".log"))
    try:
        answer = Dashboard(Watcher(Target(folder)), background_run=run).run()
        if run.running and answer == "stop":
            run.stop()
            terminal.say("The run was stopped; the same command continues it.")
            return EXIT_INTERRUPTED
        if run.running:
            terminal.say(f"The run goes on as process {run.pid}; its output is in {run.log}.")
            terminal.next(f"ew2s dashboard {shell_path(folder)}", f"kill -INT {run.pid}")
            return EXIT_OK
        code = run.poll()
        if code:
            terminal.say(run.tail())
        return EXIT_FAILED if code is None else code
    finally:
        run.close()


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("dashboard", help=HELP)(dashboard)

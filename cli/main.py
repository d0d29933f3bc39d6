"""The application ``ew2s``: its commands, and the one place where errors become exit codes."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from ensemw2s.cli import streams
from ensemw2s.cli.commands import (
    bench,
    combine,
    config,
    data,
    doctor,
    export,
    lm_eval,
    pipeline,
    report,
    runs,
    sweep,
    use,
)
from ensemw2s.cli.dashboard import command as dashboard
from ensemw2s.cli.help import EXIT_CODES, help_text
from ensemw2s.cli.terminal import terminal
from ensemw2s.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, Ew2sError, InputError

_HELP = help_text(
    "Weak-to-strong generalization with boosted ensembles of language models.",
    [
        "ew2s run --preset tiny                 # the whole pipeline, in minutes",
        "ew2s run --preset tiny --seeds 0,1,2   # three seeds, and tests over them",
        "ew2s run --config my.yaml              # your own data and models",
        "ew2s score runs/… questions.jsonl      # an ensemble on your questions",
        "ew2s dashboard                         # watch a run live",
        "ew2s runs list                         # runs and their state",
    ],
    "Repeating a command continues an interrupted run. The options below work before and after the command's name.",
    EXIT_CODES,
)

app = typer.Typer(
    name="ew2s",
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)
for part in (pipeline, sweep, use, combine, report, export, lm_eval, data, config, runs, doctor, bench, dashboard):
    part.register(app)

#: Options of the application that may also stand behind the command's name.
_GLOBAL = {"--debug": "--debug", "--quiet": "--quiet", "-q": "--quiet", "--no-color": "--no-color"}

#: Commands that keep what is finished; all others begin anew.
_CONTINUING = ("run", "train-experts", "label", "train-student", "sweep", "data rate")

# The base of all usage errors of the argument parser that Typer uses, wherever it keeps it.
_PARSER_ERROR: type[Any] = typer.BadParameter.__mro__[typer.BadParameter.__mro__.index(Exception) - 1]


def _print_version(value: bool) -> None:
    if value:
        from ensemw2s._version import __version__

        terminal.out(f"ew2s {__version__}")
        raise typer.Exit


@app.callback()
def _configure(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no messages; warnings and errors stay.")
    ] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colour; NO_COLOR=1 does the same.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    terminal.debug, terminal.quiet, terminal.color = debug, quiet, not no_color


def hoist_global_options(arguments: Sequence[str]) -> list[str]:
    """Move the options of the application in front of the command; nothing behind ``--`` is touched."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    front = [_GLOBAL[word] for word in arguments[:end] if word in _GLOBAL]
    rest = [word for word in arguments[:end] if word not in _GLOBAL]
    return [*front, *rest, *arguments[end:]]


def _terminate(signum: int, frame: FrameType | None) -> None:
    if signum == signal.SIGHUP:
        signal.signal(signum, signal.SIG_IGN)  # the shell and the terminal both send it
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; ``ew2s`` and ``python -m ensemw2s`` end with it.

    Args:
        arguments: without the program's name; ``sys.argv[1:]`` by default.
    """
    # Waiting threads of OpenMP should not burn the cores that others need; it has to be said before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    streams.install()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # a batch system's stop leaves the run as tidy as Ctrl-C does
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # so does the end of the terminal; nohup ignores it
            signal.signal(signal.SIGHUP, _terminate)
    words = hoist_global_options(sys.argv[1:] if arguments is None else arguments)
    terminal.debug = "--debug" in words
    try:
        code = app(words, prog_name="ew2s", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except Ew2sError as error:
        terminal.error(error)
        _trace()
        return error.exit_code
    except _PARSER_ERROR as error:
        return _usage(error)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            terminal.error(InputError(f"A name is too long for the file system: {str(error.filename)[:80]}…"))
            _trace()
            return EXIT_USAGE
        return _unexpected(error)
    if code == EXIT_INTERRUPTED:
        terminal.warn(_interrupted(words))
    return code if isinstance(code, int) else EXIT_OK


def _interrupted(words: Sequence[str]) -> str:
    command = " ".join([word for word in words if not word.startswith("-")][:2]) + " "
    goes_on = any(command.startswith(f"{name} ") for name in _CONTINUING)
    return "interrupted; the same command continues." if goes_on else "interrupted; the same command begins anew."


def _trace() -> None:
    if terminal.debug:
        terminal.trace(traceback.format_exc())


def _usage(error: Any) -> int:
    """Message of the argument parser, which repeats the arguments."""
    said = io.StringIO()
    error.show(file=said)
    terminal.trace(said.getvalue())
    return int(error.exit_code)


def _unexpected(error: Exception) -> int:
    """Any other exception: one line, and how to see the traceback."""
    _trace()
    text = " ".join(str(error).split()) or "no message"
    more = "" if terminal.debug else " (--debug shows the traceback)"
    terminal.fail(f"{type(error).__name__}: {text}{more}")
    return EXIT_FAILED


__all__ = ["EXIT_USAGE", "app", "main"]

"""Who gets what: data on stdout, talk on stderr, colour and animation only where somebody can see them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from ensemw2s.errors import Ew2sError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_STYLES = {"bold": "1", "dim": "2", "red": "1;31", "yellow": "33", "green": "32", "cyan": "36"}


class Terminal:
    """Output of one process.

    Attributes:
        quiet: no progress and no talk; warnings and errors stay.
        color: False turns colour off; True leaves it to the stream, ``NO_COLOR`` and ``TERM``.
        debug: errors come with their traceback.
    """

    def __init__(self) -> None:
        self.quiet = False
        self.color = True
        self.debug = False

    def colored(self, stream: TextIO) -> bool:
        """Whether colour goes to ``stream``: a terminal that is not dumb, and nobody said no."""
        if not self.color or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return False
        return stream.isatty()

    @property
    def animated(self) -> bool:
        """Whether progress bars can move on stderr."""
        return not self.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def paint(self, text: str, style: str, stream: TextIO) -> str:
        """``text`` in a style if ``stream`` takes colour."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colored(stream) else text

    def say(self, text: str = "") -> None:
        """Talk, on stderr; silent with ``--quiet``."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def next(self, *commands: str) -> None:
        """Name the next command, or several ways to go on."""
        for index, command in enumerate(commands):
            label = "Next:" if index == 0 else "  or:"
            self.say(f"{self.paint(label, 'bold', sys.stderr)} {command}")

    def warn(self, text: str) -> None:
        """A warning, on stderr; also with ``--quiet``."""
        print(f"{self.paint('Warning:', 'yellow', sys.stderr)} {text}", file=sys.stderr, flush=True)

    def error(self, error: Ew2sError) -> None:
        """Title, message and hint of an error, on stderr."""
        print(f"{self.paint(error.title + ':', 'red', sys.stderr)} {error.message}", file=sys.stderr)
        if error.hint:
            print(f"{self.paint('Hint:', 'bold', sys.stderr)} {error.hint}", file=sys.stderr)

    def out(self, text: str) -> None:
        """Data, on stdout."""
        print(text, flush=True)

    def json(self, value: Any) -> None:
        """Data as readable JSON, on stdout."""
        from ensemw2s.files import dump_json

        self.out(dump_json(value, indent=2))

    def json_line(self, value: Any) -> None:
        """Data as one line of JSON, on stdout."""
        from ensemw2s.files import dump_json

        self.out(dump_json(value))

    def console(self, stream: TextIO, plain_width: int = 80) -> Console:
        """A rich console on ``stream``, under the same rules for colour.

        Args:
            stream: stdout or stderr.
            plain_width: characters a line where the stream is no terminal and ``COLUMNS`` is not set.
        """
        from rich.console import Console

        width = None if stream.isatty() or "COLUMNS" in os.environ else plain_width
        return Console(
            file=stream,
            no_color=not self.colored(stream),
            highlight=False,
            markup=False,
            emoji=False,
            width=width,
            force_terminal=None if stream.isatty() else False,
        )

    def render(self, thing: RenderableType) -> None:
        """A rich table, on stdout; as wide as it needs where stdout is no terminal."""
        self.console(sys.stdout, plain_width=200).print(thing)


#: The one terminal of the process; :func:`ensemw2s.cli.main.main` sets it up.
terminal = Terminal()


def shell_path(path: object) -> str:
    """A path as it can be pasted into a shell."""
    import shlex

    return shlex.quote(str(path))

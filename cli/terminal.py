"""Output channels: data to stdout, messages to stderr; colour and animation only on terminals.

Everything that is printed goes through here, and loses the control characters that it may have brought from a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from ensemw2s.cli.streams import unread
from ensemw2s.errors import Ew2sError
from ensemw2s.text import escaped_json, printable, without_hidden

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

#: Control characters that text of several lines may hold.
LINES = "\n\t"

_BOLD, _RED, _YELLOW = "1", "1;31", "33"


class Terminal:
    """Output of one process.

    Attributes:
        quiet: no progress and no messages; warnings and errors stay.
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

    def _write(self, text: str, label: str = "", style: str = "") -> None:
        """Write to stderr, after a label in a style where stderr takes colour."""
        if label:
            label = f"\x1b[{style}m{label}\x1b[0m " if self.colored(sys.stderr) else f"{label} "
        print(f"{label}{printable(text, LINES)}", file=sys.stderr, flush=True)

    def say(self, text: str = "") -> None:
        """A message, on stderr; silent with ``--quiet``."""
        if not self.quiet:
            self._write(text)

    def next(self, *commands: str) -> None:
        """Name the next command, or several ways to go on."""
        for index, command in enumerate(commands):
            if not self.quiet:
                # one line: a folder's name must not look like another command
                self._write(printable(command), "Next:" if index == 0 else "  or:", _BOLD)

    def warn(self, text: str) -> None:
        """A warning, on stderr; also with ``--quiet``."""
        self._write(text, "Warning:", _YELLOW)

    def error(self, error: Ew2sError) -> None:
        """Title, message and hint of an error, on stderr."""
        self.fail(error.message, error.title)
        if error.hint:
            self._write(error.hint, "Hint:", _BOLD)

    def fail(self, text: str, title: str = "Error") -> None:
        """Print an error on stderr."""
        self._write(text, f"{printable(title)}:", _RED)

    def trace(self, text: str) -> None:
        """A traceback, on stderr."""
        self._write(text.rstrip("\n"))

    def out(self, text: str) -> None:
        """Text for a person, on stdout."""
        print(printable(text, LINES), flush=True)

    def data(self, text: str) -> None:
        """Text for a program, on stdout: as it is, but for a terminal."""
        print(printable(text, LINES) if sys.stdout.isatty() else text, flush=True)

    def json(self, value: Any) -> None:
        """Data as readable JSON, on stdout; control and invisible characters are escaped, which is the same value."""
        from ensemw2s.files import dump_json

        print(escaped_json(dump_json(value, indent=2)), flush=True)

    def json_line(self, value: Any) -> None:
        """Data as one line of JSON, on stdout."""
        from ensemw2s.files import dump_json

        print(escaped_json(dump_json(value)), flush=True)

    @property
    def unread(self) -> bool:
        """Whether nobody reads stdout any more (``| head``): what is still to come need not be made."""
        return unread(sys.stdout)

    def console(self, stream: TextIO, plain_width: int = 80) -> Console:
        """A rich console on ``stream``, under the same rules for colour.

        Args:
            stream: stdout or stderr.
            plain_width: characters a line where the stream is no terminal and ``COLUMNS`` is not set.
        """
        width = None if stream.isatty() or "COLUMNS" in os.environ else plain_width
        return _console_class()(
            file=stream,
            no_color=not self.colored(stream),
            highlight=False,
            markup=False,
            emoji=False,
            width=width,
            force_terminal=None if stream.isatty() else False,
        )

    def bars(self, *columns: Any, **settings: Any) -> Progress:
        """Progress bars on stderr that leave nothing behind; text is no markup."""
        from rich.progress import Progress

        settings = {"transient": True, "redirect_stdout": False, **settings}
        return Progress(*columns, console=self.console(sys.stderr), **settings)

    def tables(self, results: Any, *, full: bool = False) -> None:
        """The tables of a run, of several seeds or of a sweep, on stdout."""
        from ensemw2s.report.build import console_report

        console = self.console(sys.stdout)
        console.print(console_report(results, console.width, full=full))

    def render(self, thing: RenderableType) -> None:
        """A rich table, on stdout; as wide as it needs where stdout is no terminal."""
        self.console(sys.stdout, plain_width=200).print(thing)


@cache
def _console_class() -> type[Console]:
    """Rich's console, whose own sequences pass and nobody else's."""
    from rich.console import Console
    from rich.segment import Segment

    class Clean(Console):
        def render(self, renderable: RenderableType, options: Any = None) -> Iterable[Segment]:
            """Segments of anything; see rich."""
            for segment in super().render(renderable, options):
                text = segment.text
                if not segment.control and text != "\n":
                    text = "\n".join(map(without_hidden, text.split("\n")))
                yield segment if text is segment.text else Segment(text, segment.style, segment.control)

    return Clean


#: The one terminal of the process; :func:`ensemw2s.cli.main.main` sets it up.
terminal = Terminal()


def shell_path(path: object) -> str:
    """A path as it can be pasted into a shell."""
    import shlex

    return shlex.quote(str(path))

"""Tables, written for a terminal (Rich), Markdown, HTML (in the template) and LaTeX (:mod:`.latex`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ensemw2s.text import markdown

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its header, and on which side its cells stand."""

    header: str
    align: Literal["left", "right"] = "right"


def columns(*left: str, right: Sequence[str] = ()) -> list[Column]:
    """Columns by their headers: texts first, then numbers."""
    return [*(Column(header, "left") for header in left), *map(Column, right)]


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its cells as text; ``rule`` draws a line above it, ``strong`` sets it in bold."""

    cells: tuple[str, ...]
    rule: bool = False
    strong: bool = False


@dataclass(slots=True)
class Table:
    """A table with a title and notes below it."""

    title: str
    columns: Sequence[Column]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _last: tuple[str, str] = field(default=("", ""), init=False, repr=False)

    def add(self, *cells: str, group: str = "", once: bool = False, strong: bool = False) -> None:
        """Append a row.

        Args:
            cells: one a column.
            group: a line goes above the first row of every group but the first.
            once: the first cell stays empty where the row above has the same one.
            strong: set in bold.

        Raises:
            ValueError: the number of cells is not that of the columns.
        """
        if len(cells) != len(self.columns):
            raise ValueError(f"a row of {len(cells)} cells in a table of {len(self.columns)} columns")
        above, self._last = self._last, (cells[0], group)
        shown = ("", *cells[1:]) if once and self.rows and cells[0] == above[0] else cells
        self.rows.append(Row(shown, bool(self.rows) and group != above[1], strong))


def to_rich(table: Table) -> RichTable:
    """The table for a terminal. Nothing in it depends on colour."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    # Text, not strings: an interval's brackets are not markup
    out = RichTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        caption=Text("\n".join(table.notes)) if table.notes else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        show_edge=False,
        collapse_padding=True,
    )
    for column in table.columns:
        out.add_column(Text(column.header), justify=column.align, overflow="fold")
    for place, row in enumerate(table.rows):
        if row.rule and place:
            out.add_section()
        out.add_row(*(Text(cell) for cell in row.cells), style="bold" if row.strong else None)
    return out


def to_markdown(table: Table) -> str:
    """The table in GitHub-flavoured Markdown, with its notes below; ends in a newline."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(markdown(cell).replace("|", r"\|") for cell in cells) + " |"

    lines = [f"**{markdown(table.title)}**", "", line([column.header for column in table.columns])]
    lines.append(line(["---:" if column.align == "right" else ":---" for column in table.columns]))
    for row in table.rows:
        # an empty cell stays empty: bold around nothing would show its asterisks
        lines.append(line([f"**{cell}**" if row.strong and cell else cell for cell in row.cells]))
    if table.notes:
        lines += ["", *(f"{markdown(note)}  " for note in table.notes[:-1]), markdown(table.notes[-1])]
    return "\n".join(lines) + "\n"

"""``report.html``: one file with its tables and plots inside, that opens anywhere and loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from typing import Any

from ensemw2s.report.table import Table
from ensemw2s.text import printable


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot as two SVG elements: for wide pages, and for phones. Both follow the page's colours."""

    wide: str
    narrow: str
    caption: str


@dataclass(frozen=True, slots=True)
class Block:
    """A section: a table, a plot, or a table with a plot below it."""

    table: Table | None = None
    plot: Plot | None = None


@dataclass(frozen=True, slots=True)
class Appendix:
    """A text that opens on request."""

    title: str
    text: str


@dataclass(slots=True)
class Page:
    """Content of a report, before it becomes HTML. Everything is plain text; the template escapes it."""

    title: str
    facts: Sequence[str]
    verdict: Sequence[str]
    findings: Sequence[str] = ()
    blocks: list[Block] = field(default_factory=list)
    warnings: Sequence[str] = ()
    hard_tokens: Mapping[str, Any] | None = None
    samples: Sequence[Mapping[str, Any]] = ()
    appendix: Sequence[Appendix] = ()


def inline_plot(wide: bytes, narrow: bytes, caption: str) -> Plot:
    """A plot from its two SVG elements, which screen readers call by the caption.

    Raises:
        ValueError: not an SVG element.
    """
    return Plot(_labelled(wide, caption), _labelled(narrow, caption), caption)


def _labelled(svg: bytes, caption: str) -> str:
    text = svg.decode("utf-8")
    if not text.startswith("<svg "):
        raise ValueError("a plot is not an SVG element")
    return f'<svg role="img" aria-label="{escape(caption)}" {text.removeprefix("<svg ")}'


def split_cell(cell: str) -> tuple[str, str]:
    """A cell's value, and the interval behind it or an empty text: phones put it on a line of its own."""
    value, bracket, rest = cell.partition(" [")
    return (value, bracket.strip() + rest) if bracket else (cell, "")


def brief(title: str) -> str:
    """A table's title as it stands in the contents: without its unit and what it says behind a comma or colon."""
    for mark in (",", ":", " (", " in %", " in points"):
        title = title.partition(mark)[0]
    return title


def _shown(value: Any) -> Any:
    """Text without control and bidirectional characters, which would show another text than there is."""
    return printable(value, "\n\t") if type(value) is str else value


def render(page: Page) -> str:
    """The page as HTML; every text in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ensemw2s.report", ""), autoescape=True, undefined=StrictUndefined, finalize=_shown
    )
    environment.filters["split_cell"] = split_cell
    environment.filters["brief"] = brief
    values = {item.name: getattr(page, item.name) for item in fields(page)}
    return environment.get_template("report.html.j2").render(values)

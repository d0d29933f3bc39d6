"""``report.html``: one file with its tables and plots inside, that opens anywhere and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ensemw2s.report.table import Table


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot in both colour schemes (base64 of PNG), with its size in CSS pixels."""

    light: str
    dark: str
    caption: str
    width: int
    height: int


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
    """What a report shows, before it becomes HTML. Everything is plain text; the template escapes it."""

    title: str
    facts: Sequence[str]
    verdict: Sequence[str]
    blocks: list[Block] = field(default_factory=list)
    warnings: Sequence[str] = ()
    hard_tokens: Mapping[str, Any] | None = None
    samples: Sequence[Mapping[str, Any]] = ()
    appendix: Sequence[Appendix] = ()


def inline_plot(light: bytes, dark: bytes, caption: str) -> Plot:
    """A plot from its two PNG files.

    Raises:
        ValueError: not a PNG.
    """
    if light[:8] != b"\x89PNG\r\n\x1a\n" or dark[:8] != light[:8]:
        raise ValueError("a plot is not a PNG")
    width, height = struct.unpack(">II", light[16:24])
    # drawn at 160 dots an inch; CSS has 96
    return Plot(_base64(light), _base64(dark), caption, round(width * 0.6), round(height * 0.6))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def render(page: Page) -> str:
    """The page as HTML; every text in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("ensemw2s.report", ""), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html.j2").render(
        title=page.title,
        facts=page.facts,
        verdict=page.verdict,
        blocks=page.blocks,
        warnings=page.warnings,
        hard_tokens=page.hard_tokens,
        samples=page.samples,
        appendix=page.appendix,
    )

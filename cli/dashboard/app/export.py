"""Pictures of the screen and CSV files of what is shown; never inside a run directory."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemw2s.files import write_text
from ensemw2s.runs.listing import is_run
from ensemw2s.text import csv_text

_FONT = '"DejaVu Sans Mono", "Cascadia Mono", "Menlo", "Consolas", monospace'


def clean_svg(svg: str) -> str:
    """The SVG without fonts from the network: a monospace font of the viewer's machine instead."""
    svg = re.sub(r"@font-face\s*\{[^}]*\}", "", svg)
    return re.sub(r"font-family:\s*Fira Code,\s*monospace", f"font-family: {_FONT}", svg)


def to_csv(tables: Mapping[str, list[dict[str, Any]]]) -> str:
    """One CSV text for several tables: a column ``panel``, then all columns that occur; unknown numbers are empty."""
    names: list[str] = []
    for rows in tables.values():
        for row in rows:
            names += [name for name in row if name not in names]
    lines = [[panel, *(_cell(row.get(name)) for name in names)] for panel, rows in tables.items() for row in rows]
    return csv_text(["panel", *names], lines)


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def safe_folder(folder: Path) -> Path:
    """``folder``, or the first folder above it that is not inside a run directory."""
    folder = folder.resolve()
    inside = [parent for parent in (folder, *folder.parents) if is_run(parent)]
    return inside[-1].parent if inside else folder


def save(text: str, folder: Path, run: str, what: str, suffix: str) -> Path:
    """Write a file ``ew2s-<run>-<what>-<time>.<suffix>`` into ``folder``; a number where that name is taken.

    Raises:
        OSError: it cannot be written.
    """
    name = re.sub(r"[^\w.-]+", "-", f"ew2s-{run or 'run'}-{what}-{time.strftime('%Y%m%d-%H%M%S')}")[:120]
    path = folder / f"{name}.{suffix}"
    count = 2
    while path.exists():
        path = folder / f"{name}-{count}.{suffix}"
        count += 1
    write_text(path, text)
    return path

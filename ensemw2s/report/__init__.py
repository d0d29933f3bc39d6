"""Reports of finished runs: tables, plots, a verdict in words, and one self-contained HTML page."""

from __future__ import annotations

from ensemw2s.report.build import build_report, console_report, load_results
from ensemw2s.report.over_seeds_tables import seed_tables
from ensemw2s.report.plots import run_plots, seed_plots
from ensemw2s.report.table import Column, Row, Table, to_markdown, to_rich
from ensemw2s.report.tables import run_tables
from ensemw2s.report.verdict import seed_verdict, verdict

__all__ = [
    "Column",
    "Row",
    "Table",
    "build_report",
    "console_report",
    "load_results",
    "run_plots",
    "run_tables",
    "seed_plots",
    "seed_tables",
    "seed_verdict",
    "to_markdown",
    "to_rich",
    "verdict",
]

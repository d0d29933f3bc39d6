"""Overview: the timeline, the comparison table filling in, the newest messages and the training at work."""

from __future__ import annotations

from textual.app import ComposeResult

from ensemw2s.cli.dashboard import overview_lines as lines
from ensemw2s.cli.dashboard import plots
from ensemw2s.cli.dashboard.chart import Chart
from ensemw2s.cli.dashboard.lines import HighPanel, TextPanel
from ensemw2s.cli.dashboard.panel import Backdrop
from ensemw2s.cli.dashboard.views.base import View


class Overview(View):
    """How the whole run stands."""

    name_ = "Overview"
    help_lines = (
        ("Stages", "█ done, ▓ at work, ░ expected; the axis ends where the run is expected to end"),
        ("Comparison", "accuracy with Wilson's 95 % interval; PGR has its interval once the run is finished"),
    )

    def compose(self) -> ComposeResult:
        """Stages and messages on the left, the table on the right; one below the other where it is narrow."""
        with Backdrop(classes="box", id="overview-left"):
            yield TextPanel(
                "Stages",
                lines.stage_lines,
                ("run", "stages", "progress"),
                rows=lines.stage_rows,
                id="stages",
                ticking=True,
                fits=True,
            )
            yield TextPanel(
                "Messages",
                lines.message_lines,
                ("messages",),
                rows=lines.message_rows,
                id="messages",
                stick_to_end=True,
            )
        with Backdrop(classes="box", id="overview-right"):
            yield HighPanel("Comparison", lines.arm_lines, ("arms", "rounds"), lines.arm_table_rows, id="comparison")
            yield Chart(lambda c: plots.newest_loss_plot(c.model), ("train",), id="newest-loss")

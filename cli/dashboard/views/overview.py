"""Overview: the timeline, the comparison table filling in, the newest messages and the training at work."""

from __future__ import annotations

from rich.segment import Segment
from textual.app import ComposeResult

from ensemw2s.cli.dashboard.drawing import plots
from ensemw2s.cli.dashboard.drawing.text import plain
from ensemw2s.cli.dashboard.model.status_text import STAGE_LOOKS
from ensemw2s.cli.dashboard.panels import overview as lines
from ensemw2s.cli.dashboard.panels.chart import Chart
from ensemw2s.cli.dashboard.panels.panel import Backdrop
from ensemw2s.cli.dashboard.panels.text_panel import HighPanel, TextPanel
from ensemw2s.cli.dashboard.views.base import View


class StagePanel(TextPanel):
    """The timeline. The stage at work stays in view where not all fit, until somebody scrolls."""

    _by_hand = False

    def _at_work(self, height: int) -> int:
        """The first line to show."""
        mark = STAGE_LOOKS["running"][0]
        at = next((place for place, line in enumerate(self.lines) if plain(line).startswith(mark)), 0)
        return min(max(0, at + 2 - height), self.lowest_top)

    def body(self, width: int, height: int) -> list[list[Segment]]:
        """The lines that are seen."""
        if not self._by_hand:
            self.top = self._at_work(height)
        return super().body(width, height)

    def scroll_lines(self, to: int) -> None:
        """Show the lines from ``to`` on."""
        super().scroll_lines(to)
        self._by_hand = self.top != self._at_work(self.inner[1])


class Overview(View):
    """Status of the whole run."""

    name_ = "Overview"
    help_lines = (
        ("Stages", "█ done, ▓ at work, ░ expected; the axis ends where the run is expected to end"),
        ("Comparison", "accuracy with Wilson's 95 % interval; PGR has its interval once the run is finished"),
    )

    def compose(self) -> ComposeResult:
        """Stages and messages on the left, the table on the right; one below the other where it is narrow."""
        with Backdrop(classes="box", id="overview-left"):
            yield StagePanel(
                "Stages", lines.stage_lines, ("run", "stages", "progress"), rows=lines.stage_rows, id="stages",
                ticking=True, fits=True,
            )  # fmt: skip
            yield TextPanel(
                "Messages",
                lines.message_lines,
                ("messages",),
                rows=lines.message_rows,
                id="messages",
                stick_to_end=True,
            )
        with Backdrop(classes="box", id="overview-right"):
            yield HighPanel(
                "Comparison", lines.arm_lines, ("arms", "rounds"), rows=lines.arm_table_rows, id="comparison"
            )
            yield Chart(lambda c: plots.newest_loss_plot(c.model), ("train",), id="newest-loss")

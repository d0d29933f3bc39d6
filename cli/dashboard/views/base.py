"""Base class of the views: panels, zoom of one panel, keys of the charts."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.dom import DOMNode
from textual.widget import Widget

from ensemw2s.cli.dashboard.panels.chart import Chart
from ensemw2s.cli.dashboard.panels.context import PanelContext
from ensemw2s.cli.dashboard.panels.panel import Backdrop, BoxPanel, panels_in


class View(Backdrop):
    """One screenful.

    ``name_`` is in the bar of views, ``help_lines`` in the help, ``key_hints`` come first in the last line.
    """

    name_: ClassVar[str] = ""
    help_lines: ClassVar[tuple[tuple[str, str], ...]] = ()
    key_hints: ClassVar[tuple[tuple[str, str, str], ...]] = ()

    def __init__(self, context: PanelContext) -> None:
        super().__init__(id=self.name_.lower(), classes="view")
        self.context = context
        self.panels: list[BoxPanel] = []
        self._boxes: list[Widget] = []
        self._solo: Widget | None = None

    def on_mount(self) -> None:
        """Find the panels once: every key asks for them."""
        self.panels = panels_in(self)
        self._boxes = list(self.query(".box").results(Widget))

    @property
    def charts(self) -> list[Chart]:
        """The charts, in order."""
        return [panel for panel in self.panels if isinstance(panel, Chart)]

    @property
    def shows_charts(self) -> bool:
        """Whether a chart is seen at the present size."""
        return any(self._displayed(chart) for chart in self.charts)

    def _displayed(self, widget: DOMNode) -> bool:
        while widget is not self:
            if not widget.display or widget.parent is None:
                return False
            widget = widget.parent
        return True

    def refresh_panels(self, tick: bool = False) -> None:
        """Redraw the panels of which something changed."""
        for panel in self.seen():
            panel.show(self.context, tick)

    def seen(self) -> list[BoxPanel]:
        """The panels that have a place on the screen."""
        return [panel for panel in self.panels if self._displayed(panel)]

    def focused_panel(self) -> Widget | None:
        """The panel that has the focus."""
        focused: Widget | None = self.screen.focused
        return focused if any(focused is panel for panel in self.panels) else None

    def chosen_charts(self) -> list[Chart]:
        """The chart that has the focus, else all that are seen."""
        focused = self.focused_panel()
        if isinstance(focused, Chart):
            return [focused]
        return [chart for chart in self.charts if self._displayed(chart)]

    @property
    def solo(self) -> Widget | None:
        """The panel that fills the view alone."""
        return self._solo

    def set_solo(self, panel: Widget | None) -> None:
        """Let one panel fill the view; None shows all again."""
        if panel is self._solo:
            return
        self._solo = panel
        self.set_class(panel is not None, "-solo")
        for each in self.panels:
            each.set_class(each is panel, "-solo-panel")
            each.set_class(panel is not None and each is not panel, "-hidden")
        around = [] if panel is None else panel.ancestors
        for box in self._boxes:
            box.set_class(panel is not None and box not in around, "-hidden")

    def first_panel(self) -> Widget | None:
        """The panel that gets the focus when the view is opened."""
        return next(iter(self.panels), None)

    def focus_first(self) -> None:
        """Give the focus to that panel."""
        panel = self.first_panel()
        if panel is not None:
            panel.focus(scroll_visible=False)

    def step(self, by: int) -> None:
        """The keys ``[`` and ``]``: the round, teacher … before or after."""

    def sort(self) -> None:
        """The key ``o``: another order."""

    def search(self) -> None:
        """The key ``/``."""

    def export_rows(self) -> dict[str, list[dict[str, Any]]]:
        """Panel → rows of what is shown: of the panel that has the focus and data, else of all."""
        focused = self.focused_panel()
        found: dict[str, list[dict[str, Any]]] = {}
        for panel in self.panels:
            with self.context.model.lock:
                rows = panel.rows(self.context)
            if rows:
                found[panel.id or type(panel).__name__.lower()] = rows
        if focused is not None and focused.id in found:
            return {focused.id: found[focused.id]}
        return found

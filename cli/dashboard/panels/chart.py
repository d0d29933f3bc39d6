"""The chart widget: draws a plot in braille, zooms, smooths, and reads values under the mouse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType

from ensemw2s.cli.dashboard.drawing.box import segments
from ensemw2s.cli.dashboard.drawing.draw_plot import NAMED_RULES, draw
from ensemw2s.cli.dashboard.drawing.plot import Look, Picture, Plot, value_at
from ensemw2s.cli.dashboard.drawing.text import Line, line_width, width_of
from ensemw2s.cli.dashboard.model.fields import known
from ensemw2s.cli.dashboard.model.names import short
from ensemw2s.cli.dashboard.panels.context import PanelContext, Shown
from ensemw2s.cli.dashboard.panels.panel import BoxPanel, Rows

SMOOTHING = (0.0, 0.6, 0.85, 0.95, 0.99)


class Chart(BoxPanel):
    """A panel with one plot.

    Args:
        make: context → the plot.
        parts: what it shows.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "pan(-0.2)", "Left", show=False),
        Binding("right", "pan(0.2)", "Right", show=False),
    ]

    def __init__(
        self, make: Callable[[PanelContext], Plot], parts: tuple[Shown, ...], *, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self.parts, self.make = parts, make
        self.plot = Plot("")
        self.look = Look()
        self._hover: Line = []
        self._picture: Picture | None = None
        self._drawn_for: tuple[object, ...] = ()

    def rebuild(self, context: PanelContext) -> None:
        """Take the plot from the model."""
        self.plot = self.make(context)
        self._redraw()

    def _redraw(self) -> None:
        self._drawn_for = ()
        self.repaint()

    def _legend(self) -> list[Line]:
        """One entry for each name."""
        legend: list[Line] = []
        seen: set[str] = set()
        for curve in sorted(self.plot.curves, key=lambda curve: not curve.first):
            if curve.name in seen or not curve.legend or not curve.name:
                continue
            seen.add(curve.name)
            marker = curve.marker if not curve.faint else "─"
            legend.append([("  ", "text"), (f"{marker} {curve.name}", "faint" if curve.faint else curve.colour)])
        if self.inner[0] < NAMED_RULES:  # too narrow for names beside the rules
            legend += [
                [("  ", "text"), (rule.name if rule.named_by_marker else f"╌ {rule.name}", rule.colour)]
                for rule in self.plot.rules
                if rule.name
            ]
        return [] if len(legend) == 1 and self.plot.curves[0].draw == "bars" else legend

    def _legend_rows(self, width: int, height: int) -> list[Line]:
        """The legend above the drawing, where it has no place in the title; at most two rows."""
        legend = self._legend()
        title = width_of(self.plot.title) + sum(line_width(entry) for entry in legend)
        if title <= width - 2 or height < 9:
            return []
        rows: list[Line] = [[]]
        for entry in legend:
            if rows[-1] and line_width(rows[-1]) + line_width(entry) > width:
                rows.append([])
            rows[-1] = rows[-1] + entry
        return rows if len(rows) <= 2 else []

    def title_line(self) -> Line:
        """Title, then the legend as far as it fits."""
        width = self.size.width - (6 if self.boxed else 5)
        if not self.boxed and (note := self.note_line()):
            width -= line_width(note) + 2
        legend = [] if self._legend_rows(*self.inner) else self._legend()
        title = self.plot.title
        if width_of(title) + sum(line_width(entry) for entry in legend) > width:
            title = self.plot.short_title or title
        line: Line = [(title, "bold text")]
        for place, entry in enumerate(legend):
            rest = f"  +{len(legend) - place}"
            if line_width(line) + line_width(entry) + (len(rest) if place < len(legend) - 1 else 0) > width:
                if line_width(line) + len(rest) <= width:
                    line.append((rest, "dim"))
                break
            line += entry
        return line

    def note_line(self) -> Line:
        """Values under the mouse; else smoothing, log axis, zoom, and the axis' name where it is not below the axis."""
        if self._hover:
            return self._hover
        look = self.look
        marks = [self.plot.note] if self.plot.note else []
        if look.end - look.start < 1.0:
            marks.append(f"zoom ×{1 / (look.end - look.start):.3g}")
        if look.log and self.plot.can_log:
            marks.append("log")
        if look.smoothing and any(curve.smoothed for curve in self.plot.curves):
            marks.append(f"smoothed {look.smoothing:g}")
        line: Line = [(" · ".join(marks), "orange")] if marks else []
        picture = self._picture
        if self.boxed and picture is not None and picture.frame is not None and not picture.named:
            line.append(("   " * bool(line) + self.plot.x_name, "dim"))
        return line

    def picture(self) -> Picture:
        """The plot as drawn for the present size."""
        self._draw()
        return self._picture or Picture([], None)

    def _draw(self) -> None:
        width, height = self.inner
        if self._drawn_for == (width, height):
            return
        self._drawn_for = (width, height)
        legend = self._legend_rows(width, height)
        picture = draw(self.plot, self.look, width, height - len(legend))
        self._picture = Picture([*legend, *picture.lines], picture.frame, picture.named)

    def body(self, width: int, height: int) -> list[list[Segment]]:
        """The drawing."""
        dark = self.context is None or self.context.dark
        return [segments(line, width, dark) for line in self.picture().lines]

    def set_look(self, look: Look) -> None:
        """Look at the plot in another way."""
        if look != self.look:
            self.look = look
            self._redraw()

    def cycle_smoothing(self) -> None:
        """The next stronger smoothing, then none."""
        place = SMOOTHING.index(self.look.smoothing) if self.look.smoothing in SMOOTHING else 0
        self.set_look(replace(self.look, smoothing=SMOOTHING[(place + 1) % len(SMOOTHING)]))

    def toggle_log(self) -> None:
        """Log axis or linear."""
        self.set_look(replace(self.look, log=not self.look.log))

    def zoom(self, factor: float) -> None:
        """See less (``factor`` below 1) or more of the x range."""
        self.set_look(self.look.zoom(factor))

    def reset(self) -> None:
        """All of the x range; smoothing and log axis stay."""
        self.set_look(replace(self.look, start=0.0, end=1.0))

    def action_pan(self, share: float) -> None:
        """Move along x."""
        self.set_look(self.look.pan(share))

    def _place(self, event: events.MouseEvent) -> float | None:
        """Position of the mouse in the plot area, 0 to 1."""
        frame, column = self.picture().frame, self.place_of(event)[0]
        if frame is None or not frame.left <= column < frame.left + frame.width:
            return None
        return (column - frame.left + 0.5) / frame.width

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in at the mouse."""
        self._zoom_at(event, 0.8)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out at the mouse."""
        self._zoom_at(event, 1.25)

    def _zoom_at(self, event: events.MouseEvent, factor: float) -> None:
        place = self._place(event)
        if place is not None:
            event.stop()
            self.set_look(self.look.zoom(factor, place))

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Say the values under the mouse."""
        frame, place = self.picture().frame, self._place(event)
        if frame is None or place is None or self.plot.categories:
            return
        x, found = value_at(self.plot, frame, int(place * frame.width))
        scale = 100.0 if self.plot.percent else 1.0
        at = f"{x:.0f}" if self.plot.whole_x else short(float(f"{x:.3g}"))
        line: Line = [(f"{self.plot.x_name} {at}", "text")]
        for curve, y in found:
            if known(y):
                line.append((f"  {curve.name} {short(float(f'{scale * y:.3g}'))}", curve.colour))
        if line != self._hover:
            self._hover = line
            self.repaint()

    def on_leave(self, event: events.Leave) -> None:
        """Say what is said otherwise."""
        if self._hover:
            self._hover = []
            self.repaint()

    def rows(self, context: PanelContext) -> Rows:
        """Every point of the plot, unsmoothed, within the part of the x range that is seen."""
        out: Rows = []
        for curve in self.plot.curves:
            for place, (x, y) in enumerate(zip(curve.x.tolist(), curve.y.tolist(), strict=True)):
                row = {"series": curve.name, self.plot.x_name: x, "value": y if known(y) else None}
                if curve.low is not None and curve.high is not None:
                    row |= {"low": float(curve.low[place]), "high": float(curve.high[place])}
                out.append(row)
        out += [{"series": rule.name, "value": rule.y} for rule in self.plot.rules if rule.name]
        return out

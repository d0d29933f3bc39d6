"""Tokens, Labelling and Runs: views with a list, a search, and more about what is chosen."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from ensemw2s.cli.dashboard.drawing import plots
from ensemw2s.cli.dashboard.drawing.plot import Plot
from ensemw2s.cli.dashboard.drawing.text import Line
from ensemw2s.cli.dashboard.panels import labels as label_lines
from ensemw2s.cli.dashboard.panels import runs as run_lines
from ensemw2s.cli.dashboard.panels import tokens as token_lines
from ensemw2s.cli.dashboard.panels.chart import Chart
from ensemw2s.cli.dashboard.panels.context import TOKEN_SORTS, PanelContext
from ensemw2s.cli.dashboard.panels.panel import Backdrop, Rows
from ensemw2s.cli.dashboard.panels.text_panel import LinesPanel, TextPanel
from ensemw2s.cli.dashboard.views.base import View
from ensemw2s.runs.describe import RunInfo


class SearchView(View):
    """A view with a search line that ``/`` opens and Escape closes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "end_search", "Close", show=False)]
    placeholder: ClassVar[str] = "Search"
    choice: ClassVar[str]
    """The field of ``Choices`` that holds the text."""

    def search_line(self) -> Input:
        """The search line, hidden at first."""
        return Input(placeholder=self.placeholder, id=f"{self.id}-search", classes="search -closed", compact=True)

    def search(self) -> None:
        """Open the search line."""
        line = self.query_one(Input)
        line.remove_class("-closed")
        line.focus()

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self._search_for(event.value)

    def _search_for(self, text: str) -> None:
        if text != getattr(self.context.choices, self.choice):
            setattr(self.context.choices, self.choice, text)
            self.context.choices.changed()
            self.refresh_panels()

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        if not event.value:
            event.input.add_class("-closed")
        self.focus_first()

    def action_end_search(self) -> None:
        """Escape: empty and close the search line; else give all panels their place back."""
        line = self.query_one(Input)
        if line.has_class("-closed"):
            self.set_solo(None)
            return
        self._search_for("")  # at once; what the line says of its change comes later
        line.value = ""
        line.add_class("-closed")
        self.focus_first()


class TokenList(LinesPanel):
    """The heaviest examples of a round."""

    parts = ("tokens",)
    selectable = True

    def __init__(self) -> None:
        super().__init__(id="token-list")
        self.entries: list[token_lines.Entry] = []

    def build(self, context: PanelContext, width: int) -> list[Line]:
        """Lines, items, and the cursor on the example that was chosen."""
        lines, self.items, self.entries = token_lines.list_lines(context, width)
        ids = [entry.example.id for entry in self.entries]
        if context.choices.token_example in ids:
            self.cursor = ids.index(context.choices.token_example)
        return lines

    def title_line(self) -> Line:
        """Round and order of sorting."""
        context = self.context
        now = None if context is None else token_lines.shown_round(context.model, context.choices)
        if context is None or now is None:
            return [("Heaviest examples", "bold text")]
        last = "" if context.choices.round is not None else ", the newest" if self.size.width >= 60 else ""
        return [(f"Heaviest of round {now}", "bold text"), (f"{last}, by {context.choices.token_sort}", "dim")]

    def rows(self, context: PanelContext) -> Rows:
        """All tokens of the examples."""
        return token_lines.token_rows(context)


class Tokens(SearchView):
    """Token weights: examples, tokens, predictions, movement."""

    name_ = "Tokens"
    placeholder = "Search in prompts, answers, predictions and ids"
    choice = "token_search"
    help_lines = (
        ("↑ ↓", "another example"),
        ("[ ]", "round before, after"),
        ("/ o", "search; sort by weight, wrong tokens, growth, prompt"),
        ("×3.2", "weight as a multiple of uniform weights; ✕2/6: wrong tokens of the expert"),
    )

    def compose(self) -> ComposeResult:
        """The list, and one example in full."""
        with Backdrop(classes="box", id="token-left"):
            yield self.search_line()
            yield TokenList()
        with Backdrop(classes="box", id="token-right"):
            yield TextPanel("Tokens by weight", token_lines.detail_lines, ("tokens", "data"), id="token-detail")
            yield Chart(_weight_plot, ("tokens", "data"), id="token-weight")

    def step(self, by: int) -> None:
        """Another round."""
        token_lines.step_round(self.context.model, self.context.choices, by)
        self.refresh_panels()

    def sort(self) -> None:
        """Another order."""
        choices = self.context.choices
        choices.token_sort = TOKEN_SORTS[(TOKEN_SORTS.index(choices.token_sort) + 1) % len(TOKEN_SORTS)]
        choices.changed()
        self.refresh_panels()

    @on(LinesPanel.Moved)
    def _moved(self, event: LinesPanel.Moved) -> None:
        panel = self.query_one(TokenList)
        if event.panel is panel and event.item < len(panel.entries):
            self.context.choices.token_example = panel.entries[event.item].example.id
            self.context.choices.changed()
            self.query_one("#token-detail", TextPanel).scroll_lines(0)
            self.refresh_panels()


def _weight_plot(context: PanelContext) -> Plot:
    example = token_lines.chosen(context.model, context.choices)
    return plots.weight_plot(context.model, "" if example is None else example.id)


def _teacher(context: PanelContext) -> str:
    return label_lines.shown_teacher(context.model, context.choices) or ""


class Labelling(SearchView):
    """Progress of the labelling, and the labels."""

    name_ = "Labelling"
    placeholder = "Search in prompts and labels; “right”, “wrong”"
    choice = "label_search"
    help_lines = (("[ ]", "another teacher"), ("/", "search in the labels"))

    def compose(self) -> ComposeResult:
        """Teachers, two charts, labels."""
        yield TextPanel(
            "Teachers", label_lines.teacher_lines, ("labels", "stages", "progress"),
            rows=label_lines.teacher_rows, id="teachers", fits=True,
        )  # fmt: skip
        with Backdrop(classes="box", id="label-charts"):
            yield Chart(lambda c: plots.confidence_plot(c.model, _teacher(c)), ("labels",), id="confidence")
            yield Chart(lambda c: plots.agreement_plot(c.model, _teacher(c)), ("labels",), id="agreement")
        with Backdrop(classes="box", id="label-list"):
            yield self.search_line()
            yield TextPanel(
                "Labels", label_lines.sample_lines, ("labels",), rows=label_lines.sample_rows, id="label-samples"
            )

    def step(self, by: int) -> None:
        """Another teacher."""
        label_lines.step_teacher(self.context.model, self.context.choices, by)
        self.refresh_panels()


class RunList(LinesPanel):
    """The runs below the root."""

    parts = ("run", "arms", "runs")
    selectable = True
    heading = "Runs"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("space", "mark", "Mark", key_display="Space")]

    def __init__(self) -> None:
        super().__init__(id="run-list")
        self.listed: list[RunInfo] = []

    def build(self, context: PanelContext, width: int) -> list[Line]:
        """Lines and items; the cursor stays on its run."""
        before = self.listed[self.cursor].path if self.cursor < len(self.listed) else None
        lines, self.items, self.listed = run_lines.run_list_lines(context, width)
        paths = [run.path for run in self.listed]
        if before in paths:
            self.cursor = paths.index(before)
        return lines

    def action_mark(self) -> None:
        """Mark or unmark the run under the cursor for comparison."""
        if self.context is None or self.cursor >= len(self.listed):
            return
        marked, path = self.context.choices.marked, self.listed[self.cursor].path
        if path in marked:
            marked.remove(path)
        else:
            marked.append(path)
        self.context.choices.changed()
        self.context.watcher.compare(set(marked))
        self.show(self.context)

    def rows(self, context: PanelContext) -> Rows:
        """The runs."""
        return run_lines.run_rows(context)


class Runs(SearchView):
    """All runs below a root; two or more compared."""

    name_ = "Runs"
    key_hints = (("Enter", "Open", "panel.choose"), ("Space", "Mark", "panel.mark"))
    placeholder = "Filter by name, state, preset"
    choice = "run_search"
    help_lines = (
        ("Enter", "show the run"),
        ("Space", "mark to compare"),
        ("/", "filter"),
        ("l", "show the latest run again, and newer ones as they begin"),
    )

    def compose(self) -> ComposeResult:
        """The list; below it the comparison."""
        with Backdrop(classes="box", id="run-top"):
            yield self.search_line()
            yield RunList()
        yield TextPanel("Compared", run_lines.compare_lines, ("run", "arms", "runs"), id="compared")
        with Backdrop(classes="box", id="run-charts"):
            for what, title in (("test", "Ensemble ID, %"), ("hard_test", "Ensemble OOD, %"), ("loss", "Student loss")):
                yield Chart(
                    lambda c, what=what, title=title: plots.compare_plot(title, run_lines.compared(c), what),  # type: ignore[misc]
                    ("run", "rounds", "train", "runs"),
                    id=f"compare-{what.replace('_', '-')}",
                )

    @on(LinesPanel.Chosen)
    def _chosen(self, event: LinesPanel.Chosen) -> None:
        panel = self.query_one(RunList)
        if event.panel is panel and panel.cursor < len(panel.listed):
            path = panel.listed[panel.cursor].path  # the cursor stays on its run when the list is sorted anew
            self.context.watcher.open(path)
            self.notify(f"Opened {path.name}")

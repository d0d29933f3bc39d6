"""Boosting, Student and System: views of charts."""

from __future__ import annotations

import numpy as np
from textual.app import ComposeResult

from ensemw2s.cli.dashboard.drawing import plots
from ensemw2s.cli.dashboard.drawing.plot import Plot
from ensemw2s.cli.dashboard.model.series import Series
from ensemw2s.cli.dashboard.panels import runs as run_lines
from ensemw2s.cli.dashboard.panels.chart import Chart
from ensemw2s.cli.dashboard.panels.context import PanelContext
from ensemw2s.cli.dashboard.panels.text_panel import TextPanel
from ensemw2s.cli.dashboard.views.base import View

_CHART_HELP = (
    ("m, y", "smoothing, log axis: of the chart that has the focus, else of all"),
    ("+ − 0", "zoom in, out, all; ← → move along x; the mouse wheel zooms where it points"),
)


class Boosting(View):
    """Loss, accuracy, errors, weights and concentration by round."""

    name_ = "Boosting"
    help_lines = _CHART_HELP

    def compose(self) -> ComposeResult:
        """Six charts."""
        yield Chart(lambda c: plots.loss_plot(c.model), ("train",), id="loss")
        yield Chart(lambda c: plots.accuracy_plot(c.model, "test"), ("rounds", "arms"), id="accuracy-id")
        yield Chart(lambda c: plots.accuracy_plot(c.model, "hard_test"), ("rounds", "arms"), id="accuracy-ood")
        yield Chart(lambda c: plots.epsilon_plot(c.model), ("rounds",), id="epsilon")
        yield Chart(lambda c: plots.alpha_plot(c.model), ("rounds",), id="alpha")
        yield Chart(lambda c: plots.concentration_plot(c.model), ("rounds", "data"), id="concentration")


class Student(View):
    """Loss of students and ceiling; accuracy against weak, ensemble and ceiling."""

    name_ = "Student"
    help_lines = _CHART_HELP

    def compose(self) -> ComposeResult:
        """Three charts."""
        yield Chart(lambda c: plots.student_loss_plot(c.model), ("train",), id="student-loss")
        yield Chart(lambda c: plots.student_accuracy_plot(c.model, "test"), ("arms",), id="student-id")
        yield Chart(lambda c: plots.student_accuracy_plot(c.model, "hard_test"), ("arms",), id="student-ood")


class System(View):
    """Load of the machine and of the run's process."""

    name_ = "System"
    help_lines = (("GPU", "shown where nvidia-ml-py is installed"),)

    def compose(self) -> ComposeResult:
        """Gauges and two charts."""
        yield TextPanel(
            "System", run_lines.system_lines, ("system", "train", "machine"), rows=run_lines.system_rows, id="gauges"
        )
        yield Chart(_cpu_plot, ("system", "machine"), id="cpu")
        yield Chart(_memory_plot, ("system", "machine"), id="memory")


def _load_plot(context: PanelContext, title: str, own: Series, name: str, scale: float) -> Plot:
    """The run's own samples of the last two hours; the machine's too, unless the run is over."""
    x, y = own.arrays()
    keep = x >= (x[-1] if x.size else 0.0) - 7200.0
    curves = [("run's process", x[keep], y[keep] * scale)]
    if context.model.life == "running" or not x.size:
        samples = list(context.watcher.samples)
        at = np.array([time for time, _ in samples], dtype=np.float64)
        values = np.array([getattr(sample, name) for _, sample in samples], dtype=np.float64)
        curves.insert(0, ("this machine", at, values * scale))
    return plots.time_plot(title, curves)


def _cpu_plot(context: PanelContext) -> Plot:
    return _load_plot(context, "CPU, % (process: of one core)", context.model.cpu, "cpu", 1.0)


def _memory_plot(context: PanelContext) -> Plot:
    return _load_plot(context, "Memory, GB", context.model.rss, "memory", 1e-9)

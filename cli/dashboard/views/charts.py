"""Boosting, Student and System: views of charts."""

from __future__ import annotations

from textual.app import ComposeResult

from ensemw2s.cli.dashboard.drawing import plots
from ensemw2s.cli.dashboard.drawing.plot import Plot
from ensemw2s.cli.dashboard.model.series import Floats
from ensemw2s.cli.dashboard.panels import runs as run_lines
from ensemw2s.cli.dashboard.panels.chart import Chart
from ensemw2s.cli.dashboard.panels.context import Context
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
            "System", run_lines.system_lines, ("system", "train"), rows=run_lines.system_rows, id="gauges", machine=True
        )
        yield Chart(_cpu_plot, ("system",), id="cpu", machine=True)
        yield Chart(_memory_plot, ("system",), id="memory", machine=True)


def _samples(context: Context, name: str, scale: float) -> tuple[str, Floats, Floats]:
    import numpy as np

    samples = list(context.watcher.samples)
    x = np.array([at for at, _ in samples], dtype=np.float64)
    y = np.array([getattr(sample, name) for _, sample in samples], dtype=np.float64)
    return "this machine", x, y * scale


def _recent(context: Context, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The run's own samples as far back as two hours before the newest."""
    keep = x >= (x[-1] if x.size else 0.0) - 7200.0
    return x[keep], y[keep]


def _cpu_plot(context: Context) -> Plot:
    x, y = _recent(context, *context.model.cpu.arrays())
    curves = [("run's process", x, y)]
    if context.model.life == "running" or not x.size:
        curves.insert(0, _samples(context, "cpu", 1.0))
    return plots.time_plot("CPU, % (process: of one core)", curves)


def _memory_plot(context: Context) -> Plot:
    x, y = _recent(context, *context.model.rss.arrays())
    curves = [("run's process", x, y / 1e9)]
    if context.model.life == "running" or not x.size:
        curves.insert(0, _samples(context, "memory", 1e-9))
    return plots.time_plot("Memory, GB", curves)

"""Progress on stderr: moving bars on a terminal, a plain line now and then elsewhere (a Slurm log, a pipe)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ensemw2s.cli.terminal import LINES, Terminal
from ensemw2s.errors import EXIT_INTERRUPTED, Ew2sError, Interrupted
from ensemw2s.sink import NullSink
from ensemw2s.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds between two plain lines about the same task.
PLAIN_EVERY = 10.0


def duration(seconds: float) -> str:
    """``8 s``, ``2 min 05 s``, ``3 h 12 min``."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class StoppedError(Ew2sError):
    """An interruption with a message of its own: Typer drops that of a ``KeyboardInterrupt``."""

    exit_code = EXIT_INTERRUPTED
    title = "Interrupted"


class Plan:
    """Finished and remaining stages of a run."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.done: set[str] = set()
        self._rounds: dict[str, int] = {}

    def begin(self, stages: list[str], records: Sequence[Mapping[str, Any]] = ()) -> None:
        """A new run, or the next seed; the fields are those of the event ``plan``."""
        self.stages, self.done = list(stages), set()
        self._rounds = {record["name"]: record["round"] or 0 for record in records}

    def finish(self, stage: str) -> None:
        """A stage is done. Stages come in order: those before it that are not done will not be."""
        self.done.add(stage)
        if not self.stages:
            return
        if stage not in self.stages:
            last = max((i for i, known in enumerate(self.stages) if known in self.done), default=-1)
            self.stages.insert(last + 1, stage)
        place = self.stages.index(stage)
        self.stages = [known for i, known in enumerate(self.stages) if i >= place or known in self.done]

    def stop_boosting(self, rounds: int) -> None:
        """Rounds that will not happen leave the plan."""
        self.stages = [s for s in self.stages if s in self.done or self._rounds.get(s, 0) <= rounds]

    @property
    def position(self) -> str:
        """``3/14``."""
        return f"{len(self.done)}/{len(self.stages)}"


class LineWriter:
    """Lines that stay, above the progress bars where there are some."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.bars: Progress | None = None

    def line(self, text: str) -> None:
        """A message."""
        if self.bars is not None:
            self.bars.console.print(printable(text, LINES))
        else:
            self.terminal.say(text)

    def warn(self, text: str) -> None:
        """A warning."""
        if self.bars is not None:
            self.bars.console.print(f"Warning: {printable(text, LINES)}", style="yellow")
        else:
            self.terminal.warn(text)

    def close(self) -> None:
        """Remove the bars; lines stay."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


class ProgressSink(LineWriter, NullSink):
    """Prints how a run goes: milestones as lines; subclasses draw the progress of tasks. A context manager.

    Args:
        terminal: where to write.
        clock: seconds; replaced in tests.
    """

    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(terminal)
        self.clock = clock
        self.plan = Plan()

    def __enter__(self) -> ProgressSink:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if isinstance(error, Interrupted):
            raise StoppedError(str(error)) from error

    def advance(self) -> None:
        """A stage was finished or the plan changed."""

    def event(self, kind: str, **fields: Any) -> None:
        """Turn a milestone into a line, or nothing."""
        if kind == "plan":
            self.plan.begin(**fields)
        elif kind == "stage_finished":
            if fields["cached"] and fields["stage"] in self.plan.done:
                return  # used again by a later phase of the same run: nothing new
            self.plan.finish(fields["stage"])
        elif kind == "boosting_stopped":
            self.plan.stop_boosting(fields["rounds"])
        if kind == "message" and fields["level"] != "info":
            self.warn(fields["text"])
        else:
            text = describe(kind, fields, self.plan)
            if text is not None:
                self.line(text)
        self.advance()


def describe(kind: str, fields: dict[str, Any], plan: Plan) -> str | None:
    """The line for a milestone, or None where it says nothing to a person."""
    match kind:
        case "run_started":
            verb = "Continuing" if fields["resumed"] else "Starting"
            return f"{verb} {fields['name']} with seed {fields['seed']}"
        case "stage_started":
            return None
        case "stage_finished":
            how = "kept from before" if fields["cached"] else f"done in {duration(fields['seconds'])}"
            return f"[{plan.position}] {fields['stage']}: {how}"
        case "stage_rerun":
            return f"{fields['stage']} runs again; changed: {fields['reason']}"
        case "data_ready":
            from ensemw2s.data.split import left_out, noise_phrase

            counts = ", ".join(f"{name} {count}" for name, count in fields["counts"].items())
            without = left_out(fields["notes"])
            said = [counts, f"left out: {', '.join(without)}" if without else "", noise_phrase(fields["notes"])]
            return "Data: " + "; ".join(filter(None, said))
        case "round_finished":
            kept = "" if fields["kept"] else " (dropped)"
            return f"Round {fields['round']}: ε {_number(fields['epsilon'])}, α {_number(fields['alpha'])}{kept}"
        case "boosting_stopped":
            return f"Boosting stopped: {fields['reason']}. The ensemble uses {_experts(fields['selected_rounds'])}."
        case "labels_done":
            right = "" if fields["accuracy"] is None else f", {100 * fields['accuracy']:.1f} % of them right"
            return f"Labels from {fields['teacher']}: {fields['kept']} of {fields['n']} kept{right}"
        case "message":
            return str(fields["text"])
    return None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _experts(count: int) -> str:
    return "1 expert" if count == 1 else f"{count} experts"


class PlainProgress(ProgressSink):
    """Lines at the start and end of stages, and every ten seconds in between."""

    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(terminal, clock)
        self._tasks: dict[str, tuple[float, int, float]] = {}

    def event(self, kind: str, **fields: Any) -> None:
        """A line for a stage that begins, too."""
        if kind == "stage_started":
            self.line(f"[{self.plan.position}] {fields['stage']}: started")
        super().event(kind, **fields)

    def progress(self, task: str, done: int, total: int) -> None:
        """A line if the last one about this task is ten seconds old."""
        now = self.clock()
        if done >= total:
            self._tasks.pop(task, None)
            return
        began, first, shown = self._tasks.setdefault(task, (now, done, now))
        if now - shown < PLAIN_EVERY:
            return
        self._tasks[task] = (began, first, now)
        left = (total - done) * (now - began) / (done - first) if done > first else None
        eta = "" if left is None else f", about {duration(left)} left"
        self.line(f"[{self.plan.position}] {task}: {done}/{total} ({100 * done // total} %){eta}")


class BarProgress(ProgressSink):
    """Two kinds of bars at the bottom of the terminal: the stages of the run, and the tasks at work."""

    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(terminal, clock)
        self._whole: TaskID | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BarProgress:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.table import Column

        self.bars = self.terminal.bars(
            TextColumn(
                "{task.description}", markup=False, table_column=Column(min_width=26, max_width=30, no_wrap=True)
            ),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            MofNCompleteColumn(),
            TimeElapsedColumn(table_column=Column(min_width=7, no_wrap=True)),
            TextColumn("ETA", table_column=Column(min_width=3, no_wrap=True)),
            TimeRemainingColumn(table_column=Column(min_width=7, no_wrap=True)),
            expand=True,
        )
        self.bars.start()
        return self

    def advance(self) -> None:
        """Move the bar of the whole run."""
        if self.bars is None or not self.plan.stages:
            return
        if self._whole is None:
            self._whole = self.bars.add_task("stages", total=len(self.plan.stages))
        self.bars.update(self._whole, total=len(self.plan.stages), completed=len(self.plan.done))

    def progress(self, task: str, done: int, total: int) -> None:
        """Move a task's bar; it disappears when the task is done."""
        if self.bars is None:
            return
        if task not in self._tasks:
            self._tasks[task] = self.bars.add_task(printable(task), total=total)
        self.bars.update(self._tasks[task], completed=done, total=total)
        if done >= total:
            self.bars.remove_task(self._tasks.pop(task))


class QuietProgress(ProgressSink):
    """Warnings only."""

    def line(self, text: str) -> None:
        """Nothing."""


def progress_sink(terminal: Terminal) -> ProgressSink:
    """The sink that fits where stderr goes."""
    if terminal.quiet:
        return QuietProgress(terminal)
    return BarProgress(terminal) if terminal.animated else PlainProgress(terminal)


def waiting(terminal: Terminal, text: str) -> AbstractContextManager[object]:
    """A spinner with a text on a terminal; one plain line elsewhere."""
    if terminal.animated:
        from rich.text import Text

        return terminal.console(sys.stderr).status(Text(text))
    terminal.say(text)
    return nullcontext()

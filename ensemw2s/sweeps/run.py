"""Runs the jobs of a sweep as processes, as many at once as memory allows."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ensemw2s.errors import Ew2sError
from ensemw2s.evaluation.over_cells import SweepResults
from ensemw2s.files import open_in_place, unwritable_error, write_json
from ensemw2s.outputs import refuse_links
from ensemw2s.pipeline.date import dated
from ensemw2s.resources import available_memory, device_memory, process_memory, visible_devices
from ensemw2s.runs.directory import remove_trunk
from ensemw2s.runs.lock import RunLock
from ensemw2s.runs.verify import verify
from ensemw2s.sweeps.job import ERROR_MARK
from ensemw2s.sweeps.plan import Job, SweepPlan, collect, finished_results

#: What runs a job; the file that describes it is the last argument.
COMMAND = (sys.executable, "-P", "-m", "ensemw2s.sweeps.job")

#: Memory that a run is taken to need where not even its models are known, in bytes; libraries alone take most of it.
FIRST_GUESS = 2**30

#: Bytes a parameter that a fine-tuning holds: weights, gradients and two moments, or with adapters the weights alone.
_FULL, _ADAPTERS = 16, 4
_MARGIN = 1.1
_POLL = 0.3
_GRACE = 30.0


@dataclass(frozen=True)
class SweepStatus:
    """Progress of a sweep.

    Attributes:
        done: finished ones, those of earlier starts included.
        running: at work, with the seconds since they began.
        left: seconds that the rest will take about, or None before the first has finished.
        waiting_for_memory: whether a process more was wanted, but its memory is not there.
    """

    total: int
    done: int
    failed: int
    running: list[tuple[Job, float]]
    left: float | None
    waiting_for_memory: bool


class SweepWatcher(Protocol):
    """Hears how a sweep goes."""

    def started(self, job: Job, directory: Path) -> None:
        """A run begins or is continued."""

    def finished(self, job: Job, seconds: float, status: SweepStatus) -> None:
        """A run is done; ``seconds`` since it was started here."""

    def failed(self, job: Job, error: str, status: SweepStatus) -> None:
        """A run failed; the others go on."""

    def tick(self, status: SweepStatus) -> None:
        """Called several times a second."""


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    began: float
    device: str | None
    peak: int = 0


@dataclass
class _State:
    """State of a running sweep."""

    pending: deque[Job]
    total: int
    done: int
    running: list[_Running] = field(default_factory=list)
    errors: dict[Job, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    guess: int = FIRST_GUESS
    peak: int = 0
    device_peak: int | None = None
    short: bool = False


def run_sweep(
    plan: SweepPlan, root: Path, watcher: SweepWatcher, *, jobs: int = 1, environ: Mapping[str, str] | None = None
) -> SweepResults:
    """Run what is not finished yet, and gather everything.

    Finished runs are kept, interrupted ones continued, failed ones tried again; a run that fails does not stop the
    others. ``sweep.json`` and the tables are written at the start and after every run.

    Args:
        plan: the sweep.
        root: its directory; made where it is missing.
        watcher: hears how it goes.
        jobs: largest number of processes at once; fewer where memory is short.
        environ: environment of the processes; this process's by default.

    Returns:
        The content of ``sweep.json``.

    Raises:
        RunBusyError: another process runs a sweep in ``root``.
        InputError: there is a symbolic link below ``root``, or it cannot be written.
        KeyboardInterrupt: passed on once the processes have stopped; the same call continues.
    """
    refuse_links(root, in_place=["run.lock", *(job.log.as_posix() for job in plan.jobs)])
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable_error(error, root) or error from error
    with RunLock(root):
        everything = plan.jobs
        pending = deque(job for job in everything if not _is_finished(root, job))
        state = _State(pending, len(everything), len(everything) - len(pending))
        if jobs > 1 and len(pending) > 1:
            state.guess = first_guess(plan)
        collect(root, plan)  # so that whoever watches knows from the start what is to come
        runner = _Runner(plan, root, watcher, max(1, jobs), dict(os.environ if environ is None else environ), state)
        try:
            runner.loop()
            remove_trunk(root)
        finally:
            runner.stop()
            results = collect(root, plan, state.errors)
    return results


def _is_finished(root: Path, job: Job) -> bool:
    return finished_results(root, job) is not None and not verify(root / job.directory).damaged


class _Runner:
    def __init__(
        self, plan: SweepPlan, root: Path, watcher: SweepWatcher, jobs: int, environ: dict[str, str], state: _State
    ) -> None:
        self.plan, self.root, self.watcher = plan, root, watcher
        self.jobs, self.environ, self.state = jobs, environ, state
        self.devices = visible_devices(environ) if _wants_device(plan) else []

    def loop(self) -> None:
        state = self.state
        while state.pending or state.running:
            while state.pending and len(state.running) < self.jobs and self._room():
                self._start(state.pending.popleft())
            for running in list(state.running):
                self._look_at(running)
            self.watcher.tick(self.status())
            time.sleep(_POLL)

    def status(self) -> SweepStatus:
        """Progress of the sweep."""
        state, now = self.state, time.monotonic()
        running = [(one.job, now - one.began) for one in state.running]
        left = None
        if state.seconds:
            mean = sum(state.seconds) / len(state.seconds)
            work = mean * len(state.pending) + sum(max(0.0, mean - seconds) for _, seconds in running)
            left = work / max(1, min(self.jobs, len(state.pending) + len(running)))
        return SweepStatus(state.total, state.done, len(state.errors), running, left, state.short)

    def _room(self) -> bool:
        """Whether one more process fits beside those at work, which may still grow to the largest seen."""
        state = self.state
        state.short = False
        if not state.running:
            return True
        need = max(state.peak or state.guess, *(one.peak for one in state.running))
        growing = sum(max(0, need - process_memory(one.process.pid)) for one in state.running)
        fits = available_memory() - growing >= _MARGIN * need
        if fits and self.devices:
            fits = self._device_room()
        state.short = not fits
        return fits

    def _device_room(self) -> bool:
        """The same on the CUDA device that would be next; until the first run tells, one process a device."""
        device, beside = self._next_device()
        if beside == 0:
            return True
        peak, free = self.state.device_peak, device_memory(device)
        return peak is not None and free is not None and free >= _MARGIN * peak

    def _next_device(self) -> tuple[str, int]:
        """The device with the fewest processes, and how many those are."""
        load = {device: sum(one.device == device for one in self.state.running) for device in self.devices}
        device = min(self.devices, key=lambda d: load[d])
        return device, load[device]

    def _start(self, job: Job) -> None:
        if job.cell.composed is None:
            raise RuntimeError(f"{job.name} has no valid configuration")
        made = job.cell.composed
        device = self._next_device()[0] if self.devices else None
        place = self.root / job.directory
        order = place.with_suffix(".json")
        order.parent.mkdir(parents=True, exist_ok=True)
        config = made.config.model_copy(update={"seed": job.seed})
        origin = {**made.provenance, "seed": "--seeds"}
        said = {"config": config, "provenance": origin, "preset": made.preset, "directory": str(place)}
        write_json(order, {**said, "date": dated(config.data.template, self.root).date, "shared": str(self.root)})
        environ = self.environ if device is None else {**self.environ, "CUDA_VISIBLE_DEVICES": device}
        with os.fdopen(open_in_place(self.root / job.log, os.O_WRONLY | os.O_APPEND), "ab") as log:
            process = subprocess.Popen(
                [*COMMAND, str(order)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                # a terminal's Ctrl-C goes to the sweep alone, which stops its runs in order
                start_new_session=True,
            )
        self.state.running.append(_Running(job, process, time.monotonic(), device))
        self.watcher.started(job, place)

    def _look_at(self, running: _Running) -> None:
        code = running.process.poll()
        if code is None:
            running.peak = max(running.peak, process_memory(running.process.pid))
            return
        state, job = self.state, running.job
        state.running.remove(running)
        seconds = time.monotonic() - running.began
        results = finished_results(self.root, job) if code == 0 else None
        if results is None:
            state.errors[job] = self._why(job, code)
            self.watcher.failed(job, state.errors[job], self.status())
        else:
            state.done += 1
            state.seconds.append(seconds)
            state.peak = max([state.peak, running.peak, *(m.process or 0 for m in results.memory.values())])
            peaks = [m.device for m in results.memory.values() if m.device is not None]
            state.device_peak = max([*peaks, state.device_peak or 0]) if peaks else state.device_peak
            self.watcher.finished(job, seconds, self.status())
        collect(self.root, self.plan, state.errors)

    def _why(self, job: Job, code: int) -> str:
        """Why a run failed: what it said last, or how its process ended."""
        text = (self.root / job.log).read_text(encoding="utf-8", errors="replace")
        said = [line.removeprefix(ERROR_MARK) for line in text.splitlines() if line.startswith(ERROR_MARK)]
        if code > 0 and said:
            return said[-1]
        if code == -9:
            return "its process was killed (signal 9), as it happens when memory runs out"
        ended = f"its process ended with signal {-code}" if code < 0 else f"its process ended with exit code {code}"
        return f"{ended}; see {job.log}"

    def stop(self) -> None:
        """Stop what is still running, tidily if it can be."""
        for running in self.state.running:
            with contextlib.suppress(ProcessLookupError):
                running.process.terminate()
        deadline = time.monotonic() + _GRACE
        for running in self.state.running:
            try:
                running.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
        self.state.running.clear()


def first_guess(plan: SweepPlan) -> int:
    """Memory that the largest run will take, in bytes, from its models' sizes; until a run has finished and told."""
    from ensemw2s.models.loading.info import parameter_count

    largest = FIRST_GUESS
    sizes: dict[str, int] = {}
    for cell in plan.cells:
        if cell.composed is None:
            continue
        config = cell.composed.config
        for model, training in (
            (config.models.weak, config.training.expert),
            (config.models.strong, config.training.student),
        ):
            key = model.model_dump_json()
            if key not in sizes:
                try:
                    sizes[key] = parameter_count(model)
                except Ew2sError:  # the run itself will say what is wrong with it
                    sizes[key] = 0
            largest = max(largest, FIRST_GUESS + sizes[key] * (_ADAPTERS if training.lora else _FULL))
    return largest


def _wants_device(plan: SweepPlan) -> bool:
    """Whether a run would take a CUDA device and leaves the choice of it open."""
    devices = {cell.composed.config.compute.device for cell in plan.cells if cell.composed is not None}
    return devices <= {"auto", "cuda"}

"""The reading thread: keeps the model up to date and notifies the screen of changes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ensemw2s.cli.dashboard.model.model import RunModel
from ensemw2s.cli.dashboard.reading.follow import RunFollower, load_run
from ensemw2s.cli.dashboard.reading.machine import Machine, Sample
from ensemw2s.cli.dashboard.reading.replay import Follower
from ensemw2s.cli.dashboard.reading.source import Source
from ensemw2s.cli.dashboard.reading.target import Target
from ensemw2s.runs.describe import RunInfo
from ensemw2s.runs.listing import SweepInfo

#: Seconds between two looks at a run that goes on, at one that is over; between two notices to the screen, and while
#: history is read.
EVERY_RUNNING = 0.25
EVERY_IDLE = 1.0
NOTICE_EVERY = 0.25
NOTICE_HISTORY = 1.0
SLOW_EVERY = 2.0
SAMPLES_KEPT = 900


class Watcher(threading.Thread):
    """Follows what the user asked for. Never touches a widget: it calls ``on_change`` from its own thread.

    Args:
        target: what to show; None if ``follower`` is fixed (a replay).
        follower: what to follow from the beginning.
        on_change: called at most four times a second when something changed.
        sample_machine: whether this machine's load is of interest.

    Attributes:
        model: of the run that is shown; replaced when another run is shown.
        runs: the runs below the root, the most recently active first.
        sweeps: the sweeps that some of them belong to.
        others: models of further runs, loaded for comparison.
        samples: (unix time, sample) of the machine.
    """

    def __init__(
        self,
        target: Target | None,
        follower: Follower | None = None,
        *,
        on_change: Callable[[], None] = lambda: None,
        sample_machine: bool = True,
    ) -> None:
        super().__init__(name="dashboard-reader", daemon=True)
        self.target = target
        self.on_change = on_change
        self.model: RunModel = follower.model if follower is not None else RunModel()
        self.runs: list[RunInfo] = []
        self.sweeps: list[SweepInfo] = []
        self.runs_revision = 0
        self.others: dict[Path, RunModel] = {}
        self.others_revision = 0
        self.samples: deque[tuple[float, Sample]] = deque(maxlen=SAMPLES_KEPT)
        self.first_read = threading.Event()
        self.failure = ""
        self.want_runs = False
        self._follower = follower
        self._folder: Path | None = None
        self._wanted: set[Path] = set()
        self._machine = Machine() if sample_machine else None
        self._slow_at = float("-inf")
        self._noticed = (-1, 0.0)
        self._poke = threading.Event()
        self._stopping = False
        self._give_way_until = float("-inf")

    @property
    def folder(self) -> Path | None:
        """The run that is shown, as the list of runs names it."""
        return self._folder

    @property
    def follower(self) -> Follower | None:
        """The current follower."""
        return self._follower

    def open(self, run: Path | None) -> None:
        """Show another run; None: the latest one, and newer ones as they begin."""
        if self.target is not None:
            self.target.chosen = run
            self.poke()

    def compare(self, runs: set[Path]) -> None:
        """Load further runs for comparison; those no longer wanted are dropped."""
        self._wanted = set(runs)
        self.poke()

    def poke(self) -> None:
        """Look now."""
        if self.target is not None:
            self.target.look_again()
        self._slow_at = float("-inf")
        self._poke.set()

    def give_way(self, seconds: float = 0.2) -> None:
        """Leave the processor to the screen for a moment: a key was pressed."""
        self._give_way_until = time.monotonic() + seconds

    def stop(self) -> None:
        """End the thread and wait for it a moment."""
        self._stopping = True
        self._poke.set()
        if self.is_alive():
            self.join(timeout=3.0)

    def run(self) -> None:
        """The thread's work."""
        while not self._stopping:
            began = time.monotonic()
            try:
                more = self.step()
            except Exception as error:
                # The screen stays up with what was read; the reason is shown, and the next look may work again.
                self.failure = f"{type(error).__name__}: {error}"
                self.first_read.set()
                self._notify(force=True)
                more = False
            pause = EVERY_RUNNING if self.model.life == "running" else EVERY_IDLE
            if self._poke.wait(self._rest(time.monotonic() - began) if more else pause):
                self._poke.clear()
        if self._follower is not None:
            self._follower.source.close()
        if self.target is not None:
            self.target.close()

    def _rest(self, worked: float) -> float:
        """Seconds to rest where there is more to read: history takes half the time at most, less while keys come."""
        if time.monotonic() < self._give_way_until:
            return 0.03
        return min(0.05, worked) if self.first_read.is_set() else 0.001

    def step(self) -> bool:
        """One look at the files; True if there is more to read at once."""
        now = time.monotonic()
        if now - self._slow_at >= SLOW_EVERY:
            self._slow_at = now
            self._look_around()
        follower = self._follower
        if follower is None:
            self.first_read.set()
            self._notify()
            return False
        more = follower.poll()
        if not more:
            self.first_read.set()
            more = follower.read_history()
        self._notify(force=not self.first_read.is_set() and self._noticed[0] < 0)
        return more

    def _look_around(self) -> None:
        target = self.target
        if target is not None:
            folder = target.current()
            if folder is not None and folder != self._folder:
                self._folder = folder
                self._follow(RunFollower(target.source(folder)))
            elif folder is None:
                self._wait(target)
            if self.want_runs:
                runs = target.list_runs()
                if (runs, target.sweeps) != (self.runs, self.sweeps):
                    self.runs, self.sweeps = runs, target.sweeps
                    self.runs_revision += 1
        if self._machine is not None:
            self.samples.append((time.time(), self._machine.sample()))
        self._load_others()

    def _wait(self, target: Target) -> None:
        """There is no run yet: say where one is looked for."""
        note = target.problem() or f"There is no run in {target.label} yet."
        with self.model.lock:
            if note != self.model.life_note:
                self.model.path, self.model.life_note = target.label, note
                self.model.touch("run")

    def _follow(self, follower: Follower) -> None:
        if self._follower is not None:
            self._follower.source.close()
        self._follower = follower
        self.model = follower.model
        self._noticed = (-1, 0.0)

    def _load_others(self) -> None:
        wanted = set(self._wanted)
        for path in [path for path in self.others if path not in wanted]:
            del self.others[path]
            self.others_revision += 1
        for path in sorted(wanted - set(self.others)):
            source = Source(path) if self.target is None else self.target.source(path)
            try:
                model = load_run(source)
            finally:
                source.close()
            if not source.problem():  # else it is read at the next look
                self.others[path] = model
                self.others_revision += 1
                self._notify(force=True)

    def _notify(self, force: bool = False) -> None:
        state = sum(self.model.revisions.values()) + self.runs_revision + self.others_revision + len(self.failure)
        if self.samples:
            state += int(self.samples[-1][0])
        now = time.monotonic()
        every = NOTICE_EVERY if self.model.history >= 1.0 else NOTICE_HISTORY
        if force or (state != self._noticed[0] and now - self._noticed[1] >= every):
            self._noticed = (state, now)
            self.on_change()

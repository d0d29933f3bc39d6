"""Redraws panels in the background, between keys."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

from ensemw2s.cli.dashboard.panels.context import PanelContext
from ensemw2s.cli.dashboard.panels.panel import BoxPanel

#: Seconds between two panels, in which keys are answered; without news after a key; the longest such wait.
BETWEEN = 0.001
AFTER_KEY = 0.15
LONGEST = 1.0
#: Seconds from one collection of garbage to the next, without a key before it, and after which all widgets are there.
LOOK_EVERY, CALM, SETTLED = 60.0, 3.0, 2.0


class Refresher:
    """Redraws the panels that are seen, one at a time: a key waits for one of them at most.

    Args:
        first: what is done before the panels.
        panels: those that are seen; another list when another view is.
        context: what they are shown from.

    Attributes:
        key_at: when the last key was pressed, by ``time.monotonic``.
        rounds: how often all panels were gone through.
    """

    def __init__(self, first: Callable[[], None], panels: Callable[[], list[BoxPanel]], context: PanelContext) -> None:
        self._first, self._panels, self._context = first, panels, context
        self.rounds = 0
        self._wanted = asyncio.Event()
        self._tick = False
        self.key_at = self._soon_at = float("-inf")

    def want(self, tick: bool = False, soon: bool = False) -> None:
        """Something changed, or (``tick``) time has passed; ``soon`` where the last key asked for it."""
        self._tick = self._tick or tick
        if soon:
            self._soon_at = time.monotonic()
        self._wanted.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._wanted.wait()
            await self._let_keys_pass()
            self._wanted.clear()
            tick, self._tick = self._tick, False
            self._first()
            await self._round(tick)
            self.rounds += 1

    async def _round(self, tick: bool) -> None:
        seen = self._panels()
        for panel in seen:
            if panel.show(self._context, tick):
                panel.prepare()
                await asyncio.sleep(BETWEEN)
                await self._let_keys_pass()
                if self._panels() != seen:
                    self.want(tick)
                    return

    async def _let_keys_pass(self) -> None:
        """Wait while keys come; news have to be shown some time all the same."""
        end = time.monotonic() + LONGEST
        while self.key_at > self._soon_at and (left := min(self.key_at + AFTER_KEY, end) - time.monotonic()) > 0:
            await asyncio.sleep(left)


class Garbage:
    """Collects garbage and freezes the rest (``gc.freeze``), while nobody types.

    A collection of all objects takes 80 ms, in which a key waits. So the collector itself looks at new objects only
    (``command`` says so), and modules and widgets are frozen once they are there.
    """

    def __init__(self) -> None:
        self._looked = time.monotonic()

    def collect(self) -> None:
        """Collect now."""
        gc.collect()
        gc.freeze()
        self._looked = time.monotonic()

    def tidy(self, key_at: float) -> None:
        """Collect if it is time; ``key_at`` is when the last key was pressed, by ``time.monotonic``."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY and now - key_at >= CALM:
            self.collect()

"""Escape without a long wait.

Most terminals send the same byte for the key Escape and for the beginning of an arrow key. Textual waits for what
follows, and looks only every 0.1 s whether the wait is over, so Escape takes up to twice that.
"""

from __future__ import annotations

import os
import selectors
from types import SimpleNamespace

#: Milliseconds that Escape waits for the rest of a key; seconds between two looks, and how many after each key.
WAIT_MS = 20
LOOK_EVERY = 0.01
LOOKS = 5


class _Selector(selectors.SelectSelector):
    """Looks more often than it is asked to, for a moment after something was typed."""

    _looks = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As usual, but soon over where an Escape may be waiting."""
        if self._looks > 0:
            self._looks -= 1
            timeout = LOOK_EVERY if timeout is None else min(timeout, LOOK_EVERY)
        ready = super().select(timeout)
        if ready:
            self._looks = LOOKS
        return ready


def quicken() -> None:
    """Make Escape answer within 50 ms; call it before Textual is loaded. ``ESCDELAY`` in the environment counts."""
    os.environ.setdefault("ESCDELAY", str(WAIT_MS))
    try:
        from textual.drivers import linux_driver
    except ImportError:  # Windows tells Escape apart
        return
    # the driver's own name for the module, nobody else's; without effect where a later Textual reads keys otherwise
    vars(linux_driver)["selectors"] = SimpleNamespace(SelectSelector=_Selector, EVENT_READ=selectors.EVENT_READ)

"""Escape without a long wait.

Most terminals send the same byte for the key Escape and for the beginning of an arrow key. Textual waits for what
follows, and looks only every 0.1 s whether the wait is over, so Escape takes up to twice that.

How long it waits is a setting (``ESCDELAY``); how often it looks is a number inside of its Linux driver, and a driver
of one's own would have to repeat the driver's loop with Textual's private parser. So the module that the driver waits
with is replaced by one that looks more often. Where a later Textual waits otherwise, this has no effect.
"""

from __future__ import annotations

import importlib
import os
import selectors
from types import ModuleType
from typing import Any

#: Milliseconds that Escape waits for the rest of a key; seconds between two looks, and how many after each key.
WAIT_MS = 10
LOOK_EVERY = 0.004
LOOKS = 6


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


class _Selectors(ModuleType):
    """The module ``selectors`` with another ``SelectSelector``; everything else is the module's own."""

    SelectSelector = _Selector

    def __getattr__(self, name: str) -> Any:
        return getattr(selectors, name)


def quicken(driver: str = "textual.drivers.linux_driver") -> None:
    """Make Escape answer within 50 ms; call it before Textual is loaded. ``ESCDELAY`` in the environment counts.

    Args:
        driver: the module that reads keys.
    """
    os.environ.setdefault("ESCDELAY", str(WAIT_MS))
    try:
        found = importlib.import_module(driver)
    except ImportError:  # Windows tells Escape apart; a later Textual may have another driver
        return
    if vars(found).get("selectors") is selectors:
        vars(found)["selectors"] = _Selectors("selectors")

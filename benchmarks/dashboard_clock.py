"""Textual's driver with a clock, for ``dashboard.py``: when a key is read, and when something is written.

The environment names it (``TEXTUAL_DRIVER``) and the file for the times (``DASHBOARD_CLOCK``).
"""

from __future__ import annotations

import atexit
import json
import os
import time
from pathlib import Path

from textual.drivers.linux_driver import LinuxDriver
from textual.events import Key
from textual.message import Message

READ: list[float] = []
WRITTEN: list[float] = []


class Driver(LinuxDriver):
    """Notes the times of keys and of output."""

    def process_message(self, message: Message) -> None:
        """A key, or something else that the terminal says."""
        if isinstance(message, Key):
            READ.append(time.perf_counter())
        super().process_message(message)

    def write(self, data: str) -> None:
        """Something is drawn."""
        super().write(data)
        WRITTEN.append(time.perf_counter())


@atexit.register
def save() -> None:
    """Write the times down."""
    Path(os.environ["DASHBOARD_CLOCK"]).write_text(json.dumps({"read": READ, "written": WRITTEN}))

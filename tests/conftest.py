"""For all rooms."""

from __future__ import annotations

import signal

# A shell lets background jobs ignore Ctrl-C, and their children inherit that; tests that send it would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

"""For all rooms."""

from __future__ import annotations

import signal

# A shell lets background jobs ignore Ctrl-C, nohup lets them ignore a closed terminal, and children inherit that; tests
# that send these signals would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

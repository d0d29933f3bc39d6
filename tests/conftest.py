"""What holds for all tests. Fixtures of several folders are in ``fixtures/``, a place on pytest's ``pythonpath``."""

from __future__ import annotations

import os
import signal

# Before torch is loaded: its idle threads wait asleep, since two workers share the processors.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell lets background jobs ignore Ctrl-C, nohup lets them ignore a closed terminal, and children inherit that; tests
# that send these signals would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

pytest_plugins = ["mini_runs", "recording_sink", "small_models", "whole_session"]

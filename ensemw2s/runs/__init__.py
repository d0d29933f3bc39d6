"""The run directory: all state of a run, readable by hand and by other processes.

One process writes (``RunDirectory.writing``); any number of readers follow without locks (``EventReader``,
``list_runs``). The event log is described in ``docs/events.md``.
"""

from ensemw2s.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"EventReader": "reader"})

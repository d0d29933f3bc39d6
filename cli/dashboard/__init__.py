"""The dashboard: follows a run directory from its log files and never writes into it.

``model``, ``fold``, ``summary`` and the readers know nothing of the screen; Textual is imported by ``app`` and what it
shows. Nothing here is imported before the command ``ew2s dashboard`` is called.
"""

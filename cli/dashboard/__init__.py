"""The terminal dashboard: follows a run directory from its log files, and never writes into it.

``reading`` folds logs into ``model`` without a screen. Textual is loaded by ``ew2s dashboard`` alone.
"""

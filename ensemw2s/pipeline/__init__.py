"""One run: its stages in order, and resume."""

"""Sources of the dashboard: local, remote and replayed runs."""

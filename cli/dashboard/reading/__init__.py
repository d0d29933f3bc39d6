"""Where the dashboard reads from: local, remote and replayed runs."""

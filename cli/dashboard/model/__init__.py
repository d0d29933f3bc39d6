"""What the dashboard knows of a run: events folded into state."""

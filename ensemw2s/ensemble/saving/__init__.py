"""The ensemble on disk."""

"""The configuration of a run: one schema; presets, files, environment and flags composed in that order."""

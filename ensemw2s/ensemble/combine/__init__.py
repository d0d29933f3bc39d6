"""Combination of kept scores."""

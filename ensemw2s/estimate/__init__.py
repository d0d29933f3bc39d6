"""Estimates the cost of a run."""

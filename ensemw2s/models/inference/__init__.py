"""Scoring and decoding."""

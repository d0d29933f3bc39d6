"""Inference on a user's own file."""

"""Experts with different tokenizers."""

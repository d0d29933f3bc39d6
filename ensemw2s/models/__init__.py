"""Hugging Face causal language models: loading, fine-tuning, scoring and decoding.

Import from the modules; this package itself loads nothing. ``transformers`` is imported on first use only.
"""

"""The ensemble as a ``transformers`` model."""

"""Silence progress bars and notices of ``transformers``."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Show errors of ``transformers``, ``peft`` and the hub's client only, and no progress bars; restored afterwards.

    Their notices to each other about names that go away in a later version are hidden too.
    """
    from transformers.utils import logging as hf_logging

    verbosity = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    others = [logging.getLogger(name) for name in ("peft", "huggingface_hub")]
    levels = [other.level for other in others]
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    for other in others:
        other.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*will be removed in v\d", category=FutureWarning)
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
        for other, level in zip(others, levels, strict=True):
            other.setLevel(level)

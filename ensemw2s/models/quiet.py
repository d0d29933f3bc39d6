"""Keep ``transformers`` from writing progress bars and remarks of its own between ours."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Show errors of ``transformers`` and ``peft`` only and none of their progress bars; restored afterwards.

    Their notices to each other about names that go away in a later version are hidden too.
    """
    from transformers.utils import logging as hf_logging

    verbosity = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    peft = logging.getLogger("peft")
    peft_level = peft.level
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    peft.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*will be removed in v\d", category=FutureWarning)
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
        peft.setLevel(peft_level)

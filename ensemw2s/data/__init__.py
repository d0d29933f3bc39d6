"""Examples, where they come from, how they are split and how they become tokens.

Importing this package loads nothing heavy; names resolve on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "CheckReport": "check",
    "EncodedSplit": "encode",
    "Example": "example",
    "Problem": "problems",
    "SPLITS": "example",
    "Splits": "example",
    "check_source": "check",
    "encode_prompts": "encode",
    "encode_split": "encode",
    "examples_fingerprint": "store",
    "load_source": "sources",
    "make_splits": "split",
    "normalise_text": "text",
    "read_splits": "store",
    "render_answer": "template",
    "render_prompt": "template",
    "source_files": "sources",
    "splits_fingerprint": "store",
    "write_splits": "store",
}

__all__ = [
    "SPLITS",
    "CheckReport",
    "EncodedSplit",
    "Example",
    "Problem",
    "Splits",
    "check_source",
    "encode_prompts",
    "encode_split",
    "examples_fingerprint",
    "load_source",
    "make_splits",
    "normalise_text",
    "read_splits",
    "render_answer",
    "render_prompt",
    "source_files",
    "splits_fingerprint",
    "write_splits",
]

if TYPE_CHECKING:
    from ensemw2s.data.check import CheckReport, check_source
    from ensemw2s.data.encode import EncodedSplit, encode_prompts, encode_split
    from ensemw2s.data.example import SPLITS, Example, Splits
    from ensemw2s.data.problems import Problem
    from ensemw2s.data.sources import load_source, source_files
    from ensemw2s.data.split import make_splits
    from ensemw2s.data.store import examples_fingerprint, read_splits, splits_fingerprint, write_splits
    from ensemw2s.data.template import render_answer, render_prompt
    from ensemw2s.data.text import normalise_text


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"ensemw2s.data.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'ensemw2s.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

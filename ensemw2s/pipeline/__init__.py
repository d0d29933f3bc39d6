"""The stages of a run in order, resume, and a trained ensemble at work on files."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "answer_examples": "files",
    "changed_inputs": "unchanged",
    "evaluate_file": "files",
    "execute": "run",
    "execute_seeds": "seeds",
    "label_file": "files",
    "load_ensemble": "files",
    "planned_stages": "plan",
    "seed_directory": "seeds",
}

__all__ = [
    "answer_examples",
    "changed_inputs",
    "evaluate_file",
    "execute",
    "execute_seeds",
    "label_file",
    "load_ensemble",
    "planned_stages",
    "seed_directory",
]

if TYPE_CHECKING:
    from ensemw2s.pipeline.files import answer_examples, evaluate_file, label_file, load_ensemble
    from ensemw2s.pipeline.plan import planned_stages
    from ensemw2s.pipeline.run import execute
    from ensemw2s.pipeline.seeds import execute_seeds, seed_directory
    from ensemw2s.pipeline.unchanged import changed_inputs


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"ensemw2s.pipeline.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'ensemw2s.pipeline' has no attribute {name!r}")

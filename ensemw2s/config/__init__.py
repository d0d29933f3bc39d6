"""The configuration of a run: one schema, presets, files, environment and flags composed in that order.

Importing this package loads nothing heavy; names resolve on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Composed": "composition",
    "RunConfig": "schema",
    "SourceConfig": "data",
    "compose": "composition",
    "config_fingerprint": "dump",
    "dump_yaml": "dump",
    "known_keys": "keys",
    "list_presets": "presets",
    "load_config": "composition",
    "preset_text": "presets",
}

__all__ = [
    "Composed",
    "RunConfig",
    "SourceConfig",
    "compose",
    "config_fingerprint",
    "dump_yaml",
    "known_keys",
    "list_presets",
    "load_config",
    "preset_text",
]

if TYPE_CHECKING:
    from ensemw2s.config.composition import Composed, compose, load_config
    from ensemw2s.config.data import SourceConfig
    from ensemw2s.config.dump import config_fingerprint, dump_yaml
    from ensemw2s.config.keys import known_keys
    from ensemw2s.config.presets import list_presets, preset_text
    from ensemw2s.config.schema import RunConfig


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"ensemw2s.config.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'ensemw2s.config' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

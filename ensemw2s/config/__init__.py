"""The configuration of a run: one schema; presets, files, environment and flags composed in that order."""

from ensemw2s.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"RunConfig": "schema", "compose": "composition"})

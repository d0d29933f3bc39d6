"""Runs one configuration: plan, stages, resume."""

from ensemw2s.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"execute": "run", "planned_stages": "plan"})

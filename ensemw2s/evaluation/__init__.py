"""Statistics of a run: intervals, comparisons, performance gap recovered, and the results files. Needs no torch."""

from ensemw2s.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"Results": "results"})

"""Phase 1: token weights, the α rules and the rounds of boosting."""

from ensemw2s.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"AlphaRule": "alpha", "Learner": "loop"})

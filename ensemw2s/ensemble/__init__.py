"""The ensemble of experts: combination of kept scores, and the trained ensemble on disk."""

from __future__ import annotations

from ensemw2s.ensemble.choices import EnsembleChoices, final_choices, own_choices, staged_choices
from ensemw2s.ensemble.ensemble import Ensemble
from ensemw2s.ensemble.options import normalise, sequence_scores, staged_mixture
from ensemw2s.ensemble.tokens import ensemble_argmax

__all__ = [
    "Ensemble",
    "EnsembleChoices",
    "ensemble_argmax",
    "final_choices",
    "normalise",
    "own_choices",
    "sequence_scores",
    "staged_choices",
    "staged_mixture",
]

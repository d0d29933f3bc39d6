"""The ensemble of experts: combination of kept scores, the trained ensemble on disk, and one causal language model.

Importing this registers saved ensembles with the Auto classes of ``transformers``, which it therefore loads.
"""

from __future__ import annotations

from ensemw2s.ensemble.combine.argmax import ensemble_argmax
from ensemw2s.ensemble.combine.choices import EnsembleChoices, final_choices, own_choices
from ensemw2s.ensemble.combine.option_scores import mixture, normalise, sequence_scores
from ensemw2s.ensemble.ensemble import Ensemble
from ensemw2s.ensemble.hf.causal_lm import EnsembleForCausalLM
from ensemw2s.ensemble.hf.config import EnsembleConfig
from ensemw2s.ensemble.mixed.compatibility import Compatibility, check_compatibility

__all__ = [
    "Compatibility",
    "Ensemble",
    "EnsembleChoices",
    "EnsembleConfig",
    "EnsembleForCausalLM",
    "check_compatibility",
    "ensemble_argmax",
    "final_choices",
    "mixture",
    "normalise",
    "own_choices",
    "sequence_scores",
]

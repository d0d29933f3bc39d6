"""The ensemble of experts: combination of kept scores, the trained ensemble on disk, and one causal language model.

Importing this registers saved ensembles with the Auto classes of ``transformers``, which it therefore loads.
"""

from __future__ import annotations

from ensemw2s.ensemble.ensemble import Ensemble
from ensemw2s.ensemble.hf.causal_lm import EnsembleForCausalLM
from ensemw2s.ensemble.hf.config import EnsembleConfig
from ensemw2s.ensemble.mixed.compatibility import check_compatibility

__all__ = ["Ensemble", "EnsembleConfig", "EnsembleForCausalLM", "check_compatibility"]

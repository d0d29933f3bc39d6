"""Phase 2: the ensemble labels the hard pool."""

from __future__ import annotations

from ensemw2s.labelling.generate import label_by_generating
from ensemw2s.labelling.labels import Labels, SoftTargets, labels_from_choices

__all__ = ["Labels", "SoftTargets", "label_by_generating", "labels_from_choices"]

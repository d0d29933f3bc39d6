"""Phase 2: the ensemble labels the hard pool."""

from __future__ import annotations

from ensemw2s.labelling.labels import Labels, SoftTargets, labels_from_answers, labels_from_choices

__all__ = ["Labels", "SoftTargets", "labels_from_answers", "labels_from_choices"]

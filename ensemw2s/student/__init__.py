"""Phase 3: filters on pseudo-labels, and the student's training set and loss."""

from __future__ import annotations

from ensemw2s.student.filters import select_labels
from ensemw2s.student.training import (
    binary_answer_tokens,
    labelled_examples,
    student_loss,
    student_training_set,
)

__all__ = ["binary_answer_tokens", "labelled_examples", "select_labels", "student_loss", "student_training_set"]

"""Phase 3: filters on pseudo-labels, and the student's training set and loss."""

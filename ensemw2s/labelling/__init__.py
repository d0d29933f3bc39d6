"""Phase 2: the ensemble labels the hard pool."""

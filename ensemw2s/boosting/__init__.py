"""Phase 1: token weights, the α rules and the rounds of boosting. Import from the modules."""

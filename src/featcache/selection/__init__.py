"""Which head is best: every head on the same folds, nested, in parallel."""

"""A user's own file through an ensemble."""

"""Several runs: sweeps and seeds."""

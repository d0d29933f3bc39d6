"""Statistics of a run: intervals, comparisons, performance gap recovered, and the results files. Needs no torch."""

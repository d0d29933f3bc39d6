"""Reports of finished runs: tables, plots, a verdict in words, and one self-contained HTML page."""

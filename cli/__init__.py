"""The command line ``ew2s``."""

"""``python -m ensemw2s.cli`` is the command ``ew2s``."""

from __future__ import annotations

import sys

from ensemw2s.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

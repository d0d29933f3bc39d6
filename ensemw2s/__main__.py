"""``python -m ensemw2s`` and ``accelerate launch -m ensemw2s`` are the command ``ew2s``."""

from __future__ import annotations

import sys


def _main() -> int:
    try:
        from ensemw2s.cli.main import main
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("ensemw2s."):
            raise
        print(
            "EnsemW2S is not installed here, this is only its source folder. Run `make install` in the clone, "
            "then use `.venv/bin/ew2s`.",
            file=sys.stderr,
        )
        return 2
    return main()


if __name__ == "__main__":
    sys.exit(_main())

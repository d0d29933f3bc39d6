"""EnsemW2S: token-level boosting of weak language models, and the strong students that learn from them.

Importing this package loads nothing heavy; names resolve on first use.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from typing import TYPE_CHECKING

from ensemw2s._version import __version__
from ensemw2s.lazy import lazy_names

__all__ = [
    "Ensemble",
    "Example",
    "RunConfig",
    "WeightedTokenSampler",
    "__version__",
    "compose",
    "execute",
    "execute_seeds",
]

if TYPE_CHECKING:
    from ensemw2s.boosting.torch_sampler import WeightedTokenSampler
    from ensemw2s.config.composition import compose
    from ensemw2s.config.schema import RunConfig
    from ensemw2s.data.example import Example
    from ensemw2s.ensemble import Ensemble
    from ensemw2s.pipeline.run import execute
    from ensemw2s.sweeps.seeds import execute_seeds


def _is_built(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, "_native" + suffix)) for suffix in EXTENSION_SUFFIXES)  # noqa: PTH113, PTH118


def _leave_source_checkout() -> None:
    """Make an installed copy win over a source checkout in the current folder.

    Python started in a clone's root finds the source folder first, which has no compiled extension, ``cli`` or
    ``kernels``. The package path then moves to the installed copy, and the clone's root leaves ``sys.path``, where
    its folder ``kernels`` would pass for the PyPI package of that name, which ``transformers`` looks for.
    """
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH120, PTH100
    if _is_built(here):
        return
    root = os.path.dirname(here)  # noqa: PTH120
    for entry in sys.path:
        home = os.path.join(os.path.abspath(entry), "ensemw2s")  # noqa: PTH118, PTH100
        if home != here and _is_built(home):
            __path__[:] = [home]
            sys.path[:] = [p for p in sys.path if os.path.abspath(p) != root]  # noqa: PTH100
            return


_leave_source_checkout()


__getattr__ = lazy_names(
    __name__,
    {
        "Ensemble": "ensemble",
        "Example": "data.example",
        "RunConfig": "config.schema",
        "WeightedTokenSampler": "boosting.torch_sampler",
        "compose": "config.composition",
        "execute": "pipeline.run",
        "execute_seeds": "sweeps.seeds",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)

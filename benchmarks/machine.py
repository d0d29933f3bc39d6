"""The machine and the versions that a benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ensemw2s._native as _native
from ensemw2s._version import __version__


def device() -> dict[str, Any]:
    """CPU, cores, threads, instruction set, compiler, system and versions."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")), name
        )
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "simd": _native.build_info()["simd"],
        "compiler": _native.build_info()["compiler"],
        "system": f"{platform.system()} {platform.release()}",
        "versions": {
            "ensemw2s": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }

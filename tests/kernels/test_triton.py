"""The Triton backend without a GPU: its cases run in Triton's interpreter, in a process of their own.

The interpreter must be chosen before anything imports triton, which other tests may have done by now.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ensemw2s import kernels
from ensemw2s.kernels.gpu.backend import TritonBackend
from ensemw2s.kernels.gpu.configs import CANDIDATES, MOST_TILES, WIDEST, choose

CASES = [Path(__file__).with_name(name) for name in ("triton_interpreted.py", "triton_sample_interpreted.py")]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def interpreted(tmp_path: Path, which: str) -> None:
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    command += ["-c", str(CASES[0].parents[2] / "pyproject.toml"), "--timeout=0", "-m", which, *map(str, CASES)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@needs_triton
def test_interpreted(tmp_path) -> None:
    interpreted(tmp_path, "not slow")


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_interpreted_at_length(tmp_path) -> None:
    interpreted(tmp_path, "slow")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter runs on the CPU")
def test_cannot_be_forced_on_the_cpu() -> None:
    assert "triton" not in kernels.available_backends("cpu")
    with pytest.raises(ValueError, match=r"'triton' cannot run on cpu: .*GPU.*available: .*reference"):
        kernels.combine(torch.zeros(1, 2, 9), [1], backend="triton")


def test_is_not_there_without_triton(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    reason = TritonBackend().unavailable(torch.device("cuda"))
    assert reason == "triton is not installed"


def test_configurations_are_a_function_of_the_problem_alone() -> None:
    for size in (2, 4):
        for experts in (1, 5, 8, 40):
            for vocabulary in (1, 9_000, 50_257, 151_936, 262_144, 10_000_000):
                config = choose(size, experts, vocabulary)
                assert config.block & (config.block - 1) == 0
                assert -(-vocabulary // config.block) <= MOST_TILES
                assert config.block > max(c.block for c in CANDIDATES) or config in (*CANDIDATES, WIDEST)

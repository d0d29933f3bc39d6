"""The GPU benchmark on the CPU, with tiny shapes: every part of it that needs no GPU runs, and its table is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)


def test_dry_run_ends_with_the_table(tmp_path) -> None:
    done = run(tmp_path, "--dry", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    record = json.loads((tmp_path / "gpu-dry-run-on-the-cpu.json").read_text())
    table = (tmp_path / "gpu-dry-run-on-the-cpu.md").read_text()
    assert done.stdout.rstrip().endswith(table.rstrip())
    assert record["correct"] is True
    names = {row["operation"] for row in record["rows"]}
    assert {"combine", "combine, product", "sample"} <= names
    assert table.count("\n| ") == len(record["rows"]) + 2
    assert all(row["x_eager"] > 0 for row in record["rows"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert "no GPU" in done.stderr
    assert list(tmp_path.iterdir()) == []

"""``benchmarks/training.py`` runs and says what it measured; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"


@pytest.mark.slow
def test_a_short_measurement(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--bases", "weak", "--steps", "20", "--rounds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    (case,) = json.loads((tmp_path / "training.json").read_text())["cases"]
    assert (case["base"], case["batch"], case["steps"]) == ("weak", 32, 20)
    assert min(case[what] for what in ("bare", "clipping", "trainer")) > 0
    assert case["share"] == pytest.approx(1 - case["bare"] / case["trainer"])
    assert (tmp_path / "training.md").read_text() in done.stdout

"""Ahead-of-time compilation of the Triton kernels: every target compiles, and no kernel spills registers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "triton_aot.py"
TARGETS = ["sm_80", "sm_90", "sm_100", "gfx942"]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not sys.platform.startswith("linux"),
    reason="triton's compiler is not installed",
)


def compiled(tmp_path: Path, *options: str) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")  # what is read must have been compiled now
    command = [sys.executable, str(SCRIPT), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.stdout, done.stderr[-4000:]
    return json.loads(done.stdout)


def check(records: list[dict], targets: list[str]) -> None:
    assert {r["target"] for r in records} == set(targets)
    names = {r["kernel"].split("(")[0] for r in records}
    assert names >= {"tile_stats_product", "finish_rows", "tile_values", "draw_tokens", "select_tokens"}
    # one expert alone takes the way of the product, which has nothing to mix
    assert ("tile_stats" in names) == (max(record["K"] for record in records) > 1)
    for record in records:
        assert record["spills"] == 0, record
        assert record["stack"] == 0, record
        assert record["registers"] > 0, record
        assert record["shared"] <= 48 * 1024, record


def test_compiles_without_spills(tmp_path) -> None:
    check(compiled(tmp_path, "--targets", "sm_90", "--experts", "3", "--dtypes", "bfloat16"), ["sm_90"])


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("experts", [1, 5, 8])
def test_compiles_without_spills_everywhere(experts, tmp_path) -> None:
    options = ["--targets", *TARGETS, "--experts", str(experts), "--dtypes", "bfloat16", "float16", "float32"]
    check(compiled(tmp_path, *options), TARGETS)

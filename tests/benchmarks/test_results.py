"""What ``benchmarks/`` makes of stored results."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def plot() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_plot", FOLDER / "plot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def report(*goals: dict[str, Any]) -> dict[str, Any]:
    return {"cases": [{"case": "combine float32 K=3 N=64 V=9", "goals": list(goals)}]}


RATIO = {"goal": "against eager", "safe": 2.0, "stretch": 4.0, "reached": 3.0, "verdict": "safe", "share": False}
SHARE = {"goal": "share", "safe": 0.5, "stretch": 0.75, "reached": 0.25, "verdict": "missed", "share": True}


def test_results_are_grouped_by_goal_and_kind(plot: ModuleType) -> None:
    found = report(RATIO, SHARE)
    (line,) = plot.grouped(found, share=False)["against eager"]
    assert (line.label, line.safe, line.stretch, line.reached) == ("float32 K=3 V=9", 2.0, 4.0, 3.0)
    (line,) = plot.grouped(found, share=True)["share"]
    assert (line.safe, line.reached, line.verdict) == (50.0, 25.0, "missed")


@pytest.mark.parametrize("goals", [(RATIO,), (SHARE,), (RATIO, SHARE)])
def test_a_picture_is_drawn_where_there_are_goals(plot: ModuleType, tmp_path: Path, goals: Any) -> None:
    path = plot.draw(report(*goals), tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plot.draw(report(), tmp_path / "b.png") is None


def test_the_stored_picture_has_results_to_draw(plot: ModuleType) -> None:
    stored = json.loads((FOLDER / "results" / "cpu.json").read_text(encoding="utf-8"))
    verdicts = {line.verdict for lines in plot.grouped(stored, share=False).values() for line in lines}
    assert verdicts <= {"stretch", "safe", "missed"}
    assert (FOLDER / "results" / "cpu.png").is_file()

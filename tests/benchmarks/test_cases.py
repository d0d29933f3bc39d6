"""The cases of ``benchmarks/run.py``, their measurement against goals, and the imports between the scripts."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = {path.stem: path for path in FOLDER.glob("*.py")}


@pytest.fixture(scope="module")
def run() -> Iterator[ModuleType]:
    """``benchmarks/run.py`` as a script sees it: its folder comes first in ``sys.path``."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("run")
    finally:
        sys.path.remove(str(FOLDER))
        for name in SCRIPTS:
            sys.modules.pop(name, None)


def imported(path: Path) -> set[str]:
    """Scripts of the folder that a script imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found & set(SCRIPTS)


def test_scripts_import_each_other_in_one_direction() -> None:
    left = {name: imported(path) for name, path in SCRIPTS.items()}
    assert left["run"] >= {"case", "combine", "samplers"}
    while left:
        free = [name for name, needs in left.items() if not needs & set(left)]
        assert free, f"in a circle: {sorted(left)}"
        for name in free:
            del left[name]


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_script_imports_from_the_package_exists(script: str) -> None:
    for node in ast.walk(ast.parse(SCRIPTS[script].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("ensemw2s"):
                    importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ensemw2s":
            for alias in node.names:
                if not hasattr(importlib.import_module(node.module), alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("quick", [True, False])
def test_every_case_is_named_once_and_its_goals_name_its_ways(run: ModuleType, quick: bool) -> None:
    cases = list(run.cases(quick=quick, only=None))
    assert {case.group for case in cases} == set(run.CASES)
    names = [f"{case.name} {case.size}" for case in cases]
    assert len(set(names)) == len(names)
    assert [case.group for case in run.cases(quick=quick, only="updates")] == ["updates"] * 4
    for case in cases:
        assert case.bytes_moved > 0
        assert all(goal.safe < goal.stretch for goal in case.goals)


@pytest.mark.parametrize("maker", ["_iid_case", "_without_replacement_case", "_update_case"])
def test_goals_of_large_cases_name_ways_of_small_ones(run: ModuleType, maker: str) -> None:
    make = getattr(sys.modules["samplers"], maker)
    options: list[dict] = [{}]
    if maker == "_update_case":
        options = [{"dtype": dtype, "known": known} for dtype in (np.float64, np.float32) for known in (False, True)]
    for option in options:
        ways = make(2000, **option).make()
        for way in ways.values():
            way()
        goals = make(50_000_000, **option).goals
        assert goals
        assert {name for goal in goals for name in goal.against} | {run.READ} <= set(ways)


def test_both_ways_to_decode_are_measured(run: ModuleType) -> None:
    decoding = importlib.import_module("decoding")
    experts = decoding.experts_of("62k parameters", 2, torch.device("cpu"))
    found = decoding.measure(experts, answers=2, tokens=3, rounds=1, stopwatch=decoding.processor_time)
    assert (found["K"], found["answers"], found["tokens"]) == (2, 2, 3)
    assert found["all"] > 0
    assert found["one"] > 0
    assert "| 2 × 62k parameters | 2 | 3 |" in decoding.table([found])


def test_a_case_is_measured_against_its_goals(run: ModuleType) -> None:
    def slow() -> int:
        return sum(range(30_000))

    ways = {"ours": lambda: sum(range(300)), "theirs": slow, "theirs, reused": slow, "read": lambda: sum(range(100))}
    goals = [
        run.Goal("against theirs", ("theirs", "gone"), 1.5, 1e9),
        run.Goal("share of the read bandwidth", ("read",), 1e-9, 1e9),
        run.Goal("out of reach", ("theirs, reused",), 1e8, 1e9),
    ]
    case = run.LongCase("g", "n", "s", lambda: ways, bytes_moved=8, goals=goals, tuned=frozenset({"theirs, reused"}))
    found = run.measured(case, rounds=3, seconds=1.0)
    assert (found["case"], found["ours"], found["bytes"]) == ("n s", "ours", 8)
    assert set(found["ways"]) >= {"ours", "theirs", "read"}
    assert found["ratios"]["theirs"] > 1.5
    assert [(goal["verdict"], goal["share"]) for goal in found["goals"]] == [
        ("safe", False),
        ("safe", True),
        ("missed", False),
    ]
    assert found["ways"]["theirs"]["memory"] is None or found["ways"]["theirs"]["memory"] >= 0
    text = sys.modules["tables"].markdown({"cases": [{**found, "others": None}]}, head=False)
    assert "### n s" in text
    assert "| theirs |" in text

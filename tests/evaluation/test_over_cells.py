from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import ttest_rel

from ensemw2s.evaluation import aggregate
from ensemw2s.evaluation.over_cells import (
    JobResult,
    SweepResults,
    cell_result,
    compare_cells,
    sweep_caution,
)


def jobs(seeds):
    return [JobResult(seed=seed, state="finished", directory=f"cells/x/seed-{seed}") for seed in seeds]


def relabelled(results, seed):
    """The same numbers under another seed."""
    return dataclasses.replace(results, seed=seed)


@pytest.fixture
def cells(make_results):
    """Three cells with four seeds, of which the second is better and the third like the first."""
    gains = {"base": 0.0, "better": 0.06, "same": 0.0}
    out = []
    for k, (name, gain) in enumerate(gains.items()):
        arms = ("plain", "bagging", "ensemble", "student_ensemble", "ceiling")
        accuracy = dict.fromkeys(arms, (0.5 + gain, 0.4 + gain)) | {"student_plain": (0.5, 0.4)}
        results = {seed: relabelled(make_results(seed + 100 * k, accuracy=accuracy), seed) for seed in range(4)}
        out.append(cell_result(name, {"boosting.rounds": k}, jobs(range(4)), results))
    return out


def holm_by_hand(pvalues):
    """Step down: the k-th smallest times the number left, never falling."""
    order = np.argsort(pvalues)
    out, largest = np.empty(len(pvalues)), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        out[index] = largest
    return out


def test_comparisons_are_paired_t_tests_with_holm(cells):
    found = compare_cells(cells, "base", ("ensemble", "student_ensemble"), 0.95)
    assert [(c.cell, c.arm, c.split) for c in found] == [
        (cell, arm, split)
        for cell in ("better", "same")
        for arm in ("ensemble", "student_ensemble")
        for split in ("test", "hard_test")
    ]
    values = {cell.name: cell.arms for cell in cells}
    expected = []
    for c in found:
        a, b = values[c.cell][c.arm][c.split].values, values["base"][c.arm][c.split].values
        test = ttest_rel(a, b)
        expected.append(test.pvalue)
        assert c.differences == pytest.approx(np.subtract(a, b))
        assert c.mean == pytest.approx(np.mean(np.subtract(a, b)))
        assert (c.t, c.p) == (pytest.approx(test.statistic), pytest.approx(test.pvalue))
        interval = test.confidence_interval(0.95)
        assert (c.low, c.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
        assert c.seeds == (0, 1, 2, 3)
    assert [c.p_holm for c in found] == pytest.approx(holm_by_hand(expected))


def test_a_missing_seed_leaves_the_others_paired(cells, make_results):
    fewer = cell_result("few", {}, jobs([1, 3]), {seed: relabelled(make_results(seed + 300), seed) for seed in (1, 3)})
    (found, _) = compare_cells([cells[0], fewer], "base", ("ensemble",), 0.95)
    assert found.seeds == (1, 3)
    base = dict(zip(cells[0].arms["ensemble"]["test"].seeds, cells[0].arms["ensemble"]["test"].values, strict=True))
    mine = fewer.arms["ensemble"]["test"].values
    assert found.differences == pytest.approx([mine[0] - base[1], mine[1] - base[3]])


def test_one_seed_has_no_test_but_counts(cells, make_results):
    one = cell_result("one", {}, jobs([2]), {2: relabelled(make_results(9), 2)})
    assert one.arms["ensemble"]["test"].sd is None
    found = compare_cells([*cells, one], "base", ("ensemble",), 0.95)
    lonely = [c for c in found if c.cell == "one"]
    assert all(c.p is None is c.p_holm and c.sd is None and len(c.differences) == 1 for c in lonely)
    smallest = min((c for c in found if c.p is not None), key=lambda c: c.p)
    assert smallest.p_holm == pytest.approx(min(1.0, len(found) * smallest.p))


def test_a_cell_without_results_is_left_out(cells):
    empty = cell_result("empty", {}, [JobResult(seed=0, state="failed", directory="x", error="no")], {})
    assert empty.arms == {}
    assert empty.state == "failed, 0/1"
    assert not [c for c in compare_cells([*cells, empty], "base", ("ensemble",), 0.95) if c.cell == "empty"]
    assert compare_cells(cells, "base", ("nothing",), 0.95) == []


def test_cells_agree_with_the_aggregate_over_seeds(make_results):
    runs = {seed: make_results(seed) for seed in range(3)}
    cell, together = cell_result("c", {}, jobs(range(3)), runs), aggregate(list(runs.values()))
    assert cell.arms == together.arms
    assert cell.pgr == together.pgr
    assert cell.selected_rounds == [3, 4, 5]
    single = cell_result("c", {}, jobs([0]), {0: runs[0]})
    assert single.pgr == runs[0].pgr
    assert single.state == "finished"


def test_sweep_json_round_trip(cells, tmp_path):
    sweep = SweepResults(
        name="toy",
        task="choice",
        over={"boosting.rounds": [0, 1, 2], "boosting.cap": [None]},
        seeds=(0, 1, 2, 3),
        baseline="base",
        compared=("ensemble",),
        level=0.95,
        cells=cells,
        comparisons=compare_cells(cells, "base", ("ensemble",), 0.95),
        caution=sweep_caution(4, 0.95),
    )
    sweep.write(tmp_path / "sweep.json")
    assert SweepResults.read(tmp_path / "sweep.json") == sweep
    assert json.loads((tmp_path / "sweep.json").read_text())["cells"][1]["settings"] == {"boosting.rounds": 1}
    assert sweep.comparison("better", "ensemble", "test") is not None
    assert sweep.comparison("base", "ensemble", "test") is None
    assert "no test" in sweep_caution(1, 0.95)
    assert "prove little" in sweep_caution(2, 0.95)

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_rel

from ensemw2s.evaluation.comparisons import paired_difference
from ensemw2s.evaluation.over_cells import (
    JobResult,
    SweepResults,
    cell_result,
    compare_cells,
    sweep_caution,
)
from ensemw2s.evaluation.over_seeds import aggregate


def jobs(seeds):
    return [JobResult(seed=seed, state="finished", directory=f"cells/x/seed-{seed}") for seed in seeds]


def relabelled(results, seed):
    """The same numbers under another seed."""
    return dataclasses.replace(results, seed=seed)


GAINS = {"base": 0.0, "better": 0.06, "same": 0.0}


def accuracy_with(gain):
    arms = ("plain", "bagging", "ensemble", "student_ensemble", "ceiling")
    return dict.fromkeys(arms, (0.5 + gain, 0.4 + gain)) | {"student_plain": (0.5, 0.4)}


@pytest.fixture
def cells(make_results):
    """Three cells with four seeds, of which the second is better and the third like the first."""
    out = []
    for k, (name, gain) in enumerate(GAINS.items()):
        results = {
            seed: relabelled(make_results(seed + 100 * k, accuracy=accuracy_with(gain)), seed) for seed in range(4)
        }
        out.append(cell_result(name, {"boosting.rounds": k}, jobs(range(4)), results))
    return out


@pytest.fixture
def answers(make_answers):
    """Cell → seed → answers; all cells have a seed's questions."""

    def of(place, gain, seed):
        made = make_answers(seed + 100 * place, accuracy_with(gain))
        return dataclasses.replace(made, ids={s: [f"{seed}-{i}" for i in range(len(n))] for s, n in made.ids.items()})

    return {
        name: {seed: of(place, gain, seed) for seed in range(4)} for place, (name, gain) in enumerate(GAINS.items())
    }


def holm_by_hand(pvalues):
    """Step down: the k-th smallest times the number left, never falling."""
    order = np.argsort(pvalues)
    out, largest = np.empty(len(pvalues)), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        out[index] = largest
    return out


def test_comparisons_are_paired_t_tests_with_holm(cells, answers):
    found = compare_cells(cells, "base", ("ensemble", "student_ensemble"), 0.95, answers)
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
        squares = []
        for seed in range(4):
            mine, theirs = (answers[name][seed].correct[c.arm][c.split] for name in (c.cell, "base"))
            squares.append(paired_difference(mine, theirs).se ** 2)
        plain, floor = ttest_rel(a, b), np.sqrt(np.mean(squares) / 4)
        assert c.differences == pytest.approx(np.subtract(a, b))
        assert c.mean == pytest.approx(np.mean(np.subtract(a, b)))
        assert (c.se, c.sampling_se) == (pytest.approx(max(c.sd / 2, floor)), pytest.approx(floor))
        expected.append(max(plain.pvalue, 2 * student_t.sf(abs(c.mean) / floor, 3)))
        assert (c.t, c.p) == (pytest.approx(c.mean / c.se), pytest.approx(expected[-1]))
        half = student_t.ppf(0.975, 3) * c.se
        assert (c.low, c.high) == (pytest.approx(c.mean - half), pytest.approx(c.mean + half))
        assert c.seeds == (0, 1, 2, 3)
    assert [c.p_holm for c in found] == pytest.approx(holm_by_hand(expected))


def test_a_missing_seed_leaves_the_others_paired(cells, answers, make_results, make_answers):
    fewer = cell_result("few", {}, jobs([1, 3]), {seed: relabelled(make_results(seed + 300), seed) for seed in (1, 3)})
    theirs = {"few": {seed: make_answers(seed + 300) for seed in (1, 3)}}
    (found, _) = compare_cells([cells[0], fewer], "base", ("ensemble",), 0.95, answers | theirs)
    assert found.seeds == (1, 3)
    base = dict(zip(cells[0].arms["ensemble"]["test"].seeds, cells[0].arms["ensemble"]["test"].values, strict=True))
    mine = fewer.arms["ensemble"]["test"].values
    assert found.differences == pytest.approx([mine[0] - base[1], mine[1] - base[3]])


def test_one_seed_has_no_test_but_counts(cells, answers, make_results, make_answers):
    one = cell_result("one", {}, jobs([2]), {2: relabelled(make_results(9), 2)})
    assert one.arms["ensemble"]["test"].sd is None
    found = compare_cells([*cells, one], "base", ("ensemble",), 0.95, answers | {"one": {2: make_answers(9)}})
    lonely = [c for c in found if c.cell == "one"]
    assert all(c.p is None is c.p_holm and c.sd is None and len(c.differences) == 1 for c in lonely)
    smallest = min((c for c in found if c.p is not None), key=lambda c: c.p)
    assert smallest.p_holm == pytest.approx(min(1.0, len(found) * smallest.p))


def test_a_cell_without_results_is_left_out(cells, answers):
    empty = cell_result("empty", {}, [JobResult(seed=0, state="failed", directory="x", error="no")], {})
    assert empty.arms == {}
    assert empty.state == "failed, 0/1"
    found = compare_cells([*cells, empty], "base", ("ensemble",), 0.95, answers | {"empty": {}})
    assert not [c for c in found if c.cell == "empty"]
    assert compare_cells(cells, "base", ("nothing",), 0.95, answers) == []


def test_cells_agree_with_the_aggregate_over_seeds(make_results):
    runs = {seed: make_results(seed) for seed in range(3)}
    cell, together = cell_result("c", {}, jobs(range(3)), runs), aggregate(list(runs.values()))
    assert cell.arms == together.arms
    assert cell.pgr == together.pgr
    assert cell.selected_rounds == [3, 4, 5]
    single = cell_result("c", {}, jobs([0]), {0: runs[0]})
    assert single.pgr == runs[0].pgr
    assert single.state == "finished"


def test_sweep_json_round_trip(cells, answers, tmp_path):
    sweep = SweepResults(
        name="toy",
        task="choice",
        over={"boosting.rounds": [0, 1, 2], "boosting.cap": [None]},
        seeds=(0, 1, 2, 3),
        baseline="base",
        compared=("ensemble",),
        level=0.95,
        cells=cells,
        comparisons=compare_cells(cells, "base", ("ensemble",), 0.95, answers),
        caution=sweep_caution(4, 0.95),
    )
    sweep.write(tmp_path / "sweep.json")
    assert SweepResults.read(tmp_path / "sweep.json") == sweep
    assert json.loads((tmp_path / "sweep.json").read_text())["cells"][1]["settings"] == {"boosting.rounds": 1}
    assert sweep.comparison("better", "ensemble", "test") is not None
    assert sweep.comparison("base", "ensemble", "test") is None
    assert "no test" in sweep_caution(1, 0.95)
    assert "prove little" in sweep_caution(2, 0.95)

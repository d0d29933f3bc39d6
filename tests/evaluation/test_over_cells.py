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
    compare_with_controls,
    levels_of,
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


FACTORS = {f"size={size},noise={noise}": (size, noise) for size in ("small", "large") for noise in ("0", "0.1", "0.3")}


def design(make_results, make_answers, names, seeds=range(4)):
    """Cells of given names, and their answers; all cells of a seed have the same questions, and a seed its own."""
    cells, answers = [], {}
    for place, name in enumerate(names):
        runs = {seed: relabelled(make_results(seed + 100 * place), seed) for seed in seeds}
        made = {seed: make_answers(seed + 100 * place) for seed in seeds}
        answers[name] = {
            seed: dataclasses.replace(
                found, ids={s: [f"{seed}-{i}" for i in range(len(n))] for s, n in found.ids.items()}
            )
            for seed, found in made.items()
        }
        cells.append(cell_result(name, {}, jobs(seeds), runs, answers[name]))
    return cells, answers


def test_the_ensemble_against_its_controls_in_a_cell_is_what_the_aggregate_says(make_results, make_answers):
    runs = [make_results(seed) for seed in range(3)]
    answers = {seed: make_answers(seed) for seed in range(3)}
    cell = cell_result("c", {}, jobs(range(3)), {run.seed: run for run in runs}, answers)
    found = compare_with_controls([cell], 0.9, {"c": answers})
    assert [(c.control, c.split, c.levels, c.cells) for c in found] == [
        ("bagging", split, {}, ("c",)) for split in ("test", "hard_test")
    ]
    together = aggregate([dataclasses.replace(run, level=0.9) for run in runs], answers=answers)
    for one in found:
        same = together.difference("ensemble", "bagging", one.split)
        for name in ("differences", "mean", "low", "high", "p", "se", "sampling_se", "repeat_low", "repeat_high"):
            assert getattr(one, name) == pytest.approx(getattr(same, name)), name
        assert one.p_holm is None


def test_means_over_the_cells_of_a_level_are_tested_seed_by_seed(make_results, make_answers):
    """By hand: the difference of every seed is the mean over cells, and so is what each question adds to it."""
    cells, answers = design(make_results, make_answers, FACTORS)
    found = [c for c in compare_with_controls(cells, 0.95, answers) if c.split == "hard_test"]
    rows = [{}, {"size": "small"}, {"size": "large"}, {"noise": "0"}, {"noise": "0.1"}, {"noise": "0.3"}]
    each = [dict(zip(("size", "noise"), levels, strict=True)) for levels in FACTORS.values()]
    assert [c.levels for c in found] == rows + each
    for one in found:
        of = [n for n, (size, noise) in FACTORS.items() if one.levels.items() <= {"size": size, "noise": noise}.items()]
        assert one.cells == tuple(of)
        assert one.seeds == (0, 1, 2, 3)
        correct = np.array([[
            np.asarray(answers[name][seed].correct[arm]["hard_test"], dtype=float) for arm in ("ensemble", "bagging")
        ] for name in of for seed in range(4)]).reshape(len(of), 4, 2, -1)  # fmt: skip
        gain = (correct[:, :, 0] - correct[:, :, 1]).mean(axis=0)
        assert one.differences == pytest.approx(gain.mean(axis=1))
        floor = np.sqrt(np.mean(gain.var(axis=1, ddof=1) / gain.shape[1]) / 4)
        assert one.sampling_se == pytest.approx(floor)
        assert one.se == pytest.approx(max(gain.mean(axis=1).std(ddof=1) / 2, floor))
        assert one.high - one.mean == pytest.approx(student_t.ppf(0.975, 3) * one.se)


def test_levels_are_averaged_only_where_the_design_is_balanced(make_results, make_answers):
    def found(names):
        cells, answers = design(make_results, make_answers, names, seeds=[0, 1])
        return [c for c in compare_with_controls(cells, 0.95, answers) if c.split == "test"]

    def rows(names):
        return [c.levels for c in found(names)]

    square = ["a=1,b=1", "a=1,b=2", "a=2,b=1", "a=2,b=2"]
    assert {} in rows(square)
    assert rows(square[:3])[:3] == [{"a": "1", "b": "1"}, {"a": "1", "b": "2"}, {"a": "2", "b": "1"}]
    assert {} not in rows(square[:3])
    for names in (["a=1", "a=2"], ["a=1,b=1", "a=1,b=2"]):
        assert rows(names) == [levels_of(name) for name in names], "one factor: its cells are the levels"
    for names in (["a=1,b=1", "a=1"], ["first", "second"], ["a=1,a=2", "a=1,a=1"], ["x=[1,2]", "x=[2,1]"]):
        assert all(len(c.cells) == 1 for c in found(names))


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("layers=[1, 2],cap=5", {"layers": "[1, 2]", "cap": "5"}),
        ('targets=["q_proj", "v_proj"],rank=4', {"targets": '["q_proj", "v_proj"]', "rank": "4"}),
        ('split={"train": 5, "test": 3},data.seed=1', {"split": '{"train": 5, "test": 3}', "data.seed": "1"}),
        ("a=x=y,b=", {}),
        ("short,cap=5", {}),
        ("=1,b=2", {}),
        ("", {}),
    ],
)
def test_levels_are_read_from_the_names_of_cells(name, levels):
    assert levels_of(name) == levels


def test_lists_are_levels_of_a_design(make_results, make_answers):
    names = [f"layers={layers},cap={cap}" for layers in ("[1, 2]", "[3]") for cap in (2, 5)]
    cells, answers = design(make_results, make_answers, names, seeds=[0])
    found = [c.levels for c in compare_with_controls(cells, 0.95, answers) if len(c.cells) > 1 and c.split == "test"]
    assert found == [{}, {"layers": "[1, 2]"}, {"layers": "[3]"}, {"cap": "2"}, {"cap": "5"}]


def test_a_mean_over_cells_waits_for_all_of_them(make_results, make_answers):
    names = ["a=1,b=1", "a=1,b=2", "a=2,b=1", "a=2,b=2"]
    cells, answers = design(make_results, make_answers, names)
    late, partly = design(make_results, make_answers, names[3:], seeds=[1])
    found = compare_with_controls([*cells[:3], *late], 0.95, answers | partly)
    seeds = {tuple(c.levels.items()): c.seeds for c in found}
    assert seeds[()] == seeds[("a", "2"),] == (1,)
    assert seeds[("a", "1"),] == (0, 1, 2, 3)
    assert next(c for c in found if not c.levels).p is None
    waiting = cell_result(names[3], {}, [JobResult(seed=0, state="waiting", directory="x")], {})
    found = compare_with_controls([*cells[:3], waiting], 0.95, answers | {names[3]: {}})
    assert {tuple(c.levels.items()) for c in found if len(c.cells) > 1} == {(("a", "1"),), (("b", "1"),)}
    assert compare_with_controls([waiting], 0.95, {names[3]: {}}) == []

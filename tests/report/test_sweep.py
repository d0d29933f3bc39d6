from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ensemw2s.arms import arm_spec
from ensemw2s.evaluation.over_cells import (
    JobResult,
    SweepResults,
    cell_result,
    compare_cells,
    compare_with_controls,
    levels_of,
    sweep_caution,
)
from ensemw2s.evaluation.sampling import Answers
from ensemw2s.report.build import build_report, console_report, load_results
from ensemw2s.report.plots import sweep_plots
from ensemw2s.report.sweep_plots import draw_controls
from ensemw2s.report.sweep_tables import cell_comparison_table, control_table, sweep_sentences, sweep_tables
from ensemw2s.report.theme import THEMES, drawing
from ensemw2s.sweeps.file import read_sweep_file

NAMES = ("level=token,rounds=3", "level=example,rounds=3", "level=token,rounds=5")


def answers_of(results):
    """Answers with the accuracies of some results; which questions they are of does not matter here."""
    correct = {
        arm: {split: np.arange(cell.n) < round(cell.accuracy * cell.n) for split, cell in by.items()}
        for arm, by in results.arms.items()
    }
    return Answers(correct, {split: [str(i) for i in range(cell.n)] for split, cell in results.arms["plain"].items()})


def make_sweep(run_factory, seeds=(0, 1, 2), failed=None):
    cells, answers = [], {}
    for k, name in enumerate(NAMES):
        jobs, results = [], {}
        for seed in seeds:
            folder = f"cells/{name}/seed-{seed}"
            if (name, seed) == failed:
                jobs.append(
                    JobResult(seed=seed, state="failed", directory=folder, error="The disk is full: [/x] 0 MiB.")
                )
                continue
            jobs.append(JobResult(seed=seed, state="finished", directory=folder, seconds=3.0, flops=10**9))
            accuracy = {
                "plain": (0.7, 0.4), "ensemble": (0.75, 0.5), "student_plain": (0.7, 0.5),
                "student_ensemble": (0.77, 0.55), "ceiling": (0.95, 0.9),
            }  # fmt: skip
            found = run_factory(seed + 10 * k, accuracy=accuracy)
            results[seed] = dataclasses.replace(found, seed=seed)
            answers.setdefault(name, {})[seed] = answers_of(found)
        level, rounds = (part.partition("=")[2] for part in name.split(","))
        cells.append(cell_result(name, {"boosting.level": level, "boosting.rounds": int(rounds)}, jobs, results))
    compared = ("ensemble", "student_ensemble")
    return SweepResults(
        name="tiny",
        task="choice",
        over={"boosting.level": ["token", "example"], "boosting.rounds": [3, 5]},
        seeds=tuple(seeds),
        baseline=NAMES[0],
        compared=compared,
        level=0.95,
        cells=cells,
        comparisons=compare_cells(cells, NAMES[0], compared, 0.95, answers),
        caution=sweep_caution(len(seeds), 0.95),
    )


@pytest.fixture(scope="module")
def sweep(run_factory):
    return make_sweep(run_factory)


def test_cells_and_comparisons_hold_the_numbers(sweep):
    cells, against, pgr = sweep_tables(sweep)
    assert [c.header for c in cells.columns][:6] == [
        "cell", "seeds", "ensemble ID", "ensemble OOD", "student ID", "student OOD",
    ]  # fmt: skip
    summary = sweep.cells[0].arms["ensemble"]["test"]
    assert cells.rows[0].cells[0] == f"{NAMES[0]} *"
    assert cells.rows[0].cells[1:3] == ("3", f"{100 * summary.mean:.1f} ± {100 * summary.sd:.1f}")
    assert cells.rows[0].strong
    assert not cells.rows[1].strong
    assert cells.rows[0].cells[6] == "5"  # the rounds that validation chose, the same for all seeds
    found = sweep.comparison(NAMES[1], "ensemble", "test")
    row = against.rows[0].cells
    assert row[:3] == (NAMES[1], "ensemble", "ID")
    assert row[3].startswith(f"{100 * found.mean:+.1f} [".replace("-", "−"))
    assert len(against.rows) == 8
    assert "all 8 tests" in against.notes[0]
    assert len(pgr.rows) == 3


def test_words_follow_the_tests(sweep):
    assert any("none is clear after Holm" in sentence for sentence in sweep_sentences(sweep))

    def told(mean, p):
        found = [dataclasses.replace(c, mean=mean, p_holm=p if c.cell == NAMES[1] else 1.0) for c in sweep.comparisons]
        return " ".join(sweep_sentences(dataclasses.replace(sweep, comparisons=found)))

    better = told(0.04, 0.01)
    assert f"{NAMES[1]} is better than the baseline for the boosted ensemble on ID (+4.0" in better
    assert "p\u00a0=\u00a00.010 after Holm" in better
    assert "9 of 9 runs are finished." in better
    assert f"{NAMES[1]} is worse than the baseline" in told(-0.04, 0.049)
    assert "is worse" not in told(-0.04, 0.051)


def test_failures_are_shown(run_factory):
    sweep = make_sweep(run_factory, failed=(NAMES[2], 1))
    failures = sweep_tables(sweep)[-1]
    assert failures.title == "Failed runs"
    assert failures.rows[0].cells == (NAMES[2], "1", "The disk is full: [/x] 0 MiB.")
    assert "8 of 9 runs are finished, 1 failed." in " ".join(sweep_sentences(sweep))
    table = cell_comparison_table(sweep)
    assert any(f"Not all seeds are there yet for: {NAMES[2]}." in note for note in table.notes)
    assert sweep_tables(sweep)[0].rows[2].cells[1] == "2/3"


def test_one_seed_makes_no_claims(run_factory):
    sweep = make_sweep(run_factory, seeds=(0,))
    cells, against, *_ = sweep_tables(sweep)
    assert cells.title == "Accuracy in % over 1 seed"
    assert {row.cells[6] for row in against.rows} == {"–"}
    assert "no test" in " ".join(sweep_sentences(sweep))


def test_report_of_a_sweep(sweep, tmp_path):
    sweep.write(tmp_path / "sweep.json")
    assert load_results(tmp_path) == sweep
    page = build_report(tmp_path)
    names = {"cells.png", "files.json", "report.html", "report.md", "tables.md", "tables.tex"}
    assert {path.name for path in page.parent.iterdir()} == names
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg ") == 2
    assert "sweep over 3 configurations" in text
    assert re.search(r"boosting\.rounds: 3, 5", text)


def test_nothing_finished_yet_is_a_report_too(run_factory, tmp_path):
    empty = make_sweep(run_factory)
    waiting = [
        cell_result(c.name, c.settings, [JobResult(seed=0, state="waiting", directory="x")], {}) for c in empty.cells
    ]
    bare = dataclasses.replace(empty, cells=waiting, comparisons=[], seeds=(0,))
    assert sweep_tables(bare) == []
    assert sweep_plots(bare) == {}
    assert "0 of 3 runs are finished." in sweep_sentences(bare)


def test_console_shows_the_main_tables(sweep, capsys):
    Console(width=80).print(console_report(sweep, 80))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "Against the baseline, in points" in shown
    assert "Performance gap recovered" not in shown


@pytest.fixture(scope="module")
def balanced(run_factory):
    """The cells of the study of when boosting is worth its cost, with numbers that mean nothing."""
    arms = ("plain", "plain_long", "bagging", "seeds", "chain", "ensemble")
    accuracy = dict(
        zip(arms, ((0.6, 0.4), (0.7, 0.5), (0.62, 0.4), (0.61, 0.4), (0.7, 0.45), (0.75, 0.5)), strict=True)
    )
    cells, answers = [], {}
    for place, name in enumerate(read_sweep_file(Path(__file__).parents[2] / "benchmarks/studies/map.yaml").cells):
        runs = {seed: run_factory(seed + 10 * place, accuracy=accuracy) for seed in (0, 1, 2)}
        answers[name] = {seed: answers_of(run) for seed, run in runs.items()}
        jobs = [JobResult(seed=seed, state="finished", directory="x", seconds=3.0) for seed in runs]
        runs = {seed: dataclasses.replace(run, seed=seed) for seed, run in runs.items()}
        cells.append(cell_result(name, {}, jobs, runs))
    return SweepResults(
        name="map",
        task="choice",
        over={},
        seeds=(0, 1, 2),
        baseline=cells[0].name,
        compared=("ensemble",),
        level=0.95,
        cells=cells,
        comparisons=[],
        caution=sweep_caution(3, 0.95),
        controls=compare_with_controls(cells, 0.95, answers),
    )


def test_the_table_of_controls_has_levels_and_cells(balanced, capsys):
    table = control_table(balanced, "hard_test")
    assert table.title == "Boosted ensemble − each control of its cost, OOD, in points"
    assert [c.header for c in table.columns] == ["train", "base", "noise", "T× steps", "bagging", "seeds", "chain"]
    assert len(table.rows) == 1 + 9 + 9
    assert table.rows[0].cells[:3] == ("all", "all", "all")
    assert table.rows[3].cells[:3] == ("5000", "all", "all")
    assert table.rows[10].cells[:3] == ("200", "layer", "0")
    assert [place for place, row in enumerate(table.rows) if row.rule] == [1, 4, 7, 10]
    found = next(c for c in balanced.controls if (c.split, c.control, c.levels) == ("hard_test", "chain", {}))
    half = f"{100 * (found.high - found.mean):.1f}"
    assert table.rows[0].cells[6] == f"{100 * found.mean:+.1f} ± {half}".replace("-", "−")
    Console(width=80).print(console_report(balanced, 80))
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    for row in table.rows:
        assert any(re.search(r"\s+".join(map(re.escape, row.cells)), line) for line in lines), row


def renamed(sweep, names):
    """The controls of the first cells alone, under other names."""
    controls = [
        dataclasses.replace(c, cells=(name,), levels=levels_of(name))
        for name, cell in zip(names, sweep.cells, strict=False)
        for c in sweep.controls
        if c.cells == (cell.name,)
    ]
    return dataclasses.replace(sweep, controls=controls)


@pytest.mark.parametrize("names", [("a=1", "b=2,c=3"), ("first", "second"), ("a=1", "second")])
def test_cells_that_do_not_name_the_same_factors_stand_by_their_names(balanced, names):
    table = control_table(renamed(balanced, names), "test")
    assert [c.header for c in table.columns][:2] == ["cell", "T× steps"]
    assert [row.cells[0] for row in table.rows] == list(names)
    assert not any(note.startswith("all:") for note in table.notes)


def test_names_of_others_are_harmless_in_plots(balanced):
    names = ("a=\x1b[31m$x_$,b=<b>", "a=\u6a21\u578b,b=\u202e&")
    cells = [dataclasses.replace(cell, name=name) for name, cell in zip(names, balanced.cells, strict=False)]
    for figure in sweep_plots(dataclasses.replace(renamed(balanced, names), cells=cells)).values():
        assert figure.startswith(b"\x89PNG")
    with drawing(THEMES["light"]):
        figure = draw_controls(renamed(balanced, names), THEMES["light"])
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == ["a=\u241b[31m$x_$,b=<b>", "a=\u6a21\u578b,b=\ufffd&"]


def test_the_table_of_controls_says_which_seeds_are_missing(balanced):
    assert "Not all seeds" not in " ".join(control_table(balanced, "test").notes)
    more = dataclasses.replace(balanced, seeds=(0, 1, 2, 3), controls=balanced.controls)
    assert f"Not all seeds are there yet for: {balanced.cells[0].name}; " in " ".join(control_table(more, "test").notes)


def test_the_plot_of_controls_has_an_interval_for_each(balanced, tmp_path):
    with drawing(THEMES["light"]):
        figure = draw_controls(balanced, THEMES["light"])
    for axes, split in zip(figure.axes, ("test", "hard_test"), strict=True):
        bars = {bar.get_label().split(" ", 1)[1]: bar for bar in axes.containers}
        for control in ("plain_long", "bagging", "seeds", "chain"):
            found = [c for c in balanced.controls if (c.split, c.control) == (split, control)]
            points, _, (spans,) = bars[arm_spec(control).label]
            assert points.get_xdata() == pytest.approx([100 * c.mean for c in found])
            ends = [(segment[0][0], segment[1][0]) for segment in spans.get_segments()]
            assert ends == [pytest.approx((100 * c.low, 100 * c.high)) for c in found]
    balanced.write(tmp_path / "sweep.json")
    assert load_results(tmp_path) == balanced
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert "each control of its training cost, with intervals" in page
    assert (tmp_path / "report/controls.png").is_file()

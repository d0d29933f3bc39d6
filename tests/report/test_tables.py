from __future__ import annotations

import gzip
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from ensemw2s.evaluation.over_seeds import aggregate
from ensemw2s.evaluation.pgr import PGR
from ensemw2s.evaluation.results import Results
from ensemw2s.report.analysis_tables import calibration_table, disagreement_table, shared_error_table
from ensemw2s.report.build import console_report
from ensemw2s.report.cost_tables import arm_cost_table, cost_table
from ensemw2s.report.over_seeds_tables import seed_tables
from ensemw2s.report.table import Column, Table, to_markdown, to_rich
from ensemw2s.report.tables import (
    accuracy_table,
    coverage_table,
    difference_cell,
    difference_table,
    label_table,
    pgr_cell,
    round_table,
    run_tables,
    student_table,
)
from ensemw2s.report.verdict import verdict_sentences
from ensemw2s.report.wording import percent


def shown(renderable, width=80, **options):
    stream = io.StringIO()
    Console(file=stream, width=width, **options).print(renderable)
    return stream.getvalue()


def row(table, *start):
    """The one row that begins with these cells."""
    found = [r for r in table.rows if r.cells[: len(start)] == start]
    assert len(found) == 1, (start, [r.cells for r in table.rows])
    return found[0]


def test_accuracy_table_holds_the_results(results):
    table = accuracy_table(results, with_tokens=True, with_pgr=True)
    assert [c.header for c in table.columns] == [
        "arm", "ID [95 %]", "OOD [95 %]", "cost × W", "tokens ID/OOD", "PGR ID", "PGR OOD",
    ]  # fmt: skip
    cell, ood = results.arms["ensemble"]["test"], results.arms["ensemble"]["hard_test"]
    pgr = results.pgr["student_ensemble"]["hard_test"]
    assert row(table, "boosted ensemble").cells == (
        "boosted ensemble",
        f"{100 * cell.accuracy:.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]",
        f"{100 * ood.accuracy:.1f} [{100 * ood.low:.1f}, {100 * ood.high:.1f}]",
        f"{results.arm_costs['ensemble'].total / results.arm_costs['plain'].total:.1f}",
        f"{100 * cell.token_accuracy.value:.1f} / {100 * ood.token_accuracy.value:.1f}",
        "",
        "",
    )
    assert row(table, "student from ensemble").cells[-1] == f"{pgr.value:.2f} [{pgr.low:.2f}, {pgr.high:.2f}]"
    assert table.notes == [
        "ID: 400 held-out easy questions; OOD: 400 held-out hard questions. Wilson intervals.",
        "Boosted ensemble: 5 of 6 rounds, chosen on validation.",
    ]


def test_accuracy_table_leaves_later_experts_to_the_rounds(results):
    labels = [r.cells[0] for r in accuracy_table(results).rows]
    assert "plain fine-tune" in labels
    assert "expert 2" not in labels
    assert len(labels) == len(results.arms) - 1
    # one line between weak and strong arms
    assert [r.cells[0] for r in accuracy_table(results).rows if r.rule] == ["strong base, zero-shot"]


def test_student_table_holds_differences_and_pgr(results):
    table = student_table(results)
    gained = results.difference("student_bagging", "plain", "hard_test")
    left = results.difference("ceiling", "student_bagging", "hard_test")
    found = row(table, "bagging", "OOD").cells
    assert found[2].startswith(f"{100 * gained.estimate:+.1f} [".replace("-", "−"))
    assert found[3].startswith(f"{100 * left.estimate:+.1f} [".replace("-", "−"))
    gap = results.difference("ceiling", "plain", "hard_test")
    assert f"OOD {100 * gap.estimate:+.1f} [" in table.notes[1]
    assert len(table.rows) == 6


def test_undefined_pgr_says_so():
    assert pgr_cell(PGR(None, None, None, "undefined", "why", "outside")) == "undefined"
    assert pgr_cell(None) == ""


def test_difference_table_is_the_planned_list(results):
    table = difference_table(results)
    pair = results.difference("ensemble", "bagging", "test")
    found = row(table, "ensemble − bagging", "ID").cells
    assert found[3] == f"{pair.b10} : {pair.b01}"
    names = [r.cells[0] for r in table.rows if r.cells[0]]
    assert names == [
        "ensemble − plain fine-tune",
        "ensemble − bagging",
        "ensemble − bagging, same T",
        "ensemble − equal weights",
        "students: bagging − plain",
        "students: ensemble − plain",
        "students: ensemble − bagging",
    ]


def test_label_table_puts_labels_beside_the_student(results):
    found = row(label_table(results), "ensemble").cells
    assert found[1] == "900/900"
    assert found[2].startswith(f"{100 * results.labels['ensemble'].accuracy:.1f} [")
    assert found[5] == f"{100 * results.arms['student_ensemble']['hard_test'].accuracy:.1f}"


def test_coverage_table_begins_with_the_emptiest_groups(results):
    table = coverage_table(results)
    assert len(table.rows) == 12
    found = results.labels["ensemble"].coverage
    assert [row.cells[2:5] for row in table.rows[:2]] == [("60", "0", "0.0"), ("60", "4", "6.7")]
    assert table.rows[0].cells[1].startswith("<b>questions of the ki")
    assert "\x1b" not in table.rows[0].cells[1]
    assert (table.rows[0].cells[6], table.rows[1].cells[1]) == ("", "(no group)")
    assert table.rows[2].cells[5:] == (f"{100 * found[2].accuracy:.1f}", f"{100 * found[2].kept_accuracy:.1f}")
    assert any("12 groups of which the least is kept" in note for note in table.notes)


def test_round_table_marks_dropped_and_chosen_rounds(run_factory):
    results = run_factory()
    boosting = results.rounds["boosting"]
    last = boosting[-1]
    object.__setattr__(last, "kept", False)
    object.__setattr__(last, "splits", {})
    table = round_table(results)
    assert [r.cells[0] for r in table.rows] == ["1", "2", "3", "4", "5", "6*"]
    assert [r.strong for r in table.rows] == [False] * 4 + [True, False]
    assert table.rows[5].cells[5:7] == ("", "")
    assert table.rows[0].cells[1] == f"{boosting[0].epsilon:.3f}"
    assert table.notes == ["*: dropped, not part of the ensemble.", "Boosting ended: all 6 rounds done."]


@pytest.mark.parametrize(
    ("arm", "header"), [("bagging", "bagging"), ("seeds", "plain ensemble"), ("chain", "uniform chain")]
)
def test_round_table_sets_the_first_unboosted_ensemble_beside(run_factory, arm, header):
    results = run_factory()
    results.rounds[arm] = results.rounds.pop("bagging")
    table = round_table(results)
    assert [column.header for column in table.columns][-1] == f"{header} ID/OOD"
    assert table.rows[0].cells[-1] != ""


def test_round_table_of_generation_says_what_it_measures(run_factory):
    table = round_table(run_factory(task="generate"))
    assert "token accuracy" in table.title
    assert "Teacher-forced" in table.notes[-1]


def test_cost_table_adds_up(results):
    table = cost_table(results)
    nb = "\u00a0"
    assert row(table, "experts").cells == (
        "experts",
        "2",
        f"327{nb}k",
        f"108{nb}GFLOP",
        "11.9 s",
        "12 %",
        "600 MiB",
    )
    assert row(table, "evaluation").cells == ("evaluation", "1", f"20.0{nb}k", f"2.00{nb}GFLOP", "", "", "")
    assert row(table, "data").cells[2:4] == ("", "")
    assert table.rows[-1].cells[:6] == ("total", "6", f"654{nb}k", f"216{nb}GFLOP", "1 min 38 s", "")
    assert "6·N·D" in table.notes[0]


def test_cost_of_a_run_that_did_not_count(run_factory):
    """Runs of older versions know their seconds only."""
    table = cost_table(run_factory(costs={}, memory={}, arm_costs={}))
    assert [c.header for c in table.columns] == ["stages", "number", "time", "share"]
    assert row(table, "experts").cells == ("experts", "2", "11.9 s", "12 %")
    assert arm_cost_table(run_factory(arm_costs={})).rows == []


def test_device_memory_is_told_where_there_was_a_device(run_factory):
    from ensemw2s.evaluation.cost import StageMemory

    memory = {"ceiling": StageMemory(process=3 * 2**30, device=5 * 2**29)}
    table = cost_table(run_factory(memory=memory))
    assert row(table, "ceiling").cells[-1] == "3.0 GiB"
    assert table.notes[-1].endswith("on the device at most 2.5 GiB.")


def test_arms_beside_their_cost(results):
    table = arm_cost_table(results)
    found = row(table, "boosted ensemble").cells
    place = list(results.arm_costs).index("ensemble") + 1
    assert found[1] == f"{52 * place}\u00a0G"
    assert found[2] == f"{52 * place + 2}\u00a0G"
    single = list(results.arm_costs).index("plain") + 1
    assert found[3] == f"{(52 * place + 2) / (52 * single):.1f}"
    assert found[5:] == tuple(percent(results.arms["ensemble"][s].accuracy) for s in ("test", "hard_test"))
    assert row(table, "weak base, zero-shot").cells[1:4] == ("–", "–", "")


def test_disagreement_table(results):
    table = disagreement_table(results)
    found = next(d for d in results.disagreements if (d.teacher, d.split) == ("ensemble", "hard_test"))
    cells = row(table, "ensemble", "OOD").cells
    for cell, share in zip(cells[2:6], (found.corrected_share, found.copied_share, found.spoiled_share), strict=False):
        assert cell == f"{100 * share.share:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    assert cells[5].startswith(f"{100 * found.same_wrong.share:.1f} [")
    assert cells[6] == "33.3"
    assert len(disagreement_table(results, wide=False).columns) == 5


def test_shared_error_table(results):
    found = next(e for e in results.shared_errors if e.split == "test")
    cells = row(shared_error_table(results), "2 boosting", "ID").cells
    assert cells[2:4] == (percent(found.both_wrong), percent(found.both_wrong_if_independent))
    assert cells[4] == f"{percent(found.same_wrong)} [{percent(found.low)}, {percent(found.high)}]"
    assert cells[5:] == ("33.3", percent(found.all_same_wrong.share))


def test_calibration_table(results):
    table = calibration_table(results)
    assert [c.header for c in table.columns] == ["of", "split", "right", "confidence", "ECE", "share", "ECE"]
    by = {(r.name, r.split, r.measure): r for r in results.reliability}
    token, option = by["labels_ensemble", "hard_pool", "token"], by["labels_ensemble", "hard_pool", "option"]
    cells = row(table, "labels of ensemble").cells
    assert cells[:4] == ("labels of ensemble", "pool", percent(token.accuracy), percent(token.mean_confidence))
    assert cells[6] == f"{percent(option.ece)} [{percent(option.low)}, {percent(option.high)}]"
    narrow = calibration_table(results, wide=False)
    assert [c.header for c in narrow.columns] == ["of", "split", "right", "share", "ECE"]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_cell_is_broken_at_any_width(results, seeds, width):
    """Every row of every table takes one line, and no line is wider than the terminal."""
    for table in [*run_tables(results, width), *seed_tables(seeds)]:
        lines = shown(to_rich(table), width).splitlines()
        assert max(map(len, lines)) <= width
        for line in table.rows:
            text = re.compile(r"\s+".join(re.escape(cell) for cell in line.cells if cell))
            assert any(text.search(found) for found in lines), (table.title, line.cells)


def test_the_longest_cells_fit_80_columns(run_factory):
    """All arms of a run, no gap at all: negative signs everywhere and every label at its longest."""
    weak = ["plain", "plain", "plain_long", "bagging", "bagging_equal_rounds", "seeds", "seeds_equal_rounds"]
    strong = ["student_plain", "student_plain", "student_bagging", "student_seeds", "student_ensemble", "ceiling"]
    accuracy = dict.fromkeys([*weak, "ensemble", "ensemble_equal", *strong], (0.5, 0.5))
    for table in run_tables(run_factory(accuracy=accuracy), 80):
        lines = shown(to_rich(table)).splitlines()
        for line in table.rows:
            assert any(all(cell in found for cell in line.cells) for found in lines), (table.title, line.cells)


def test_narrow_tables_drop_columns_rather_than_break(results):
    wide, narrow = run_tables(results, 120), run_tables(results, 80)
    assert len(wide[0].columns) == len(narrow[0].columns) + 2
    assert [t.title for t in wide] == [t.title for t in narrow]


def test_plain_output_has_no_escape_codes_and_brackets_survive(results):
    text = shown(to_rich(accuracy_table(results)), no_color=True)
    assert "\x1b" not in text
    assert "[" in text.splitlines()[5]
    # arms are told apart in words alone
    assert "boosted ensemble" in text


def test_console_report(results, seeds):
    short, full = shown(console_report(results, 80)), shown(console_report(results, 80, full=True))
    assert "Accuracy in %" in short
    assert "Boosting by round" not in short
    assert "Boosting by round" in full
    assert "This is one seed (0)" in " ".join(short.split())
    assert "Three seeds prove little" in shown(console_report(seeds, 80))


def test_markdown():
    table = Table("A | title", [Column("name", "left"), Column("x|y")])
    table.add("a", "1 | 2", strong=True)
    table.add("", "3\n4")
    table.notes = ["first", "second"]
    assert to_markdown(table) == (
        "**A | title**\n\n| name | x\\|y |\n| :--- | ---: |\n| **a** | **1 \\| 2** |\n|  | 3 4 |\n\nfirst  \nsecond\n"
    )


def test_markdown_of_a_run_has_one_line_a_row(results):
    for table in run_tables(results):
        lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
        assert len(lines) == len(table.rows) + 2
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="1 cells in a table of 2"):
        Table("t", [Column("a"), Column("b")]).add("x")


NOTHING = {"reliability": [], "disagreements": [], "shared_errors": [], "costs": {}, "arm_costs": {}, "memory": {}}


def test_tables_without_data_are_left_out(run_factory):
    accuracy = {"plain": (0.7, 0.4)}
    results = run_factory(accuracy=accuracy, rounds={}, labels={}, times={}, selected_rounds={}, **NOTHING)
    assert [t.title for t in run_tables(results)] == ["Accuracy in %"]


def test_seed_tables(seeds):
    tables = {t.title: t for t in seed_tables(seeds)}
    means = tables["Accuracy in %, mean ± standard deviation over 3 seeds"]
    cell = seeds.arms["ensemble"]["hard_test"]
    assert row(means, "boosted ensemble").cells[2] == f"{percent(cell.mean)} ± {percent(cell.sd)}"
    claims = tables["Paired over seeds, in points"]
    assert len(claims.rows) == 8
    assert "8 planned claims" in claims.notes[0]
    assert claims.notes[-1] == "Three seeds prove little."
    listed = tables["Differences seed by seed, in points"]
    assert [r.cells[0] for r in listed.rows] == [r.cells[0] for r in claims.rows]
    first = seeds.difference("ensemble", "plain", "test")
    shown = [f"{100 * round(d, 9):+.1f}".replace("-", "−") for d in first.differences]
    repeats = f"[{percent(first.repeat_low)}, {percent(first.repeat_high)}]"
    assert listed.rows[0].cells == ("ensemble − plain fine-tune", "ID", repeats, "  ".join(shown))
    assert "the mean of 3 other seeds" in listed.notes[0]


def test_an_arm_of_some_seeds_only_is_marked(run_factory):
    first, second = run_factory(0), run_factory(1)
    second.arms["ensemble_fitted"] = second.arms["ensemble"]
    table = seed_tables(aggregate([first, second]))[0]
    assert "same experts, fitted vote: only seeds 1." in table.notes


def test_a_run_of_an_earlier_version_keeps_its_own_w(tmp_path):
    """Its W was the first expert, a bootstrap resample, beside a plain fine-tune."""
    stored = Path(__file__).parents[1] / "cli" / "dashboard" / "data" / "results.json.gz"
    (tmp_path / "results.json").write_bytes(gzip.decompress(stored.read_bytes()))
    old = Results.read(tmp_path / "results.json")
    assert old.weak == "single"
    assert {"single", "plain"} <= set(old.arms)
    table = student_table(old)
    assert table.notes[0].startswith("Points. S student, W single expert,")
    gained = old.difference("student_ensemble", "single", "hard_test")
    assert row(table, "ensemble", "OOD").cells[2] == difference_cell(gained)
    assert "the single expert and the ceiling on OOD, PGR is" in " ".join(verdict_sentences(old))

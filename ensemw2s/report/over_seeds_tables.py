"""The tables of an aggregate over seeds, from ``aggregate.json`` alone."""

from __future__ import annotations

from ensemw2s.arms import TEST_SPLITS, arm_spec, is_boosted, student_of, without_experts
from ensemw2s.evaluation.over_seeds import AggregateResults, SeedSummary, SeedTest
from ensemw2s.report import wording as w
from ensemw2s.report.table import Table, columns
from ensemw2s.report.tables import difference_cell, student_table

#: What tells a table's ``se`` from ``sd/√seeds``.
SE_NOTE = "se: standard error of the mean, never below what sampling the questions alone gives."


def seed_tables(results: AggregateResults) -> list[Table]:
    """All tables of an aggregate that have rows, the most important first."""
    tables = [mean_table(results), claim_table(results), listed_table(results), student_table(results)]
    return [table for table in [*tables, label_mean_table(results)] if table.rows]


def mean_sd(summary: SeedSummary | None) -> str:
    """``62.3 ± 1.4``; a single value stands alone."""
    if summary is None:
        return ""
    if summary.sd is None:
        return w.percent(summary.mean)
    return f"{w.percent(summary.mean)} ± {w.percent(summary.sd)}"


def mean_table(results: AggregateResults) -> Table:
    """Arms × (ID, OOD): mean ± standard deviation over seeds, and token accuracy."""
    title = f"Accuracy in %, mean ± standard deviation over {len(results.seeds)} seeds"
    table = Table(title, columns("arm", right=("ID", "OOD", "tokens ID", "tokens OOD")))
    partial = []
    for arm in without_experts(results.arms):
        cells, tokens = results.arms[arm], results.token_accuracy.get(arm, {})
        if not any(split in cells for split in TEST_SPLITS):
            continue
        row = [mean_sd(found.get(split)) for found in (cells, tokens) for split in TEST_SPLITS]
        table.add(w.arm_label(arm), *row, group=arm_spec(arm).side, strong=is_boosted(arm))
        have = next(cells[split].seeds for split in TEST_SPLITS if split in cells)
        if have != results.seeds:
            partial.append(f"{w.arm_label(arm)}: only seeds {', '.join(map(str, have))}.")
    table.notes = [f"Seeds {', '.join(map(str, results.seeds))}; none left out.", *partial]
    return table


def claim_table(results: AggregateResults) -> Table:
    """The claims about methods: paired t-tests over seeds with Holm's adjustment."""
    numbers = (f"mean [{w.level_text(results.level)}]", "sd", "se", "p", "p Holm")
    table = Table("Paired over seeds, in points", columns("claim", "split", right=numbers))
    for found in results.comparisons:
        if found.claim:
            table.add(w.pair_label(found.a, found.b), w.split_label(found.split), *tested_cells(found), once=True)
    table.notes = [f"Paired t-test; Holm's adjustment over these {len(table.rows)} planned claims. {SE_NOTE}"]
    if any(found.claim and found.p is None for found in results.comparisons):
        table.notes.append("–: the differences vary neither between seeds nor between questions, so there is no test.")
    table.notes.append(results.caution.partition(":")[0] + ".")
    return table


def tested_cells(found: SeedTest) -> list[str]:
    """Mean with its interval, sd, se, p, and p after Holm's adjustment."""
    numbers = [w.percent(found.sd), w.percent(found.se), w.p_value(found.p), w.p_value(found.p_holm)]
    return [difference_cell(found), *numbers]


def listed_table(results: AggregateResults) -> Table:
    """Every claim's difference, seed by seed, and what a repeat with other seeds may give."""
    repeat, count = f"{w.level_text(results.level)} of repeats", len(results.seeds)
    numbers = columns(right=(repeat,))
    table = Table("Differences seed by seed, in points", [*columns("claim", "split"), *numbers, *columns("by seed")])
    for found in results.comparisons:
        if found.claim:
            again, listed = (
                w.interval("", found.repeat_low, found.repeat_high),
                "  ".join(map(w.points, found.differences)),
            )
            table.add(w.pair_label(found.a, found.b), w.split_label(found.split), again.strip(), listed, once=True)
    table.notes = [f"Repeats: where the mean of {count} other seeds lies; the interval of the mean is for the truth."]
    return table


def label_mean_table(results: AggregateResults) -> Table:
    """Accuracy of the pseudo-labels beside that of the students, over seeds."""
    table = Table("Pseudo-labels over seeds, in %", columns("labels of", right=("right", "student OOD")))
    for teacher, summary in results.labels.items():
        student = results.arms.get(student_of(teacher), {}).get("hard_test")
        table.add(w.teacher_label(teacher), mean_sd(summary), mean_sd(student), strong=is_boosted(teacher))
    return table

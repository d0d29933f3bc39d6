"""The tables of an aggregate over seeds, from ``aggregate.json`` alone."""

from __future__ import annotations

from ensemw2s.arms import (
    CEILING,
    ENSEMBLE,
    TEST_SPLITS,
    is_boosted,
    is_expert,
    is_strong,
    sorted_arms,
    student_of,
    students,
    teacher_of,
)
from ensemw2s.evaluation.over_seeds import AggregateResults, SeedComparison, SeedSummary
from ensemw2s.report import wording as w
from ensemw2s.report.table import Column, Table
from ensemw2s.report.tables import WIDE, pgr_cell

#: What tells a table's ``se`` from ``sd/√seeds``.
SE_NOTE = "se: standard error of the mean, never below what sampling the questions alone gives."


def seed_tables(results: AggregateResults, width: int = WIDE) -> list[Table]:
    """All tables of an aggregate that have rows, the most important first.

    Args:
        results: the aggregate.
        width: characters available; below :data:`~ensemw2s.report.tables.WIDE` a comparison's seeds are in rows of
            their own table.
    """
    tables = [mean_table(results), claim_table(results), seed_student_table(results), label_mean_table(results)]
    tables.insert(2, listed_table(results))
    return [table for table in tables if table.rows]


def mean_sd(summary: SeedSummary | None) -> str:
    """``62.3 ± 1.4``; a single value stands alone."""
    if summary is None:
        return ""
    if summary.sd is None:
        return w.percent(summary.mean)
    return f"{w.percent(summary.mean)} ± {w.percent(summary.sd)}"


def mean_table(results: AggregateResults) -> Table:
    """Arms × (ID, OOD): mean ± standard deviation over seeds, and token accuracy."""
    columns = [Column("arm", "left"), Column("ID"), Column("OOD"), Column("tokens ID"), Column("tokens OOD")]
    table = Table(f"Accuracy in %, mean ± standard deviation over {len(results.seeds)} seeds", columns)
    strong_seen, partial = False, []
    for arm in sorted_arms(results.arms):
        cells = results.arms[arm]
        if is_expert(arm) or not any(split in cells for split in TEST_SPLITS):
            continue
        rule = is_strong(arm) and not strong_seen
        strong_seen = strong_seen or rule
        tokens = results.token_accuracy.get(arm, {})
        row = [mean_sd(cells.get(split)) for split in TEST_SPLITS] + [
            mean_sd(tokens.get(split)) for split in TEST_SPLITS
        ]
        table.add(w.arm_label(arm), *row, rule=rule, strong=is_boosted(arm))
        have = next(cells[split].seeds for split in TEST_SPLITS if split in cells)
        if have != results.seeds:
            partial.append(f"{w.arm_label(arm)}: only seeds {', '.join(map(str, have))}.")
    table.notes = [f"Seeds {', '.join(map(str, results.seeds))}; none left out.", *partial]
    return table


def claim_table(results: AggregateResults) -> Table:
    """The claims about methods: paired t-tests over seeds with Holm's adjustment."""
    level = w.level_text(results.level)
    columns = [
        Column("claim", "left"),
        Column("split", "left"),
        Column(f"mean [{level}]"),
        Column("sd"),
        Column("se"),
        Column("p"),
        Column("p Holm"),
    ]
    table = Table("Paired over seeds, in points", columns)
    last = ""
    for found in results.comparisons:
        if not found.claim:
            continue
        name = w.pair_label(found.a, found.b)
        spread = (w.percent(found.sd), w.percent(found.se))
        cells = (w.split_label(found.split), seed_difference_cell(found), *spread, w.p_value(found.p))
        table.add("" if name == last else name, *cells, w.p_value(found.p_holm))
        last = name
    table.notes = [f"Paired t-test; Holm's adjustment over these {len(table.rows)} planned claims. {SE_NOTE}"]
    if any(found.claim and found.p is None for found in results.comparisons):
        table.notes.append("–: the differences vary neither between seeds nor between questions, so there is no test.")
    table.notes.append(results.caution.partition(":")[0] + ".")
    return table


def seed_difference_cell(found: SeedComparison | None) -> str:
    """``+2.1 [−0.3, 4.5]``."""
    return "" if found is None else w.interval(w.points(found.mean), found.low, found.high)


def listed_table(results: AggregateResults) -> Table:
    """Every claim's difference, seed by seed."""
    columns = [Column("seed"), *(Column(_short(c, results.weak)) for c in results.comparisons if c.claim)]
    table = Table("Differences seed by seed, in points", columns)
    claims = [c for c in results.comparisons if c.claim]
    for place, seed in enumerate(results.seeds if claims else ()):
        table.add(str(seed), *(w.points(c.differences[place]) for c in claims))
    note = f"E boosted ensemble, W {w.arm_label(results.weak)}, B bagging; S(·) the student from it."
    table.notes = [note] if claims else []
    return table


def _short(claim: SeedComparison, weak: str) -> str:
    letters = {ENSEMBLE: "E", weak: "W", "bagging": "B", student_of(ENSEMBLE): "S(E)", student_of(weak): "S(W)"}
    return f"{letters.get(claim.a, claim.a)}−{letters.get(claim.b, claim.b)} {w.split_label(claim.split)}"


def seed_student_table(results: AggregateResults) -> Table:
    """Each student over seeds: S − W, C − S, and PGR as ratio of means."""
    columns = [Column("student from", "left"), Column("split", "left"), Column("S − W"), Column("C − S"), Column("PGR")]
    table = Table("Students over seeds: performance gap recovered", columns)
    for split in TEST_SPLITS:
        first = True
        for student in students(results.arms):
            gained = results.comparison(student, results.weak, split)
            left = results.comparison(CEILING, student, split)
            pgr = results.pgr.get(student, {}).get(split)
            if gained is None and left is None and pgr is None:
                continue
            teacher = w.short_teacher(teacher_of(student) or student)
            cells = (w.split_label(split), seed_difference_cell(gained), seed_difference_cell(left), pgr_cell(pgr))
            table.add(teacher, *cells, rule=first, strong=is_boosted(student))
            first = False
    gaps = {split: results.comparison(CEILING, results.weak, split) for split in TEST_SPLITS}
    shown = [f"{w.split_label(s)} {seed_difference_cell(gap)}" for s, gap in gaps.items() if gap is not None]
    table.notes = ["PGR: mean of S − W over mean of C − W, Fieller's interval paired over seeds."]
    table.notes += ["C − W: " + ", ".join(shown) + "."] if shown else []
    return table


def label_mean_table(results: AggregateResults) -> Table:
    """Accuracy of the pseudo-labels beside that of the students, over seeds."""
    table = Table(
        "Pseudo-labels over seeds, in %", [Column("labels of", "left"), Column("right"), Column("student OOD")]
    )
    for teacher, summary in results.labels.items():
        student = results.arms.get(student_of(teacher), {}).get("hard_test")
        table.add(w.teacher_label(teacher), mean_sd(summary), mean_sd(student), strong=is_boosted(teacher))
    return table

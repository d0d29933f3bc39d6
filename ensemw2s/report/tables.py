"""The tables of a run's report, from ``results.json`` alone."""

from __future__ import annotations

from collections.abc import Sequence

from ensemw2s.arms import (
    BOOSTING,
    CEILING,
    TEST_SPLITS,
    arm_spec,
    arm_word,
    is_boosted,
    is_student,
    sorted_arms,
    student_of,
    students,
    teacher_of,
    without_experts,
)
from ensemw2s.errors import shortened
from ensemw2s.evaluation.metrics import ArmResult
from ensemw2s.evaluation.over_seeds import AggregateResults, SeedTest
from ensemw2s.evaluation.pgr import PGR
from ensemw2s.evaluation.results import PairResult, Results
from ensemw2s.report import wording as w
from ensemw2s.report.analysis_tables import calibration_table, disagreement_table, shared_error_table
from ensemw2s.report.cost_tables import arm_cost_table, cost_table
from ensemw2s.report.table import Table, columns

#: From this terminal width on the table of arms carries PGR too.
WIDE = 110

#: Groups of a teacher in the table of coverage.
_GROUPS = 12


def run_tables(results: Results, width: int | None = WIDE) -> list[Table]:
    """All tables of a run that have rows, the most important first.

    In a terminal of fewer than :data:`WIDE` characters the table of arms leaves PGR to the table of students, the table
    of rounds its effective sample sizes, and other tables what matters least. On a page (no width) PGR stands in the
    table of students alone.
    """
    wide = width is None or width >= WIDE
    tables = [
        accuracy_table(results, with_tokens=width is None, with_pgr=wide and width is not None),
        student_table(results),
        difference_table(results),
        label_table(results),
        coverage_table(results),
        disagreement_table(results, wide=wide),
        round_table(results, with_size=wide),
        shared_error_table(results),
        calibration_table(results, wide=wide),
        arm_cost_table(results),
        cost_table(results),
    ]
    return [table for table in tables if table.rows]


def accuracy_table(results: Results, *, with_tokens: bool = False, with_pgr: bool = False) -> Table:
    """Arms × (ID, OOD) with intervals, cost, and if asked for token accuracy and PGR; later experts: see the rounds.

    The cost is that of training and labelling, as if the arm had been built alone, in multiples of W's.
    """
    level = w.level_text(results.level)
    numbers = [f"ID [{level}]", f"OOD [{level}]", *(["cost × W"] if results.arm_costs else [])]
    numbers += [*(["tokens ID/OOD"] if with_tokens else []), *(["PGR ID", "PGR OOD"] if with_pgr else [])]
    table = Table("Accuracy in %", columns("arm", right=numbers))
    for arm in without_experts(results.arms):
        cells = [results.arms[arm].get(split) for split in TEST_SPLITS]
        if not any(cells):
            continue
        tokens = [None if c is None or c.token_accuracy is None else c.token_accuracy.value for c in cells]
        row = [w.arm_label(arm), *map(_accuracy, cells)]
        row += [w.cost_times(results, arm)] if results.arm_costs else []
        row += [_pair(tokens)] if with_tokens else []
        if with_pgr:
            row += [pgr_cell(results.pgr.get(arm, {}).get(split)) for split in TEST_SPLITS]
        table.add(*row, group=arm_spec(arm).side, strong=is_boosted(arm))
    table.notes = _accuracy_notes(results)
    return table


def _accuracy(cell: ArmResult | None) -> str:
    return "" if cell is None else w.interval(w.percent(cell.accuracy), cell.low, cell.high)


def _accuracy_notes(results: Results) -> list[str]:
    sizes = {
        split: next((cells[split].n for cells in results.arms.values() if split in cells), None)
        for split in TEST_SPLITS
    }
    parts = [
        f"{w.split_label(split)}: {w.count(n)} {kind} questions"
        for (split, n), kind in zip(sizes.items(), ("held-out easy", "held-out hard"), strict=True)
        if n is not None
    ]
    notes = ["; ".join(parts) + ". Wilson intervals."] if parts else []
    chosen = results.selected_rounds.get(BOOSTING)
    if chosen is not None:
        total = len(results.rounds.get(BOOSTING, [])) or chosen
        notes.append(f"Boosted ensemble: {chosen} of {total} rounds, chosen on validation.")
    return [*notes, *results.notes]


def pgr_cell(pgr: PGR | None) -> str:
    """``0.52 [0.30, 0.75]`` or ``undefined``."""
    if pgr is None:
        return ""
    if pgr.value is None:
        return "undefined"
    return w.interval(w.number(pgr.value), pgr.low, pgr.high, scale=1.0, digits=2)


def difference_cell(found: PairResult | SeedTest | None) -> str:
    """``+4.3 [0.2, 8.4]``."""
    return "" if found is None else w.interval(w.points(found.estimate), found.low, found.high)


def student_table(results: Results | AggregateResults) -> Table:
    """Each student against the weak model and the ceiling: S − W, C − S, PGR; of several seeds the means."""
    several = isinstance(results, AggregateResults)
    title = f"Students{' over seeds' if several else ''}: performance gap recovered"
    table = Table(title, columns("student from", "split", right=("S − W", "C − S", "PGR")))
    for split in TEST_SPLITS:
        for student in students(results.arms):
            gained, left = results.difference(student, results.weak, split), results.difference(CEILING, student, split)
            pgr = results.pgr.get(student, {}).get(split)
            if gained is None and left is None and pgr is None:
                continue
            teacher = arm_word(teacher_of(student) or student)
            cells = (teacher, w.split_label(split), difference_cell(gained), difference_cell(left), pgr_cell(pgr))
            table.add(*cells, group=split, strong=is_boosted(student))
    gaps = {split: results.difference(CEILING, results.weak, split) for split in TEST_SPLITS}
    shown = [f"{w.split_label(split)} {difference_cell(gap)}" for split, gap in gaps.items() if gap is not None]
    one = f"Points. S student, W {w.arm_label(results.weak)}, C ceiling; PGR = (S − W) / (C − W), Fieller's interval."
    table.notes = ["PGR: mean of S − W over mean of C − W, Fieller's interval paired over seeds." if several else one]
    table.notes += ["C − W: " + ", ".join(shown) + "."] if shown else []
    return table


def difference_table(results: Results) -> Table:
    """The planned comparisons that are not part of a PGR, with McNemar's exact test."""
    numbers = ("difference", "won : lost", "p")
    table = Table("Paired differences in points", columns("comparison", "split", right=numbers))
    for pair in results.differences:
        if CEILING in (pair.a, pair.b) or (pair.b == results.weak and is_student(pair.a)):
            continue
        counts, p = f"{pair.b10} : {pair.b01}", w.p_value(pair.mcnemar_p)
        name = w.pair_label(pair.a, pair.b)
        table.add(name, w.split_label(pair.split), difference_cell(pair), counts, p, once=True)
    table.notes = ["Won: only the first is right; lost: only the second. p: exact McNemar test."] if table.rows else []
    return table


def label_table(results: Results) -> Table:
    """The pseudo-labels by teacher, beside what the student made of them."""
    numbers = ("kept", "right", "confidence", "agreement", "student")
    table = Table("Pseudo-labels of the hard pool", columns("labels of", right=numbers))
    for teacher, labels in results.labels.items():
        student = results.arms.get(student_of(teacher), {}).get("hard_test")
        table.add(
            w.teacher_label(teacher),
            f"{w.count(labels.kept)}/{w.count(labels.n)}",
            w.interval(w.percent(labels.accuracy), labels.low, labels.high),
            w.number(labels.mean_confidence),
            w.number(labels.mean_agreement),
            "" if student is None else w.percent(student.accuracy),
            strong=is_boosted(teacher),
        )
    table.notes = [
        "Right: labels that are true, in %; student: its OOD accuracy. The truth is used for this table only."
    ]
    return table


def coverage_table(results: Results) -> Table:
    """What the selection of labels keeps of every group of questions, the emptiest first."""
    weighted = any(group.weight not in (0.0, 1.0) for labels in results.labels.values() for group in labels.coverage)
    numbers = ["n", "kept", "share", "right", "kept right", *(["weight"] if weighted else [])]
    table = Table("Coverage of the hard pool by group, in %", columns("labels of", "questions", right=numbers))
    for teacher, labels in results.labels.items():
        groups = sorted(labels.coverage, key=lambda g: (g.weight * g.kept / max(g.n, 1), -g.n, g.group))
        for group in groups[:_GROUPS]:
            table.add(
                w.teacher_label(teacher),
                shortened(group.group, 24) or "(no group)",
                w.count(group.n),
                w.count(group.kept),
                w.percent(group.kept / max(group.n, 1)),
                w.percent(group.accuracy),
                w.percent(group.kept_accuracy),
                *([w.number(group.weight)] if weighted else []),
                group=teacher,
                once=True,
            )
    if any(labels.coverage_by == "prompts" for labels in results.labels.values()):
        table.notes.append("A group is a cluster of prompts, and named by the one in its middle.")
    if any(len(labels.coverage) > _GROUPS for labels in results.labels.values()):
        table.notes.append(f"The {_GROUPS} groups of which the least is kept; results.json has all.")
    table.notes.append("Right: share of true labels, of all and of the kept. The truth is used for this table only.")
    return table


def round_table(results: Results, *, with_size: bool = True) -> Table:
    """One row a boosting round: error, weight, and the accuracy of the expert and of the ensemble so far.

    ``with_size`` adds the effective sample size of the round's token weights. Beside it stands the first unboosted
    ensemble of the run.
    """
    rival = next((arm for arm in sorted_arms(results.rounds) if arm != BOOSTING), "")
    members = {member.round: member for member in results.rounds.get(rival, [])}
    headers = ["round", "ε", "ε₀", "α", *(["n_eff"] if with_size else []), "expert ID/OOD", "ensemble ID/OOD"]
    headers += [f"{w.arm_label(rival)} ID/OOD"] if members else []
    unit = "accuracy" if results.task == "choice" else "token accuracy"
    table = Table(f"Boosting by round ({unit} in %)", columns(right=headers))
    chosen = results.selected_rounds.get(BOOSTING)
    for entry in results.rounds.get(BOOSTING, []):
        scores = [entry.splits.get(split) for split in TEST_SPLITS]
        row = [
            f"{entry.round}{'' if entry.kept else '*'}",
            w.number(entry.epsilon, 3),
            w.number(entry.epsilon_prior, 3),
            w.number(entry.alpha),
            *([] if not with_size else ["" if entry.n_eff is None else w.count(round(entry.n_eff))]),
            _pair([None if s is None else s.expert_accuracy for s in scores]),
            _pair([None if s is None else s.ensemble_accuracy for s in scores]),
        ]
        if members:
            other = members.get(entry.round)
            both = [None if other is None else other.splits.get(split) for split in TEST_SPLITS]
            row.append(_pair([None if s is None else s.ensemble_accuracy for s in both]))
        table.add(*row, strong=entry.round == chosen)
    if any(not entry.kept for entry in results.rounds.get(BOOSTING, [])):
        table.notes.append("*: dropped, not part of the ensemble.")
    if results.stop_reason:
        table.notes.append(f"Boosting ended: {results.stop_reason}.")
    if results.task == "generate":
        table.notes.append("Teacher-forced; whole answers are decoded for the final arms only.")
    return table


def _pair(values: Sequence[float | None]) -> str:
    return "" if all(v is None for v in values) else " / ".join("–" if v is None else w.percent(v) for v in values)

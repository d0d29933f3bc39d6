"""The tables and the words of a sweep, from ``sweep.json`` alone."""

from __future__ import annotations

from typing import Any

from ensemw2s.arms import ENSEMBLE, HEADLINES, TEST_SPLITS, arm_word, student_of
from ensemw2s.evaluation.over_cells import CellResult, ControlComparison, SweepResults
from ensemw2s.report import wording as w
from ensemw2s.report.over_seeds_tables import SE_NOTE, mean_sd, tested_cells
from ensemw2s.report.table import Table, columns
from ensemw2s.report.tables import WIDE, pgr_cell
from ensemw2s.report.verdict import difference_phrase


def sweep_tables(results: SweepResults, width: int | None = None) -> list[Table]:
    """All tables of a sweep that have rows; below :data:`~ensemw2s.report.tables.WIDE` characters without costs."""
    tables = [
        cell_table(results, wide=width is None or width >= WIDE),
        *(control_table(results, split) for split in TEST_SPLITS),
        cell_comparison_table(results),
        cell_student_table(results),
        settings_table(results),
        failure_table(results),
    ]
    return [table for table in tables if table.rows]


def cell_table(results: SweepResults, *, wide: bool = True) -> Table:
    """Cells × (arm, split): mean ± standard deviation over seeds."""
    seeds = len(results.seeds)
    shown = [arm for arm in results.compared if any(arm in cell.arms for cell in results.cells)]
    numbers = ["seeds", *(f"{_brief(arm)} {w.split_label(split)}" for arm in shown for split in TEST_SPLITS)]
    numbers += ["rounds", "cost"] if wide else []
    spread = ", mean ± standard deviation" if seeds > 1 else ""
    table = Table(f"Accuracy in %{spread} over {seeds} seed{'s' if seeds != 1 else ''}", columns("cell", right=numbers))
    for cell in results.cells:
        row = [_name(results, cell.name), _progress(cell)]
        row += [mean_sd(cell.arms.get(arm, {}).get(split)) for arm in shown for split in TEST_SPLITS]
        if wide:
            chosen = sorted(set(cell.selected_rounds))
            row.append("–".join(map(str, dict.fromkeys([chosen[0], chosen[-1]]))) if chosen else "")
            row.append(w.large(cell.costs[ENSEMBLE]) if cell.costs.get(ENSEMBLE) else "")
        table.add(*row, strong=cell.name == results.baseline)
    if not shown:
        table.rows.clear()
    table.notes = [f"{_arms_note(shown)} *: the baseline.".strip()]
    if wide:
        table.notes.append("Rounds: chosen on validation. Cost: operations to build the boosted ensemble.")
    return table


def _brief(arm: str) -> str:
    return dict(HEADLINES).get(arm) or w.arm_label(arm)


def _arms_note(shown: list[str]) -> str:
    names = {ENSEMBLE: "Ensemble: the boosted one.", student_of(ENSEMBLE): "Student: from the boosted ensemble."}
    return " ".join(names[arm] for arm in shown if arm in names)


def _name(results: SweepResults, name: str) -> str:
    return f"{name} *" if name == results.baseline else name


def _progress(cell: CellResult) -> str:
    done = sum(job.state == "finished" for job in cell.jobs)
    return str(done) if done == len(cell.jobs) else f"{done}/{len(cell.jobs)}"


def cell_comparison_table(results: SweepResults) -> Table:
    """Every cell against the baseline: paired t-tests over seeds with Holm's adjustment."""
    numbers = (f"mean [{w.level_text(results.level)}]", "sd", "se", "p", "p Holm")
    table = Table("Against the baseline, in points", columns("cell − baseline", "arm", "split", right=numbers))
    for found in results.comparisons:
        cells = (_brief(found.arm), w.split_label(found.split), *tested_cells(found))
        table.add(found.cell, *cells, group=found.cell, once=True)
    if not table.rows:
        return table
    count = len(table.rows)
    table.notes = [f"Baseline: {results.baseline}. Paired t-test over seeds; Holm's adjustment over all {count} tests."]
    table.notes.append(SE_NOTE)
    few = [c for c in results.comparisons if len(c.seeds) < len(results.seeds)]
    if few:
        names = dict.fromkeys(c.cell for c in few)
        table.notes.append(f"Not all seeds are there yet for: {'; '.join(names)}.")
    if any(c.p is None for c in results.comparisons):
        table.notes.append("–: no test, for want of a second seed or because nothing varies.")
    return table


def control_table(results: SweepResults, split: str) -> Table:
    """The boosted ensemble minus each control of its training cost on one split: means over cells, then every cell."""
    shown = [found for found in results.controls if found.split == split]
    controls = list(dict.fromkeys(found.control for found in shown))
    factors = list(dict.fromkeys(factor for found in shown for factor in found.levels))
    by_factor = bool(factors) and all(len(found.cells) > 1 or found.levels.keys() == set(factors) for found in shown)
    title = f"Boosted ensemble − each control of its cost, {w.split_label(split)}, in points"
    table = Table(title, columns(*(factors if by_factor else ["cell"]), right=list(map(arm_word, controls))))
    rows: dict[tuple[str, ...], dict[str, ControlComparison]] = {}
    for found in shown:
        rows.setdefault(found.cells, {})[found.control] = found
    for cells, row in rows.items():
        levels = next(iter(row.values())).levels
        names = [levels.get(factor, "all") for factor in factors] if by_factor else [", ".join(cells)]
        kind = "cell" if len(levels) == len(factors) else " ".join(levels)
        table.add(*names, *(_half_width(row.get(control)) for control in controls), group=kind)
    several = len(results.seeds) > 1
    table.notes = [
        f"±: half of the {w.level_text(results.level)} interval, paired over seeds; each by itself."
    ] * several
    table.notes.append("Each ensemble has the number of members that validation chose for it.")
    table.notes += ["all: the mean over the cells of its row."] * any(len(cells) > 1 for cells in rows)
    few = dict.fromkeys(c.cells[0] for c in shown if len(c.cells) == 1 and len(c.seeds) < len(results.seeds))
    if few:
        table.notes.append(f"Not all seeds are there yet for: {'; '.join(few)}. Means are over the seeds of all cells.")
    return table


def _half_width(found: ControlComparison | None) -> str:
    """``+4.3 ± 1.2``; without a test the mean alone."""
    if found is None or found.high is None:
        return "" if found is None else w.points(found.mean)
    return f"{w.points(found.mean)} ± {w.percent(found.high - found.mean)}"


def cell_student_table(results: SweepResults) -> Table:
    """PGR of the student from the boosted ensemble, by cell."""
    table = Table("Performance gap recovered", columns("cell", right=("PGR ID", "PGR OOD")))
    for cell in results.cells:
        found = cell.pgr.get(student_of(ENSEMBLE), {})
        if found:
            name = _name(results, cell.name)
            table.add(name, *(pgr_cell(found.get(s)) for s in TEST_SPLITS), strong=cell.name == results.baseline)
    table.notes = [
        "Of the student from the boosted ensemble; over several seeds the ratio of means. Fieller's interval."
    ]
    return table


def settings_table(results: SweepResults) -> Table:
    """Settings that differ between listed cells; a grid's cells say it in their names."""
    table = Table("Settings of the cells", columns("cell", "settings"))
    for cell in results.cells:
        if set(cell.settings) != set(results.over):
            table.add(cell.name, ", ".join(f"{key}={shown(value)}" for key, value in cell.settings.items()))
    return table


def shown(value: Any) -> str:
    """A setting as it would be written on the command line."""
    words = {True: "true", False: "false", None: "null"}
    if isinstance(value, bool) or value is None:
        return words[value]
    if isinstance(value, list):
        return "[" + ",".join(map(shown, value)) + "]"
    return str(value)


def failure_table(results: SweepResults) -> Table:
    """Runs that failed, and why."""
    table = Table("Failed runs", [*columns("cell", right=("seed",)), *columns("why")])
    for cell in results.cells:
        failed = [job for job in cell.jobs if job.state == "failed"]
        reasons = {job.error for job in failed}
        if len(failed) == len(cell.jobs) > 1 and len(reasons) == 1:
            table.add(cell.name, "all", failed[0].error or "")
            continue
        for job in failed:
            table.add(cell.name, str(job.seed), job.error or "")
    table.notes = ["The same command tries them again."] if table.rows else []
    return table


def sweep_sentences(results: SweepResults) -> list[str]:
    """Findings of a sweep in sentences: a cell differs where its test says so after Holm's adjustment."""
    done = sum(job.state == "finished" for cell in results.cells for job in cell.jobs)
    total = sum(len(cell.jobs) for cell in results.cells)
    failed = sum(job.state == "failed" for cell in results.cells for job in cell.jobs)
    text = f"{done} of {total} runs are finished" + (f", {failed} failed." if failed else ".")
    sentences = [text]
    alpha = 1.0 - results.level
    clear = [c for c in results.comparisons if c.p_holm is not None and c.p_holm < alpha]
    for found in clear:
        verb = "is better than" if found.mean > 0 else "is worse than"
        where = f"for {w.arm_phrase(found.arm)} on {w.split_label(found.split)}"
        numbers = difference_phrase(found.estimate, found.low, found.high)
        test = f"{w.p_phrase(found.p_holm or 0.0)} after Holm"
        sentences.append(f"{found.cell} {verb} the baseline {where} ({numbers}, {test}).")
    tested = [c for c in results.comparisons if c.p_holm is not None]
    if tested and not clear:
        sentences.append(
            f"Of {len(tested)} comparisons with the baseline ({results.baseline}) none is clear after Holm."
        )
    sentences.append(results.caution)
    return sentences

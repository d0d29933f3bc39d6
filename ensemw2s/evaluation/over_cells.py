"""Results of a sweep: every cell over its seeds, and paired comparisons with the baseline cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ensemw2s.arms import BOOSTING, ENSEMBLE, TEST_SPLITS, student_of
from ensemw2s.evaluation.comparisons import holm, paired_t
from ensemw2s.evaluation.over_seeds import SeedSummary, SeedTest, aggregate, caution, over_seeds, tested
from ensemw2s.evaluation.pgr import PGR
from ensemw2s.evaluation.record import SCHEMA_VERSION, Record, SavedRecord
from ensemw2s.evaluation.results import Results
from ensemw2s.evaluation.sampling import Answers, sampling_error

#: The arms whose accuracy is compared between cells, unless others are named.
COMPARED = (ENSEMBLE, student_of(ENSEMBLE))

JobState = Literal["finished", "failed", "interrupted", "waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult(Record):
    """One run of a sweep: a cell with a seed.

    Attributes:
        state: ``finished``, ``failed``, ``interrupted`` (begun, to be continued) or ``waiting``.
        directory: its run directory, relative to the sweep's.
        error: why it failed, in words; None otherwise.
        seconds: total over its stages; None where it is not finished.
        flops: operations of the whole run; None where unknown.
    """

    seed: int
    state: JobState
    directory: str
    error: str | None = None
    seconds: float | None = None
    flops: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult(Record):
    """One cell over its finished seeds.

    Attributes:
        settings: dotted key → value: what sets it apart.
        jobs: one a seed.
        arms: arm → split → accuracy over the finished seeds.
        pgr: student → split → PGR; over two seeds or more the ratio of means.
        costs: arm → mean operations to build it.
        selected_rounds: rounds of the boosted ensemble that validation chose, one a finished seed.
    """

    name: str
    settings: dict[str, Any]
    jobs: list[JobResult]
    arms: dict[str, dict[str, SeedSummary]] = field(default_factory=dict)
    pgr: dict[str, dict[str, PGR]] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    selected_rounds: list[int] = field(default_factory=list)

    @property
    def state(self) -> str:
        """``finished``, ``failed``, or how many of its seeds are finished."""
        done = sum(job.state == "finished" for job in self.jobs)
        if done == len(self.jobs):
            return "finished"
        failed = any(job.state == "failed" for job in self.jobs)
        return f"{'failed, ' if failed else ''}{done}/{len(self.jobs)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellComparison(SeedTest):
    """Accuracy of an arm in a cell minus that in the baseline cell; Holm's adjustment is over the whole sweep.

    Attributes:
        baseline: the cell that it is compared with.
        seeds: the seeds that both have, in order.
    """

    cell: str
    baseline: str
    arm: str
    split: str
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResults(SavedRecord):
    """``sweep.json``: how a sweep stands.

    Attributes:
        task: ``choice`` or ``generate``.
        over: dotted key → its values, for a grid.
        seeds: all seeds, in order.
        baseline: the cell that the others are compared with.
        level: confidence level of every interval.
        comparisons: every other cell against the baseline.
        caution: what this number of seeds can and cannot show, in words.
    """

    name: str
    task: Literal["choice", "generate"]
    over: dict[str, list[Any]]
    seeds: tuple[int, ...]
    baseline: str
    compared: tuple[str, ...]
    level: float
    cells: list[CellResult]
    comparisons: list[CellComparison]
    caution: str
    schema_version: int = SCHEMA_VERSION

    def comparison(self, cell: str, arm: str, split: str) -> CellComparison | None:
        """The comparison of a cell with the baseline, or None where it was not made."""
        for found in self.comparisons:
            if (found.cell, found.arm, found.split) == (cell, arm, split):
                return found
        return None


def cell_result(
    name: str,
    settings: Mapping[str, Any],
    jobs: Sequence[JobResult],
    results: Mapping[int, Results],
    answers: Mapping[int, Answers] | None = None,
) -> CellResult:
    """A cell from its jobs and the results of its finished seeds; ``answers``: seed → who has which question right."""
    runs = [results[seed] for seed in sorted(results)]
    if len(runs) > 1:
        together = aggregate(runs, name, answers)
        arms, pgr = together.arms, together.pgr
    else:
        arms = {
            arm: {s: over_seeds([(run.seed, r.accuracy)]) for s, r in by.items()}
            for run in runs
            for arm, by in run.arms.items()
        }
        pgr = runs[0].pgr if runs else {}
    costs: dict[str, list[int]] = {}
    for run in runs:
        for arm, cost in run.arm_costs.items():
            costs.setdefault(arm, []).append(cost.total)
    return CellResult(
        name=name,
        settings=dict(settings),
        jobs=list(jobs),
        arms=arms,
        pgr=pgr,
        costs={arm: float(np.mean(values)) for arm, values in costs.items()},
        selected_rounds=[run.selected_rounds[BOOSTING] for run in runs if BOOSTING in run.selected_rounds],
    )


def compare_cells(
    cells: Sequence[CellResult],
    baseline: str,
    compared: Sequence[str],
    level: float,
    answers: Mapping[str, Mapping[int, Answers]],
) -> list[CellComparison]:
    """Every cell against the baseline, on ID and OOD; Holm's adjustment over all of them together.

    Seeds are paired: a seed counts where both cells have it. A comparison that could not be tested (a single seed, or
    differences that do not vary) still counts as one of the tests. ``answers``: cell → seed → who has which question
    right, for every finished seed.
    """
    base = next(cell for cell in cells if cell.name == baseline)
    found = []
    for cell in cells:
        for arm in compared if cell.name != baseline else ():
            for split in TEST_SPLITS:
                mine, theirs = cell.arms.get(arm, {}).get(split), base.arms.get(arm, {}).get(split)
                if mine is not None and theirs is not None:
                    comparison = _pair(cell.name, baseline, arm, split, mine, theirs, level, answers)
                    found += [] if comparison is None else [comparison]
    adjusted = holm([comparison.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, adjusted, strict=True)]


def _pair(
    cell: str,
    baseline: str,
    arm: str,
    split: str,
    mine: SeedSummary,
    theirs: SeedSummary,
    level: float,
    answers: Mapping[str, Mapping[int, Answers]],
) -> CellComparison | None:
    a, b = dict(zip(mine.seeds, mine.values, strict=True)), dict(zip(theirs.seeds, theirs.values, strict=True))
    seeds = tuple(seed for seed in mine.seeds if seed in b)
    if not seeds:
        return None
    differences = tuple(a[seed] - b[seed] for seed in seeds)
    terms = [((answers[cell][seed], arm), (answers[baseline][seed], arm)) for seed in seeds]
    if len(seeds) > 1:
        found = tested(paired_t(differences, level, sampling_error(split, terms)))
    else:  # no test
        found = dict.fromkeys(("sd", "low", "high", "t", "p")) | {"differences": differences, "mean": differences[0]}
    return CellComparison(cell=cell, baseline=baseline, arm=arm, split=split, seeds=seeds, **found)


def sweep_caution(seeds: int, level: float) -> str:
    """Caution about what a sweep with this number of seeds can show, in words."""
    if seeds < 2:
        return "One seed: differences between cells have no test; a claim about methods needs several seeds."
    return caution(seeds, level)

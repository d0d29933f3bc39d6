"""Results of a sweep: every cell over its seeds, and paired comparisons with the baseline cell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any, Literal

import numpy as np

from ensemw2s.arms import BOOSTING, ENSEMBLE, TEST_SPLITS, WEAK, claims, student_of
from ensemw2s.evaluation.comparisons import holm, paired_t
from ensemw2s.evaluation.over_seeds import SeedSummary, SeedTest, aggregate, caution, over_seeds, tested
from ensemw2s.evaluation.pgr import PGR
from ensemw2s.evaluation.record import SCHEMA_VERSION, Record, SavedRecord
from ensemw2s.evaluation.results import Results
from ensemw2s.evaluation.sampling import Answers, Sampling, sampling_error, sampling_error_of_mean

#: What the boosted ensemble is compared with inside a cell: the arms that cost as much to train.
CONTROLS = tuple(control for boosted, control in claims() if boosted == ENSEMBLE and control != WEAK)

#: The comma in front of the next factor in the name of a cell.
_NEXT_FACTOR = re.compile(r",(?=[\w.-]+=)")

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
class ControlComparison(SeedTest):
    """Accuracy of the boosted ensemble minus that of a control, in one cell or as the mean over several.

    Attributes:
        levels: factor → level, as the names of the cells say; factors that are left out are averaged over.
        cells: the cells that the mean is over.
        control: one of :data:`CONTROLS`.
        seeds: the seeds that all the cells have, in order.
    """

    levels: dict[str, str]
    cells: tuple[str, ...]
    control: str
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
        controls: the boosted ensemble against each control of its training cost: over all cells, by level of each
            factor, and in each cell.
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
    controls: list[ControlComparison] = field(default_factory=list)
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
    a, b = _by_seed(mine), _by_seed(theirs)
    seeds = tuple(seed for seed in mine.seeds if seed in b)
    if not seeds:
        return None
    differences = tuple(a[seed] - b[seed] for seed in seeds)
    terms = [((answers[cell][seed], arm), (answers[baseline][seed], arm)) for seed in seeds]
    found = _test(differences, level, sampling_error(split, terms))
    return CellComparison(cell=cell, baseline=baseline, arm=arm, split=split, seeds=seeds, **found)


def _by_seed(summary: SeedSummary) -> dict[int, float]:
    return dict(zip(summary.seeds, summary.values, strict=True))


def _test(differences: tuple[float, ...], level: float, sampling: Sampling) -> dict[str, Any]:
    """The fields of a :class:`SeedTest`; of a single seed there is no test."""
    if len(differences) > 1:
        return tested(paired_t(differences, level, sampling))
    return dict.fromkeys(("sd", "low", "high", "t", "p")) | {"differences": differences, "mean": differences[0]}


def levels_of(name: str) -> dict[str, str]:
    """Factor → level of a cell whose name is a list ``factor=level,…``, as those of grids are; else empty.

    A level that is itself a list has commas, too: what follows one of the name's own is a factor.
    """
    pairs = [part.partition("=") for part in _NEXT_FACTOR.split(name)]
    named = all(factor and equals and level for factor, equals, level in pairs)
    levels = {factor: level for factor, _, level in pairs}
    return levels if named and len(levels) == len(pairs) else {}


def _averaged(cells: Sequence[CellResult]) -> list[tuple[dict[str, str], list[CellResult]]]:
    """All cells, and those of each level of each factor.

    Only where there are several factors and every level of one meets every level of another in as many cells: else
    levels would differ by the other factors too.
    """
    named = [(levels_of(cell.name), cell) for cell in cells]
    if any(levels.keys() != named[0][0].keys() for levels, _ in named):
        return []
    each = {factor: list(dict.fromkeys(levels[factor] for levels, _ in named)) for factor in named[0][0]}
    factors = {factor: levels for factor, levels in each.items() if len(levels) > 1}
    if len(factors) < 2:
        return []
    for a, b in combinations(factors, 2):
        met = Counter((levels[a], levels[b]) for levels, _ in named)
        if len({met[pair] for pair in product(factors[a], factors[b])}) > 1:
            return []
    single = [{factor: level} for factor, levels in factors.items() for level in levels]
    return [(wanted, [cell for levels, cell in named if wanted.items() <= levels.items()]) for wanted in ({}, *single)]


def compare_with_controls(
    cells: Sequence[CellResult], level: float, answers: Mapping[str, Mapping[int, Answers]]
) -> list[ControlComparison]:
    """The boosted ensemble against each control: over all cells, by level of each factor, and in each cell.

    A mean over cells is taken seed by seed, over the seeds that all of them have, and tested like a difference of one
    cell. The intervals are of single comparisons, without an adjustment.
    """
    groups = [*_averaged(cells), *((levels_of(cell.name), [cell]) for cell in cells)]
    asked = [
        (levels, group, control, split) for split in TEST_SPLITS for levels, group in groups for control in CONTROLS
    ]
    found = [_against(*one, level, answers) for one in asked]
    return [comparison for comparison in found if comparison is not None]


def _against(
    levels: dict[str, str],
    cells: Sequence[CellResult],
    control: str,
    split: str,
    level: float,
    answers: Mapping[str, Mapping[int, Answers]],
) -> ControlComparison | None:
    arms = [(cell.arms.get(ENSEMBLE, {}).get(split), cell.arms.get(control, {}).get(split)) for cell in cells]
    sides = [(_by_seed(a), _by_seed(b)) for a, b in arms if a is not None and b is not None]
    if len(sides) < len(cells):
        return None
    seeds = tuple(sorted(set.intersection(*(a.keys() & b.keys() for a, b in sides))))
    if not seeds:
        return None
    means = tuple(float(np.mean([a[seed] - b[seed] for a, b in sides])) for seed in seeds)
    own = [answers[cell.name] for cell in cells]
    terms = [[((by_seed[seed], ENSEMBLE), (by_seed[seed], control)) for seed in seeds] for by_seed in own]
    found = _test(means, level, sampling_error_of_mean(split, terms))
    names = tuple(cell.name for cell in cells)
    return ControlComparison(levels=levels, cells=names, control=control, split=split, seeds=seeds, **found)


def sweep_caution(seeds: int, level: float) -> str:
    """Caution about what a sweep with this number of seeds can show, in words."""
    if seeds < 2:
        return "One seed: differences between cells have no test; a claim about methods needs several seeds."
    return caution(seeds, level)

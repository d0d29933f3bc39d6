"""Results over seeds: means, spread, paired tests, and PGR as a ratio of means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from ensemw2s.arms import ALL_ROUNDS, CEILING, ENSEMBLE, TEST_SPLITS, WEAK, claims, planned_pairs, students
from ensemw2s.errors import InputError
from ensemw2s.evaluation.comparisons import PairedT, holm, paired_t, t_critical
from ensemw2s.evaluation.metrics import ArmResult
from ensemw2s.evaluation.pgr import PGR, ratio_of_means
from ensemw2s.evaluation.record import SCHEMA_VERSION, Record, SavedRecord
from ensemw2s.evaluation.results import Results
from ensemw2s.evaluation.sampling import Answers, Sampling, sampling_error


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSummary(Record):
    """One quantity over seeds.

    Attributes:
        seeds: the seeds that have it, in order.
        values: its value for each of them.
        sd: standard deviation (``n − 1``), or None for a single value.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    sd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedTest(Record):
    """Differences of accuracies, paired over seeds: :func:`~ensemw2s.evaluation.comparisons.paired_t`.

    Attributes:
        differences: one a seed, in the order of the seeds.
        sd: their standard deviation; None for a single seed.
        low: lower end of the mean's interval; None where there is no test.
        high: upper end.
        t: test statistic, or None.
        p: two-sided p-value, or None.
        se: standard error of the mean, or None.
        sampling_se: the standard error that sampling the questions alone gives, or None where unknown.
        p_holm: adjusted for all comparisons that are tested together, or None.
        repeat_low: lower end of the interval for the mean of as many other seeds, or None.
        repeat_high: upper end.
    """

    differences: tuple[float, ...]
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    t: float | None
    p: float | None
    se: float | None = None
    sampling_se: float | None = None
    p_holm: float | None = None
    repeat_low: float | None = None
    repeat_high: float | None = None

    @property
    def estimate(self) -> float:
        """The mean: what a single run calls the estimate of a difference."""
        return self.mean


def tested(test: PairedT) -> dict[str, Any]:
    """The fields of a :class:`SeedTest` from a test."""
    names = ("differences", "mean", "sd", "low", "high", "t", "p", "se", "sampling_se", "repeat_low", "repeat_high")
    return {name: getattr(test, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedComparison(SeedTest):
    """Accuracy of ``a`` minus accuracy of ``b`` on one split.

    Attributes:
        a: an arm.
        b: the arm that it is compared with.
        claim: whether it is one of the planned claims about methods, which Holm's adjustment takes together.
    """

    a: str
    b: str
    split: str
    claim: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateResults(SavedRecord):
    """Results over seeds.

    Attributes:
        task: ``choice`` or ``generate``.
        seeds: all seeds, in order.
        level: confidence level of every interval.
        weak: the arm that is W of every PGR.
        arms: arm → split → accuracy over seeds.
        token_accuracy: arm → split → token accuracy over seeds.
        comparisons: the planned comparisons, the claims about methods first.
        pgr: student → split → PGR as ratio of means.
        labels: teacher → accuracy of its pseudo-labels over seeds.
        selected_rounds: ``boosting``, or another ensemble → rounds chosen, one a seed.
        caution: what this number of seeds can and cannot show, in words.
        times: seed → total seconds.
    """

    earlier: ClassVar[dict[str, Any]] = Results.earlier

    name: str
    task: Literal["choice", "generate"]
    seeds: tuple[int, ...]
    level: float
    arms: dict[str, dict[str, SeedSummary]]
    comparisons: list[SeedComparison]
    pgr: dict[str, dict[str, PGR]]
    caution: str
    weak: str = WEAK
    token_accuracy: dict[str, dict[str, SeedSummary]] = field(default_factory=dict)
    labels: dict[str, SeedSummary] = field(default_factory=dict)
    selected_rounds: dict[str, list[int]] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def difference(self, a: str, b: str, split: str) -> SeedComparison | None:
        """The comparison "a − b" on one split, or None where it was not made."""
        for found in self.comparisons:
            if (found.a, found.b, found.split) == (a, b, split):
                return found
        return None


def aggregate(
    results: Sequence[Results], name: str | None = None, answers: Mapping[int, Answers] | None = None
) -> AggregateResults:
    """Aggregate the same run over seeds; every seed counts, none is dropped. The name is the first run's by default.

    ``answers``: seed → who has which question right (``correct.parquet``), from which follows what the seeds' questions
    have in common. Without it the seeds are taken to have the same, which is the careful assumption.

    Raises:
        InputError: fewer than two seeds, a seed twice, runs of different tasks or levels, or an arm of a planned
            comparison that only some seeds have.
    """
    runs = _with_all_rounds(sorted(results, key=lambda run: run.seed))
    _check(runs)
    level = runs[0].level
    cells = _cells(runs)
    arms = {
        arm: {split: over_seeds([(seed, cell.accuracy) for seed, cell in found]) for split, found in by.items()}
        for arm, by in cells.items()
    }
    common = [arm for arm in cells if all(arm in run.arms for run in runs)]
    tokens = {
        arm: {split: summary for split, found in by.items() if (summary := _token_summary(found)) is not None}
        for arm, by in cells.items()
    }
    teachers = [t for t in runs[0].labels if all(t in r.labels and r.labels[t].accuracy is not None for r in runs)]
    chosen = [key for key in runs[0].selected_rounds if all(key in run.selected_rounds for run in runs)]
    return AggregateResults(
        name=name or runs[0].name,
        task=runs[0].task,
        seeds=tuple(run.seed for run in runs),
        level=level,
        weak=runs[0].weak,
        arms=arms,
        token_accuracy={arm: found for arm, found in tokens.items() if found},
        comparisons=_comparisons(runs, common, level, answers),
        pgr=_pgr(runs, common, level, answers),
        labels={t: over_seeds([(r.seed, r.labels[t].accuracy or 0.0) for r in runs]) for t in teachers},
        selected_rounds={key: [run.selected_rounds[key] for run in runs] for key in chosen},
        caution=caution(len(runs), level),
        times={str(run.seed): float(sum(run.times.values())) for run in runs},
    )


def caution(seeds: int, level: float = 0.95) -> str:
    """Caution about what ``seeds`` seeds can show, in words.

    The paired t-test finds a mean difference at this level only if it exceeds ``t/√n`` of their standard deviations,
    and what sampling the questions alone would give.
    """
    needed = t_critical(seeds, level) / math.sqrt(seeds)
    count = {2: "Two", 3: "Three", 4: "Four"}.get(seeds, str(seeds))
    if seeds <= 3:
        judgement = f"{count} seeds prove little"
    elif seeds <= 6:
        judgement = f"{count} seeds are few"
    else:
        judgement = f"There are {seeds} seeds"
    return (
        f"{judgement}: a paired t-test finds a mean difference (before Holm's adjustment) only where it is larger than "
        f"{needed:.1f} times the standard deviation of the differences between seeds, or than {needed:.1f} times the "
        "standard error of one seed if that is larger."
    )


def _check(runs: Sequence[Results]) -> None:
    """Refuse what cannot be aggregated fairly."""
    seeds = [run.seed for run in runs]
    if len(runs) < 2:
        raise InputError(f"An aggregate needs at least two seeds, got {len(runs)}.", hint="Give more with --seeds.")
    if len(set(seeds)) < len(seeds):
        raise InputError(
            f"A seed is there twice: {seeds}.", hint="Give every seed once; copies would look like agreement."
        )
    for what, values in (("tasks", {r.task for r in runs}), ("confidence levels", {r.level for r in runs})):
        if len(values) > 1:
            raise InputError(f"The runs have different {what}: {sorted(map(str, values))}.")
    if len({run.weak for run in runs}) > 1:
        first = next(run for run in runs if run.weak != runs[0].weak)
        raise InputError(
            f"W of PGR is {runs[0].weak!r} in seed {runs[0].seed} and {first.weak!r} in seed {first.seed}: "
            "the runs are of different versions.",
            hint="Repeat the older runs with the same command.",
        )
    wanted = {arm for pair in claims(runs[0].weak) for arm in pair} | {runs[0].weak, CEILING}
    wanted |= {arm for run in runs for arm in students(run.arms)}
    for arm in sorted(wanted):
        missing = [run.seed for run in runs if arm not in run.arms]
        if 0 < len(missing) < len(runs):
            raise InputError(
                f"Seeds {missing} have no arm {arm!r}, the others do.",
                hint="Run all seeds with the same configuration; a seed must not be left out.",
            )


def _with_all_rounds(runs: list[Results]) -> list[Results]:
    """Add the arm of all rounds where validation chose them all: there it is the boosted ensemble."""
    if not any(ALL_ROUNDS in run.arms for run in runs):
        return runs
    return [
        replace(run, arms={**run.arms, ALL_ROUNDS: run.arms[ENSEMBLE]})
        if ENSEMBLE in run.arms and ALL_ROUNDS not in run.arms
        else run
        for run in runs
    ]


def _cells(runs: Sequence[Results]) -> dict[str, dict[str, list[tuple[int, ArmResult]]]]:
    """Arm → split → results by seed, in the order in which arms and splits appear."""
    cells: dict[str, dict[str, list[tuple[int, ArmResult]]]] = {}
    for run in runs:
        for arm, splits in run.arms.items():
            for split, found in splits.items():
                cells.setdefault(arm, {}).setdefault(split, []).append((run.seed, found))
    return cells


def over_seeds(pairs: Sequence[tuple[int, float]]) -> SeedSummary:
    """The summary of ``(seed, value)`` pairs."""
    values = [value for _, value in pairs]
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return SeedSummary(seeds=tuple(seed for seed, _ in pairs), values=tuple(values), mean=float(np.mean(values)), sd=sd)


def _token_summary(cells: Sequence[tuple[int, ArmResult]]) -> SeedSummary | None:
    """Token accuracy over seeds; None where a seed has not measured it."""
    values = [(seed, cell.token_accuracy.value) for seed, cell in cells if cell.token_accuracy is not None]
    return over_seeds(values) if len(values) == len(cells) else None


def _differences(runs: Sequence[Results], a: str, b: str, split: str) -> list[float] | None:
    """Accuracy of a minus b, one a seed; None where an arm lacks the split."""
    if not all(split in run.arms[a] and split in run.arms[b] for run in runs):
        return None
    return [run.arms[a][split].accuracy - run.arms[b][split].accuracy for run in runs]


def _sampling(
    runs: Sequence[Results], answers: Mapping[int, Answers] | None, split: str, *pairs: tuple[str, str]
) -> Sampling | None:
    """The sampling error of differences that have their second arm in common; None where the runs do not tell it."""
    if answers is not None:
        sides = [answers[run.seed] for run in runs]
        return sampling_error(split, *([((side, a), (side, b)) for side in sides] for a, b in pairs))
    within = np.diag([_mean_variance(runs, a, b, split) for a, b in pairs])
    if len(pairs) == 2:
        apart = _mean_variance(runs, pairs[1][0], pairs[0][0], split)
        within[0, 1] = within[1, 0] = (within[0, 0] + within[1, 1] - apart) / 2.0
    return Sampling.same_questions(within, runs[0].arms[pairs[0][0]][split].n) if np.isfinite(within).all() else None


def _mean_variance(runs: Sequence[Results], a: str, b: str, split: str) -> float:
    """Mean over seeds of the squared standard error of a − b; NaN where a run has not compared them."""
    return float(np.mean([np.nan if (pair := run.difference(a, b, split)) is None else pair.se**2 for run in runs]))


def _comparisons(
    runs: Sequence[Results], arms: Sequence[str], level: float, answers: Mapping[int, Answers] | None
) -> list[SeedComparison]:
    """All planned pairs over seeds; those that are claims about methods are adjusted together and come first."""
    weak, planned = runs[0].weak, claims(runs[0].weak)
    cells = [(a, b, split) for a, b in planned_pairs(arms, weak) for split in TEST_SPLITS]
    found = [(cell, d) for cell in cells if (d := _differences(runs, *cell)) is not None]
    found.sort(key=lambda item: item[0][:2] not in planned)
    tests = [paired_t(d, level, _sampling(runs, answers, split, (a, b))) for (a, b, split), d in found]
    asked = [index for index, (cell, _) in enumerate(found) if cell[:2] in planned]
    adjusted = dict(zip(asked, holm([tests[index].p for index in asked]), strict=True))
    return [
        SeedComparison(
            a=cell[0],
            b=cell[1],
            split=cell[2],
            **tested(test),
            p_holm=adjusted.get(index),
            claim=index in adjusted,
        )
        for index, ((cell, _), test) in enumerate(zip(found, tests, strict=True))
    ]


def _pgr(
    runs: Sequence[Results], arms: Sequence[str], level: float, answers: Mapping[int, Answers] | None
) -> dict[str, dict[str, PGR]]:
    """Student → split → ratio of means."""
    out: dict[str, dict[str, PGR]] = {}
    weak = runs[0].weak
    if weak not in arms or CEILING not in arms:
        return out
    for student in students(arms):
        for split in TEST_SPLITS:
            gained, gap = _differences(runs, student, weak, split), _differences(runs, CEILING, weak, split)
            if gained is not None and gap is not None:
                error = _sampling(runs, answers, split, (student, weak), (CEILING, weak))
                out.setdefault(student, {})[split] = ratio_of_means(gained, gap, level, error)
    return out

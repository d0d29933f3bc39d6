"""Errors that students correct or copy from their teachers, and errors that ensemble members share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ensemw2s.evaluation.bootstrap import percentiles, resampled_sums
from ensemw2s.evaluation.comparisons import correctness
from ensemw2s.evaluation.intervals import wilson
from ensemw2s.evaluation.record import Record


@dataclass(frozen=True, slots=True)
class Share(Record):
    """``count`` of ``of`` examples, with Wilson's interval."""

    share: float
    low: float
    high: float
    count: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement(Record):
    """A student beside its teacher on one split. The five counts add up to ``n``.

    Attributes:
        student: an arm, for example ``student_ensemble``.
        teacher: the arm that labelled for it, for example ``ensemble``.
        n: examples.
        corrected: the teacher wrong, the student right.
        spoiled: the teacher right, the student wrong.
        copied: both wrong, with the same answer.
        other_wrong: both wrong, with different answers.
        agreement: examples with the same answer, right or wrong.
        corrected_share: of the teacher's errors; None where it made none.
        copied_share: of the teacher's errors.
        spoiled_share: of the teacher's right answers; None where it had none.
        same_wrong: copied ones of those that both have wrong; None where there are none.
        same_wrong_by_chance: what that would be if both chose among the wrong options at random: the mean of
            ``1/(options − 1)`` over those examples; None where answers are written freely, or there are none.
    """

    student: str
    teacher: str
    split: str
    n: int
    both_right: int
    corrected: int
    spoiled: int
    copied: int
    other_wrong: int
    agreement: Share
    corrected_share: Share | None
    copied_share: Share | None
    spoiled_share: Share | None
    same_wrong: Share | None
    same_wrong_by_chance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedErrors(Record):
    """Rates at which the members of an ensemble are wrong together on one split, over all pairs of members.

    Attributes:
        group: ``boosting``, or the arm of another ensemble.
        members: number of members; ``members·(members − 1)/2`` pairs.
        n: examples.
        both_wrong: share of (pair, example) with both wrong.
        both_wrong_if_independent: the mean over pairs of the product of the two error rates.
        same_wrong: of those with both wrong, the share with the same wrong answer; None where no two are ever wrong
            together.
        low: lower end of its interval (bootstrap over examples).
        high: upper end.
        same_wrong_by_chance: what it would be if wrong members chose among the wrong options at random; None for free
            text.
        excess: ``same_wrong − same_wrong_by_chance``.
        excess_low: lower end of its interval.
        excess_high: upper end.
        all_wrong: examples that every member has wrong.
        all_same_wrong: examples on which every member gives the same wrong answer: no combination can save them.
    """

    group: str
    split: str
    members: int
    n: int
    both_wrong: float
    both_wrong_if_independent: float
    same_wrong: float | None
    low: float | None
    high: float | None
    same_wrong_by_chance: float | None
    excess: float | None
    excess_low: float | None
    excess_high: float | None
    all_wrong: Share
    all_same_wrong: Share


def share_of(count: int, of: int, level: float = 0.95) -> Share | None:
    """``count`` of ``of`` with Wilson's interval; None of nothing."""
    if of == 0:
        return None
    interval = wilson(count, of, level)
    return Share(count / of, interval.low, interval.high, count, of)


def disagreement(
    student: str,
    teacher: str,
    split: str,
    answers: tuple[Sequence[object], Sequence[object]],
    right: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    options: npt.ArrayLike | None = None,
    level: float = 0.95,
) -> Disagreement:
    """Compare a student's answers with its teacher's, example by example.

    ``answers`` and ``right`` are the student's and the teacher's: ``n`` option numbers, or texts ready to be compared,
    and bool ``[n]``. ``options`` is the number of options of every example, int ``[n]``; None where answers are written
    freely.

    Raises:
        ValueError: no examples, lengths that differ, or an example that is right with one answer and wrong with the
            same.
    """
    mine, theirs = correctness(right[0], student) == 1.0, correctness(right[1], teacher) == 1.0
    same = _same(answers[0], answers[1], mine.size)
    if theirs.shape != mine.shape:
        raise ValueError(f"{student} and {teacher} need the same examples, got {mine.size} and {theirs.size}")
    both_wrong = ~mine & ~theirs
    copied, wrong = int((both_wrong & same).sum()), int((~theirs).sum())
    corrected, spoiled = int((mine & ~theirs).sum()), int((~mine & theirs).sum())
    agreement = share_of(int(same.sum()), mine.size, level)
    if agreement is None:
        raise ValueError("a comparison needs at least one example")
    return Disagreement(
        student=student,
        teacher=teacher,
        split=split,
        n=mine.size,
        both_right=int((mine & theirs).sum()),
        corrected=corrected,
        spoiled=spoiled,
        copied=copied,
        other_wrong=int(both_wrong.sum()) - copied,
        agreement=agreement,
        corrected_share=share_of(corrected, wrong, level),
        copied_share=share_of(copied, wrong, level),
        spoiled_share=share_of(spoiled, mine.size - wrong, level),
        same_wrong=share_of(copied, int(both_wrong.sum()), level),
        same_wrong_by_chance=_mean_chance(options, both_wrong),
    )


def shared_errors(
    group: str,
    split: str,
    answers: Sequence[Sequence[object]],
    right: Sequence[npt.ArrayLike],
    *,
    options: npt.ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> SharedErrors:
    """Rates at which members are wrong together, and with the same answer, against chance.

    ``answers`` and ``right`` have ``n`` values a member; ``options`` as in :func:`disagreement`. The bootstrap draws
    examples: all pairs of an example stay together.

    Raises:
        ValueError: fewer than two members, no examples, or lengths that differ.
    """
    if len(answers) < 2 or len(answers) != len(right):
        raise ValueError(f"shared errors need at least two members, got {len(answers)} and {len(right)}")
    wrong = np.stack([correctness(r, f"member {k}") == 0.0 for k, r in enumerate(right, start=1)])
    n, pairs = wrong.shape[1], list(combinations(range(len(answers)), 2))
    both, same, all_same = np.zeros(n), np.zeros(n), wrong.all(axis=0)
    for i, j in pairs:
        equal = _same(answers[i], answers[j], n)
        both += wrong[i] & wrong[j]
        same += wrong[i] & wrong[j] & equal
        all_same &= equal
    rates = wrong.mean(axis=1)
    chance = None if options is None else both * _chance(options, n)
    ratio = _ratio(same, both, chance, level, resamples, seed)
    every, identical = (share_of(int(which.sum()), n, level) for which in (wrong.all(axis=0), all_same))
    if every is None or identical is None:
        raise ValueError("shared errors need at least one example")
    return SharedErrors(
        group=group,
        split=split,
        members=len(answers),
        n=n,
        both_wrong=float(both.mean() / len(pairs)),
        both_wrong_if_independent=float(np.mean([rates[i] * rates[j] for i, j in pairs])),
        all_wrong=every,
        all_same_wrong=identical,
        **ratio,
    )


def _ratio(
    same: npt.NDArray[np.float64],
    both: npt.NDArray[np.float64],
    chance: npt.NDArray[np.float64] | None,
    level: float,
    resamples: int,
    seed: int,
) -> dict[str, float | None]:
    """Σ same / Σ both, and how far it is above chance, with intervals."""
    names = ("same_wrong", "low", "high", "same_wrong_by_chance", "excess", "excess_low", "excess_high")
    out: dict[str, float | None] = dict.fromkeys(names)
    total = float(both.sum())
    if total == 0.0:
        return out
    expected = np.zeros_like(both) if chance is None else chance
    sums = resampled_sums(np.stack([same, both, expected], axis=1), resamples, seed)
    below = np.where(sums[:, 1] > 0.0, sums[:, 1], np.nan)
    value = float(same.sum()) / total
    low, high = percentiles(sums[:, 0] / below, level)
    if value in (0.0, 1.0):  # all resamples are equal: the bootstrap has no spread to measure
        hits = int(np.count_nonzero(both))
        interval = wilson(hits if value == 1.0 else 0, hits, level)
        low, high = interval.low, interval.high
    out |= {"same_wrong": value, "low": low, "high": high}
    if chance is not None:
        by_chance = float(expected.sum()) / total
        excess_low, excess_high = percentiles((sums[:, 0] - sums[:, 2]) / below, level)
        out |= {"same_wrong_by_chance": by_chance, "excess": value - by_chance}
        out |= {"excess_low": excess_low, "excess_high": excess_high}
    return out


def _same(a: Sequence[object], b: Sequence[object], n: int) -> npt.NDArray[np.bool_]:
    if len(a) != n or len(b) != n:
        raise ValueError(f"one answer an example is needed, got {len(a)} and {len(b)} for {n}")
    return np.fromiter((x == y for x, y in zip(a, b, strict=True)), dtype=np.bool_, count=n)


def _mean_chance(options: npt.ArrayLike | None, where: npt.NDArray[np.bool_]) -> float | None:
    if options is None or not where.any():
        return None
    return float(_chance(options, where.size)[where].mean())


def _chance(options: npt.ArrayLike, n: int) -> npt.NDArray[np.float64]:
    """``1/(options − 1)``: how often two that are wrong at random give the same answer, float64 ``[n]``."""
    count = np.asarray(options, dtype=np.int64)
    if count.shape != (n,) or (count < 2).any():
        raise ValueError("every example needs at least two options")
    return np.asarray(1.0 / (count - 1.0))

"""Calibration of an arm or of pseudo-labels: expected calibration error with an interval, and the reliability curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemw2s.evaluation.bootstrap import percentiles, pieces, resampled_sums
from ensemw2s.evaluation.calibration import CalibrationBin, bin_of, expected_calibration_error
from ensemw2s.evaluation.intervals import critical_value, wilson
from ensemw2s.evaluation.record import Record


@dataclass(frozen=True, slots=True)
class ReliabilityBin(Record):
    """Examples with a confidence in ``(low, high]``: both means, and Wilson's interval of their accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability(Record):
    """Calibration of one arm, or of one teacher's labels, on one split.

    Attributes:
        name: an arm, or ``labels_TEACHER``.
        measure: what the confidence is: ``token``, the geometric mean probability of the answer's tokens (what labels
            are filtered by); or ``option``, the answer's share of the options' exponentiated scores.
        n: examples.
        accuracy: share of right answers.
        ece: expected calibration error.
        low: lower end of its interval; 0 where the error is not larger than calibrated confidences give by chance.
        high: upper end.
        by_chance: the error that perfectly calibrated confidences, these very ones, would exceed with probability
            ``1 − level`` only.
        bins: the reliability curve; empty bins are left out.
    """

    name: str
    split: str
    measure: str
    n: int
    mean_confidence: float
    accuracy: float
    ece: float
    low: float
    high: float
    by_chance: float
    bins: tuple[ReliabilityBin, ...]

    @property
    def is_off(self) -> bool:
        """Whether the confidences are clearly miscalibrated."""
        return self.ece > self.by_chance


def reliability(
    name: str,
    split: str,
    measure: str,
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    bins: int = 10,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Reliability:
    """Calibration, with intervals, of confidences in [0, 1], float ``[n]``, given who is right, bool ``[n]``.

    ``name``, ``split`` and ``measure`` are those of :class:`Reliability`. The calibration error is biased upwards: bins
    are never exactly right. The percentile bootstrap doubles that bias (a calibrated model's true error of 0 is never
    inside), so the interval is the basic one, ``2·ece − quantiles``, which takes the bias off; and its lower end is 0
    where calibrated confidences would often give such an error (consistency resampling, Bröcker and Smith 2007).

    Raises:
        ValueError: as :func:`~ensemw2s.evaluation.calibration.expected_calibration_error`.
    """
    critical_value(level)  # checks the level
    found = expected_calibration_error(confidence, correct, bins)
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    member = _membership(sure, bins)
    by_chance = _calibrated_error(sure, member, level, resamples, seed)
    errors = np.abs(resampled_sums(member * (right - sure)[:, None], resamples, seed)).sum(axis=1) / sure.size
    low, high = _basic_interval(found.ece, errors, level)
    return Reliability(
        name=name,
        split=split,
        measure=measure,
        n=found.n,
        mean_confidence=float(sure.mean()),
        accuracy=float(right.mean()),
        ece=found.ece,
        low=0.0 if found.ece <= by_chance else low,
        high=high,
        by_chance=by_chance,
        bins=tuple(_with_interval(b, level) for b in found.bins),
    )


def _basic_interval(value: float, resampled: npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    """``2·value − quantiles``, within [0, 1] and around the value."""
    smallest, largest = percentiles(resampled, level)
    return min(value, max(0.0, 2.0 * value - largest)), min(1.0, max(value, 2.0 * value - smallest))


def _membership(sure: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.float64]:
    """Membership of each confidence in the bins, 0 or 1, ``[n, bins]``."""
    return np.asarray(bin_of(sure, bins)[:, None] == np.arange(bins), dtype=np.float64)


def _calibrated_error(
    sure: npt.NDArray[np.float64], member: npt.NDArray[np.float64], level: float, resamples: int, seed: int
) -> float:
    """The ``level`` quantile of the calibration error in worlds where every confidence is the chance to be right."""
    rng = np.random.default_rng([seed, 1])
    errors = []
    for count in pieces(resamples, max(1, (1 << 22) // sure.size)):
        off = (rng.random((count, sure.size)) < sure) - sure
        errors.append(np.abs(off @ member).sum(axis=1) / sure.size)
    return float(np.quantile(np.concatenate(errors), level))


def _with_interval(found: CalibrationBin, level: float) -> ReliabilityBin:
    interval = wilson(round(found.accuracy * found.n), found.n, level)
    low, high = min(interval.low, found.accuracy), max(interval.high, found.accuracy)
    return ReliabilityBin(found.low, found.high, found.n, found.confidence, found.accuracy, low, high)

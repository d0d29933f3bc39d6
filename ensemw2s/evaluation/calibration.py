"""Expected calibration error and its bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemw2s.evaluation.comparisons import correctness
from ensemw2s.evaluation.record import Record


@dataclass(frozen=True, slots=True)
class CalibrationBin(Record):
    """Examples with a confidence in ``(low, high]`` (the first bin includes 0): how many, and both means."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration(Record):
    """Expected calibration error over bins of equal width; empty bins are left out of ``bins``."""

    ece: float
    n: int
    bins: tuple[CalibrationBin, ...]


def bin_of(confidence: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.int64]:
    """Bin of each confidence, from 0, of ``bins`` bins of equal width over [0, 1]."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def expected_calibration_error(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 10) -> Calibration:
    """``Σ_b n_b/n · |accuracy_b − confidence_b|`` over bins of equal width (Guo et al. 2017, equation 3).

    Confidences are float ``[n]`` in [0, 1], correctness bool ``[n]``. The error is biased upwards with few examples in
    a bin; compare it only between arms with the same examples.

    Raises:
        ValueError: no examples, lengths that differ, confidences outside [0, 1], or no bins.
    """
    right = correctness(correct, "correct")
    sure = np.asarray(confidence, dtype=np.float64)
    if sure.shape != right.shape:
        raise ValueError(f"one confidence an example is needed, got {sure.shape} for {right.shape}")
    if not ((sure >= 0.0) & (sure <= 1.0)).all():
        raise ValueError("confidences must lie in [0, 1]")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = bin_of(sure, bins)
    count = np.bincount(index, minlength=bins)
    total_sure = np.bincount(index, weights=sure, minlength=bins)
    total_right = np.bincount(index, weights=right, minlength=bins)
    filled = np.flatnonzero(count)
    means = [(float(total_sure[b] / count[b]), float(total_right[b] / count[b])) for b in filled]
    rows = tuple(
        CalibrationBin(float(edges[b]), float(edges[b + 1]), int(count[b]), *both)
        for b, both in zip(filled, means, strict=True)
    )
    error = float(np.abs(total_right - total_sure).sum() / right.size)
    return Calibration(error, int(right.size), rows)

"""Statistics of a run: intervals, comparisons, performance gap recovered, and the results files. Needs no torch."""

from __future__ import annotations

from ensemw2s.arms import CEILING, TEST_SPLITS, WEAK, planned_pairs, students
from ensemw2s.evaluation.build import Comparisons, build_comparisons, compare
from ensemw2s.evaluation.calibration import Calibration, CalibrationBin, expected_calibration_error
from ensemw2s.evaluation.comparisons import (
    Difference,
    McNemar,
    PairedT,
    holm,
    mcnemar_exact,
    paired_difference,
    paired_t,
)
from ensemw2s.evaluation.correct import read_correct, write_correct
from ensemw2s.evaluation.intervals import Interval, clustered_bootstrap, critical_value, wilson
from ensemw2s.evaluation.matching import answers_match, extract_answer, normalise_text, text_correct
from ensemw2s.evaluation.metrics import (
    ArmResult,
    TokenAccuracy,
    choice_correct,
    choose,
    length_normalise,
    summarise,
    token_accuracy,
)
from ensemw2s.evaluation.numbers import parse_number
from ensemw2s.evaluation.over_seeds import AggregateResults, SeedComparison, SeedSummary, aggregate
from ensemw2s.evaluation.pgr import PGR, FiellerSet, fieller_set, pgr_fieller, ratio_of_means
from ensemw2s.evaluation.results import LabelResult, ModelInfo, PairResult, Results, RoundResult, RoundScore
from ensemw2s.evaluation.sampling import Answers, Sampling, sampling_error

__all__ = [
    "CEILING",
    "PGR",
    "TEST_SPLITS",
    "WEAK",
    "AggregateResults",
    "Answers",
    "ArmResult",
    "Calibration",
    "CalibrationBin",
    "Comparisons",
    "Difference",
    "FiellerSet",
    "Interval",
    "LabelResult",
    "McNemar",
    "ModelInfo",
    "PairResult",
    "PairedT",
    "Results",
    "RoundResult",
    "RoundScore",
    "Sampling",
    "SeedComparison",
    "SeedSummary",
    "TokenAccuracy",
    "aggregate",
    "answers_match",
    "build_comparisons",
    "choice_correct",
    "choose",
    "clustered_bootstrap",
    "compare",
    "critical_value",
    "expected_calibration_error",
    "extract_answer",
    "fieller_set",
    "holm",
    "length_normalise",
    "mcnemar_exact",
    "normalise_text",
    "paired_difference",
    "paired_t",
    "parse_number",
    "pgr_fieller",
    "planned_pairs",
    "ratio_of_means",
    "read_correct",
    "sampling_error",
    "students",
    "summarise",
    "text_correct",
    "token_accuracy",
    "wilson",
    "write_correct",
]

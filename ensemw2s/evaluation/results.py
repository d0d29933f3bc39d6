"""``results.json``: every number of a run's report, with intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ensemw2s.arms import SINGLE, WEAK
from ensemw2s.evaluation.cost import ArmCost, StageCost, StageMemory
from ensemw2s.evaluation.disagreement import Disagreement, SharedErrors
from ensemw2s.evaluation.metrics import ArmResult
from ensemw2s.evaluation.pgr import PGR
from ensemw2s.evaluation.record import SCHEMA_VERSION, Record, SavedRecord
from ensemw2s.evaluation.reliability import Reliability


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo(Record):
    """A base model: where it came from and how large it is."""

    source: str
    parameters: int
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundScore(Record):
    """One expert, and the ensemble of the experts so far, on one split."""

    expert_accuracy: float
    ensemble_accuracy: float
    expert_token_accuracy: float | None = None
    ensemble_token_accuracy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult(Record):
    """One boosting round, or one member of bagging or of the plain ensemble.

    Attributes:
        round: from 1.
        epsilon: the token error ``ε_t``, clipped as it entered ``α_t``; None where nothing is boosted.
        epsilon_raw: the same before clipping.
        epsilon_prior: ``ε_0``, the reference of ``α_t``, clipped: of the base, or of the first expert.
        alpha: the expert weight ``α_t`` (1 for members with equal weights).
        kept: whether the expert is part of the ensemble.
        n_eff: ``1/ΣD²`` of the round's token weights.
        top1_share: share of the weight on the heaviest 1 % of the tokens.
    """

    round: int
    splits: dict[str, RoundScore]
    epsilon: float | None = None
    epsilon_raw: float | None = None
    epsilon_prior: float | None = None
    alpha: float | None = None
    kept: bool = True
    n_eff: float | None = None
    top1_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCoverage(Record):
    """A selection's share of one group of questions of the hard pool.

    Attributes:
        group: the annotation, or the prompt in the middle of a cluster.
        n: prompts labelled.
        kept: labels left after filtering.
        accuracy: share of right labels among all ``n``, or None where the truth is unknown.
        kept_accuracy: share of right labels among the kept ones, or None.
        weight: mean weight of the kept labels' loss; 0 where none is kept.
    """

    group: str
    n: int
    kept: int
    accuracy: float | None = None
    kept_accuracy: float | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelResult(Record):
    """The pseudo-labels of one teacher.

    Attributes:
        n: prompts labelled.
        kept: labels left after filtering.
        accuracy: share of right labels among all ``n``, or None where the truth is unknown.
        low: lower end of Wilson's interval of that, or None.
        high: upper end, or None.
        kept_accuracy: share of right labels among the kept ones, or None.
        mean_confidence: mean of the labels' geometric mean token probability.
        mean_agreement: mean share of ``ᾱ`` that would have given the same label.
        ece: expected calibration error of the confidence, or None.
        coverage: the groups, where labels are selected.
        coverage_by: ``group`` for an annotation, ``prompts`` for clusters.
    """

    n: int
    kept: int
    mean_confidence: float
    mean_agreement: float
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    kept_accuracy: float | None = None
    ece: float | None = None
    coverage: list[GroupCoverage] = field(default_factory=list)
    coverage_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairResult(Record):
    """Accuracy of ``a`` minus accuracy of ``b`` on one split, paired over examples, with McNemar's exact test."""

    a: str
    b: str
    split: str
    estimate: float
    low: float
    high: float
    se: float
    n: int
    b10: int
    b01: int
    mcnemar_p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Results(SavedRecord):
    """All results of one run (one seed).

    Attributes:
        task: ``choice`` or ``generate``.
        weak: the arm that is W of every PGR.
        preset: the preset that the configuration began from, or None.
        level: confidence level of every interval.
        models: ``weak`` and ``strong`` → the base model.
        rounds: ``boosting``, or another ensemble → one entry a round or member.
        selected_rounds: the same names → number of rounds chosen on validation.
        stop_reason: why boosting ended, in words, or None.
        differences: the planned comparisons.
        pgr: student → split → performance gap recovered.
        times: stage → seconds, interrupted starts included.
        disagreements: every student beside its teacher, by split.
        shared_errors: errors that the members of an ensemble have in common, by ensemble and split.
        reliability: calibration of arms on the test splits and of labels on the hard pool.
        costs: stage → tokens and operations.
        arm_costs: arm → the operations behind it, as if it had been built alone.
        memory: stage → peak memory, measured.
        clipped: fine-tuning → share of its steps whose gradient was clipped.
        notes: remarks for the report, in words.
    """

    #: W was the first expert, a bootstrap resample.
    earlier: ClassVar[dict[str, Any]] = {"weak": SINGLE}

    name: str
    seed: int
    task: Literal["choice", "generate"]
    config_fingerprint: str
    arms: dict[str, dict[str, ArmResult]]
    weak: str = WEAK
    preset: str | None = None
    level: float = 0.95
    versions: dict[str, str] = field(default_factory=dict)
    models: dict[str, ModelInfo] = field(default_factory=dict)
    split_sizes: dict[str, int] = field(default_factory=dict)
    rounds: dict[str, list[RoundResult]] = field(default_factory=dict)
    selected_rounds: dict[str, int] = field(default_factory=dict)
    stop_reason: str | None = None
    labels: dict[str, LabelResult] = field(default_factory=dict)
    differences: list[PairResult] = field(default_factory=list)
    pgr: dict[str, dict[str, PGR]] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    disagreements: list[Disagreement] = field(default_factory=list)
    shared_errors: list[SharedErrors] = field(default_factory=list)
    reliability: list[Reliability] = field(default_factory=list)
    costs: dict[str, StageCost] = field(default_factory=dict)
    arm_costs: dict[str, ArmCost] = field(default_factory=dict)
    memory: dict[str, StageMemory] = field(default_factory=dict)
    clipped: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    def difference(self, a: str, b: str, split: str) -> PairResult | None:
        """The comparison "a − b" on one split, or None where it was not made."""
        for pair in self.differences:
            if (pair.a, pair.b, pair.split) == (a, b, split):
                return pair
        return None

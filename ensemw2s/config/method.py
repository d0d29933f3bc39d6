"""Configuration of boosting, ensemble, labelling, students, arms and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ensemw2s.arms import SINGLE, teachers
from ensemw2s.config.base import Known, Section
from ensemw2s.registry import ALPHA_RULES, STUDENT_LOSSES


class BoostingConfig(Section):
    """Phase 1: experts by token-level boosting."""

    rounds: int = Field(default=5, ge=1)
    """Largest number of experts ``T``."""
    start: Literal["pretrained", "previous"] = "pretrained"
    """Where the expert of a round starts from: the pre-trained weak base, or the expert before it (a chain), with the
    learning-rate schedule from its beginning. From round 2 on a chain's ``α_t`` compares with its first expert."""
    init: Literal["token", "example"] = "token"
    """``D_1``: uniform over answer tokens, or over examples and then over their tokens."""
    draw: Literal["example", "token", "none"] = "example"
    """How ``D_t`` enters training: examples drawn with replacement, tokens drawn, or weights on the loss. Round 1
    trains on all data without drawing, unless errors are ``out_of_bag``."""
    errors: Literal["train", "out_of_bag", "crossfit", "unseen"] = "train"
    """Where ``s_t`` comes from: the training pass, the examples not drawn, or cross-fitted helpers, which cost
    ``folds`` - 1 times what the experts do. ``unseen`` is ``out_of_bag`` where examples are drawn for experts that
    start from the base, else ``crossfit`` on two halves; with ``alpha: prior`` or ``adaptive`` it stops at an expert
    that is no better than the plain fine-tune on examples that neither saw."""
    error_unit: Literal["token", "choice"] = "token"
    """What "wrong" means: the arg-max token, or (``task: choice``) the chosen option."""
    level: Literal["token", "example"] = "token"
    """``example`` gives all tokens of an example its weighted mean of ``s``."""
    eos: Literal["exclude", "include"] = "exclude"
    """Whether the end-of-sequence token carries weight and counts as an error."""
    alpha: Annotated[str, Known(ALPHA_RULES)] = "prior"
    """The rule for the expert weight ``α_t``, built in or of a plug-in."""
    samme_classes: int | None = Field(default=None, ge=2)
    """``K`` of ``alpha: samme``; null takes the vocabulary size, with ``error_unit: choice`` the number of options."""
    shrinkage: float = Field(default=1.0, gt=0.0, le=1.0)
    """``ν``: scales the update of the token weights, not the vote."""
    cap: float | None = Field(default=None, ge=1.0)
    """No token's weight exceeds ``cap / N``; null is no cap."""
    window: int = Field(default=1, ge=1)
    """Average ``s`` over this many neighbouring answer tokens; 1 is off."""
    patience: int | None = Field(default=None, ge=1)
    """Stop when the validation score has not improved for so many rounds; null never."""
    folds: int = Field(default=2, ge=2)
    """Folds of ``errors: crossfit``; ``unseen`` has two."""
    min_effective: float = Field(default=30.0, gt=0.0)
    """Smallest effective sample size ``m`` with which an out-of-bag error is used. Below it the round is cross-fitted;
    also where more than ``0.5/√m`` of the weight is on examples that are hardly ever left out."""

    @model_validator(mode="after")
    def _combinations(self) -> BoostingConfig:
        if self.errors == "out_of_bag" and self.draw != "example":
            raise ValueError("errors: out_of_bag needs draw: example (other draws leave no example out)")
        if self.errors == "out_of_bag" and self.start == "previous":
            raise ValueError(
                "errors: out_of_bag needs start: pretrained (what a round of a chain leaves out, the rounds before it "
                "have seen); errors: unseen cross-fits a chain"
            )
        if self.errors == "unseen" and self.folds != 2:
            raise ValueError("errors: unseen cross-fits on two halves; for other folds use errors: crossfit")
        if self.alpha == "adaptive" and (self.cap is None or self.patience is None):
            raise ValueError("alpha: adaptive needs a cap and patience (it can repeat experts without end)")
        if self.window > 1 and self.level == "example":
            raise ValueError("window has no effect with level: example; leave one of them out")
        return self

    @property
    def errors_from(self) -> Literal["train", "out_of_bag", "crossfit"]:
        """What ``errors`` comes to.

        ``unseen`` is out-of-bag where examples are drawn anew for experts that start from the base, else cross-fitted,
        as a member of a chain has seen what the rounds before it drew. Where errors change nothing, in a single round
        or under weights that stay as they are, it is the training pass.
        """
        if self.errors != "unseen":
            return self.errors
        if self.rounds == 1 or not ALPHA_RULES.get(self.alpha).updates:
            return "train"
        return "out_of_bag" if self.draw == "example" and self.start == "pretrained" else "crossfit"

    @property
    def compares_with_first(self) -> bool:
        """Whether ``α_t`` compares an expert with the first one from round 2 on, and not with the base."""
        return self.start == "previous" or (self.errors == "unseen" and self.errors_from != "train")

    @property
    def first_is_plain(self) -> bool:
        """Whether round 1 is the plain fine-tune on all training data; out-of-bag errors need examples left out."""
        return self.errors_from != "out_of_bag"

    def helper_steps(self, steps: int) -> int:
        """Optimiser steps of a cross-fitting helper: as many passes over its folds as an expert has over all."""
        return max(1, round(steps * (self.folds - 1) / self.folds))

    def total_steps(self, steps: int) -> int:
        """Optimiser steps of all rounds with ``steps`` for an expert, and of the helpers that are sure to come."""
        helpers = self.folds * self.helper_steps(steps) if self.errors_from == "crossfit" else 0
        return self.rounds * (steps + helpers)

    @property
    def members_for_cost(self) -> int:
        """Experts that the cost of boosting would train: a round's helpers cost ``folds`` - 1 of them."""
        return self.rounds * (self.folds if self.errors_from == "crossfit" else 1)

    def draw_of_round(self, round_: int) -> Literal["example", "token", "none"]:
        """The draw of a round (from 1): ``D_1`` is known beforehand and needs none."""
        return "none" if round_ == 1 and self.first_is_plain else self.draw


class CombineConfig(Section):
    """Combination of experts."""

    rule: Literal["mixture", "product", "vote"] = "mixture"
    """Combination of next-token distributions."""
    vote: Literal["rule", "equal", "fitted"] = "rule"
    """Weights of the boosted experts: ``α_t`` of the rule, equal, or fitted on validation by log score, shrunk toward
    equal."""
    length_norm: Literal["mean", "sum", "byte"] = "mean"
    """How an option's token log-probabilities become its score; one norm for all arms."""
    select_rounds: bool = True
    """Use the number of rounds that is best on validation (ties: the smallest); false uses all."""
    top_k: int = Field(default=16, ge=1)
    """Largest next-token candidates kept for every expert and answer token."""

    @model_validator(mode="after")
    def _combinations(self) -> CombineConfig:
        if self.vote == "fitted" and self.rule != "mixture":
            raise ValueError("vote: fitted needs rule: mixture (its log score is that of a mixture)")
        return self


class DecodingConfig(Section):
    """Generation of text from the combined distribution."""

    method: Literal["greedy", "sample"] = "greedy"
    """Arg-max or sampling."""
    experts: Literal["all", "one"] = "all"
    """Experts that a token is sampled from: the combination of all, or one that is drawn with its share of the weights.
    ``one`` samples from the mixture too, and needs its plain form: temperature 1, no ``top_p``, no ``top_k``."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Divides the log-probabilities of the combined distribution before sampling."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Smallest set of tokens with at least this probability; 1 is off."""
    top_k: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """Only the most probable tokens; null is off."""
    max_new_tokens: int = Field(default=64, ge=1, le=2**24)
    """Longest answer in tokens, end-of-sequence included."""

    @model_validator(mode="after")
    def _combinations(self) -> DecodingConfig:
        if self.experts == "one":
            if self.method != "sample":
                raise ValueError("experts: one needs method: sample (the arg-max is not any single expert's)")
            if self.temperature != 1.0 or self.top_p != 1.0 or self.top_k is not None:
                raise ValueError("experts: one needs temperature 1, top_p 1 and no top_k (they change the mixture)")
        return self

    @property
    def draws_experts(self) -> bool:
        """Whether every token comes from one drawn expert; greedy copies of such a section do not."""
        return self.experts == "one" and self.method == "sample"


class LabellingConfig(Section):
    """Phase 2: the ensemble labels the hard pool."""

    decoding: DecodingConfig = DecodingConfig()
    """Decoding of ``task: generate``."""
    soft_top_k: int = Field(default=8, ge=1)
    """Largest next-token candidates kept for every label token when the student's loss is ``soft``."""
    noise_model: Literal["none", "em"] = "none"
    """How experts' opinions become a label (``task: choice``): by their combination, or as the posterior of a noise
    model, which estimates on the unlabelled pool how often each of them is right (expectation-maximisation). It takes
    three experts and voters together that agree more than guesses do; otherwise the combination stays."""
    voters: list[Literal["strong"]] = Field(default=[])
    """Who has a say in labels besides the experts (``task: choice``): the strong base's zero-shot opinion. Its weight
    comes from validation by log score, with ``noise_model: em`` from the pool. With voters or a noise model the
    confidence of a label is its probability."""

    @model_validator(mode="after")
    def _combinations(self) -> LabellingConfig:
        if len(set(self.voters)) < len(self.voters):
            raise ValueError(f"voters names one twice: {', '.join(self.voters)}")
        return self

    @property
    def relabels(self) -> bool:
        """Whether labels may be other ones than the teacher's own choices."""
        return self.noise_model != "none" or bool(self.voters)


class EarlyStopConfig(Section):
    """Early stopping of students by their agreement with labels that they are not trained on."""

    holdout: float = Field(default=0.1, gt=0.0, le=0.5)
    """Share of the selected labels that is held out."""
    every: int = Field(default=50, ge=1)
    """Optimiser steps from one look at the agreement to the next."""
    patience: int = Field(default=3, ge=1)
    """So many looks in a row that are no better than the best before end the training, and the weights of the best look
    are kept. A training that is not ended keeps its last weights; it is not while nothing agrees yet."""


class StudentConfig(Section):
    """Phase 3: the student learns from pseudo-labels."""

    loss: Annotated[str, Known(STUDENT_LOSSES)] = "xent"
    """Hard labels, the ensemble's distribution, hard labels mixed with the student's own hardened prediction, or
    cross-entropy mixed with its reverse (``rce``), which gives up labels that the student finds impossible."""
    logconf_coefficient: float = Field(default=0.5, ge=0.0, le=1.0)
    """Final weight of the student's own prediction in ``logconf``, and of the reverse cross-entropy in ``rce``."""
    logconf_warmup: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of the steps over which that weight grows linearly from 0."""
    labels: Literal["hard", "posterior"] = "hard"
    """What a question teaches (``task: choice``): the teacher's choice, or an option drawn by the teacher's posterior
    each time that the question comes up. How sharp the posterior is, is fitted on validation by log score."""
    generations: int = Field(default=1, ge=1)
    """Students in a row (``task: choice``): each next one starts from the strong base and learns the labels of the one
    before it, mixed with the teacher's."""
    mix: float = Field(default=0.5, ge=0.0, le=1.0)
    """The teacher's share ``λ`` in the labels of a next generation: ``log p ∝ (1 − λ)·log p_student + λ·log p_teacher``
    over the options."""
    min_confidence: float | None = Field(default=None, ge=0.0, le=1.0)
    """Drop labels below this confidence: the option's posterior probability with ``task: choice``, the geometric mean
    token probability with ``generate``."""
    min_agreement: float | None = Field(default=None, ge=0.0, le=1.0)
    """Drop labels below this agreement between experts."""
    keep_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    """Keep this share of the labels, the most confident first; the same share for every student."""
    keep_within: Literal["group", "prompts"] | None = None
    """Compare confidences within groups of questions only: the annotation ``group`` of the data, or clusters of
    prompts. ``keep_fraction`` is then kept of every group, and weights have mean 1 in each. The most confident labels
    of all are the easy kinds of question, and those with short answers."""
    weights: Literal["none", "confidence"] = "none"
    """Weight of a label's loss: the same for all, or its confidence divided by their mean, or with ``keep_within`` by
    that of its group."""
    early_stop: EarlyStopConfig | None = None
    """Early stopping by agreement with held-out labels; null takes all steps. The schedule of the learning rate stays
    that of all steps. No true label is read."""

    @model_validator(mode="after")
    def _combinations(self) -> StudentConfig:
        if self.keep_within is not None and (self.min_confidence, self.min_agreement) != (None, None):
            raise ValueError(
                "keep_within keeps the share keep_fraction of every group, which min_confidence and min_agreement "
                "would take away; leave them out"
            )
        return self

    @property
    def selects(self) -> bool:
        """Whether labels are selected, or weighted, at all."""
        filtered = self.keep_fraction < 1.0 or (self.min_confidence, self.min_agreement) != (None, None)
        return filtered or self.weights != "none"


if TYPE_CHECKING:
    StudentTeacher = str
else:
    StudentTeacher = Literal[teachers()]


class ArmsConfig(Section):
    """Arms that a run compares. All share optimiser steps, batch size, seeds and the validation rule."""

    zero_shot: bool = True
    """The weak and strong bases before any fine-tuning."""
    plain: bool = True
    """One weak model fine-tuned on all training data without drawing: the W of PGR. Round 1 of boosting is this model,
    and then it is there in any case; with out-of-bag errors it is one more."""
    plain_long: bool = True
    """The same with the steps of all rounds, cross-fitting helpers included: the cost of the ensemble in one model."""
    bagging: bool = True
    """``rounds`` members with equal weights: the first expert, then bootstrap resamples with the seeds and draws of the
    boosting rounds. With cross-fitted errors, ``folds`` times as many, for the same cost; so in the next two."""
    seeds: bool = True
    """``rounds`` seeds on all data with equal weights: the plain ensemble."""
    chain: bool = True
    """``rounds`` members on all data with equal weights, each of which goes on from the one before with the
    learning-rate schedule from its beginning: ``boosting.start: previous`` without boosting."""
    students: list[StudentTeacher] = Field(default=[name for name in teachers() if name != SINGLE])
    """Which teachers get a student. ``single`` is the first expert: another name for ``plain`` unless
    errors are out-of-bag."""
    ceiling: bool = True
    """The strong base fine-tuned on the true labels of the hard pool."""


class EvaluationConfig(Section):
    """Metrics and their uncertainty."""

    level: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Confidence level of every interval."""
    bootstrap: int = Field(default=1000, ge=100)
    """Resamples of the clustered bootstrap."""
    match: Literal["exact", "number"] = "exact"
    """How generated answers are compared: as text after normalising white space, or as numbers (the last one in each;
    ``docs/models-and-data.md`` says how they are read)."""

"""The rounds of token-level boosting: token weights ``D_t``, expert weights ``α_t`` and the stopping rule.

A :class:`Learner` trains and scores the experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ensemw2s.boosting.alpha import AlphaRule, WeightedError, weighted_error
from ensemw2s.boosting.draws import Draw, draw_training_set
from ensemw2s.boosting.errors import fold_of_example, out_of_bag_error, smooth_errors, unseen_mass
from ensemw2s.boosting.weights import (
    Floats,
    TokenLayout,
    concentration,
    example_weights,
    initial_weights,
    update_left_out,
    update_weights,
)
from ensemw2s.config.method import BoostingConfig
from ensemw2s.errors import RunFailedError
from ensemw2s.registry import ALPHA_RULES
from ensemw2s.seeds import sub_seed
from ensemw2s.sink import EventSink

Wrong = NDArray[np.floating]


class Learner(Protocol):
    """Trains and scores experts; rounds count from 1. All arrays run over the tokens of ``D``."""

    def fit(self, round_: int, draw: Draw) -> None:
        """Fine-tune the expert of a round, from where ``start`` says, and score it on every split."""

    def errors(self, round_: int) -> Wrong:
        """Raw ``s`` of a fitted expert on the whole training set, [N], 0 or 1."""

    def base_errors(self) -> Wrong:
        """Raw ``s`` of the pre-trained weak base, [N], 0 or 1."""

    def helper_errors(self, round_: int, fold: int, draw: Draw) -> Wrong:
        """Raw ``s`` of a helper fitted on ``draw`` only (cross-fitting), [N], 0 or 1; from where ``start`` says."""

    def validation_score(self, alphas: list[float]) -> float:
        """Score of the ensemble of the first ``len(alphas)`` experts on validation; larger is better."""


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round.

    Attributes:
        round: from 1.
        epsilon: ``ε_t`` after clipping; ``epsilon_raw`` before.
        epsilon_prior: ``ε_0``, the reference of ``α_t``, after clipping: of the base, or of the first expert.
        alpha: ``α_t``.
        kept: whether the expert is in the ensemble.
        errors_from: source of ``s``: ``train``, ``out_of_bag`` or ``crossfit``.
        n_eff: effective sample size ``1/ΣD_t²``.
        top1_share: share of weight on the heaviest 1 % of tokens.
        validation: validation score of the ensemble with this expert; None if it was dropped.
    """

    round: int
    epsilon: float
    epsilon_raw: float
    epsilon_prior: float
    alpha: float
    kept: bool
    errors_from: str
    n_eff: float
    top1_share: float
    validation: float | None

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


@dataclass
class BoostingResult:
    """The outcome of boosting.

    Attributes:
        rounds: one record a round, dropped experts included.
        alphas: ``α_t`` of the kept experts, in order.
        selected: how many of them the ensemble uses: best on validation, ties to the smallest.
        stopped: why the loop ended.
    """

    rounds: list[RoundRecord] = field(default_factory=list)
    alphas: list[float] = field(default_factory=list)
    selected: int = 0
    stopped: str = ""


WeightsHook = Callable[[int, Floats, Floats], None]


class Booster:
    """Token-level boosting (method: phase 1).

    Args:
        config: the options of boosting.
        layout: answer tokens of every training example, with end-of-sequence tokens if ``eos: include``.
        learner: trains and scores.
        classes: ``K`` of ``alpha: samme``.
        seed: the run's seed.
        sink: gets ``round_started``, ``round_finished`` and ``boosting_stopped``.
        on_weights: called with (round, ``D_t``, ``s_t``) after the errors of a round are known and before the update.
    """

    def __init__(
        self,
        config: BoostingConfig,
        layout: TokenLayout,
        learner: Learner,
        *,
        classes: int,
        seed: int,
        sink: EventSink,
        on_weights: WeightsHook | None = None,
    ) -> None:
        self.config = config
        self.rule: AlphaRule = ALPHA_RULES.get(config.alpha)
        self.layout = layout
        self.learner = learner
        self.classes = classes
        self.seed = seed
        self.sink = sink
        self.on_weights = on_weights
        self.weights = initial_weights(layout, config.init)
        self._mass: Floats | None = None  # of the examples, as the latest update left them
        self._base_wrong: Wrong | None = None
        self._first: Wrong | None = None  # raw s of round 1, where later rounds are compared with it
        self._unseen: NDArray[np.bool_] | None = None  # examples that it was left to judge; None: all
        self._prior_first: WeightedError | None = None

    def fit(self, select: bool = True) -> BoostingResult:
        """Run all rounds and choose the number of experts on validation.

        Args:
            select: use the number of rounds that is best on validation; False keeps all.
        """
        result = BoostingResult()
        scores: list[float] = []
        for round_ in range(1, self.config.rounds + 1):
            self.sink.event("round_started", round=round_, rounds=self.config.rounds)
            reason = self._round(round_, result, scores)
            self.sink.event("round_finished", **result.rounds[-1].to_json())
            if reason is None and self._patience_over(scores):
                reason = f"validation has not improved for {self.config.patience} rounds"
            if reason is not None:
                result.stopped = reason
                break
        result.stopped = result.stopped or f"all {self.config.rounds} rounds done"
        result.selected = int(np.argmax(scores)) + 1 if select else len(scores)
        self.sink.event(
            "boosting_stopped", reason=result.stopped, rounds=len(result.rounds), selected_rounds=result.selected
        )
        return result

    def _round(self, round_: int, result: BoostingResult, scores: list[float]) -> str | None:
        """One round; returns why boosting stops, or None."""
        config = self.config
        shape = concentration(self.weights)
        how = config.draw_of_round(round_)
        draw = draw_training_set(self.layout, self.weights, how, seed=self.seed, stream=round_, mass=self._mass)
        self.learner.fit(round_, draw)
        raw, source = self._errors(round_, draw)
        wrong = self._smooth(raw)
        error = self._measured(wrong, draw, source)
        prior = self._prior(draw, source)
        if self._first is None and config.compares_with_first:
            self._first = np.array(raw)
            self._unseen = draw.left_out if source == "out_of_bag" else None
        alpha = float(self.rule.weight(error, prior, self.classes))
        if not np.isfinite(alpha):
            raise RunFailedError(
                f"The weight of expert {round_} is not finite (ε = {error.value}, ε_0 = {prior.value})."
            )
        reason = self._stop_reason(round_, alpha, error)
        kept = alpha > 0.0 or round_ == 1
        if kept:
            # A first expert that does not beat the base stays, alone, with weight 1.
            result.alphas.append(alpha if alpha > 0.0 else 1.0)
            scores.append(self.learner.validation_score(list(result.alphas)))
        result.rounds.append(
            RoundRecord(
                round=round_,
                epsilon=error.clipped,
                epsilon_raw=error.value,
                epsilon_prior=prior.clipped,
                alpha=alpha,
                kept=kept,
                errors_from=source,
                n_eff=shape.n_eff,
                top1_share=shape.top1_share,
                validation=scores[-1] if kept else None,
            )
        )
        if self.on_weights is not None:
            self.on_weights(round_, self.weights, wrong)
        if reason is None and self.rule.updates:
            self._update(wrong, error, alpha, draw, source)
        return reason

    def _errors(self, round_: int, draw: Draw) -> tuple[Wrong, str]:
        """Raw ``s`` and its source."""
        source: str = self.config.errors_from
        if source == "out_of_bag":
            raw = self.learner.errors(round_)
            doubt = self._doubt(self._out_of_bag(self._smooth(raw), draw))
            if doubt is None:
                return raw, source
            text = f"Round {round_}: {doubt}; cross-fitting instead."
            self.sink.event("message", level="warning", text=text)
            source = "crossfit"
        return self._crossfit(round_) if source == "crossfit" else self.learner.errors(round_), source

    def _out_of_bag(self, wrong: Floats, draw: Draw) -> WeightedError | None:
        return out_of_bag_error(self.layout, self.weights, wrong, draw, self._unseen)

    def _measured(self, wrong: Floats, draw: Draw, source: str) -> WeightedError:
        """The weighted error where ``s`` is known: of what the round left out, or of all.

        Where the first expert is the reference and was itself judged by what it left out, of those examples alone:
        the two are compared on the same ones.
        """
        error = self._out_of_bag(wrong, draw) if source == "out_of_bag" else None
        if error is not None:
            return error
        if self._unseen is None:
            return weighted_error(self.weights, wrong)
        return weighted_error(self.weights * np.repeat(self._unseen, self.layout.lengths), wrong)

    def _doubt(self, error: WeightedError | None) -> str | None:
        """Why an out-of-bag error cannot be relied on, or None.

        It can be if its sample is worth ``m = min_effective`` examples, and no more than ``0.5/√m`` of the weight may
        be unobserved: the largest standard error of an error rate over ``m`` examples.
        """
        least, found = self.config.min_effective, 0.0 if error is None else error.n_eff
        if found < least:
            return f"the examples left out are worth {found:.1f} examples, fewer than {least:g}"
        unseen, most = unseen_mass(self.layout, self.weights, self._unseen), 0.5 / math.sqrt(least)
        if unseen > most:
            return (
                f"{100.0 * unseen:.0f} % of the weight is on examples that are hardly ever left out, "
                f"more than {100.0 * most:.0f} %"
            )
        return None

    def _crossfit(self, round_: int) -> Wrong:
        """``s`` of helpers on folds that they were not trained on."""
        fold = fold_of_example(self.layout.examples, self.config.folds, sub_seed(self.seed, "boosting", "folds"))
        of_token = np.repeat(fold, self.layout.lengths)
        wrong = np.zeros(self.layout.tokens)
        for f in range(self.config.folds):
            held = of_token == f
            rest = np.where(held, 0.0, self.weights)
            rest /= rest.sum()
            stream = (1 + f) * 1_000_003 + round_  # apart from the streams of the rounds themselves
            how = self.config.draw_of_round(round_)
            draw = draw_training_set(self.layout, rest, how, seed=self.seed, stream=stream)
            inside = example_weights(self.layout, rest) > 0.0
            index = draw.index[inside[draw.index]]
            # All weight is now on the examples outside the fold: a sequence's mean weight stays what it was.
            share = np.float32(index.size / draw.index.size)
            draw = Draw(index, draw.token_weights * share, draw.eos_weights, draw.left_out)
            wrong[held] = self.learner.helper_errors(round_, f, draw)[held]
        return wrong

    def _smooth(self, raw: Wrong) -> Floats:
        if raw.shape != (self.layout.tokens,):
            raise ValueError(f"errors must have shape ({self.layout.tokens},), not {raw.shape}")
        return smooth_errors(self.layout, self.weights, raw, level=self.config.level, window=self.config.window)

    def _prior(self, draw: Draw, source: str) -> WeightedError:
        """``ε_0``: the base under ``D_1``, or under the current weights where the rule says so.

        From round 2 on, in a chain and with ``errors: unseen``, that of the first expert under the current weights,
        from the same source as ``ε_t``: every member knows the format, so that nothing would be worse than the base and
        nothing would ever stop.
        """
        if self._first is not None:
            return self._measured(self._smooth(self._first), draw, source)
        if self._base_wrong is None:
            self._base_wrong = self.learner.base_errors()
        if self.rule.prior == "current":
            return weighted_error(self.weights, self._smooth(self._base_wrong))
        if self._prior_first is None:  # asked for in round 1, while the weights are still D_1
            self._prior_first = weighted_error(self.weights, self._smooth(self._base_wrong))
        return self._prior_first

    def _stop_reason(self, round_: int, alpha: float, error: WeightedError) -> str | None:
        if alpha <= 0.0:
            fate = "it is the first and stays with weight 1" if round_ == 1 else "it is dropped"
            return f"expert {round_} has α = {alpha:.4g} ≤ 0: {fate}"
        if error.value == 0.0 and self.rule.updates:
            return f"expert {round_} makes no error: nothing is left to boost"
        return None

    def _update(self, wrong: Floats, error: WeightedError, alpha: float, draw: Draw, source: str) -> None:
        exponent = self.config.shrinkage * self.rule.factor * alpha
        if source == "out_of_bag":
            left_out = np.repeat(draw.left_out, self.layout.lengths)
            update_left_out(self.weights, wrong, left_out, exponent, self.config.cap)
            self._mass = None
        else:
            if self._unseen is not None:  # the error is of a part, the update of all
                error = weighted_error(self.weights, wrong)
            self._mass = update_weights(self.weights, wrong, exponent, self.config.cap, self.layout, error)

    def _patience_over(self, scores: list[float]) -> bool:
        if self.config.patience is None or not scores:
            return False
        return len(scores) - 1 - int(np.argmax(scores)) >= self.config.patience

"""Optimiser steps and learning rate of a side, found on validation with a plain fine-tune of its base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import ensemw2s.stage_names as stage
from ensemw2s.config.training import TrainingConfig, TrainingSettings
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.pipeline.scored_model import ScoredModel

#: Less than this, in nats a token of the validation answers, is no gain.
GAIN = 0.01


@dataclass(frozen=True)
class Tried:
    """One fine-tuning of a search, with the mean log-likelihood of a token of the validation answers."""

    steps: int
    learning_rate: float
    log_likelihood: float


def search(
    settings: TrainingSettings, one_pass: int, score: Callable[[int, float], float]
) -> tuple[int, float, list[Tried]]:
    """Steps and learning rate, and all that was tried.

    The learning rate is chosen first. Then the steps are doubled as long as that gains :data:`GAIN` or more; the last
    ones that did are taken.

    Args:
        settings: what is ``auto`` is searched.
        one_pass: steps of one pass over the training data.
        score: of steps and learning rate; larger is better.
    """
    tried: list[Tried] = []

    def ask(steps: int, rate: float) -> float:
        tried.append(Tried(steps, rate, score(steps, rate)))
        return tried[-1].log_likelihood

    steps = min(one_pass, settings.max_steps) if settings.steps == "auto" else settings.steps
    automatic = settings.learning_rate == "auto"
    rates = settings.rates if automatic else (float(settings.learning_rate),)
    if not settings.automatic:
        return steps, rates[0], tried
    for rate in rates:
        ask(steps, rate)
    best = max(tried, key=lambda one: one.log_likelihood)
    while settings.steps == "auto" and 2 * steps <= settings.max_steps:
        found = ask(2 * steps, best.learning_rate)
        if found < best.log_likelihood + GAIN:
            break
        steps, best = 2 * steps, tried[-1]
    return steps, best.learning_rate, tried


def tune(ctx: Context, side: Side, sequences: int, fit: Callable[[str, TrainingConfig], ScoredModel]) -> TrainingConfig:
    """The fine-tuning of a side without ``auto``.

    Args:
        ctx: the run.
        side: the base.
        sequences: of the easy training data.
        fit: fine-tunes the base on them, as the stage of a given name, and scores it on validation.
    """
    roles = ctx.config.training
    settings = roles.expert if side == "weak" else roles.student
    trials: list[TrainingConfig] = []

    def score(steps: int, rate: float) -> float:
        trials.append(settings.fixed(steps=steps, learning_rate=rate))
        return _log_likelihood(ctx, side, fit(stage.tuning(side, len(trials)), trials[-1]))

    steps, rate, tried = search(settings, -(-sequences // settings.batch_size), score)
    if tried:
        _tell(ctx, side, steps, rate, tried)
    return settings.fixed(steps=steps, learning_rate=rate)


def _log_likelihood(ctx: Context, side: Side, model: ScoredModel) -> float:
    enc = ctx.encoded(side, "validation", ctx.scoring_view("validation"))
    rows, _ = enc.answer_rows(include_eos=False)
    return float(np.asarray(model.table("validation").target_logprob, dtype=np.float64)[rows].mean())


def _tell(ctx: Context, side: Side, steps: int, rate: float, tried: Sequence[Tried]) -> None:
    trail = "; ".join(f"{one.steps} × {one.learning_rate:g}: {one.log_likelihood:.3f}" for one in tried)
    text = (
        f"Fine-tuning of the {side} base: {steps} steps with learning rate {rate:g}, found on validation "
        f"(steps × learning rate: nats a token: {trail})."
    )
    ctx.notes.append(text)
    ctx.sink.event("message", level="info", text=text)

"""Distributions over the options of the hard pool's questions, made as sharp as validation says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensemw2s.arms import arm_names, arm_spec
from ensemw2s.data.example import SplitName
from ensemw2s.ensemble.combine.fitted import fitted_sharpness, fitted_vote, option_logprob
from ensemw2s.ensemble.combine.option_scores import sequence_scores
from ensemw2s.labelling.labels import Posterior
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.evaluate import Arm
from ensemw2s.pipeline.prefixes import choices_of
from ensemw2s.pipeline.scored_model import ScoredModel

_FITTED: SplitName = "validation"


def posterior_of(ctx: Context, voices: Sequence[tuple[Arm, float]], split: SplitName = "hard_pool") -> Posterior:
    """``q_i(o) ∝ exp(κ·Σ_k λ_k·log p_k(o))`` with ``p_k(o) ∝ exp(κ_k·score_k(o))``.

    Every ``κ`` is fitted on validation, which is easy data, by log score; no answer of the pool is read.

    Args:
        ctx: the run.
        voices: whose distributions are mixed, with ``λ_k``.
        split: whose questions.
    """
    answers = ctx.encoded("weak", _FITTED, "options").answer_index
    offsets = {name: ctx.encoded("weak", name, ctx.scoring_view(name)).example_offsets for name in (_FITTED, split)}
    mixed = {name: np.zeros(int(offsets[name][-1])) for name in offsets}
    for arm, weight in voices:
        scores = {name: choices_of(ctx, arm.members, arm.alphas, name, arm.side).choices.scores for name in offsets}
        sharpness = fitted_sharpness(scores[_FITTED], offsets[_FITTED], answers)
        for name, total in mixed.items():
            total += weight * option_logprob(scores[name], offsets[name], sharpness)
    sharpness = fitted_sharpness(mixed[_FITTED], offsets[_FITTED], answers)
    return Posterior(offsets[split], option_logprob(mixed[split], offsets[split], sharpness))


def votes(ctx: Context) -> list[str]:
    """The votes of a run: what ``ensemble.vote`` says, and those of the arms that it is compared with."""
    compared = arm_names(lambda spec: bool(spec.vote) and ctx.config.has_arm(spec.name))
    return [ctx.config.ensemble.vote, *(arm_spec(name).vote for name in compared)]


def vote_weights(ctx: Context, members: Sequence[ScoredModel], alphas: Sequence[float], vote: str = "") -> list[float]:
    """Weights of boosted experts.

    Args:
        ctx: the run.
        members: the experts.
        alphas: ``α_t`` of the rule.
        vote: ``rule``, ``equal``, or ``fitted``: by log score on validation, over the options' distribution
            (``task: choice``) or the true tokens. By default what ``ensemble.vote`` says.
    """
    vote = vote or ctx.config.ensemble.vote
    if vote == "rule":
        return list(alphas)
    if vote == "equal" or len(members) == 1:
        return [1.0] * len(members)
    enc = ctx.encoded("weak", _FITTED, ctx.scoring_view(_FITTED))
    rows = [np.asarray(member.table(_FITTED).target_logprob) for member in members]
    if ctx.config.task == "choice":
        true = enc.example_offsets[:-1] + enc.answer_index
        given = [option_logprob(sequence_scores(row, enc, "sum"), enc.example_offsets)[true] for row in rows]
    else:
        tokens, _ = enc.answer_rows(include_eos=False)
        given = [row[tokens] for row in rows]
    return [float(share) for share in fitted_vote(np.stack(given))]

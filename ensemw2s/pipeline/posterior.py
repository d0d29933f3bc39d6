"""Distributions over the options of the hard pool's questions, made as sharp as validation says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.arms import arm_names, arm_spec
from ensemw2s.data.example import SplitName
from ensemw2s.ensemble.combine.fitted import fitted_sharpness, fitted_vote, option_logprob
from ensemw2s.ensemble.combine.option_scores import mixture, sequence_scores
from ensemw2s.labelling.labels import Posterior
from ensemw2s.labelling.noise import Votes, fit_noise, option_classes
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.pipeline.evaluate import Arm
from ensemw2s.pipeline.prefixes import choices_of
from ensemw2s.pipeline.scored_model import ScoredModel, base_model

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit

_FITTED: SplitName = "validation"
_ASKED: SplitName = "hard_pool"

#: ``log p(o)`` of every option of validation and of the pool, float64 ``[S]`` each.
Opinion = Mapping[SplitName, NDArray[np.float64]]


def posterior_of(ctx: Context, opinions: Sequence[tuple[Opinion, float]]) -> Posterior:
    """``q_i(o) ∝ exp(κ·Σ_k λ_k·log p_k(o))`` of the pool's questions; no answer of them is read.

    Args:
        ctx: the run.
        opinions: the distributions that are mixed, with ``λ_k``.
    """
    mixed = {
        name: np.sum([weight * opinion[name] for opinion, weight in opinions], axis=0) for name in (_FITTED, _ASKED)
    }
    return Posterior(_offsets(ctx, _ASKED), _as_sharp(ctx, mixed)[_ASKED])


def opinion_of(ctx: Context, arm: Arm) -> Opinion:
    """``p(o) ∝ exp(κ·score(o))`` of an arm."""
    return _as_sharp(ctx, {name: _scores(ctx, arm, name) for name in (_FITTED, _ASKED)})


def _scores(ctx: Context, arm: Arm, split: SplitName) -> NDArray[np.float64]:
    """Of every option, float64 ``[S]``; under ``rule: vote`` the mixture's, for shares of votes are steps."""
    if ctx.config.ensemble.rule != "vote":
        return choices_of(ctx, arm.members, arm.alphas, split, arm.side).choices.scores
    rows = mixture([member.table(split).target_logprob for member in arm.members], arm.alphas)
    return sequence_scores(rows, _encoded(ctx, split, arm.side), ctx.config.ensemble.length_norm)


def teaching(ctx: Context, teacher: Arm) -> tuple[Opinion, dict[str, Any]]:
    """What a teacher's labels say, together with ``labelling.voters`` and after ``labelling.noise_model``.

    Returns:
        The opinion, and how it came about: ``voters`` with their weights or, by the noise model, ``accuracies`` on the
        pool; ``why_not`` where the noise model was asked for and says nothing.
    """
    asked = {voter.name: opinion_of(ctx, voter) for voter in voters(ctx)}
    told: dict[str, Any] = {}
    if ctx.config.labelling.noise_model == "em":
        experts = [member for member, alpha in zip(teacher.members, teacher.alphas, strict=True) if alpha > 0.0]
        alone = {member.name: opinion_of(ctx, Arm(member.name, [member])) for member in experts}
        opinion, told = _denoised(ctx, alone | asked)
        if opinion is not None:
            return opinion, told
    own = opinion_of(ctx, teacher)
    if not asked:
        return own, told
    true = _offsets(ctx, _FITTED)[:-1] + ctx.encoded("weak", _FITTED, "options").answer_index
    opinions = [own, *asked.values()]
    # No shrinkage toward equal weights: an untrained base has no claim to the say of a trained teacher.
    shares = fitted_vote(np.stack([opinion[_FITTED][true] for opinion in opinions]), pseudo_count=0.0).tolist()
    together = {name: mixture([opinion[name] for opinion in opinions], shares) for name in (_FITTED, _ASKED)}
    return _as_sharp(ctx, together), {**told, "voters": dict(zip([teacher.name, *asked], shares, strict=True))}


def teaching_inputs(ctx: Context) -> dict[str, Any]:
    """What :func:`teaching` depends on besides the teacher; empty where it is the teacher's own opinion."""
    config = ctx.config.labelling
    if not config.relabels:
        return {}
    read = [_encoded(ctx, _FITTED), *(_encoded(ctx, of, side) for side in config.voters for of in (_FITTED, _ASKED))]
    return {
        "noise_model": config.noise_model,
        "voters": [voter.members[0].fingerprint for voter in voters(ctx)],
        "read": [enc.fingerprint() for enc in read],
    }


def voters(ctx: Context) -> list[Arm]:
    """``labelling.voters``; the phase of labels scores them."""
    arms = {arm_spec(name).side: name for name in arm_names(lambda spec: spec.kind == "zero-shot")}
    return [Arm(arms[side], [base_model(ctx, side)]) for side in ctx.config.labelling.voters]


def _denoised(ctx: Context, opinions: Mapping[str, Opinion]) -> tuple[Opinion | None, dict[str, Any]]:
    """The noise model's posterior; its parameters are those of the pool, validation says how sharp it is."""
    splits = (_FITTED, _ASKED)
    classes = option_classes(*(_encoded(ctx, name).option_texts for name in splits)) or (None, None)
    votes = {
        name: Votes(np.exp(np.stack([opinion[name] for opinion in opinions.values()])), _offsets(ctx, name), of)
        for name, of in zip(splits, classes, strict=True)
    }
    found = fit_noise(votes[_ASKED])
    if found.why_not:
        return None, {"why_not": found.why_not}
    joint = {name: found.model.joint(of) for name, of in votes.items()}
    return _as_sharp(ctx, joint), {"accuracies": dict(zip(opinions, found.model.right.tolist(), strict=True))}


def _as_sharp(ctx: Context, scores: Opinion) -> Opinion:
    """``log softmax_o(κ·score(o))``, ``κ`` with the best log score on validation, which is easy data."""
    answers = ctx.encoded("weak", _FITTED, "options").answer_index
    sharpness = fitted_sharpness(scores[_FITTED], _offsets(ctx, _FITTED), answers)
    return {name: option_logprob(of, _offsets(ctx, name), sharpness) for name, of in scores.items()}


def _encoded(ctx: Context, split: SplitName, side: Side = "weak") -> EncodedSplit:
    return ctx.encoded(side, split, ctx.scoring_view(split))


def _offsets(ctx: Context, split: SplitName) -> NDArray[np.int64]:
    return _encoded(ctx, split).example_offsets


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

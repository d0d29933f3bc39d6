"""Validation and test scores of every prefix of an ensemble, from kept scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import ensemw2s.stage_names as stage
from ensemw2s.data.example import SplitName
from ensemw2s.ensemble.combine.argmax import ensemble_argmax
from ensemw2s.ensemble.combine.choices import EnsembleChoices, final_choices, own_choices
from ensemw2s.evaluation.results import RoundScore
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.pipeline.joint import joint_of, prepare_joint
from ensemw2s.pipeline.plan import REPORTED
from ensemw2s.pipeline.scored_model import ScoredModel

Bools = NDArray[np.bool_]


class PrefixScores:
    """Scores of the prefixes 1…t of one ensemble."""

    def __init__(self, ctx: Context, arm: str) -> None:
        self.ctx = ctx
        self.arm = arm
        self.members: list[ScoredModel] = []
        self.by_round: list[dict[str, RoundScore]] = []

    def add(self, member: ScoredModel, alphas: list[float], others: Sequence[list[float]] = ()) -> float:
        """Add a member and report the ensemble so far.

        ``alphas`` are the weights of all members, the new one included; ``others`` are weights that will be compared.

        Returns:
            The validation score: accuracy for ``task: choice``, teacher-forced token accuracy for ``generate``.
        """
        members = [*self.members, member]
        prepare_joint(self.ctx, stage.joint(self.arm, len(members)), members, [alphas, *others], REPORTED)
        return self._report(member, alphas)

    def add_all(self, members: list[ScoredModel]) -> list[float]:
        """Add members with equal weights, and report the ensemble with each; joint scores take a single pass.

        Returns:
            The validation scores; see :meth:`add`.
        """
        counts = range(1, len(members) + 1)
        prefixes = [[1.0] * t + [0.0] * (len(members) - t) for t in counts]
        prepare_joint(self.ctx, stage.joint(self.arm), members, prefixes, REPORTED)
        return [self._report(member, [1.0] * t) for t, member in zip(counts, members, strict=True)]

    def _report(self, member: ScoredModel, alphas: list[float]) -> float:
        self.members.append(member)
        scores: dict[str, RoundScore] = {}
        for split in REPORTED:
            scores[split] = self._score(split, alphas)
            self.ctx.sink.event(
                "round_scored", round=len(self.members), arm=self.arm, split=split, **scores[split].to_json()
            )
        self.by_round.append(scores)
        score = scores["validation"]
        if self.ctx.config.task == "choice":
            return score.ensemble_accuracy
        return score.ensemble_token_accuracy or 0.0

    def _score(self, split: SplitName, alphas: list[float]) -> RoundScore:
        own_tokens = token_correct(self.ctx, self.members[-1:], [1.0], split)
        tokens = token_correct(self.ctx, self.members, alphas, split)
        if self.ctx.config.task == "choice":
            own = float(choice_correct(self.ctx, self.members[-1:], [1.0], split).mean())
            together = float(choice_correct(self.ctx, self.members, alphas, split).mean())
        else:
            own, together = float(own_tokens.mean()), float(tokens.mean())
        return RoundScore(
            expert_accuracy=own,
            ensemble_accuracy=together,
            expert_token_accuracy=float(own_tokens.mean()),
            ensemble_token_accuracy=float(tokens.mean()),
        )


def choices_of(
    ctx: Context, members: list[ScoredModel], alphas: list[float], split: SplitName, side: Side = "weak"
) -> EnsembleChoices:
    """Choices of the members together on a split of options."""
    key = (tuple(member.name for member in members), tuple(alphas), split, side)
    if key in ctx.kept_choices:
        return ctx.kept_choices[key]
    enc = ctx.encoded(side, split, ctx.scoring_view(split))
    tables = [member.table(split) for member in members]
    product = None
    if ctx.config.ensemble.rule == "product" and (found := joint_of(ctx, members, alphas, split)) is not None:
        product = np.zeros(enc.n_rows, dtype=np.float32)
        product[found.rows] = found.target_logprob
    ctx.kept_choices[key] = final_choices(tables, alphas, enc, ctx.config.ensemble, product)
    return ctx.kept_choices[key]


def choice_correct(
    ctx: Context, members: list[ScoredModel], alphas: list[float], split: SplitName, side: Side = "weak"
) -> Bools:
    """Whether members together choose the true option, bool [n]."""
    enc = ctx.encoded(side, split, "options")
    if len(members) == 1:
        chosen = own_choices(members[0].table(split), enc, ctx.config.ensemble).option
    else:
        chosen = choices_of(ctx, members, alphas, split, side).choices.option
    return np.asarray(chosen == enc.answer_index)


def token_correct(
    ctx: Context, members: list[ScoredModel], alphas: list[float], split: SplitName, side: Side = "weak"
) -> Bools:
    """Whether members together predict each answer token, teacher-forced, bool [A]; end-of-sequence is left out."""
    enc = ctx.encoded(side, split, ctx.scoring_view(split))
    rows, _ = enc.answer_rows(include_eos=False)
    target = enc.row_tokens[rows]
    if len(members) == 1:
        return np.asarray(np.asarray(members[0].table(split).argmax)[rows] == target)
    tables = [member.table(split) for member in members]
    argmax, decided = ensemble_argmax(tables, alphas, ctx.config.ensemble.rule, enc.vocab_size)
    every, _ = enc.answer_rows(include_eos=True)
    body = ~enc.is_eos[every]
    open_ = body & ~decided
    found = joint_of(ctx, members, alphas, split)
    if found is not None:
        argmax[open_] = found.argmax_at(every[open_])
    elif np.any(open_):
        raise RuntimeError(f"{int(open_.sum())} positions of {split} are open, and no joint scores were prepared")
    return np.asarray(argmax[body] == target)

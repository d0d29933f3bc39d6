"""Every prefix of an ensemble, evaluated from kept scores as its members come in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ensemw2s.data.example import SplitName
from ensemw2s.ensemble import EnsembleChoices, ensemble_argmax, final_choices, own_choices
from ensemw2s.evaluation.results import RoundScore
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.pipeline.members import Member

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit
    from ensemw2s.models.joint import JointScores

Bools = NDArray[np.bool_]

#: Splits on which every prefix is reported. Only the first has a say in anything.
REPORTED: tuple[SplitName, ...] = ("validation", "test", "hard_test")


class PrefixScores:
    """Scores of the prefixes 1…t of one ensemble.

    Args:
        ctx: the run.
        arm: ``boosting``, ``bagging`` or ``seeds``.
    """

    def __init__(self, ctx: Context, arm: str) -> None:
        self.ctx = ctx
        self.arm = arm
        self.members: list[Member] = []
        self.by_round: list[dict[str, RoundScore]] = []

    def add(self, member: Member, alphas: list[float]) -> float:
        """Add a member and report the ensemble so far.

        Args:
            member: the new member.
            alphas: weights of all members so far, the new one included.

        Returns:
            The validation score: accuracy for ``task: choice``, teacher-forced token accuracy for ``generate``.
        """
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
    ctx: Context, members: list[Member], alphas: list[float], split: SplitName, side: Side = "weak"
) -> EnsembleChoices:
    """What members together choose on a split of options."""
    enc = ctx.encoded(side, split, ctx.scoring_view(split))
    tables = [member.table(split) for member in members]
    product = None
    if ctx.config.ensemble.rule == "product" and len(members) > 1:

        def product(t: int) -> NDArray[np.floating]:
            return np.asarray(joint_scores(ctx, members[:t], alphas[:t], enc).target_logprob)

    return final_choices(tables, alphas, enc, ctx.config.ensemble, product)


def choice_correct(
    ctx: Context, members: list[Member], alphas: list[float], split: SplitName, side: Side = "weak"
) -> Bools:
    """Whether members together choose the true option, bool [n]."""
    enc = ctx.encoded(side, split, "options")
    if len(members) == 1:
        chosen = own_choices(members[0].table(split), enc, ctx.config.ensemble).option
    else:
        chosen = choices_of(ctx, members, alphas, split, side).choices.option
    return np.asarray(chosen == enc.answer_index)


def token_correct(
    ctx: Context, members: list[Member], alphas: list[float], split: SplitName, side: Side = "weak"
) -> Bools:
    """Whether members together predict each answer token, teacher-forced, bool [A]; end-of-sequence is left out."""
    enc = ctx.encoded(side, split, ctx.scoring_view(split))
    rows, _ = enc.answer_rows(include_eos=False)
    target = enc.row_tokens[rows]
    if len(members) == 1:
        return np.asarray(np.asarray(members[0].table(split).argmax)[rows] == target)
    tables = [member.table(split) for member in members]
    argmax, decided = ensemble_argmax(tables, alphas, ctx.config.ensemble.rule, enc.vocab_size)
    all_rows, offsets = enc.answer_rows(include_eos=True)
    body = ~enc.is_eos[all_rows]
    if not np.all(decided[body]):
        argmax = _settle(ctx, members, alphas, enc, argmax, decided & body | ~body, offsets)
    return np.asarray(argmax[body] == target)


def _settle(
    ctx: Context,
    members: list[Member],
    alphas: list[float],
    enc: EncodedSplit,
    argmax: NDArray[np.int64],
    decided: Bools,
    offsets: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Run the models again on the answers that hold an undecided position."""
    open_examples = np.flatnonzero(np.add.reduceat(~decided, offsets[:-1]) > 0)
    sequences = enc.answer_sequence[open_examples]
    joint = joint_scores(ctx, members, alphas, enc, sequences)
    fixed = argmax.copy()
    positions = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in open_examples])
    fixed[positions] = joint.argmax
    return fixed


def joint_scores(
    ctx: Context,
    members: list[Member],
    alphas: list[float],
    enc: EncodedSplit,
    sequences: NDArray[np.int64] | None = None,
    top_k: int | None = None,
) -> JointScores:
    """Run members together on sequences; see :func:`ensemw2s.models.joint.score_joint`."""
    from ensemw2s.models.joint import score_joint, sequence_rows
    from ensemw2s.models.load import opened_models

    asked = np.arange(enc.seq_example.size) if sequences is None else sequences
    with opened_models([member.model for member in members], ctx.config.compute) as models:
        return score_joint(
            models,
            alphas,
            enc,
            sequence_rows(enc, asked),
            rule=ctx.config.ensemble.rule,
            compute=ctx.config.compute,
            top_k=top_k,
            sink=ctx.sink,
            tag="joint",
        )

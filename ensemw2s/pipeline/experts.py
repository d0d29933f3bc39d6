"""Phase 1 in a run: boosted experts, and the unboosted arms that they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ensemw2s.boosting import (
    Booster,
    BoostingResult,
    Draw,
    TokenLayout,
    draw_training_set,
    example_weights,
    initial_weights,
    loss_constant,
)
from ensemw2s.boosting.weights import Floats, save_weights
from ensemw2s.data.example import SplitName
from ensemw2s.ensemble import own_choices
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.members import Member, Recipe, base_member, member_seed, trained_member
from ensemw2s.pipeline.prefixes import PrefixScores

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit
    from ensemw2s.models.training_set import TrainingSet

#: Rounds of cross-fitting helpers, bagging members and so on draw from streams apart from the boosting rounds'.
_BAGGING_STREAM = 1_000_000_000
_HEAVIEST = 20


class ExpertSchool:
    """Trains weak models on draws from the training set.

    Args:
        ctx: the run.
    """

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.boosting = ctx.config.boosting
        self.include_eos = self.boosting.eos == "include"

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the training split's answers that are tokens of ``D``, int64 [N]."""
        return self.answers.answer_rows(include_eos=self.include_eos)[0]

    @cached_property
    def layout(self) -> TokenLayout:
        """Which tokens of ``D`` belong to which example."""
        return TokenLayout(self.answers.answer_rows(include_eos=self.include_eos)[1])

    @cached_property
    def answers(self) -> EncodedSplit:
        """The training split with its true answers only."""
        return self.ctx.encoded("weak", "train", "answers")

    @property
    def expert_splits(self) -> list[SplitName]:
        """What a boosted expert is scored on."""
        return ["train", *self.member_splits]

    @property
    def member_splits(self) -> list[SplitName]:
        """What any weak model is scored on; the unlabelled pool only where options are scored."""
        pool: list[SplitName] = ["hard_pool"] if self.ctx.config.task == "choice" else []
        return ["validation", "test", "hard_test", *pool]

    def training_set(self, draw: Draw) -> TrainingSet:
        """A draw as a training set; an end-of-sequence token outside ``D`` has loss weight 1."""
        from ensemw2s.models.training_set import TrainingSet

        is_eos = self.answers.is_eos[self.rows]
        eos_weights = draw.token_weights[is_eos] if self.include_eos else 1.0
        return TrainingSet.from_encoded(
            self.answers, weights=draw.token_weights[~is_eos], eos_weights=eos_weights, index=draw.index
        )

    def train(self, name: str, draw: Draw, seed: int, splits: Sequence[SplitName], steps: int = 1) -> Member:
        """Fine-tune the weak base on a draw; ``steps`` multiplies the optimiser steps."""
        from ensemw2s.models.losses import LossConfig

        config = self.ctx.config.training.expert
        recipe = Recipe(
            data=self.training_set(draw),
            config=config.model_copy(update={"steps": config.steps * steps}),
            loss=LossConfig(kind="xent"),
            loss_constant=loss_constant(self.layout, self.include_eos),
            seed=seed,
        )
        return trained_member(self.ctx, name, "weak", recipe, splits)

    def wrong_tokens(self, member: Member) -> NDArray[np.float64]:
        """Raw ``s`` of a model on the training set, [N]: by arg-max token, or by chosen option."""
        table = member.table("train")
        if self.boosting.error_unit == "token":
            missed = np.asarray(table.argmax)[self.rows] != self.answers.row_tokens[self.rows]
            return np.asarray(missed, dtype=np.float64)
        enc = self.ctx.encoded("weak", "train", "options")
        wrong = own_choices(table, enc, self.ctx.config.ensemble).option != enc.answer_index
        return np.repeat(wrong.astype(np.float64), self.layout.lengths)

    def predicted_tokens(self, member: Member) -> NDArray[np.int64]:
        """The model's arg-max at every token of ``D``, int64 [N]."""
        table = member.table("train")
        if self.boosting.error_unit == "token":
            return np.asarray(table.argmax)[self.rows].astype(np.int64)
        rows, _ = self.ctx.encoded("weak", "train", "options").answer_rows(include_eos=self.include_eos)
        return np.asarray(table.argmax)[rows].astype(np.int64)


class BoostingLearner:
    """The :class:`ensemw2s.boosting.Learner` of a run: every expert is a stage."""

    def __init__(self, school: ExpertSchool) -> None:
        self.school = school
        self.ctx = school.ctx
        self.members: dict[int, Member] = {}
        self.kept: list[Member] = []
        self.scores = PrefixScores(self.ctx, "boosting")

    def fit(self, round_: int, draw: Draw) -> None:
        """Train the expert of a round, or find it done."""
        name = f"experts/round-{round_:02d}"
        seed = member_seed(self.ctx, "experts", round_)
        self.members[round_] = self.school.train(name, draw, seed, self.school.expert_splits)

    def errors(self, round_: int) -> NDArray[np.float64]:
        """Raw ``s`` of a round's expert."""
        return self.school.wrong_tokens(self.members[round_])

    def base_errors(self) -> NDArray[np.float64]:
        """Raw ``s`` of the weak base."""
        return self.school.wrong_tokens(weak_base(self.school))

    def helper_errors(self, round_: int, fold: int, draw: Draw) -> NDArray[np.float64]:
        """Raw ``s`` of a cross-fitting helper."""
        name = f"experts/helpers/round-{round_:02d}-fold-{fold + 1}"
        helper = self.school.train(name, draw, member_seed(self.ctx, "helpers", round_, fold), ["train"])
        return self.school.wrong_tokens(helper)

    def validation_score(self, alphas: list[float]) -> float:
        """Validation score of the experts kept so far; the newest is the latest fitted."""
        self.kept.append(self.members[max(self.members)])
        return self.scores.add(self.kept[-1], alphas)


def weak_base(school: ExpertSchool) -> Member:
    """The weak base as it is, scored like an expert."""
    return base_member(school.ctx, "baselines/zero-shot-weak", "weak", school.expert_splits)


def boost(school: ExpertSchool) -> tuple[BoostingResult, BoostingLearner]:
    """Run token-level boosting."""
    ctx = school.ctx
    learner = BoostingLearner(school)
    classes = ctx.config.boosting.samme_classes
    if classes is None:
        classes = school.answers.vocab_size
        if ctx.config.boosting.error_unit == "choice":
            enc = ctx.encoded("weak", "train", "options")
            classes = int(np.bincount(enc.seq_example).max())
    booster = Booster(
        ctx.config.boosting,
        school.layout,
        learner,
        classes=classes,
        seed=ctx.seed,
        sink=ctx.sink,
        on_weights=lambda round_, weights, wrong: _keep_weights(school, learner, round_, weights, wrong),
    )
    return booster.fit(select=ctx.config.ensemble.select_rounds), learner


def _keep_weights(school: ExpertSchool, learner: BoostingLearner, round_: int, weights: Floats, wrong: Floats) -> None:
    """Save ``D_t`` and report the heaviest examples."""
    ctx, layout = school.ctx, school.layout
    save_weights(ctx.run.path / "token_weights" / f"round-{round_:02d}.npy", weights)
    mass = example_weights(layout, weights)
    predicted = school.predicted_tokens(learner.members[round_])
    actual = school.answers.row_tokens[school.rows]
    tokenizer = ctx.weak.tokenizer
    examples = []
    for i in np.argsort(-mass, kind="stable")[:_HEAVIEST]:
        part = slice(int(layout.offsets[i]), int(layout.offsets[i + 1]))
        example = ctx.splits.train[int(i)]
        examples.append(
            {
                "id": example.id,
                "prompt": example.prompt,
                "tokens": [tokenizer.decode([int(t)]) for t in actual[part]],
                "weights": [float(w) for w in weights[part]],
                "wrong": [round(float(s), 4) for s in wrong[part]],
                "predicted": [tokenizer.decode([int(t)]) for t in predicted[part]],
            }
        )
    ctx.sink.event("hard_tokens", round=round_, examples=examples)


def train_plain(school: ExpertSchool, member: int = 1) -> Member:
    """The weak base fine-tuned on all training data, every token with its weight in ``D_1``."""
    name = "baselines/plain" if member == 1 else f"baselines/seeds/member-{member:02d}"
    return school.train(name, _all_data(school), member_seed(school.ctx, "plain", member), school.member_splits)


def train_plain_long(school: ExpertSchool, rounds: int) -> Member:
    """The same with as many times the steps as rounds were trained: the cost of the whole ensemble in one model."""
    seed = member_seed(school.ctx, "plain-long")
    return school.train("baselines/plain-long", _all_data(school), seed, school.member_splits, steps=rounds)


def _all_data(school: ExpertSchool) -> Draw:
    weights = initial_weights(school.layout, school.boosting.init)
    return draw_training_set(school.layout, weights, "none", seed=school.ctx.seed, stream=0)


def train_bagging(school: ExpertSchool, first: Member, rounds: int) -> list[Member]:
    """Members on bootstrap resamples from ``D_1``.

    The first boosting round with ``draw: example`` is such a member already, and is used as one.
    """
    ctx = school.ctx
    weights = initial_weights(school.layout, school.boosting.init)
    members = [first] if school.boosting.draw == "example" else []
    for k in range(len(members) + 1, rounds + 1):
        stream = _BAGGING_STREAM + k
        draw = draw_training_set(school.layout, weights, "example", seed=ctx.seed, stream=stream)
        name = f"baselines/bagging/member-{k:02d}"
        members.append(school.train(name, draw, member_seed(ctx, "bagging", k), school.member_splits))
    return members


def train_seeds(school: ExpertSchool, first: Member | None, rounds: int) -> list[Member]:
    """The plain ensemble: members on all data that differ in their seed only; the first is the plain fine-tune."""
    members = [first or train_plain(school)]
    return members + [train_plain(school, k) for k in range(2, rounds + 1)]

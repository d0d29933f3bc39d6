"""Phase 1 in a run: boosted experts, and the unboosted arms that they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

import ensemw2s.stage_names as stage
from ensemw2s.arms import BAGGING, BOOSTING, SINGLE, WEAK
from ensemw2s.boosting.draws import Draw, draw_training_set, loss_constant
from ensemw2s.boosting.loop import Booster, BoostingResult
from ensemw2s.boosting.weights import Floats, TokenLayout, example_weights, initial_weights, save_weights
from ensemw2s.checksums import recording
from ensemw2s.config.training import TrainingConfig
from ensemw2s.data.example import SplitName
from ensemw2s.ensemble.combine.choices import own_choices
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.plan import base_splits, expert_splits, member_splits
from ensemw2s.pipeline.posterior import vote_weights, votes
from ensemw2s.pipeline.prefixes import PrefixScores
from ensemw2s.pipeline.scored_model import Recipe, ScoredModel, member_seed, scored_base, trained_model, training_inputs
from ensemw2s.pipeline.tuning import tune
from ensemw2s.runs.stage import fingerprint

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit
    from ensemw2s.models.training.training_set import TrainingSet

_HEAVIEST = 20


class WeakTrainer:
    """Trains weak models on draws from the training set."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.boosting = ctx.config.boosting
        self.include_eos = self.boosting.eos == "include"
        self._trained: dict[str, tuple[ScoredModel, set[SplitName]]] = {}

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the training split's answers that are tokens of ``D``, int64 [N]."""
        return self.answers.answer_rows(include_eos=self.include_eos)[0]

    @cached_property
    def layout(self) -> TokenLayout:
        """Layout of the tokens of ``D`` by example."""
        return TokenLayout(self.answers.answer_rows(include_eos=self.include_eos)[1])

    @cached_property
    def answers(self) -> EncodedSplit:
        """The training split with its true answers only."""
        return self.ctx.encoded("weak", "train", "answers")

    def training_set(self, draw: Draw) -> TrainingSet:
        """A draw as a training set."""
        from ensemw2s.models.training.training_set import TrainingSet

        is_eos = self.answers.is_eos[self.rows]
        eos_weights = draw.token_weights[is_eos] if self.include_eos else draw.eos_weights
        return TrainingSet.from_encoded(
            self.answers, weights=draw.token_weights[~is_eos], eos_weights=eos_weights, index=draw.index
        )

    def train(
        self,
        name: str,
        draw: Draw,
        seed: int,
        splits: Sequence[SplitName] = (),
        *,
        steps: int | None = None,
        start: ScoredModel | None = None,
        config: TrainingConfig | None = None,
    ) -> ScoredModel:
        """Fine-tune the weak base, or what ``start`` is already, on a draw; ``steps`` are other optimiser steps.

        It is scored on ``splits``, by default those of every weak model.
        A model that was trained before on the same data with the same seed is that model, whatever it is called.
        """
        from ensemw2s.models.training.losses import LossConfig

        splits = splits or member_splits(self.ctx.config)
        config = config or self.ctx.training("weak")
        recipe = Recipe(
            data=self.training_set(draw),
            config=config.model_copy(update={"steps": steps or config.steps}),
            loss=LossConfig(kind="xent"),
            loss_constant=loss_constant(self.layout, self.include_eos),
            seed=seed,
            start=start,
        )
        mark = fingerprint(training_inputs(self.ctx, "weak", recipe))
        if mark in self._trained and self._trained[mark][1].issuperset(splits):
            return self._trained[mark][0]
        member = trained_model(self.ctx, name, "weak", recipe, splits)
        self._trained[mark] = (member, set(splits))
        return member

    def wrong_tokens(self, member: ScoredModel) -> NDArray[np.float64]:
        """Raw ``s`` of a model on the training set, [N]: by arg-max token, or by chosen option."""
        table = member.table("train")
        if self.boosting.error_unit == "token":
            missed = np.asarray(table.argmax)[self.rows] != self.answers.row_tokens[self.rows]
            return np.asarray(missed, dtype=np.float64)
        enc = self.ctx.encoded("weak", "train", "options")
        wrong = own_choices(table, enc, self.ctx.config.ensemble).option != enc.answer_index
        return np.repeat(wrong.astype(np.float64), self.layout.lengths)

    def predicted_tokens(self, member: ScoredModel) -> NDArray[np.int64]:
        """The model's arg-max at every token of ``D``, int64 [N]."""
        table = member.table("train")
        if self.boosting.error_unit == "token":
            return np.asarray(table.argmax)[self.rows].astype(np.int64)
        rows, _ = self.ctx.encoded("weak", "train", "options").answer_rows(include_eos=self.include_eos)
        return np.asarray(table.argmax)[rows].astype(np.int64)


class BoostingLearner:
    """The :class:`ensemw2s.boosting.loop.Learner` of a run: every expert is a stage."""

    def __init__(self, trainer: WeakTrainer) -> None:
        self.trainer = trainer
        self.ctx = trainer.ctx
        self.members: dict[int, ScoredModel] = {}
        self.helpers: dict[int, ScoredModel] = {}
        self.steps = 0  # of all fine-tunings so far, helpers included
        self.kept: list[ScoredModel] = []
        self.scores = PrefixScores(self.ctx, BOOSTING)

    def fit(self, round_: int, draw: Draw) -> None:
        """Train the expert of a round, or find it done."""
        seed, splits = _seed(self.trainer, round_), expert_splits(self.ctx.config)
        start = self._start(self.members, round_ - 1)
        self.steps += self.ctx.training("weak").steps
        self.members[round_] = self.trainer.train(stage.expert(round_), draw, seed, splits, start=start)

    def _start(self, models: dict[int, ScoredModel], before: int) -> ScoredModel | None:
        """The model to go on from: in a chain the one before, if there is one."""
        return models.get(before) if self.trainer.boosting.start == "previous" else None

    def errors(self, round_: int) -> NDArray[np.float64]:
        """Raw ``s`` of a round's expert."""
        return self.trainer.wrong_tokens(self.members[round_])

    def base_errors(self) -> NDArray[np.float64]:
        """Raw ``s`` of the weak base."""
        return self.trainer.wrong_tokens(weak_base(self.trainer))

    def helper_errors(self, round_: int, fold: int, draw: Draw) -> NDArray[np.float64]:
        """Raw ``s`` of a cross-fitting helper; in a chain it goes on from the one of the same fold before it."""
        name, seed = stage.helper(round_, fold + 1), member_seed(self.ctx, "helpers", round_, fold)
        steps = self.trainer.boosting.helper_steps(self.ctx.training("weak").steps)
        self.steps += steps
        start = self._start(self.helpers, fold)
        helper = self.trainer.train(name, draw, seed, ["train"], steps=steps, start=start)
        self.helpers[fold] = helper
        return self.trainer.wrong_tokens(helper)

    def validation_score(self, alphas: list[float]) -> float:
        """Validation score of the experts kept so far, as ``ensemble.vote`` weights them; the newest is the latest."""
        self.kept.append(self.members[max(self.members)])
        weights, *others = (vote_weights(self.ctx, self.kept, alphas, vote) for vote in votes(self.ctx))
        return self.scores.add(self.kept[-1], weights, others)


def weak_base(trainer: WeakTrainer) -> ScoredModel:
    """The weak base as it is, scored like an expert."""
    return scored_base(trainer.ctx, "weak", base_splits(trainer.ctx.config, "weak"))


def boost(trainer: WeakTrainer) -> tuple[BoostingResult, BoostingLearner]:
    """Run token-level boosting."""
    ctx = trainer.ctx
    learner = BoostingLearner(trainer)
    classes = ctx.config.boosting.samme_classes
    if classes is None:
        classes = trainer.answers.vocab_size
        if ctx.config.boosting.error_unit == "choice":
            enc = ctx.encoded("weak", "train", "options")
            classes = int(np.bincount(enc.seq_example).max())
    booster = Booster(
        ctx.config.boosting,
        trainer.layout,
        learner,
        classes=classes,
        seed=ctx.seed,
        sink=ctx.sink,
        on_weights=lambda round_, weights, wrong: _keep_weights(trainer, learner, round_, weights, wrong),
    )
    result = booster.fit(select=ctx.config.ensemble.select_rounds)
    if learner.helpers:
        alone = len(learner.members) * ctx.training("weak").steps
        text = "Helpers judged examples that they had not seen (cross-fitting): with them, boosting took"
        ctx.notes.append(f"{text} {learner.steps} optimiser steps, its experts alone {alone}.")
    return result, learner


def _keep_weights(trainer: WeakTrainer, learner: BoostingLearner, round_: int, weights: Floats, wrong: Floats) -> None:
    """Save ``D_t`` and report the heaviest examples."""
    ctx, layout = trainer.ctx, trainer.layout
    name = f"token_weights/round-{round_:02d}.npy"
    with recording(ctx.run.path, name):
        save_weights(ctx.run.path / name, weights)
    mass = example_weights(layout, weights)
    predicted = trainer.predicted_tokens(learner.members[round_])
    actual = trainer.answers.row_tokens[trainer.rows]
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


def tune_weak(trainer: WeakTrainer) -> TrainingConfig:
    """Training settings of all weak models, found with the plain fine-tune."""
    draw, seed = _from_first_weights(trainer, "none", 1), _seed(trainer, 1)

    def fit(name: str, config: TrainingConfig) -> ScoredModel:
        return trainer.train(name, draw, seed, ("validation",), config=config)

    return tune(trainer.ctx, "weak", trainer.layout.examples, fit)


def train_plain(trainer: WeakTrainer, member: int = 1) -> ScoredModel:
    """The weak base fine-tuned on all training data, every token with its weight in ``D_1``.

    Member 1 is the plain fine-tune, which is boosting's round 1 too unless errors are ``out_of_bag``.
    """
    name = stage.baseline(WEAK) if member == 1 else stage.baseline("seeds", member)
    return trainer.train(name, _from_first_weights(trainer, "none", member), _seed(trainer, member))


def train_plain_long(trainer: WeakTrainer, steps: int) -> ScoredModel:
    """The same with the steps of all rounds, helpers included: the cost of the whole ensemble in one model."""
    seed = member_seed(trainer.ctx, "plain-long")
    draw = _from_first_weights(trainer, "none", 1)
    return trainer.train(stage.baseline("plain_long"), draw, seed, steps=steps)


def train_bagging(trainer: WeakTrainer, first: ScoredModel, size: int) -> list[ScoredModel]:
    """The first expert, then members on bootstrap resamples from ``D_1``.

    Member ``k`` has the training seed and the stream of draws of boosting's round ``k``, so that the two ensembles
    differ in what is resampled alone.
    """
    members = [first]
    for k in range(2, size + 1):
        draw = _from_first_weights(trainer, "example", k)
        members.append(trainer.train(stage.baseline(BAGGING, k), draw, _seed(trainer, k)))
    return members


def train_seeds(trainer: WeakTrainer, size: int) -> list[ScoredModel]:
    """The plain ensemble: members on all data that differ in their seed only; the first is the plain fine-tune."""
    return [train_plain(trainer, k) for k in range(1, size + 1)]


def train_chain(trainer: WeakTrainer, size: int) -> list[ScoredModel]:
    """A snapshot ensemble (Huang et al. 2017): each member goes on from the one before, on all data.

    The first is the plain fine-tune, and member ``k`` has the seed of boosting's round ``k``: with ``start: previous``
    the boosted ensemble differs in its token weights alone.
    """
    members = [train_plain(trainer)]
    for k in range(2, size + 1):
        draw = _from_first_weights(trainer, "none", k)
        members.append(trainer.train(stage.baseline("chain", k), draw, _seed(trainer, k), start=members[-1]))
    return members


#: Weak arm that boosting does not give → its models, from the trainer and boosting's experts.
TRAINERS: dict[str, Callable[[WeakTrainer, BoostingLearner], list[ScoredModel]]] = {
    WEAK: lambda trainer, _: [train_plain(trainer)],
    SINGLE: lambda _, learner: learner.kept[:1],
    "plain_long": lambda trainer, learner: [train_plain_long(trainer, learner.steps)],
    BAGGING: lambda trainer, learner: train_bagging(trainer, learner.kept[0], trainer.boosting.members_for_cost),
    "seeds": lambda trainer, _: train_seeds(trainer, trainer.boosting.members_for_cost),
    "chain": lambda trainer, _: train_chain(trainer, trainer.boosting.members_for_cost),
}


def _seed(trainer: WeakTrainer, round_: int) -> int:
    """The training seed of round or member ``round_`` of every ensemble."""
    return member_seed(trainer.ctx, "experts", round_)


def _from_first_weights(trainer: WeakTrainer, how: Literal["example", "none"], stream: int) -> Draw:
    weights = initial_weights(trainer.layout, trainer.boosting.init)
    return draw_training_set(trainer.layout, weights, how, seed=trainer.ctx.seed, stream=stream)

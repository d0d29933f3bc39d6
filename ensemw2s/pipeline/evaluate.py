"""Test evaluation: correctness of every arm on every example, with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ensemw2s.arms import arm_spec
from ensemw2s.data.example import SplitName
from ensemw2s.evaluation.metrics import ArmResult, TokenAccuracy, summarise, token_accuracy
from ensemw2s.pipeline.answers import written_answers
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.pipeline.plan import TESTS
from ensemw2s.pipeline.prefixes import choice_correct, token_correct
from ensemw2s.pipeline.scored_model import ScoredModel
from ensemw2s.seeds import sub_seed

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Arm:
    """Something that answers questions, and may teach: one model or an ensemble of them.

    Attributes:
        name: of the arm; of a model by itself, its stage.
        members: the models.
        alphas: their weights, not normalised; all equal by default.
    """

    name: str
    members: list[ScoredModel]
    alphas: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alphas.extend([1.0] * (len(self.members) - len(self.alphas)))

    @property
    def side(self) -> Side:
        """The base that its models are made from."""
        return arm_spec(self.name).side


@dataclass
class Scoreboard:
    """Results of all arms as they come in.

    Attributes:
        results: arm → split → accuracy with intervals.
        correct: arm → split → right or wrong for every example.
    """

    results: dict[str, dict[str, ArmResult]] = field(default_factory=dict)
    correct: dict[str, dict[str, Bools]] = field(default_factory=dict)
    arms: dict[str, Arm] = field(default_factory=dict)


def evaluate_arms(ctx: Context, arms: Iterable[Arm], board: Scoreboard) -> None:
    """Evaluate arms on the test splits and report each."""
    for arm in arms:
        board.arms[arm.name] = arm
        for split in TESTS:
            right = _correct(ctx, arm, split)
            board.correct.setdefault(arm.name, {})[split] = right
            result = summarise(right, level=ctx.config.evaluation.level, tokens=_tokens(ctx, arm, split))
            board.results.setdefault(arm.name, {})[split] = result
            ctx.sink.event(
                "arm_result",
                arm=arm.name,
                split=split,
                accuracy=result.accuracy,
                low=result.low,
                high=result.high,
                n=result.n,
                token_accuracy=None if result.token_accuracy is None else result.token_accuracy.value,
            )


def _tokens(ctx: Context, arm: Arm, split: SplitName) -> TokenAccuracy:
    enc = ctx.encoded(arm.side, split, ctx.scoring_view(split))
    _, offsets = enc.answer_rows(include_eos=False)
    return token_accuracy(
        token_correct(ctx, arm.members, arm.alphas, split, arm.side),
        offsets,
        level=ctx.config.evaluation.level,
        resamples=ctx.config.evaluation.bootstrap,
        seed=sub_seed(ctx.seed, "bootstrap", split),
    )


def _correct(ctx: Context, arm: Arm, split: SplitName) -> Bools:
    if ctx.config.task == "choice":
        return choice_correct(ctx, arm.members, arm.alphas, split, arm.side)
    texts = [row["text"] for row in written_answers(ctx, arm.name, arm.side, arm.members, arm.alphas, split)]
    return ctx.right(texts, split)

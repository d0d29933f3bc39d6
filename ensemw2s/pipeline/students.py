"""Phase 3 in a run: students of the teachers, and the ceiling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ensemw2s.data.example import SplitName
from ensemw2s.labelling import Labels
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.members import Member, Recipe, member_seed, trained_member
from ensemw2s.student import binary_answer_tokens, labelled_examples, student_loss, student_training_set

_SPLITS: list[SplitName] = ["test", "hard_test"]


def train_student(ctx: Context, labels: Labels, kept: NDArray[np.int64]) -> Member:
    """The strong base fine-tuned on one teacher's labels.

    Students of all teachers have the same seed, steps and order of prompts, so that they differ in their labels only.

    Args:
        ctx: the run.
        labels: of the hard pool.
        kept: the labels that pass the filters.
    """
    pool = [ctx.splits.hard_pool[i] for i in kept]
    examples = labelled_examples(pool, [labels.texts[i] for i in kept])
    enc = ctx.encode("strong", examples, "answers")
    soft = None if labels.soft is None else labels.soft.of(kept)
    data, constant = student_training_set(enc, ended=labels.ended[kept], soft=soft)
    config = ctx.config.training.student
    binary = None
    if ctx.config.task == "choice" and ctx.config.student.loss == "logconf":
        binary = binary_answer_tokens(ctx.encoded("strong", "hard_pool", "hidden"))
    loss = student_loss(ctx.config.student, config.steps, binary)
    recipe = Recipe(data=data, config=config, loss=loss, loss_constant=constant, seed=member_seed(ctx, "student"))
    return trained_member(ctx, f"student/{labels.teacher}", "strong", recipe, _SPLITS)


def train_ceiling(ctx: Context) -> Member:
    """The strong base fine-tuned on the true answers of all prompts of the hard pool."""
    from ensemw2s.models.losses import LossConfig

    true = labelled_examples(ctx.splits.hard_pool, [example.answer or "" for example in ctx.splits.hard_pool])
    data, constant = student_training_set(ctx.encode("strong", true, "answers"))
    recipe = Recipe(
        data=data,
        config=ctx.config.training.student,
        loss=LossConfig(kind="xent"),
        loss_constant=constant,
        seed=member_seed(ctx, "student"),
    )
    return trained_member(ctx, "ceiling", "strong", recipe, _SPLITS)

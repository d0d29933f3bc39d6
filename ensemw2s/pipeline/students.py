"""Phase 3 in a run: students of the teachers, and the ceiling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import ensemw2s.stage_names as stage
from ensemw2s.data.encode import encode_prompts
from ensemw2s.data.example import Example
from ensemw2s.labelling.labels import Labels
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.plan import TESTS
from ensemw2s.pipeline.scored_model import Recipe, ScoredModel, member_seed, trained_model
from ensemw2s.registry import STUDENT_LOSSES
from ensemw2s.student.training import binary_answer_tokens, labelled_examples, student_loss, student_training_set

Tokens = NDArray[np.int32]


def train_student(ctx: Context, labels: Labels, kept: NDArray[np.int64]) -> ScoredModel:
    """The strong base fine-tuned on one teacher's labels.

    Students of all teachers have the same seed, steps and order of prompts, so that they differ in their labels only.
    ``kept`` are the numbers of the labels that pass the filters.
    """
    pool = [ctx.splits.hard_pool[i] for i in kept]
    # Soft labels are bound to the teacher's tokens; hard ones travel as text and may be tokenised differently.
    if labels.soft is not None:
        prompts = encode_prompts(pool, ctx.strong.tokenizer, ctx.template, ctx.strong.max_length)
        targets = [labels.token_ids[i] for i in kept]
    else:
        prompts, targets = _tokens(ctx, pool, [labels.texts[i] for i in kept])
    data, constant = student_training_set(
        prompts,
        targets,
        eos_id=ctx.strong.tokenizer.eos_token_id,
        ended=labels.ended[kept],
        soft=None if labels.soft is None else labels.soft.of(kept),
    )
    config = ctx.config.training.student
    binary = None
    if ctx.config.task == "choice" and "two_tokens" in STUDENT_LOSSES.get(ctx.config.student.loss).needs:
        binary = binary_answer_tokens(ctx.encoded("strong", "hard_pool", "hidden"))
    loss = student_loss(ctx.config.student, config.steps, binary)
    recipe = Recipe(data=data, config=config, loss=loss, loss_constant=constant, seed=member_seed(ctx, "student"))
    return trained_model(ctx, stage.student(labels.teacher), "strong", recipe, TESTS)


def train_ceiling(ctx: Context) -> ScoredModel:
    """The strong base fine-tuned on the true answers of all prompts of the hard pool."""
    from ensemw2s.models.training.losses import LossConfig

    pool = ctx.splits.hard_pool
    prompts, targets = _tokens(ctx, pool, [example.answer or "" for example in pool])
    data, constant = student_training_set(prompts, targets, eos_id=ctx.strong.tokenizer.eos_token_id)
    recipe = Recipe(
        data=data,
        config=ctx.config.training.student,
        loss=LossConfig(kind="xent"),
        loss_constant=constant,
        seed=member_seed(ctx, "student"),
    )
    return trained_model(ctx, stage.ceiling(), "strong", recipe, TESTS)


def _tokens(ctx: Context, pool: list[Example], texts: list[str]) -> tuple[list[Tokens], list[Tokens]]:
    """Prompts and labels as the student tokenises them."""
    enc = ctx.encode("strong", labelled_examples(pool, texts), "answers")
    return enc.prompts, [options[0] for options in enc.options]

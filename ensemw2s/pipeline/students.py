"""Phase 3 in a run: students of the teachers, and the ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import ensemw2s.stage_names as stage
from ensemw2s.arms import student_of
from ensemw2s.config.training import TrainingConfig
from ensemw2s.data.encode import encode_prompts
from ensemw2s.data.example import Example, SplitName
from ensemw2s.labelling.labels import Labels
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.evaluate import Arm
from ensemw2s.pipeline.held_out import hold_out
from ensemw2s.pipeline.labels import relabelled
from ensemw2s.pipeline.plan import TESTS
from ensemw2s.pipeline.posterior import opinion_of, posterior_of, teaching, teaching_inputs
from ensemw2s.pipeline.scored_model import Recipe, ScoredModel, member_seed, trained_model
from ensemw2s.pipeline.selection import loss_weights
from ensemw2s.pipeline.tuning import tune
from ensemw2s.registry import STUDENT_LOSSES
from ensemw2s.student.training import binary_answer_tokens, labelled_examples, student_loss, student_training_set

Tokens = NDArray[np.int32]


def train_student(ctx: Context, teacher: Arm, labels: Labels, kept: NDArray[np.int64]) -> ScoredModel:
    """The strong base fine-tuned on one teacher's labels; with ``student.generations`` the last of the row.

    Students of all teachers have the same seed, steps and order of prompts, so that they differ in their labels only.
    ``kept`` are the numbers of the labels that pass the filters; later generations learn the same questions.
    """
    for generation in range(1, ctx.config.student.generations):
        name = stage.student(teacher.name, generation)
        student = _taught(ctx, name, labels, kept, ["validation", *TESTS, "hard_pool"])
        labels = next_labels(ctx, teacher, student, labels, generation + 1)
    return _taught(ctx, stage.student(teacher.name), labels, kept, TESTS)


def next_labels(ctx: Context, teacher: Arm, student: ScoredModel, labels: Labels, generation: int) -> Labels:
    """Labels of the next student: the posterior of the ``student`` before it, mixed with the teacher's.

    ``generation`` is that of the labels, from 2; ``labels`` are those that the student learned.
    """
    config = ctx.config.student
    inputs = {
        "student": student.fingerprint,
        "teacher": [member.fingerprint for member in teacher.members],
        "alphas": teacher.alphas,
        "ensemble": ctx.config.ensemble.model_dump(include={"rule", "length_norm"}),
        "mix": config.mix,
        "labels": config.labels,
        "pool": ctx.encoded("strong", "hard_pool", "hidden").fingerprint(),
        "sharpness_from": ctx.encoded("strong", "validation", "options").fingerprint(),
        **teaching_inputs(ctx),
    }

    def work(partial: Path) -> None:
        own = Arm(student_of(teacher.name), [student])
        taught, _ = teaching(ctx, teacher)
        posterior = posterior_of(ctx, [(opinion_of(ctx, own), 1.0 - config.mix), (taught, config.mix)])
        new = relabelled(ctx, labels, teacher, posterior)
        new.save(partial)

    return Labels.load(ctx.ensure(stage.labels(teacher.name, generation), inputs, work, seed=ctx.seed))


def _taught(
    ctx: Context, name: str, labels: Labels, kept: NDArray[np.int64], splits: Sequence[SplitName]
) -> ScoredModel:
    """The strong base fine-tuned on labels, except those that early stopping holds out, and scored."""
    kept, held = hold_out(ctx, labels, kept)
    pool = [ctx.splits.hard_pool[i] for i in kept]
    # Soft labels are bound to the teacher's tokens; hard ones travel as text and may be tokenised differently.
    if labels.soft is not None:
        prompts = encode_prompts(pool, ctx.strong.tokenizer, ctx.template, ctx.strong.max_length)
        targets = [labels.token_ids[i] for i in kept]
    else:
        prompts, targets = _tokens(ctx, pool, [labels.texts[i] for i in kept])
    ended, posterior = labels.ended[kept], None
    if labels.posterior is not None:
        enc, posterior = ctx.encoded("strong", "hard_pool", "hidden"), labels.posterior.of(kept)
        targets = [option for i in kept for option in enc.options[i]]
        prompts = [enc.prompts[i] for i in kept for _ in enc.options[i]]
        ended = np.ones(len(targets), dtype=np.bool_)
    data, constant = student_training_set(
        prompts,
        targets,
        eos_id=ctx.strong.tokenizer.eos_token_id,
        ended=ended,
        soft=None if labels.soft is None else labels.soft.of(kept),
        posterior=posterior,
        weights=loss_weights(ctx, labels, kept),
    )
    config = ctx.training("strong")
    binary = None
    if ctx.config.task == "choice" and "two_tokens" in STUDENT_LOSSES.get(ctx.config.student.loss).needs:
        binary = binary_answer_tokens(ctx.encoded("strong", "hard_pool", "hidden"))
    loss = student_loss(ctx.config.student, config.steps, binary)
    seed = member_seed(ctx, "student")
    recipe = Recipe(data=data, config=config, loss=loss, loss_constant=constant, seed=seed, held_out=held)
    return trained_model(ctx, name, "strong", recipe, splits)


def train_ceiling(ctx: Context) -> ScoredModel:
    """The strong base fine-tuned on the true answers of all prompts of the hard pool."""
    return _with_true_answers(ctx, stage.ceiling(), ctx.splits.hard_pool, ctx.training("strong"), TESTS)


def tune_strong(ctx: Context) -> TrainingConfig:
    """Training settings of all strong models, found on the easy training data: no hard label is read."""
    easy = ctx.splits.train
    return tune(
        ctx, "strong", len(easy), lambda name, config: _with_true_answers(ctx, name, easy, config, ("validation",))
    )


def _with_true_answers(
    ctx: Context, name: str, examples: list[Example], config: TrainingConfig, splits: Sequence[SplitName]
) -> ScoredModel:
    from ensemw2s.models.training.losses import LossConfig

    prompts, targets = _tokens(ctx, examples, [example.answer or "" for example in examples])
    data, constant = student_training_set(prompts, targets, eos_id=ctx.strong.tokenizer.eos_token_id)
    loss, seed = LossConfig(kind="xent"), member_seed(ctx, "student")
    return trained_model(ctx, name, "strong", Recipe(data, config, loss, constant, seed), splits)


def _tokens(ctx: Context, pool: list[Example], texts: list[str]) -> tuple[list[Tokens], list[Tokens]]:
    """Prompts and labels as the student tokenises them."""
    enc = ctx.encode("strong", labelled_examples(pool, texts), "answers")
    return enc.prompts, [options[0] for options in enc.options]

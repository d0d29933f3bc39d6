"""Checks data, lengths and answers against the configuration before training."""

from __future__ import annotations

from ensemw2s.config.answer_pattern import compile_pattern
from ensemw2s.data.example import SplitName
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.matching import extract_answer
from ensemw2s.evaluation.numbers import parse_number
from ensemw2s.pipeline.answers import prompt_tokens
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.pipeline.labels import needs_soft_labels, require_shared_tokenizer
from ensemw2s.pipeline.plan import REPORTED, TESTS
from ensemw2s.pipeline.selection import require_groups


def check_inputs(ctx: Context) -> None:
    """Check splits, lengths and answers against the configuration.

    Raises:
        DataError: a split that is needed is empty, an example does not fit a model's context, or an answer cannot be
            compared as configured.
        ConfigError: the answer pattern is invalid, the student's loss does not fit the tokenizers, there are no groups
            to select labels within, or adapters are for more layers than a base has.
    """
    config = ctx.config
    taught = bool(config.teachers) or config.arms.ceiling
    pool: tuple[SplitName, ...] = ("hard_pool",) if taught else ()
    weighs = config.student.generations > 1 or bool(config.labelling.voters)
    _check_layers(ctx, "weak")
    if taught:
        _check_layers(ctx, "strong")
    strong: tuple[SplitName, ...] = (*pool, *TESTS, *(("validation",) if weighs and config.teachers else ()))
    for split in ("train", *REPORTED, *pool):
        if not ctx.splits[split]:
            raise DataError(f"The split {split} is empty.", hint=f"Give data.split.{split} a larger number or share.")
        ctx.encoded("weak", split, ctx.scoring_view(split))
        if taught and split in strong:
            ctx.encoded("strong", split, ctx.scoring_view(split))
    if config.task == "generate":
        _check_answers(ctx)
    if config.teachers:
        require_groups(ctx)
    if config.teachers and config.student.early_stop is not None:
        _check_processes()
    if config.teachers and needs_soft_labels(ctx):
        student = config.student
        if student.labels == "posterior" or student.generations > 1 or config.labelling.relabels:
            raise ConfigError(
                f"student.loss: {student.loss} learns the teacher's distributions over the tokens of its own labels; "
                "student.labels: posterior, student.generations above 1, labelling.noise_model: em and "
                "labelling.voters make other labels.",
                hint="Use student.loss: xent, or leave those settings out.",
            )
        require_shared_tokenizer(ctx)


def _check_layers(ctx: Context, side: Side) -> None:
    from ensemw2s.models.loading.info import layer_count

    role = "expert" if side == "weak" else "student"
    lora = getattr(ctx.config.training, role).lora
    if lora is None or lora.last_layers is None:
        return
    layers = layer_count(ctx.base(side).config)
    if layers is not None and lora.last_layers > layers:
        raise ConfigError(
            f"training.{role}.lora.last_layers is {lora.last_layers}, but the {side} base has {layers} layers.",
            hint=f"Use at most {layers}, or null for all.",
        )


def _check_processes() -> None:
    from ensemw2s.models.training.finetune import processes

    if processes() > 1:
        raise ConfigError(
            f"student.early_stop looks at the student in one process, and this run has {processes()}.",
            hint="Start it without accelerate launch, or leave student.early_stop out.",
        )


def _check_answers(ctx: Context) -> None:
    template, room = ctx.template, ctx.config.labelling.decoding.max_new_tokens
    pattern = None if template.answer_pattern is None else compile_pattern(template.answer_pattern)
    sides: tuple[Side, ...] = ("weak", "strong")
    for split in TESTS:
        for side in sides:
            base = ctx.base(side)
            if base.max_length is not None and base.max_length <= room:
                raise ConfigError(
                    f"labelling.decoding.max_new_tokens is {room}, but the {side} base reads {base.max_length} tokens.",
                    hint="Lower it, so that a prompt fits in front of the answer.",
                )
            prompt_tokens(ctx, side, split)
        for example in ctx.splits[split]:
            answer = example.answer or ""
            final = extract_answer(answer, pattern)
            if ctx.config.evaluation.match == "number" and parse_number(answer if final is None else final) is None:
                raise DataError(
                    f"The answer of example {example.id!r} holds no number: {answer[:60]!r}.",
                    hint="Use evaluation.match: exact, or a data.template.answer_pattern that finds it.",
                )

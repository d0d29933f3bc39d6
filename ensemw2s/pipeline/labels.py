"""Phase 2 in a run: teachers label the hard pool."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ensemw2s.stage_names as stage
from ensemw2s.data.example import Example
from ensemw2s.ensemble.combine.choices import own_choices
from ensemw2s.ensemble.combine.option_scores import agreement, choose
from ensemw2s.ensemble.decoded import decode_answers
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.calibration import expected_calibration_error
from ensemw2s.evaluation.metrics import summarise
from ensemw2s.evaluation.results import LabelResult
from ensemw2s.files import read_json, write_json
from ensemw2s.labelling.labels import Labels, Posterior, SoftTargets, labels_from_answers, labels_from_choices
from ensemw2s.pipeline.accounting import counted_decoding
from ensemw2s.pipeline.answers import prompt_tokens, rule_of, written_answers
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.evaluate import Arm
from ensemw2s.pipeline.joint import joint_candidates, prepare_joint
from ensemw2s.pipeline.posterior import posterior_of, teaching, teaching_inputs
from ensemw2s.pipeline.prefixes import choices_of
from ensemw2s.pipeline.selection import coverage, loss_weights, pool_groups
from ensemw2s.registry import STUDENT_LOSSES
from ensemw2s.seeds import sub_seed

_TOLD = "opinion.json"
_SAMPLES = 50
_CONFIDENCES = 2000


def own_answers(ctx: Context, teacher: Arm) -> list[list[str]] | None:
    """Each member's own greedy answers to the hard pool, for the agreement.

    None where options are scored, and for a model that labels alone and greedily: they are the labels themselves.
    """
    alone = len(teacher.members) == 1 and ctx.config.labelling.decoding.method == "greedy"
    if alone or ctx.config.task == "choice":
        return None
    found = (written_answers(ctx, member.name, "weak", [member], [1.0], "hard_pool") for member in teacher.members)
    return [[row["text"] for row in rows] for rows in found]


def label_pool(ctx: Context, teacher: Arm, own: list[list[str]] | None) -> Labels:
    """Pseudo-labels of the hard pool; the true answers are hidden from everything in here.

    ``own``: :func:`own_answers`.
    """
    choice = ctx.config.task == "choice"
    soft = ctx.config.labelling.soft_top_k if needs_soft_labels(ctx) else None
    if soft is not None:
        require_shared_tokenizer(ctx)
    drawn, relabels = ctx.config.student.labels == "posterior", ctx.config.labelling.relabels
    graded = choice and (drawn or relabels or ctx.config.student.selects)
    if choice:
        prepare_joint(ctx, stage.joint_labels(teacher.name), teacher.members, [teacher.alphas], ["hard_pool"])
    inputs = {
        "experts": [member.fingerprint for member in teacher.members],
        "alphas": teacher.alphas,
        "pool": ctx.encoded("weak", "hard_pool", "hidden").fingerprint(),
        "ensemble": ctx.config.ensemble.model_dump(include={"rule", "length_norm"} if choice else {"rule"}),
        "decoding": None if choice else ctx.config.labelling.decoding.model_dump(),
        "soft_top_k": soft,
        "seed": ctx.seed,
        "numerics": ctx.numerics,
        **({"graded_by": ctx.encoded("weak", "validation", "options").fingerprint(), "drawn": drawn} if graded else {}),
        **teaching_inputs(ctx),
    }

    def work(partial: Path) -> None:
        started = time.monotonic()
        labels = _choose(ctx, teacher, soft) if choice else _generate(ctx, teacher, own, soft)
        if graded:
            opinion, told = teaching(ctx, teacher)
            posterior = posterior_of(ctx, [(opinion, 1.0)])
            if told.keys() & {"accuracies", "voters"}:
                labels = relabelled(ctx, labels, teacher, posterior)
            else:  # the same labels: a posterior does not tell how the rule decided its ties
                sure = np.exp(posterior.logprob[posterior.offsets[:-1] + labels.options])
                labels = dataclasses.replace(labels, confidence=sure, posterior=posterior if drawn else None)
            if relabels:
                write_json(partial / _TOLD, told)
        labels.save(partial)
        ctx.sink.metric(
            "label",
            teacher=teacher.name,
            done=len(labels),
            total=len(labels),
            per_second=round(len(labels) / max(time.monotonic() - started, 1e-9), 3),
            confidences=[round(float(c), 4) for c in labels.confidence[:_CONFIDENCES]],
        )

    folder = ctx.ensure(stage.labels(teacher.name), inputs, work, seed=ctx.seed)
    labels = Labels.load(folder)
    if relabels:
        ctx.notes.append(f"Labels of {teacher.name}: {_how(read_json(folder / _TOLD) or {})}.")
    if labels.ids != [example.id for example in ctx.splits.hard_pool]:
        raise DataError(
            f"{folder / 'labels.parquet'} does not hold one label for every question of the hard pool.",
            hint="Remove that folder; the command of its run makes it again.",
        )
    return labels


def relabelled(ctx: Context, labels: Labels, teacher: Arm, posterior: Posterior) -> Labels:
    """Labels of the same questions by another distribution over their options; agreement is with the teacher's members.

    They have the distribution as well where the student draws from it.
    """
    enc = ctx.encoded("weak", "hard_pool", "hidden")
    chosen = choose(posterior.logprob, enc)
    tables = (member.table("hard_pool") for member in teacher.members)
    own = [own_choices(table, enc, ctx.config.ensemble).option for table in tables]
    return dataclasses.replace(
        labels,
        texts=[(e.choices or ())[int(o)] for e, o in zip(ctx.splits.hard_pool, chosen.option, strict=True)],
        token_ids=[options[int(o)] for options, o in zip(enc.options, chosen.option, strict=True)],
        options=chosen.option,
        confidence=np.exp(posterior.logprob[chosen.sequence]),
        margin=chosen.margin,
        agreement=agreement(own, teacher.alphas, chosen.option),
        posterior=posterior if ctx.config.student.labels == "posterior" else None,
    )


def _how(told: dict[str, Any]) -> str:
    """How labels came about, from what :func:`ensemw2s.pipeline.posterior.teaching` tells."""
    parts = [f"no noise model, for {told['why_not']}"] if "why_not" in told else []
    for what, words in (("accuracies", "right on the pool by the noise model"), ("voters", "weights of the voters")):
        if what in told:
            parts.append(f"{words}: {', '.join(f'{name} {value:.3f}' for name, value in told[what].items())}")
    return "; ".join(parts)


def _hidden_pool(ctx: Context) -> list[Example]:
    return [example.hide_answer() for example in ctx.splits.hard_pool]


def _choose(ctx: Context, teacher: Arm, soft: int | None) -> Labels:
    found = choices_of(ctx, teacher.members, teacher.alphas, "hard_pool")
    enc = ctx.encoded("weak", "hard_pool", "hidden")
    labels = labels_from_choices(teacher.name, _hidden_pool(ctx), enc, found)
    if soft is None:
        return labels
    joint = joint_candidates(ctx, teacher.members, teacher.alphas, "hard_pool", found.choices.sequence, soft)
    if joint.topk_ids is None or joint.topk_logprob is None:
        raise RuntimeError("joint scoring left out the candidates that were asked for")
    lengths = np.diff(enc.row_offsets)[found.choices.sequence]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return dataclasses.replace(labels, soft=SoftTargets(offsets, joint.topk_ids, joint.topk_logprob))


def _generate(ctx: Context, teacher: Arm, own: list[list[str]] | None, soft: int | None) -> Labels:
    from ensemw2s.models.loading.adapters import opened_models

    with (
        opened_models([member.model for member in teacher.members], ctx.config.compute) as models,
        counted_decoding(ctx, "weak", "hard_pool") as sink,
    ):
        answers = decode_answers(
            models,
            teacher.alphas,
            prompt_tokens(ctx, "weak", "hard_pool"),
            decoding=ctx.config.labelling.decoding,
            rule=rule_of(ctx, teacher.members),
            seed=sub_seed(ctx.seed, "labelling", teacher.name),
            compute=ctx.config.compute,
            keep_top_k=soft or 1,
            sink=sink,
            tag=stage.labels(teacher.name),
        )
    return labels_from_answers(
        teacher.name, _hidden_pool(ctx), answers, own=own, alphas=teacher.alphas, soft=soft is not None
    )


def needs_soft_labels(ctx: Context) -> bool:
    """Whether the student learns from the teacher's distributions."""
    return "soft" in STUDENT_LOSSES.get(ctx.config.student.loss).needs


def require_shared_tokenizer(ctx: Context) -> None:
    """Soft labels are distributions over tokens, so teacher and student must have the same.

    Raises:
        ConfigError: the tokenizers differ.
    """
    weak, strong = ctx.weak.tokenizer, ctx.strong.tokenizer
    if weak.get_vocab() != strong.get_vocab() or weak.eos_token_id != strong.eos_token_id:
        raise ConfigError(
            f"student.loss: {ctx.config.student.loss} needs the weak and the strong base to have the same tokenizer, "
            "and theirs differ.",
            hint="Use student.loss: xent, logconf or rce; those labels travel as text.",
        )


def label_correct(ctx: Context, labels: Labels) -> NDArray[np.bool_]:
    """Whether each label is right, bool [n]; the final evaluation's look at the hidden answers."""
    if ctx.config.task == "choice":
        true = [example.answer for example in ctx.splits.hard_pool]
        return np.array([label == answer for label, answer in zip(labels.texts, true, strict=True)], dtype=np.bool_)
    return ctx.right(labels.texts, "hard_pool")


def label_result(ctx: Context, labels: Labels, kept: NDArray[np.int64]) -> LabelResult:
    """Quality of a teacher's labels, and where they are selected of those of each group."""
    groups = pool_groups(ctx)
    right = label_correct(ctx, labels)
    summary = summarise(right, level=ctx.config.evaluation.level)
    calibration = expected_calibration_error(np.clip(labels.confidence, 0.0, 1.0), right)
    return LabelResult(
        n=len(labels),
        kept=int(kept.size),
        mean_confidence=float(labels.confidence.mean()),
        mean_agreement=float(labels.agreement.mean()),
        accuracy=summary.accuracy,
        low=summary.low,
        high=summary.high,
        kept_accuracy=float(right[kept].mean()) if kept.size else None,
        ece=calibration.ece,
        coverage=[] if groups is None else coverage(right, kept, groups, loss_weights(ctx, labels, kept)),
        coverage_by="" if groups is None else groups.kind,
    )


def report_labels(ctx: Context, labels: Labels, result: LabelResult) -> None:
    """Events: how the labels turned out, and a sample of them."""
    right = label_correct(ctx, labels)
    for i in np.linspace(0, len(labels) - 1, num=min(_SAMPLES, len(labels))).astype(int):
        ctx.sink.event(
            "label_sample",
            teacher=labels.teacher,
            prompt=ctx.splits.hard_pool[i].prompt,
            label=labels.texts[i],
            confidence=float(labels.confidence[i]),
            agreement=float(labels.agreement[i]),
            correct=bool(right[i]),
        )
    ctx.sink.event(
        "labels_done",
        teacher=labels.teacher,
        n=result.n,
        kept=result.kept,
        mean_confidence=result.mean_confidence,
        mean_agreement=result.mean_agreement,
        accuracy=result.accuracy,
    )

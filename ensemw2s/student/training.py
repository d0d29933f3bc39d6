"""A student's training set: prompts with pseudo-labels (or, for the ceiling, true answers)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.method import StudentConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.data.example import Example
from ensemw2s.models.training.losses import LossConfig
from ensemw2s.models.training.training_set import Soft, TrainingSet
from ensemw2s.registry import STUDENT_LOSSES

Tokens = NDArray[np.int32]


def labelled_examples(examples: Sequence[Example], texts: Sequence[str]) -> list[Example]:
    """The examples with label texts as their answers; choices stay, since a prompt template may list them."""
    return [dataclasses.replace(example, answer=text) for example, text in zip(examples, texts, strict=True)]


def student_training_set(
    prompts: Sequence[Tokens],
    targets: Sequence[Tokens],
    *,
    eos_id: int,
    ended: NDArray[np.bool_] | None = None,
    soft: Sequence[Soft] | None = None,
    posterior: Sequence[NDArray[np.float64]] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> tuple[TrainingSet, float]:
    """Training set and loss constant of a student: tokens of a label, and its end-of-sequence, weigh what it does.

    Args:
        prompts: int32 tokens of every prompt.
        targets: int32 tokens of every label, without end-of-sequence.
        eos_id: the student's end-of-sequence token.
        ended: bool [n], whether a label ends by itself; one that was cut at the length limit does not teach to stop.
        soft: the teacher's distributions over each label's tokens (and its end, where it has one).
        posterior: for each question the probabilities of its possible labels; ``prompts`` and ``targets`` have then one
            entry for each possible label, question after question.
        weights: float64 [questions], with mean 1; None is 1 for all.

    Returns:
        (training set, mean number of trained tokens of a sequence, by ``posterior`` where it is given).
    """
    ends = np.ones(len(targets), dtype=np.bool_) if ended is None else ended
    each = np.ones(len(targets)) if weights is None else weights
    if weights is not None and posterior is not None:
        each = np.repeat(weights, [len(probs) for probs in posterior])
    tokens = np.repeat(each, [len(target) for target in targets])
    if posterior is None:
        data = TrainingSet.from_sequences(
            prompts, targets, eos_id=eos_id, weights=tokens, eos_weights=each, ends=ends, soft=soft
        )
        return data, len(data.target_ids) / len(data)
    offsets = np.concatenate([[0], np.cumsum([len(probs) for probs in posterior])]).astype(np.int64)
    probs = np.concatenate([*posterior])
    data = TrainingSet.from_sequences(
        prompts, targets, eos_id=eos_id, weights=tokens, eos_weights=each, ends=ends, labels=(offsets, probs)
    )
    return data, float(probs @ np.diff(data.target_offsets)) / data.questions


def student_loss(config: StudentConfig, steps: int, binary_tokens: tuple[int, int] | None) -> LossConfig:
    """The student's loss, whose weight of the own prediction warms up over a share of ``steps`` optimiser steps.

    ``binary_tokens`` are the two possible answer tokens of a two-class task, for a loss that needs them.
    """
    if "coefficient" not in STUDENT_LOSSES.get(config.loss).needs:
        return LossConfig(config.loss, binary_tokens=binary_tokens)
    return LossConfig(
        config.loss,
        coefficient=config.logconf_coefficient,
        warmup_steps=round(config.logconf_warmup * steps),
        binary_tokens=binary_tokens,
    )


def binary_answer_tokens(enc: EncodedSplit) -> tuple[int, int] | None:
    """The two answer tokens of a task whose options are the same two single tokens everywhere; otherwise None."""
    lengths = np.diff(enc.row_offsets) - 1
    if lengths.size == 0 or np.any(lengths != 1):
        return None
    tokens = np.unique(enc.row_tokens[~enc.is_eos])
    return (int(tokens[0]), int(tokens[1])) if tokens.size == 2 else None

"""Losses of fine-tuning, as functions of the logits at target positions.

Every loss is a weighted sum over tokens, ``Σ_j w_j · ℓ_j``. It is never divided here: the caller divides by a constant,
so that a token's weight means the same in every batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ensemw2s.errors import RunFailedError
from ensemw2s.registry import STUDENT_LOSSES

#: Labels with this value carry no loss.
IGNORED = -100

#: ``log 0`` of a one-hot label in the reverse cross-entropy (``A`` of Wang et al. 2019).
LOG_ZERO = -4.0


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Loss of a fine-tuning."""

    kind: str = "xent"
    """Name in :data:`~ensemw2s.registry.STUDENT_LOSSES`."""
    coefficient: float = 0.0
    """Final weight of the loss's second part, in [0, 1]; 0 for a loss that has none."""
    warmup_steps: int = 0
    """Optimiser steps over which that weight grows linearly from 0; it is constant afterwards."""
    binary_tokens: tuple[int, int] | None = None
    """The two answers (of one token) of a two-class task, for a loss that needs them."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.coefficient <= 1.0 or self.warmup_steps < 0:
            raise ValueError("coefficient must lie in [0, 1] and warmup_steps must not be negative")

    def coefficient_at(self, step: int) -> float:
        """The weight of the second part in optimiser step ``step``, counted from 0."""
        share = 1.0 if step >= self.warmup_steps else step / self.warmup_steps
        return self.coefficient * share


@dataclass(frozen=True, slots=True)
class LossRows:
    """Inputs of a loss: a row for each target token of one forward pass.

    Attributes:
        logits: ``[P, V]`` in at least float32, at the positions that predict the labels.
        labels: int64 ``[P]``; :data:`IGNORED` switches a row off.
        soft_ids: int64 ``[P, k]``, the teacher's most probable tokens, −1 in unused places; None where not needed.
        soft_logprob: ``[P, k]``, their natural logarithms of probability.
        coefficient: weight of the loss's second part in this step, in [0, 1].
        binary_tokens: the two answers (of one token) of a two-class task, or None.
    """

    logits: Tensor
    labels: Tensor
    soft_ids: Tensor | None = None
    soft_logprob: Tensor | None = None
    coefficient: float = 0.0
    binary_tokens: tuple[int, int] | None = None


#: What a loss can need beside logits and labels: the teacher's distributions, the two answer tokens of a two-class
#: task, and a weight that grows to ``student.logconf_coefficient`` over its warm-up.
NEEDS = frozenset({"soft", "two_tokens", "coefficient"})


@dataclass(frozen=True, slots=True)
class StudentLoss:
    """A loss of fine-tuning.

    Attributes:
        nll: ``ℓ`` of every row, ``[P]``, before weighting; 0 where the label is :data:`IGNORED`.
        needs: names in :data:`NEEDS`. What is not asked for is not made.
    """

    nll: Callable[[LossRows], Tensor]
    needs: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not NEEDS.issuperset(self.needs):
            raise ValueError(f"needs holds {sorted(set(self.needs) - NEEDS)}; expected some of {sorted(NEEDS)}")


def training_loss(
    config: LossConfig,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    step: int = 0,
    soft_ids: Tensor | None = None,
    soft_logprob: Tensor | None = None,
) -> Tensor:
    """``Σ w·ℓ`` of the configured loss, a scalar in at least float32.

    Args:
        config: which loss.
        logits: ``[P, V]`` at the positions that predict the labels.
        labels: int64 ``[P]``.
        weights: ``[P]``.
        step: optimiser step from 0, for the warm-up.
        soft_ids: int64 ``[P, k]`` for a loss that needs distributions.
        soft_logprob: ``[P, k]`` for the same.

    Raises:
        ConfigError: there is no loss of that name.
        ValueError: no distributions for a loss that needs them.
        RunFailedError: a plug-in's loss does not give a number for each row.
    """
    logits = _at_least_float32(logits)
    loss: StudentLoss = STUDENT_LOSSES.get(config.kind)
    if "soft" in loss.needs and (soft_ids is None or soft_logprob is None):
        raise ValueError(f"loss: {config.kind} needs the ensemble's distributions (soft_ids and soft_logprob)")
    coefficient = config.coefficient_at(step)
    losses = loss.nll(LossRows(logits, labels, soft_ids, soft_logprob, coefficient, config.binary_tokens))
    if losses.shape != labels.shape:
        found = list(losses.shape)
        raise RunFailedError(f"The student loss {config.kind!r} gave shape {found}, not {list(labels.shape)}.")
    return (losses * weights.to(losses.dtype)).sum()


def token_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """``−log q(label)`` for each row, ``[P]``; 0 where the label is :data:`IGNORED`."""
    return F.cross_entropy(_at_least_float32(logits), labels, reduction="none", ignore_index=IGNORED)


def soft_nll(logits: Tensor, labels: Tensor, soft_ids: Tensor, soft_logprob: Tensor) -> Tensor:
    """Cross-entropy to a distribution known by its most probable tokens, ``[P]``.

    ``−Σ_k p_k log q_k − p_rest · log q_rest``: all other tokens are one bucket with ``p_rest = 1 − Σ_k p_k`` and
    ``q_rest = Σ_{v not among the k} q_v``, which is summed in log space, not as a difference from 1. It is the
    cross-entropy between the two distributions over the ``k`` tokens and the bucket.

    Args:
        logits: ``[P, V]``.
        labels: int64 ``[P]``, used in rows without a distribution; :data:`IGNORED` switches a row off.
        soft_ids: int64 ``[P, k]``, −1 in unused places.
        soft_logprob: ``[P, k]``, natural logarithms.
    """
    log_q = F.log_softmax(_at_least_float32(logits), dim=-1)
    used = soft_ids >= 0
    place = soft_ids.clamp(min=0)
    p = torch.where(used, soft_logprob.to(log_q.dtype).exp(), 0.0)
    named = torch.zeros_like(log_q, dtype=torch.int8).scatter_add_(1, place, used.to(torch.int8)) > 0
    all_named = named.all(dim=1, keepdim=True)
    p_rest = torch.where(all_named[:, 0], 0.0, (1.0 - p.sum(dim=1)).clamp(min=0.0))
    # A row that names every token has no rest; its bucket is any finite number there, times 0.
    log_q_rest = torch.logsumexp(log_q.masked_fill(named & ~all_named, -torch.inf), dim=1)
    soft = -(p * log_q.gather(1, place)).sum(dim=1) - p_rest * log_q_rest
    hard = -log_q.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    losses = torch.where(used.any(dim=1), soft, hard)
    return torch.where(labels == IGNORED, 0.0, losses)


def logconf_nll(
    logits: Tensor, labels: Tensor, coefficient: float, binary_tokens: tuple[int, int] | None = None
) -> Tensor:
    """``(1 − c)·(−log q(label)) + c·(−log q(own hardened prediction))``, ``[P]`` (Burns et al. 2023, token by token).

    The own prediction is a constant for the gradient.
    """
    losses = token_nll(logits, labels)
    if coefficient == 0.0:
        return losses
    own = torch.where(labels == IGNORED, IGNORED, hardened(logits, labels, binary_tokens))
    return (1.0 - coefficient) * losses + coefficient * token_nll(logits, own)


def rce_nll(logits: Tensor, labels: Tensor, coefficient: float) -> Tensor:
    """``(1 − c)·(−log q(label)) + c·(−A)·(1 − q(label))``, ``[P]``: cross-entropy mixed with its reverse.

    The reverse cross-entropy ``−Σ_v q(v)·log p(v)`` of a one-hot label ``p``, whose ``log 0`` is taken as
    ``A`` (:data:`LOG_ZERO`), is ``−A·(1 − q(label))`` (Wang et al. 2019, symmetric cross-entropy). Its gradient
    vanishes with ``q(label)``, so a label that the model finds impossible hardly moves it.
    """
    losses = token_nll(logits, labels)
    if coefficient == 0.0:
        return losses
    return (1.0 - coefficient) * losses + coefficient * LOG_ZERO * torch.expm1(-losses)


@torch.no_grad()
def hardened(logits: Tensor, labels: Tensor, binary_tokens: tuple[int, int] | None = None) -> Tensor:
    """The model's own prediction as a label, int64 ``[P]``: its arg-max (ties: the lowest id).

    With ``binary_tokens`` the rows whose label is one of these two tokens are hardened at a class-balanced threshold:
    as many of them are given the first token as carry it as their label, namely those with the largest log-odds for it
    (ties: the earlier rows). Without such a threshold the model could agree with itself by choosing one class always.
    """
    own = logits.argmax(dim=-1)
    if binary_tokens is None:
        return own
    first, second = binary_tokens
    rows = ((labels == first) | (labels == second)).nonzero()[:, 0]
    odds = logits[rows, first] - logits[rows, second]
    order = rows[odds.argsort(descending=True, stable=True)]
    count = int((labels == first).sum())
    own[order[:count]] = first
    own[order[count:]] = second
    return own


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _soft(rows: LossRows) -> Tensor:
    assert rows.soft_ids is not None  # it needs them
    assert rows.soft_logprob is not None
    return soft_nll(rows.logits, rows.labels, rows.soft_ids, rows.soft_logprob)


XENT = StudentLoss(lambda rows: token_nll(rows.logits, rows.labels))
"""Hard labels."""
SOFT = StudentLoss(_soft, needs=frozenset({"soft"}))
"""The ensemble's distributions."""
LOGCONF = StudentLoss(
    lambda rows: logconf_nll(rows.logits, rows.labels, rows.coefficient, rows.binary_tokens),
    needs=frozenset({"two_tokens", "coefficient"}),
)
"""Hard labels and own predictions, hardened at a class-balanced threshold within each forward pass."""
RCE = StudentLoss(lambda rows: rce_nll(rows.logits, rows.labels, rows.coefficient), needs=frozenset({"coefficient"}))
"""Hard labels, by cross-entropy and reverse cross-entropy."""

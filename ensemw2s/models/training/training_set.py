"""Training sets: sequences with a loss weight for every target token, and the order of draws."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ensemw2s.arrays import offsets_of
from ensemw2s.errors import DataError

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit

Tokens = NDArray[np.integer[Any]]
#: For one sequence: ids ``[m, k]`` and log-probabilities ``[m, k]`` of its ``m`` target rows, end-of-sequence included.
Soft = tuple[Tokens, NDArray[np.floating[Any]]]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Prompts and targets as flat arrays; only target tokens carry loss.

    With ``label_offsets`` the sequences are the possible labels of questions, side by side, and each time that a
    question comes up one of them is drawn by its probability (:func:`drawn_labels`). Without, every sequence is a
    question of its own.

    Sequence ``s`` has prompt ``prompt_ids[prompt_offsets[s]:prompt_offsets[s + 1]]`` and target tokens (the final
    end-of-sequence token included) ``target_ids[target_offsets[s]:target_offsets[s + 1]]``.
    """

    prompt_ids: NDArray[np.int32]
    """``[P]``."""
    prompt_offsets: NDArray[np.int64]
    """``[n + 1]``."""
    target_ids: NDArray[np.int32]
    """``[T]``."""
    target_offsets: NDArray[np.int64]
    """``[n + 1]``."""
    loss_weights: NDArray[np.float32]
    """``[T]``: factor of each target token's loss, 0 or more."""
    index: NDArray[np.int64]
    """``[m]``: the questions of one epoch, repeats allowed; the trainer shuffles them."""
    soft_ids: NDArray[np.int32] | None = None
    """``[T, k]``: likely tokens by the ensemble, −1 in unused places; a row of −1 has its hard target only."""
    soft_logprob: NDArray[np.float32] | None = None
    """``[T, k]``: their log-probabilities, −inf in unused places."""
    label_offsets: NDArray[np.int64] | None = None
    """``[q + 1]``: the sequences of each question."""
    label_probs: NDArray[np.float64] | None = None
    """``[n]``: probability of each sequence among those of its question."""

    def __post_init__(self) -> None:
        n, targets = len(self), len(self.target_ids)
        if n < 1 or len(self.index) < 1:
            raise DataError("There is no sequence to train on.", hint="Loosen the filters or add data.")
        if len(self.prompt_offsets) != n + 1 or self.loss_weights.shape != (targets,):
            raise ValueError("offsets or loss_weights do not fit the sequences")
        for name, offsets, size in (
            ("prompt", self.prompt_offsets, len(self.prompt_ids)),
            ("target", self.target_offsets, targets),
        ):
            if offsets[0] != 0 or offsets[-1] != size:
                raise ValueError(f"{name}_offsets must start at 0 and end at {size}")
            short = np.flatnonzero(np.diff(offsets) < 1)
            if len(short):
                raise DataError(f"The {name} of training sequence {short[0]} has no tokens.")
        if not np.isfinite(self.loss_weights).all() or (self.loss_weights < 0).any():
            raise ValueError("loss_weights must be finite and not negative")
        if self.index.min() < 0 or self.index.max() >= self.questions:
            raise ValueError(f"index must hold numbers of questions in [0, {self.questions})")
        if (self.label_offsets is None) != (self.label_probs is None):
            raise ValueError("label_offsets and label_probs belong together")
        if self.label_offsets is not None and self.label_probs is not None:
            _check_labels(self.label_offsets, self.label_probs, n)
        if (self.soft_ids is None) != (self.soft_logprob is None):
            raise ValueError("soft_ids and soft_logprob belong together")
        shapes = {a.shape for a in (self.soft_ids, self.soft_logprob) if a is not None}
        if len(shapes) > 1 or any(len(shape) != 2 or shape[0] != targets for shape in shapes):
            raise ValueError(f"soft_ids and soft_logprob must both be [{targets}, k]")

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.target_offsets) - 1

    @property
    def questions(self) -> int:
        """Number of questions."""
        return len(self) if self.label_offsets is None else len(self.label_offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``[n]``: tokens of each sequence, prompt and targets, as the model reads them."""
        return np.diff(self.prompt_offsets) + np.diff(self.target_offsets) - 1

    def tokens(self, sequence: int) -> NDArray[np.int32]:
        """What the model reads of a sequence: its prompt and all targets but the last."""
        first, last = int(self.target_offsets[sequence]), int(self.target_offsets[sequence + 1])
        prompt = self.prompt_ids[self.prompt_offsets[sequence] : self.prompt_offsets[sequence + 1]]
        return np.concatenate([prompt, self.target_ids[first : last - 1]])

    def fingerprint(self) -> str:
        """SHA-256 of the content."""
        digest = hashlib.sha256()
        for name in self.__slots__:
            array = getattr(self, name)
            if array is not None:
                digest.update(f"{name} {array.dtype} {array.shape};".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @classmethod
    def from_sequences(
        cls,
        prompts: Sequence[Tokens],
        targets: Sequence[Tokens],
        *,
        eos_id: int,
        weights: ArrayLike | None = None,
        eos_weights: ArrayLike = 1.0,
        ends: ArrayLike = True,
        index: ArrayLike | None = None,
        soft: Sequence[Soft | None] | None = None,
        labels: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
    ) -> TrainingSet:
        """Build a set from ``n`` prompts and ``n`` targets, token arrays without end-of-sequence (``eos_id``).

        ``weights`` are the loss weights ``[N]`` of all target tokens in order, end-of-sequence excluded (default 1);
        ``eos_weights`` those of the end-of-sequence tokens, a number or ``[n]``. ``ends`` is whether a target ends with
        end-of-sequence (a generation that was cut does not), a bool or ``[n]``. ``index`` holds the draws of one epoch,
        by default every question once. ``soft`` is the ensemble's distributions of each sequence, or None for one that
        has its hard targets only. ``labels`` are ``label_offsets`` and ``label_probs``, where the sequences are the
        possible labels of fewer questions.

        Raises:
            DataError: a prompt or target has no tokens.
        """
        n = len(prompts)
        if len(targets) != n:
            raise ValueError(f"{n} prompts, {len(targets)} targets")
        ended = np.broadcast_to(np.asarray(ends, dtype=bool), (n,))
        ids, offsets, is_eos = _with_ends(targets, ended, eos_id)
        loss_weights = np.empty(offsets[-1], dtype=np.float32)
        loss_weights[~is_eos] = 1.0 if weights is None else weights
        loss_weights[is_eos] = np.broadcast_to(np.asarray(eos_weights, dtype=np.float32), (n,))[ended]
        soft_ids, soft_logprob = _joined_soft(soft, offsets) if soft is not None else (None, None)
        label_offsets, label_probs = labels or (None, None)
        if index is None:
            index = np.arange(n if label_offsets is None else len(label_offsets) - 1)
        return cls(
            prompt_ids=np.concatenate([np.empty(0, np.int32), *prompts]).astype(np.int32),
            prompt_offsets=offsets_of(np.array([len(p) for p in prompts], dtype=np.int64)),
            target_ids=ids,
            target_offsets=offsets,
            loss_weights=loss_weights,
            index=np.asarray(index, dtype=np.int64),
            soft_ids=soft_ids,
            soft_logprob=soft_logprob,
            label_offsets=label_offsets,
            label_probs=label_probs,
        )

    @classmethod
    def from_encoded(cls, encoded: EncodedSplit, *, options: ArrayLike | None = None, **keywords: Any) -> TrainingSet:
        """Build a set from a split and one chosen option for each example.

        Args:
            encoded: the split.
            options: int ``[n]``, the option to learn; default the true answers.
            keywords: as in :meth:`from_sequences`; ``weights`` in the order of
                ``encoded.answer_rows(include_eos=False)`` for the true answers.

        Raises:
            DataError: an answer is hidden.
        """
        chosen = np.asarray(encoded.answer_index if options is None else options)
        hidden = np.flatnonzero(chosen < 0)
        if len(hidden):
            raise DataError(f"The answer of example {encoded.ids[hidden[0]]} is hidden; it cannot be trained on.")
        targets = [choices[int(c)] for choices, c in zip(encoded.options, chosen, strict=True)]
        return cls.from_sequences(encoded.prompts, targets, eos_id=encoded.eos_id, **keywords)


def drawn_labels(data: TrainingSet, visits: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The sequence that each visit of a question trains on, int64 ``[v]``.

    The ``k``-th visit of a question takes the ``k``-th number of its own Philox stream, whatever else is trained on, so
    that the expected loss is ``Σ_o q(o)·ℓ(o)`` and a longer training begins with the same draws.

    Args:
        data: the questions.
        visits: questions in the order of training.
        seed: key of the streams.
    """
    if data.label_offsets is None or data.label_probs is None:
        return visits
    out = np.empty_like(visits)
    order = np.argsort(visits, kind="stable")
    questions, starts = np.unique(visits[order], return_index=True)
    for question, places in zip(questions, np.split(order, starts[1:]), strict=True):
        first, last = int(data.label_offsets[question]), int(data.label_offsets[question + 1])
        uniform = np.random.Generator(np.random.Philox(key=[seed, int(question)])).random(len(places))
        below = np.cumsum(data.label_probs[first:last])
        drawn = np.searchsorted(below, uniform * below[-1], side="right")
        out[places] = first + np.minimum(drawn, last - first - 1)
    return out


def _check_labels(offsets: NDArray[np.int64], probs: NDArray[np.float64], sequences: int) -> None:
    if offsets[0] != 0 or offsets[-1] != sequences or (np.diff(offsets) < 1).any() or probs.shape != (sequences,):
        raise ValueError(f"label_offsets must rise from 0 to {sequences}, with as many label_probs")
    sums = np.add.reduceat(probs, offsets[:-1])
    if not np.isfinite(probs).all() or (probs < 0).any() or np.abs(sums - 1.0).max() > 1e-6:
        raise ValueError("label_probs must be a distribution over the sequences of each question")


def collate(data: TrainingSet, sequences: Tokens, pad_id: int) -> dict[str, Tensor]:
    """One batch: tokens padded on the right, and flat arrays for the positions that carry loss.

    Returns:
        ``input_ids`` and ``attention_mask`` int64 ``[B, L]``; for the batch's ``P`` target tokens, in order:
        ``positions`` int64 ``[P]`` (where, in the flattened ``[B·L]``, the logits that predict them are), ``targets``
        int64 ``[P]``, ``weights`` float32 ``[P]`` and, for a soft set, ``soft_ids`` int64 and ``soft_logprob`` float32
        ``[P, k]``. Positions outside the targets do not appear: they need no logits and carry no loss.
    """
    size = len(sequences)
    longest = int(data.lengths[sequences].max())
    ids = np.full((size, longest), pad_id, dtype=np.int64)
    mask = np.zeros((size, longest), dtype=np.int64)
    rows, positions = [], []
    for b, s in enumerate(sequences):
        tokens = data.tokens(s)
        first, last = int(data.target_offsets[s]), int(data.target_offsets[s + 1])
        ids[b, : len(tokens)] = tokens
        mask[b, : len(tokens)] = 1
        rows.append(np.arange(first, last))
        positions.append(b * longest + len(tokens) - 1 - np.arange(last - first)[::-1])
    row = np.concatenate(rows)
    batch = {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "positions": torch.from_numpy(np.concatenate(positions)),
        "targets": torch.from_numpy(data.target_ids[row].astype(np.int64)),
        "weights": torch.from_numpy(data.loss_weights[row]),
    }
    if data.soft_ids is not None and data.soft_logprob is not None:
        batch["soft_ids"] = torch.from_numpy(data.soft_ids[row].astype(np.int64))
        batch["soft_logprob"] = torch.from_numpy(data.soft_logprob[row])
    return batch


def _with_ends(
    targets: Sequence[Tokens], ended: NDArray[np.bool_], eos_id: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Flat ids ``[N]``, offsets ``[n + 1]``, and a mask ``[N]`` of end-of-sequence, which ``ended`` targets have."""
    offsets = offsets_of(np.array([len(t) for t in targets], dtype=np.int64) + ended)
    is_eos = np.zeros(offsets[-1], dtype=bool)
    is_eos[offsets[1:][ended] - 1] = True
    ids = np.full(offsets[-1], eos_id, dtype=np.int32)
    ids[~is_eos] = np.concatenate([np.empty(0, np.int32), *targets])
    return ids, offsets, is_eos


def _joined_soft(
    soft: Sequence[Soft | None], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    if len(soft) != len(offsets) - 1:
        raise ValueError(f"{len(soft)} soft targets for {len(offsets) - 1} sequences")
    width = max((part[0].shape[1] for part in soft if part is not None), default=1)
    ids = np.full((offsets[-1], width), -1, dtype=np.int32)
    logprob = np.full((offsets[-1], width), -np.inf, dtype=np.float32)
    for s, part in enumerate(soft):
        if part is None:
            continue
        first, last = int(offsets[s]), int(offsets[s + 1])
        if part[0].shape != part[1].shape or len(part[0]) != last - first:
            raise ValueError(f"soft targets of sequence {s} are {part[0].shape}; expected ({last - first}, k)")
        ids[first:last, : part[0].shape[1]] = part[0]
        logprob[first:last, : part[1].shape[1]] = part[1]
    return ids, logprob

"""Batches of similar length, bounded in padded tokens and in logits, halved where memory runs out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ensemw2s.errors import RunFailedError
from ensemw2s.models.loading.device import free_memory, is_out_of_memory

Ints = NDArray[np.integer[Any]]

#: Most logits of one batch, all models together (2**27 float32 are 512 MiB).
MAX_LOGITS = 2**27


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the items. An item is one sequence, or one prompt with several continuations."""

    prefix: Ints
    """int ``[n]``: tokens that are padded on the left to the longest of the batch."""
    suffix: Ints
    """int ``[n]``: tokens of the longest continuation, padded on the right to the longest of the batch."""
    sequences: Ints
    """int ``[n]``: number of continuations, each with its copy of the prefix in the cache."""
    rows: Ints
    """int ``[n]``: positions whose logits are computed."""


def plan_batches(
    sizes: Sizes,
    items: Ints,
    max_tokens: int,
    max_rows: int,
    *,
    max_padding: int | None = None,
    max_pairs: int | None = None,
) -> list[NDArray[np.int64]]:
    """Group items of similar length, the longest first. An item alone in its batch may exceed any limit.

    Args:
        sizes: the costs of all items.
        items: which items to plan.
        max_tokens: padded tokens in a batch, ``Σ sequences · (longest prefix + longest suffix)``.
        max_rows: logit rows in a batch.
        max_padding: padding in a batch, in tokens: where more would come, a new batch is the cheaper one.
        max_pairs: pairs of positions in a batch, ``Σ sequences · (longest prefix + longest suffix)²``.

    Returns:
        Arrays of item numbers; every item is in one of them.
    """
    order = np.asarray(items, dtype=np.int64)
    order = order[np.lexsort((order, -sizes.suffix[order], -sizes.prefix[order]))]
    limits = (max_tokens, max_rows, max_padding, max_pairs)
    batches: list[NDArray[np.int64]] = []
    start, batch = 0, _Batch()
    for place, item in enumerate(order):
        larger = batch.with_item(sizes, item)
        if place > start and larger.exceeds(*limits):
            batches.append(order[start:place])
            start, larger = place, _Batch().with_item(sizes, item)
        batch = larger
    if len(order):
        batches.append(order[start:])
    return batches


@dataclass(frozen=True, slots=True)
class _Batch:
    """Sums over the items of a batch."""

    sequences: int = 0
    rows: int = 0
    prefix: int = 0
    suffix: int = 0
    tokens: int = 0

    def with_item(self, sizes: Sizes, item: np.integer[Any]) -> _Batch:
        prefix, suffix, sequences = int(sizes.prefix[item]), int(sizes.suffix[item]), int(sizes.sequences[item])
        return _Batch(
            self.sequences + sequences,
            self.rows + int(sizes.rows[item]),
            max(self.prefix, prefix),
            max(self.suffix, suffix),
            self.tokens + sequences * (prefix + suffix),
        )

    def exceeds(self, max_tokens: int, max_rows: int, max_padding: int | None, max_pairs: int | None) -> bool:
        length = self.prefix + self.suffix
        padded = self.sequences * length
        return (
            padded > max_tokens
            or self.rows > max_rows
            or (max_padding is not None and padded - self.tokens > max_padding)
            or (max_pairs is not None and padded * length > max_pairs)
        )


def run_batches(
    plan: Callable[[Ints, float], list[NDArray[np.int64]]],
    items: Ints,
    work: Callable[[NDArray[np.int64]], None],
    *,
    device: torch.device,
    name: str,
) -> None:
    """Work through all items batch by batch; where a batch runs out of memory, this and all later ones are halved.

    ``plan`` gives the batches of items for a scale in (0, 1] of the configured limits; ``work`` handles one batch, and
    may be called again with parts of a batch that failed; ``name`` says what is being done, for the error.

    Raises:
        RunFailedError: a single item does not fit into memory.
    """
    scale = 1.0
    queue = deque(plan(np.asarray(items), scale))
    while queue:
        batch = queue.popleft()
        if _fits(work, batch):
            continue
        free_memory(device)
        if len(batch) == 1:
            raise RunFailedError(
                f"{name}: one sequence does not fit into the memory of {device}.",
                hint="Use a smaller model, dtype: bfloat16, or shorter examples.",
            )
        rest = np.concatenate([batch, *queue])
        while True:
            scale /= 2
            queue = deque(plan(rest, scale))
            if max(len(part) for part in queue) < len(batch):
                break


def _fits(work: Callable[[NDArray[np.int64]], None], batch: NDArray[np.int64]) -> bool:
    # Handled outside the except block, where the traceback no longer holds the batch's tensors.
    try:
        work(batch)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True

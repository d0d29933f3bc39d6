"""Selection of labels in a run: its groups, and what it leaves of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ensemw2s.errors import ConfigError, shortened
from ensemw2s.evaluation.results import GroupCoverage
from ensemw2s.labelling.labels import Labels
from ensemw2s.pipeline.context import Context
from ensemw2s.student.filters import confidence_weights, lost_groups
from ensemw2s.student.groups import Groups, annotated, clusters

_NAMED = 3


def pool_groups(ctx: Context) -> Groups | None:
    """Groups of the hard pool's questions, where labels are selected or weighted: those of ``student.keep_within``.

    Without that, those that coverage is told by: the annotation if there is one, else clusters of prompts. Kept.
    """
    student, pool = ctx.config.student, ctx.splits.hard_pool
    if ctx.groups is None and student.selects:
        ctx.groups = annotated(pool)
        if student.keep_within == "prompts" or (student.keep_within is None and len(ctx.groups) == 1):
            ctx.groups = clusters(pool, ctx.seed)
    return ctx.groups


def loss_weights(ctx: Context, labels: Labels, kept: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Weights of the ``kept`` labels' losses, float64 [kept]; None where all weigh the same."""
    student, groups = ctx.config.student, pool_groups(ctx)
    if student.weights == "none":
        return None
    return confidence_weights(
        labels.confidence[kept], None if groups is None or student.keep_within is None else groups.of[kept]
    )


def require_groups(ctx: Context) -> None:
    """Check that groups of the data are there if they are asked for.

    Raises:
        ConfigError: no question of the pool has one.
    """
    if ctx.config.student.keep_within == "group" and not any(example.group for example in ctx.splits.hard_pool):
        raise ConfigError(
            "student.keep_within: group needs questions with a group, and none of the hard pool has one.",
            hint="Name their column in data.source.columns.group, or use student.keep_within: prompts.",
        )


def coverage(
    right: NDArray[np.bool_], kept: NDArray[np.int64], groups: Groups, weights: NDArray[np.float64] | None
) -> list[GroupCoverage]:
    """What a selection keeps of every group, in the order of their names.

    Args:
        right: bool [n], which labels are true.
        kept: the numbers of the labels that are kept.
        groups: of all.
        weights: float64 [kept], or None for 1.
    """
    found = []
    for group, name in enumerate(groups.names):
        own, both = groups.of == group, groups.of[kept] == group
        found.append(
            GroupCoverage(
                group=name,
                n=int(own.sum()),
                kept=int(both.sum()),
                accuracy=float(right[own].mean()),
                kept_accuracy=float(right[kept][both].mean()) if both.any() else None,
                weight=0.0 if not both.any() else 1.0 if weights is None else float(weights[both].mean()),
            )
        )
    return found


def warn_of_lost_groups(ctx: Context, labels: Labels, kept: NDArray[np.int64]) -> None:
    """Warn where a threshold, a plain share or plain weights leave next to nothing of a group."""
    student, groups, weights = ctx.config.student, pool_groups(ctx), loss_weights(ctx, labels, kept)
    if groups is None or student.keep_within is not None:
        return
    each = np.zeros(len(labels))
    each[kept] = 1.0 if weights is None else weights
    if not (lost := lost_groups(each, groups)):
        return
    sizes, left = np.bincount(groups.of), np.bincount(groups.of[kept], minlength=len(groups))
    total, like = np.bincount(groups.of, each), "like " if groups.kind == "prompts" else ""
    named = [
        f"{like}{shortened(groups.names[g], 40) or '(no group)'!r} {left[g]} of {sizes[g]}"
        + ("" if weights is None else f" with weight {total[g] / max(left[g], 1):.2f}")
        for g in lost[:_NAMED]
    ]
    more = ", …" if len(lost) > _NAMED else ""
    text = (
        f"The selection keeps {100 * kept.size / len(labels):.0f} % of the labels of {labels.teacher}, but less than "
        f"half as much of {len(lost)} of {len(groups)} groups of questions ({', '.join(named)}{more}). "
        "student.keep_fraction with student.keep_within keeps the same share of each."
        if weights is None
        else f"By confidence, the labels of {labels.teacher} in {len(lost)} of {len(groups)} groups of questions weigh "
        f"less than half of the mean ({', '.join(named)}{more}). student.keep_within weights within groups."
    )
    ctx.sink.event("message", level="warning", text=text)

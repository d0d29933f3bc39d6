"""Selection of labels in a run: its groups, and what it leaves of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ensemw2s.errors import ConfigError, shortened
from ensemw2s.evaluation.results import GroupCoverage
from ensemw2s.labelling.labels import Labels
from ensemw2s.pipeline.context import Context
from ensemw2s.student.filters import lost_groups
from ensemw2s.student.groups import Groups, annotated, clusters

_NAMED = 3


def pool_groups(ctx: Context) -> Groups | None:
    """Groups of the hard pool's questions, where labels are selected: those of ``student.keep_within``.

    Without that, those that coverage is told by: the annotation if there is one, else clusters of prompts.
    """
    student, pool = ctx.config.student, ctx.splits.hard_pool
    if not student.selects:
        return None
    if student.keep_within != "prompts":
        groups = annotated(pool)
        if student.keep_within == "group" or len(groups) > 1:
            return groups
    return clusters(pool, ctx.seed)


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


def coverage(labels: NDArray[np.bool_], kept: NDArray[np.int64], groups: Groups) -> list[GroupCoverage]:
    """What a selection keeps of every group, in the order of their names; ``labels`` bool [n]: which are right."""
    chosen = np.zeros(labels.size, dtype=np.bool_)
    chosen[kept] = True
    found = []
    for group, name in enumerate(groups.names):
        own = groups.of == group
        both = own & chosen
        found.append(
            GroupCoverage(
                group=name,
                n=int(own.sum()),
                kept=int(both.sum()),
                accuracy=float(labels[own].mean()),
                kept_accuracy=float(labels[both].mean()) if both.any() else None,
            )
        )
    return found


def warn_of_lost_groups(ctx: Context, labels: Labels, kept: NDArray[np.int64], groups: Groups | None) -> None:
    """Warn where a threshold or a plain share takes nearly all labels of a group away."""
    student = ctx.config.student
    if groups is None or student.keep_within is not None or not (lost := lost_groups(kept, groups)):
        return
    sizes, left = np.bincount(groups.of), np.bincount(groups.of[kept], minlength=len(groups))
    like = "like " if groups.kind == "prompts" else ""
    named = [f"{like}{shortened(groups.names[g], 40)!r} {left[g]} of {sizes[g]}" for g in lost[:_NAMED]]
    more = ", …" if len(lost) > _NAMED else ""
    text = (
        f"The selection keeps {100 * kept.size / len(labels):.0f} % of the labels of {labels.teacher}, but less than "
        f"half as much of {len(lost)} of {len(groups)} groups of questions ({', '.join(named)}{more}). "
        "student.keep_fraction with student.keep_within keeps the same share of each."
    )
    ctx.sink.event("message", level="warning", text=text)

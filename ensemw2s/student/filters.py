"""Selection of pseudo-labels by confidence and agreement, of all or within groups, and what it leaves of each group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.method import StudentConfig
from ensemw2s.errors import RunFailedError
from ensemw2s.labelling.labels import Labels
from ensemw2s.student.groups import Groups

#: Of a group that should keep fewer labels than this, nothing is said: chance empties it.
_JUDGED = 2.0


def select_labels(labels: Labels, config: StudentConfig, groups: Groups | None = None) -> NDArray[np.int64]:
    """Indices of the labels that pass the filters, in their original order.

    ``keep_fraction`` is a share of all labels, filled with the most confident of those that pass the thresholds (ties:
    the earlier one), so that students of different teachers train on equally many. With ``keep_within`` it is that
    share of each of the ``groups``, to within one label, and as many in all.

    Raises:
        RunFailedError: no label passes.
    """
    n = len(labels)
    passes = np.ones(n, dtype=np.bool_)
    if config.min_confidence is not None:
        passes &= labels.confidence >= config.min_confidence
    if config.min_agreement is not None:
        passes &= labels.agreement >= config.min_agreement - 1e-9
    usable = np.flatnonzero(passes & np.array([bool(text.strip()) for text in labels.texts], dtype=np.bool_))
    order = usable[np.argsort(-labels.confidence[usable], kind="stable")]
    if config.keep_within is not None and groups is not None:
        usable = np.sort(_first_of_each(order, labels.confidence, groups, config.keep_fraction))
    else:
        usable = np.sort(order[: max(1, round(config.keep_fraction * n))])
    if usable.size == 0:
        raise RunFailedError(
            f"None of the {n} labels of teacher {labels.teacher!r} passes the filters "
            f"(min_confidence {config.min_confidence}, min_agreement {config.min_agreement}).",
            hint="Lower student.min_confidence or student.min_agreement; `ew2s label` shows both for every label.",
        )
    return usable


def _first_of_each(
    order: NDArray[np.int64], confidence: NDArray[np.float64], groups: Groups, fraction: float
) -> NDArray[np.int64]:
    """The first of every group in ``order``: ``fraction`` of its size rounded down, or up for those furthest below.

    As many are rounded up as the share of all needs (largest remainders; ties: the more confident next label).
    """
    exact = np.round(fraction * np.bincount(groups.of, minlength=len(groups)), 9)
    quota = np.floor(exact).astype(np.int64)
    ranked = [order[groups.of[order] == group] for group in range(len(groups))]
    following = [confidence[own[q]] if q < own.size else -1.0 for own, q in zip(ranked, quota, strict=True)]
    first = np.lexsort((-np.array(following), np.round(quota - exact, 6)))
    quota[first[: max(1, round(fraction * groups.of.size)) - quota.sum()]] += 1
    return np.concatenate([own[:q] for own, q in zip(ranked, quota, strict=True)])


def lost_groups(weights: NDArray[np.float64], groups: Groups) -> list[int]:
    """Groups whose labels weigh less than half of what theirs would be by their number, the lightest first.

    Args:
        weights: float64 [n], of every label's loss; 0 for one that is not kept.
        groups: of all labels.
    """
    sizes = np.bincount(groups.of, minlength=len(groups))
    left = np.bincount(groups.of, weights, minlength=len(groups))
    expected = sizes * weights.mean()
    lost = np.flatnonzero((left < 0.5 * expected) & (expected >= _JUDGED))
    found: list[int] = lost[np.argsort(left[lost] / expected[lost], kind="stable")].tolist()
    return found


def confidence_weights(confidence: NDArray[np.float64], group: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """``w_i = c_i / mean(c)``: weights of mean 1, float64 [n]; 1 where no label has any confidence.

    With ``group``, int64 [n], the mean is that of the label's group.
    """
    of = np.zeros(confidence.size, dtype=np.int64) if group is None else group
    mean = (np.bincount(of, confidence) / np.maximum(np.bincount(of), 1))[of]
    return np.where(mean > 0.0, confidence / np.where(mean > 0.0, mean, 1.0), 1.0)

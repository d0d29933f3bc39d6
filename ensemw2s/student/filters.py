"""Filters on pseudo-labels by confidence and agreement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.method import StudentConfig
from ensemw2s.errors import RunFailedError
from ensemw2s.labelling.labels import Labels


def select_labels(labels: Labels, config: StudentConfig) -> NDArray[np.int64]:
    """Indices of the labels that pass the filters, in their original order.

    ``keep_fraction`` is a share of all labels, filled with the most confident of those that pass the thresholds (ties:
    the earlier one), so that students of different teachers train on equally many.

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
    quota = max(1, round(config.keep_fraction * n))
    if usable.size > quota:
        order = np.argsort(-labels.confidence[usable], kind="stable")
        usable = np.sort(usable[order[:quota]])
    if usable.size == 0:
        raise RunFailedError(
            f"None of the {n} labels of teacher {labels.teacher!r} passes the filters "
            f"(min_confidence {config.min_confidence}, min_agreement {config.min_agreement}).",
            hint="Lower student.min_confidence or student.min_agreement; `ew2s label` shows both for every label.",
        )
    return usable

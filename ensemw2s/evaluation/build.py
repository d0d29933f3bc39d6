"""The planned comparisons of one run, from who had which example right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy.typing as npt

from ensemw2s.arms import CEILING, TEST_SPLITS, WEAK, planned_pairs, students
from ensemw2s.evaluation.comparisons import mcnemar_exact, paired_difference
from ensemw2s.evaluation.pgr import PGR, pgr_fieller
from ensemw2s.evaluation.results import PairResult

#: arm → split → right or wrong for every example, in the split's order.
Correct = Mapping[str, Mapping[str, npt.ArrayLike]]


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The planned differences and the PGR of every student."""

    differences: list[PairResult]
    pgr: dict[str, dict[str, PGR]]


def build_comparisons(correct: Correct, *, level: float = 0.95, splits: Sequence[str] = TEST_SPLITS) -> Comparisons:
    """All planned comparisons between the arms that exist, on the test splits.

    W is the plain fine-tune on all training data (``plain``) for every student. The arms of a split hold the same
    examples in the same order.

    Raises:
        ValueError: two arms have different numbers of examples in a split, or a split has no examples.
    """
    differences = [
        compare(correct, a, b, split, level=level)
        for a, b in planned_pairs(correct)
        for split in splits
        if split in correct[a] and split in correct[b]
    ]
    pgr: dict[str, dict[str, PGR]] = {}
    if WEAK in correct and CEILING in correct:
        for student in students(correct):
            weak, own, ceiling = correct[WEAK], correct[student], correct[CEILING]
            shared = [s for s in splits if s in weak and s in own and s in ceiling]
            if shared:
                pgr[student] = {s: pgr_fieller(weak[s], own[s], ceiling[s], level) for s in shared}
    return Comparisons(differences, pgr)


def compare(correct: Correct, a: str, b: str, split: str, *, level: float = 0.95) -> PairResult:
    """One comparison "a − b" on one split, paired over examples.

    Raises:
        ValueError: the arms have different numbers of examples; the message names them.
    """
    first, second = correct[a][split], correct[b][split]
    try:
        difference, test = paired_difference(first, second, level), mcnemar_exact(first, second)
    except ValueError as error:
        raise ValueError(f"comparison {a} − {b} on {split}: {error}") from error
    found = {name: getattr(difference, name) for name in ("estimate", "low", "high", "se", "n")}
    return PairResult(a=a, b=b, split=split, **found, b10=test.b10, b01=test.b01, mcnemar_p=test.p)

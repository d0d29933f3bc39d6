"""Names of the arms and the comparisons that every run plans before it sees a result."""

from __future__ import annotations

from collections.abc import Iterable

#: The in-distribution (held-out easy) and the out-of-distribution (held-out hard) test.
TEST_SPLITS = ("test", "hard_test")

#: W of every PGR, and C. Results of earlier versions say ``single``, a bootstrap resample: ``Results.weak``.
WEAK, CEILING = "plain", "ceiling"

#: The boosted ensemble against everything that it should beat. ``*_equal_rounds`` are the first T members of an
#: unboosted ensemble, with the T of the boosted one; without the suffix each ensemble has its own best T.
ENSEMBLE_PAIRS = tuple(
    ("ensemble", other)
    for other in (
        "plain",
        "single",
        "bagging",
        "bagging_equal_rounds",
        "seeds",
        "seeds_equal_rounds",
        "ensemble_equal",
        "plain_long",
    )
)


def claims(weak: str = WEAK) -> tuple[tuple[str, str], ...]:
    """The claims about methods that are tested over seeds, on ID and OOD, with Holm's adjustment."""
    return (("ensemble", weak), ("ensemble", "bagging"), ("student_ensemble", f"student_{weak}"))


def students(arms: Iterable[str]) -> list[str]:
    """The students among the arms, in a fixed order: from a single model first, from the boosted ensemble last."""
    order = {"student_plain": 0, "student_single": 1, "student_bagging": 2, "student_seeds": 3, "student_ensemble": 4}
    found = [arm for arm in arms if arm.startswith("student_")]
    return sorted(found, key=lambda arm: (order.get(arm, 9), arm))


def planned_pairs(arms: Iterable[str], weak: str = WEAK) -> list[tuple[str, str]]:
    """The planned comparisons ``(a, b)``, read "a − b", between the arms that exist.

    The boosted ensemble against the other weak arms; each student against the student of W; then for each student S − W
    and C − S; and C − W.
    """
    have = list(arms)
    pairs = [pair for pair in ENSEMBLE_PAIRS if set(pair) <= set(have)]
    learners = students(have)
    taught = f"student_{weak}"
    if taught in learners:
        pairs += [(student, taught) for student in learners if student != taught]
    if weak in have:
        pairs += [(student, weak) for student in learners]
    if CEILING in have:
        pairs += [(CEILING, student) for student in learners]
        pairs += [(CEILING, weak)] if weak in have else []
    return pairs

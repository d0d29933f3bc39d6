"""Names of the arms and the comparisons that every run plans before it sees a result."""

from __future__ import annotations

from collections.abc import Iterable

#: The in-distribution (held-out easy) and the out-of-distribution (held-out hard) test.
TEST_SPLITS = ("test", "hard_test")

#: W of every PGR, and C.
WEAK, CEILING = "single", "ceiling"

#: The boosted ensemble against everything that it should beat. ``*_equal_rounds`` are the first T members of an
#: unboosted ensemble, with the T of the boosted one; without the suffix each ensemble has its own best T.
ENSEMBLE_PAIRS = tuple(
    ("ensemble", other)
    for other in (
        "single",
        "bagging",
        "bagging_equal_rounds",
        "seeds",
        "seeds_equal_rounds",
        "ensemble_equal",
        "plain",
        "plain_long",
    )
)

#: The claims about methods that are tested over seeds, on ID and OOD, with Holm's adjustment.
CLAIMS = (("ensemble", "single"), ("ensemble", "bagging"), ("student_ensemble", "student_single"))


def students(arms: Iterable[str]) -> list[str]:
    """The students among the arms, in a fixed order: from the single expert first, from the boosted ensemble last."""
    order = {"student_single": 0, "student_plain": 1, "student_bagging": 2, "student_seeds": 3, "student_ensemble": 4}
    found = [arm for arm in arms if arm.startswith("student_")]
    return sorted(found, key=lambda arm: (order.get(arm, 9), arm))


def planned_pairs(arms: Iterable[str]) -> list[tuple[str, str]]:
    """The planned comparisons ``(a, b)``, read "a − b", between the arms that exist.

    The boosted ensemble against the other weak arms; each student against the student of the single expert; then for
    each student S − W and C − S; and C − W.
    """
    have = list(arms)
    pairs = [pair for pair in ENSEMBLE_PAIRS if set(pair) <= set(have)]
    learners = students(have)
    if "student_single" in learners:
        pairs += [(student, "student_single") for student in learners if student != "student_single"]
    if WEAK in have:
        pairs += [(student, WEAK) for student in learners]
    if CEILING in have:
        pairs += [(CEILING, student) for student in learners]
        pairs += [(CEILING, WEAK)] if WEAK in have else []
    return pairs

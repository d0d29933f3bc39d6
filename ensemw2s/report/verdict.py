"""The verdict in sentences: comparisons and PGR, claiming no more than the intervals show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ensemw2s.arms import BOOSTING, CEILING, ENSEMBLE, SINGLE, TEST_SPLITS, claims, student_of, students, teacher_of
from ensemw2s.evaluation.over_seeds import AggregateResults, SeedComparison
from ensemw2s.evaluation.results import PairResult, Results
from ensemw2s.report import wording as w


def verdict_sentences(results: Results) -> list[str]:
    """Verdict on one run, in sentences.

    "Beats" needs both the paired interval and McNemar's exact test on its side; PGR is told with its interval, or with
    the reason why it is undefined; and one seed is never taken for a statement about methods.
    """
    sentences = []
    if results.selected_rounds.get(BOOSTING) == 1:
        first = SINGLE if SINGLE in results.arms else results.weak
        sentences.append(f"Validation chose a single round, so the boosted ensemble is {w.arm_phrase(first)}.")
    pairs = _in_claims(results)
    sentences += _claims([(pair, is_clear(pair, results.level), w.p_phrase(pair.mcnemar_p)) for pair in pairs])
    sentences += _pgr_sentences(results)
    if CEILING not in results.arms and students(results.arms):
        sentences.append("Without a ceiling there is no PGR.")
    if not any(arm in results.arms for arm in (ENSEMBLE, *students(results.arms))):
        return ["This run has no comparison: it needs at least a boosted ensemble."]
    sentences.append(
        f"This is one seed ({results.seed}): the tests speak about these models, not about the methods; "
        "a claim about methods needs several seeds."
    )
    return sentences


def is_clear(pair: PairResult, level: float) -> bool:
    """Whether a difference on one seed is clear: interval and exact test agree."""
    return (pair.low > 0.0 or pair.high < 0.0) and pair.mcnemar_p < 1.0 - level


def _claims(told: Sequence[tuple[PairResult | SeedComparison, bool, str]]) -> list[str]:
    """A sentence for each first arm and split, OOD first: what it beats, and what not.

    ``told`` are comparisons, whether each is clear, and its test in words.
    """
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for found, clear, test in told:
        numbers = difference_phrase(found.estimate, found.low, found.high)
        verbs = groups.setdefault((found.a, found.split), {verb: [] for verb in _VERBS})
        verbs[_verb(found.estimate, clear)].append(f"{w.arm_phrase(found.b)} ({numbers}, {test})")
    sentences = []
    for (arm, split), verbs in groups.items():
        parts = "; it ".join(f"{verb} {_join(others)}" for verb, others in verbs.items() if others)
        sentences.append(f"On {w.split_label(split)} {w.arm_phrase(arm)} {parts}.")
    return sentences


_VERBS = ("beats", "does not clearly beat", "does not beat", "is worse than")


def _verb(estimate: float, clear: bool) -> str:
    if abs(estimate) < 1e-9:
        return "does not beat"
    if clear:
        return "beats" if estimate > 0 else "is worse than"
    return "does not clearly beat" if estimate > 0 else "does not beat"


def _in_claims(results: Results | AggregateResults) -> list[Any]:
    """The comparisons that are claims: of the ensemble, then of its student, each on OOD first."""
    order = [(a, split) for a in dict.fromkeys(a for a, _ in claims(results.weak)) for split in reversed(TEST_SPLITS)]
    pairs = [(a, b, split) for a, split in order for first, b in claims(results.weak) if first == a]
    return [found for a, b, split in pairs if (found := results.difference(a, b, split)) is not None]


def difference_phrase(estimate: float, low: float | None, high: float | None) -> str:
    """``+4.3 points, interval +0.2 to +8.4``; with more decimals where a difference would be shown as 0."""
    digits = w.point_digits(estimate)
    text = f"{w.points(estimate, digits)} points"
    if low is None or high is None:
        return text
    return f"{text}, interval {w.points(low, digits)} to {w.points(high, digits)}"


def _pgr_sentences(results: Results | AggregateResults) -> list[str]:
    """PGR on OOD for every student, or why there is none."""
    pgr, weak = results.pgr, w.arm_phrase(results.weak)
    on_ood = {name: pgr[name]["hard_test"] for name in students(results.arms) if "hard_test" in pgr.get(name, {})}
    if not on_ood:
        return []
    first = next(iter(on_ood.values()))
    if all(found.value is None for found in on_ood.values()):
        return [f"PGR on OOD is undefined: {first.reason}."]
    parts = []
    for name, found in on_ood.items():
        teacher = w.arm_phrase(teacher_of(name) or name)
        if found.value is None or found.low is None or found.high is None:
            parts.append(f"undefined for the student from {teacher}")
        else:
            span = f"{w.number(found.low)} to {w.number(found.high)}"
            parts.append(f"{w.number(found.value)} ({span}) for the student from {teacher}")
    sentences = [f"Of the gap between {weak} and the ceiling on OOD, PGR is {_join(parts)}."]
    best = on_ood.get(student_of(ENSEMBLE))
    if best is not None and best.value is not None and best.low is not None and best.high is not None:
        if best.high < 0.0:
            sentences.append(f"The student from the boosted ensemble falls behind {weak}.")
        elif best.low <= 0.0:
            sentences.append(f"The student from the boosted ensemble is not clearly above {weak}.")
        elif best.low > 1.0:
            sentences.append("The student from the boosted ensemble is above the ceiling.")
    return sentences


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def seed_verdict_sentences(results: AggregateResults) -> list[str]:
    """Verdict on several seeds, in sentences: the paired t-test decides, after Holm's adjustment."""
    tested = _in_claims(results)
    clear = [found.p_holm is not None and found.p_holm < 1.0 - results.level for found in tested]
    sentences = _claims(list(zip(tested, clear, map(_seed_test, tested), strict=True)))
    sentences += _pgr_sentences(results)
    sentences.append(results.caution)
    return sentences


def _seed_test(found: SeedComparison) -> str:
    test = "no test, nothing varies" if found.p_holm is None else f"{w.p_phrase(found.p_holm)} after Holm"
    return f"ahead in {sum(d > 0 for d in found.differences)} of {len(found.differences)} seeds, {test}"

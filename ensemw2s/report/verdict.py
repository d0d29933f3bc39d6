"""What the numbers say, in words that follow them: no gain is claimed that the intervals do not show."""

from __future__ import annotations

from ensemw2s.arms import CEILING, ENSEMBLE, TEST_SPLITS, claims, student_of, students, teacher_of
from ensemw2s.evaluation.over_seeds import AggregateResults, SeedComparison
from ensemw2s.evaluation.results import PairResult, Results
from ensemw2s.report import wording as w


def verdict(results: Results) -> str:
    """A short paragraph about one run: :func:`verdict_sentences` as one text."""
    return " ".join(verdict_sentences(results))


def verdict_sentences(results: Results) -> list[str]:
    """What one run shows, sentence by sentence.

    "Beats" needs both the paired interval and McNemar's exact test on its side; PGR is told with its interval, or with
    the reason why it is undefined; and one seed is never taken for a statement about methods.
    """
    sentences = []
    if results.selected_rounds.get("boosting") == 1:
        first = "single" if "single" in results.arms else results.weak
        sentences.append(f"Validation chose a single round, so the boosted ensemble is {w.arm_phrase(first)}.")
    for a, b in claims(results.weak):
        pairs = [results.difference(a, b, split) for split in reversed(TEST_SPLITS)]
        sentences += _pair_sentences([pair for pair in pairs if pair is not None], results.level)
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


def _pair_sentences(pairs: list[PairResult], level: float) -> list[str]:
    """One sentence for a comparison: OOD first, then ID."""
    if not pairs:
        return []
    a, b = w.arm_phrase(pairs[0].a), w.arm_phrase(pairs[0].b)
    clauses = []
    for place, pair in enumerate(pairs):
        verb, standing = _judge(pair.estimate, is_clear(pair, level))
        numbers = f"{difference_phrase(pair.estimate, pair.low, pair.high)}, {w.p_phrase(pair.mcnemar_p)}"
        subject = f"{a} {verb} {b}" if place == 0 else f"it is {standing}"
        clauses.append(f"on {w.split_label(pair.split)} {subject} ({numbers})")
    text = "; ".join(clauses)
    return [text[0].upper() + text[1:] + "."]


def _judge(estimate: float, clear: bool) -> tuple[str, str]:
    """A verb, and how the second split of the same comparison is told."""
    if abs(estimate) < 1e-9:
        return "does not beat", "level"
    if clear:
        return ("beats", "clearly ahead") if estimate > 0 else ("is worse than", "clearly behind")
    return ("does not clearly beat", "ahead, but not clearly") if estimate > 0 else ("does not beat", "behind")


def difference_phrase(estimate: float, low: float | None, high: float | None) -> str:
    """``+4.3 points, 0.2 to 8.4``."""
    text = f"{w.points(estimate)} points"
    if low is None or high is None:
        return text
    return f"{text}, interval {w.points(low)} to {w.points(high)}"


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


def seed_verdict(results: AggregateResults) -> str:
    """A short paragraph about several seeds: :func:`seed_verdict_sentences` as one text."""
    return " ".join(seed_verdict_sentences(results))


def seed_verdict_sentences(results: AggregateResults) -> list[str]:
    """What several seeds show, sentence by sentence: the paired t-test decides, after Holm's adjustment."""
    sentences = []
    for a, b in claims(results.weak):
        found = [results.comparison(a, b, split) for split in reversed(TEST_SPLITS)]
        sentences += _seed_sentences([c for c in found if c is not None], results.level)
    sentences += _pgr_sentences(results)
    sentences.append(results.caution)
    return sentences


def _seed_sentences(found: list[SeedComparison], level: float) -> list[str]:
    if not found:
        return []
    a, b = w.arm_phrase(found[0].a), w.arm_phrase(found[0].b)
    clauses = []
    for place, c in enumerate(found):
        clear = c.p_holm is not None and c.p_holm < 1.0 - level
        verb, standing = _judge(c.mean, clear)
        test = f"{w.p_phrase(c.p_holm)} after Holm" if c.p_holm is not None else "no test, nothing varies"
        ahead = sum(d > 0 for d in c.differences)
        numbers = f"{difference_phrase(c.mean, c.low, c.high)}, ahead in {ahead} of {len(c.differences)} seeds, {test}"
        subject = f"{a} {verb} {b}" if place == 0 else f"it is {standing}"
        clauses.append(f"on {w.split_label(c.split)} {subject} ({numbers})")
    text = "; ".join(clauses)
    return [text[0].upper() + text[1:] + "."]

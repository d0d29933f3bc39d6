"""Findings beyond accuracy and PGR, in sentences: the gap to the ceiling, errors, calibration, cost."""

from __future__ import annotations

from ensemw2s.arms import BOOSTING, CEILING, ENSEMBLE, is_student, labels_of, student_of
from ensemw2s.evaluation.results import Results
from ensemw2s.report import wording as w
from ensemw2s.report.verdict import is_clear

_STUDENT = student_of(ENSEMBLE)
_OOD = "hard_test"


def findings(results: Results) -> list[str]:
    """One sentence a finding, for the parts that a run has; every number in them stands in a table too."""
    parts = (_to_the_ceiling, _corrected, _shared, _calibrated, _cost)
    return [sentence for part in parts if (sentence := part(results)) is not None]


def _student(results: Results) -> str | None:
    """The student to speak of: from the boosted ensemble, or the only one there is."""
    names = [arm for arm in results.arms if is_student(arm)]
    return _STUDENT if _STUDENT in names else names[0] if names else None


def _to_the_ceiling(results: Results) -> str | None:
    student = _student(results)
    pair = None if student is None else results.difference(CEILING, student, _OOD)
    if student is None or pair is None:
        return None
    digits = w.point_digits(pair.estimate)
    name, span = w.arm_phrase(student), f"interval {w.points(pair.low, digits)} to {w.points(pair.high, digits)}"
    if not is_clear(pair, results.level):
        points = w.points(pair.estimate, digits)
        return f"On OOD {name} is not clearly apart from the ceiling ({points} points to it, {span})."
    place = "below" if pair.estimate > 0 else "above"
    return f"On OOD {name} is {w.number(100 * abs(pair.estimate), digits)} points {place} the ceiling ({span})."


def _corrected(results: Results) -> str | None:
    student = _student(results)
    for found in results.disagreements:
        if found.student != student or found.split != _OOD:
            continue
        if found.corrected_share is None or found.copied_share is None:
            return None
        corrected, copied = found.corrected_share, found.copied_share
        text = (
            f"Of {corrected.of} OOD questions that its teacher has wrong it has {corrected.count} right "
            f"({w.percent(corrected.share)} %) and repeats the wrong answer of {copied.count} "
            f"({w.percent(copied.share)} %)"
        )
        spoiled = found.spoiled_share
        if spoiled is None:
            return text + "."
        return f"{text}; of {spoiled.of} that the teacher has right it has {spoiled.count} wrong."
    return None


def _shared(results: Results) -> str | None:
    for found in results.shared_errors:
        if (found.group, found.split) != (BOOSTING, _OOD) or found.same_wrong is None:
            continue
        text = (
            f"Where two boosted experts are wrong on OOD, they give the same answer in {w.percent(found.same_wrong)} %"
        )
        if found.same_wrong_by_chance is None or found.excess_low is None or found.excess_high is None:
            return text + "."
        chance = f"{w.percent(found.same_wrong_by_chance)} % by chance"
        if found.excess_low > 0:
            return f"{text}, more often than the {chance}: they share part of their errors."
        if found.excess_high < 0:
            return f"{text}, less often than the {chance}."
        return f"{text}, which is not clearly different from the {chance}."
    return None


def _calibrated(results: Results) -> str | None:
    teacher = ENSEMBLE if ENSEMBLE in results.labels else next(iter(results.labels), None)
    here = [found for found in results.reliability if found.name == labels_of(teacher or "")]
    if not here:
        return None
    # the share of the options is a probability to be right; the token confidence is not meant as one
    found = next((one for one in here if one.measure == "option"), here[0])
    sure, right = w.percent(found.mean_confidence), w.percent(found.accuracy)
    kind = "share of the options" if found.measure == "option" else "confidence"
    who = w.arm_phrase(teacher or "")
    text = f"The labels of {who} have a mean {kind} of {sure} % and are right in {right} % (calibration error "
    text += f"{w.percent(found.ece)}, interval {w.percent(found.low)} to {w.percent(found.high)})"
    if not found.is_off:
        return text + ": no miscalibration shows."
    if abs(found.mean_confidence - found.accuracy) < 0.5 * found.ece:
        return text + ": they are miscalibrated, in both directions."
    return text + (": overconfident." if found.mean_confidence > found.accuracy else ": underconfident.")


def _cost(results: Results) -> str | None:
    flops = sum(cost.flops for cost in results.costs.values())
    if not flops:
        return None
    text = f"The run took {w.large(flops, 'FLOP')} in {w.duration(sum(results.times.values()))}"
    weak, ensemble = results.arm_costs.get(results.weak), results.arm_costs.get(ENSEMBLE)
    if weak is None or ensemble is None or not weak.total:
        return text + "."
    times = f"{ensemble.total / weak.total:.1f}"
    return f"{text}; the boosted ensemble alone costs {times} times what {w.arm_phrase(results.weak)} does."

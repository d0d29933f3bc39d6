"""Tables of what a run shows beyond accuracy: corrected and copied errors, shared errors, calibration."""

from __future__ import annotations

from ensemw2s.arms import BOOSTING, TEST_SPLITS, arm_word, is_boosted
from ensemw2s.evaluation.disagreement import Share
from ensemw2s.evaluation.reliability import Reliability
from ensemw2s.evaluation.results import Results
from ensemw2s.report import wording as w
from ensemw2s.report.table import Table, columns


def share_cell(share: Share | None) -> str:
    """``45.2 [40.1, 50.4]`` in %."""
    return "" if share is None else w.interval(w.percent(share.share), share.low, share.high)


def disagreement_table(results: Results, *, wide: bool = True) -> Table:
    """Every student beside its teacher: which of the teacher's errors it corrects, and which it repeats."""
    shares = ["corrected", "copied", "spoiled", *(["same error", "by chance"] if wide else [])]
    table = Table("Corrected and copied errors in %", columns("student from", "split", right=shares))
    for split in TEST_SPLITS:
        for found in (one for one in results.disagreements if one.split == split):
            row = [share_cell(s) for s in (found.corrected_share, found.copied_share, found.spoiled_share)]
            row += [share_cell(found.same_wrong), w.percent(found.same_wrong_by_chance)] if wide else []
            name = w.teacher_label(found.teacher)
            table.add(name, w.split_label(split), *row, group=split, strong=is_boosted(found.teacher))
    table.notes = [
        "Corrected, copied: of the teacher's errors, those that the student has right, and those where it gives the "
        "same wrong answer. Spoiled: of the teacher's right answers, those it has wrong."
    ]
    if wide:
        note = "Same error: of the questions that both have wrong, those with the same wrong answer"
        free = results.task == "generate"
        table.notes.append(note + ("." if free else "; by chance: if both chose among the wrong options at random."))
    return table


def shared_error_table(results: Results) -> Table:
    """Rates at which the members of an ensemble are wrong together, over pairs of members."""
    numbers = ("both wrong", "by chance", "same answer", "by chance", "all same")
    table = Table("Errors that members share in %", columns("members", "split", right=numbers))
    for split in TEST_SPLITS:
        for found in (one for one in results.shared_errors if one.split == split):
            table.add(
                f"{found.members} {arm_word(found.group)}",
                w.split_label(split),
                w.percent(found.both_wrong),
                w.percent(found.both_wrong_if_independent),
                "" if found.same_wrong is None else w.interval(w.percent(found.same_wrong), found.low, found.high),
                w.percent(found.same_wrong_by_chance),
                w.percent(found.all_same_wrong.share),
                group=split,
                strong=found.group == BOOSTING,
            )
    table.notes = [
        "Over all pairs of members. Both wrong by chance: if their errors were independent. Same answer: of the pairs "
        "that are both wrong; by chance: at random among the wrong options.",
        "All same: questions on which every member gives the same wrong answer, which no vote can save.",
    ]
    return table


def calibration_table(results: Results, *, wide: bool = True) -> Table:
    """Calibration of the arms on ID and OOD, and of the labels on the hard pool."""
    measures = [m for m in ("token", "option") if any(found.measure == m for found in results.reliability)]
    measures = measures if wide else measures[-1:]
    names = {"token": "confidence", "option": "share"}
    numbers = ["right", *(header for measure in measures for header in (names[measure], "ECE"))]
    table = Table("Calibration in %", columns("of", "split", right=numbers))
    by_key: dict[tuple[str, str], dict[str, Reliability]] = {}
    for found in results.reliability:
        by_key.setdefault((found.name, found.split), {})[found.measure] = found
    for (name, split), by_measure in by_key.items():
        cells = [w.percent(next(iter(by_measure.values())).accuracy)]
        for one in map(by_measure.get, measures):
            cells += ["", ""] if one is None else [w.percent(one.mean_confidence), ece_cell(one)]
        pool = "pool" if split == "hard_pool" else ""
        table.add(w.calibrated_label(name), pool or w.split_label(split), *cells, group=pool, once=True)
    table.notes = [
        "ECE: expected calibration error over 10 bins; its interval begins at 0 where it is no larger than calibrated "
        "confidences give by chance."
    ]
    meaning = {
        "token": "Confidence: geometric mean probability of the answer's tokens, by which labels are filtered.",
        "option": "Share: the answer's share of the options' exponentiated scores.",
    }
    table.notes += [meaning[measure] for measure in measures]
    return table


def ece_cell(found: Reliability) -> str:
    """``25.7 [23.2, 28.1]``."""
    return w.interval(w.percent(found.ece), found.low, found.high)

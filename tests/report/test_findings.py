from __future__ import annotations

import dataclasses

from ensemw2s.report.findings import findings
from ensemw2s.report.wording import large, memory


def sentence(results, start):
    found = [text for text in findings(results) if start in text]
    assert len(found) == 1, findings(results)
    return found[0]


def changed(records, keep, **changes):
    """The records with some fields of one of them changed."""
    return [dataclasses.replace(r, **changes) if keep(r) else r for r in records]


def test_one_sentence_a_finding(results):
    assert len(findings(results)) == 5


def test_the_way_to_the_ceiling(run_factory):
    assert "points below the ceiling (interval +" in sentence(run_factory(), "the ceiling")
    level = {"plain": (0.5, 0.5), "student_ensemble": (0.9, 0.9), "ceiling": (0.9, 0.9)}
    assert "not clearly apart from the ceiling" in sentence(run_factory(accuracy=level), "the ceiling")
    above = {"plain": (0.5, 0.5), "student_ensemble": (0.95, 0.95), "ceiling": (0.6, 0.6)}
    assert "points above the ceiling" in sentence(run_factory(accuracy=above), "the ceiling")
    assert not [t for t in findings(run_factory(accuracy={"plain": (0.5, 0.5)})) if "ceiling" in t]


def test_corrected_and_copied_errors(results):
    found = next(d for d in results.disagreements if (d.student, d.split) == ("student_ensemble", "hard_test"))
    text = sentence(results, "its teacher has wrong")
    assert f"Of {found.corrected_share.of} OOD questions that its teacher has wrong" in text
    assert f"has {found.corrected} right" in text
    assert f"the wrong answer of {found.copied} (" in text
    assert f"it has {found.spoiled} wrong." in text


def test_shared_errors_follow_the_interval(run_factory):
    results = run_factory()

    def ood(error):
        return error.split == "hard_test"

    def told(low, high):
        found = changed(results.shared_errors, ood, excess_low=low, excess_high=high)
        return sentence(dataclasses.replace(results, shared_errors=found), "two boosted experts")

    assert "they share part of their errors" in told(0.01, 0.2)
    assert "not clearly different" in told(-0.1, 0.2)
    assert "less often than" in told(-0.2, -0.1)
    free = changed(results.shared_errors, ood, excess_low=None, excess_high=None, same_wrong_by_chance=None)
    assert sentence(dataclasses.replace(results, shared_errors=free), "two boosted experts").endswith(" %.")


def test_calibration_is_named_by_its_direction(run_factory):
    results = run_factory()

    def told(**changes):
        found = changed(results.reliability, lambda r: r.name == "labels_ensemble", **changes)
        return sentence(dataclasses.replace(results, reliability=found), "labels of the boosted ensemble")

    assert told(ece=0.2, by_chance=0.1, mean_confidence=0.7, accuracy=0.5).endswith(": overconfident.")
    assert told(ece=0.2, by_chance=0.1, mean_confidence=0.5, accuracy=0.7).endswith(": underconfident.")
    assert told(ece=0.2, by_chance=0.1, mean_confidence=0.5, accuracy=0.51).endswith("in both directions.")
    assert told(ece=0.05, by_chance=0.1).endswith("no miscalibration shows.")


def test_cost(results):
    single, ensemble = results.arm_costs["plain"].total, results.arm_costs["ensemble"].total
    text = sentence(results, "The run took")
    assert text.startswith("The run took 216\u00a0GFLOP in 1 min 38 s;")
    assert f"costs {ensemble / single:.1f} times" in text


def test_runs_without_any_of_it(run_factory):
    bare = run_factory(
        accuracy={"plain": (0.7, 0.4)}, disagreements=[], shared_errors=[], reliability=[], costs={}, arm_costs={}
    )
    assert findings(bare) == []


def test_large_numbers_and_memory():
    cases = {
        0: "0",
        999: "999",
        1430: "1.43\u00a0k",
        999_499: "999\u00a0k",
        999_600: "1.00\u00a0M",
        52.3e9: "52.3\u00a0G",
    }
    assert {value: large(value) for value in cases} == cases
    assert large(6 * 7e9 * 1e12, "FLOP") == "42000\u00a0EFLOP"
    assert large(12.0, "FLOP") == "12\u00a0FLOP"
    assert [memory(None), memory(600 * 2**20), memory(1023.6 * 2**20), memory(80 * 2**30)] == [
        "",
        "600 MiB",
        "1.0 GiB",
        "80.0 GiB",
    ]

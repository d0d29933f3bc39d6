from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from ensemw2s.evaluation.build import build_comparisons
from ensemw2s.evaluation.metrics import summarise
from ensemw2s.evaluation.over_seeds import aggregate
from ensemw2s.report.findings import findings
from ensemw2s.report.verdict import is_clear, seed_verdict_sentences, verdict_sentences


def verdict(results):
    return " ".join(verdict_sentences(results))


def seed_verdict(results):
    return " ".join(seed_verdict_sentences(results))


def beaten(subject, sentences):
    """What the sentence on a subject says that it beats."""
    (sentence,) = (one for one in sentences if one.startswith(subject))
    return sentence.partition("; it ")[0].partition(" beats ")[2]


def plain(text):
    return text.replace("\u00a0", " ")


def stated(run_factory, **right):
    """A run whose arms have exactly these numbers of 1000 questions right; a better arm has all of a worse one's."""
    correct = {arm: {s: np.arange(1000) < n for s in ("test", "hard_test")} for arm, n in right.items()}
    found = build_comparisons(correct)
    arms = {arm: {s: summarise(v) for s, v in splits.items()} for arm, splits in correct.items()}
    return replace(run_factory(), arms=arms, differences=found.differences, pgr=found.pgr)


ALL = {"plain": 500, "bagging": 520, "ensemble": 560, "student_plain": 600, "student_ensemble": 650, "ceiling": 800}


def test_clear_gains_are_told_with_their_numbers(run_factory):
    results = stated(run_factory, **ALL)
    text = plain(verdict(results))
    pair = results.difference("ensemble", "plain", "hard_test")
    assert (
        "On OOD the boosted ensemble beats the plain fine-tune "
        f"(+6.0 points, interval +{100 * pair.low:.1f} to +{100 * pair.high:.1f}, p < 0.001) and bagging (+4.0 points"
    ) in text
    assert "On ID the boosted ensemble beats the plain fine-tune (+6.0 points" in text
    assert "the student from the boosted ensemble beats the student from the plain fine-tune (+5.0 points" in text
    pgr = results.pgr["student_ensemble"]["hard_test"]
    assert f"0.50 ({pgr.low:.2f} to {pgr.high:.2f}) for the student from the boosted ensemble" in text
    assert text.endswith("a claim about methods needs several seeds.")


def test_boosting_that_does_not_beat_bagging_is_said(run_factory):
    text = plain(verdict(stated(run_factory, **ALL | {"bagging": 561})))
    for split in ("OOD", "ID"):
        assert re.search(rf"On {split} the boosted ensemble beats [^;]*; it does not beat bagging \(−0.1 points", text)
    text = plain(verdict(stated(run_factory, **ALL | {"bagging": 560})))
    assert text.count("it does not beat bagging (±0.0 points") == 2
    assert "p = 1.00" in text


def test_an_unclear_gain_is_not_a_gain(run_factory):
    text = plain(verdict(stated(run_factory, **ALL | {"bagging": 557})))
    assert text.count("it does not clearly beat bagging (+0.3 points") == 2


@pytest.mark.parametrize(
    ("share", "shown"), [(1 / 3000, "+0.03"), (-1 / 3000, "−0.03"), (0.00049, "+0.05"), (0.0, "±0.0")]
)
def test_a_small_difference_is_not_told_as_none(run_factory, share, shown):
    results = stated(run_factory, **ALL)
    pairs = [
        replace(p, estimate=share, low=share - 0.01, high=share + 0.01, mcnemar_p=0.9)
        if (p.a, p.b) in (("ensemble", "bagging"), ("ceiling", "student_ensemble"))
        else p
        for p in results.differences
    ]
    results = replace(results, differences=pairs)
    text = plain(verdict(results))
    words = "does not clearly beat" if share > 0 else "does not beat"
    assert text.count(f"it {words} bagging ({shown} points, interval −") == 2
    assert f"({shown} points to it, interval −" in " ".join(findings(results))
    assert ("±0.0" in text) == (share == 0)


def test_a_clear_loss_is_told(run_factory):
    text = plain(verdict(stated(run_factory, **ALL | {"ensemble": 450})))
    assert text.count("the boosted ensemble is worse than the plain fine-tune (−5.0 points") == 2


@pytest.mark.parametrize("seed", range(6))
def test_beats_follows_interval_and_test(run_factory, seed):
    results = run_factory(seed)
    for other, name in (("plain", "the plain fine-tune"), ("bagging", "bagging")):
        pair = results.difference("ensemble", other, "hard_test")
        claimed = f"{name} (" in beaten("On OOD the boosted ensemble", verdict_sentences(results))
        assert claimed == (pair.low > 0 and pair.mcnemar_p < 0.05) == (is_clear(pair, 0.95) and pair.estimate > 0)


def test_undefined_pgr_gives_its_reason(run_factory):
    results = stated(run_factory, **ALL | {"ceiling": 500})
    text = verdict(results)
    assert "PGR on OOD is undefined: the ceiling is not clearly above the weak model: C − W is +0.0 points" in text
    assert "Of the gap" not in text


def test_a_student_that_is_not_above_its_teacher(run_factory):
    text = verdict(stated(run_factory, **ALL | {"student_ensemble": 501}))
    assert "The student from the boosted ensemble is not clearly above the plain fine-tune." in text
    text = verdict(stated(run_factory, **ALL | {"student_ensemble": 400}))
    assert "The student from the boosted ensemble falls behind the plain fine-tune." in text
    text = verdict(stated(run_factory, **ALL | {"student_ensemble": 900}))
    assert "The student from the boosted ensemble is above the ceiling." in text


def test_no_ceiling(run_factory):
    arms = {k: v for k, v in ALL.items() if k != "ceiling"}
    assert "Without a ceiling there is no PGR." in verdict(stated(run_factory, **arms))


def test_one_round_is_the_plain_fine_tune(run_factory):
    results = replace(stated(run_factory, **ALL | {"ensemble": 500}), selected_rounds={"boosting": 1})
    assert verdict(results).startswith(
        "Validation chose a single round, so the boosted ensemble is the plain fine-tune."
    )


def test_a_run_without_comparison(run_factory):
    assert "no comparison" in verdict(stated(run_factory, plain=500))


def test_seeds_are_judged_after_holm(seeds):
    text = plain(seed_verdict(seeds))
    for a, b, words in (
        ("ensemble", "plain", ("the boosted ensemble", "the plain fine-tune")),
        ("ensemble", "bagging", ("the boosted ensemble", "bagging")),
        (
            "student_ensemble",
            "student_plain",
            ("the student from the boosted ensemble", "the student from the plain fine-tune"),
        ),
    ):
        found = seeds.difference(a, b, "hard_test")
        claimed = f"{words[1]} (" in beaten(f"On OOD {words[0]}", seed_verdict_sentences(seeds))
        assert claimed == (found.p_holm < 0.05 and found.mean > 0)
        ahead = sum(d > 0 for d in found.differences)
        assert re.search(rf"{re.escape(words[1])} \([^)]*ahead in {ahead} of 3 seeds, p", text)
    assert "after Holm" in text
    assert text.endswith(seeds.caution)
    assert "Three seeds prove little" in text


def test_seeds_that_do_not_differ_have_the_error_of_their_questions(run_factory):
    runs = [replace(stated(run_factory, **ALL), seed=seed) for seed in range(2)]
    own = runs[0].difference("ensemble", "plain", "hard_test")
    text = seed_verdict(aggregate(runs))
    assert "On OOD the boosted ensemble beats the plain fine-tune (+6.0 points" in text
    assert aggregate(runs).difference("ensemble", "plain", "hard_test").se == pytest.approx(own.se)


def test_where_nothing_varies_there_is_no_test(run_factory):
    runs = [replace(stated(run_factory, **ALL | {"ensemble": 500}), seed=seed) for seed in range(2)]
    text = seed_verdict(aggregate(runs))
    assert "no test, nothing varies" in text
    assert "beats the plain fine-tune" not in text
    assert "Two seeds prove little" in text

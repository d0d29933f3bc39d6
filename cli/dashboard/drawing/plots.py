"""The plots of every view, from the model alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ensemw2s.arms import ENSEMBLE, HEADLINES, WEAK, arm_spec, is_student, sorted_arms, students
from ensemw2s.cli.dashboard.drawing.palette import CYCLE, look_of
from ensemw2s.cli.dashboard.drawing.plot import Curve, Plot, Rule
from ensemw2s.cli.dashboard.model.fields import NAN, known
from ensemw2s.cli.dashboard.model.model import BINS, LabelSample, Round, RunModel
from ensemw2s.cli.dashboard.model.names import SPLITS, arm_name, student_name
from ensemw2s.cli.dashboard.model.series import Floats
from ensemw2s.cli.dashboard.model.summary import weak_arm

MAX_EARLIER = 12
_BLUE, _VERMILLION, _ORANGE, _GREEN, _PURPLE = CYCLE[:5]


def _curve(name: str, look: tuple[str, str], points: Mapping[int, float], **settings: Any) -> Curve:
    """One value a round; ``look`` is colour and marker."""
    x = np.array(sorted(points), dtype=np.float64)
    y = np.array([points[place] for place in sorted(points)], dtype=np.float64)
    return Curve(name, x, y, *look, smoothed=False, **settings)


def _by_round(title: str, curves: list[Curve], rules: list[Rule] | None = None, **settings: Any) -> Plot:
    defaults = {"percent": True, "empty": "No round is finished."}
    return Plot(title, curves, rules or [], x_name="round", whole_x=True, **{**defaults, **settings})


def _by_step(title: str, curves: list[Curve], empty: str = "No training step yet.", **settings: Any) -> Plot:
    return Plot(title, curves, x_name="step", whole_x=True, empty=empty, **settings)


def loss_plot(model: RunModel) -> Plot:
    """Training loss of the current round over those of the earlier ones."""
    infos = {tag: model.info(tag) for tag in model.curves}
    rounds = {tag: info.round for tag, info in infos.items() if info.round and info.arm}  # helpers are no arm
    tags = sorted(rounds, key=rounds.__getitem__)
    curves = []
    for tag in tags[-MAX_EARLIER - 1 :]:
        newest = tag == tags[-1]
        curve = Curve(f"round {rounds[tag]}" if newest else "earlier", *model.curves[tag].loss.arrays())
        curve.colour, curve.marker = "blue", "●" if newest else ""
        curve.faint, curve.legend = not newest, newest or tag == tags[-2]
        curves.append(curve)
    return _by_step("Training loss", curves, short_title="Loss")


def newest_loss_plot(model: RunModel) -> Plot:
    """Training loss of what is trained now, or was last."""
    newest = max((c for c in model.curves.values() if known(c.time)), key=lambda curve: curve.time, default=None)
    if newest is None:
        return _by_step("Training loss", [])
    return _by_step(f"Training loss of {newest.tag}", [Curve("", *newest.loss.arrays(), "blue", "")])


def accuracy_plot(model: RunModel, split: str) -> Plot:
    """Accuracy of each expert, of the ensemble so far, and of the unboosted ensembles so far, by round."""
    boosting = model.scores.get((ENSEMBLE, split), {})
    curves = [_curve("expert", _VERMILLION, {t: s.expert for t, s in boosting.items()})]
    for arm in reversed(sorted_arms({arm for arm, _ in model.scores} - {ENSEMBLE})):
        if scores := model.scores.get((arm, split)):
            curves.append(_curve(arm_name(arm), look_of(arm), {t: s.ensemble for t, s in scores.items()}))
    # drawn last, so that nothing hides it, and named first
    curves.append(_curve("ensemble", look_of(ENSEMBLE), {t: s.ensemble for t, s in boosting.items()}, first=True))
    rules = []
    for arm, by_split in model.arms.items():
        spec = arm_spec(arm)
        if (spec.kind, spec.side) == ("zero-shot", "weak") and split in by_split and known(by_split[split].accuracy):
            rules.append(Rule(spec.short, by_split[split].accuracy))
    name = SPLITS.get(split, split)
    return _by_round(f"Accuracy {name}, %", curves, rules, empty="No round is scored yet.", short_title=f"{name}, %")


def _finished(model: RunModel) -> dict[int, Round]:
    return {t: found for t, found in model.rounds.items() if found.finished}


def epsilon_plot(model: RunModel) -> Plot:
    """Token error of every round, and the prior error."""
    done = _finished(model)
    curves, rules = [_curve("ε_t", _BLUE, {t: r.epsilon for t, r in done.items()})], []
    priors = {r.prior for r in done.values() if known(r.prior)}
    if len(priors) == 1:
        rules.append(Rule("ε_0", priors.pop()))
    elif priors:
        curves.append(_curve("ε_0", ("dim", "▽"), {t: r.prior for t, r in done.items()}))
    return _by_round("Token error ε, %", curves, rules)


def alpha_plot(model: RunModel) -> Plot:
    """Weight of every expert; dropped experts apart."""
    done = _finished(model)
    curves = [_curve("α_t", _ORANGE, {t: r.alpha for t, r in done.items() if r.kept})]
    dropped = {t: r.alpha for t, r in done.items() if not r.kept}
    if dropped:
        curves.append(_curve("dropped", _VERMILLION, dropped, draw="points"))
    rules = [Rule("", 0.0, "grid")] if any(r.alpha < 0.3 for r in done.values()) else []
    return _by_round("Expert weight α", curves, rules, percent=False)


def concentration_plot(model: RunModel) -> Plot:
    """Effective sample size as a share of all answer tokens, and the share of the heaviest 1 %."""
    done = _finished(model)
    tokens = model.tokens or max((r.n_eff for r in done.values() if known(r.n_eff)), default=NAN)
    curves = [
        _curve("n_eff / N", _GREEN, {t: r.n_eff / tokens for t, r in done.items()}),
        _curve("top 1 %", _PURPLE, {t: r.top1_share for t, r in done.items()}),
    ]
    return _by_round("Concentration of D, %", curves, short_title="D, %")


def _strong_losses(model: RunModel) -> dict[str, tuple[Floats, Floats]]:
    """Arm → training loss by step, of the students and the ceiling."""
    infos = {tag: model.info(tag) for tag in model.curves}
    return {i.arm: model.curves[tag].loss.arrays() for tag, i in infos.items() if i.side == "strong" and i.arm}


def student_loss_plot(model: RunModel) -> Plot:
    """Training loss of the students and the ceiling."""
    losses = _strong_losses(model)
    curves = [Curve(arm_name(arm), *losses[arm], *look_of(arm)) for arm in sorted_arms(losses)]
    return _by_step("Training loss", curves, "No student is trained yet.")


def student_accuracy_plot(model: RunModel, split: str) -> Plot:
    """Accuracy of every student with its interval, against weak, ensemble and ceiling."""
    arms = students(model.arms)
    curves = []
    for place, arm in enumerate(arms):
        score = model.arms[arm].get(split)
        if score is not None:
            value, low, high = (np.array([number]) for number in (score.accuracy, score.low, score.high))
            x = np.array([float(place)])
            curves.append(Curve(arm_name(arm), x, value, *look_of(arm), "points", low, high, legend=False))
    rules = []
    for arm, name in HEADLINES:
        arm = weak_arm(model) if arm == WEAK else arm
        score = model.arms.get(arm, {}).get(split)
        if not is_student(arm) and score is not None and known(score.accuracy):
            colour, marker = look_of(arm)
            rules.append(Rule(f"{marker} {name}", score.accuracy, colour))
    names = [student_name(arm) for arm in arms] or [""]
    title, empty = f"Student accuracy {SPLITS[split]}, %", "No student is evaluated yet."
    return Plot(title, curves, rules, percent=True, can_log=False, categories=names, empty=empty)


def _confidence_plot(title: str, curves: list[Curve], **settings: Any) -> Plot:
    defaults = {"x_name": "confidence", "can_log": False, "empty": "No label yet.", "y_range": (0.0, 1.0)}
    return Plot(title, curves, **{**defaults, **settings})


def confidence_plot(model: RunModel, teacher: str) -> Plot:
    """Histogram of the confidence of a teacher's labels."""
    found = model.teachers.get(teacher)
    counts, note = np.zeros(BINS), ""
    if found is not None:
        counts = np.array(found.histogram, dtype=np.float64)
        if not counts.any() and found.samples:
            places = [s.confidence for s in found.samples if known(s.confidence)]
            counts = np.histogram(np.clip(places, 0.0, 1.0), bins=BINS, range=(0.0, 1.0))[0].astype(np.float64)
            note = f"sample of {len(places)}"
    centres = (np.arange(BINS) + 0.5) / BINS
    curves = [Curve(arm_name(teacher), centres, counts, *look_of(teacher), "bars")] if counts.any() else []
    return _confidence_plot("Confidence of the labels", curves, note=note)


def agreement_plot(model: RunModel, teacher: str) -> Plot:
    """Agreement between the experts against confidence, right and wrong labels apart (from the sample)."""
    samples: list[LabelSample] = model.teachers[teacher].samples if teacher in model.teachers else []
    curves = []
    for name, wanted, look in (("right", True, _BLUE), ("wrong", False, _VERMILLION), ("unknown", None, ("dim", "○"))):
        rows = sorted(
            (s for s in samples if s.correct is wanted and known(s.confidence)), key=lambda sample: sample.confidence
        )
        if rows:
            x, y = (np.array([getattr(s, f) for s in rows], dtype=np.float64) for f in ("confidence", "agreement"))
            curves.append(Curve(name, x, y, *look, "points"))
    return _confidence_plot("Agreement of the experts, % of ᾱ", curves, percent=True, x_range=(0.0, 1.0))


def weight_plot(model: RunModel, example_id: str) -> Plot:
    """Weight of one example by round, as a multiple of uniform weights; the heaviest and the 20th as context."""
    own: dict[int, float] = {}
    largest: dict[int, float] = {}
    least: dict[int, float] = {}
    for place, examples in model.hard.items():
        weights = {e.id: e.weight * (model.tokens / max(1, len(e.tokens)) if model.tokens else 1.0) for e in examples}
        if example_id in weights:
            own[place] = weights[example_id]
        if weights:
            largest[place], least[place] = max(weights.values()), min(weights.values())
    curves = [
        _curve("range of those shown", ("dim", "·"), largest, faint=True),
        _curve("least shown", ("dim", "·"), least, faint=True, legend=False),
        _curve("this example", _BLUE, own),
    ]
    title = "Weight by round, × uniform" if model.tokens else "Weight by round"
    return _by_round(title, curves, percent=False, empty="No round has reported its tokens yet.")


def time_plot(title: str, curves: list[tuple[str, Floats, Floats]]) -> Plot:
    """Series over unix seconds; x becomes minutes before the last point."""
    end = max((float(x[-1]) for _, x, _ in curves if x.size), default=0.0)
    out = [
        Curve(name, (x - end) / 60.0, y, *CYCLE[place % len(CYCLE)], smoothed=False)
        for place, (name, x, y) in enumerate(curves)
    ]
    return Plot(title, out, x_name="min", can_log=False, empty="No sample yet.")


def compare_plot(title: str, runs: Mapping[str, RunModel], what: str) -> Plot:
    """Curves of several runs: ``test`` or ``hard_test`` (ensemble accuracy), or ``loss`` of the best-taught student."""
    curves = []
    for place, (name, model) in enumerate(runs.items()):
        look = CYCLE[place % len(CYCLE)]
        if what == "loss":
            losses = _strong_losses(model)
            taught = students(losses)
            curves.append(Curve(name, *(losses[taught[-1]] if taught else (np.zeros(0), np.zeros(0))), *look))
        else:
            scores = model.scores.get((ENSEMBLE, what), {})
            curves.append(_curve(name, look, {t: s.ensemble for t, s in scores.items()}))
    empty = "Nothing to compare yet."
    return _by_step(title, curves, empty) if what == "loss" else _by_round(title, curves, empty=empty)

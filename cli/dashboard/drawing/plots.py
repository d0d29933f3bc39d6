"""The plots of every view, from the model alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ensemw2s.arms import CEILING, ENSEMBLE, WEAK, sorted_arms, student_of, students
from ensemw2s.cli.dashboard.drawing.palette import CYCLE, look_of
from ensemw2s.cli.dashboard.drawing.plot import Curve, Plot, Rule
from ensemw2s.cli.dashboard.model.fields import NAN, known
from ensemw2s.cli.dashboard.model.model import BINS, RunModel
from ensemw2s.cli.dashboard.model.names import SPLITS, arm_name
from ensemw2s.cli.dashboard.model.series import Floats, Series
from ensemw2s.cli.dashboard.model.summary import weak_arm

MAX_EARLIER = 12


def _curve(name: str, look: str, points: Mapping[int, float], faint: bool = False) -> Curve:
    colour, marker = look_of(look)
    places = sorted(points)
    x = np.array(places, dtype=np.float64)
    y = np.array([points[place] for place in places], dtype=np.float64)
    return Curve(name, x, y, colour, marker, smoothed=False, faint=faint)


def loss_plot(model: RunModel) -> Plot:
    """Training loss of the current round over those of the earlier ones."""
    infos = {tag: model.info(tag) for tag in model.curves}
    rounds = {tag: info.round for tag, info in infos.items() if info.round and info.arm}  # helpers are no arm
    tags = sorted(rounds, key=rounds.__getitem__)
    curves = []
    for tag in tags[-MAX_EARLIER - 1 :]:
        x, y = model.curves[tag].loss.arrays()
        newest = tag == tags[-1]
        name = f"round {rounds[tag]}" if newest else "earlier"
        curves.append(
            Curve(name, x, y, "blue", "●" if newest else "", faint=not newest, legend=newest or tag == tags[-2])
        )
    return Plot("Training loss", curves, x_name="step", whole_x=True, empty="No training step yet.", short_title="Loss")


def newest_loss_plot(model: RunModel) -> Plot:
    """Training loss of what is trained now, or was last."""
    dated = [curve for curve in model.curves.values() if known(curve.time)]
    if not dated:
        return Plot("Training loss", x_name="step", empty="No training step yet.")
    newest = max(dated, key=lambda curve: curve.time)
    x, y = newest.loss.arrays()
    return Plot(f"Training loss of {newest.tag}", [Curve("", x, y, "blue", "")], x_name="step", whole_x=True)


def accuracy_plot(model: RunModel, split: str) -> Plot:
    """Accuracy of each expert, of the ensemble so far, and of bagging, by round."""
    boosting = model.scores.get(("boosting", split), {})
    curves = [_curve("expert", "expert", {t: s.expert for t, s in boosting.items()})]
    for arm in ("seeds", "bagging"):
        scores = model.scores.get((arm, split), {})
        if scores:
            curves.append(_curve(arm_name(arm), arm, {t: s.ensemble for t, s in scores.items()}))
    # drawn last, so that nothing hides it, and named first
    curves.append(_curve("ensemble", "ensemble", {t: s.ensemble for t, s in boosting.items()}))
    curves[-1].first = True
    rules = []
    weak = model.arms.get("weak_zero_shot", {}).get(split)
    if weak is not None and known(weak.accuracy):
        rules.append(Rule("weak base", weak.accuracy, "dim"))
    return Plot(
        f"Accuracy {SPLITS.get(split, split)}, %",
        curves,
        rules,
        x_name="round",
        percent=True,
        whole_x=True,
        empty="No round is scored yet.",
        short_title=f"{SPLITS.get(split, split)}, %",
    )


def epsilon_plot(model: RunModel) -> Plot:
    """Token error of every round, and the prior error."""
    done = {t: r for t, r in model.rounds.items() if r.finished}
    curve = _curve("ε_t", "ensemble", {t: r.epsilon for t, r in done.items()})
    prior = _curve("ε_0", "weak_zero_shot", {t: r.prior for t, r in done.items()})
    priors = {r.prior for r in done.values() if known(r.prior)}
    curves, rules = [curve], []
    if len(priors) == 1:
        rules.append(Rule("ε_0", priors.pop(), "dim"))
    elif priors:
        curves.append(prior)
    return Plot(
        "Token error ε, %", curves, rules, x_name="round", percent=True, whole_x=True, empty="No round is finished."
    )


def alpha_plot(model: RunModel) -> Plot:
    """Weight of every expert; dropped experts apart."""
    done = {t: r for t, r in model.rounds.items() if r.finished}
    curves = [_curve("α_t", "bagging", {t: r.alpha for t, r in done.items() if r.kept})]
    dropped = {t: r.alpha for t, r in done.items() if not r.kept}
    if dropped:
        curves.append(_curve("dropped", "single", dropped))
        curves[-1].draw = "points"
    rules = [Rule("", 0.0, "grid")] if any(r.alpha < 0.3 for r in done.values()) else []
    return Plot("Expert weight α", curves, rules, x_name="round", whole_x=True, empty="No round is finished.")


def concentration_plot(model: RunModel) -> Plot:
    """Effective sample size as a share of all answer tokens, and the share of the heaviest 1 %."""
    done = {t: r for t, r in model.rounds.items() if r.finished}
    tokens = model.tokens or max((r.n_eff for r in done.values() if known(r.n_eff)), default=NAN)
    curves = [
        _curve("n_eff / N", "seeds", {t: r.n_eff / tokens for t, r in done.items()}),
        _curve("top 1 %", "ceiling", {t: r.top1_share for t, r in done.items()}),
    ]
    return Plot(
        "Concentration of D, %", curves, x_name="round", percent=True, whole_x=True, empty="No round is finished.",
        short_title="D, %",
    )  # fmt: skip


def _strong_curves(model: RunModel) -> dict[str, Series]:
    """Arm → training loss, of the students and the ceiling."""
    infos = {tag: model.info(tag) for tag in model.curves}
    return {info.arm: model.curves[tag].loss for tag, info in infos.items() if info.side == "strong" and info.arm}


def student_loss_plot(model: RunModel) -> Plot:
    """Training loss of the students and the ceiling."""
    curves = []
    arms = _strong_curves(model)
    for arm in sorted_arms(arms):
        colour, marker = look_of(arm)
        curves.append(Curve(arm_name(arm), *arms[arm].arrays(), colour, marker))
    return Plot("Training loss", curves, x_name="step", whole_x=True, empty="No student is trained yet.")


def student_accuracy_plot(model: RunModel, split: str) -> Plot:
    """Accuracy of every student with its interval, against weak, ensemble and ceiling."""
    arms = students(model.arms)
    curves = []
    for place, arm in enumerate(arms):
        score = model.arms[arm].get(split)
        if score is None:
            continue
        colour, marker = look_of(arm)
        values = [np.array([value]) for value in (score.accuracy, score.low, score.high)]
        point = Curve(arm_name(arm), np.array([float(place)]), values[0], colour, marker, "points", legend=False)
        point.low, point.high = values[1], values[2]
        curves.append(point)
    rules = []
    for arm, name in ((weak_arm(model), "weak"), (ENSEMBLE, "ensemble"), (CEILING, "ceiling")):
        score = model.arms.get(arm, {}).get(split)
        if score is not None and known(score.accuracy):
            rules.append(Rule(f"{look_of(arm)[1]} {name}", score.accuracy, look_of(arm)[0]))
    names = [arm_name(arm).replace("student ", "") for arm in arms]
    return Plot(
        f"Student accuracy {SPLITS[split]}, %",
        curves,
        rules,
        percent=True,
        can_log=False,
        categories=names or [""],
        empty="No student is evaluated yet.",
    )


def confidence_plot(model: RunModel, teacher: str) -> Plot:
    """Histogram of the confidence of a teacher's labels."""
    found = model.teachers.get(teacher)
    counts = np.zeros(BINS)
    note = ""
    if found is not None:
        counts = np.array(found.histogram, dtype=np.float64)
        if not counts.any() and found.samples:
            places = [s.confidence for s in found.samples if known(s.confidence)]
            counts = np.histogram(np.clip(places, 0.0, 1.0), bins=BINS, range=(0.0, 1.0))[0].astype(np.float64)
            note = f"sample of {len(places)}"
    curves = []
    if counts.any():
        centres = (np.arange(BINS) + 0.5) / BINS
        colour, marker = look_of(teacher)
        curves = [Curve(arm_name(teacher), centres, counts, colour, marker, "bars")]
    return Plot(
        "Confidence of the labels",
        curves,
        x_name="confidence",
        can_log=False,
        empty="No label yet.",
        y_range=(0.0, 1.0),
        note=note,
    )


def agreement_plot(model: RunModel, teacher: str) -> Plot:
    """Agreement between the experts against confidence, right and wrong labels apart (from the sample)."""
    found = model.teachers.get(teacher)
    curves = []
    for name, wanted, colour, marker in (
        ("right", True, "blue", "●"),
        ("wrong", False, "vermillion", "✕"),
        ("unknown", None, "dim", "○"),
    ):
        rows = [s for s in found.samples if s.correct is wanted and known(s.confidence)] if found is not None else []
        if rows:
            x, y = (np.array([getattr(s, f) for s in rows], dtype=np.float64) for f in ("confidence", "agreement"))
            order = np.argsort(x, kind="stable")
            curves.append(Curve(name, x[order], y[order], colour, marker, "points"))
    return Plot(
        "Agreement of the experts, % of ᾱ",
        curves,
        x_name="confidence",
        percent=True,
        can_log=False,
        empty="No label yet.",
        y_range=(0.0, 1.0),
        x_range=(0.0, 1.0),
    )


def weight_plot(model: RunModel, example_id: str) -> Plot:
    """Weight of one example by round, as a multiple of uniform weights; the heaviest and the 20th as context."""
    own: dict[int, float] = {}
    edges: tuple[dict[int, float], dict[int, float]] = ({}, {})
    for place, examples in model.hard.items():
        weights = {e.id: e.weight * (model.tokens / max(1, len(e.tokens)) if model.tokens else 1.0) for e in examples}
        if example_id in weights:
            own[place] = weights[example_id]
        if weights:
            edges[0][place], edges[1][place] = max(weights.values()), min(weights.values())
    curves = [
        _curve(name, "dim", points, faint=True) for name, points in zip(("largest", "least shown"), edges, strict=True)
    ]
    curves[1].legend = False
    curves[0].name = "range of those shown"
    curves.append(_curve("this example", "ensemble", own))
    title = "Weight by round, × uniform" if model.tokens else "Weight by round"
    return Plot(title, curves, x_name="round", whole_x=True, empty="No round has reported its tokens yet.")


def time_plot(title: str, curves: list[tuple[str, Floats, Floats]], *, percent: bool = False, empty: str = "") -> Plot:
    """Series over time; x becomes minutes before the last point."""
    out = []
    end = max((float(x[-1]) for _, x, _ in curves if x.size), default=0.0)
    for place, (name, x, y) in enumerate(curves):
        colour, marker = CYCLE[place % len(CYCLE)]
        out.append(Curve(name, (x - end) / 60.0, y, colour, marker, smoothed=False))
    high = (0.0, 1.0) if percent else None
    return Plot(title, out, x_name="min", percent=percent, can_log=False, empty=empty or "No sample yet.", y_range=high)


def compare_plot(title: str, runs: Mapping[str, RunModel], what: str) -> Plot:
    """Curves of several runs: ``test`` or ``hard_test`` (ensemble accuracy), ``epsilon`` or ``loss``."""
    curves = []
    for place, (name, model) in enumerate(runs.items()):
        colour, marker = CYCLE[place % len(CYCLE)]
        if what == "loss":
            losses = _strong_curves(model)
            taught = [arm for arm in map(student_of, (ENSEMBLE, WEAK, "single")) if arm in losses]
            x, y = losses[taught[0]].arrays() if taught else (np.zeros(0), np.zeros(0))
            curves.append(Curve(name, x, y, colour, marker))
            continue
        if what == "epsilon":
            points = {t: r.epsilon for t, r in model.rounds.items() if r.finished}
        else:
            points = {t: s.ensemble for t, s in model.scores.get(("boosting", what), {}).items()}
        curve = _curve(name, "expert", points)
        curve.colour, curve.marker = colour, marker
        curves.append(curve)
    return Plot(
        title, curves, x_name="step" if what == "loss" else "round", percent=what != "loss", whole_x=True,
        empty="Nothing to compare yet.",
    )  # fmt: skip

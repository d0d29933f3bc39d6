"""The status of a run as plain text, for ``--once`` and without a terminal."""

from __future__ import annotations

from ensemw2s.arms import ENSEMBLE
from ensemw2s.cli.dashboard.model.fields import known
from ensemw2s.cli.dashboard.model.model import RunModel, Score
from ensemw2s.cli.dashboard.model.names import (
    SPLITS,
    TESTS,
    ago,
    arm_name,
    clean,
    clock,
    moment,
    percent,
    short,
)
from ensemw2s.cli.dashboard.model.summary import Group, arm_rows, forecast, groups, share

#: State of a stage, and of a run or a sweep → mark and style key.
STAGE_LOOKS = {
    "done": ("✓", "good"), "kept": ("✓", "good"), "running": ("▶", "bold blue"), "waiting": ("·", "faint"),
    "skipped": ("–", "faint"), "stopped": ("✗", "bold bad"),
}  # fmt: skip
LIFE_LOOKS = {
    "waiting": ("·", "dim"), "running": ("▶", "blue"), "finished": ("✓", "good"), "failed": ("✗", "bad"),
    "dead": ("✗", "bad"), "interrupted": ("‖", "warn"), "incomplete": ("‖", "warn"), "gone": ("?", "warn"),
    "unknown": ("?", "dim"), "unreadable": ("✗", "bad"),
}  # fmt: skip


def life_text(state: str) -> tuple[str, str]:
    """State of a run or a sweep with its mark, and its colour."""
    mark, colour = LIFE_LOOKS[state]
    return f"{mark} {state}", colour


def headline(model: RunModel) -> str:
    """The run in one line: state, name, seed, stage, times."""
    parts = [life_text(model.life)[0]]
    if model.name:
        parts.append(model.name)
    if model.seed is not None:
        parts.append(f"seed {model.seed}")
    if model.preset and model.preset != model.name:
        parts.append(f"preset {model.preset}")
    stage = model.running_stage
    if stage is not None and model.life == "running":
        done = share(stage)
        parts.append(stage.name + (f" {100 * done:.0f} %" if known(done) else ""))
    if known(model.elapsed):
        parts.append(f"elapsed {clock(model.elapsed)}")
    left = forecast(model).left
    if model.life == "running" and known(left) and left > 0:
        parts.append(f"left ≈ {clock(left)}")
    if model.life not in ("running", "waiting") and known(model.updated) and known(model.now):
        parts.append(f"{ago(model.now - model.updated)} ago")
    return clean(" · ".join(parts))


def status_text(model: RunModel) -> str:
    """Everything of importance as plain text, at most 100 columns where names are not long."""
    lines = [headline(model), f"  {model.path}"]
    if model.life_note:
        lines.append(f"  {model.life_note}")
    if model.error:
        lines.append(f"  {model.error}")
    if model.stages:
        lines += ["", "Stages", *(_group_line(group, model.now) for group in groups(model))]
    if model.rounds:
        lines += ["", *_round_lines(model)]
    if model.arms:
        lines += ["", *_arm_lines(model)]
    if model.teachers:
        lines += ["", *_teacher_lines(model)]
    notes = [m for m in model.messages if m.level in ("warning", "error")][-5:]
    if notes:
        lines += ["", "Warnings", *(f"  {moment(m.time):>11}  {m.level}: {m.text}" for m in notes)]
    if model.unreadable:
        lines += ["", f"{model.unreadable} lines of the log could not be read or are of a newer version."]
    return "\n".join(map(clean, lines))


def _group_line(group: Group, now: float) -> str:
    line = f"  {STAGE_LOOKS[group.state][0]} {group.name:<18} {group.done:>3}/{group.total:<3} "
    line += f"{clock(group.seconds(now)):>8}"
    running = group.running
    if running is not None:
        done = share(running)
        line += f"  {running.name}" + (f" {100 * done:.0f} %" if known(done) else "")
    return line.rstrip()


def _round_lines(model: RunModel) -> list[str]:
    lines = ["Boosting"]
    head = f"  {'round':>5} {'ε_t':>8} {'α_t':>8} {'n_eff':>8}  "
    lines.append(head + "  ".join(f"{SPLITS[s]:>4} expert {SPLITS[s]:>4} ensemble" for s in TESTS))
    for place in sorted(model.rounds):
        found = model.rounds[place]
        if not found.finished:
            continue
        cells = f"  {place:>5} {short(found.epsilon):>8} {short(found.alpha):>8} {short(found.n_eff):>8}  "
        parts = []
        for split in TESTS:
            score = model.scores.get((ENSEMBLE, split), {}).get(place)
            own, both = (score.expert, score.ensemble) if score is not None else (float("nan"), float("nan"))
            parts.append(f"{percent(own):>11} {percent(both):>13}")
        lines.append(cells + "  ".join(parts) + ("" if found.kept else "  dropped"))
    if model.stop_reason:
        lines.append(f"  ended: {model.stop_reason}; {model.selected_rounds} experts chosen on validation")
    return lines


def score_text(score: Score) -> str:
    """``71.3 [67.6, 74.8]``; ``–`` where there is none yet."""
    if not known(score.accuracy):
        return "–"
    if not known(score.low) or not known(score.high):
        return percent(score.accuracy)
    return f"{percent(score.accuracy)} [{percent(score.low)}, {percent(score.high)}]"


def pgr_text(value: tuple[float, float, float] | None) -> str:
    """``0.71 [0.42, 1.08]``; with ``≈`` while the run goes on and has no interval yet."""
    if value is None:
        return ""
    if not known(value[1]):
        return f"≈{value[0]:.2f}"
    return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"


def _arm_lines(model: RunModel) -> list[str]:
    lines = [f"{'Accuracy in %':<22}{'ID':>18}  {'OOD':>18}  PGR ID / OOD"]
    for row in arm_rows(model):
        cells = "  ".join(f"{score_text(row.score(split)):>18}" for split in TESTS)
        ratios = " / ".join(filter(None, (pgr_text(row.pgr.get(split)) for split in TESTS)))
        lines.append(f"  {arm_name(row.arm):<20}{cells}  {ratios}".rstrip())
    return lines


def _teacher_lines(model: RunModel) -> list[str]:
    lines = ["Labels"]
    for name, teacher in model.teachers.items():
        text = f"  {arm_name(name):<20}{teacher.done:>6}/{teacher.total:<6}"
        if teacher.finished:
            text += f"  kept {teacher.kept}  confidence {percent(teacher.mean_confidence)} %"
            text += f"  agreement {percent(teacher.mean_agreement)} %  right {percent(teacher.accuracy)} %"
        elif known(teacher.per_second):
            text += f"  {teacher.per_second:.1f} a second"
        lines.append(text)
    return lines

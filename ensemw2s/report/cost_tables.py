"""Tables of what a run cost, stage by stage and arm by arm."""

from __future__ import annotations

from ensemw2s.arms import TEST_SPLITS, arm_spec, is_boosted, without_experts
from ensemw2s.evaluation.results import Results
from ensemw2s.report import wording as w
from ensemw2s.report.table import Table, columns


def cost_table(results: Results) -> Table:
    """Tokens, operations, seconds and peak memory by top folder of the stages."""
    groups: dict[str, list[str]] = {}
    for stage in [*results.times, *(name for name in results.costs if name not in results.times)]:
        groups.setdefault(stage.split("/")[0], []).append(stage)
    if "evaluation" in results.costs and results.costs["evaluation"].flops == 0:
        del groups["evaluation"]
    counted = bool(results.costs)
    headers = ["number", *(["tokens", "operations"] if counted else []), "time", "share"]
    table = Table("Cost", columns("stages", right=headers + (["memory"] if results.memory else [])))
    total = sum(results.times.values())
    for name, stages in groups.items():
        timed = [results.times[stage] for stage in stages if stage in results.times]
        row = [name, str(len(stages)), *(_amounts(results, stages) if counted else [])]
        row += [w.duration(sum(timed)) if timed else "", f"{100 * sum(timed) / total:.0f} %" if timed and total else ""]
        row += [w.memory(_peak(results, stages))] if results.memory else []
        table.add(*row)
    if len(groups) > 1:
        every = [stage for stages in groups.values() for stage in stages]
        row = ["total", str(len(every)), *(_amounts(results, every) if counted else []), w.duration(total), ""]
        table.add(*row, *([w.memory(_peak(results, every))] if results.memory else []), group="total")
    if counted:
        table.notes = [
            "Operations: 6·N·D for fine-tuning, 2·N·D for scoring and decoding, with N parameters and D tokens, "
            "padding left out. Time: interrupted starts included."
        ]
    if results.clipped:
        shares = [100 * share for share in results.clipped.values()]
        table.notes.append(
            f"Gradients were clipped in {min(shares):.0f} to {max(shares):.0f} % of a model's training steps."
        )
    if results.memory:
        table.notes.append("Memory: peak of the process, libraries included" + _device_note(results) + ".")
    return table


def _amounts(results: Results, stages: list[str]) -> list[str]:
    known = [results.costs[stage] for stage in stages if stage in results.costs]
    flops = sum(cost.flops for cost in known)
    return ["", ""] if not flops else [w.large(sum(cost.tokens for cost in known)), w.large(flops, "FLOP")]


def _peak(results: Results, stages: list[str]) -> int | None:
    peaks = [results.memory[stage].process for stage in stages if stage in results.memory]
    return max((peak for peak in peaks if peak is not None), default=None)


def _device_note(results: Results) -> str:
    peaks = [memory.device for memory in results.memory.values() if memory.device is not None]
    return f"; on the device at most {w.memory(max(peaks))}" if peaks else ""


def arm_cost_table(results: Results) -> Table:
    """Cost of each arm alone, beside its accuracy."""
    numbers = ("training", "in all", "× W", "a question", "ID", "OOD")
    table = Table("Cost and accuracy of the arms", columns("arm", right=numbers))
    for arm in without_experts(results.arm_costs):
        cost = results.arm_costs[arm]
        cells = results.arms.get(arm, {})
        table.add(
            w.arm_label(arm),
            w.large(cost.training) if cost.training else "–",
            w.large(cost.total) if cost.total else "–",
            w.cost_times(results, arm),
            w.large(cost.answer),
            *("" if split not in cells else w.percent(cells[split].accuracy) for split in TEST_SPLITS),
            group=arm_spec(arm).side,
            strong=is_boosted(arm),
        )
    table.notes = [
        "Floating-point operations, as if each arm were built alone. In all: with the passes that boosting takes "
        "its errors from, and for students with their teachers and labels; rounds that validation did not choose are "
        "left out.",
        f"W: {w.arm_label(results.weak)}. A question: one answer on the ID test.",
    ]
    return table

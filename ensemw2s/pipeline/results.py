"""From the scoreboard of a run to ``results.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemw2s.config import config_fingerprint
from ensemw2s.data.example import SPLITS
from ensemw2s.evaluation import ModelInfo, Results, build_comparisons, write_correct
from ensemw2s.pipeline.arms import TESTS
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.runs.stage import versions

if TYPE_CHECKING:
    from ensemw2s.pipeline.run import Progress


def build_results(ctx: Context, state: Progress, preset: str | None) -> dict[str, Any]:
    """Put all numbers of a run together and write ``results.json`` and ``correct.parquet``.

    Returns:
        The content of ``results.json``.
    """
    comparisons = build_comparisons(state.board.correct, level=ctx.config.evaluation.level)
    results = Results(
        name=ctx.config.name,
        seed=ctx.seed,
        task=ctx.config.task,
        config_fingerprint=config_fingerprint(ctx.config),
        arms=state.board.results,
        preset=preset,
        level=ctx.config.evaluation.level,
        versions=versions(),
        models={side: _model_info(ctx, side) for side in ("weak", "strong")},
        split_sizes={name: len(ctx.splits[name]) for name in SPLITS},
        rounds=state.rounds,
        selected_rounds=state.selected,
        stop_reason=None if state.boosting is None else state.boosting.stopped,
        labels=state.labels,
        differences=comparisons.differences,
        pgr=comparisons.pgr,
        times=_times(ctx.run.path),
    )
    ids: dict[str, list[str]] = {split: [example.id for example in ctx.splits[split]] for split in TESTS}
    write_correct(ctx.run.path / "correct.parquet", state.board.correct, ids)
    results.write(ctx.run.results_path)
    return results.to_json()


def _model_info(ctx: Context, side: Side) -> ModelInfo:
    from ensemw2s.models.info import parameter_count

    config = ctx.base(side).config
    return ModelInfo(source=config.path, parameters=parameter_count(config), revision=config.revision)


def _times(root: Path) -> dict[str, float]:
    """Seconds of every finished stage."""
    times = {}
    for file in sorted(root.rglob("stage.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        times[record["name"]] = round(float(record["seconds"]), 3)
    return times


def summary_of_experts(ctx: Context, state: Progress) -> dict[str, Any]:
    """What ``ew2s train-experts`` ends with."""
    return {
        "run": str(ctx.run.path),
        "ensemble": str(ctx.run.path / "ensemble.json"),
        "selected_rounds": state.selected,
        "stop_reason": None if state.boosting is None else state.boosting.stopped,
        "rounds": {name: [r.to_json() for r in rounds] for name, rounds in state.rounds.items()},
        "arms": {arm: {s: r.to_json() for s, r in splits.items()} for arm, splits in state.board.results.items()},
    }


def summary_of_labels(ctx: Context, state: Progress) -> dict[str, Any]:
    """What ``ew2s label`` ends with."""
    return {
        **summary_of_experts(ctx, state),
        "labels": {
            name: {"folder": str(ctx.run.path / "labels" / name), **found.to_json()}
            for name, found in state.labels.items()
        },
    }

"""Scores of models on the splits: kept split by split, so that new data or settings score again what they touch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ensemw2s.stage_names as stage
from ensemw2s.config.training import ModelConfig
from ensemw2s.data.example import SplitName
from ensemw2s.pipeline.accounting import spend_split
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.pipeline.parts import ensure_parts

if TYPE_CHECKING:
    from ensemw2s.models.loading.load import LoadedModel


def score_splits(
    ctx: Context, name: str, side: Side, model: ModelConfig, mark: str, splits: Sequence[SplitName]
) -> Path:
    """Teacher-forced scores of a model on splits, below ``NAME/scores``; the model is loaded if any are missing.

    Args:
        ctx: the run.
        name: the model's stage.
        side: whose tokenizer.
        model: how to load it.
        mark: fingerprint of the model.
        splits: what it is scored on.

    Returns:
        The folder with one :class:`~ensemw2s.models.inference.score_table.ScoreTable` a split.
    """
    from ensemw2s.models.inference.score_table import ScoreTable
    from ensemw2s.models.inference.scoring import score_split
    from ensemw2s.models.loading.device import resolve_device
    from ensemw2s.models.loading.load import load_model

    @cache
    def loaded() -> LoadedModel:
        return load_model(model, resolve_device(ctx.config.compute))

    def work(part: str, partial: Path) -> None:
        split = cast("SplitName", part)
        spend_split(ctx, side, split)
        table = score_split(
            loaded(),
            ctx.encoded(side, split, ctx.scoring_view(split)),
            compute=ctx.config.compute,
            top_k=ctx.config.ensemble.top_k,
            sink=ctx.sink,
            tag=f"{stage.scores(name)}/{split}",
        )
        table.save(partial)

    parts = {str(split): _inputs(ctx, side, mark, split) for split in splits}
    folder = ensure_parts(ctx, stage.scores(name), parts, work)
    for split in splits:  # of older versions, which recorded no checksums
        enc = ctx.encoded(side, split, ctx.scoring_view(split))
        ScoreTable.load(folder / split, rows=len(enc.row_tokens), answers=len(enc.answer_rows(include_eos=True)[0]))
    return folder


def _inputs(ctx: Context, side: Side, mark: str, split: SplitName) -> dict[str, Any]:
    view = ctx.scoring_view(split)
    return {
        "model": mark,
        "split": [view, ctx.encoded(side, split, view).fingerprint()],
        # Candidates are kept at true answers only, and no split shows hidden ones.
        "top_k": None if view == "hidden" else ctx.config.ensemble.top_k,
        "numerics": ctx.numerics,
    }

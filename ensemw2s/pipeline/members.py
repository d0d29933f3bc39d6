"""Models of a run: trained (or taken as they are), scored on the splits, and kept as one stage each."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemw2s.config.training import ModelConfig, TrainingConfig
from ensemw2s.data.example import SplitName
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.seeds import sub_seed

if TYPE_CHECKING:
    from ensemw2s.models.losses import LossConfig
    from ensemw2s.models.scores import ScoreTable
    from ensemw2s.models.training_set import TrainingSet

_TRAINED = "trained.json"


@dataclass(frozen=True)
class Member:
    """A model with its kept scores.

    Attributes:
        name: the stage's name.
        folder: the stage's folder.
        model: how to load the model.
    """

    name: str
    folder: Path
    model: ModelConfig

    def table(self, split: SplitName) -> ScoreTable:
        """The scores on a split."""
        from ensemw2s.models.scores import ScoreTable

        return ScoreTable.load(self.folder / "scores" / split)  # memory maps: opening them again costs nothing


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned.

    Attributes:
        data: the training set.
        config: steps, batch size, learning rate and so on.
        loss: which loss.
        loss_constant: what a sequence's loss is divided by.
        seed: for the order of the data and new weights.
    """

    data: TrainingSet
    config: TrainingConfig
    loss: LossConfig
    loss_constant: float
    seed: int


def base_member(ctx: Context, name: str, side: Side, splits: Sequence[SplitName]) -> Member:
    """A base before any fine-tuning, scored on the splits."""
    inputs = {"base": ctx.base(side).fingerprint, **_score_inputs(ctx, side, splits)}
    folder = ctx.run.ensure(
        name,
        inputs,
        lambda partial: _score(ctx, name, side, ctx.base(side).config, partial, splits),
        resume=True,
        sink=ctx.sink,
    )
    return Member(name, folder, ctx.base(side).config)


def trained_member(ctx: Context, name: str, side: Side, recipe: Recipe, splits: Sequence[SplitName]) -> Member:
    """A base fine-tuned by a recipe and scored on the splits."""
    training = recipe.config.model_dump(exclude={"log_steps", "checkpoint_steps", "report_to"})
    inputs = {
        "base": ctx.base(side).fingerprint,
        "training_set": recipe.data.fingerprint(),
        "training": training,
        "loss": dataclasses.asdict(recipe.loss),
        "loss_constant": recipe.loss_constant,
        "seed": recipe.seed,
        **_score_inputs(ctx, side, splits),
    }

    def work(partial: Path) -> None:
        _fine_tune(ctx, name, side, recipe, partial)
        _score(ctx, name, side, _model_in(ctx, side, partial), partial, splits)

    folder = ctx.run.ensure(name, inputs, work, seed=recipe.seed, resume=True, sink=ctx.sink)
    return Member(name, folder, _model_in(ctx, side, folder))


def member_seed(ctx: Context, *names: str | int) -> int:
    """A 31-bit seed for one fine-tuning (``transformers`` takes no larger ones)."""
    return sub_seed(ctx.seed, *names, bits=31)


def _model_in(ctx: Context, side: Side, folder: Path) -> ModelConfig:
    return ctx.base(side).config.model_copy(update={"path": str(folder / "model"), "revision": None})


def _score_inputs(ctx: Context, side: Side, splits: Sequence[SplitName]) -> dict[str, Any]:
    views = {split: ctx.scoring_view(split) for split in splits}
    return {
        "splits": {split: [view, ctx.encoded(side, split, view).fingerprint()] for split, view in views.items()},
        "top_k": ctx.config.ensemble.top_k,
        "numerics": ctx.numerics,
    }


def _fine_tune(ctx: Context, name: str, side: Side, recipe: Recipe, partial: Path) -> None:
    """Fine-tune into ``partial/model``, unless an interrupted start already did."""
    from ensemw2s.models.finetune import finetune

    done = partial / _TRAINED
    if done.exists():
        return
    result = finetune(
        ctx.base(side).config,
        recipe.data,
        recipe.config,
        partial / "model",
        seed=recipe.seed,
        loss=recipe.loss,
        loss_constant=recipe.loss_constant,
        compute=ctx.config.compute,
        sink=ctx.sink,
        tag=name,
    )
    temporary = done.with_name(_TRAINED + ".tmp")
    temporary.write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n", encoding="utf-8")
    temporary.replace(done)


def _score(ctx: Context, name: str, side: Side, model: ModelConfig, partial: Path, splits: Sequence[SplitName]) -> None:
    from ensemw2s.models.device import resolve_device
    from ensemw2s.models.load import load_model
    from ensemw2s.models.scoring import score_split

    loaded = load_model(model, resolve_device(ctx.config.compute))
    for split in splits:
        folder = partial / "scores" / split
        if folder.exists():
            continue
        enc = ctx.encoded(side, split, ctx.scoring_view(split))
        table = score_split(
            loaded,
            enc,
            compute=ctx.config.compute,
            top_k=ctx.config.ensemble.top_k,
            sink=ctx.sink,
            tag=f"{name}/{split}",
        )
        unfinished = folder.with_name(f"{split}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        table.save(unfinished)
        unfinished.rename(folder)

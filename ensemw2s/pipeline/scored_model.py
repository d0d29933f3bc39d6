"""Models of a run: trained (or taken as they are) and scored on the splits, each in its own stages."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemw2s.checksums import checksums_below, problems, read_sealed, sealed
from ensemw2s.config.training import ModelConfig, TrainingConfig
from ensemw2s.data.example import SplitName
from ensemw2s.errors import DamagedError
from ensemw2s.files import read_json, write_json
from ensemw2s.pipeline.accounting import spend_training
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.pipeline.scoring import score_splits
from ensemw2s.registry import STUDENT_LOSSES
from ensemw2s.runs import fingerprint
from ensemw2s.seeds import sub_seed

if TYPE_CHECKING:
    from ensemw2s.models.inference.score_table import ScoreTable
    from ensemw2s.models.training.losses import LossConfig
    from ensemw2s.models.training.training_set import TrainingSet

_TRAINED = "trained.json"


@dataclass(frozen=True)
class Member:
    """A model with its kept scores.

    Attributes:
        name: the stage's name, and its folder in the run directory.
        folder: that folder; ``scores`` in it has a table for each split.
        model: how to load the model.
        fingerprint: of what the model was made from.
    """

    name: str
    folder: Path
    model: ModelConfig
    fingerprint: str

    def table(self, split: SplitName) -> ScoreTable:
        """The scores on a split."""
        from ensemw2s.models.inference.score_table import ScoreTable

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
    base = ctx.base(side)
    score_splits(ctx, name, side, base.config, base.fingerprint, splits)
    return Member(name, ctx.run.path / name, base.config, base.fingerprint)


def trained_member(ctx: Context, name: str, side: Side, recipe: Recipe, splits: Sequence[SplitName]) -> Member:
    """A base fine-tuned by a recipe and scored on the splits."""
    inputs = training_inputs(ctx, side, recipe)

    def work(partial: Path) -> None:
        _fine_tune(ctx, name, side, recipe, partial)
        spend_training(ctx, side, partial / _TRAINED, recipe.config)

    folder = ctx.ensure(name, inputs, work, seed=recipe.seed, resume=True)
    model = ctx.base(side).config.model_copy(update={"path": str(folder / "model"), "revision": None})
    member = Member(name, folder, model, _fingerprint(ctx, name, inputs))
    score_splits(ctx, name, side, model, member.fingerprint, splits)
    return member


def training_inputs(ctx: Context, side: Side, recipe: Recipe) -> dict[str, Any]:
    """Everything that a fine-tuned model depends on: two models with the same inputs are the same model."""
    plugin = STUDENT_LOSSES.origin(recipe.loss.kind)
    return {
        "base": ctx.base(side).fingerprint,
        "training_set": recipe.data.fingerprint(),
        "training": recipe.config.model_dump(exclude={"log_steps", "checkpoint_steps", "report_to"}),
        "loss": dataclasses.asdict(recipe.loss) | ({} if plugin is None else {"plugin": plugin}),
        "loss_constant": recipe.loss_constant,
        "seed": recipe.seed,
        "numerics": ctx.numerics,
    }


def clipped_share(folder: Path) -> float | None:
    """Share of the steps of a finished fine-tuning whose gradient was clipped; None for other stages."""
    done = folder / _TRAINED
    share = (read_json(done) or {}).get("clipped")
    return None if share is None else float(share)


def _fingerprint(ctx: Context, name: str, inputs: dict[str, Any]) -> str:
    """Of what a model was made from, and of its weights: two trainings may differ where a device adds in any order."""
    record = ctx.run.stage_record(name)
    if record is None or record.files is None:  # of an older version
        return fingerprint(inputs)
    weights = {file: found for file, found in record.files.items() if file.endswith(".safetensors")}
    return fingerprint({**inputs, "weights": weights})


def member_seed(ctx: Context, *names: str | int) -> int:
    """A 31-bit seed for one fine-tuning (``transformers`` takes no larger ones)."""
    return sub_seed(ctx.seed, *names, bits=31)


def _fine_tune(ctx: Context, name: str, side: Side, recipe: Recipe, partial: Path) -> None:
    """Fine-tune into ``partial/model``, unless an interrupted start already did."""
    from ensemw2s.models.training.finetune import finetune

    done = partial / _TRAINED
    if _is_trained(ctx, done):
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
    write_json(done, sealed({**dataclasses.asdict(result), "files": checksums_below(partial / "model")}))


def _is_trained(ctx: Context, done: Path) -> bool:
    """Whether an interrupted start finished the model; one that is damaged is removed."""
    try:
        record = read_sealed(done)
        files = None if record is None else record.get("files")
        if files is None:
            return False
        for problem in problems(done.parent / "model", files):
            raise problem
    except DamagedError as error:
        text = f"{error.path.relative_to(ctx.run.path).as_posix()} of an interrupted start is damaged ({error.why})"
        ctx.sink.event("message", level="warning", text=f"{text}; the model is trained again.")
        done.unlink()
        shutil.rmtree(done.parent / "model", ignore_errors=True)
        return False
    return True

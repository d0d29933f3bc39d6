"""Fine-tunes models and scores them teacher-forced; the model and the scores of each split are stages."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ensemw2s.stage_names as stage
from ensemw2s.checksums import checksums_below, problems, read_sealed, sealed
from ensemw2s.config.training import ModelConfig, TrainingConfig
from ensemw2s.data.example import SplitName
from ensemw2s.errors import DamagedError
from ensemw2s.evaluation.cost import LOOKS
from ensemw2s.files import read_json, write_json
from ensemw2s.pipeline.accounting import count_scoring, count_training
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.registry import STUDENT_LOSSES
from ensemw2s.runs.stage import fingerprint
from ensemw2s.seeds import sub_seed

if TYPE_CHECKING:
    from ensemw2s.models.inference.score_table import ScoreTable
    from ensemw2s.models.loading.load import LoadedModel
    from ensemw2s.models.training.losses import LossConfig
    from ensemw2s.models.training.training_set import TrainingSet
    from ensemw2s.pipeline.held_out import HeldOut

_TRAINED = "trained.json"


@dataclass(frozen=True)
class ScoredModel:
    """A model with its kept scores.

    Attributes:
        name: the stage's name, and its folder in the run directory.
        folder: that folder; ``scores`` in it has a table for each split.
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
    """Inputs of a fine-tuning.

    Attributes:
        data: the training set.
        config: steps, batch size, learning rate and so on.
        loss_constant: what a sequence's loss is divided by.
        seed: for the order of the data and new weights.
        start: the model that it goes on from; None starts from the base.
        held_out: labels by which it is ended early, or None.
    """

    data: TrainingSet
    config: TrainingConfig
    loss: LossConfig
    loss_constant: float
    seed: int
    start: ScoredModel | None = None
    held_out: HeldOut | None = None


def scored_base(ctx: Context, side: Side, splits: Sequence[SplitName]) -> ScoredModel:
    """A base before any fine-tuning, scored on the splits."""
    found = base_model(ctx, side)
    score_splits(ctx, found.name, side, found.model, found.fingerprint, splits)
    return found


def base_model(ctx: Context, side: Side) -> ScoredModel:
    """A base before any fine-tuning, whose scores may not be there yet."""
    base, name = ctx.base(side), stage.zero_shot(side)
    return ScoredModel(name, ctx.run.path / name, base.config, base.fingerprint)


def trained_model(ctx: Context, name: str, side: Side, recipe: Recipe, splits: Sequence[SplitName]) -> ScoredModel:
    """A base fine-tuned by a recipe and scored on the splits."""
    inputs = training_inputs(ctx, side, recipe)

    def work(partial: Path) -> None:
        _fine_tune(ctx, name, side, recipe, partial)
        count_training(ctx, side, partial / _TRAINED, recipe.config)
        if recipe.held_out is not None:
            looks = len((read_json(partial / _TRAINED) or {})["looks"])
            count_scoring(ctx, side, LOOKS, recipe.held_out.enc, models=looks)
        if (text := early_stop(name, partial)) is not None:
            ctx.sink.event("message", level="info", text=text)

    folder = ctx.ensure(name, inputs, work, seed=recipe.seed, resume=True)
    model = ctx.base(side).config.model_copy(update={"path": str(folder / "model"), "revision": None})
    member = ScoredModel(name, folder, model, _fingerprint(ctx, name, inputs))
    score_splits(ctx, name, side, model, member.fingerprint, splits)
    return member


def training_inputs(ctx: Context, side: Side, recipe: Recipe) -> dict[str, Any]:
    """Everything that a fine-tuned model depends on: two models with the same inputs are the same model."""
    plugin = STUDENT_LOSSES.origin(recipe.loss.kind)
    return {
        "base": ctx.base(side).fingerprint,
        "training_set": recipe.data.fingerprint(),
        "training": recipe.config.decisive(),
        "loss": dataclasses.asdict(recipe.loss) | ({} if plugin is None else {"plugin": plugin}),
        "loss_constant": recipe.loss_constant,
        "seed": recipe.seed,
        "numerics": ctx.numerics,
        **({} if recipe.start is None else {"start": recipe.start.fingerprint}),
        **({} if recipe.held_out is None else {"early_stop": recipe.held_out.watch.inputs()}),
    }


def clipped_share(folder: Path) -> float | None:
    """Share of the steps of a finished fine-tuning whose gradient was clipped; None for other stages."""
    done = folder / _TRAINED
    share = (read_json(done) or {}).get("clipped")
    return None if share is None else float(share)


def early_stop(name: str, folder: Path) -> str | None:
    """What early stopping did to the finished fine-tuning of a stage, in words; None where it did not end it."""
    done = read_json(folder / _TRAINED) or {}
    steps, kept, looks = (done.get(what) for what in ("steps", "kept", "looks"))
    if not looks or steps == kept:
        return None
    agreement = next(look for step, look in looks if step == kept)
    return (
        f"{name} ended after {steps} optimiser steps and keeps the weights of step {kept}, which agree with "
        f"{100 * agreement:.1f} % of the labels held out."
    )


def _fingerprint(ctx: Context, name: str, inputs: dict[str, Any]) -> str:
    """Of what a model was made from, and of its weights: two trainings may differ where a device adds in any order."""
    record = ctx.run.stages.record(name)
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
        start=None if recipe.start is None else Path(recipe.start.model.path),
        watch=None if recipe.held_out is None else recipe.held_out.watch,
        loss=recipe.loss,
        loss_constant=recipe.loss_constant,
        compute=ctx.config.compute,
        sink=ctx.sink,
        tag=name,
        trunk=ctx.trunk,
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


def score_splits(
    ctx: Context, name: str, side: Side, model: ModelConfig, mark: str, splits: Sequence[SplitName]
) -> None:
    """Teacher-forced scores of a model on splits, below ``NAME/scores``; the model is loaded if any are missing.

    ``name`` is the model's stage, ``side`` the base whose tokenizer it has, ``mark`` its fingerprint. The folder of
    each split is a :class:`~ensemw2s.models.inference.score_table.ScoreTable`.
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
        enc = ctx.encoded(side, split, ctx.scoring_view(split))
        count_scoring(ctx, side, split, enc)
        table = score_split(
            loaded(),
            enc,
            compute=ctx.config.compute,
            top_k=ctx.config.ensemble.top_k,
            sink=ctx.sink,
            tag=f"{stage.scores(name)}/{split}",
            trunk=ctx.trunk,
        )
        table.save(partial)

    parts = {str(split): _scoring_inputs(ctx, side, mark, split) for split in splits}
    folder = ctx.ensure_parts(stage.scores(name), parts, work)
    for split in splits:  # of older versions, which recorded no checksums
        enc = ctx.encoded(side, split, ctx.scoring_view(split))
        ScoreTable.load(folder / split, rows=len(enc.row_tokens), answers=len(enc.answer_rows(include_eos=True)[0]))


def _scoring_inputs(ctx: Context, side: Side, mark: str, split: SplitName) -> dict[str, Any]:
    view = ctx.scoring_view(split)
    return {
        "model": mark,
        "split": [view, ctx.encoded(side, split, view).fingerprint()],
        # Candidates are kept at true answers only, and no split shows hidden ones.
        "top_k": None if view == "hidden" else ctx.config.ensemble.top_k,
        "numerics": ctx.numerics,
    }

"""The data stage: five disjoint splits; and whether the inputs of a finished run have changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ensemw2s.stage_names as stage
from ensemw2s.config.data import DataConfig, SourceConfig
from ensemw2s.config.keys import plugins
from ensemw2s.config.schema import RunConfig
from ensemw2s.data.example import Example
from ensemw2s.pipeline.context import Context
from ensemw2s.runs.directory import RunDirectory
from ensemw2s.seeds import sub_seed


def prepare_data(ctx: Context) -> None:
    """Make the splits, or read those of an earlier start, and put them into the context."""
    from ensemw2s.data.encode import same_tokens
    from ensemw2s.data.split import make_splits, noise_phrase
    from ensemw2s.data.store import read_splits, write_splits
    from ensemw2s.data.tokenizer import tokenizer_identity

    config = ctx.config.data
    seed = sub_seed(ctx.seed if config.seed is None else config.seed, "data")
    inputs: dict[str, Any] = {
        "data": config.model_dump(exclude={"template", "seed"} | (set() if config.label_noise else {"label_noise"})),
        "task": ctx.config.task,
        "seed": seed,
        "files": {name: file_hashes(source) for name, source in sources_of(config).items()},
    }
    used = plugins(ctx.config, "data.")
    inputs |= {"plugins": used} if used else {}
    bases = [ctx.weak, ctx.strong] if ctx.config.task == "choice" else []
    if bases:
        inputs["template"] = ctx.template.model_dump(include={"prompt", "answer", "chat", "system"})
        inputs["tokenizers"] = [tokenizer_identity(base.tokenizer) for base in bases]

    def indistinct(examples: Sequence[Example]) -> set[str]:
        """Ids of the questions of which two options have the same tokens for either base: being right would be luck."""
        return {name for base in bases for name in same_tokens(examples, base.tokenizer, ctx.template)}

    def work(partial: Path) -> None:
        write_splits(make_splits(config, seed, ctx.config.task, indistinct if bases else None), partial)

    splits = read_splits(ctx.ensure(stage.DATA, inputs, work, seed=seed))
    ctx.splits = splits
    if noise := noise_phrase(splits.notes):
        ctx.notes.append(f"{noise[0].upper()}{noise[1:]}; all other splits have true ones.")
    train = ctx.encoded("weak", "train", "answers")
    ctx.sink.event(
        "data_ready",
        counts={name: len(splits[name]) for name in ("train", "validation", "test", "hard_pool", "hard_test")},
        tokens=int((~train.is_eos).sum()),
        notes=splits.notes,
    )


def sources_of(data: DataConfig) -> dict[str, SourceConfig]:
    """The sources of a configuration by the names of their keys."""
    return {"source": data.source} | ({} if data.hard_source is None else {"hard_source": data.hard_source})


def file_hashes(source: SourceConfig) -> list[list[str]]:
    """Names and content hashes of what a source reads, the hub's commit included: changed data is noticed."""
    from ensemw2s.data.sources import source_identity

    return source_identity(source)


def changed_inputs(config: RunConfig, run_dir: Path) -> list[str]:
    """Inputs that a run would read differently now: data files and base models, by their content.

    Returns:
        Names such as ``data.source`` or ``models.weak``; empty if nothing changed.

    Raises:
        DataError: a data file is gone.
        ModelError: a base model is gone.
    """
    from ensemw2s.models.loading.fingerprint import model_fingerprint

    run = RunDirectory.open(run_dir)
    data, weak = run.stages.record(stage.DATA), run.stages.record(f"{stage.scores(stage.zero_shot('weak'))}/test")
    if data is None or weak is None:
        return ["stages that are missing"]
    now = {name: file_hashes(source) for name, source in sources_of(config.data).items()}
    found = [f"data.{name}" for name, hashes in now.items() if data.inputs["files"].get(name) != hashes]
    if weak.inputs["model"] != model_fingerprint(config.models.weak):
        found.append("models.weak")
    names = [*map(stage.student, config.teachers)] + ([stage.ceiling()] if config.arms.ceiling else [])
    for name in names[:1]:
        strong = run.stages.record(name)
        if strong is None or strong.inputs["base"] != model_fingerprint(config.models.strong):
            found.append("models.strong")
    return found

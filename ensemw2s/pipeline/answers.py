"""Greedy answers to a split's questions, decoded once for the same models and weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ensemw2s.stage_names as stage
from ensemw2s.checksums import check_stage_files
from ensemw2s.data.example import SplitName
from ensemw2s.ensemble.combine.option_scores import normalise
from ensemw2s.ensemble.decoded import decode_answers
from ensemw2s.errors import DataError
from ensemw2s.files import parse_json, write_text
from ensemw2s.pipeline.accounting import counted_decoding
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.pipeline.scored_model import ScoredModel
from ensemw2s.runs.stage import fingerprint

FILE_NAME = "answers.jsonl"


def written_answers(
    ctx: Context, who: str, side: Side, members: Sequence[ScoredModel], alphas: Sequence[float], split: SplitName
) -> list[dict[str, Any]]:
    """Answers of an ensemble to a split's prompts; one stage.

    Where the same members with the same weights have answered already, under another name, theirs are copied.
    ``alphas`` need not be normalised; true answers are not read.

    Returns:
        ``id``, ``text`` and ``confidence`` of every answer.
    """
    name = stage.answers(who, split)
    shares = normalise(alphas).tolist()
    decoding = ctx.config.labelling.decoding.model_copy(update={"method": "greedy"})
    inputs = {
        "members": [member.fingerprint for member in members],
        "alphas": shares,
        "rule": rule_of(ctx, members),
        "prompts": ctx.encoded(side, split, "hidden").fingerprint(),
        "max_new_tokens": decoding.max_new_tokens,
        "numerics": ctx.numerics,
    }
    mark = fingerprint(inputs)

    def work(partial: Path) -> None:
        same = ctx.decoded.get(mark)
        if same is not None:
            shutil.copyfile(ctx.run.path / same / FILE_NAME, partial / FILE_NAME)
            return
        rows = _decode(ctx, name, side, members, shares, split)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(partial / FILE_NAME, text)

    folder = ctx.ensure(name, inputs, work)
    ctx.decoded.setdefault(mark, name)
    ctx.answered[name] = ctx.decoded[mark]
    return read_answers(folder)


def read_answers(folder: Path) -> list[dict[str, Any]]:
    """The rows of a finished stage.

    Raises:
        DamagedError: the file is not what was written.
        DataError: a line is no answer.
    """
    check_stage_files(folder)
    rows = []
    with (folder / FILE_NAME).open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = parse_json(line)
                rows.append({"id": str(row["id"]), "text": str(row["text"]), "confidence": float(row["confidence"])})
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"{folder / FILE_NAME}:{number}: this line is no answer ({error}).",
                    hint="Remove that folder; the command of its run makes it again.",
                ) from error
    return rows


def rule_of(ctx: Context, members: Sequence[ScoredModel]) -> str:
    """Combination of the members; a single one is the same under every rule."""
    return ctx.config.ensemble.rule if len(members) > 1 else "mixture"


def prompt_tokens(ctx: Context, side: Side, split: SplitName) -> list[NDArray[np.int32]]:
    """A split's prompts, each with room for the longest answer in the base's context.

    Raises:
        DataError: a prompt leaves no room.
    """
    from ensemw2s.data.encode import encode_prompts

    base = ctx.base(side)
    room = None if base.max_length is None else base.max_length - ctx.config.labelling.decoding.max_new_tokens
    hidden = [example.hide_answer() for example in ctx.splits[split]]
    return encode_prompts(hidden, base.tokenizer, ctx.template, room)


def _decode(
    ctx: Context, name: str, side: Side, members: Sequence[ScoredModel], shares: Sequence[float], split: SplitName
) -> list[dict[str, Any]]:
    from ensemw2s.models.loading.adapters import opened_models

    with (
        opened_models([member.model for member in members], ctx.config.compute) as models,
        counted_decoding(ctx, side, split) as sink,
    ):
        answers = decode_answers(
            models,
            shares,
            prompt_tokens(ctx, side, split),
            decoding=ctx.config.labelling.decoding.model_copy(update={"method": "greedy"}),
            rule=rule_of(ctx, members),
            compute=ctx.config.compute,
            sink=sink,
            tag=name,
        )
    rows = zip(ctx.splits[split], answers.texts, answers.confidence.tolist(), strict=True)
    return [{"id": example.id, "text": text, "confidence": confidence} for example, text, confidence in rows]

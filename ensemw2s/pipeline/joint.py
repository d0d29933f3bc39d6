"""Joint scoring of several models, at the rows that their separate scores leave open; a stage of its own.

``rule: product`` needs the whole distributions to normalise by, and the kept candidates may leave an ensemble's
arg-max open. These rows are scored with all members in memory; everything else comes from the members' own scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ensemw2s.arrays import load_array
from ensemw2s.checksums import check_stage_files
from ensemw2s.data.example import SplitName
from ensemw2s.ensemble.combine.argmax import ensemble_argmax
from ensemw2s.ensemble.combine.option_scores import normalise
from ensemw2s.pipeline.accounting import count_scoring
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.joint_table import Ints, JointTable, Shares
from ensemw2s.pipeline.scored_model import ScoredModel

if TYPE_CHECKING:
    from ensemw2s.models.inference.joint_scoring import JointScores
    from ensemw2s.models.loading.load import LoadedModel


_FIELDS = ("rows", "target_logprob", "argmax")


def prepare_joint(
    ctx: Context,
    name: str,
    members: Sequence[ScoredModel],
    weightings: Sequence[Sequence[float]],
    splits: Sequence[SplitName],
) -> None:
    """Score several weightings of the same weak models together, at the rows that need it; one pass, one stage.

    There is no stage ``name`` where nothing is open. Weights need not be normalised; 0 leaves a model out.
    """
    wanted = list(dict.fromkeys(tuple(normalise(weights).tolist()) for weights in weightings))
    rows = {split: _open_rows(ctx, members, wanted, split) for split in splits}
    asked = {split: found for split, found in rows.items() if found.size}
    if asked:
        _score(ctx, name, members, wanted, asked)
    for split in splits:
        for number, shares in enumerate(wanted):
            found = None
            if split in asked:
                found = _load(ctx.run.path / name / split, asked[split], len(wanted), number)
            ctx.joint.put([member.name for member in members], shares, split, found)


def joint_of(
    ctx: Context, members: Sequence[ScoredModel], alphas: Sequence[float], split: SplitName
) -> JointTable | None:
    """Joint scores of :func:`prepare_joint`; None where the separate scores leave nothing open."""
    shares = tuple(normalise(alphas).tolist())
    if sum(share > 0.0 for share in shares) < 2:
        return None
    return ctx.joint.get([member.name for member in members], shares, split)


def joint_candidates(
    ctx: Context, members: Sequence[ScoredModel], alphas: Sequence[float], split: SplitName, sequences: Ints, top_k: int
) -> JointScores:
    """The members' own candidates at all rows of some sequences, kept nowhere: part of another stage's work."""
    from ensemw2s.models.inference.joint_scoring import score_joint, sequence_rows
    from ensemw2s.models.loading.adapters import opened_models

    enc = ctx.encoded("weak", split, ctx.scoring_view(split))
    count_scoring(ctx, "weak", "together", enc, sequences, len(members))
    with opened_models([member.model for member in members], ctx.config.compute) as models:
        return score_joint(
            models,
            alphas,
            enc,
            sequence_rows(enc, sequences),
            rule=ctx.config.ensemble.rule,
            compute=ctx.config.compute,
            top_k=top_k,
            sink=ctx.sink,
            tag="together",
            trunk=ctx.trunk,
        )


def _open_rows(ctx: Context, members: Sequence[ScoredModel], weightings: Sequence[Shares], split: SplitName) -> Ints:
    """Rows at which some weighting needs the models, int64, rising."""
    enc = ctx.encoded("weak", split, ctx.scoring_view(split))
    rule = ctx.config.ensemble.rule
    mixed = [shares for shares in weightings if sum(share > 0.0 for share in shares) > 1]
    if mixed and rule == "product" and ctx.config.task == "choice":
        return np.flatnonzero(~enc.is_eos).astype(np.int64)
    rows, _ = enc.answer_rows(include_eos=True)
    needed = np.zeros(rows.size, dtype=np.bool_)
    if rows.size:
        tables = [member.table(split) for member in members]
        for shares in mixed:
            needed |= ~ensemble_argmax(tables, shares, rule, enc.vocab_size)[1]
    return np.asarray(rows[needed & ~enc.is_eos[rows]], dtype=np.int64)


def _score(
    ctx: Context, name: str, members: Sequence[ScoredModel], weightings: list[Shares], rows: dict[SplitName, Ints]
) -> None:
    from ensemw2s.models.inference.joint_scoring import score_joint_each
    from ensemw2s.models.loading.adapters import opened_models

    with ExitStack() as stack:

        @cache
        def models() -> list[LoadedModel]:
            return stack.enter_context(opened_models([member.model for member in members], ctx.config.compute))

        def work(part: str, partial: Path) -> None:
            split = cast("SplitName", part)
            enc = ctx.encoded("weak", split, ctx.scoring_view(split))
            asked = np.unique(np.searchsorted(enc.row_offsets, rows[split], side="right") - 1)
            count_scoring(ctx, "weak", "together", enc, asked, len(members))
            found = score_joint_each(
                models(),
                weightings,
                enc,
                rows[split],
                rule=ctx.config.ensemble.rule,
                compute=ctx.config.compute,
                sink=ctx.sink,
                tag=f"{name}/{split}",
                trunk=ctx.trunk,
            )
            arrays = (rows[split], *(np.stack([getattr(one, what) for one in found]) for what in _FIELDS[1:]))
            for what, array in zip(_FIELDS, arrays, strict=True):
                np.save(partial / f"{what}.npy", array, allow_pickle=False)

        ctx.ensure_parts(name, {split: _inputs(ctx, members, weightings, split, rows[split]) for split in rows}, work)


def _inputs(
    ctx: Context, members: Sequence[ScoredModel], weightings: list[Shares], split: SplitName, rows: Ints
) -> dict[str, Any]:
    view = ctx.scoring_view(split)
    return {
        "members": [member.fingerprint for member in members],
        "weightings": weightings,
        "rule": ctx.config.ensemble.rule,
        "split": [view, ctx.encoded("weak", split, view).fingerprint()],
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        "numerics": ctx.numerics,
    }


def _load(folder: Path, rows: Ints, weightings: int, number: int) -> JointTable:
    check_stage_files(folder)
    kinds = ((np.int64, (rows.size,)), (np.float32, (weightings, rows.size)), (np.int32, (weightings, rows.size)))
    found, targets, argmax = (
        load_array(folder / f"{what}.npy", *kind) for what, kind in zip(_FIELDS, kinds, strict=True)
    )
    return JointTable(found, targets[number], argmax[number])

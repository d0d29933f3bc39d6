"""The final evaluation: who has which test example right, for every arm."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.method import DecodingConfig
from ensemw2s.data.example import SplitName
from ensemw2s.evaluation import ArmResult, TokenAccuracy, summarise, text_correct, token_accuracy
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.pipeline.members import Member
from ensemw2s.pipeline.prefixes import choice_correct, token_correct
from ensemw2s.seeds import sub_seed

Bools = NDArray[np.bool_]

#: Where arms are compared: held-out easy (ID) and held-out hard (OOD).
TESTS: tuple[SplitName, ...] = ("test", "hard_test")


@dataclass(frozen=True)
class Arm:
    """Something that answers questions: one model or an ensemble of them."""

    name: str
    side: Side
    members: list[Member]
    alphas: list[float]


@dataclass
class Scoreboard:
    """Results of all arms as they come in.

    Attributes:
        results: arm → split → accuracy with intervals.
        correct: arm → split → right or wrong for every example.
    """

    results: dict[str, dict[str, ArmResult]] = field(default_factory=dict)
    correct: dict[str, dict[str, Bools]] = field(default_factory=dict)


def evaluate_arms(ctx: Context, arms: Iterable[Arm], board: Scoreboard) -> None:
    """Evaluate arms on the test splits and report each."""
    for arm in arms:
        for split in TESTS:
            right = _correct(ctx, arm, split)
            board.correct.setdefault(arm.name, {})[split] = right
            result = summarise(right, level=ctx.config.evaluation.level, tokens=_tokens(ctx, arm, split))
            board.results.setdefault(arm.name, {})[split] = result
            ctx.sink.event(
                "arm_result",
                arm=arm.name,
                split=split,
                accuracy=result.accuracy,
                low=result.low,
                high=result.high,
                n=result.n,
                token_accuracy=None if result.token_accuracy is None else result.token_accuracy.value,
            )


def _tokens(ctx: Context, arm: Arm, split: SplitName) -> TokenAccuracy:
    enc = ctx.encoded(arm.side, split, ctx.scoring_view(split))
    _, offsets = enc.answer_rows(include_eos=False)
    return token_accuracy(
        token_correct(ctx, arm.members, arm.alphas, split, arm.side),
        offsets,
        level=ctx.config.evaluation.level,
        resamples=ctx.config.evaluation.bootstrap,
        seed=sub_seed(ctx.seed, "bootstrap", split),
    )


def _correct(ctx: Context, arm: Arm, split: SplitName) -> Bools:
    if ctx.config.task == "choice":
        return choice_correct(ctx, arm.members, arm.alphas, split, arm.side)
    texts = _answers(ctx, arm, split)
    true = [example.answer or "" for example in ctx.splits[split]]
    return text_correct(texts, true, ctx.config.evaluation.match, ctx.config.data.template.answer_pattern)


def _answers(ctx: Context, arm: Arm, split: SplitName) -> list[str]:
    """Answers of an arm to a split's prompts, greedily decoded; one stage."""
    decoding = ctx.config.labelling.decoding.model_copy(update={"method": "greedy"})
    inputs = {
        "members": [getattr(ctx.run.stage_record(m.name), "fingerprint", "") for m in arm.members],
        "alphas": arm.alphas,
        "rule": ctx.config.ensemble.rule,
        "prompts": ctx.encoded(arm.side, split, "hidden").fingerprint(),
        "max_new_tokens": decoding.max_new_tokens,
        "numerics": ctx.numerics,
    }
    name = f"answers/{arm.name}/{split}"

    def work(partial: Path) -> None:
        rows = _generate(ctx, arm, split, decoding)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (partial / "answers.jsonl").write_text(text, encoding="utf-8")

    folder = ctx.run.ensure(name, inputs, work, sink=ctx.sink)
    with (folder / "answers.jsonl").open(encoding="utf-8") as stream:
        return [json.loads(line)["text"] for line in stream]


def _generate(ctx: Context, arm: Arm, split: SplitName, decoding: DecodingConfig) -> list[dict[str, str]]:
    from ensemw2s.data.encode import encode_prompts
    from ensemw2s.ensemble.ensemble import clean_text
    from ensemw2s.models.decode import generate
    from ensemw2s.models.load import opened_models

    base = ctx.base(arm.side)
    room = None if base.max_length is None else base.max_length - decoding.max_new_tokens
    examples = [example.hide_answer() for example in ctx.splits[split]]
    with opened_models([member.model for member in arm.members], ctx.config.compute) as models:
        answers = generate(
            models,
            arm.alphas,
            encode_prompts(examples, base.tokenizer, ctx.config.data.template, room),
            decoding=decoding,
            rule=ctx.config.ensemble.rule,
            seed=sub_seed(ctx.seed, "answers", arm.name, split),
            compute=ctx.config.compute,
            sink=ctx.sink,
            tag=f"{arm.name}/{split}",
        )
    return [
        {"id": example.id, "text": clean_text(base.tokenizer, answer.token_ids)}
        for example, answer in zip(examples, answers, strict=True)
    ]

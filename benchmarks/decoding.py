"""Sampling answers with one expert for each token, against sampling from all experts' mixture.

    python benchmarks/decoding.py

Experts are Llamas with random weights in the shape of real ones: time does not depend on the values. Answers never end
by themselves, so both ways write as many tokens. They run in turn, round after round; a ratio is the median over
rounds. Writes ``benchmarks/results/decoding.json`` and ``.md`` and prints the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import markdown_table
from machine import device
from quiet import Usage
from tables import publish
from transformers import LlamaConfig, LlamaForCausalLM

from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.kernels.bench.timing import Run, Stopwatch, timed, wall_clock
from ensemw2s.models.inference.decode import generate
from ensemw2s.models.loading.device import cpu_threads, resolve_device
from ensemw2s.models.loading.load import LoadedModel, load_tokenizer

RESULTS = Path(__file__).parent / "results"
SHAPES: dict[str, dict[str, int]] = {
    "SmolLM2-135M": {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "62k parameters": {
        "vocab_size": 64,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


def experts_of(shape: str, number: int, place: torch.device) -> list[LoadedModel]:
    """Experts with weights of their own."""
    tokenizer = load_tokenizer(ModelConfig(path="embedded:weak"))
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=2048, tie_word_embeddings=True)
    found = []
    for seed in range(number):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval().to(place)
        size = sum(p.numel() for p in model.parameters())
        found.append(LoadedModel(model, tokenizer, shape, None, size, "float32", "sdpa"))
    return found


def measure(experts: list[LoadedModel], answers: int, tokens: int, rounds: int, stopwatch: Stopwatch) -> dict[str, Any]:
    """Seconds of both ways for ``answers`` prompts of 32 tokens, decoded as one batch."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, 60, size=32).astype(np.int32) for _ in range(answers)]
    compute = ComputeConfig(batch_tokens=max(64, answers * (32 + tokens)))

    def decode(way: str, seeds: Iterator[int]) -> None:
        decoding = DecodingConfig.model_validate({"method": "sample", "experts": way, "max_new_tokens": tokens})
        found = generate(
            experts, [1.0] * len(experts), prompts, decoding=decoding, end_ids=[], seed=next(seeds), compute=compute,
            keep_top_k=2,
        )  # fmt: skip
        if sum(len(answer.token_ids) for answer in found) != answers * tokens:
            raise RuntimeError("an answer ended by itself")

    before = Usage.now()
    runs = {way: partial(decode, way, count()) for way in ("all", "one")}  # both ways have the seed of the round
    every, one = timed(runs, rounds=rounds, least=rounds, stopwatch=stopwatch)
    after = Usage.now()
    ratios = [a / b for a, b in zip(every.rounds, one.rounds, strict=True)]
    return {
        "shape": experts[0].source,
        "K": len(experts),
        "answers": answers,
        "tokens": tokens,
        "rounds": rounds,
        "all": statistics.median(every.rounds),
        "one": statistics.median(one.rounds),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "others": None if before is None or after is None else after.others_since(before),
    }


def processor_time(run: Run) -> float:
    """Seconds of the processor that a run takes."""
    start = time.process_time()
    run()
    return time.process_time() - start


def table(cases: list[dict[str, Any]]) -> str:
    """The cases as a Markdown table."""
    names = ["experts", "answers at once", "tokens each", "all, tokens/s", "one, tokens/s", "all / one in time (range)"]
    rows = []
    for case in cases:
        written = case["answers"] * case["tokens"]
        spread = f"×{case['ratio']:.2f} ({case['lowest']:.2f} to {case['highest']:.2f})"
        speeds = [f"{written / case[way]:.3g}" for way in ("all", "one")]
        rows.append([f"{case['K']} × {case['shape']}", case["answers"], case["tokens"], *speeds, spread])
    return markdown_table(names, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--answers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--processor-time", action="store_true", help="seconds of the processor, for one thread on a busy machine"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    compute = ComputeConfig(device=options.device, threads=options.threads)
    place = resolve_device(compute)
    torch.set_num_threads(cpu_threads(compute))
    stopwatch = processor_time if options.processor_time else wall_clock(place)
    cases = []
    for shape in options.shapes:
        experts = experts_of(shape, options.experts, place)
        for answers in options.answers:
            cases.append(measure(experts, answers, options.tokens, options.rounds, stopwatch))
            print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    where = {**device(), "device": str(place), "measured": datetime.now(UTC).isoformat(timespec="seconds")}
    others = max((case["others"] or 0.0 for case in cases), default=0.0)
    text = "# One expert for each token, or all\n\n"
    text += f"{where['cpu']}, {where['threads']} threads, {where['device']}; torch {torch.__version__}; float32. "
    text += "Processor time, on a busy machine. " if options.processor_time else ""
    text += f"Prompts of 32 tokens; {options.rounds} rounds. Other processes had at most "
    text += f"{100 * others:.0f} % of the cores. Both ways end with the mixture's probability of every token.\n"
    text += f"Measured {where['measured']} by `python benchmarks/decoding.py`.\n\n" + table(cases)
    publish(options.out, "decoding", {**where, "cases": cases}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The trainer's own share of a fine-tuning step, against the bare forward pass, backward pass and optimiser step.

    python benchmarks/training.py

The embedded bases are fine-tuned as the preset ``tiny`` says, on its training questions, and then the bare loop makes as
many steps on the same batches, collated beforehand; both run in turn, round after round. A share is one minus the ratio
of the two; a row has its median over rounds. The trainer's steps are timed between its reports of the loss, so that
loading, starting and saving do not count; their seconds have a column of their own. By default seconds are those of the
processor, which a busy machine disturbs little. Writes ``benchmarks/results/training.json`` and ``.md`` and prints the
table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from case import markdown_table
from machine import device
from quiet import Usage
from tables import publish

from ensemw2s.config.composition import compose
from ensemw2s.config.training import ModelConfig, TrainingConfig
from ensemw2s.data.encode import encode_split
from ensemw2s.data.split import make_splits
from ensemw2s.models.forward import logits_at
from ensemw2s.models.loading.device import resolve_device
from ensemw2s.models.loading.load import load_model, load_tokenizer
from ensemw2s.models.training.finetune import draw_order, finetune
from ensemw2s.models.training.losses import LossConfig, training_loss
from ensemw2s.models.training.training_set import TrainingSet, collate
from ensemw2s.sink import NullSink

RESULTS = Path(__file__).parent / "results"
SEED = 100
#: Base → the role of it in a run, whose settings are taken.
ROLES = {"weak": "expert", "strong": "student"}


class Clock(NullSink):
    """Seconds of the processor, or on the wall, at every report of the loss."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.at: dict[int, float] = {}

    def metric(self, kind: str, **fields: Any) -> None:
        """A report of the loss after ``fields["step"]`` steps."""
        self.at[int(fields["step"])] = self.now()

    @property
    def between(self) -> float:
        """Mean seconds of a step between the first and the last report."""
        first, last = min(self.at), max(self.at)
        return (self.at[last] - self.at[first]) / (last - first)


class Case:
    """One base with its training set and settings."""

    def __init__(self, base: str, steps: int, now: Callable[[], float]) -> None:
        config = compose("tiny").config
        self.name = base
        self.base: ModelConfig = getattr(config.models, base)
        settings = getattr(config.training, ROLES[base])
        self.training: TrainingConfig = settings.fixed().model_copy(update={"steps": steps})
        self.compute = config.compute
        resolve_device(self.compute)  # sets the number of threads
        self.now = now
        tokenizer = load_tokenizer(self.base)
        examples = make_splits(config.data, SEED, config.task).train
        encoded = encode_split(examples, tokenizer, config.data.template, "generate", None)
        self.data = TrainingSet.from_encoded(encoded)
        order = draw_order(self.data, self.training, SEED).reshape(steps, -1)
        self.batches = [collate(self.data, sequences, int(tokenizer.pad_token_id)) for sequences in order]

    def trainer(self) -> tuple[float, float]:
        """Seconds of a step of the trainer, and of all else in a fine-tuning."""
        clock, start = Clock(self.now), self.now()
        with tempfile.TemporaryDirectory() as folder:
            finetune(self.base, self.data, self.training, Path(folder), seed=SEED, compute=self.compute, sink=clock)
        return clock.between, self.now() - start - clock.between * self.training.steps

    def bare(self, max_norm: float | None = None) -> float:
        """Seconds of a step of the bare loop; with ``max_norm`` it clips gradients too."""
        model: Any = load_model(self.base).model.train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=self.training.learning_rate, fused=True)
        loss_config, divisor = LossConfig(), float(self.training.batch_size)
        begin, start = self.training.log_steps, 0.0
        for step, batch in enumerate(self.batches):
            if step == begin:
                start = self.now()
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            logits, _ = logits_at(model, batch["positions"], inputs)
            loss = training_loss(loss_config, logits, batch["targets"], batch["weights"]) / divisor
            loss.backward()
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimiser.step()
            optimiser.zero_grad()
        return (self.now() - start) / (len(self.batches) - begin)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Both ways in turn."""
    case.bare()  # what is done once a process is done
    case.trainer()
    before = Usage.now()
    found = []
    for _ in range(rounds):
        trainer, fixed = case.trainer()
        bare, clipping = case.bare(), case.bare(case.training.max_grad_norm)
        found.append({"trainer": trainer, "bare": bare, "clipping": clipping, "fixed": fixed})
    after = Usage.now()
    shares = [1.0 - one["bare"] / one["trainer"] for one in found]
    return {
        "base": case.name,
        "batch": case.training.batch_size,
        "steps": case.training.steps,
        "rounds": rounds,
        **{what: statistics.median(one[what] for one in found) for what in found[0]},
        "share": statistics.median(shares),
        "lowest": min(shares),
        "highest": max(shares),
        "others": None if before is None or after is None else after.others_since(before),
    }


def table(cases: list[dict[str, Any]]) -> str:
    """The cases as a Markdown table."""
    names = [
        "base",
        "batch",
        "bare step, ms",
        "with clipping",
        "trainer's step",
        "its own share (range)",
        "start, end, s",
    ]
    rows = []
    for case in cases:
        times = [f"{1e3 * case[what]:.2f}" for what in ("bare", "clipping", "trainer")]
        spread = f"{100 * case['share']:.0f} % ({100 * case['lowest']:.0f} to {100 * case['highest']:.0f})"
        rows.append([case["base"], case["batch"], *times, spread, f"{case['fixed']:.2f}"])
    return markdown_table(names, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", choices=list(ROLES), default=list(ROLES))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wall", action="store_true", help="seconds on the wall, for a quiet machine")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.steps < 20:
        parser.error("--steps: at least 20, for the loss is reported every 10")
    now = time.perf_counter if options.wall else time.process_time
    cases = []
    for base in options.bases:
        cases.append(measure(Case(base, options.steps, now), options.rounds))
        print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    where = {**device(), "measured": datetime.now(UTC).isoformat(timespec="seconds")}
    others = max((case["others"] or 0.0 for case in cases), default=0.0)
    text = "# The trainer's own share of a step\n\n"
    text += f"{where['cpu']}, threads: {where['threads']}; torch {torch.__version__}. {'Wall-clock' if options.wall else 'Processor'} time; "
    text += f"{options.rounds} rounds of {options.steps} steps. Other processes had at most {100 * others:.0f} % of the cores.\n"
    text += f"Measured {where['measured']} by `python benchmarks/training.py{' --wall' if options.wall else ''}`.\n\n"
    text += table(cases)
    publish(options.out, "training", {**where, "cases": cases}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

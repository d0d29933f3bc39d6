"""Labelling and scoring as a run does them, against a plain loop over sequences, step by step.

    ew2s train-experts --preset tiny --out runs/tiny
    python benchmarks/end_to_end.py --run runs/tiny --model SmolLM2-135M --questions arc_easy/ARC-Easy-Dev.jsonl

Writes ``benchmarks/results/end-to-end.json`` and ``.md`` and prints the table. The loop runs one sequence at a time
through the model as ``transformers`` loads it, takes the log-softmax of all its logits and picks the tokens of the
option. The steps between the loop and ours show what batches, shared prompts and kernels bring. All ways run in turn,
round after round; scores and labels of each are compared with the loop's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import device
from numpy.typing import NDArray
from quiet import Usage, wait_until_quiet
from tables import goal_line

from ensemw2s import kernels
from ensemw2s.config.data import SourceConfig, TemplateConfig
from ensemw2s.config.method import CombineConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.encode import EncodedSplit, encode_split
from ensemw2s.data.sources import load_source
from ensemw2s.data.store import read_splits
from ensemw2s.ensemble import Ensemble
from ensemw2s.ensemble.combine.choices import final_choices
from ensemw2s.kernels.bench.timing import timed
from ensemw2s.kernels.request import CombineRequest, SampleRequest
from ensemw2s.kernels.result import CombineResult
from ensemw2s.models.inference.scoring import score_split
from ensemw2s.models.loading.device import cpu_threads
from ensemw2s.models.loading.load import LoadedModel, load_model

RESULTS = Path(__file__).parent / "results"
LOOP, OURS = "one sequence at a time", "ours"
Scores = NDArray[np.float64]


class Eager:
    """The combination as one would write it in torch: the log-softmax of all logits, in float32."""

    name = "eager"
    priority = -1

    def unavailable(self, device: torch.device) -> str | None:
        return None

    def combine(self, request: CombineRequest) -> CombineResult:
        (logits,) = request.experts
        own = torch.log_softmax(logits.float(), dim=-1)
        best = own.max(dim=-1)
        target = None if request.targets is None else own.gather(1, request.targets[:, None])[:, 0]
        ids = probabilities = None
        if request.top_k is not None:
            probabilities, ids = own.topk(request.top_k, dim=-1)
        return CombineResult(
            best.indices,
            best.values,
            best.indices[None],
            logits.float().logsumexp(dim=-1)[None],
            target_logprob=target,
            topk_ids=ids,
            topk_logprob=probabilities,
        )

    def sample(self, request: SampleRequest) -> torch.Tensor:
        raise NotImplementedError("not needed here")


@dataclass
class Work:
    """Questions, and the experts that score and label them.

    Attributes:
        name: of the case.
        enc: the questions.
        experts: as a run loads them.
        plain: the same, as ``transformers`` loads them by default.
        alphas: their weights.
        threads: of torch.
        goals: safe and stretch.
    """

    name: str
    enc: EncodedSplit
    experts: list[LoadedModel]
    plain: list[LoadedModel]
    alphas: list[float]
    threads: int
    goals: tuple[float, float]


@torch.inference_mode()
def loop(work: Work) -> tuple[Scores, NDArray[np.int64]]:
    """Scores of all options and the label of every question, one sequence at a time."""
    enc, share = work.enc, np.array(work.alphas) / sum(work.alphas)
    scores, labels = [], []
    for prompt, options in zip(enc.prompts, enc.options, strict=True):
        own = []
        for option in options:
            ids = torch.from_numpy(np.concatenate([prompt, option]).astype(np.int64))[None]
            mixed = torch.zeros(len(option), dtype=torch.float64)
            for expert, alpha in zip(work.plain, share, strict=True):
                every = torch.log_softmax(expert.model(input_ids=ids).logits[0].float(), dim=-1)
                mixed += alpha * every[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0].double().exp()
            own.append(float(mixed.log().mean()))
        labels.append(int(np.argmax(own)))
        scores += own
    return np.array(scores), np.array(labels)


def scored(work: Work, backend: str, share: bool) -> tuple[Scores, NDArray[np.int64]]:
    """The same by this package: every expert's scores, then the ensemble's choices."""
    compute = ComputeConfig(device="cpu", threads=work.threads).model_copy(update={"backend": backend})
    tables = [score_split(e, work.enc, compute=compute, share_prompts=share) for e in work.experts]
    found = final_choices(tables, work.alphas, work.enc, CombineConfig()).choices
    return np.asarray(found.scores), np.asarray(found.option)


#: Each way, and what it adds to the one before.
WAYS: dict[str, Callable[[Work], tuple[Scores, NDArray[np.int64]]]] = {
    LOOP: loop,
    "batches, torch": lambda work: scored(work, "eager", False),
    "shared prompts, torch": lambda work: scored(work, "eager", True),
    OURS: lambda work: scored(work, "native", True),
    "shared prompts, reference (float64)": lambda work: scored(work, "reference", True),
}


def measured(work: Work, rounds: int, patience: float) -> dict[str, Any]:
    """Time all ways in turn, and compare what they find."""
    torch.set_num_threads(work.threads)
    found: dict[str, tuple[Scores, NDArray[np.int64]]] = {}

    def run(name: str) -> None:
        found[name] = WAYS[name](work)

    wait_until_quiet(patience)
    before = Usage.now()
    times = {t.name: t for t in timed({name: partial(run, name) for name in WAYS}, rounds=rounds, least=rounds)}
    after = Usage.now()
    scores, labels = found[LOOP]
    enc = work.enc
    return {
        "case": work.name,
        "experts": len(work.experts),
        "parameters": work.experts[0].parameters,
        "vocabulary": work.experts[0].model.config.vocab_size,
        "questions": len(enc),
        "sequences": len(enc.seq_example),
        "prompt_tokens": float(np.mean([len(prompt) for prompt in enc.prompts])),
        "option_tokens": float(np.mean(np.diff(enc.row_offsets) - 1)),
        "threads": work.threads,
        "others": after.others_since(before) if before is not None and after is not None else None,
        "goals": work.goals,
        "ways": {
            name: {
                "seconds": statistics.median(times[name].rounds),
                "rounds": times[name].rounds,
                "faster": statistics.median(a / b for a, b in zip(times[LOOP].rounds, times[name].rounds, strict=True)),
                "same_labels": float((found[name][1] == labels).mean()),
                "score_error": float(np.abs(found[name][0] - scores).max()),
            }
            for name in WAYS
        },
    }


def tiny_work(run: Path, limit: int, threads: int) -> Work:
    """The ensemble of a run labels its hard pool, whose answers are hidden."""
    ensemble = Ensemble.load(run)
    examples = [example.hide_answer() for example in read_splits(run / "data").hard_pool[:limit]]
    return Work(
        f"the ensemble of {len(ensemble.experts)} experts labels the hard pool",
        ensemble.encode(examples),
        [load_model(ensemble.model_config(k)) for k in range(len(ensemble.experts))],
        [load_model(ModelConfig(path=str(path))) for path in ensemble.experts],
        ensemble.alphas,
        threads,
        (6, 9),
    )


def model_work(model: str, name: str, questions: Path, kind: str, limit: int, threads: int) -> Work:
    """A model scores the options of questions and chooses."""
    source = SourceConfig.model_validate({"kind": kind, "path": str(questions)})
    examples = load_source(source, 0)[:limit]
    loaded = load_model(ModelConfig(path=model))
    template = TemplateConfig(prompt="Question: {prompt}\nAnswer:", answer=" {answer}")
    enc = encode_split(examples, loaded.tokenizer, template, "choice", None)
    return Work(f"{name} scores {questions.stem}", enc, [loaded], [loaded], [1.0], threads, (3, 4.5))


def markdown(report: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# Labelling and scoring, end to end",
        "",
        f"{device_line(report)}. Measured {report['measured']}.",
        "",
        "Times are medians over rounds in which all ways ran in turn; ratios are medians over rounds. The loop computes",
        "the scores of the options' tokens alone. Ours also gives end-of-sequence, every arg-max and, where answers are known,",
        "the 16 most probable tokens at each of theirs, which boosting needs. `torch` is the log-softmax of all logits in float32.",
        "The error is the largest difference to the loop in the score of an option, in nats per token.",
        "",
    ]
    for case in report["cases"]:
        lines += _case(case)
    return "\n".join(lines).rstrip() + "\n"


def device_line(report: dict[str, Any]) -> str:
    """Machine and versions in one line."""
    machine = report["device"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['simd']}; {versions}"


def _case(case: dict[str, Any]) -> list[str]:
    ways = case["ways"]
    batches, shared, reference = (n for n in WAYS if n not in (LOOP, OURS))

    def step(slow: str, fast: str) -> str:
        ratios = (a / b for a, b in zip(ways[slow]["rounds"], ways[fast]["rounds"], strict=True))
        return f"×{statistics.median(ratios):.3g}"

    others = "" if case["others"] is None else f"; others had {case['others']:.0%} of the cores"
    out = [
        f"## {case['case'][0].upper()}{case['case'][1:]}",
        "",
        f"{case['questions']} questions, {case['sequences']} sequences (prompts of {case['prompt_tokens']:.1f} and options of "
        f"{case['option_tokens']:.1f} tokens on average); {case['parameters'] / 1e6:.3g} M parameters, vocabulary "
        f"{case['vocabulary']}; {case['threads']} threads{others}.",
        "",
        "| way | seconds | against the loop | same labels | largest error |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name, way in ways.items():
        faster = "" if name == LOOP else f"×{way['faster']:.3g}"
        exact = "" if name == LOOP else f"{way['same_labels']:.1%}"
        error = "" if name == LOOP else f"{way['score_error']:.1e}"
        out.append(f"| {name} | {way['seconds']:.3g} | {faster} | {exact} | {error} |")
    safe, stretch = case["goals"]
    return [
        *out,
        "",
        f"Batches of similar length with logits at the options' tokens only bring {step(LOOP, batches)}, running a prompt "
        f"once for all its options another {step(batches, shared)}, and the native kernel in place of torch "
        f"{step(shared, OURS)} ({step(reference, OURS)} in place of the float64 reference).",
        "",
        f"{goal_line(ways[OURS]['faster'], safe, stretch)}",
        "",
    ]


def works(options: argparse.Namespace) -> Iterator[Work]:
    """The cases that were asked for, one at a time."""
    if options.run is not None:
        yield tiny_work(options.run, options.limit_run, 1)
    if options.model is not None:
        threads = cpu_threads(ComputeConfig())
        name = options.model_name or Path(options.model).name
        yield model_work(options.model, name, options.questions, options.kind, options.limit_model, threads)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="directory of a run of the tiny preset with trained experts")
    parser.add_argument("--model", help="model folder, GGUF file or hub id")
    parser.add_argument("--model-name", help="what the table calls it; its last part by default")
    parser.add_argument("--questions", type=Path, help="what --model scores")
    parser.add_argument("--kind", default="arc", help="format of the questions: arc, sciq, file")
    parser.add_argument("--limit-run", type=int, default=800)
    parser.add_argument("--limit-model", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to wait for a quiet machine before a case")
    parser.add_argument("--name", default="end-to-end", help="of the result files")
    options = parser.parse_args(arguments)
    if options.run is None and options.model is None:
        parser.error("nothing to measure: give --run, or --model with --questions")
    if options.model is not None and options.questions is None:
        parser.error("--model needs --questions")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    options = parsed(arguments)
    kernels.register(Eager())
    report: dict[str, Any] = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "device": device()}
    report["cases"] = [measured(work, options.rounds, options.patience) for work in works(options)]
    RESULTS.mkdir(exist_ok=True)
    text = markdown(report)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / f"{options.name}.md").write_text(text)
    print(text)
    wrong = [case["case"] for case in report["cases"] for way in (case["ways"][OURS],) if way["same_labels"] < 1]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

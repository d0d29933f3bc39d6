"""Rebuild the embedded bases: ``python -m ensemw2s.data.embedded.build --seed 1234 --out DIR``.

The same seed gives the same bytes on the same kind of processor with the same versions of torch and transformers: each
base is trained on one thread. The two are trained at the same time, in two processes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ensemw2s.data.embedded import BASE_NAMES, BaseName
from ensemw2s.data.embedded.facts import IGNORED, encode_lines, make_line
from ensemw2s.data.embedded.tokenizer import CONTEXT, make_tokenizer
from ensemw2s.seeds import sub_seed

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM


@dataclass(frozen=True, slots=True)
class Recipe:
    """Shape and pre-training of one base.

    Attributes:
        hidden: width. heads: attention heads. layers: blocks. intermediate: width inside a block's MLP.
        steps: optimiser steps. batch_size: lines in a step. lines: distinct lines. learning_rate: peak of AdamW's.
        sums: facts about ``sum`` for each fact about another skill: addition takes much longer to learn than the rest.
    """

    hidden: int
    heads: int
    layers: int
    intermediate: int
    steps: int
    batch_size: int
    lines: int
    learning_rate: float
    sums: int


RECIPES: dict[BaseName, Recipe] = {
    # Stopped early: it knows the simple skills well, the others in part, and cannot add.
    "weak": Recipe(48, 4, 2, 128, steps=1500, batch_size=64, lines=70_000, learning_rate=3e-3, sums=1),
    # Trained until it knows every skill.
    "strong": Recipe(80, 4, 4, 160, steps=2600, batch_size=64, lines=120_000, learning_rate=2e-3, sums=4),
}


def build_base(name: BaseName, seed: int, out: Path, recipe: Recipe) -> dict[str, Any]:
    """Pre-train one base and write it with its tokenizer to ``out/name`` (replaced as a whole); ``out`` exists.

    The seed fixes, with the name, initialisation, text and order.

    Returns:
        The record of the build: recipe, seed, versions, parameters and accuracy on unseen lines.
    """
    import torch
    import transformers

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        transformers.set_seed(sub_seed(seed, "embedded", name, "init", bits=31))
        model = _new_model(recipe)
        _train(
            model,
            _lines(seed, name, "train", recipe.lines, recipe.sums),
            recipe,
            sub_seed(seed, "embedded", name, bits=31),
        )
        accuracy = _accuracy(model, *_lines(seed, name, "held-out", 500, recipe.sums))
    finally:
        torch.set_num_threads(threads)
    record = {
        "seed": seed,
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "token_accuracy": round(accuracy, 4),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__},
    }
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{name}-") as temporary:
        folder = Path(temporary) / name
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        (folder / "build.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if (out / name).exists():
            shutil.rmtree(out / name)
        folder.replace(out / name)
    return record


def _new_model(recipe: Recipe) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            initializer_range=0.05,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def _lines(seed: int, name: str, part: str, count: int, sums: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels of pre-training lines, int64 ``[count, LINE]``."""
    import torch

    rng = np.random.Generator(np.random.PCG64(sub_seed(seed, "embedded", name, part)))
    ids, labels = encode_lines([make_line(rng, sums) for _ in range(count)])
    return torch.from_numpy(ids).long(), torch.from_numpy(labels).long()


def _train(model: LlamaForCausalLM, data: tuple[torch.Tensor, torch.Tensor], recipe: Recipe, seed: int) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    def collate(rows: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        ids, labels = zip(*rows, strict=True)
        return {"input_ids": torch.stack(ids), "labels": torch.stack(labels)}

    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=recipe.steps,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=recipe.steps // 20,
            weight_decay=0.01,
            adam_beta2=0.99,
            max_grad_norm=1.0,
            optim="adamw_torch",
            seed=seed,
            data_seed=seed,
            use_cpu=True,
            save_strategy="no",
            logging_steps=max(1, recipe.steps // 20),
            disable_tqdm=True,
            report_to=[],
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        dataset = torch.utils.data.TensorDataset(*data)
        Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collate).train()


def _accuracy(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the labelled tokens that are the arg-max."""
    import torch

    model.eval()
    with torch.inference_mode():
        predicted = model(input_ids=ids).logits[:, :-1].argmax(-1)
    target = labels[:, 1:]
    mask = target != IGNORED
    return float((predicted[mask] == target[mask]).float().mean())


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ensemw2s.data.embedded.build", description=__doc__)
    parser.add_argument("--seed", type=int, default=1234, help="seed of the shipped bases: 1234")
    parser.add_argument("--out", type=Path, required=True, help="folder to write weak/ and strong/ into")
    parser.add_argument("--only", choices=BASE_NAMES, help="build one base")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    names = [n for n in BASE_NAMES if options.only in (None, n)]
    with ProcessPoolExecutor(len(names), mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {n: pool.submit(build_base, n, options.seed, options.out, RECIPES[n]) for n in names}
        for name, job in jobs.items():
            record = job.result()
            print(
                f"{name}: {record['parameters']} parameters, token accuracy {record['token_accuracy']:.3f} on unseen "
                f"lists, in {options.out / name}",
                file=sys.stderr,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

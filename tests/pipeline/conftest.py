from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.data import split as split_module
from ensemw2s.data.example import Example, Splits


@pytest.fixture
def copy_of(tmp_path):
    """Makes a copy of a run to go on with."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "copy"))

    return copy


@pytest.fixture
def poison_hard_labels(monkeypatch):
    """Makes every hard label of the runs to come a wrong option."""

    def poison() -> None:
        original = split_module.make_splits

        def wrong(example: Example) -> Example:
            options = example.choices or ()
            return dataclasses.replace(example, answer=options[(example.answer_index + 1) % len(options)])

        def poisoned(*args: Any, **kwargs: Any) -> Splits:
            splits = original(*args, **kwargs)
            return dataclasses.replace(splits, **{s: list(map(wrong, splits[s])) for s in ("hard_pool", "hard_test")})

        monkeypatch.setattr(split_module, "make_splits", poisoned)

    return poison


@pytest.fixture
def no_models(monkeypatch):
    """Whoever loads or runs a model fails."""

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    for module in ("loading.load", "loading.adapters", "training.finetune", "inference.scoring"):
        for name in ("load_model", "load_models"):
            monkeypatch.setattr(f"ensemw2s.models.{module}.{name}", forbidden, raising=False)


def numbers(run_dir: Path) -> dict[str, Any]:
    """``results.json`` without what is measured by clock and memory."""
    content: dict[str, Any] = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    content.pop("times")
    content.pop("memory")
    return content


@pytest.fixture(scope="session")
def read_numbers():
    """Reads the comparable part of results.json."""
    return numbers


@pytest.fixture(scope="session")
def local_bases(tmp_path_factory, shared_data) -> dict[str, Path]:
    """Randomly initialised small Llamas with a byte-level BPE tokenizer, saved as Hugging Face folders."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = (shared_data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    raw.train_from_iterator(lines, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    folders = {}
    for name, width in (("weak", 32), ("strong", 48)):
        torch.manual_seed(7)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=768,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
            tie_word_embeddings=True,
        )
        folders[name] = tmp_path_factory.mktemp("bases") / name
        LlamaForCausalLM(config).save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders

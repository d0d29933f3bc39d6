"""A run small enough for tests, through the real components: the embedded bases, the Trainer, real files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.config.schema import RunConfig
from ensemw2s.pipeline.run import execute
from ensemw2s.sink import NullSink


def mini(**changes: Any) -> RunConfig:
    """The smallest run with an arm of every kind; ``changes`` are dotted keys."""
    raw: dict[str, Any] = {
        "name": "mini",
        "data": {
            "source": {"kind": "synthetic", "size": 700},
            "split": {"hard_above": 5, "train": 120, "validation": 40, "test": 50, "hard_pool": 80, "hard_test": 50},
        },
        "training": {
            "expert": {"steps": 12, "batch_size": 16, "learning_rate": 2e-3, "log_steps": 4},
            "student": {"steps": 12, "batch_size": 16, "learning_rate": 2e-3, "log_steps": 4},
        },
        "boosting": {"rounds": 2},
        "arms": {"plain_long": False, "seeds": False, "chain": False, "students": ["plain", "bagging", "ensemble"]},
        "evaluation": {"bootstrap": 100},
        "compute": {"threads": 1},
    }
    for key, value in changes.items():
        place = raw
        *path, last = key.split(".")
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return RunConfig.model_validate(raw)


def mini_generate(**changes: Any) -> RunConfig:
    """The same with written answers, and smaller still: decoding costs."""
    sizes = {"hard_above": 5, "train": 80, "validation": 12, "test": 14, "hard_pool": 16, "hard_test": 14}
    settings = {
        "task": "generate",
        "data.split": sizes,
        "labelling.decoding.max_new_tokens": 8,
        "evaluation.match": "number",
        "evaluation.level": 0.9,
        "arms.plain": False,
        "arms.students": ["single", "ensemble"],
        **changes,
    }
    return mini(**settings)


def with_results(folder: Path) -> tuple[Path, dict[str, Any]]:
    return folder, json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def finished(build_once) -> tuple[Path, dict[str, Any]]:
    """A finished mini run: its folder, which no test changes, and its results."""
    return with_results(build_once("mini", lambda folder: execute(mini(), folder, sink=NullSink())))


@pytest.fixture(scope="session")
def written(build_once) -> tuple[Path, dict[str, Any]]:
    """A finished run with written answers, and without a report."""
    return with_results(
        build_once("written", lambda folder: execute(mini_generate(), folder, sink=NullSink(), report=False))
    )


@pytest.fixture
def copy_of(tmp_path):
    """Makes a copy of a run to go on with."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "copy"))

    return copy


@pytest.fixture
def no_models(monkeypatch):
    """Whoever loads or runs a model fails."""

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    for module in ("loading.load", "loading.adapters", "training.finetune", "inference.scoring"):
        for name in ("load_model", "load_models"):
            monkeypatch.setattr(f"ensemw2s.models.{module}.{name}", forbidden, raising=False)


@pytest.fixture(scope="session")
def generate_config():
    """The factory of mini configurations with written answers."""
    return mini_generate


@pytest.fixture(scope="session")
def mini_config():
    """The factory of mini configurations."""
    return mini


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

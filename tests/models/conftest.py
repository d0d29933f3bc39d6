"""Small random models and a real tokenizer, built here: nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ALPHABET = "0123456789abcdefghij +-=,.?:"
SPECIAL = ["<unk>", "<eos>"]
VOCABULARY = len(ALPHABET) + len(SPECIAL)


@dataclass
class RecordingSink:
    """Keeps everything that it is told."""

    events: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    steps: list[tuple[str, int, int]] = field(default_factory=list)

    def event(self, kind: str, **fields: Any) -> None:
        self.events.append({"kind": kind, **fields})

    def metric(self, kind: str, **fields: Any) -> None:
        self.metrics.append({"kind": kind, **fields})

    def progress(self, task: str, done: int, total: int) -> None:
        self.steps.append((task, done, total))


@pytest.fixture
def recorder() -> RecordingSink:
    return RecordingSink()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def build_tokenizer(*, eos: bool = True) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    names = {"eos_token": "<eos>"} if eos else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **names)


def build_model(seed: int, **changes: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "eos_token_id": 1,
        "bos_token_id": None,
        "pad_token_id": None,
        "initializer_range": 0.25,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


def build_other(kind: str) -> Any:
    import torch
    import transformers as t

    torch.manual_seed(3)
    small = {"vocab_size": VOCABULARY, "pad_token_id": None, "eos_token_id": 1, "bos_token_id": None}
    if kind == "gpt2":
        return t.GPT2LMHeadModel(
            t.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3, **small)
        )
    if kind == "gemma2":  # soft-capped logits, sliding windows on every other layer
        return t.Gemma2ForCausalLM(
            t.Gemma2Config(
                hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                head_dim=8, sliding_window=4, final_logit_softcapping=3.0, initializer_range=0.3,
                attn_implementation="eager", **small,
            )
        )  # fmt: skip
    if kind == "opt":  # learned positions, counted from the mask
        return t.OPTForCausalLM(
            t.OPTConfig(
                hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64,
                word_embed_proj_dim=16, init_std=0.3, dropout=0.0, **{**small, "pad_token_id": 0},
            )
        )  # fmt: skip
    if kind == "bloom":  # ALiBi, no position ids
        return t.BloomForCausalLM(t.BloomConfig(hidden_size=16, n_layer=2, n_head=2, initializer_range=0.3, **small))
    if kind == "falcon_h1":  # attention and a recurrence in one layer
        return t.FalconH1ForCausalLM(
            t.FalconH1Config(
                hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=4, mamba_chunk_size=4, **small,
            )
        )  # fmt: skip
    return t.MambaForCausalLM(  # a recurrent state
        t.MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.3, **small)
    )


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """A small random Llama: ``make_model(seed, **config)``."""
    return build_model


@pytest.fixture(scope="session")
def other_model() -> Callable[[str], Any]:
    """A small random model of another architecture."""
    return build_other


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three random models of the same shape."""
    from ensemw2s.models.loading.quiet import quiet_transformers

    folders = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp(f"model{seed}")
        with quiet_transformers():
            build_model(seed).save_pretrained(folder)
            build_tokenizer().save_pretrained(folder)
        folders.append(folder)
    return folders

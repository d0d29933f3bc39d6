"""Tokenisation of plain texts, and the special tokens that a tokenizer adds by itself."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 2048
#: A text with a token in every vocabulary.
_PROBE = "a 1 ?"


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hex) of what a tokenizer does: its pipeline, or its kind and vocabulary where it has none to show."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        text = str(backend.to_str())
    else:
        text = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of every text, without special tokens, in batches."""
    out: list[list[int]] = []
    for at in range(0, len(texts), _BATCH):
        batch = tokenizer(
            list(texts[at : at + _BATCH]), add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        out.extend(batch["input_ids"])
    return out


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer itself puts before every text; not those that it puts after it."""
    plain = list(tokenizer(_PROBE, add_special_tokens=False)["input_ids"])
    full = list(tokenizer(_PROBE, add_special_tokens=True)["input_ids"])
    for at in range(len(full) - len(plain) + 1):
        if plain and full[at : at + len(plain)] == plain:
            return [int(token) for token in full[:at]]
    return [int(token) for token in itertools.takewhile(special_ids(tokenizer).__contains__, full)]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that stand for no text of a user's."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)
